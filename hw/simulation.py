"""Clients of the simulations: a process, driven over its pipes, that can neither hang its caller nor outlive it."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError
from nsllm_nir.hw.registers import LOAD, RESET, STEP, STEP_TRACED

REQUEST_TIMEOUT = 120.0  # seconds for one request; the largest is the loading of an image

Words = NDArray[np.uint32]


class PipeProcess:
    """A running simulation. Use it as a context manager: leaving it ends the process.

    A request is command, word count, payload; the reply is status, word count, payload. With a status other than 0 the
    payload is a text. command: program and arguments; timeout: seconds that one request may take.
    """

    def __init__(self, command: list[str], timeout: float = REQUEST_TIMEOUT) -> None:
        self.timeout = timeout
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        assert self.process.stdin and self.process.stdout
        self._stdin, self._stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process at once; calling it again does nothing."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def request(self, command: int, payload: Words) -> Words:
        """Send a request and return the words of its reply.

        Raises:
            BackendError: the process refuses, crashed or hung.
        """
        deadline = time.monotonic() + self.timeout
        self._write(np.array([command, payload.size], "<u4").tobytes(), deadline)
        self._write(payload.view(np.uint8).data, deadline)
        status, count = np.frombuffer(self._read(8, deadline), "<u4").tolist()
        answer = self._read(4 * count, deadline)
        if status:
            raise self.refusal(status, answer.decode(errors="replace").rstrip())
        return np.frombuffer(answer, "<u4")

    def refusal(self, status: int, text: str) -> BackendError:
        """The error of a reply with a status other than 0."""
        return BackendError(f"the spike engine refuses (status {status & 0xFF}): {text}")

    def _write(self, data: bytes | memoryview, deadline: float) -> None:
        left = memoryview(data)
        while len(left):
            self._wait(self._stdin, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._stdin, left) :]
            except BrokenPipeError:
                raise self._died() from None

    def _read(self, size: int, deadline: float) -> bytearray:
        answer = bytearray(size)
        left = memoryview(answer)
        while len(left):
            self._wait(self._stdout, select.POLLIN, deadline)
            count = os.readv(self._stdout, [left])
            if not count:
                raise self._died()
            left = left[count:]
        return answer

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self.close()
            raise BackendError(f"the spike engine did not answer within {self.timeout:g} s; it was ended")

    def _died(self) -> BackendError:
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
        text = self.process.communicate()[1].decode(errors="replace").strip()
        return BackendError(
            f"the spike engine ended with status {self.process.returncode}" + (f": {text[-2000:]}" if text else "")
        )


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

        Returns the ports of every token (of the outputs only unless ``traced``), then two 64-bit counters per op, summed.

        Raises:
            BackendError: the engine refuses an event (names the step, counted since `load`), crashed or hung.
        """
        steps, neurons = np.nonzero(spikes != 0)  # much faster on bool
        each = np.bincount(steps, minlength=len(spikes))
        # A packet is its number of events, then the pairs: pair e of all stands behind e pairs and steps[e] + 1 numbers.
        packets = np.empty(len(spikes) + 2 * len(steps), "<u4")
        packets[np.arange(len(spikes)) + 2 * (np.cumsum(each) - each)] = each
        at = steps + 1 + 2 * np.arange(len(steps))
        packets[at], packets[at + 1] = neurons, spikes[steps, neurons]
        return self.request(STEP_TRACED if traced else STEP, np.concatenate([np.array([len(spikes)], "<u4"), packets]))
