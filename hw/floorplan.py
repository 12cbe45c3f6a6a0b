"""Where a placed design lies on its device, read from what nextpnr wrote for the packer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

KINDS = ("LUT", "FF", "block RAM")
Floorplan = dict[str, list[tuple[int, int, int]]]  # {kind of site: (column, row, how many of them are used)}


def floorplan(family: str, placed: str) -> Floorplan:
    """The used look-up tables, flip-flops and block RAMs. placed: the text configuration (ECP5), JSON netlist (Gowin) or
    features (Nexus) that nextpnr wrote."""
    found = {"ecp5": _ecp5, "gowin": _gowin, "nexus": _nexus}[family]
    counts = Counter(found(placed))
    return {
        kind: sorted((column, row, n) for (name, column, row), n in counts.items() if name == kind) for kind in KINDS
    }


def _ecp5(text: str) -> Iterator[tuple[str, int, int]]:
    """Settings stand under the tile, or the group of tiles of a block RAM, that they belong to."""
    settings = {"LUT": r"word: SLICE.\.K.\.INIT", "FF": r"enum: SLICE.\.REG.\.REGSET", "block RAM": r"enum: EBR.\.MODE"}
    column = row = 0
    for line in text.splitlines():
        if tile := re.match(r"\.tile(?:_group)? (?:\w*_)?R(\d+)C(\d+):", line):
            row, column = map(int, tile.groups())
        for kind, pattern in settings.items():
            if re.match(pattern, line):
                yield kind, column, row


def _gowin(text: str) -> Iterator[tuple[str, int, int]]:
    sites = {"LUT": "LUT", "ALU": "LUT", "DFF": "FF", "BSRAM": "block RAM"}  # an ALU is a look-up table with a carry
    for module in json.loads(text)["modules"].values():
        for cell in module["cells"].values():
            place = re.fullmatch(r"X(\d+)Y(\d+)/([A-Z]+)\d*", cell["attributes"].get("NEXTPNR_BEL", ""))
            if place and place[3] in sites:
                yield sites[place[3]], int(place[1]), int(place[2])


def _nexus(text: str) -> Iterator[tuple[str, int, int]]:
    """One feature per line; its name begins with its tile."""
    settings = {
        "LUT": r"__PLC\.SLICE.\.K.\.INIT",
        "FF": r"__PLC\.SLICE.\.REG.\.USED\.YES",
        "block RAM": r"_EBR\d\.EBR\d\.MODE\.",
    }
    for line in text.splitlines():
        if tile := re.match(r"R(\d+)C(\d+)(?=_)", line):
            for kind, pattern in settings.items():
                if re.match(pattern, line[tile.end() :]):
                    yield kind, int(tile[2]), int(tile[1])
