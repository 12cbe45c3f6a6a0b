"""FPGA families: a module of this folder each, whose ``family`` is a `Family`. A new family is a new module."""

from __future__ import annotations

import importlib
import pkgutil

from nsllm_nir.errors import InputError
from nsllm_nir.hw.family import Family


def names() -> tuple[str, ...]:
    """The families that are described, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Family:
    """The family of this name.

    Raises:
        InputError: there is none.
    """
    if name not in names():
        raise InputError(f"there is no FPGA family {name!r}; known are {', '.join(names())}")
    found: Family = importlib.import_module(f"{__name__}.{name}").family
    return found
