"""The descriptions of the host interface and of the instruction set, and the files that follow from them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from nsllm_nir.hw import generated_files, instruction_set, registers, toolchain
from nsllm_nir.hw.instruction_set import Kind


@pytest.mark.parametrize(
    ("table", "index", "change", "files"),
    [
        ("REGISTERS", 4, {"offset": 0x14}, {"registers.sv", "image_format.md"}),
        ("COMMANDS", 2, {"code": 9}, {"registers.sv", "registers.hpp", "image_format.md"}),
        ("STATUSES", 5, {"code": 77}, {"registers.sv", "registers.hpp", "image_format.md"}),
    ],
)
def test_a_changed_description_changes_the_files(
    monkeypatch: pytest.MonkeyPatch, table: str, index: int, change: dict[str, int], files: set[str]
) -> None:
    rows = list(getattr(registers, table))
    rows[index] = dataclasses.replace(rows[index], **change)
    monkeypatch.setattr(registers, table, tuple(rows))
    assert {
        path.name for path, text in generated_files.generated().items() if path.read_text(encoding="utf-8") != text
    } == files


def test_numbers_are_distinct_and_registers_aligned() -> None:
    offsets = [r.offset for r in registers.REGISTERS]
    assert len({*offsets}) == len(offsets) and all(offset % 4 == 0 for offset in offsets)
    for table in (registers.COMMANDS, registers.STATUSES):
        assert len({row.code for row in table}) == len(table) == len({row.name for row in table})


def test_status_texts() -> None:
    assert registers.status_text(8) == "SIGNALS_TOO_SMALL: the program needs more signal memory than this build has"
    assert registers.status_text(12 | 3 << 8) == "BAD_DESCRIPTOR: op descriptor 3: it is invalid"
    assert registers.status_text(200) == "unknown status 200"


@pytest.mark.parametrize(
    ("kind", "change", "files"),
    [
        (Kind.GATE, {"signals": ("source", "second")}, set()),  # the order in which they are written, not read
        (Kind.GATE, {"signals": ("source",)}, {"instruction_set.sv", "instruction_set.hpp"}),
        (Kind.INTEGRATE, {"states": 2}, {"instruction_set.hpp"}),
        (Kind.LIF, {"job": "FIRE"}, {"instruction_set.sv"}),
        (Kind.DELAY, {"constants": ()}, {"instruction_set.sv", "instruction_set.hpp"}),
    ],
)
def test_a_changed_instruction_changes_the_files(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, change: dict[str, object], files: set[str]
) -> None:
    rows = [
        dataclasses.replace(row, **change) if row.kind == kind else row  # type: ignore[arg-type]
        for row in instruction_set.INSTRUCTIONS
    ]
    monkeypatch.setattr(instruction_set, "INSTRUCTIONS", tuple(rows))
    monkeypatch.setattr(instruction_set, "JOBS", (*(row.job for row in rows if row.job), "ADVANCE"))
    assert {
        path.name for path, text in generated_files.generated().items() if path.read_text(encoding="utf-8") != text
    } == files


# Numbers of the image that only the generated files hold: magic, decays, thresholds, limits of a LIF.
COPIES = re.compile(r"(?i)494c534e|\b4096U?\b|\b0?x?'?h?7fffff\b|\b131071\b|<< 17\b|\b8388607\b|KIND_\w+ = ")


@pytest.mark.parametrize("folder", [toolchain.SOURCES, toolchain.RTL_SOURCES], ids=["hls", "rtl"])
def test_the_engines_hold_no_copies_of_these_numbers(folder: Path) -> None:
    found = {}
    for path in sorted(folder.iterdir()):
        lines = path.read_text(encoding="utf-8").splitlines()
        code = [line.split("//")[0] for line in lines if not line.startswith("#define NSLLM_")]  # sizes of a build
        found[path.name] = [line for line in code if COPIES.search(line)]
    assert {name for name, lines in found.items() if lines} == {
        f"instruction_set{'.hpp' if folder == toolchain.SOURCES else '.sv'}"
    }
