"""What the flow has to know of an FPGA family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsllm_nir.hw.boards import Board, Device

LUT = r"LUT[1-6]|\$lut"


@dataclass(frozen=True)
class Pll:
    """The multiplied clock.

    source: a SystemVerilog file with a module ``board_pll`` as `hw/boards/board_clock.sv` uses it; lowest_mhz,
    highest_mhz: of its oscillator; vco_mhz: what that is set to.
    """

    source: Path
    lowest_mhz: float
    highest_mhz: float
    vco_mhz: float


@dataclass(frozen=True)
class Flow:
    """The open tools from netlist to bitstream; they work on files of these names: constraints, placed, bitstream.

    Attributes:
        place: the nextpnr of the family.
        place_options: that it always gets.
        device_options: that it gets for a device, with the files ``constraints`` and ``placed``.
        pack: command that makes ``bitstream`` of ``placed``; its first word is the tool.
        suffix: of the bitstream.
        constraints: the constraint file of a board.
        sites: kind ("LUT", "FF", "block RAM"), column and row of each used site, from the content of ``placed``.
        synthesis_flags: on top of the command of the family.
        pll: None where the clock is always the oscillator's.
        sdram: parameters of ``board_top_sdram`` that select the registers at the pins; None where there are none.
    """

    place: str
    place_options: tuple[str, ...]
    device_options: Callable[[Device], list[str]]
    pack: Callable[[Device], list[str]]
    suffix: str
    constraints: Callable[[Board], str]
    sites: Callable[[str], Iterator[tuple[str, int, int]]]
    synthesis_flags: Callable[[Device], list[str]] = lambda device: []
    pll: Pll | None = None
    sdram: dict[str, int] | None = None


@dataclass(frozen=True)
class Family:
    """An FPGA family.

    Attributes:
        synthesis: command of yosys.
        cells: {field of `synthesis.Area`: pattern of the names of its cells}.
        packages: {tool of the flow: PyPI package that brings it}, without yosys.
        flow: None for a family that is only estimated.
        repair: changes the netlist between synthesis and placement.
        no_board: why no board of the family is described, "" where one is.
    """

    synthesis: str
    cells: dict[str, str]
    packages: dict[str, str] = field(default_factory=dict)
    flow: Flow | None = None
    repair: Callable[[Path], None] | None = None
    no_board: str = ""
