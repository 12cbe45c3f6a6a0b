"""Lower a `Program` to populations and projections of stock Lava Processes (no Lava import here).

The whole network is one pipeline: a token enters per Lava step, each projection adds one step, and
population P of lag L holds token t - L at step t. Populations of one neuron model share one Lava
Process, because Lava starts an operating-system process, with about 0.7 ms of messages per step,
for every Process; projections share one Sparse per source, target, weight exponent and sign mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.exporters.lava_worker.job import CHANNEL_SLOTS
from nsllm_nir.program import Count, Delay, Gate, Input, Integrate, Linear, Op, Program, Sum

Indices = NDArray[np.signedinteger[Any]]
PAYLOADS = (1, 1 << 8, 1 << 16)  # constant lanes: three 8-bit digits make any 24-bit constant
WEIGHT_BITS = 8
WEIGHT_LOW, WEIGHT_HIGH = -128, 127  # before the doubling that a mixed-sign synapse needs
WEIGHT_EXPONENTS = range(-8, 8)
MAX_BASE = WEIGHT_EXPONENTS[-1] + 1  # largest left shift of a mixed-sign projection
MESSAGE_BITS = {"input": 24, "graded": 24, "units": 1, "gates": 24}
LIF_SHIFT = 6  # Lava's LIF shifts its input left by 6 bits; the projections to it shift right by as much
LIF_ROUNDING = (1 << LIF_SHIFT) - 1
MODELS = {"input": "RingBuffer", "graded": "GradedVec", "units": "LIFReset", "gates": "ProdNeuron"}


@dataclass(frozen=True, eq=False)
class Population:
    """``size`` neurons of one model that serve the node ``node``; low, high: worst case of their input sum.

    role: "value" (the node's result), "copy" (the same, one step later), "units" (thresholds of a
    count), "product" (of a gate) or "constant".
    """

    node: str
    role: str
    process: str
    start: int
    size: int
    lag: int
    low: int
    high: int

    @property
    def indices(self) -> Indices:
        return np.arange(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Projection:
    """Synapses into population ``target``: ``weights[k]`` from ``columns[k]`` to ``rows[k]``, indices within the processes.

    The postsynaptic sum is ``(sum of weight * message)`` shifted by ``weight_exp`` (right shifts floor).
    """

    target: Population
    source: str
    port: str
    weight_exp: int
    sign_mode: str
    rows: Indices
    columns: Indices
    weights: Indices

    @property
    def process(self) -> tuple[str, str, str, int, str]:
        """Key of the Sparse process that holds it."""
        return self.source, self.target.process, self.port, self.weight_exp, self.sign_mode


@dataclass(frozen=True, eq=False)
class Network:
    """A pipeline of populations.

    sizes: neurons of each process, "input" with the constant lanes at its end; traced: {node:
    (indices within "graded" (neurons,), lag)}; delays: {node of a `Delay`: its longest delay in steps}.
    """

    program: Program
    sizes: dict[str, int]
    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    traced: dict[str, tuple[Indices, int]]
    lags: dict[str, int]
    delays: dict[str, int]

    @property
    def latency(self) -> int:
        """Lava steps from a token's entry to its last traced value."""
        return max(lag for _, lag in self.traced.values())


def lower(program: Program) -> Network:
    """Lay out ``program``. A recurrent `Delay` is laid out without its loop; `lava_constraints` refuses it by name."""
    builder = _Builder(program)
    for op in program.ops:
        builder.place(op)
    traced = {node: (builder.at(node, builder.lags[node]), builder.lags[node]) for node in program.traced}
    delays = {name: int(op.steps.max()) for name, op in builder.delays.items()}
    return Network(program, builder.sizes, tuple(builder.populations), tuple(builder.projections), traced, builder.lags, delays)


def is_loop(program: Program, op: Op) -> bool:
    """True for a `Delay` whose source is produced later in the program."""
    names = [o.name for o in program.ops]
    return isinstance(op, Delay) and names.index(op.source) >= names.index(op.name)


