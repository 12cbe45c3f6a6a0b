"""Caller's side of the Lava worker: start it, talk to it with time-outs, end it with everything it started."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError, ToolNotFoundError
from nsllm_nir.exporters.lava_worker import job as jobs
from nsllm_nir.processes import Child

INSTALL = "pip install 'nsllm-nir[lava]' && pip install --no-deps --ignore-requires-python lava-nc==0.10.0"
PACKAGES = ("lava-nc", "scipy", "networkx", "asteval")
QUIT_SECONDS = 10.0  # for an orderly end
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

    def __init__(self, folder: Path, process: Child) -> None:
        self.input: NDArray[np.int32] = np.load(folder / jobs.INPUT, mmap_mode="r+")
        self.output: NDArray[np.int32] = np.load(folder / jobs.OUTPUT, mmap_mode="r")
        self.process = process

    def wait(self, reply: bytes) -> None:
        """Wait for one reply.

        Raises:
            BackendError: the worker ended or the time-out passed; holds the last lines of its error output.
        """
        if self.process.read(1) != reply:
            raise self.process.failure(f"did not reply {reply!r}")

    def step(self) -> None:
        """Run the job's number of Lava steps: reads ``input``, fills ``output``. Raises BackendError as `wait`."""
        self.process.write(b"s")
        self.wait(b"d")

    def quit(self) -> None:
        """Ask Lava to stop and wait for the end; that of the context does the rest whatever happens here."""
        self.process.write(b"q")
        self.process.quit(QUIT_SECONDS)


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
        with _start(folder, timeout_seconds, one_thread=job["kind"] != "fused") as process:
            running = Worker(folder, process)
            running.wait(b"r")
            yield running
            running.quit()


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


def _start(folder: Path, timeout_seconds: float, *, one_thread: bool) -> Child:
    """Start the worker; all its temporary files lie in ``folder``, so that they go with it.

    It ends gently: after SIGTERM the resource tracker of its session removes the shared memory.
    """
    # Stock networks are many processes: more threads in each only compete for the same cores. The fused Process is one.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if one_thread else (), "1")
    command = [sys.executable, "-P", "-m", "nsllm_nir.exporters.lava_worker", str(folder)]
    environment = {**threads, "TMPDIR": str(folder)}
    return Child("the Lava worker", command, timeout_seconds, environment=environment, piped=True, gently=True)
