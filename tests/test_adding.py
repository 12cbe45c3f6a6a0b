"""docs/adding.md is true: each of its walk-throughs is done in a copy of the project, and no listed file can be
forgotten.

``tests/adding/KIND.patch`` holds the change of a walk-through, with a test of its own under ``tests/``. Files under
``tests/``
and ``docs/`` are not counted as places that a change touches; all others are, generated ones too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATCHES = Path(__file__).parent / "adding"
PAGE = ROOT / "docs" / "adding.md"
# Kind of change: the most files that it may touch.
MOST = {"operation": 12, "node": 3, "backend": 2, "block": 3, "fpga-family": 3}
TYPES = ("-m", "mypy", "nsllm_nir")
CHECKS = "tests/test_registries.py"  # what reports a forgotten file where the type checker cannot


def listed(kind: str) -> list[str]:
    """The files that the page names in the section of a kind: bullets that start with a path in backquotes."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = next((text for text in sections if f"`tests/adding/{kind}.patch`" in text), "")
    return re.findall(r"^- `([^`]+)`", section, re.MULTILINE)


def changed(kind: str) -> list[str]:
    """The files of a patch, those of tests and docs left out."""
    patch = (PATCHES / f"{kind}.patch").read_text(encoding="utf-8")
    files = re.findall(r"^\+\+\+ b/(\S+)", patch, re.MULTILINE)
    return [name for name in files if not name.startswith(("tests/", "docs/"))]


def new_tests(kind: str) -> list[str]:
    patch = (PATCHES / f"{kind}.patch").read_text(encoding="utf-8")
    return re.findall(r"^\+\+\+ b/(tests/test_\S+\.py)", patch, re.MULTILINE)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's tracked files, with the type checker's cache of an unchanged copy."""
    folder = tmp_path_factory.mktemp("adding") / "original"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0"):
        source = ROOT / name
        if name and (source.exists() or source.is_symlink()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
    assert run(folder, *TYPES).returncode == 0
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a copy, which imports the copy's package."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def checked(folder: Path, *tests: str) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    """What the type checker, and the tests of the registries and ``tests``, say of a copy; both run at once."""
    with ThreadPoolExecutor(2) as pool:
        types = pool.submit(run, folder, *TYPES)
        done = pool.submit(run, folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", CHECKS, *tests)
        return types.result(), done.result()


def copy_with(original: Path, folder: Path, kind: str, forgotten: str = "") -> Path:
    shutil.copytree(original, folder, symlinks=True)
    options = [f"--exclude={forgotten}"] if forgotten else []
    patch = str(PATCHES / f"{kind}.patch")
    subprocess.run(["git", "apply", "--whitespace=nowarn", *options, patch], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("kind", MOST)
def test_the_walk_through_works_and_touches_the_listed_files_only(kind: str, original: Path, tmp_path: Path) -> None:
    assert sorted(changed(kind)) == sorted(listed(kind))
    assert len(listed(kind)) <= MOST[kind]
    copy = copy_with(original, tmp_path / "copy", kind)
    assert new_tests(kind), "the patch brings no test"
    types, done = checked(copy, *new_tests(kind))
    assert types.returncode == 0, types.stdout
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in MOST for name in listed(kind)])
def test_a_forgotten_file_is_reported(kind: str, name: str, original: Path, tmp_path: Path) -> None:
    """By the type checker, or by a test of the registries, which knows nothing of the new thing."""
    copy = copy_with(original, tmp_path / "copy", kind, forgotten=name)
    types, done = checked(copy)
    reported = types.returncode == 1 or done.returncode == 1  # other statuses: they did not run
    assert reported, f"nobody reports that {name} was forgotten\n{types.stdout}\n{done.stdout}"
