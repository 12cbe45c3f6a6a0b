"""Texts to train and evaluate on, and their held-out part (no torch needed)."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError

PYDOC = "pydoc"
HELD_OUT = 0.1


def corpus(source: str) -> str:
    """The text of ``source``: ``pydoc`` (the language reference bundled with CPython) or a text file.

    Raises:
        InputError: the file is missing, empty or not UTF-8.
    """
    if source == PYDOC:
        return "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    path = Path(source)
    if not path.is_file():
        raise InputError(
            f"text {source!r}: no such file; give a UTF-8 text file, or {PYDOC!r} for the bundled language reference"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"text {source!r} is not UTF-8 (byte {error.start}); convert it first") from error
    if not text:
        raise InputError(f"text {source!r} is empty")
    return text


def split(tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training part and the held-out tail (`HELD_OUT` of the tokens)."""
    cut = int(len(tokens) * (1 - HELD_OUT))
    return tokens[:cut], tokens[cut:]
