"""Greedy continuation of a text on a backend, token by token, from integer logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsllm_nir import exporters
from nsllm_nir.program import Program
from nsllm_nir.verification.inputs import decode
from nsllm_nir.verification.verify import token_spikes


@dataclass(frozen=True)
class Generation:
    """What one engine wrote after the prompt; seconds of wall time, start-up included."""

    engine: str
    tokens: tuple[int, ...]
    seconds: float
    error: str = ""

    @property
    def text(self) -> str:
        """The tokens as text."""
        return decode(self.tokens)


def continuation(backend: str, program: Program, prompt: NDArray[np.int64], new_tokens: int) -> list[int]:
    """Greedy continuation of ``prompt``, token ids (tokens,), on a backend: ``new_tokens`` ids.

    Raises:
        BackendError: the backend cannot step token by token, or failed.
        InputError: an empty prompt, or ids outside the vocabulary.
    """
    with exporters.load(backend).compile(program).open() as session:
        return generate(session, program, prompt.tolist(), new_tokens)


def generate(session: exporters.Session, program: Program, prompt: list[int], new_tokens: int) -> list[int]:
    """Greedy continuation from integer logits (ties: the lowest id); sampling happens outside the graph.

    Raises:
        InputError: an empty prompt, or ids outside the vocabulary.
    """
    tokens = token_spikes(program, prompt)
    out: list[int] = []
    logits = np.zeros(0, np.int64)
    for spikes in tokens:
        logits = session.step(spikes)
    while len(out) < new_tokens:
        out.append(int(np.argmax(logits)))
        if len(out) < new_tokens:
            logits = session.step(token_spikes(program, [out[-1]])[0])
    return out
