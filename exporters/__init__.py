"""Backends: how a `Program` is executed, and the registry that finds them (entry points).

A backend is any object with the attributes of `Backend`; other packages add theirs under the
entry-point group ``nsllm_nir.backends``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError
from nsllm_nir.program import Program
from nsllm_nir.program.trace import Trace

GROUP = "nsllm_nir.backends"


class Session(Protocol):
    """A run that stays open between tokens, as generation needs it."""

    def step(self, spikes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Advance one token: input spikes (neurons,) to the potentials of the program's only output (size,)."""
        ...

    def reset(self) -> None:
        """A silent start again: all states are 0, as after `Executable.open`."""
        ...


class Executable(Protocol):
    """A compiled program."""

    def run(self, inputs: NDArray[np.integer]) -> Trace:
        """Spikes (tokens, neurons) from a silent start, to the latency-aligned trace of `Program.traced`."""
        ...

    def open(self) -> AbstractContextManager[Session]:
        """Start a session; a backend that cannot step token by token raises BackendError saying why."""
        ...


class Backend(Protocol):
    """One way to execute programs."""

    name: str

    def version(self) -> str:
        """Version of the tool behind it.

        Raises:
            ToolNotFoundError: it cannot run here; the message holds the command that installs it.
        """
        ...

    def compile(self, program: Program) -> Executable:
        """Turn a program into an executable.

        Raises:
            LossyConversionError: the backend cannot hold an operation exactly (names it).
            ToolNotFoundError: as `version`.
        """
        ...


def names() -> list[str]:
    """Names of the registered backends, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load(name: str) -> Backend:
    """The backend registered under ``name``.

    Raises:
        BackendError: no such backend.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            found: Backend = entry.load()
            return found
    raise BackendError(f"no backend is named {name!r}; registered are {', '.join(names())}")
