"""Tokens per second, memory and energy of a program on a board, from the cost model (docs/cost_model.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError
from nsllm_nir.hw import cost_model
from nsllm_nir.hw.boards import Board, Power, require_fit
from nsllm_nir.hw.cost_model import Setting
from nsllm_nir.hw.image_check import read_header
from nsllm_nir.hw.instruction_set import OF_NAME
from nsllm_nir.hw.token_work import Work, profile
from nsllm_nir.program import Program

QUEUE_ENTRY_BYTES = 5  # address of a row, sign and digit


@dataclass(frozen=True)
class OpCost:
    """One op, mean per token. events: source neurons and digits that are not 0; share: of the cycles of the token."""

    name: str
    kind: str
    cycles: float
    share: float
    events: float
    bytes: float


@dataclass(frozen=True)
class Estimate:
    """Mean per token; all figures are modelled.

    cycles, bytes: of the whole token; memory: {memory of the build: (words used, words there)}; image_bytes: in
    external memory; work: {unit of work: number}; dynamic: joules by unit of work, None without figures of the board;
    static: joules, likewise.
    """

    board: str
    lanes: int
    ports: int
    clock_mhz: float
    latency: float
    interval: float
    tokens: int
    cycles: float
    ops: tuple[OpCost, ...]
    bytes: float
    memory: dict[str, tuple[int, int]]
    image_bytes: int
    work: dict[str, float]
    dynamic: dict[str, float] | None
    static: float | None

    @property
    def tokens_per_second(self) -> float:
        """Mean rate at the clock of the board."""
        return self.clock_mhz * 1e6 / self.cycles

    def to_json(self) -> dict[str, Any]:
        """Plain data, each figure under the tier it has; measured below it is what the model rests on."""
        return {
            **{name: value for name, value in vars(self).items() if name != "ops"},
            "tokens_per_second": self.tokens_per_second,
            "joules_per_token": None
            if self.dynamic is None
            else {"dynamic": sum(self.dynamic.values()), "static": self.static},
            "tier": "modelled",
            "rests_on": {
                "cycles": "simulated (unit costs of clock-accurate runs; benchmarks/cost_model.md) and spikes of "
                "the integer reference",
                "bytes": "simulated (equal to the beats of the simulation in every fit case)",
                "clock": "of the board file; no place and route of this device",
                "energy": "published figures per unit of work; no power was measured",
            },
            "ops": [vars(op) for op in self.ops],
        }


def configured(
    board: Board, lanes: int | None = None, ports: int | None = None, clock_mhz: float | None = None
) -> Board:
    """The board with another build or clock.

    The latency of an external memory stays the same in seconds, the other memories keep the pace of the engine.

    Raises:
        InputError: lanes or ports that the engine cannot have, or a clock that is not positive.
    """
    sizes = replace(board.engine, lanes=lanes or board.engine.lanes, ports=ports or board.engine.ports)
    if clock_mhz is None:
        return replace(board, engine=sizes)
    if not clock_mhz > 0:
        raise InputError(f"the clock must be a frequency in MHz above 0, got {clock_mhz:g}")
    memory, faster = board.memory, clock_mhz / board.clock_mhz
    changed = (
        {"latency": round(memory.latency * faster)}
        if memory.kind == "external"
        else {"bandwidth": memory.bandwidth * faster}
    )
    return replace(board, engine=sizes, clock_mhz=clock_mhz, memory=replace(memory, **changed))


def setting(board: Board) -> Setting:
    """The build of a board, and its memory in clock cycles: a beat takes one, or as long as the bandwidth asks for."""
    return Setting(board.engine, board.memory.latency, board.beat_interval)


def estimate(program: Program, image: bytes, spikes: NDArray[np.integer], board: Board) -> Estimate:
    """Cost of a program on a board, mean over the tokens of a run on the reference.

    Args:
        program: with one input.
        image: the program, packed for the beats of the board (`exporters.image.pack_image`).
        spikes: (tokens, neurons), from the silent state.
        board: build, clock and memory.

    Raises:
        LossyConversionError: the program does not fit the build or the memory of the board (names the limit).
        InputError: the spikes do not fit the program.
    """
    require_fit(image, board)
    where, units = setting(board), cost_model.unit_costs()
    tokens = profile(program, spikes, board.engine.ports)
    taken = np.mean([cost_model.op_cycles(works, where, units) for works in tokens], axis=0).tolist()
    total = sum(taken) + float(np.mean([cost_model.token_cycles(program, works, units) for works in tokens]))
    ops = tuple(
        _op(works, where, cycles, total) for works, cycles in zip(zip(*tokens, strict=True), taken, strict=True)
    )
    header = read_header(image)
    memory = {
        "signal memory": (header.signal_words, board.engine.signal_words),
        "state memory": (header.state_words, board.engine.state_words),
        "descriptors": (header.ops, board.engine.descriptors),
    }
    work = mean_work(tokens, where)
    seconds = total / (board.clock_mhz * 1e6)
    static = None if board.power is None or board.power.static is None else board.power.static * seconds
    return Estimate(
        board.name, board.engine.lanes, board.engine.ports, board.clock_mhz, where.latency, where.interval, len(tokens),
        total, ops,
        sum(op.bytes for op in ops), memory, len(image), work, joules(work, board.power), static,
    )  # fmt: skip


def _op(works: Sequence[Work], where: Setting, cycles: float, total: float) -> OpCost:
    events = float(np.mean([sum(part.events for part in work.passes) for work in works]))
    read = 4 * where.sizes.beat_words * float(np.mean([cost_model.beats(work, where) for work in works]))
    return OpCost(works[0].name, works[0].kind, cycles, cycles / total, events, read)


def mean_work(tokens: Sequence[Sequence[Work]], where: Setting) -> dict[str, float]:
    """Units of work per token, by the names of `boards.Power`: additions, bytes of the memories."""
    sums = np.mean(
        [
            [sum(column) for column in zip(*(_units_of_work(work, where) for work in works), strict=True)]
            for works in tokens
        ],
        axis=0,
    )
    return dict(zip(("addition", "memory_byte", "on_chip_byte"), sums.tolist(), strict=True))


def joules(work: dict[str, float], power: Power | None) -> dict[str, float] | None:
    """Dynamic energy by unit of work; None without figures.

    Raises:
        InputError: the board has no figure for a unit of work.
    """
    if power is None:
        return None
    if missing := sorted(set(work) - set(power.picojoules)):
        raise InputError(f"the board gives no picojoules for {missing[0]!r}")
    return {name: number * power.picojoules[name] * 1e-12 for name, number in work.items()}


def _units_of_work(work: Work, where: Setting) -> tuple[float, float, float]:
    """Additions of values, bytes read from external memory, bytes read from and written to memories on chip.

    Both passes of a byte through a response queue count; registers, the clock and control do not.
    """
    sizes, n = where.sizes, work.size
    value = sizes.potential_bits / 8
    beats = cost_model.beats(work, where)
    fetched = 4 * sizes.beat_words * beats
    additions = 0.0
    match work.kind:
        case "Input":
            words = n + work.steps
        case "Linear" | "Conv2d":
            return _synaptic_work(work, where, fetched, value)
        case "Sum":
            additions, words = n * work.steps, n * (2 * work.steps - 1 if work.steps > 1 else 2)
        case "Count":
            additions, words = work.steps * sizes.ports, n * (work.operands + 1)
        case "Delay":
            words = n * (2 + work.steps + 2 * bool(work.steps))
        case _:  # reads its signals, writes one, reads and writes its states
            instruction = OF_NAME[work.kind]
            additions, words = float(instruction.additions * n), float(n * (work.operands + 1 + 2 * instruction.states))
    return additions, fetched, words * value + 2 * fetched


def _synaptic_work(work: Work, where: Setting, fetched: float, value: float) -> tuple[float, float, float]:
    tiles = -(-work.outputs // where.sizes.lanes)
    events, digits = (sum(getattr(part, name) for part in work.passes) for name in ("events", "digits"))
    planes = sum(2 if part.plane else 1 for part in work.passes) + 2 * sum(
        part.plane == 1 for part in work.passes
    )  # a later plane reads what it adds to
    scanned = sum(part.scan[1] * (where.sizes.ports if work.kind == "Linear" else 1) for part in work.passes)
    queue = events * (1 + tiles) * QUEUE_ENTRY_BYTES
    return (
        digits * work.outputs + work.outputs * len(work.passes),
        fetched,
        (scanned + planes * work.outputs) * value + queue + 2 * fetched,
    )
