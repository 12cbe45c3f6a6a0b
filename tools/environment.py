"""A virtual environment with the versions of one end of the tested ranges.

    python tools/environment.py FOLDER {tested,oldest,newest} EXTRA...

``tested`` and ``oldest`` install the versions of ``nsllm_nir/constraints``, ``newest`` the newest that the ranges of
``pyproject.toml`` admit on the day. torch goes first and alone, so that nothing else chooses its build; lava-nc, whose
metadata refuses Python 3.11, and norse, whose metadata asks for torchvision, go last and without their dependencies.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "nsllm_nir" / "constraints"
ENDS = ("tested", "oldest", "newest")
ALONE = {"lava": "lava-nc==0.10.0", "test": "norse==1.1.0"}  # by the extra that they belong to


def name_of(requirement: str) -> str:
    """Name of the package of a requirement or constraint, as indexes spell it (``Jinja2>=3`` is ``jinja2``)."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def requirements(project: Path = ROOT / "pyproject.toml") -> dict[str, list[str]]:
    """Requirements of ``pyproject.toml`` by extra; those of the package itself under ``""``."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    return {"": table["dependencies"], **table["optional-dependencies"]}


def install(folder: Path, end: str, extras: list[str]) -> Path:
    """Make the environment, the package in it editable; returns its Python.

    Raises:
        CalledProcessError: something cannot be installed.
    """
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    limits = [] if end == "newest" else ["--constraint", str(CONSTRAINTS / f"{end}.txt")]
    wanted = requirements()
    torch = [line for extra in extras for line in wanted[extra] if name_of(line) == "torch"]
    if torch:
        pip(python, *limits, *torch)
    pip(python, *limits, "--editable", f"{ROOT}[{','.join(extras)}]")
    for extra in extras:
        if extra in ALONE:
            pip(python, "--no-deps", "--ignore-requires-python", ALONE[extra])
    return python


def pip(python: Path, *arguments: str) -> None:
    """Install something into an environment."""
    subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)


def main() -> None:
    """The command line."""
    if len(sys.argv) < 4 or sys.argv[2] not in ENDS or not set(sys.argv[3:]) <= set(requirements()):
        sys.exit(__doc__)
    install(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])


if __name__ == "__main__":
    main()
