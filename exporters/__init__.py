"""Backends: how a `Program` is executed, and the registry that finds them (entry points).

A backend is any object with the attributes of `Backend`; other packages add theirs under the
entry-point group ``nsllm_nir.backends``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

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


@dataclass(frozen=True)
class About:
    """What a backend says of itself, in the words of a table.

    Attributes:
        runs: what runs.
        holds: which programs it holds.
        needs: what has to be installed.
        generates: it steps token by token (`Executable.open`).
        slow: it is left out where a demonstration generates text.
        models_only: it holds only language models, read from a file that `to_nir` wrote.
    """

    runs: str
    holds: str
    needs: str
    generates: bool
    slow: bool = False
    models_only: bool = False


class Backend(Protocol):
    """One way to execute programs."""

    @property
    def name(self) -> str:
        """What it is registered as."""
        ...

    @property
    def about(self) -> About:
        """What it is."""
        ...

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


@runtime_checkable
class Buildable(Protocol):
    """A backend that has something built before it runs."""

    def tiny(self) -> Backend:
        """The same backend with what is built fastest and still holds a tiny program."""
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


def table(backends: Iterable[Backend]) -> str:
    """What backends say of themselves, as a table in Markdown."""
    lines = ["| name | what runs | holds | generates | needs |", "|---|---|---|---|---|"]
    for backend in backends:
        about = backend.about
        generates = "yes" if about.generates else "no"
        lines.append(f"| `{backend.name}` | {about.runs} | {about.holds} | {generates} | {about.needs} |")
    return "\n".join(lines)
