"""Lower a `Program` to populations and projections of stock Lava Processes (no Lava import here).

The whole network is one pipeline: a token enters per Lava step, each projection adds one step, and
population P of lag L holds token t - L at step t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.exporters.lava_dendrites import Dendrites, dendrites, inlined_terms
from nsllm_nir.exporters.lava_lif import integrator, registers
from nsllm_nir.exporters.lava_network import WEIGHT_BITS, Indices, Network, Population, Projection
from nsllm_nir.program import Conv2d, Count, Delay, Gate, Input, Integrate, Lif, Linear, Op, Program, Sum
from nsllm_nir.program.constants import DECAY_BITS, LIF_FRACTION_BITS, LIF_MAX_THRESHOLD
from nsllm_nir.program.operations.conv2d import per_neuron, synapses

PAYLOADS = (1, 1 << 8, 1 << 16)  # constant lanes: three 8-bit digits make any 24-bit constant
WEIGHT_LOW, WEIGHT_HIGH = -128, 127  # before the doubling that a mixed-sign synapse needs
WEIGHT_EXPONENTS = range(-8, 8)
MAX_BASE = WEIGHT_EXPONENTS[-1] + 1  # largest left shift of a mixed-sign projection
DIRECT_LIMIT = LIF_MAX_THRESHOLD + 1  # of what a LIF shifts left by 6 bits into 24
NO_REGISTERS: Mapping[str, Indices] = {}
LIF_ROUNDING = (
    1 << LIF_FRACTION_BITS
) - 1  # Lava's LIF shifts its input left by 6 bits; the projections to units shift right by as much


def lower(program: Program) -> Network:
    """Lay out ``program``. A loop that does not fit is laid out open; `lava_constraints` refuses it by name."""
    plan = dendrites(program)
    builder = _Builder(program, plan)
    for op in program.ops:
        builder.place(op)
    traced = {node: (builder.at(node, builder.lags[node]), builder.lags[node]) for node in program.traced}
    delays = {name: int(op.steps.max()) for name, op in builder.delays.items()}
    populations, projections = tuple(builder.populations), tuple(builder.projections)
    return Network(
        program, builder.sizes, populations, projections, traced, builder.lags, delays, plan.inlined, plan.refused
    )


def digits(values: Indices) -> Indices:
    """Balanced base-256 digits (len(PAYLOADS), n): ``sum(PAYLOADS * digits) == values``; the last may leave 8 bits."""
    rest, found = values.astype(np.int64), []
    for _ in PAYLOADS[:-1]:
        digit = (rest + 128) % 256 - 128
        found.append(digit)
        rest = (rest - digit) >> 8
    return np.array([*found, rest])


def unit_interval(op: Count, program: Program) -> tuple[int, int]:
    """Worst case of the sum at a threshold unit of ``op``, without the rounding offset."""
    v, odd = program.signals[op.source], 2 * op.levels - 1
    if isinstance(op.step, str):
        s = program.signals[op.step]
        scale, near, far = 2, s.low, odd * s.high
    else:
        step = op.step.astype(np.int64)
        scale, near, far = 1, step >> 1, (odd * step) >> 1
    low, high = scale * v.low - far, scale * v.high - near
    if op.signed:
        low, high = np.minimum(low, -scale * v.high - far), np.maximum(high, -scale * v.low - near)
    return int(low.min()), int(high.max())


def unit_groups(op: Count) -> list[tuple[int, int]]:
    """(sign, level) of each group of threshold units of ``op``, in the order of their indices."""
    return [(sign, m) for sign in ((1, -1) if op.signed else (1,)) for m in range(1, op.levels + 1)]


@dataclass
class _Builder:
    program: Program
    plan: Dendrites
    sizes: dict[str, int] = field(default_factory=lambda: {"input": 0, "graded": 0, "units": 0, "lif": 0, "gates": 0})
    populations: list[Population] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    lags: dict[str, int] = field(default_factory=dict)
    _held: dict[tuple[str, int], Indices] = field(default_factory=dict)
    _constants: list[Indices] = field(default_factory=list)
    delays: dict[str, Delay] = field(default_factory=dict)

    def place(self, op: Op) -> None:
        """Add the populations and projections of one op; its value is at lag ``lags[op.name]``."""
        match op:
            case Linear() | Conv2d() | Sum() if op.name in self.plan.inlined:
                pass  # its synapses come with the neuron they end at
            case Input():
                self._input(op)
            case Linear() | Conv2d():
                self._affine(op)
            case Sum():
                self._sum(op)
            case Count():
                count = self._recurrent_count if op.name in self.plan.loops.values() else self._count
                count(op)
            case Lif():
                neurons = self._integrator if op.threshold is None else self._lif
                neurons(op)
            case Gate():
                self._gate(op)
            case Integrate():
                self._integrate(op)
            case Delay():
                self._delay(op)
            case _:
                assert_never(op)

    def _delay(self, op: Delay) -> None:
        """No neurons of its own: `at` picks copies of its source, `_close_loops` lays out a loop."""
        if op.name in self.plan.loops:
            return
        if op.name in self.plan.refused:
            self._value(op.name, 1)
        else:
            self.lags[op.name] = self.lags[op.source]
            self.delays[op.name] = op

    def at(self, node: str, lag: int) -> Indices:
        """Indices within "graded" of the value of ``node`` at ``lag`` >= its own; makes the copies that are missing."""
        if node in self.delays:
            op = self.delays[node]
            found = np.empty(op.steps.size, np.int64)
            for d in np.unique(op.steps):
                found[op.steps == d] = self.at(op.source, lag + int(d))[op.steps == d]
            return found
        latest = lag
        while (node, latest) not in self._held:
            latest -= 1
        signal, indices = self.program.signals[node], self._held[node, latest]
        for later in range(latest + 1, lag + 1):
            copy = self._add(node, "copy", "graded", indices.size, later, int(signal.low.min()), int(signal.high.max()))
            self._connect(copy, "graded", copy.indices, indices, np.ones(indices.size, np.int64))
            self._held[node, later] = indices = copy.indices
        return indices

    def constants(self, lag: int) -> Indices:
        """Indices of the constant lanes that are on (payloads `PAYLOADS`) exactly while a token is at ``lag``."""
        while len(self._constants) < lag:
            step, first = len(self._constants) + 1, not self._constants
            lanes = self._add("", "constant", "graded", len(PAYLOADS), step, 0, PAYLOADS[-1])
            before = self.sizes["input"] - len(PAYLOADS) + np.arange(len(PAYLOADS)) if first else self._constants[-1]
            self._connect(
                lanes, "input" if first else "graded", lanes.indices, before, np.ones(len(PAYLOADS), np.int64)
            )
            self._constants.append(lanes.indices)
        return self._constants[lag - 1]

    def _add(
        self,
        node: str,
        role: str,
        process: str,
        size: int,
        lag: int,
        low: int,
        high: int,
        values: Mapping[str, Indices] = NO_REGISTERS,
        refused: str = "",
    ) -> Population:
        population = Population(node, role, process, self.sizes[process], size, lag, low, high, values, refused)
        self.sizes[process] += size
        self.populations.append(population)
        return population

    def _value(self, node: str, lag: int, refused: str = "") -> Population:
        signal = self.program.signals[node]
        population = self._add(
            node, "value", "graded", signal.size, lag, int(signal.low.min()), int(signal.high.max()), refused=refused
        )
        self.lags[node] = lag
        self._held[node, lag] = population.indices
        return population

    def _connect(
        self,
        target: Population,
        source: str,
        rows: Indices,
        columns: Indices,
        weights: Indices,
        *,
        shift: int = 0,
        port: str = "a_in",
        node: str = "",
    ) -> None:
        """Mixed-sign synapses: weights are stored doubled, as Lava drops the lowest bit; the exponent is one less."""
        kept = weights != 0
        indices = rows[kept].astype(np.int32), columns[kept].astype(np.int32)
        self.projections.append(
            Projection(
                target,
                node or target.node,
                source,
                port,
                shift - 1,
                "MIXED",
                *indices,
                2 * weights[kept].astype(np.int32),
            )
        )

    def _shifted(
        self,
        target: Population,
        source: str,
        rows: Indices,
        columns: Indices,
        weights: Indices,
        shift: NDArray[Any],
        node: str,
    ) -> None:
        """Row r of ``target`` gets ``(weights @ source) << shift[r]``: a projection per group of compatible shifts."""
        for base, members in _shift_groups(rows, weights, shift):
            kept = members[rows]
            scaled = weights[kept] << (shift[rows[kept]].astype(np.int64) - base)
            self._connect(target, source, target.start + rows[kept], columns[kept], scaled, shift=base, node=node)

    def _constant(self, target: Population, values: Indices) -> None:
        """Add ``values`` (neurons,) while a token is there."""
        parts = digits(values)
        lane, row = np.nonzero(parts)
        if row.size:
            self._connect(target, "graded", target.start + row, self.constants(target.lag - 1)[lane], parts[lane, row])

    def _affine(self, op: Linear | Conv2d) -> None:
        """``(weight @ source + bias) << shift``, the bias through the constant lanes."""
        lag = self.lags[op.source]
        target = self._value(op.name, lag + 1)
        rows, columns, weights = op_synapses(op)
        bias, shift = per_row(op, op.bias), per_row(op, op.shift)
        columns = self.at(op.source, lag)[columns]
        if bias.any():
            parts = digits(bias)
            lane, row = np.nonzero(parts)
            rows, columns, weights = (
                np.append(rows, row),
                np.append(columns, self.constants(lag)[lane]),
                np.append(weights, parts[lane, row]),
            )
        self._shifted(target, "graded", rows, columns, weights, shift, op.name)

    def _terms_lag(self, terms: list[Op]) -> int:
        """The common lag of what reaches a neuron from outside its own loops."""
        names = [source_of(term) if term.name in self.plan.inlined else term.name for term in terms]
        return max((self.lags[name] for name in names if name not in self.plan.loops), default=1)

    def _feed(self, neurons: Population, terms: list[Op], signs: list[int]) -> None:
        """Synapses of ``terms`` into every group of ``neurons``: equal sizes, and each its sign, also of its spikes."""
        size = neurons.size // len(signs)
        groups = [(k * size, sign) for k, sign in enumerate(signs)]
        for term in terms:
            source, senders, shift = "graded", [(0, 1)], np.zeros(size, np.int64)
            name, rows, columns, weights = term.name, np.arange(size), np.arange(size), np.ones(size, np.int64)
            if isinstance(term, Linear | Conv2d) and term.name in self.plan.inlined:
                name, shift = term.source, per_row(term, term.shift)
                rows, columns, weights = op_synapses(term)
            if name in self.plan.loops:  # the token before this one left these neurons one step ago
                source, senders, columns = neurons.process, groups, neurons.start + columns
            else:
                columns = self.at(name, neurons.lag - 1)[columns]
            pairs = [(to, of, a * b) for to, a in groups for of, b in senders]
            all_rows, all_columns = (
                np.concatenate([rows + to for to, _, _ in pairs]),
                np.concatenate([columns + of for _, of, _ in pairs]),
            )
            all_weights = np.concatenate([weights * sign for _, _, sign in pairs])
            node = term.name if term.name in self.plan.inlined else neurons.node
            self._shifted(neurons, source, all_rows, all_columns, all_weights, np.tile(shift, len(signs)), node)

    def _send(self, neurons: Population, signs: list[int]) -> None:
        """The value of the node: the signed sum of the groups of ``neurons``. Closes the loops that start there."""
        target = self._value(neurons.node, neurons.lag + 1)
        rows, weights = np.tile(target.indices, len(signs)), np.repeat(np.array(signs, np.int64), target.size)
        self._connect(target, neurons.process, rows, neurons.indices, weights)
        for op in self.program.ops:
            if isinstance(op, Delay) and self.plan.loops.get(op.name) == neurons.node:
                self.lags[op.name], self.delays[op.name] = target.lag - 1, op

    def _lif(self, op: Lif) -> None:
        """The neurons themselves; see `lava_lif.registers` for the bias."""
        terms, constant = inlined_terms(self.program, op.source, self.plan.inlined)
        lag, source = self._terms_lag(terms), self.program.signals[op.source]
        form = registers(op, source, lag + 1)
        low, high = int((source.low + form.lanes).min()), int((source.high + form.lanes).max())
        neurons = self._add(
            op.name,
            "lif",
            "units" if form.memoryless else "lif",
            source.size,
            lag + 1,
            low,
            high,
            form.values,
            form.reason,
        )
        self._feed(neurons, terms, [1])
        self._constant(neurons, constant + form.lanes)
        self._send(neurons, [1])

    def _integrator(self, op: Lif) -> None:
        """u (if it has memory) and v: populations with a recurrent synapse, exact where `lava_lif.integrator` says."""
        form = integrator(op, self.program.signals[op.source])
        lag, size, weight = self.lags[op.source], op.bias.size, 1 << LIF_FRACTION_BITS
        columns = self.at(op.source, lag)
        if form.current.any():
            lag += 1
            current = self._add(op.name, "current", "graded", size, lag, form.current_low, form.current_high)
            self._connect(current, "graded", current.indices, columns, np.full(size, weight))
            self._decay(current, form.current)
            columns, weight = current.indices, 1
        target = self._value(op.name, lag + 1, form.reason)
        self._connect(target, "graded", target.indices, columns, np.full(size, weight))
        self._constant(target, op.bias)
        self._decay(target, form.potential)

    def _input(self, op: Input) -> None:
        self.sizes["input"] = op.size + len(PAYLOADS)
        target = self._value(op.name, 1)
        self._connect(target, "input", target.indices, np.arange(op.size), np.ones(op.size, np.int64))

    def _sum(self, op: Sum) -> None:
        lag = max(self.lags[s] for s in op.sources)
        target = self._value(op.name, lag + 1)
        for name in op.sources:
            self._connect(target, "graded", target.indices, self.at(name, lag), np.ones(target.size, np.int64))
        self._constant(target, op.bias)

    def _count(self, op: Count) -> None:
        """Threshold units, one per level: m fires when x = v - floor((2m - 1) s / 2), or 2v - (2m - 1) s, is positive.

        Its input is floor((x + 63) / 64) after the right shift by 6: at least 1 exactly when x >= 1.
        """
        lag = max(self.lags[n] for n in ((op.source, op.step) if isinstance(op.step, str) else (op.source,)))
        groups = unit_groups(op)
        size = self.program.signals[op.source].size
        v, lanes = self.at(op.source, lag), self.constants(lag)
        low, high = unit_interval(op, self.program)
        units = self._add(
            op.name, "units", "units", len(groups) * size, lag + 1, low + LIF_ROUNDING, high + LIF_ROUNDING
        )
        for k, (sign, m) in enumerate(groups):
            rows = units.start + k * size + np.arange(size)
            weights, constant = np.full(size, sign), np.full(size, LIF_ROUNDING, np.int64)
            if isinstance(op.step, str):
                step = self.at(op.step, lag)
                same = step == v  # one synapse, not two: only a sum within one Sparse is shifted as a whole
                weights = np.where(same, 2 * sign - (2 * m - 1), 2 * sign)
                self._to_units(units, rows, step, np.where(same, 0, -(2 * m - 1)))
            else:
                constant = constant - (((2 * m - 1) * op.step.astype(np.int64)) >> 1)
            self._to_units(units, rows, v, weights)
            for lane, digit in zip(lanes, digits(constant), strict=True):
                self._to_units(units, rows, np.full(size, lane), digit)
        self._send(units, [sign for sign, _ in groups])

    def _recurrent_count(self, op: Count) -> None:
        """Units whose own spikes return to them.

        These come through a Sparse of their own, so nothing can be shifted right before the sum: the input x itself
        must fit into the 17 bits that Lava's LIF leaves for it.
        """
        terms, constant = inlined_terms(self.program, op.source, self.plan.inlined)
        assert not isinstance(op.step, str)  # refused by `dendrites`
        step, groups, lag = op.step.astype(np.int64), unit_groups(op), self._terms_lag(terms)
        low, high = unit_interval(op, self.program)
        refused = ""
        if low <= -DIRECT_LIMIT or high >= DIRECT_LIMIT:
            refused = (
                f"the comparison of a recurrent count reaches [{low}, {high}], a LIF input has room for 18 bits; "
                "use the backend 'lava'"
            )
        units = self._add(op.name, "units", "units", len(groups) * step.size, lag + 1, low, high, refused=refused)
        self._feed(units, terms, [sign for sign, _ in groups])
        self._constant(units, np.concatenate([sign * constant - (((2 * m - 1) * step) >> 1) for sign, m in groups]))
        self._send(units, [sign for sign, _ in groups])

    def _to_units(self, units: Population, rows: Indices, columns: Indices, weights: Indices) -> None:
        self._connect(units, "graded", rows, columns, weights, shift=-LIF_FRACTION_BITS)

    def _gate(self, op: Gate) -> None:
        lag = max(self.lags[op.gate], self.lags[op.source])
        signal = self.program.signals[op.name]
        ones = np.ones(signal.size, np.int64)
        product = self._add(
            op.name, "product", "gates", signal.size, lag + 1, int(signal.low.min()), int(signal.high.max())
        )
        self._connect(product, "graded", product.indices, self.at(op.gate, lag), ones, port="a_in1")
        self._connect(product, "graded", product.indices, self.at(op.source, lag), ones, port="a_in2")
        target = self._value(op.name, lag + 2)
        self._connect(target, "gates", target.indices, product.indices, ones)

    def _integrate(self, op: Integrate) -> None:
        """The recurrent synapse decays (weights >= 0: 8 bits are exact), the other adds ``source << fraction_bits``."""
        lag = self.lags[op.source]
        target = self._value(op.name, lag + 1)
        ones = np.ones(op.decay.size, np.int64)
        inside = min(op.fraction_bits, WEIGHT_BITS - 2)  # as much of the shift as a weight of 1 has room for
        self._connect(
            target, "graded", target.indices, self.at(op.source, lag), ones << inside, shift=op.fraction_bits - inside
        )
        self._decay(target, op.decay.astype(np.int64))

    def _decay(self, target: Population, weights: Indices) -> None:
        """Recurrent synapses ``state * weights >> 8`` of graded neurons to themselves."""
        kept = weights != 0
        indices = target.indices[kept]
        self.projections.append(
            Projection(
                target, target.node, "graded", "a_in", -DECAY_BITS, "EXCITATORY", indices, indices, weights[kept]
            )
        )


def source_of(op: Op) -> str:
    """The signal that a Linear or Conv2d reads."""
    assert isinstance(op, Linear | Conv2d)
    return op.source


def op_synapses(op: Linear | Conv2d) -> tuple[Indices, Indices, Indices]:
    """(output neuron, input neuron, weight) of every synapse, int64."""
    if isinstance(op, Conv2d):
        return synapses(op)
    rows, columns = np.nonzero(op.weight)
    return rows, columns, op.weight[rows, columns].astype(np.int64)


def per_row(op: Linear | Conv2d, values: NDArray[Any]) -> NDArray[np.int64]:
    """Biases or shifts per output neuron."""
    return (per_neuron(op, values) if isinstance(op, Conv2d) else values).astype(np.int64)


def _shift_groups(rows: Indices, weights: Indices, shift: NDArray[Any]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Rows by common shift: (base, mask of rows), where the rest of a row's shift fits into its 8-bit weights.

    Base 0 is preferred, then a base that the weight exponent can hold: fewer groups, fewer Lava Processes.
    """
    low, high = np.zeros(shift.size, np.int64), np.zeros(shift.size, np.int64)
    np.minimum.at(low, rows, weights)
    np.maximum.at(high, rows, weights)
    headroom = sum((low << e >= WEIGHT_LOW) & (high << e <= WEIGHT_HIGH) for e in range(1, WEIGHT_BITS))
    shift = shift.astype(np.int64)
    lowest = np.where((low == 0) & (high == 0), 0, np.maximum(shift - headroom, 0))
    left, groups = np.argsort(shift, kind="stable"), []
    while left.size:
        first = left[0]
        base = 0 if not lowest[left].all() else int(min(shift[first], max(lowest[first], MAX_BASE)))
        fits = lowest[left] <= base
        mask = np.zeros(shift.size, bool)
        mask[left[fits]] = True
        groups.append((base, mask))
        left = left[~fits]
    return groups
