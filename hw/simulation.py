"""Clients of the simulations: a process, driven over its pipes, that can neither hang its caller nor outlive it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError
from nsllm_nir.hw.registers import LOAD, RESET, STEP, STEP_TRACED
from nsllm_nir.processes import Child

REQUEST_TIMEOUT = 120.0  # seconds for one request; the largest is the loading of an image

Words = NDArray[np.uint32]


class PipeProcess:
    """A running simulation. Use it as a context manager: leaving it ends the process.

    A request is command, word count, payload; the reply is status, word count, payload. With a status other than 0 the
    payload is a text. command: program and arguments; timeout: seconds without progress, as `processes` counts them.
    """

    def __init__(self, command: list[str], timeout: float = REQUEST_TIMEOUT) -> None:
        self.process = Child("the spike engine", command, timeout, piped=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process at once; calling it again does nothing."""
        self.process.end()

    def request(self, command: int, payload: Words) -> Words:
        """Send a request and return the words of its reply.

        Raises:
            BackendError: the process refuses, crashed or hung.
        """
        self.process.write(np.array([command, payload.size], "<u4").tobytes())
        self.process.write(payload.view(np.uint8).data)
        status, count = np.frombuffer(self.process.read(8), "<u4").tolist()
        answer = self.process.read(4 * count)
        if status:
            raise self.refusal(status, answer.decode(errors="replace").rstrip())
        return np.frombuffer(answer, "<u4")

    def refusal(self, status: int, text: str) -> BackendError:
        """The error of a reply with a status other than 0."""
        return BackendError(f"the spike engine refuses (status {status & 0xFF}): {text}")


class EngineProcess(PipeProcess):
    """The C simulation. binary: what `toolchain.build_engine` returned."""

    def __init__(self, binary: Path, timeout: float = REQUEST_TIMEOUT) -> None:
        super().__init__([str(binary)], timeout)

    def load(self, image: bytes) -> None:
        """Check and load a program image; the states are cleared.

        Raises:
            BackendError: the engine refuses the image (status and reason), crashed or hung.
        """
        if len(image) % 4:
            raise BackendError(f"the image has {len(image)} bytes, which is not a whole number of 32-bit words")
        self.request(LOAD, np.frombuffer(image, "<u4"))

    def reset(self) -> None:
        """Back to the silent start.

        Raises:
            BackendError: no image is loaded, or the engine crashed or hung.
        """
        self.request(RESET, np.zeros(0, "<u4"))

    def run(self, spikes: NDArray[np.integer], traced: bool) -> Words:
        """Advance one or more tokens with one request. spikes: counts (tokens, neurons).

        Returns the ports of every token (of the outputs only unless ``traced``), then two 64-bit counters per op,
        summed.

        Raises:
            BackendError: the engine refuses an event (names the step, counted since `load`), crashed or hung.
        """
        steps, neurons = np.nonzero(spikes != 0)  # much faster on bool
        each = np.bincount(steps, minlength=len(spikes))
        # A packet is its number of events, then the pairs: pair e of all stands behind e pairs and steps[e] + 1
        # numbers.
        packets = np.empty(len(spikes) + 2 * len(steps), "<u4")
        packets[np.arange(len(spikes)) + 2 * (np.cumsum(each) - each)] = each
        at = steps + 1 + 2 * np.arange(len(steps))
        packets[at], packets[at + 1] = neurons, spikes[steps, neurons]
        return self.request(STEP_TRACED if traced else STEP, np.concatenate([np.array([len(spikes)], "<u4"), packets]))
