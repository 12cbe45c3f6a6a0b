"""Bitstreams: the board design with the spike engine from synthesis to packing, with open tools only."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nsllm_nir.errors import BackendError, InputError
from nsllm_nir.files import write_bytes
from nsllm_nir.hw import boards, families, synthesis
from nsllm_nir.hw.boards import Board
from nsllm_nir.hw.family import Flow
from nsllm_nir.hw.floorplan import Floorplan, floorplan
from nsllm_nir.hw.serial_bus import BAUD
from nsllm_nir.hw.synthesis import Area, Placement
from nsllm_nir.hw.toolchain import rtl_files
from nsllm_nir.processes import Progress


@dataclass(frozen=True)
class Bitstream:
    """What was built.

    area: after synthesis; placement: after place and route; file: what the board is configured with; seconds: of the
    whole build.
    """

    area: Area
    placement: Placement
    file: Path
    seconds: float
    floorplan: Floorplan = field(repr=False)


def design_files() -> list[Path]:
    """The SystemVerilog files of a board design, packages first, without the PLL of a family."""
    return [*rtl_files(), *rtl_files(boards.FOLDER)]


def top(board: Board) -> str:
    """The top module of a board with pins."""
    return "board_top_sdram" if board.memory.kind == "sdram" else "board_top"


def parameters(board: Board) -> dict[str, int]:
    """The parameters of `top` that build clock, engine and image memory of a board.

    Raises:
        InputError: the board has no pins; its clock is not that of the oscillator, nor a multiple of it on a family
            with a PLL; or it has an SDRAM, and its family no registers for that.
    """
    flow = _flow(board)
    multiplier = round(board.clock_mhz / board.oscillator_mhz)
    if multiplier * board.oscillator_mhz != board.clock_mhz or (multiplier > 1 and flow.pll is None):
        multiplied = " and ".join(_families(lambda known: known.pll is not None))
        expected = f"that of the oscillator ({board.oscillator_mhz:g}), on {multiplied} a multiple of it"
        raise InputError(f"{board.name}: clock_mhz = {board.clock_mhz:g} must be {expected}")
    settings = {"MEMORY_WORDS": board.memory.words, "DIVISOR": round(board.clock_mhz * 1e6 / BAUD)}
    if multiplier > 1 and flow.pll:
        settings |= {"MULTIPLIER": multiplier, "VCO_DIVIDER": round(flow.pll.vco_mhz / board.clock_mhz)}
    if board.memory.kind == "sdram":
        if flow.sdram is None:
            known = " or ".join(_families(lambda known: known.sdram is not None))
            raise InputError(f"{board.name}: an SDRAM needs the family {known}, got {board.device.family}")
        settings |= {"CLOCK_MHZ": round(board.clock_mhz), **flow.sdram}
    return {**board.engine.parameters(), **settings}


def _flow(board: Board) -> Flow:
    """The tools of a board with pins."""
    flow = families.load(board.device.family).flow
    if not board.pins or flow is None:
        known = ", ".join(name for name in boards.names() if boards.load(name).pins)
        reason = f"the board {board.name} has no pins, there are only estimates for it"
        raise InputError(f"{reason}; boards with a bitstream: {known}")
    return flow


def _families(have: Callable[[Flow], bool]) -> list[str]:
    return [name for name in families.names() if (flow := families.load(name).flow) and have(flow)]


def tools(board: Board) -> tuple[str, ...]:
    """The tools that build the bitstream of a board; of one without pins that which estimates its engine."""
    return (synthesis.YOSYS, *families.load(board.device.family).packages) if board.pins else (synthesis.YOSYS,)


def build_bitstream(
    board: Board, folder: Path, seed: int = 1, timeout: float = 7200.0, progress: Progress | None = None
) -> Bitstream:
    """Build the bitstream of a board into ``folder``, which is made if needed.

    Nothing appears there before the bitstream is complete.

    seed: of the placement; timeout: seconds that one tool may take; progress: told what runs, and for how long.

    Raises:
        InputError: the board has no pins, so that there is only an estimate for it, or a clock that it cannot make.
        ToolNotFoundError: a tool is missing; nothing has run.
        BackendError: a tool failed or took too long, the design does not fit, or its highest clock is below that of the
            board.
    """
    return build_design(board, design_files(), parameters(board), folder, seed, timeout, progress)


def build_design(
    board: Board,
    sources: Sequence[Path],
    settings: dict[str, int],
    folder: Path,
    seed: int = 1,
    timeout: float = 7200.0,
    progress: Progress | None = None,
) -> Bitstream:
    """As `build_bitstream`, from other source files and parameters of a module `top` with the pins of the board.

    sources: packages first; the PLL of the family is added.
    """
    flow = _flow(board)
    for tool in tools(board):
        synthesis.find(tool)
    say = progress or (lambda text: None)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nsllm-nir-") as name:
        work = Path(name)
        (work / "constraints").write_text(flow.constraints(board), encoding="utf-8")
        say(f"synthesis of {board.name}")
        modules = [*sources, flow.pll.source] if flow.pll else sources
        flags = flow.synthesis_flags(board.device)
        family, module = board.device.family, top(board)
        area = synthesis.synthesise(family, module, work, settings, modules, flags, timeout, progress)
        there = board.device.capacity
        if over := [
            f"{getattr(area, kind):,} of {there[kind]:,} {kind}" for kind in there if getattr(area, kind) > there[kind]
        ]:
            needs = f"it takes {', '.join(over)}; build fewer lanes or smaller memories"
            raise BackendError(f"the design does not fit {board.device.part} on {board.name}: {needs}")
        say(f"place and route of {board.name}")
        options = flow.device_options(board.device)
        placement = synthesis.place(family, work, module, options, board.clock_mhz, seed, timeout, progress)
        if placement.fmax_mhz < board.clock_mhz:
            raise BackendError(
                f"the design reaches {placement.fmax_mhz:.1f} MHz on {board.name}, its clock is "
                f"{board.clock_mhz:g} MHz; try another seed or fewer lanes"
            )
        packer, *arguments = flow.pack(board.device)
        synthesis.run_tool(packer, arguments, work, timeout)
        plan = floorplan(family, (work / "placed").read_text(encoding="utf-8"))
        file = folder / f"{board.name}{flow.suffix}"
        write_bytes(file, (work / "bitstream").read_bytes())
    return Bitstream(area, placement, file, time.monotonic() - started, plan)
