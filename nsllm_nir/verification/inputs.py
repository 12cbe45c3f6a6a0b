"""What a graph reads: text, token ids, spikes from a file, random spikes. Tokens of text are the bytes of UTF-8.

Errors name the fields of `InputOptions` in backquotes; the command line writes the options of its own in their place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError
from nsllm_nir.graph import DT
from nsllm_nir.graph.spike_files import read_array, read_spikes
from nsllm_nir.language_model.corpus import PYDOC, corpus, split
from nsllm_nir.program import Input, Program

BYTES = 256
DETAILS = {
    "tokens": "text",
    "sample": "input",
    "steps": "random",
    "seed": "random",
}  # option: the source that it belongs to


@dataclass(frozen=True)
class InputOptions:
    """What a graph is to read; None: not given.

    One source, prompt (text), tokens_file, text (corpus), input (file of spikes) or random (rate), and what belongs to
    one of them: tokens (of text), sample (of input), steps and seed (of random).

    Raises:
        InputError: more than one source, an option that belongs to another source, or tokens or steps below 1.
    """

    prompt: str | None = None
    tokens_file: Path | None = None
    text: str | None = None
    input: Path | None = None
    random: float | None = None
    tokens: int | None = None
    sample: int | None = None
    steps: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        given = [
            name for name in ("prompt", "tokens_file", "text", "input", "random") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise InputError(
                "give only one of `prompt`, `tokens_file`, `text`, `input` and `random`, got "
                f"{' and '.join(map('`{}`'.format, given))}"
            )
        source = given[0] if given else "text"
        for detail, owner in DETAILS.items():
            if getattr(self, detail) is not None and owner != source:
                raise InputError(f"`{detail}` belongs to `{owner}`; give both or neither")
        for name in ("tokens", "steps"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise InputError(f"`{name}` must be at least 1, got {count}")


def encode(text: str) -> NDArray[np.int64]:
    """Token ids (bytes,) of a byte-level model, the same as those of `byte_tokenizer`."""
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
        raise InputError(
            f"the held-out tail of {source!r} has {len(tail)} tokens, {tokens} are asked for; give a longer text or a "
            "smaller `tokens`"
        )
    return tail[:tokens]


def read_tokens(path: Path) -> NDArray[Any]:
    """Token ids (tokens,) from a text file (separated by white space) or a one-dimensional ``.npy``.

    Raises:
        InputError: the file is missing, unreadable, or holds no integers.
    """
    try:
        array = (
            read_array(path)
            if path.suffix == ".npy"
            else np.array([int(word) for word in path.read_text().split()], np.int64)
        )
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: {error}; expected token ids separated by white space, or an .npy file of integers"
        ) from error
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InputError(
            f"{path}: expected integer token ids (tokens,), found {array.dtype} of shape {array.shape}; `input` reads "
            "spikes (steps, neurons)"
        )
    return array


def random_spikes(program: Program, rate: float, steps: int, seed: int) -> NDArray[np.int64]:
    """Binary spikes (steps, neurons) of the given rate, the same for the same seed.

    Raises:
        InputError: a rate outside [0, 1], a negative seed, or a program with several inputs.
    """
    if not 0 <= rate <= 1:
        raise InputError(f"`random` takes a spike rate in [0, 1], got {rate}")
    if seed < 0:
        raise InputError(f"`seed` must not be negative, got {seed}")
    return (np.random.default_rng(seed).random((steps, only_input(program).size)) < rate).astype(np.int64)


def choose(program: Program, options: InputOptions, *, length: int = 64, dt: float = DT) -> NDArray[Any]:
    """The input that the options of a command name: token ids (tokens,), or spikes (steps, neurons).

    Args:
        program: what reads it.
        options: without a source, the held-out tail of the bundled corpus.
        length: tokens or random steps where the options give no number.
        dt: seconds per step that the graph was written for; data files with a time step must have the same.

    Raises:
        InputError: contradicting options, an unreadable or empty source, text for a model that does not read bytes.
    """
    if options.input is not None:
        return read_spikes(options.input, only_input(program), sample=options.sample, dt=dt)
    if options.random is not None:
        return random_spikes(program, options.random, options.steps or length, options.seed or 0)
    if options.tokens_file is not None:
        return read_tokens(options.tokens_file)
    if options.prompt is None and options.text is None and not reads_bytes(program):
        raise InputError("no input is given, and the graph reads no text; give `input` (a file of spikes) or `random`")
    check_byte_level(program)
    if options.prompt is not None:
        return encode(options.prompt)
    return held_out(PYDOC if options.text is None else options.text, options.tokens or length)


def only_input(program: Program) -> Input:
    """The Input of a program; raises InputError where there are several."""
    if len(program.inputs) != 1:
        names = ", ".join(repr(node.name) for node in program.inputs)
        raise InputError(
            f"the graph has {len(program.inputs)} inputs ({names}), one is expected; join them into one Input"
        )
    return program.inputs[0]


def reads_bytes(program: Program) -> bool:
    """True for one input of as many neurons as there are bytes."""
    return [node.size for node in program.inputs] == [BYTES]


def check_byte_level(program: Program) -> None:
    """Refuse text for a model whose input neurons are not the 256 bytes; raises InputError."""
    if not reads_bytes(program):
        sizes = [node.size for node in program.inputs]
        raise InputError(
            f"text needs a model with one input of {BYTES} neurons (bytes), this one has {sizes}; other graphs read "
            "`input`, `random` or `tokens_file`"
        )
