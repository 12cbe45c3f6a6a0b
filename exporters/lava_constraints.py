"""Loihi 2 constraint report of the stock lowering: one row per node and role, with neurons and incoming synapses.

Weight, threshold and message limits are Loihi's as Lava documents them. Cores are an estimate from
public budgets; the real mapper is proprietary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nsllm_nir.errors import LossyConversionError
from nsllm_nir.exporters.lava_lif import RANGES
from nsllm_nir.exporters.lava_network import (
    MESSAGE_BITS,
    MODELS,
    WEIGHT_BITS,
    WEIGHT_RANGES,
    Network,
    Population,
    Projection,
)
from nsllm_nir.exporters.lava_stock import LIF_ROUNDING, WEIGHT_EXPONENTS, lower
from nsllm_nir.program import Op, Program

STATE_BITS = 24
CORE_NEURONS = 8192
CORE_SYNAPSE_BITS = 128 * 1024 * 8
LOIHI2_CORES = 120  # usable of 128


@dataclass(frozen=True)
class Constraint:
    """The populations of one node and role on Loihi 2.

    node: node of the program ("" for the constant lanes); role, process: as `lava_network.Population`, or "synapses"
    of a node whose synapses end at the neuron that reads it, with the Lava Process class; weights are as stored
    (mixed-sign weights doubled, with the exponent one less); state: worst case of the neuron's input sum; threshold:
    ``|v| > threshold`` or ``v > threshold`` sends (the largest of the row); registers: {name: (lowest, highest, lowest
    and highest that Loihi holds)} of a LIF; delay: tokens that a `Delay` re-reads, in steps; lag: Lava steps after
    the token's entry, of the last copy (None where a loop has no place in the pipeline); cores: share of a core,
    estimated; status: "ok" or "error" with its reason.
    """

    node: str
    role: str
    process: str
    neurons: int
    synapses: int
    weight_low: int
    weight_high: int
    weight_bits: int
    sign_mode: str
    weight_exponents: tuple[int, ...]
    state_low: int
    state_high: int
    threshold: int
    registers: dict[str, tuple[int, int, int, int]]
    delay: int
    message_bits: int
    lag: int | None
    cores: float
    status: str
    reason: str


def constraints(program: Program) -> list[Constraint]:
    """The report for ``program``, in program order; nothing is executed and Lava is not needed."""
    return report(lower(program))


def report(network: Network) -> list[Constraint]:
    """`constraints` of a program that is already lowered."""
    incoming: dict[tuple[str, str], list[Projection]] = {}
    for projection in network.projections:
        role = projection.target.role if projection.node == projection.target.node else "synapses"
        incoming.setdefault((projection.node, role), []).append(projection)
    groups: dict[tuple[str, str], list[Population]] = {}  # the copies of a node make one row
    for population in network.populations:
        groups.setdefault((population.node, population.role), []).append(population)
    rows = [_row(members, incoming.get(key, []), network) for key, members in groups.items()]
    neurons = {p.node: p for p in network.populations if p.role in ("lif", "units")}
    for name, neuron in network.inlined.items():
        signal = network.program.signals[name]
        part = dataclasses.replace(
            neurons[neuron],
            node=name,
            role="synapses",
            size=0,
            low=int(signal.low.min()),
            high=int(signal.high.max()),
            registers={},
            refused="",
        )
        rows.append(_row([part], incoming.get((name, "synapses"), []), network))
    delays = [_delay_row(op, network) for op in network.program.ops if op.name in network.delays]
    order = {op.name: i for i, op in enumerate(network.program.ops)}
    return sorted(rows + delays, key=lambda r: order.get(r.node, -1))


def check(network: Network) -> None:
    """Refuse a network that breaks a limit.

    Raises:
        LossyConversionError: names every offending node and its limit.
    """
    errors = [f"{row.node!r} ({row.process}): {row.reason}" for row in report(network) if row.status != "ok"]
    if errors:
        raise LossyConversionError(
            "stock Loihi 2 processes cannot hold this program exactly; node " + "; node ".join(errors)
        )


def as_rows(rows: Iterable[Constraint]) -> list[dict[str, Any]]:
    """Plain data, ready for a table or `json.dump`."""
    return [{**dataclasses.asdict(row), "weight_exponents": list(row.weight_exponents)} for row in rows]


def estimated_cores(rows: Iterable[Constraint]) -> int:
    """Neuro cores for the whole network (estimate), of `LOIHI2_CORES` on a chip."""
    return math.ceil(sum(row.cores for row in rows))


def _row(members: list[Population], incoming: list[Projection], network: Network) -> Constraint:
    p, neurons = members[-1], sum(member.size for member in members)
    weights = [q.weights for q in incoming if q.weights.size]
    low = min((int(w.min()) for w in weights), default=0)
    high = max((int(w.max()) for w in weights), default=0)
    synapses = sum(int(w.size) for w in weights)
    exponents = tuple(sorted({q.weight_exp for q in incoming}))
    loop = network.refused.get(p.node, "") if p.role == "value" else ""
    reason = loop or _reason(p, incoming)
    registers = {
        name: (int(values.min()), int(values.max()), *RANGES[name])
        for name, values in p.registers.items()
        if values.size
    }
    return Constraint(
        node=p.node,
        role=p.role,
        process=MODELS[p.process],
        neurons=neurons,
        synapses=synapses,
        weight_low=low,
        weight_high=high,
        weight_bits=WEIGHT_BITS,
        sign_mode="+".join(sorted({q.sign_mode for q in incoming})),
        weight_exponents=exponents,
        state_low=p.low,
        state_high=p.high,
        threshold=registers["vth"][1] if "vth" in registers else 0,
        registers=registers,
        delay=0,
        message_bits=MESSAGE_BITS[p.process],
        lag=None if loop else p.lag,
        cores=round(max(neurons / CORE_NEURONS, synapses * WEIGHT_BITS / CORE_SYNAPSE_BITS), 4),
        status="error" if reason else "ok",
        reason=reason,
    )


def _reason(p: Population, incoming: list[Projection]) -> str:
    if p.refused:
        return p.refused
    limit = 1 << (STATE_BITS - 1)
    # The sum, rounded down to a multiple of 64, must stay above -limit: there a LIF current wraps around.
    if p.role == "units" and (p.low <= LIF_ROUNDING - limit or p.high >= limit):
        worst = f"[{p.low - LIF_ROUNDING}, {p.high - LIF_ROUNDING}]"
        return (
            f"the comparison reaches {worst}, a LIF state holds {STATE_BITS} bits; use fewer weight bits, "
            "fewer levels or a smaller step"
        )
    if p.low < -limit or p.high >= limit:
        return (
            f"the worst case [{p.low}, {p.high}] does not fit a {STATE_BITS}-bit state; use fewer weight bits, fewer "
            "levels or a smaller shift"
        )
    for q in incoming:
        if q.weight_exp not in WEIGHT_EXPONENTS:
            return (
                f"the weight exponent {q.weight_exp} is outside [{WEIGHT_EXPONENTS[0]}, {WEIGHT_EXPONENTS[-1]}]; use "
                "smaller shifts or fraction bits"
            )
        limits = WEIGHT_RANGES[q.sign_mode]
        if q.weights.size and (q.weights.min() < limits[0] or q.weights.max() > limits[1]):
            return (
                f"synaptic weights in [{q.weights.min()}, {q.weights.max()}] are outside {list(limits)}; "
                "use fewer levels or smaller constants"
            )
    return ""


def _delay_row(op: Op, network: Network) -> Constraint:
    signal = network.program.signals[op.name]
    return Constraint(
        node=op.name,
        role="delay",
        process=MODELS["graded"],
        neurons=0,
        synapses=0,
        weight_low=0,
        weight_high=0,
        weight_bits=WEIGHT_BITS,
        sign_mode="",
        weight_exponents=(),
        state_low=int(signal.low.min()),
        state_high=int(signal.high.max()),
        threshold=0,
        registers={},
        delay=network.delays[op.name],
        message_bits=MESSAGE_BITS["graded"],
        lag=network.lags[op.name],
        cores=0.0,
        status="ok",
        reason="",
    )
