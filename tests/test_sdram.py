"""The controller of the SDRAM on a model of the chip that checks every command.

The whole board with it: test_boards.py.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nsllm_nir.errors import InputError
from nsllm_nir.hw import bitstream, boards, estimate, toolchain

FOLDER = Path(__file__).parent / "sdram"
CONTROLLER = boards.FOLDER / "sdram_memory.sv"
ALL = 300_000  # cycles of the random part


def bench(controller: Path = CONTROLLER, *, clock_mhz: int = 75, beat_bits: int = 128) -> Path:
    """`sdram_bench` with this controller."""
    modules = [
        *(toolchain.RTL_SOURCES / name for name in ("ram.sv", "fifo.sv")),
        controller,
        boards.FOLDER / "sdram_pins.sv",
    ]
    modules += [FOLDER / f"{name}.sv" for name in ("sdram_model", "sdram_board", "sdram_bench")]
    parameters, flags = {"BEAT_BITS": beat_bits, "CLOCK_MHZ": clock_mhz}, ("-O0", f"-DBEAT_WORDS={beat_bits // 32}")
    return toolchain.build_simulation(
        "sdram_bench", "SdramBench", parameters, modules, [FOLDER / "sdram_bench.cpp"], flags
    )


def run(binary: Path, cycles: int = ALL) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(binary), str(cycles)], capture_output=True, text=True, timeout=120, check=False)


def test_the_controller_keeps_to_the_rules_of_the_chip_and_its_times_are_those_of_the_board() -> None:
    done = run(bench())
    assert done.returncode == 0, done.stdout + done.stderr
    open_row, closed_row, other_row, in_order, at_random = map(float, done.stdout.split())
    board = boards.load("ulx3s_sdram")
    assert open_row < closed_row < other_row == board.memory.latency
    assert in_order < 8.2 < board.beat_interval < at_random < 9.1


def test_another_clock_and_wider_beats() -> None:
    done = run(bench(clock_mhz=133, beat_bits=256))
    assert done.returncode == 0, done.stdout + done.stderr


MUTANTS = {
    "refreshes a hundredth too rare": ("CLOCK_MHZ * 125 / 16", "CLOCK_MHZ * 127 / 16", "refresh is late"),
    "row to column a cycle short": ("ROW_TO_COLUMN - 1", "ROW_TO_COLUMN - 2", "too soon after the row was opened"),
    "writes do not wait for reads": ("to_write && !reading", "to_write", "both sides drive the data"),
    "no room asked for": ("active && room != '0 && hit", "active && hit", "wrong data"),
    "reads survive a flush": ("if (flush) completes <= '0;\n        else completes", "completes", "wrong data"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_model_catches_a_wrong_controller(name: str, tmp_path: Path) -> None:
    old, new, message = MUTANTS[name]
    text = CONTROLLER.read_text()
    assert old in text
    (tmp_path / "sdram_memory.sv").write_text(text.replace(old, new))
    done = run(bench(tmp_path / "sdram_memory.sv"))
    assert done.returncode != 0 and message in done.stdout + done.stderr, done.stdout + done.stderr


def test_the_description_of_the_board() -> None:
    board = boards.load("ulx3s_sdram")
    faster = estimate.configured(board, clock_mhz=150.0)
    assert faster.memory.latency == board.memory.latency and faster.beat_interval == board.beat_interval
    with pytest.raises(InputError, match="ulx3s_sdram: an SDRAM needs the family ecp5, got nexus"):
        bitstream.parameters(replace(board, device=replace(board.device, family="nexus")))
