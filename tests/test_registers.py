"""The one description of the host interface, and the files that follow from it."""

from __future__ import annotations

import dataclasses

import pytest

from nsllm_nir.hw import registers


def test_generated_files_are_up_to_date() -> None:
    for path, text in registers.generated().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} differs from hw/registers.py; run: python -m nsllm_nir.hw.registers"
        )


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
        path.name for path, text in registers.generated().items() if path.read_text(encoding="utf-8") != text
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
