"""The oracle: a plain numpy int64 interpreter of a `Program`, one token at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError
from nsllm_nir.program.operations import (
    LIF_LIMIT,
    Conv2d,
    Count,
    Delay,
    Gate,
    Input,
    Integrate,
    Lif,
    Linear,
    Sum,
    convolve,
)
from nsllm_nir.program.program import Program
from nsllm_nir.program.trace import Trace

Int64 = NDArray[np.int64]


@dataclass
class State:
    """What survives from one token to the next: integrator states and delay lines, by op name."""

    integrators: dict[str, Int64] = field(default_factory=dict)
    lif: dict[str, tuple[Int64, Int64]] = field(default_factory=dict)  # synaptic current u, membrane potential v
    delay_lines: dict[str, list[Int64]] = field(default_factory=dict)  # newest first


def count(v: Int64, step: Int64, levels: int) -> Int64:
    """The number of m in 1..levels with ``2 v > (2m - 1) step``, elementwise."""
    c = np.zeros_like(v)
    for m in range(1, levels + 1):
        c += 2 * v > (2 * m - 1) * step
    return c


def step(program: Program, state: State, inputs: dict[str, Int64]) -> dict[str, Int64]:
    """Advance one token. inputs: {input name: (neurons,)}; returns every signal; updates ``state``."""
    x: dict[str, Int64] = {}
    for op in program.ops:
        match op:
            case Input():
                x[op.name] = inputs[op.name]
            case Linear():
                x[op.name] = (_accumulate(op.weight, x[op.source]) + op.bias) << op.shift.astype(np.int64)
            case Conv2d():
                image = x[op.source].reshape(op.input_shape)
                out = convolve(op, op.weight.astype(np.int64), image) + op.bias.astype(np.int64)[:, None, None]
                x[op.name] = (out << op.shift.astype(np.int64)[:, None, None]).reshape(-1)
            case Lif():
                x[op.name] = _lif(op, state, x[op.source])
            case Sum():
                x[op.name] = np.sum([x[s] for s in op.sources], axis=0) + op.bias
            case Count():
                threshold = x[op.step] if isinstance(op.step, str) else op.step.astype(np.int64)
                c = count(x[op.source], threshold, op.levels)
                x[op.name] = c - count(-x[op.source], threshold, op.levels) if op.signed else c
            case Gate():
                x[op.name] = np.where(x[op.gate] == 1, x[op.source], 0)
            case Integrate():
                s = state.integrators.get(op.name, np.zeros(op.decay.size, np.int64))
                s = ((s * op.decay.astype(np.int64)) >> 8) + (x[op.source] << op.fraction_bits)
                state.integrators[op.name] = x[op.name] = s
            case Delay():
                x[op.name] = _delayed(op, state, x.get(op.source))
    for op in program.ops:
        if isinstance(op, Delay):
            line = state.delay_lines.setdefault(op.name, [])
            line.insert(0, x[op.source])
            del line[int(op.steps.max()) :]
    return x


def _accumulate(weight: NDArray[np.signedinteger], spikes: Int64) -> Int64:
    """Sum the weight rows of the neurons that spiked, each as often as it spiked."""
    active = np.flatnonzero(spikes)
    return weight[:, active].astype(np.int64) @ spikes[active]


def _leak(state: Int64, decay: NDArray[np.integer]) -> Int64:
    """``state (4096 - decay) / 4096``, rounded toward zero."""
    return np.sign(state) * ((np.abs(state) * (4096 - decay.astype(np.int64))) >> 12)


def _lif(op: Lif, state: State, a: Int64) -> Int64:
    u, v = state.lif.get(op.name, (np.zeros_like(a), np.zeros_like(a)))
    u = _leak(u, op.current_decay) + (a << 6)
    v = np.clip(_leak(v, op.voltage_decay) + u + op.bias, -LIF_LIMIT, LIF_LIMIT)
    if op.threshold is None:
        state.lif[op.name] = (u, v)
        return v
    spikes = v > op.threshold.astype(np.int64) << 6
    state.lif[op.name] = (u, np.where(spikes, 0, v))
    return spikes.astype(np.int64)


def _delayed(op: Delay, state: State, now: Int64 | None) -> Int64:
    out = np.zeros(op.steps.size, np.int64)
    line = state.delay_lines.get(op.name, [])
    for i, d in enumerate(op.steps):
        if d == 0 and now is not None:
            out[i] = now[i]
        elif 0 < d <= len(line):
            out[i] = line[d - 1][i]
    return out


def check_inputs(program: Program, inputs: NDArray[np.integer]) -> Int64:
    """Validate spikes (tokens, neurons) for a program with one input; returns them as int64.

    Raises:
        InputError: wrong dimensions, dtype or values outside [0, levels].
    """
    if len(program.inputs) != 1:
        raise InputError(f"the program has {len(program.inputs)} inputs, one is expected")
    node = program.inputs[0]
    array = np.asarray(inputs)
    if array.ndim != 2 or array.shape[1] != node.size:
        raise InputError(f"input {node.name!r} expects an array (steps, {node.size}), got shape {array.shape}")
    if not (np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
        raise InputError(f"input {node.name!r} expects integers, got {array.dtype}")
    if array.size and (array.min() < 0 or array.max() > node.levels):
        raise InputError(
            f"input {node.name!r} expects values in [0, {node.levels}], got [{array.min()}, {array.max()}]"
        )
    return array.astype(np.int64)


def one_hot(tokens: NDArray[np.integer] | list[int], size: int) -> Int64:
    """Token ids (tokens,) to input spikes (tokens, size): one spike per token.

    Raises:
        InputError: ids that are not a vector of integers, or an id outside [0, size).
    """
    ids = np.asarray(tokens) if len(tokens) else np.zeros(0, np.int64)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"token ids must be integers (tokens,), got {ids.dtype} of shape {ids.shape}")
    bad = np.flatnonzero((ids < 0) | (ids >= size))
    if bad.size:
        raise InputError(f"token {ids[bad[0]]} at position {bad[0]} is outside the vocabulary [0, {size - 1}]")
    spikes = np.zeros((ids.size, size), np.int64)
    spikes[np.arange(ids.size), ids] = 1
    return spikes


def run(program: Program, inputs: NDArray[np.integer]) -> Trace:
    """Run spikes (tokens, neurons) from a silent start; returns the trace of every spiking node and output."""
    spikes = check_inputs(program, inputs)
    state, name = State(), program.inputs[0].name
    values = {node: np.empty((len(spikes), program.signals[node].size), np.int64) for node in program.traced}
    for i, row in enumerate(spikes):
        x = step(program, state, {name: row})
        for node, trace in values.items():
            trace[i] = x[node]
    return Trace(values)