def digits(values: Indices) -> Indices:
    """Balanced base-256 digits (len(PAYLOADS), n): ``sum(PAYLOADS * digits) == values``; the last one may leave 8 bits."""
    rest, found = values.astype(np.int64), []
    for _ in PAYLOADS[:-1]:
        digit = (rest + 128) % 256 - 128
        found.append(digit)
        rest = (rest - digit) >> 8
    return np.array([*found, rest])


def unit_interval(op: Count, program: Program) -> tuple[int, int]:
    """Worst case of the sum at a threshold unit of ``op``, rounding offset included."""
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
    return int(low.min()) + LIF_ROUNDING, int(high.max()) + LIF_ROUNDING


@dataclass
class _Builder:
    program: Program
    sizes: dict[str, int] = field(default_factory=lambda: {"input": 0, "graded": 0, "units": 0, "gates": 0})
    populations: list[Population] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    lags: dict[str, int] = field(default_factory=dict)
    _held: dict[tuple[str, int], Indices] = field(default_factory=dict)
    _constants: list[Indices] = field(default_factory=list)
    delays: dict[str, Delay] = field(default_factory=dict)

    def place(self, op: Op) -> None:
        """Add the populations and projections of one op; its value is at lag ``lags[op.name]``."""
        match op:
            case Input():
                self._input(op)
            case Linear():
                lag = self.lags[op.source]
                self._affine(self._value(op.name, lag + 1), op.weight, self.at(op.source, lag), op.bias, op.shift)
            case Sum():
                self._sum(op)
            case Count():
                self._count(op)
            case Gate():
                self._gate(op)
            case Integrate():
                self._integrate(op)
            case Delay() if is_loop(self.program, op):
                self._value(op.name, 1)
            case Delay():
                self.lags[op.name] = self.lags[op.source]
                self.delays[op.name] = op  # no neurons of its own: `at` picks copies of its source

    def at(self, node: str, lag: int) -> Indices:
        """Indices within "graded" of the value of ``node`` at ``lag`` >= its own; makes the copies that are missing."""
        if node in self.delays:
            op = self.delays[node]
            found = np.empty(op.steps.size, np.int64)
            for d in np.unique(op.steps):
                found[op.steps == d] = self.at(op.source, lag + int(d))[op.steps == d]
            return found
        if (node, lag) not in self._held:
            signal = self.program.signals[node]
            before = self.at(node, lag - 1)
            copy = self._add(node, "copy", "graded", before.size, lag, int(signal.low.min()), int(signal.high.max()))
            self._connect(copy, "graded", copy.indices, before, np.ones(before.size, np.int64))
            self._held[node, lag] = copy.indices
        return self._held[node, lag]

    def constants(self, lag: int) -> Indices:
        """Indices of the constant lanes that are on (payloads `PAYLOADS`) exactly while a token is at ``lag``."""
        while len(self._constants) < lag:
            step, first = len(self._constants) + 1, not self._constants
            lanes = self._add("", "constant", "graded", len(PAYLOADS), step, 0, PAYLOADS[-1])
            before = self.sizes["input"] - len(PAYLOADS) + np.arange(len(PAYLOADS)) if first else self._constants[-1]
            self._connect(lanes, "input" if first else "graded", lanes.indices, before, np.ones(len(PAYLOADS), np.int64))
            self._constants.append(lanes.indices)
        return self._constants[lag - 1]

    def _add(self, node: str, role: str, process: str, size: int, lag: int, low: int, high: int) -> Population:
        population = Population(node, role, process, self.sizes[process], size, lag, low, high)
        self.sizes[process] += size
        self.populations.append(population)
        return population

    def _value(self, node: str, lag: int) -> Population:
        signal = self.program.signals[node]
        population = self._add(node, "value", "graded", signal.size, lag, int(signal.low.min()), int(signal.high.max()))
        self.lags[node] = lag
        self._held[node, lag] = population.indices
        return population

    def _connect(
        self, target: Population, source: str, rows: Indices, columns: Indices, weights: Indices, *, shift: int = 0, port: str = "a_in"
    ) -> None:
        """Mixed-sign synapses: the weight is stored doubled, since Lava drops its lowest bit, and the exponent is one less."""
        kept = weights != 0
        indices = rows[kept].astype(np.int32), columns[kept].astype(np.int32)
        self.projections.append(Projection(target, source, port, shift - 1, "MIXED", *indices, 2 * weights[kept].astype(np.int32)))

    def _affine(self, target: Population, weight: NDArray[Any], source: Indices, bias: NDArray[Any], shift: NDArray[Any]) -> None:
        """``target = (weight @ source + bias) << shift``; one projection per group of rows with compatible shifts."""
        lanes = self.constants(target.lag - 1)
        columns = np.concatenate([source, lanes])
        whole = np.hstack([weight.astype(np.int64), digits(bias).T])
        for base, members in _shift_groups(whole, shift):
            scaled = whole[members] << (shift[members].astype(np.int64) - base)[:, None]
            r, c = np.nonzero(scaled)
            self._connect(target, "graded", target.start + members[r], columns[c], scaled[r, c], shift=base)

    def _input(self, op: Input) -> None:
        self.sizes["input"] = op.size + len(PAYLOADS)
        target = self._value(op.name, 1)
        self._connect(target, "input", target.indices, np.arange(op.size), np.ones(op.size, np.int64))

    def _sum(self, op: Sum) -> None:
        lag = max(self.lags[s] for s in op.sources)
        size = op.bias.size
        target = self._value(op.name, lag + 1)
        identity, zeros = np.eye(size, dtype=np.int64), np.zeros(size, np.int64)
        self._affine(target, identity, self.at(op.sources[0], lag), op.bias, zeros)
        for name in op.sources[1:]:
            self._connect(target, "graded", target.indices, self.at(name, lag), np.ones(size, np.int64))

    def _count(self, op: Count) -> None:
        """Threshold units, one per level: unit m fires when x = v - floor((2m - 1) s / 2), or 2v - (2m - 1) s, is positive.

        Its input is floor((x + 63) / 64) after the right shift by 6: at least 1 exactly when x >= 1.
        """
        lag = max(self.lags[n] for n in ((op.source, op.step) if isinstance(op.step, str) else (op.source,)))
        signs = (1, -1) if op.signed else (1,)
        size = self.program.signals[op.source].size
        v, lanes = self.at(op.source, lag), self.constants(lag)
        units = self._add(op.name, "units", "units", len(signs) * op.levels * size, lag + 1, *unit_interval(op, self.program))
        target = self._value(op.name, lag + 2)
        groups = [(sign, m) for sign in signs for m in range(1, op.levels + 1)]
        for k, (sign, m) in enumerate(groups):
            rows = units.start + k * size + np.arange(size)
            scale, constant = sign, np.full(size, LIF_ROUNDING, np.int64)
            if isinstance(op.step, str):
                scale = 2 * sign
                self._to_units(units, rows, self.at(op.step, lag), np.full(size, -(2 * m - 1), np.int64))
            else:
                constant = constant - (((2 * m - 1) * op.step.astype(np.int64)) >> 1)
            self._to_units(units, rows, v, np.full(size, scale, np.int64))
            for lane, digit in zip(lanes, digits(constant), strict=True):
                self._to_units(units, rows, np.full(size, lane), digit)
            self._connect(target, "units", target.indices, rows, np.full(size, sign, np.int64))

    def _to_units(self, units: Population, rows: Indices, columns: Indices, weights: Indices) -> None:
        self._connect(units, "graded", rows, columns, weights, shift=-LIF_SHIFT)

    def _gate(self, op: Gate) -> None:
        lag = max(self.lags[op.gate], self.lags[op.source])
        signal = self.program.signals[op.name]
        ones = np.ones(signal.size, np.int64)
        product = self._add(op.name, "product", "gates", signal.size, lag + 1, int(signal.low.min()), int(signal.high.max()))
        self._connect(product, "graded", product.indices, self.at(op.gate, lag), ones, port="a_in1")
        self._connect(product, "graded", product.indices, self.at(op.source, lag), ones, port="a_in2")
        target = self._value(op.name, lag + 2)
        self._connect(target, "gates", target.indices, product.indices, ones)

    def _integrate(self, op: Integrate) -> None:
        """The recurrent synapse decays (all weights >= 0: 8 bits are exact), the forward one adds ``source << fraction_bits``."""
        lag = self.lags[op.source]
        target = self._value(op.name, lag + 1)
        ones = np.ones(op.decay.size, np.int64)
        inside = min(op.fraction_bits, WEIGHT_BITS - 2)  # as much of the shift as a weight of 1 has room for
        self._connect(target, "graded", target.indices, self.at(op.source, lag), ones << inside, shift=op.fraction_bits - inside)
        decay = op.decay.astype(np.int64)
        kept = decay != 0
        self.projections.append(
            Projection(target, "graded", "a_in", -8, "EXCITATORY", target.indices[kept], target.indices[kept], decay[kept])
        )


