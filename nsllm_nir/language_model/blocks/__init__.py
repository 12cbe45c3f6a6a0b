"""The blocks of a layer as torch modules, one file each, named like the block in `NSLLMConfig.blocks`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nsllm_nir.language_model.blocks.base import ResidualBlock


def block_class(part: str) -> type[ResidualBlock[Any]]:
    """The module class of a block of `composites.registry.BLOCKS`: the name ``BLOCK`` in the file ``PART.py``."""
    found: type[ResidualBlock[Any]] = import_module(f"{__name__}.{part}").BLOCK
    return found
