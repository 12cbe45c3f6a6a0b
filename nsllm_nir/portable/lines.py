"""A `Program` as binary lines: every signal becomes integers that are linear in spiking lines.

A *line* is one binary neuron. A *term* is a line now (``2 * line``) or one step ago (``2 * line + 1``).
Linear and Sum only transform these linear forms; Count, Gate and Integrate add lines, each of which
is on where its own form is at least 1. `portable` places the lines in stages and writes the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import LossyConversionError
from nsllm_nir.program import Count, Delay, Gate, Input, Integrate, Linear, Op, Program, Sum
from nsllm_nir.program.constants import DECAY_BITS

Ints = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Form:
    """``weight @ x[terms] + bias``. terms: (k,) ascending; weight: (n, k) int64; bias: (n,) int64."""

    terms: Ints
    weight: Ints
    bias: Ints

    def rows(self, index: Ints) -> Form:
        """The rows ``index`` (any order, repeats allowed)."""
        return Form(self.terms, self.weight[index], self.bias[index])

    def scale(self, factor: Ints) -> Form:
        """Row i times ``factor[i]``."""
        return Form(self.terms, self.weight * factor[:, None], self.bias * factor)

    def trim(self) -> Form:
        """Without the terms that no row reads."""
        used = self.weight.any(axis=0)
        return Form(self.terms[used], self.weight[:, used], self.bias)

    def rename(self, terms: Ints) -> Form:
        """Term j replaced by ``terms[j]``; terms that become equal are merged."""
        merged, position = np.unique(terms, return_inverse=True)
        weight = np.zeros((merged.size, self.bias.size), np.int64)
        np.add.at(weight, position, self.weight.T)
        return Form(merged, weight.T, self.bias)


def constant(values: Ints) -> Form:
    """A form without terms."""
    bias = np.asarray(values, np.int64)
    return Form(np.zeros(0, np.int64), np.zeros((bias.size, 0), np.int64), bias)


def identity(terms: Ints) -> Form:
    """One row per term."""
    return Form(np.asarray(terms, np.int64), np.eye(len(terms), dtype=np.int64), np.zeros(len(terms), np.int64))


def total(*forms: Form) -> Form:
    """Elementwise sum of forms of equal size."""
    terms = np.unique(np.concatenate([f.terms for f in forms]))
    weight = np.zeros((forms[0].bias.size, terms.size), np.int64)
    for f in forms:
        weight[:, np.searchsorted(terms, f.terms)] += f.weight
    return Form(terms, weight, np.sum([f.bias for f in forms], axis=0))


def stack(forms: list[Form]) -> Form:
    """The rows of all forms, one form after the other."""
    terms = np.unique(np.concatenate([f.terms for f in forms]))
    blocks = []
    for f in forms:
        block = np.zeros((f.bias.size, terms.size), np.int64)
        block[:, np.searchsorted(terms, f.terms)] = f.weight
        blocks.append(block)
    return Form(terms, np.concatenate(blocks), np.concatenate([f.bias for f in forms]))


@dataclass(frozen=True, eq=False)
class Group:
    """Lines ``first + j`` that ``op`` adds; line j is on where row j of ``form`` is at least 1."""

    op: str
    first: int
    form: Form

    @property
    def size(self) -> int:
        """Number of neurons."""
        return int(self.form.bias.size)

    @property
    def lines(self) -> Ints:
        """Numbers of all its lines."""
        return self.first + np.arange(self.size)


@dataclass(eq=False)
class Lines:
    """Compiles a program to groups of lines; ``forms[name]`` is the signal ``name``.

    Lines 0 .. inputs - 1 are the input neurons, line ``one`` is on in every step.
    """

    program: Program
    max_weights: int
    forms: dict[str, Form] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    reserved: dict[str, int] = field(
        default_factory=dict
    )  # first line of a Count that a Delay reads before it is produced
    past: dict[tuple[int, int], int] = field(default_factory=dict)  # (line, steps ago) to the line that remembers it

    def __post_init__(self) -> None:
        self.one = self.program.inputs[0].size
        self.count = self.one + 1
        for op in self.program.ops:
            self.forms[op.name] = self._form(op).trim()

    def _form(self, op: Op) -> Form:
        match op:
            case Input():
                self._allow(op.name, op.size, op.size, "the Input")
                return identity(2 * np.arange(op.size))
            case Linear():
                return self._linear(op)
            case Sum():
                return total(*(self.forms[s] for s in op.sources), constant(op.bias))
            case Count():
                return self._count(op)
            case Gate():
                return self._gate(op)
            case Integrate():
                return self._integrate(op)
            case Delay():
                return self._delay(op)
            case _:  # a new operation, too, until it has a form here
                raise _no_form(op)

    def _allow(self, op: str, lines: int, columns: int, cause: str) -> None:
        if lines * columns > self.max_weights:
            raise LossyConversionError(
                f"{op!r}: {cause} needs {lines:,} spiking neurons with {columns:,} inputs each, {lines * columns:,} "
                "dense weights in the portable profile; "
                f"the limit is {self.max_weights:,}. Use fewer neurons, levels or state fraction bits or a faster "
                "decay, or write the structured profile"
            )

    def _add(self, op: str, form: Form, first: int | None = None) -> Ints:
        """Lines that are on where ``form`` is at least 1; returns their numbers."""
        if first is None:
            first, self.count = self.count, self.count + form.bias.size
        self.groups.append(Group(op, first, form.trim()))
        return self.groups[-1].lines

    def _linear(self, op: Linear) -> Form:
        source = self.forms[op.source]
        self._allow(op.name, op.weight.shape[0], source.terms.size, "the Linear")
        gain = np.exp2(op.shift.astype(np.float64))
        weight = (op.weight.astype(np.float64) @ source.weight.astype(np.float64)) * gain[
            :, None
        ]  # exact: far below 2**53
        bias = (op.weight.astype(np.int64) @ source.bias + op.bias) << op.shift.astype(np.int64)
        return Form(source.terms, weight.astype(np.int64), bias)

    def _count(self, op: Count) -> Form:
        v = self.forms[op.source]
        step = self.forms[op.step] if isinstance(op.step, str) else constant(op.step)
        size = v.bias.size
        self._allow(op.name, op.levels * size * (1 + op.signed), v.terms.size + step.terms.size, "the Count")
        ones = np.ones(size, np.int64)
        odd = range(1, 2 * op.levels, 2)
        rows = [
            total(v.scale(2 * sign * ones), step.scale(-m * ones))
            for sign in ((1, -1) if op.signed else (1,))
            for m in odd
        ]
        first = self.reserved.get(op.name)
        return _thermometer(self._add(op.name, stack(rows), first), size, op.levels)

    def _gate(self, op: Gate) -> Form:
        """gate * (w x + b) = w (gate and x) + b gate: one AND line per term that a neuron reads."""
        gate, source = self.forms[op.gate], self.forms[op.source]
        neuron, column = np.nonzero(source.weight)
        self._allow(op.name, neuron.size, gate.terms.size + source.terms.size, "the Gate")
        both = total(gate.rows(neuron), identity(source.terms).rows(column), constant(np.full(neuron.size, -1)))
        weight = np.zeros((gate.bias.size, neuron.size), np.int64)
        weight[neuron, np.arange(neuron.size)] = source.weight[neuron, column]
        gated = Form(2 * self._add(op.name, both), weight, np.zeros(gate.bias.size, np.int64))
        return total(gated, gate.scale(source.bias))

    def _integrate(self, op: Integrate) -> Form:
        """Line l of a neuron is on where S >= l (for l < 0: S <= l). The decay is a function of S: linear in lines."""
        source, signal = self.forms[op.source], self.program.signals[op.source]
        low = -_fixed_point(op, -np.minimum(signal.low, 0), negative=True)
        high = _fixed_point(op, np.maximum(signal.high, 0), negative=False)
        self._allow(
            op.name,
            int((high - low).sum()),
            int((high - low).sum()) + source.terms.size,
            f"the Integrate with states up to {int(high.max())}",
        )
        neuron = np.repeat(np.arange(high.size), high - low)
        level = np.concatenate([np.r_[1 : h + 1, low_i:0] for low_i, h in zip(low, high, strict=True)]).astype(np.int64)
        sign = np.sign(level)
        decay = op.decay.astype(np.int64)[neuron]
        own = np.zeros((high.size, level.size), np.int64)
        state, kept = own.copy(), own.copy()
        state[neuron, np.arange(level.size)] = sign
        kept[neuron, np.arange(level.size)] = ((level * decay) >> DECAY_BITS) - (((level - sign) * decay) >> DECAY_BITS)
        lines = self.count + np.arange(level.size)
        new = total(
            Form(2 * lines + 1, kept, np.zeros(high.size, np.int64)),
            source.scale(np.full(high.size, 1 << op.fraction_bits)),
        )
        self._add(op.name, total(new.rows(neuron).scale(sign), constant(1 - np.abs(level))))
        return Form(2 * lines, state, np.zeros(high.size, np.int64))

    def _delay(self, op: Delay) -> Form:
        source = self.forms[op.source] if op.source in self.forms else self._reserve(op.source)
        # Its reader takes the lines of one step ago: a loop has no earlier stage that could remember them.
        late = op.recurrent
        parts, rows = [], []
        for steps in np.unique(op.steps):
            rows.append(np.flatnonzero(op.steps == steps))
            part = source.rows(rows[-1]).trim()
            if steps > 0:
                part = self.with_one(part)  # a constant starts with the first step, too
                part = part.rename(2 * self._past(op.name, self._now(op.name, part.terms), int(steps) - late) + late)
            parts.append(part)
        return stack(parts).rows(np.argsort(np.concatenate(rows), kind="stable"))

    def _reserve(self, name: str) -> Form:
        """The lines of a Count that is produced later in the program."""
        op = next(o for o in self.program.ops if o.name == name)
        if not isinstance(op, Count):
            raise _no_form(op)
        size = self.program.signals[name].size
        lines = op.levels * size * (1 + op.signed)
        if name not in self.reserved:
            self.reserved[name], self.count = self.count, self.count + lines
        return _thermometer(self.reserved[name] + np.arange(lines), size, op.levels)

    def _past(self, op: str, lines: Ints, steps: int) -> Ints:
        """Lines that repeat ``lines`` of ``steps`` steps ago."""
        self._allow(op, lines.size * steps, lines.size * steps, f"the Delay of {steps} steps")
        late = lines
        for ago in range(1, steps + 1):
            missing = [i for i, line in enumerate(lines) if (int(line), ago) not in self.past]
            if missing:
                new = self._add(op, identity(2 * late[missing] + 1))
                self.past.update({(int(lines[i]), ago): int(n) for i, n in zip(missing, new, strict=True)})
            late = np.array([self.past[int(line), ago] for line in lines], np.int64)
        return late

    def _now(self, op: str, terms: Ints) -> Ints:
        """The line of each term, remembered where the term is of one step ago."""
        lines = terms // 2
        late = terms % 2 == 1
        if late.any():
            lines[late] = self._past(op, lines[late], 1)
        return lines

    def settled(self, name: str) -> Form:
        """The signal ``name`` as a form of lines of the same step."""
        form = self.forms[name]
        return form.rename(2 * self._now(name, form.terms))

    def with_one(self, form: Form) -> Form:
        """The bias as the weight of the line that is always on."""
        if not form.bias.any():
            return form
        zero = np.zeros_like(form.bias)
        return total(Form(form.terms, form.weight, zero), Form(np.array([2 * self.one]), form.bias[:, None], zero))


def _no_form(op: Op) -> LossyConversionError:
    return LossyConversionError(
        f"{op.name!r}: the portable profile has no form of a {type(op).__name__}; write the structured profile"
    )


def _thermometer(lines: Ints, size: int, levels: int) -> Form:
    """Counts (size,) of lines listed level by level; the second half of signed lines counts negative."""
    level = lines.size // size
    sign = np.repeat(np.where(np.arange(level) < levels, 1, -1), size)
    return Form(2 * lines, np.tile(np.eye(size, dtype=np.int64), level) * sign, np.zeros(size, np.int64))


def _fixed_point(op: Integrate, source: Ints, *, negative: bool) -> Ints:
    """Largest magnitude that the state reaches while the source stays at its extreme ``source`` >= 0 in magnitude."""
    state, decay = np.zeros_like(source), op.decay.astype(np.int64)
    while True:
        # The floor pulls negative states down.
        kept = -((-state * decay) >> DECAY_BITS) if negative else (state * decay) >> DECAY_BITS
        if np.array_equal(following := kept + (source << op.fraction_bits), state):
            return state
        state = following
