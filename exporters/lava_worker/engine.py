"""A whole `Program` as one fast integer step function (numpy only): what the fused Lava process executes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.program import Conv2d, Count, Delay, Gate, Input, Integrate, Lif, Linear, Op, Program, Sum
from nsllm_nir.program.constants import DECAY_BITS, LIF_DECAY_ONE, LIF_LIMIT, LIF_UNIT
from nsllm_nir.program.operations.conv2d import channel_taps, convolve, per_neuron

Int64 = NDArray[np.int64]
Values = dict[str, Int64]
FLOAT32_EXACT = 1 << 24
SPARSE_FRACTION = 8  # gather the weight rows of active neurons when fewer than 1/8 of them are


class Engine:
    """State of one run. Same function as `reference.step`, vectorised over a block of tokens; every value is exact."""

    def __init__(self, program: Program) -> None:
        place = {op.name: i for i, op in enumerate(program.ops)}
        delays = [op for op in program.ops if isinstance(op, Delay)]
        self._loops = any(place[op.source] > place[op.name] for op in delays)
        self._traced = program.traced
        self._input = program.inputs[0].name
        self._lines = {op.name: _Line(op) for op in delays}
        self._feeds = [(self._lines[op.name], op.source) for op in delays]
        self._states: list[NDArray[Any]] = []
        self._steps = [(op.name, self._compile(program, op)) for op in program.ops]

    def reset(self) -> None:
        """A silent start: all states and delay lines are 0 again."""
        for state in self._states:
            state.fill(0)
        for line in self._lines.values():
            line.reset()

    def run(self, spikes: NDArray[np.integer]) -> NDArray[np.int32]:
        """Advance by input spikes (tokens, neurons): the values of all traced signals, side by side, (tokens, values).

        Op by op for all tokens, unless a delay reads an op that comes later: then token by token.
        """
        if self._loops and len(spikes) > 1:
            return np.concatenate([self.run(row[None]) for row in spikes])
        x: Values = {self._input: spikes.astype(np.int64)}
        for name, function in self._steps:
            x[name] = function(x)
        for line, source in self._feeds:
            line.push(x[source])
        return np.concatenate([x[name] for name in self._traced], axis=1, dtype=np.int32, casting="unsafe")

    def _compile(self, program: Program, op: Op) -> Callable[[Values], Int64]:
        match op:
            case Input():
                return lambda x: x[op.name]
            case Linear():
                return _linear(op, program)
            case Conv2d():
                return _convolution(op, program)
            case Lif():
                return _lif(op, self._silent(op.bias.size, np.float64), self._silent(op.bias.size, np.float64))
            case Sum():
                bias = op.bias.astype(np.int64)
                return lambda x: np.add.reduce([x[s] for s in op.sources]) + bias
            case Count():
                return _count(op)
            case Gate():
                return lambda x: np.where(x[op.gate] == 1, x[op.source], 0)
            case Integrate():
                return _integrate(op, self._silent(op.decay.size, np.int64))
            case Delay():
                line, source = self._lines[op.name], op.source
                return lambda x: line.read(x.get(source))
            case _:
                assert_never(op)

    def _silent(self, size: int, kind: type[np.float64] | type[np.int64]) -> NDArray[Any]:
        """A state that `reset` knows; it is changed in place."""
        self._states.append(np.zeros(size, kind))
        return self._states[-1]


class _Line:
    """Delay line: the last ``max(steps)`` values of a signal, oldest first."""

    def __init__(self, op: Delay) -> None:
        self._steps = op.steps.astype(np.int64)
        self._columns = np.arange(self._steps.size)
        self._memory = np.zeros((int(self._steps.max()), self._steps.size), np.int64)

    def read(self, now: Int64 | None) -> Int64:
        """The delayed values of the block ``now`` (tokens, neurons); None: a token that no neuron reads undelayed."""
        block = np.zeros((1, self._steps.size), np.int64) if now is None else now
        times = len(self._memory) + np.arange(len(block))[:, None] - self._steps
        delayed: Int64 = np.concatenate([self._memory, block])[times, self._columns]
        return delayed

    def reset(self) -> None:
        self._memory = np.zeros_like(self._memory)

    def push(self, now: Int64) -> None:
        self._memory = np.concatenate([self._memory, now])[len(now) :]


def _largest(program: Program, name: str) -> NDArray[np.float64]:
    source = program.signals[name]
    return np.maximum(np.abs(source.low), np.abs(source.high)).astype(np.float64)


def _kind(bound: float) -> Any:
    """Every partial sum is an integer below the mantissa, so floating-point addition in any order is exact."""
    return np.float32 if bound < FLOAT32_EXACT else np.float64


def _linear(op: Linear, program: Program) -> Callable[[Values], Int64]:
    largest = _largest(program, op.source)
    bound = max(
        (
            float((np.abs(rows.astype(np.float64)) @ largest).max())
            for rows in np.array_split(op.weight, -(-len(op.weight) // 256))
        ),
        default=0.0,
    )
    kind = _kind(bound)
    weight = np.ascontiguousarray(op.weight.T, dtype=kind)
    bias, shift = op.bias.astype(np.int64), op.shift.astype(np.int64)
    biased, shifted = bool(bias.any()), bool(shift.any())

    def run(x: Values) -> Int64:
        spikes = x[op.source]
        active = np.flatnonzero(spikes.any(axis=0))
        few = active.size * SPARSE_FRACTION < spikes.shape[1]
        sums = spikes[:, active].astype(kind) @ weight[active] if few else spikes.astype(kind) @ weight
        total: Int64 = sums.astype(np.int64)
        if biased:
            total += bias
        if shifted:
            total <<= shift
        return total

    return run


def _convolution(op: Conv2d, program: Program) -> Callable[[Values], Int64]:
    """The window of every output position as a column (im2col), then one matrix product per group."""
    largest = _largest(program, op.source).astype(np.int64).reshape(op.input_shape)
    kind = _kind(float(convolve(op, np.abs(op.weight.astype(np.int64)), largest).max()))
    weight = op.weight.astype(kind).reshape(op.groups, op.weight.shape[0] // op.groups, -1)
    windows = channel_taps(op).reshape(op.groups, weight.shape[2], -1)
    silent = program.signals[op.source].size  # index of a neuron that never spikes: the padding
    windows[windows < 0] = silent
    padded = np.zeros(silent + 1, kind)
    columns = np.empty(windows.shape, kind)
    bias, shift = (per_neuron(op, values).astype(np.int64) for values in (op.bias, op.shift))

    def convolved(image: Int64) -> Int64:
        padded[:-1] = image
        padded.take(windows, out=columns, mode="clip")  # in range already; "raise" would copy
        potential: Int64 = np.matmul(weight, columns).reshape(-1).astype(np.int64) + bias
        return potential << shift

    return lambda x: np.stack([convolved(image) for image in x[op.source]])


def _lif(op: Lif, u: NDArray[np.float64], v: NDArray[np.float64]) -> Callable[[Values], Int64]:
    """In float64: a state of 24 bits times a decay of 12 bits, over 4096, is exact; `trunc` rounds as Loihi does."""
    keep_u, keep_v = (
        (LIF_DECAY_ONE - decay.astype(np.float64)) / LIF_DECAY_ONE for decay in (op.current_decay, op.voltage_decay)
    )
    bias = op.bias.astype(np.float64)
    memory, biased = bool(keep_u.any()), bool(bias.any())  # without memory, u is the input of this token alone
    highest = np.full(bias.size, float(LIF_LIMIT))
    lowest = -highest
    fire = None if op.threshold is None else op.threshold.astype(np.float64) * LIF_UNIT

    def run(x: Values) -> Int64:
        potentials = x[op.source] * float(LIF_UNIT)
        for row in potentials:  # from the input of a token to v before its reset
            if memory:
                np.trunc(np.multiply(u, keep_u, out=u), out=u)
                np.add(u, row, out=u)
                row[:] = u
            np.trunc(np.multiply(v, keep_v, out=v), out=v)
            np.add(v, row, out=row)
            if biased:
                np.add(row, bias, out=row)
            np.minimum(row, highest, out=row)  # np.clip, or a number as the limit, takes much longer
            np.maximum(row, lowest, out=row)
            v[:] = row
            if fire is not None:
                v[v > fire] = 0.0
        return (potentials if fire is None else potentials > fire).astype(np.int64)

    return run


def _count(op: Count) -> Callable[[Values], Int64]:
    odd = (2 * np.arange(1, op.levels + 1, dtype=np.int64) - 1)[:, None]
    name = op.step if isinstance(op.step, str) else ""
    fixed = odd if isinstance(op.step, str) else odd * op.step.astype(np.int64)

    def run(x: Values) -> Int64:
        thresholds = fixed * x[name][:, None] if name else fixed
        double = 2 * x[op.source][:, None]  # against (tokens, levels, neurons)
        counts: Int64 = (double > thresholds).sum(axis=1)
        if op.signed:
            counts -= (-double > thresholds).sum(axis=1)
        return counts

    return run


def _integrate(op: Integrate, state: Int64) -> Callable[[Values], Int64]:
    decay = op.decay.astype(np.int64)

    def run(x: Values) -> Int64:
        out = x[op.source] << op.fraction_bits
        for row in out:
            row += (state * decay) >> DECAY_BITS
            state[:] = row
        return out

    return run
