"""Client of the C simulation: one engine process, driven over its pipes, that can neither hang its caller nor outlive it."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError

LOAD, RESET, STEP, STEP_TRACED = 1, 2, 3, 4
REQUEST_TIMEOUT = 120.0  # seconds for one request; the largest is the loading of an image

Words = NDArray[np.uint32]


class EngineProcess:
    """A running engine. Use it as a context manager: leaving it ends the process.

    binary: what `toolchain.build_engine` returned; timeout: seconds that one request may take.
    """

    def __init__(self, binary: Path, timeout: float = REQUEST_TIMEOUT) -> None:
        self.timeout = timeout
        self.process = subprocess.Popen([str(binary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        assert self.process.stdin and self.process.stdout
        self._stdin, self._stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process at once; calling it again does nothing."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def load(self, image: bytes) -> None:
        """Check and load a program image; the states are cleared.

        Raises:
            BackendError: the engine refuses the image (status and reason), crashed or hung.
        """
        if len(image) % 4:
            raise BackendError(f"the image has {len(image)} bytes, which is not a whole number of 32-bit words")
        self._request(LOAD, np.frombuffer(image, "<u4"))

    def run(self, spikes: NDArray[np.integer], traced: bool) -> Words:
        """Advance one or more tokens with one request. spikes: counts (tokens, neurons).

        Returns the ports of every token (of the outputs only unless ``traced``), then two 64-bit counters per op, summed.

        Raises:
            BackendError: the engine refuses an event (names the step, counted since `load`), crashed or hung.
        """
        steps, neurons = np.nonzero(spikes != 0)  # much faster on bool
        each = np.bincount(steps, minlength=len(spikes))
        pairs = np.stack([neurons, spikes[steps, neurons]], axis=1).reshape(-1)
        return self._request(STEP_TRACED if traced else STEP, np.concatenate([[len(spikes)], each, pairs]).astype("<u4"))

    def _request(self, command: int, payload: Words) -> Words:
        deadline = time.monotonic() + self.timeout
        self._write(np.array([command, payload.size], "<u4").tobytes(), deadline)
        self._write(payload.view(np.uint8).data, deadline)
        status, count = np.frombuffer(self._read(8, deadline), "<u4").tolist()
        answer = self._read(4 * count, deadline)
        if status:
            raise BackendError(f"the spike engine refuses (status {status & 0xFF}): {answer.decode(errors='replace').rstrip()}")
        return np.frombuffer(answer, "<u4")

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
        return BackendError(f"the spike engine ended with status {self.process.returncode}" + (f": {text[-2000:]}" if text else ""))
