"""Versions: every range has two ends, both are written down where they are tested, and `doctor` names the others."""

from __future__ import annotations

import importlib
import re
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
environment: ModuleType = importlib.import_module("environment")
upgrade: ModuleType = importlib.import_module("upgrade")

LINES = [line for lines in environment.requirements().values() for line in lines]
ENDS = {name: (ROOT / "nsllm_nir" / "constraints" / f"{name}.txt").read_text() for name in ("tested", "oldest")}


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


@pytest.mark.parametrize("line", LINES)
def test_both_ends_of_a_range_are_those_that_are_tested(line: str) -> None:
    found = re.fullmatch(r"([a-z0-9-]+)(?:==([^,<>=]+)|>=([^,<>=]+),<([^,<>=]+))", line)
    assert found, f"{line}: write NAME==VERSION or NAME>=LOWEST,<NEXT"
    name, exact, lowest, behind = found.groups()
    tested, oldest = (upgrade.pins(ENDS[end])[name] for end in ("tested", "oldest"))
    if exact:
        assert tested == oldest == exact
    else:
        assert oldest == lowest and number(lowest) <= number(tested) < number(behind)


def test_the_constraints_hold_everything() -> None:
    """Also what the packages bring along, and no build of one index only."""
    for text in ENDS.values():
        versions = upgrade.pins(text)
        assert len(versions) > len(LINES) and {"lava-nc", "norse", "torch", "tqdm"} <= set(versions)
        assert "+" not in text.replace("CPU", "") and re.fullmatch(r"(#.*\n)+([a-z0-9-]+==\S+\n)+", text)
    for requirement in environment.ALONE.values():
        assert f"\n{requirement}\n" in ENDS["tested"] and f"\n{requirement}\n" in ENDS["oldest"]


def test_doctor_names_versions_that_were_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = importlib.import_module("nsllm_nir.cli.doctor")
    versions = {"transformers": "5.11.0", "torch": "2.13.0+cu130", "numpy": upgrade.pins(ENDS["oldest"])["numpy"]}

    def version(package: str) -> str:
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(doctor.metadata, "version", version)
    check = doctor.check_versions()
    oldest, tested = (upgrade.pins(ENDS[end])["transformers"] for end in ("oldest", "tested"))
    assert not check.runs and check.version == "1 untested"
    assert f"transformers 5.11.0 ({oldest} or {tested}); install with: pip install --constraint " in check.message
    assert "torch" not in check.message.split(";")[0] and "numpy" not in check.message
    versions["transformers"] = tested
    assert doctor.check_versions().runs and not doctor.check_versions().message


def test_an_upgrade_writes_what_changed() -> None:
    old = upgrade.pins("# about\nTorch_X==1.0+cpu\nrich==14.0  # why\ngone==1\npip==23\n")
    new = {"torch-x": "1.0", "rich": "15.0", "more": "2"}
    assert old == {"torch-x": "1.0", "rich": "14.0", "gone": "1"}
    entry = upgrade.changes(old, new)
    assert entry == "- Versions that were tested: gone 1 → (gone), more (new) → 2, rich 14.0 → 15.0.\n"
    assert upgrade.changes(old, old) == ""
    log = "# Changes\n\n## 0.2\n\n- Added: this.\n\n## 0.1\n\n- Added: that.\n"
    assert upgrade.with_entry(log, entry) == log.replace("this.\n", f"this.\n{entry}")
    assert upgrade.with_entry("# Changes\n\n## 0.1\n\n- A.\n", entry) == f"# Changes\n\n## 0.1\n\n- A.\n{entry}"
    text = upgrade.constraints(new, upgrade.header_of("# about\na==1\n"))
    assert text == "# about\nmore==2\nrich==15.0\ntorch-x==1.0\n"


@pytest.mark.parametrize("passes", [True, False])
def test_an_upgrade_is_kept_if_the_tests_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passes: bool) -> None:
    (tmp_path / "tested.txt").write_text("# about\nrich==14.0\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 0.1\n\n- A.\n")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n[ $2 = pip ] && echo rich==15.0 && exit 0\nexit {0 if passes else 1}\n")
    python.chmod(0o755)
    monkeypatch.setattr(upgrade, "CONSTRAINTS", tmp_path)
    monkeypatch.setattr(upgrade, "CHANGELOG", tmp_path / "CHANGELOG.md")
    asked: list[tuple[str, list[str]]] = []

    def install(_: Path, end: str, extras: list[str]) -> Path:
        asked.append((end, extras))
        return python

    monkeypatch.setattr(upgrade, "install", install)
    if passes:
        upgrade.main()
    else:
        with pytest.raises(SystemExit, match="1"):
            upgrade.main()
    assert asked[0][0] == "newest" and {"torch", "gowin", "datasets", "test"} <= set(asked[0][1])
    version, entry = ("15.0", "rich 14.0 → 15.0") if passes else ("14.0", "- A.")
    assert (tmp_path / "tested.txt").read_text() == f"# about\nrich=={version}\n"
    assert (tmp_path / "CHANGELOG.md").read_text().rstrip(".\n").endswith(entry.rstrip("."))
