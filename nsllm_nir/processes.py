"""Programs that run beside this one: started without a shell, with one rule of time-outs and one form of errors.

A time-out counts the seconds in which a program ran or waited for something. Those in which it waited for a processor
do not count: on a busy machine it gets as much done before its time-out as on a quiet one. (This needs Linux's
``/proc``; elsewhere all seconds count.)
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from nsllm_nir.errors import BackendError

POLL_SECONDS = 0.1
TELL_SECONDS = 5.0  # between two messages about how long a program runs
LAST_LINES = 15  # of the output of a program that failed
GRACE_SECONDS = 2.0  # from SIGTERM to SIGKILL
PROC = Path("/proc")

Progress = Callable[[str], None]


class Child:
    """A running program in a session of its own; leaving the context ends it with everything that it started.

    Args:
        name: of the program in messages, such as "g++" or "the spike engine".
        command: program and arguments.
        timeout: seconds, as this module counts them, to its end (`wait`), or without a byte read or written (`read`,
            `write`).
        folder: where it runs.
        environment: variables on top of those of this process.
        piped: its standard input and output are pipes; else it has no input, and its output is kept with its errors.
        gently: end it with SIGTERM, and with SIGKILL only after `GRACE_SECONDS`.

    Raises:
        BackendError: the program cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        timeout: float,
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        piped: bool = False,
        gently: bool = False,
    ) -> None:
        self.name, self.command, self.timeout, self._gently = name, command, timeout, gently
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        stream = subprocess.PIPE if piped else None
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=stream or subprocess.DEVNULL,
                stdout=stream or self._log,
                stderr=self._log,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise BackendError(f"{name} cannot be started: {error} ({shlex.join(command)})") from error
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                os.set_blocking(pipe.fileno(), False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Of the program; also the number of its session."""
        return self._process.pid

    def wait(self, progress: Progress | None = None) -> str:
        """Wait for the end of the program; returns its output. progress: told now and then how many seconds it has run.

        Raises:
            BackendError: it failed (with the last lines of its output), or did not finish within the time-out.
        """
        clock, started, told = _Clock(self.pid), time.monotonic(), TELL_SECONDS
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if status := self._process.wait(min(POLL_SECONDS, self.timeout)):
                    raise self.failure(f"failed with status {status}")
                return self.output()
            if clock.seconds() > self.timeout:
                raise self.failure(f"did not finish within {self.timeout:g} s; allow it more time")
            if progress and (seconds := time.monotonic() - started) > told:
                told = seconds + TELL_SECONDS
                progress(f"{self.name} {seconds:.0f} s")

    def quit(self, seconds: float) -> None:
        """Wait at most ``seconds`` for a program that was asked to end; `end` does the rest whatever happens here."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def write(self, data: bytes | memoryview) -> None:
        """Write to the program's standard input.

        Raises:
            BackendError: it has ended, or does not read within the time-out.
        """
        pipe, left = _open(self._process.stdin), memoryview(data)
        while len(left):
            self._ready(pipe, select.POLLOUT)
            try:
                left = left[os.write(pipe.fileno(), left) :]
            except BrokenPipeError:
                raise self._ended() from None

    def read(self, size: int) -> bytearray:
        """``size`` bytes of the program's standard output.

        Raises:
            BackendError: it has ended, or does not send them within the time-out.
        """
        pipe, answer = _open(self._process.stdout), bytearray(size)
        left = memoryview(answer)
        while len(left):
            self._ready(pipe, select.POLLIN)
            count = os.readv(pipe.fileno(), [left])
            if not count:
                raise self._ended()
            left = left[count:]
        return answer

    def output(self) -> str:
        """What it has printed so far; only its errors if its standard output is a pipe."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def failure(self, what: str) -> BackendError:
        """The error of a program: its name, ``what`` it did, the last lines of its output, and its command."""
        lines = [line for line in self.output().splitlines() if line.strip()][-LAST_LINES:]
        said = "\n".join(lines) or "it printed nothing"
        return BackendError(f"{self.name} {what}: {said}\n(the command was: {shlex.join(self.command)})")

    def end(self) -> None:
        """End the program and all processes of its session; calling it again does nothing."""
        for number in (signal.SIGTERM, signal.SIGKILL) if self._gently else (signal.SIGKILL,):
            try:
                os.killpg(self.pid, number)
                os.killpg(self.pid, signal.SIGCONT)  # a stopped process would not see SIGTERM
            except ProcessLookupError:  # all have ended
                break
            deadline = time.monotonic() + GRACE_SECONDS
            while (alive := self._process.poll() is None or bool(members(self.pid))) and time.monotonic() < deadline:
                time.sleep(0.005)
            if not alive:
                break
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()

    def _ready(self, pipe: IO[bytes], event: int) -> None:
        """Wait until ``pipe`` can be read or written, or is closed at its other end."""
        poll, clock = select.poll(), None
        poll.register(pipe, event)
        while not poll.poll(1000 * min(POLL_SECONDS, self.timeout)):
            if self._process.poll() is not None:
                raise self._ended()  # what it started may hold the other end open
            clock = clock or _Clock(self.pid)  # looked at only where an answer takes long
            if clock.seconds() > self.timeout:
                error = self.failure(f"did not answer within {self.timeout:g} s and was ended")
                self.end()
                raise error

    def _ended(self) -> BackendError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        return self.failure(f"ended with status {self._process.returncode}")


def run(
    name: str,
    command: list[str],
    timeout: float,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> str:
    """Run a program to its end; returns what it printed. Arguments as of `Child` and `Child.wait`.

    Raises:
        BackendError: it cannot be started, failed, or took longer than ``timeout`` seconds.
    """
    with Child(name, command, timeout, folder=folder, environment=environment) as child:
        return child.wait(progress)


def members(session: int) -> list[int]:
    """Processes of a session that still run, from ``/proc``."""
    return [pid for pid, state, _ in _session(session) if state not in "ZX"]


class _Clock:
    """The seconds that count for the time-out of a session since this object was made."""

    def __init__(self, session: int) -> None:
        self._session, self._counted, self._last = session, 0.0, time.monotonic()
        self._used = sum(used for _, _, used in _session(session))

    def seconds(self) -> float:
        found, now = list(_session(self._session)), time.monotonic()
        used, elapsed = sum(used for _, _, used in found), now - self._last
        # Where a process of the session runs or waits for a processor, only what they computed counts.
        computing = any(state == "R" for _, state, _ in found)
        self._counted += min(elapsed, max(0.0, used - self._used)) if computing else elapsed
        self._used, self._last = used, now
        return self._counted


def _session(session: int) -> Iterable[tuple[int, str, float]]:
    """Number, state and processor seconds (those of ended children too) of each process of a session."""
    ticks = os.sysconf("SC_CLK_TCK")
    for entry in os.scandir(PROC) if PROC.is_dir() else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    yield int(entry.name), fields[0], sum(map(int, fields[11:15])) / ticks


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "the program was started without pipes"
    return pipe
