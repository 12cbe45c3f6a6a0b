"""Caller's side of the Lava worker: start it, talk to it with time-outs, end it with everything it started."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError, ToolNotFoundError
from nsllm_nir.exporters.lava_worker import job as jobs

INSTALL = "pip install 'nsllm-nir[lava]' && pip install --no-deps --ignore-requires-python lava-nc==0.10.0"
PACKAGES = ("lava-nc", "scipy", "networkx", "asteval")
GRACE_SECONDS = 2.0  # from SIGTERM to SIGKILL
QUIT_SECONDS = 10.0  # for an orderly end
STDERR_LINES = 15
FOLDER_LENGTH = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")  # multiprocessing opens a socket of this name there
SHARED_MEMORY = Path("/dev/shm")


def version() -> str:
    """Version of lava-nc.

    Raises:
        ToolNotFoundError: it, or a package it needs, is missing; the message holds the command that installs it.
    """
    for package in PACKAGES:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ToolNotFoundError(
                f"the Lava backends need the package {package}, which is not installed; install it with\n  {INSTALL}"
            ) from None
    return f"lava-nc {importlib.metadata.version('lava-nc')}"


class Worker:
    """One running worker. ``input`` and ``output``: int32 (rows, neurons), shared with the Lava processes."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
        self.input: NDArray[np.int32] = np.load(folder / jobs.INPUT, mmap_mode="r+")
        self.output: NDArray[np.int32] = np.load(folder / jobs.OUTPUT, mmap_mode="r")
        self.process = process
        self._stderr = folder / "stderr.txt"
        self._timeout = timeout_seconds

    def wait(self, reply: bytes) -> None:
        """Wait for one reply.

        Raises:
            BackendError: the worker ended or the time-out passed; holds the tail of its error output.
        """
        deadline = time.monotonic() + self._timeout
        stream = _pipe(self.process.stdout)
        while not select.select([stream], [], [], 0.05)[0]:
            if self.process.poll() is not None:
                raise self._ended()
            if time.monotonic() > deadline:
                raise self._failed(f"did not answer within {self._timeout:g} s and was ended")
        if os.read(stream.fileno(), 1) != reply:
            raise self._ended()

    def step(self) -> None:
        """Run the job's number of Lava steps: reads ``input``, fills ``output``. Raises BackendError as `wait`."""
        self._send(b"s")
        self.wait(b"d")

    def quit(self) -> None:
        """Ask Lava to stop and wait for the end; `end` does the rest whatever happens here."""
        self._send(b"q")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(QUIT_SECONDS)

    def _send(self, request: bytes) -> None:
        stream = _pipe(self.process.stdin)
        try:
            stream.write(request)
            stream.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> BackendError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        return self._failed(f"ended with status {self.process.returncode}")

    def _failed(self, what: str) -> BackendError:
        lines = self._stderr.read_text(errors="replace").strip().splitlines()[-STDERR_LINES:]
        return BackendError(f"the Lava worker {what}; its error output ends with\n" + "\n".join(lines or ["(nothing)"]))


@contextlib.contextmanager
def worker(
    job: dict[str, Any],
    arrays: jobs.Arrays,
    inputs: NDArray[np.integer],
    outputs: tuple[int, int],
    timeout_seconds: float,
) -> Iterator[Worker]:
    """A started worker that waits for its first `Worker.step`; leaving the context ends all its processes.

    inputs: int32 (rows, neurons); outputs: shape (rows, neurons) of what the sink writes.

    Raises:
        BackendError: the worker failed or did not start within ``timeout_seconds``.
        ToolNotFoundError: as `version`.
    """
    version()
    with tempfile.TemporaryDirectory(prefix="lava-") as name:
        folder = Path(name)
        if len(name) > FOLDER_LENGTH:
            raise BackendError(
                f"the temporary folder {name!r} is too long a path for a Unix socket inside it; set TMPDIR to a "
                "shorter one"
            )
        jobs.write(folder, job, arrays)
        np.save(folder / jobs.INPUT, np.asarray(inputs, np.int32))
        np.lib.format.open_memmap(folder / jobs.OUTPUT, mode="w+", dtype=np.int32, shape=outputs).flush()
        process = _start(folder, one_thread=job["kind"] != "fused")
        try:
            running = Worker(folder, process, timeout_seconds)
            running.wait(b"r")
            yield running
            running.quit()
        finally:
            end(process)


def check_shared_memory(needed: int) -> None:
    """Lava's channels live in /dev/shm; a channel that does not fit would kill Lava with a bus error.

    Raises:
        BackendError: fewer than ``needed`` bytes are free there.
    """
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise BackendError(
            f"Lava needs about {needed >> 20} MiB of shared memory, {SHARED_MEMORY} has {free >> 20} MiB free; "
            f"enlarge it (Docker: --shm-size {2 * needed >> 20}m)"
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """End the worker's session: SIGTERM (its resource tracker then removes the shared memory), later SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            os.killpg(process.pid, signal.SIGCONT)  # a stopped process would not see SIGTERM
        deadline = time.monotonic() + GRACE_SECONDS
        while (process.poll() is None or members(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is not None and not members(process.pid):
            break
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            _pipe(stream).close()


def members(session: int) -> list[int]:
    """Processes of a session that still run, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, sid = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(sid) == session and state != "Z":
                    found.append(int(entry.name))
    return found


def _start(folder: Path, *, one_thread: bool) -> subprocess.Popen[bytes]:
    """Start the worker; all its temporary files lie in ``folder``, so that they go with it."""
    # Stock networks are many processes: more threads in each only compete for the same cores. The fused Process is one.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if one_thread else (), "1")
    with (folder / "stderr.txt").open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "nsllm_nir.exporters.lava_worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **threads, "TMPDIR": str(folder)},
            start_new_session=True,
        )


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # every stream is opened by `_start`
    return stream
