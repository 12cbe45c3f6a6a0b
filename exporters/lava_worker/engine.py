"""A whole `Program` as one fast integer step function (numpy only): what the fused Lava process executes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.exporters.lava_worker.convolution import per_neuron, taps
from nsllm_nir.operations import LIF_LIMIT, convolve
from nsllm_nir.program import Conv2d, Count, Delay, Gate, Input, Integrate, Lif, Linear, Op, Program, Sum

Int64 = NDArray[np.int64]
Values = dict[str, Int64]
FLOAT32_EXACT = 1 << 24
SPARSE_FRACTION = 8  # gather the weight rows of active neurons when fewer than 1/8 of them are


class Engine:
    """State of one run. Same function as `reference.step`, vectorised; every value is an exact integer."""

    def __init__(self, program: Program) -> None:
        self._traced = program.traced
        self._input = program.inputs[0].name
        self._lines = {op.name: _Line(op) for op in program.ops if isinstance(op, Delay)}
        self._feeds = [(self._lines[op.name], op.source) for op in program.ops if isinstance(op, Delay)]
        self._steps = [(op.name, self._compile(program, op)) for op in program.ops if not isinstance(op, Input)]

    def step(self, spikes: NDArray[np.integer]) -> NDArray[np.int32]:
        """Advance one token: input spikes (neurons,) to the concatenated values of every traced signal."""
        x: Values = {self._input: spikes.astype(np.int64)}
        for name, function in self._steps:
            x[name] = function(x)
        for line, source in self._feeds:
            line.push(x[source])
        return np.concatenate([x[name] for name in self._traced]).astype(np.int32)

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
    """Delay line: the last ``max(steps)`` vectors of a signal, oldest overwritten first."""

    def __init__(self, op: Delay) -> None:
        self._steps = op.steps.astype(np.int64)
        self._columns = np.arange(self._steps.size)
        self._memory = np.zeros((max(int(self._steps.max()), 1), self._steps.size), np.int64)
        self._time = 0

    def read(self, now: Int64 | None) -> Int64:
        past = self._memory[(self._time - self._steps) % len(self._memory), self._columns]
        return past if now is None else np.where(self._steps == 0, now, past)

    def push(self, now: Int64) -> None:
        self._memory[self._time % len(self._memory)] = now
        self._time += 1


def _largest(program: Program, name: str) -> NDArray[np.float64]:
    source = program.signals[name]
    return np.maximum(np.abs(source.low), np.abs(source.high)).astype(np.float64)


def _kind(bound: float) -> Any:
    """Every partial sum is an integer below the mantissa, so floating-point addition in any order is exact."""
    return np.float32 if bound < FLOAT32_EXACT else np.float64


def _linear(op: Linear, program: Program) -> Callable[[Values], Int64]:
    largest = _largest(program, op.source)
    bound = max((float((np.abs(rows.astype(np.float64)) @ largest).max()) for rows in np.array_split(op.weight, -(-len(op.weight) // 256))), default=0.0)
    kind = _kind(bound)
    weight = np.ascontiguousarray(op.weight.T, dtype=kind)
    bias, shift = op.bias.astype(np.int64), op.shift.astype(np.int64)

    def run(x: Values) -> Int64:
        spikes = x[op.source]
        active = np.flatnonzero(spikes)
        few = active.size * SPARSE_FRACTION < spikes.size
        total = spikes[active].astype(kind) @ weight[active] if few else spikes.astype(kind) @ weight
        return (total.astype(np.int64) + bias) << shift

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

    def run(x: Values) -> Int64:
        padded[:-1] = x[op.source]
        padded.take(windows, out=columns, mode="clip")  # in range already; "raise" would copy
        return (np.matmul(weight, columns).reshape(-1).astype(np.int64) + bias) << shift

    return run


def _lif(op: Lif) -> Callable[[Values], Int64]:
    keep_u, keep_v = (4096 - decay.astype(np.int64) for decay in (op.current_decay, op.voltage_decay))
    bias = op.bias.astype(np.int64)
    memory = bool(keep_u.any())  # without it, u is the input of this token alone
    u, v = np.zeros(bias.size, np.int64), np.zeros(bias.size, np.int64)
    fire = None if op.threshold is None else op.threshold.astype(np.int64) << 6

    def run(x: Values) -> Int64:
        now = x[op.source] << 6
        if memory:
            _leak(u, keep_u)
            np.add(u, now, out=u)
            now = u
        _leak(v, keep_v)
        np.add(v, now, out=v)
        np.add(v, bias, out=v)
        np.clip(v, -LIF_LIMIT, LIF_LIMIT, out=v)
        if fire is None:
            return v.copy()
        spikes = v > fire
        v[spikes] = 0
        return spikes.astype(np.int64)

    return run


def _leak(state: Int64, keep: Int64) -> None:
    """``state = trunc(state * keep / 4096)`` in place: a shift floors, so 4095 is added below zero."""
    state *= keep
    state += (state >> 63) & 4095
    state >>= 12


def _count(op: Count) -> Callable[[Values], Int64]:
    odd = (2 * np.arange(1, op.levels + 1, dtype=np.int64) - 1)[:, None]
    name = op.step if isinstance(op.step, str) else ""
    fixed = odd if isinstance(op.step, str) else odd * op.step.astype(np.int64)

    def run(x: Values) -> Int64:
        thresholds = fixed * x[name] if name else fixed
        double = 2 * x[op.source]
        counts = (double > thresholds).sum(axis=0)
        return counts - (-double > thresholds).sum(axis=0) if op.signed else counts

    return run


def _integrate(op: Integrate) -> Callable[[Values], Int64]:
    decay, state = op.decay.astype(np.int64), np.zeros(op.decay.size, np.int64)

    def run(x: Values) -> Int64:
        state[:] = ((state * decay) >> 8) + (x[op.source] << op.fraction_bits)
        return state.copy()

    return run
