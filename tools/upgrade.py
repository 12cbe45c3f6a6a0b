"""Raise the tested versions to the newest that the ranges admit: install them, run the tests, write both down.

    python tools/upgrade.py        (or: make upgrade)

If the tests pass, ``nsllm_nir/constraints/tested.txt`` holds the new versions and CHANGELOG.md says what changed;
if they do not, both stay as they were.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from environment import CONSTRAINTS, ROOT, install, name_of, requirements

CHANGELOG = ROOT / "CHANGELOG.md"
NO_PART = ("pip", "nsllm-nir")


def pins(text: str) -> dict[str, str]:
    """Versions by package of a file of constraints, or of what ``pip list --format=freeze`` prints.

    A build's own mark (``2.13.0+cpu``) is left out: the constraint then holds for every build.
    """
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    found = (line.split("==") for line in lines if "==" in line)
    return {name_of(name): version.split("+")[0] for name, version in found if name_of(name) not in NO_PART}


def constraints(versions: dict[str, str], header: str) -> str:
    """Text of a file of constraints, its comment lines first."""
    return header + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def header_of(text: str) -> str:
    """The comment lines on top of a file of constraints."""
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))


def changes(old: dict[str, str], new: dict[str, str]) -> str:
    """What is different, as a line of the changelog; empty if nothing is."""
    parts = [
        f"{name} {old.get(name, '(new)')} → {new.get(name, '(gone)')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return f"- Versions that were tested: {', '.join(parts)}.\n" if parts else ""


def with_entry(changelog: str, entry: str) -> str:
    """The changelog with an entry at the end of its first section."""
    start = changelog.index("\n## ") + 1
    end = changelog.find("\n## ", start)
    end = len(changelog) if end < 0 else end
    return changelog[:end].rstrip("\n") + "\n" + entry + changelog[end:]


def main() -> None:
    """Exit status 0 if the tests pass, otherwise that of pytest."""
    path = CONSTRAINTS / "tested.txt"
    before = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        python = install(Path(folder), "newest", [extra for extra in requirements() if extra])
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
        ).stdout
        path.write_text(constraints(pins(listed), header_of(before)), encoding="utf-8")
        status = subprocess.run([python, "-m", "pytest"], cwd=ROOT, check=False).returncode
    if status:
        path.write_text(before, encoding="utf-8")
        sys.exit(status)
    entry = changes(pins(before), pins(listed))
    if entry:
        CHANGELOG.write_text(with_entry(CHANGELOG.read_text(encoding="utf-8"), entry), encoding="utf-8")
    print(entry or "nothing newer")


if __name__ == "__main__":
    main()
