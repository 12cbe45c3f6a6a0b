"""A whole `Program` as one fast integer step function (numpy only): what the fused Lava process executes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.exporters.lava_worker.convolution import per_neuron, taps
from nsllm_nir.program import Conv2d, Count, Delay, Gate, Input, Integrate, Lif, Linear, Op, Program, Sum
from nsllm_nir.program.operations import LIF_LIMIT, convolve

Int64 = NDArray[np.int64]
Values = dict[str, Int64]
FLOAT32_EXACT = 1 << 24
SPARSE_FRACTION = 8  # gather the weight rows of active neurons when fewer than 1/8 of them are


class Engine:
    """State of one run. Same function as `reference.step`, vectorised over a block of tokens; every value is an exact integer."""

    def __init__(self, program: Program) -> None:
        place = {op.name: i for i, op in enumerate(program.ops)}
        delays = [op for op in program.ops if isinstance(op, Delay)]
        self._loops = any(place[op.source] > place[op.name] for op in delays)
        self._traced = program.traced
        self._input = program.inputs[0].name
        self._lines = {op.name: _Line(op) for op in delays}
        self._feeds = [(self._lines[op.name], op.source) for op in delays]
        self._steps = [(op.name, self._compile(program, op)) for op in program.ops if not isinstance(op, Input)]

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
            case Linear():
                return _linear(op, program)
            case Conv2d():
                return _convolution(op, program)
            case Lif():
                return _lif(op)
            case Sum():
                bias = op.bias.astype(np.int64)
                return lambda x: np.add.reduce([x[s] for s in op.sources]) + bias
            case Count():
                return _count(op)
            case Gate():
                return lambda x: np.where(x[op.gate] == 1, x[op.source], 0)
            case Integrate():
                return _integrate(op)
            case Delay():
                line, source = self._lines[op.name], op.source
                return lambda x: line.read(x.get(source))
        raise TypeError(f"{type(op).__name__} {op.name!r} is not an operation of a program")


class _Line:
    """Delay line: the last ``max(steps)`` values of a signal, oldest first."""

    def __init__(self, op: Delay) -> None:
        self._steps = op.steps.astype(np.int64)
        self._columns = np.arange(self._steps.size)
        self._memory = np.zeros((int(self._steps.max()), self._steps.size), np.int64)

    def read(self, now: Int64 | None) -> Int64:
        """The delayed values of the block ``now`` (tokens, neurons); None: of one token, that no neuron reads undelayed."""
        block = np.zeros((1, self._steps.size), np.int64) if now is None else now
        times = len(self._memory) + np.arange(len(block))[:, None] - self._steps
        return np.concatenate([self._memory, block])[times, self._columns]

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
        total = (spikes[:, active].astype(kind) @ weight[active] if few else spikes.astype(kind) @ weight).astype(
            np.int64
        )
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
    windows = taps(op).reshape(op.groups, weight.shape[2], -1)
    silent = program.signals[op.source].size  # index of a neuron that never spikes: the padding
    windows[windows < 0] = silent
    padded = np.zeros(silent + 1, kind)
    columns = np.empty(windows.shape, kind)
    bias, shift = (per_neuron(op, values).astype(np.int64) for values in (op.bias, op.shift))

    def convolved(image: Int64) -> Int64:
        padded[:-1] = image
        padded.take(windows, out=columns, mode="clip")  # in range already; "raise" would copy
        return (np.matmul(weight, columns).reshape(-1).astype(np.int64) + bias) << shift

    return lambda x: np.stack([convolved(image) for image in x[op.source]])


def _lif(op: Lif) -> Callable[[Values], Int64]:
    """In float64: a state of 24 bits times a decay of 12 bits, divided by 4096, is exact, and `trunc` rounds as Loihi does."""
    keep_u, keep_v = ((4096 - decay.astype(np.float64)) / 4096 for decay in (op.current_decay, op.voltage_decay))
    bias = op.bias.astype(np.float64)
    memory, biased = bool(keep_u.any()), bool(bias.any())  # without memory, u is the input of this token alone
    u, v, highest = np.zeros(bias.size), np.zeros(bias.size), np.full(bias.size, float(LIF_LIMIT))
    lowest = -highest
    fire = None if op.threshold is None else op.threshold.astype(np.float64) * 64

    def run(x: Values) -> Int64:
        potentials = x[op.source] * 64.0
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
        counts = (double > thresholds).sum(axis=1)
        return counts - (-double > thresholds).sum(axis=1) if op.signed else counts

    return run


def _integrate(op: Integrate) -> Callable[[Values], Int64]:
    decay, state = op.decay.astype(np.int64), np.zeros(op.decay.size, np.int64)

    def run(x: Values) -> Int64:
        out = x[op.source] << op.fraction_bits
        for row in out:
            row += (state * decay) >> 8
            state[:] = row
        return out

    return run
