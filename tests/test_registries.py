"""What no type checker sees: every table knows every operation, node, backend and family."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from nsllm_nir import exporters
from nsllm_nir.hw import boards, families
from nsllm_nir.hw.synthesis import Area

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# --- backends -----------

# {name: "module:object"}; of this folder, whatever is installed
REGISTERED: dict[str, str] = PROJECT["entry-points"][exporters.GROUP]


def registered(name: str) -> exporters.Backend:
    module, _, attribute = REGISTERED[name].partition(":")
    found: exporters.Backend = getattr(importlib.import_module(module), attribute)
    return found


def defined() -> Iterator[str]:
    """Every object of a module of ``exporters`` that says what backend it is."""
    for path in (ROOT / "exporters").glob("*.py"):
        if path.stem != "__init__":
            module = importlib.import_module(f"nsllm_nir.exporters.{path.stem}")
            yield from (
                f"{module.__name__}:{name}"
                for name, value in vars(module).items()
                if not isinstance(value, type) and isinstance(getattr(value, "about", None), exporters.About)
            )


def test_every_backend_is_registered_and_every_registered_backend_is_there() -> None:
    assert set(defined()) == set(REGISTERED.values())
    assert {registered(name).name: name for name in REGISTERED} == {name: name for name in REGISTERED}


@pytest.mark.parametrize("name", REGISTERED)
def test_every_backend_says_what_it_is(name: str) -> None:
    about = registered(name).about
    assert about.runs and about.holds and about.needs and "|" not in about.runs + about.holds + about.needs
    assert not hasattr(registered(name), "tiny") or isinstance(registered(name), exporters.Buildable)


# --- FPGA families -----------


def packages_of_extras() -> set[str]:
    """Names of the packages that the optional dependencies pin."""
    pinned: list[Any] = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    return {line.partition("==")[0] for line in pinned}


def test_every_board_is_of_a_known_family_and_every_family_has_a_board() -> None:
    used = {boards.load(name).device.family for name in boards.names()}
    assert len(families.names()) >= 6
    for name in families.names():
        assert (name in used) != bool(families.load(name).no_board), (
            f"describe a board of the family {name} in hw/boards, or say in its `no_board` why there is none"
        )


@pytest.mark.parametrize("name", families.names())
def test_every_family_is_complete(name: str) -> None:
    family = families.load(name)
    assert set(family.cells) == {field.name for field in fields(Area)} - {"cells"}
    assert set(family.packages.values()) <= packages_of_extras(), "add the packages of its tools to pyproject.toml"
    if family.flow:
        assert family.flow.place in family.packages
    assert bool(family.flow) == bool(family.packages)


def test_every_tool_and_every_pll_is_of_a_family() -> None:
    known = [families.load(name) for name in families.names()]
    used = {package for family in known for package in family.packages.values()}
    assert {package for package in packages_of_extras() if package.startswith("yowasp-nextpnr")} <= used
    plls = {family.flow.pll.source for family in known if family.flow and family.flow.pll}
    assert plls == set(Path(families.__file__).parent.glob("*.sv")) and all(path.exists() for path in plls)
