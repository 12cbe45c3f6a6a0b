"""The shipped language model on the ULX3S with its image in SDRAM: the board design, simulated clock by clock.

    python benchmarks/sdram.py          # writes benchmarks/sdram.md
    python benchmarks/sdram.py --line   # only shows it

The whole board design is simulated, and a model of the chip. The image lies in the SDRAM at power-up, because sending
it takes most of the simulation; everything else goes over the serial line. With --line the image does, too. Ends with
an error where a logit differs from the reference. Needs Verilator and g++.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nsllm_nir
from nsllm_nir.exporters import rtl
from nsllm_nir.exporters.spike_engine import EngineSession
from nsllm_nir.fpga_build.build import pack, surroundings
from nsllm_nir.hw import bitstream, boards, toolchain
from nsllm_nir.hw.boards import Board
from nsllm_nir.hw.driver import Driver
from nsllm_nir.hw.serial_bus import SerialBus
from nsllm_nir.hw.simulation import PipeProcess
from nsllm_nir.program import Program, reference

TEXT = b"def f(x):"
DIVISOR = 8  # clock cycles per bit of the simulated line: 75 on the board
TESTS = Path(__file__).parents[1] / "tests"


class Line:
    """The serial port of the simulated board (tests/board_line.cpp)."""

    def __init__(self, process: PipeProcess) -> None:
        self.process = process

    def read(self, size: int) -> bytes:
        return self.process.request(2, np.array([size, 400], "<u4")).astype(np.uint8).tobytes()

    def write(self, data: bytes) -> None:
        self.process.request(1, np.frombuffer(data, np.uint8).astype("<u4"))

    def close(self) -> None:
        pass


class FilledBus(SerialBus):
    """A board whose memory holds the image already."""

    def write_memory(self, address: int, words: NDArray[np.uint32]) -> None:
        pass


def controller(board: Board) -> list[str]:
    """Cycles of reads by the controller alone, as `tests/sdram/sdram_bench.cpp` prints them."""
    modules = [
        *(toolchain.RTL_SOURCES / name for name in ("ram.sv", "fifo.sv")),
        *(boards.FOLDER / f"sdram_{name}.sv" for name in ("memory", "pins")),
    ]
    modules += [TESTS / "sdram" / f"sdram_{name}.sv" for name in ("model", "board", "bench")]
    parameters, flags = (
        {"BEAT_BITS": 2 * board.engine.lanes, "CLOCK_MHZ": round(board.clock_mhz)},
        ("-O1", f"-DBEAT_WORDS={board.engine.beat_words}"),
    )
    binary = toolchain.build_simulation(
        "sdram_bench", "SdramBench", parameters, modules, [TESTS / "sdram" / "sdram_bench.cpp"], flags
    )
    return subprocess.run(
        [str(binary), "1000000"], capture_output=True, text=True, timeout=600, check=True
    ).stdout.split()


def whole_board(program: Program, board: Board, inputs: NDArray[np.integer], line: bool) -> list[int]:
    """Cycles of each token; every logit is that of the reference. line: the image, too, goes over the serial line."""
    modules = [
        *bitstream.design_files(),
        *(TESTS / "sdram" / f"sdram_{name}.sv" for name in ("model", "board", "line")),
    ]
    parameters = {**board.engine.parameters(), "DIVISOR": DIVISOR, "MEMORY_WORDS": board.memory.words}
    binary = toolchain.build_simulation(
        "sdram_line", "Board", parameters, modules, [TESTS / "board_line.cpp"], ("-O2",)
    )
    image, want = pack(program, board), reference.run(program, inputs).values[program.outputs[0]]
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "image.hex"
        words.write_text("\n".join(f"{word:04x}" for word in np.frombuffer(image, "<u2")), encoding="utf-8")
        at_power_up, kind = ([], SerialBus) if line else ([f"+image={words}"], FilledBus)
        with (
            PipeProcess([str(binary), str(100 * DIVISOR), "1", *at_power_up]) as process,
            kind(Line(process), timeout=600.0) as bus,
        ):
            driver = Driver(bus)
            driver.load(image)
            session, cycles = EngineSession(program, driver), list[int]()
            for row, logits in zip(inputs, want, strict=True):
                if not np.array_equal(session.step(row), logits):
                    raise SystemExit(f"token {len(cycles)} differs from the reference")
                cycles.append(driver.cycles)
    return cycles


def main(line: bool) -> None:
    board = boards.load("ulx3s_sdram")
    with tempfile.TemporaryDirectory() as folder:
        model = nsllm_nir.NSLLMForCausalLM.from_pretrained(
            Path(nsllm_nir.__file__).parent / "language_model" / "checkpoint"
        ).eval()
        nsllm_nir.to_nir(model, Path(folder) / "model.nir")
        program = nsllm_nir.lower(Path(folder) / "model.nir")
    inputs = reference.one_hot(np.frombuffer(TEXT, np.uint8).astype(np.int64), 256)
    simple = rtl.executable(program, board.engine, around := surroundings(board))
    simple.run(inputs, traced=False)
    assert simple.cycles is not None
    open_row, closed_row, other_row, in_order, at_random = controller(board)
    cycles = whole_board(program, board, inputs, line)
    rows = [
        f"| {chr(token)!r} | {beats:,} | {whole:,} | {whole / beats:.2f} | {modelled:,} |"
        for token, beats, whole, modelled in zip(
            TEXT, simple.cycles.beats.tolist(), cycles, simple.cycles.total.tolist(), strict=True
        )
    ]
    rate, mean, mean_modelled = 1e6 * board.clock_mhz, float(np.mean(cycles)), float(simple.cycles.total.mean())
    lines = [
        "# The image in SDRAM",
        "",
        (
            f"Written by `python benchmarks/sdram.py` ({toolchain.find_verilator().version}). Simulated; the tokens "
            "per second are modelled from them."
        ),
        "",
        (
            f"The controller alone at {board.clock_mhz:g} MHz, cycles from a request to its first beat of "
            f"{4 * board.engine.beat_words} bytes: {open_row} of an"
        ),
        (
            f"open row, {closed_row} of a closed one, {other_row} where another row of the bank is open. Cycles per "
            f"beat: {in_order} in order, {at_random} in"
        ),
        "bursts of 4 beats at random places. Refresh is in both.",
        "",
        (
            f"The shipped language model ({len(pack(program, board)):,} bytes) on the whole board design, with the "
            "controller and a model of the chip. Every logit"
        ),
        (
            "equals that of the reference. The last column is `nsllm-nir build` and its memory, which is no SDRAM but "
            "has two numbers: a latency of"
        ),
        f"{around.latency} cycles and {around.interval} cycles per beat.",
        "",
        "| token | beats | cycles with the SDRAM | cycles per beat | cycles with the memory of `build` |",
        "|---|---|---|---|---|",
        *rows,
        f"| mean | | {mean:,.0f} | | {mean_modelled:,.0f} |",
        "",
        (
            f"At {board.clock_mhz:g} MHz that is {rate / mean:.1f} tokens per second with the SDRAM, "
            f"{rate / mean_modelled:.1f} with the memory of `build`."
        ),
    ]
    if not line:
        (Path(__file__).parent / "sdram.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:] == ["--line"])
