"""What a user gives a model to read: text, token files, the held-out part of a corpus. Tokens are the bytes of UTF-8."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .corpus import PYDOC, corpus, split
from .errors import InputError
from .program import Program

BYTES = 256


def encode(text: str) -> NDArray[np.int64]:
    """Token ids of a byte-level model, the same as those of `text.byte_tokenizer`."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def decode(tokens: Iterable[int]) -> str:
    """Text of byte tokens; bytes that are not UTF-8 become the replacement character."""
    return bytes(int(token) for token in tokens).decode("utf-8", errors="replace")


def held_out(source: str, tokens: int) -> NDArray[np.int64]:
    """The first ``tokens`` whole-line tokens of the held-out tail of a corpus (a text file, or ``pydoc``).

    Raises:
        InputError: the tail is shorter.
    """
    tail = split(encode(corpus(source)))[1]
    newline = np.flatnonzero(tail == ord("\n"))
    tail = tail[newline[0] + 1 :] if newline.size and len(tail) - newline[0] > tokens else tail
    if len(tail) < tokens:
        raise InputError(f"the held-out tail of {source!r} has {len(tail)} tokens, {tokens} are asked for; give a longer text or a smaller --tokens")
    return tail[:tokens]


def read_tokens(path: Path) -> NDArray[Any]:
    """Token ids from a text file (separated by white space) or ``.npy``; a 2-D ``.npy`` holds spikes (steps, neurons).

    Raises:
        InputError: the file is missing, unreadable, or holds no integers.
    """
    try:
        array = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.array([int(word) for word in path.read_text().split()], np.int64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected token ids separated by white space, or an .npy file of integers") from error
    if not np.issubdtype(array.dtype, np.integer) or array.ndim not in (1, 2):
        raise InputError(f"{path}: expected integers of shape (tokens,) or (steps, neurons), found {array.dtype} of shape {array.shape}")
    return array


def random_spikes(program: Program, rate: float, steps: int, seed: int) -> NDArray[np.int64]:
    """Binary spikes (steps, neurons) of the given rate, the same for the same seed.

    Raises:
        InputError: a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise InputError(f"--random takes a spike rate in [0, 1], got {rate}")
    return (np.random.default_rng(seed).random((steps, program.inputs[0].size)) < rate).astype(np.int64)


def choose(
    program: Program, *, prompt: str | None, tokens_file: Path | None, text: str | None, tokens: int, random: float | None, seed: int
) -> NDArray[Any]:
    """The input that the options of a command name; without any, the held-out tail of the bundled corpus.

    Raises:
        InputError: more than one source, an empty one, or text for a model that does not read bytes.
    """
    if sum(option is not None for option in (prompt, tokens_file, text, random)) > 1:
        raise InputError("give only one of --prompt, --tokens-file, --text and --random")
    if tokens < 1:
        raise InputError(f"--tokens must be at least 1, got {tokens}")
    if tokens_file is not None:
        return read_tokens(tokens_file)
    if random is not None:
        return random_spikes(program, random, tokens, seed)
    check_byte_level(program)
    if prompt is not None:
        return encode(prompt)
    return held_out(PYDOC if text is None else text, tokens)


def check_byte_level(program: Program) -> None:
    """Refuse text for a model whose input neurons are not the 256 bytes; raises InputError."""
    sizes = [node.size for node in program.inputs]
    if sizes != [BYTES]:
        raise InputError(f"text needs a model with one input of {BYTES} neurons (bytes), this one has {sizes}; give --tokens-file")
