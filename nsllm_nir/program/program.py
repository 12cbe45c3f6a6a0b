"""The typed integer form that every backend consumes (normative rules: ``docs/semantics.md``).

A `Program` is a tuple of operations in execution order. Each operation produces one signal that
carries its name: a flat vector of integers, one value per neuron and token. Interval analysis runs
at construction, so a `Program` that exists cannot overflow its widths.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from nsllm_nir.notebook import html_table
from nsllm_nir.program.intervals import analyse
from nsllm_nir.program.operations import Input, Op, constants, sources
from nsllm_nir.program.signals import DEFAULT_WIDTHS, Ints, Signal, Widths


@dataclass(frozen=True, eq=False)
class Program:
    """Operations in execution order, the names of the outputs, and what analysis knows of each signal.

    Raises:
        GraphError: an operation refers to a missing signal, or shapes do not agree.
        IntegerOverflowError: a worst case exceeds the widths (names operation, neuron, interval).
    """

    ops: tuple[Op, ...]
    outputs: tuple[str, ...]
    widths: Widths = DEFAULT_WIDTHS
    origin: Path | None = None  # the NIR file it was lowered from
    signals: Mapping[str, Signal] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signals", analyse(self.ops, self.outputs, self.widths))

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The operations that spikes from outside enter, in program order."""
        return tuple(op for op in self.ops if isinstance(op, Input))

    @property
    def traced(self) -> tuple[str, ...]:
        """Signals that a `Trace` holds: every spiking signal, then the outputs, in program order."""
        return tuple(n for n, s in self.signals.items() if s.spikes or n in self.outputs)

    def audit(self) -> dict[str, Counter[str]]:
        """Hardware operations per token of each op, every neuron spiking once (dense bound).

        `Operation.hardware` states what implements an operation, as docs/semantics.md derives it; the tests
        scan the source of the spike engine for operators beyond those.
        """
        return {op.name: op.hardware(self.signals[op.name]) for op in self.ops}

    def parameters(self) -> int:
        """Number of stored weights, biases, shifts, steps, decays and delays."""
        return sum(a.size for op in self.ops for a in constants(op).values())

    def __str__(self) -> str:
        """One line per operation, in execution order: what it reads, its constants, its interval and width."""
        return format_program(self)

    def _repr_html_(self) -> str:
        """In a notebook: one row per operation."""
        rows = (
            (op.name, type(op).__name__, ", ".join(sources(op)), s.size, int(s.low.min()), int(s.high.max()), s.bits)
            for op in self.ops
            for s in (self.signals[op.name],)
        )
        caption = (
            f"Program: {len(self.ops):,} operations, {self.parameters():,} parameters, output {', '.join(self.outputs)}"
        )
        return html_table(caption, ("signal", "operation", "reads", "neurons", "lowest", "highest", "bits"), rows)


def _constant_text(value: Ints) -> str:
    flat = value.reshape(-1)
    if flat.size == 0:
        return "[]"
    if (flat == flat[0]).all():
        return f"{flat[0]}"
    return f"[{flat.min()}..{flat.max()}]#{zlib.crc32(np.ascontiguousarray(flat, dtype='<i4').tobytes()):08x}"


def _constants_text(op: Op) -> str:
    shown = []
    for field_ in fields(op):
        value = getattr(op, field_.name)
        if field_.type in ("str", "tuple[str, ...]"):  # the name, and what is always a signal: shown in front
            continue
        if isinstance(value, np.ndarray):
            shape = "x".join(map(str, value.shape)) if value.ndim > 1 else ""
            shown.append(f"{field_.name}={shape + ':' if shape else ''}{_constant_text(value)}")
        else:
            shown.append(f"{field_.name}={'%' + value if isinstance(value, str) else value}")
    return " ".join(shown)


def format_program(program: Program) -> str:
    """One line per op: inputs, constants (value, or range and CRC-32), interval and width. Golden text."""
    lines = [f"program widths potential={program.widths.potential} comparator={program.widths.comparator}"]
    for op in program.ops:
        s = program.signals[op.name]
        kind = "spikes" if s.spikes else "potential"
        read = ", ".join("%" + name for name in sources(op))
        lines.append(
            f"%{op.name} = {type(op).__name__.lower()}({read}) {_constants_text(op)}".rstrip()
            + f" : {kind}[{s.size}] in [{s.low.min()}, {s.high.max()}] u{s.bits}".replace(
                " u", " i" if s.low.min() < 0 else " u"
            )
        )
    lines.append("output " + ", ".join("%" + name for name in program.outputs))
    return "\n".join(lines) + "\n"