def _shift_groups(weights: Indices, shift: NDArray[Any]) -> list[tuple[int, Indices]]:
    """Rows by common shift: (base, rows), where the rest of a row's shift fits into its 8-bit weights.

    Base 0 is preferred, then a base that the weight exponent can hold: fewer groups, fewer Lava Processes.
    """
    low, high = weights.min(axis=1), weights.max(axis=1)
    headroom = sum((low << e >= WEIGHT_LOW) & (high << e <= WEIGHT_HIGH) for e in range(1, WEIGHT_BITS))
    shift = shift.astype(np.int64)
    lowest = np.where((low == 0) & (high == 0), 0, np.maximum(shift - headroom, 0))
    left, groups = np.argsort(shift, kind="stable"), []
    while left.size:
        first = left[0]
        base = 0 if not lowest[left].all() else int(min(shift[first], max(lowest[first], MAX_BASE)))
        fits = lowest[left] <= base
        groups.append((base, np.sort(left[fits])))
        left = left[~fits]
    return groups


def job(network: Network) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The network as a worker job: one Sparse per key of `Projection.process`, weights as COO arrays (int32)."""
    grouped: dict[tuple[str, str, str, int, str], list[Projection]] = {}
    for projection in network.projections:
        if projection.rows.size:
            grouped.setdefault(projection.process, []).append(projection)
    synapses, arrays = [], {}
    for i, ((source, target, port, exponent, sign), members) in enumerate(grouped.items()):
        synapses.append({"source": source, "target": target, "port": port, "weight_exp": exponent, "sign_mode": sign, "message_bits": MESSAGE_BITS[source]})
        parts: dict[str, Callable[[Projection], Indices]] = {"rows": lambda p: p.rows, "columns": lambda p: p.columns, "values": lambda p: p.weights}
        arrays.update({f"{i}.{key}": np.concatenate([part(p) for p in members]).astype(np.int32) for key, part in parts.items()})
    arrays["traced"] = np.concatenate([indices for indices, _ in network.traced.values()])
    return {"kind": "stock", "sizes": network.sizes, "synapses": synapses}, arrays


def channel_bytes(network: Network) -> int:
    """Shared memory of the channels between the Lava processes of a worker."""
    keys = {p.process for p in network.projections if p.rows.size}
    vectors = sum(network.sizes[source] + network.sizes[target] for source, target, *_ in keys) + network.sizes["graded"]
    return vectors * 4 * CHANNEL_SLOTS
