"""The bitstream of each board, built with yosys, nextpnr and the packers from the Python package index.

    python benchmarks/boards.py            # every board with pins
    python benchmarks/boards.py ulx3s      # only this one

Writes the rows of these boards in benchmarks/boards.md and keeps the others; a build that fails is a row
with the reason.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from nsllm_nir.errors import BackendError
from nsllm_nir.hw import boards
from nsllm_nir.hw.bitstream import Bitstream, build_bitstream
from nsllm_nir.hw.boards import Board

SEED, TIMEOUT = 1, 4 * 3600.0
TABLE = Path(__file__).parent / "boards.md"
HEAD = ["board", "device", "lanes", "image, KiB", "LUT4", "carry", "FF", "block RAM", "LUT RAM", "DSP"]
HEAD += ["clock, MHz", "Fmax, MHz", "critical path", "seconds", "bytes"]


def row(board: Board, built: Bitstream) -> list[object]:
    """The cells of a built bitstream."""
    area, placement = built.area, built.placement
    cells = [area.lut, area.carry, area.ff, area.block_ram, area.lut_ram, area.dsp]
    path = (
        f"{placement.critical_ns:.1f} ns, {placement.routing_ns / placement.critical_ns:.0%} in wires"
        if placement.critical_ns
        else ""
    )
    return [
        *cells,
        f"{board.clock_mhz:g}",
        f"{placement.fmax_mhz:.1f}",
        path,
        f"{built.seconds:.0f}",
        built.file.stat().st_size,
    ]


def build(board: Board) -> str:
    """The row of a board; of a build that failed, the reason."""
    first = [board.title, board.device.part, board.engine.lanes, board.memory.words * 4 // 1024]
    with tempfile.TemporaryDirectory() as folder:
        try:
            rest = row(
                board,
                build_bitstream(
                    board, Path(folder), SEED, TIMEOUT, lambda text: print(f"  {text}", file=sys.stderr, flush=True)
                ),
            )
        except BackendError as error:
            rest = [str(error).replace("|", "/"), *[""] * (len(HEAD) - len(first) - 1)]
    return "| " + " | ".join(map(str, [*first, *rest])) + " |"


def main(names: list[str]) -> None:
    described = [board for board in map(boards.load, boards.names()) if board.pins]
    rows = {
        line[2:].split(" | ")[0]: line
        for line in TABLE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    }
    for board in map(boards.load, names or [board.name for board in described]):
        print(board.title, file=sys.stderr, flush=True)
        rows[board.title] = build(board)
        print(rows[board.title], flush=True)
    lines = [
        "# Boards: area and clock",
        "",
        (
            f"Synthesised (cells: after yosys; Fmax: after place and route by nextpnr, placement seed {SEED}) by "
            "`python benchmarks/boards.py`. The whole"
        ),
        (
            "design: engine, image memory, serial bridge. Fmax is that of the slowest path; a design slower than its "
            "clock gives no bitstream."
        ),
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---" * len(HEAD) + "|",
        *(rows[board.title] for board in described if board.title in rows),
    ]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
