"""Cycles and bytes of the SystemVerilog engine, modelled from the work of each op (docs/cost_model.md).

The structure follows docs/rtl_engine.md; the constants in ``unit_costs.json`` are fitted to clock-accurate simulations
by `python benchmarks/cost_model.py --calibrate`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nsllm_nir.hw.token_work import Work
from nsllm_nir.hw.toolchain import RtlSizes
from nsllm_nir.program import Program

UNIT_COSTS = Path(__file__).parent / "unit_costs.json"
SCANS = {
    "Linear": ("block", "row", "neuron"),
    "Conv2d": ("outside", "inside", "hit"),
}  # units of the numbers of `Pass.scan`
Units = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Setting:
    """A build and its memory. latency: cycles from a read to its first beat; interval: cycles per beat, at least 1."""

    sizes: RtlSizes
    latency: float = 20.0
    interval: float = 1.0

    def groups(self, neurons: float) -> int:
        """Rows of PORTS neurons."""
        return -int(-neurons // self.sizes.ports)

    def constant_beats(self, work: Work, neurons: int, first: int = 0) -> int:
        """Beats of the constants of so many neurons from ``first`` on."""
        words, last = self.sizes.beat_words, first + neurons - 1
        return work.words * (last // words - first // words + 1) + work.bytes * (
            last // (4 * words) - first // (4 * words) + 1
        )

    def row_beats(self, work: Work) -> int:
        """Beats of one weight row (of a Conv2d: of one tap)."""
        return -(-work.outputs * work.weight_bits // (2 * self.sizes.lanes))


@cache
def unit_costs() -> Units:
    """The fitted constants by kind of op, in clock cycles.

    ``queue``: depths of the response queues and the engine's part of a read.
    """
    content = json.loads(UNIT_COSTS.read_text(encoding="utf-8"))
    return {kind: dict(values) for kind, values in content["units"].items()}


def op_cycles(works: Sequence[Work], setting: Setting, units: Units) -> list[float]:
    """Clock cycles in which each op of one token is busy, in the order in which they run."""
    taken: list[float] = []
    for at, work in enumerate(works):
        taken.append(cycles(work, setting, units, lead(works[at - 1], taken[-1], setting, units) if at else 0.0))
    return taken


def lead(before: Work, took: float, setting: Setting, units: Units) -> float:
    """Clock cycles before an op starts from which its constants are requested.

    Those of the op ``before``, which ``took`` so many cycles, are then all asked for.
    """
    if before.kind == "Conv2d":
        return 0.0
    if before.kind == "Sum" and before.steps > 2:
        return 2.0 * setting.groups(before.size)
    own, queue = (
        setting.constant_beats(before, before.outputs if before.kind == "Linear" else before.size),
        units["queue"]["constant"],
    )
    lists = setting.latency if before.kind == "Sum" else 0.0
    return max(0.0, (took - lists) * min(1.0, queue / max(1, own)) - min(own, queue) * setting.interval)


def cycles(work: Work, setting: Setting, units: Units, lead: float = 0.0) -> float:
    """Clock cycles in which an op is busy in one token. lead: as the function of this name says."""
    unit = units[work.kind]
    groups = setting.groups(work.size)
    match work.kind:
        case "Linear" | "Conv2d":
            return _synapses(work, setting, units, lead)
        case "Input":
            return unit["fixed"] + groups + unit["event"] * work.steps
        case "Sum":
            lists = -(-int(work.steps) // setting.sizes.beat_words)
            passes = max(0.0, work.steps - 2)
            first = _job(work, setting, units, 0.0, groups * min(work.steps, 2.0))
            return first + lists * (setting.latency + unit["list"]) + passes * (2 * groups + unit["pass"])
        case "Count":
            return _job(
                work, setting, units, lead, unit["level"] * work.steps + groups * (unit["group"] + work.operands - 1)
            )
        case "Delay":
            moves = unit["move"] + groups if work.steps else 0.0
            return _job(work, setting, units, lead, groups * (unit["slot"] * work.steps + unit["group"])) + moves
        case "Lif":  # the channels of constants load one after the other
            loads = max(0, work.words - 1) * -(-work.size // setting.sizes.beat_words)
            return _job(work, setting, units, lead, groups * unit["group"] + loads * unit["load"])
        case _:
            return _job(work, setting, units, lead, groups * unit["group"])


def token_cycles(program: Program, works: Sequence[Work], units: Units, traced: bool = False) -> float:
    """Clock cycles of a token beside its ops: descriptors and the answer.

    If ``traced``, the answer holds every traced signal, not only the outputs.
    """
    words = sum(program.signals[name].size for name in (program.traced if traced else program.outputs))
    return answer_cycles(works, units, len(program.traced), words)


def answer_cycles(works: Sequence[Work], units: Units, ports: int, result_words: int) -> float:
    """As `token_cycles`, where the answer looks at ``ports`` signals and has ``result_words`` values."""
    unit = units["token"]
    delays = any(work.kind == "Delay" and work.steps for work in works)
    return unit["fixed"] + len(works) * (unit["op"] + unit["delays"] * delays) + unit["port"] * ports + result_words


def beats(work: Work, setting: Setting) -> float:
    """Beats that an op reads from memory in one token."""
    if work.kind == "Sum":
        return setting.constant_beats(work, work.size) + -(-int(work.steps) // setting.sizes.beat_words)
    if work.kind not in SCANS:
        return setting.constant_beats(work, work.size)
    weights = sum(part.events for part in work.passes) * setting.row_beats(work)
    if work.kind == "Linear":
        return weights + setting.constant_beats(work, work.outputs)
    lasts = [at + 1 == len(work.passes) or work.passes[at + 1].plane == 0 for at in range(len(work.passes))]
    constants, window = 0, 0
    for part, last in zip(work.passes, lasts, strict=True):
        if last:
            constants += _window_constants(
                work,
                setting,
                window % work.groups * work.outputs,
                setting.sizes.lanes if part.plane == 0 else work.outputs,
            )
            window += 1
    return weights + constants + 16 // setting.sizes.beat_words


def _window_constants(work: Work, setting: Setting, first: int, tile: int) -> int:
    """Beats of the constants of one window of a Conv2d: each tile asks anew, the last job of several planes once."""
    return sum(
        setting.constant_beats(work, min(tile, work.outputs - at), first + at) for at in range(0, work.outputs, tile)
    )


def _arrival(beats: float, setting: Setting, units: Units, depth: str) -> float:
    """Cycles from the first to the last of so many beats: as many are in flight as the response queue holds."""
    queue = units["queue"]
    before, rest = divmod(max(0.0, beats - 1), queue[depth])
    return before * max(setting.latency + queue["round"], queue[depth] * setting.interval) + rest * setting.interval


def _streamed(items: float, beats: float, ahead: float, setting: Setting, units: Units) -> float:
    """Cycles of so many items, whose constants come in so many beats, from the first of them on.

    ahead: beats that are there by then.
    """
    return max(items, _arrival(beats - ahead, setting, units, "constant") + items / beats) if beats else items


def _ahead(beats: float, cycles: float, setting: Setting, units: Units) -> float:
    """Of so many beats of constants, those asked for in so many cycles without anyone taking them."""
    return min(beats, units["queue"]["constant"], cycles / setting.interval)


def _job(work: Work, setting: Setting, units: Units, lead: float, items: float) -> float:
    """An elementwise job: its items (cycles), or its constants where they are slower."""
    unit, fetched = units[work.kind], setting.constant_beats(work, work.size)
    first = max(0.0, unit["fetch"] + setting.latency - lead) if fetched else 0.0
    return unit["fixed"] + first + _streamed(items, fetched, _ahead(fetched, lead, setting, units), setting, units)


def _synapses(work: Work, setting: Setting, units: Units, lead: float) -> float:
    """The passes of a Linear or Conv2d, tile by tile.

    The fetch requests the beats of a tile as the scan finds its events; the lanes add them as they come; the tile is
    copied when the one before is drained; its job takes the constants and writes the outputs, while the fetch and the
    lanes go on. The constants of a Linear are asked for before its weights.
    """
    unit, queue, lanes = units["synapses"] | units[work.kind], units["queue"], setting.sizes.lanes
    conv = work.kind == "Conv2d"
    tile_beats, row_beats = work.weight_bits // 2, setting.row_beats(work)
    clock = unit["start"]
    if conv:
        clock += (
            setting.latency
            + 16 / setting.sizes.beat_words * setting.interval
            + work.steps
            + _scan(work.count, "Linear", units["Linear"])
        )
    early = 0.0 if conv else _ahead(setting.constant_beats(work, work.outputs), lead + unit["scan"], setting, units)
    competing = -early  # beats of constants asked for among the weights, once it is above 0
    total, popped = 0.0, [(0.0, 0.0, 1.0)]  # requests so far; when the lanes had added the last of each tile
    copied = taken = free = ready = drained = (
        clock  # a tile is in the shadow; its job has started; the vector unit is idle
    )
    group_first = 0  # of a Conv2d: the first output of the group
    for at, part in enumerate(work.passes):
        last = at + 1 == len(work.passes) or work.passes[at + 1].plane == 0
        if part.plane > 1:  # the jobs of plane 1 and up hold the read port of the signals
            clock = max(clock, free)
        scanned = clock + unit["scan"]  # the first event
        found = scanned + _scan(part.scan, work.kind, unit)
        asked = clock
        left_beats, left = row_beats, work.outputs
        first, streamed = True, 0
        repeats = part.digits / part.events if part.events else 1.0
        flow = max(
            setting.interval, (setting.latency + queue["round"]) / queue["weight"], repeats
        )  # cycles per beat once the queue is full
        while left > 0:
            outputs, parts = min(left, lanes), min(tile_beats, left_beats)
            requests, additions = part.events * parts, part.digits * parts
            at_once = min(requests, queue["weight"])
            begun = max(
                copied, (scanned if first else asked) + setting.latency + unit["read"]
            )  # the lanes have the first beat
            full = max(asked + max(1.0, at_once * setting.interval), _popped(popped, total + at_once - queue["weight"]))
            asked = max(full + (requests - at_once) * flow, found if first else 0.0, taken)
            if requests > at_once:
                asked = max(asked, begun + (requests - at_once) * repeats)
            summed = (
                max(begun + additions, asked + setting.latency + unit["read"] + repeats - 1)
                if requests
                else max(copied, asked) + 2
            )
            single = last and part.plane == 0
            constants = setting.constant_beats(work, outputs, group_first + work.outputs - left) if single else 0
            total += requests
            popped.append((total, summed, repeats))
            if first:  # one job for all tiles of a pass
                taken = max(asked + unit["post"], free)
                free = ready = taken + (setting.latency + unit["fetch"] if constants and conv else unit["ready"])
                streamed = 0
            streamed += constants
            copied = max(summed + unit["copy"], drained)
            items = (outputs if conv else setting.groups(outputs)) * (1 if part.plane == 0 else 2)
            drained = free = max(
                max(copied, free) + items, ready + _streamed(items, streamed, min(early, streamed), setting, units)
            )
            clock, asked = asked, asked + max(0.0, min(constants, competing + constants)) * setting.interval
            competing += constants
            left, left_beats, first = left - outputs, left_beats - parts, False
        clock = max(clock, found) + unit["pass"]
        free += unit["finish"]
        if last and part.plane:
            constants = setting.constant_beats(work, work.outputs, group_first)
            items = work.outputs if conv else setting.groups(work.outputs)
            waits = setting.latency if constants and conv else 0.0
            there = 0.0 if conv else _ahead(constants, clock, setting, units)
            free = max(clock, free) + unit["final"] + waits + _streamed(items, constants, there, setting, units)
            clock = free
        if last:
            group_first = (group_first + work.outputs) % (work.groups * work.outputs)
    return max(clock, free) + unit["end"]


def _popped(tiles: Sequence[tuple[float, float, float]], beat: float) -> float:
    """When the lanes take this beat. tiles: beats up to the end of each, when that was, cycles per beat."""
    at = len(tiles) - 1
    while at > 0 and tiles[at - 1][0] >= beat:
        at -= 1
    last, when, repeats = tiles[at]
    return when - max(0.0, last - beat) * repeats


def _scan(numbers: tuple[float, float, float], kind: str, unit: dict[str, float]) -> float:
    return sum(unit[name] * number for name, number in zip(SCANS[kind], numbers, strict=True))
