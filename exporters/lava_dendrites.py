"""Which operations of a `Program` become synapses of the neuron that reads them, in the stock lowering.

A `Linear`, `Conv2d` or `Sum` that only one spiking `Lif` reads has no neurons of its own: its
synapses end at the Lif. The same makes recurrence possible, because a synapse takes one Lava step
and a recurrent spike has just one token (one step) from a neuron back to it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.program import Conv2d, Count, Delay, Lif, Linear, Op, Program, Sum, sources
from nsllm_nir.program.operations.conv2d import per_neuron


@dataclass(frozen=True)
class Dendrites:
    """Where the operations without neurons of their own go, all by name.

    inlined: {operation without neurons: neuron that it belongs to}; loops: {recurrent `Delay`: the neuron it returns
    to}; refused: {recurrent `Delay`: why it cannot be laid out}.
    """

    inlined: dict[str, str]
    loops: dict[str, str]
    refused: dict[str, str]


def dendrites(program: Program) -> Dendrites:
    """Analyse ``program``."""
    found = Dendrites({}, {}, {})
    ops = {op.name: op for op in program.ops}
    readers = _readers(program)
    for op in program.ops:
        if isinstance(op, Delay) and is_loop(program, op):
            path = _loop_path(program, op, ops, readers)
            if isinstance(path, str):
                found.refused[op.name] = path
            else:
                found.loops[op.name] = op.source
                found.inlined.update(dict.fromkeys(path, op.source))
    for op in program.ops:
        if isinstance(op, Lif) and op.threshold is not None:
            _absorb(op.source, op.name, ops, readers, found)
    return found


def is_loop(program: Program, op: Op) -> bool:
    """True for a `Delay` whose source is produced later in the program."""
    names = [o.name for o in program.ops]
    return isinstance(op, Delay) and names.index(op.source) >= names.index(op.name)


def _readers(program: Program) -> dict[str, Counter[str]]:
    """{signal: how often each operation reads it}; an output is read by ''."""
    readers: dict[str, Counter[str]] = {op.name: Counter() for op in program.ops}
    for op in program.ops:
        for name in sources(op):
            readers[name][op.name] += 1
    for name in program.outputs:
        readers[name][""] += 1
    return readers


def _loop_path(program: Program, delay: Delay, ops: dict[str, Op], readers: dict[str, Counter[str]]) -> list[str] | str:
    """The operations between ``delay`` and the neuron that it starts from, or why they cannot be its synapses."""
    neuron, advice = ops[delay.source], "; use the backend 'lava'"
    if (delay.steps != 1).any():
        return (
            "the loop holds a delay other than one token; a Lava synapse back to the same neuron takes exactly one step"
            + advice
        )
    if isinstance(neuron, Count) and isinstance(neuron.step, str):
        return (
            f"the loop closes at {neuron.name!r}, whose step is a signal; its comparison has no room for a recurrent "
            "synapse" + advice
        )
    path: list[str] = []
    pending = [delay.name]
    while pending:
        name = pending.pop()
        if (name != delay.name and readers[name].total() > 1) or "" in readers[name]:
            return f"{name!r} in the loop must have exactly one reader, and be no output" + advice
        for reader in readers[name]:
            op = ops[reader]
            if op is neuron or reader in path:
                continue
            if not isinstance(op, Sum) and (name != delay.name or not isinstance(op, Linear | Conv2d)):
                return (
                    f"the loop passes through {reader!r}, a {type(op).__name__}, and would take more than one Lava "
                    "step; only Delay, one Linear or Conv2d, "
                    f"sums and the same neuron fit" + advice
                )
            path.append(reader)
            pending.append(reader)
    return path


def _absorb(source: str, neuron: str, ops: dict[str, Op], readers: dict[str, Counter[str]], found: Dendrites) -> None:
    pending = [source]
    while pending:
        op = ops[pending.pop()]
        if isinstance(op, Linear | Conv2d | Sum) and readers[op.name].total() == 1:
            found.inlined.setdefault(op.name, neuron)
            pending += op.sources if isinstance(op, Sum) else ()


def affine_constant(op: Linear | Conv2d) -> NDArray[np.int64]:
    """``bias << shift`` per output neuron."""
    bias, shift = op.bias.astype(np.int64), op.shift.astype(np.int64)
    return per_neuron(op, bias << shift) if isinstance(op, Conv2d) else bias << shift


def inlined_terms(program: Program, name: str, inlined: dict[str, str]) -> tuple[list[Op], NDArray[np.int64]]:
    """The summands of signal ``name`` and its constant part (neurons,).

    A summand is a Linear or Conv2d in ``inlined`` (without its bias), or any other operation, whose value is added.
    """
    ops = {op.name: op for op in program.ops}
    terms: list[Op] = []
    constant = np.zeros(program.signals[name].size, np.int64)
    pending = [name]
    while pending:
        op = ops[pending.pop()]
        if op.name not in inlined or not isinstance(op, Linear | Conv2d | Sum):
            terms.append(op)
        elif isinstance(op, Sum):
            constant = constant + op.bias
            pending += reversed(op.sources)
        else:
            terms.append(op)
            constant = constant + affine_constant(op)
    return terms, constant
