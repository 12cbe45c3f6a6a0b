"""Make lava-nc 0.10.0 importable on Python >= 3.11, without changing a file of it."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from typing import Any

MODULE = "lava.magma.compiler.var_model"


def enable() -> None:
    """Import the one Lava module whose dataclass default Python >= 3.11 refuses (``ByteEncoder`` is unhashable)."""
    if sys.version_info < (3, 11) or MODULE in sys.modules:
        return
    original = dataclasses.dataclass

    def hashable(cls: Any = None, /, **options: Any) -> Any:
        def wrap(c: Any) -> Any:
            extra = {"unsafe_hash": True} if c.__name__ == "ByteEncoder" else {}
            return original(c, **{**options, **extra})

        return wrap if cls is None else wrap(cls)

    patched: Callable[..., Any] = hashable
    setattr(dataclasses, "dataclass", patched)  # noqa: B010 - a plain assignment does not type-check
    try:
        importlib.import_module(MODULE)
    finally:
        setattr(dataclasses, "dataclass", original)  # noqa: B010
