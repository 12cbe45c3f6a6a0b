"""The worker never outlives its caller, and an error inside Lava ends it instead of hanging."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

POLL_SECONDS = 0.2


def terminate(message: str) -> NoReturn:
    """Report to stderr and end the process group; SIGTERM spares the tracker that removes shared memory."""
    os.write(2, (message.rstrip() + "\n").encode(errors="replace"))
    os.killpg(0, signal.SIGTERM)
    time.sleep(5)  # SIGTERM is under way; nothing may run in between
    os._exit(1)


def requests(folder: Path) -> SimpleQueue[bytes]:
    """Bytes that the caller writes to stdin; its end (the caller is gone) removes ``folder`` and ends the worker."""
    queue: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        while request := os.read(0, 1):
            queue.put(request)
        shutil.rmtree(folder, ignore_errors=True)
        terminate("the caller is gone")

    threading.Thread(target=read, daemon=True).start()
    return queue


def watch_children(stopping: threading.Event) -> None:
    """End the worker when one of Lava's operating-system processes dies: the others would wait for it forever."""

    def poll() -> None:
        while not stopping.wait(POLL_SECONDS):
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                continue
            if dead is not None and not stopping.is_set():
                terminate(f"a Lava process ended unexpectedly (process {dead.si_pid}, status {dead.si_status})")

    threading.Thread(target=poll, daemon=True).start()


def report_model_errors(model: Any) -> None:
    """Make an exception in any process model of the class ``model`` end the worker; Lava itself hangs silently."""
    original = model._spike

    def guarded(self: Any) -> None:
        try:
            original(self)
        except Exception:
            terminate(f"error in the Lava process model {type(self).__name__}:\n{traceback.format_exc()}")

    model._spike = guarded


def private_stdout() -> int:
    """File descriptor for replies; everything that prints to stdout goes to stderr from here on."""
    sys.stdout.flush()
    reply = os.dup(1)
    os.dup2(2, 1)
    return reply
