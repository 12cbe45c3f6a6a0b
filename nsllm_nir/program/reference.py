"""The oracle: a plain numpy int64 interpreter of a `Program`, one token at a time.

What an operation computes stands beside it, in ``operations``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError
from nsllm_nir.program.operations import State as State
from nsllm_nir.program.operations.base import Int64
from nsllm_nir.program.program import Program
from nsllm_nir.program.trace import Trace


def step(program: Program, state: State, inputs: Mapping[str, Int64]) -> dict[str, Int64]:
    """Advance one token. inputs: {input name: (neurons,)}; returns every signal; updates ``state``, at first empty."""
    x = dict(inputs)
    for op in program.ops:
        x[op.name] = op.compute(x, state)
    for op in program.ops:
        op.remember(x, state)
    return x


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
