"""Programs beside this one: what counts for a time-out, how errors read, and that nothing is left behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from nsllm_nir import processes
from nsllm_nir.errors import BackendError
from nsllm_nir.processes import Child, run

BUSY = "while True: pass"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_folder_and_environment(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), os.environ['WORD']); print('more', file=sys.stderr)"
    output = run("it", python(code), 60.0, folder=tmp_path, environment={"WORD": "a word"})
    assert set(output.splitlines()) == {f"{tmp_path} a word", "more"}


def test_an_error_has_the_name_the_last_lines_and_the_command() -> None:
    code = "import sys\nfor i in range(40): print(i)\nsys.exit('it is broken')"
    with pytest.raises(BackendError) as error:
        run("the tool", python(code), 60.0)
    first, *lines = str(error.value).partition("\n(the command was: ")[0].splitlines()
    assert first == "the tool failed with status 1: 26" and lines == [*map(str, range(27, 40)), "it is broken"]
    assert f"(the command was: {sys.executable} -c 'import sys" in str(error.value)
    with pytest.raises(BackendError, match=r"^quiet failed with status 3: it printed nothing\n"):
        run("quiet", python("raise SystemExit(3)"), 60.0)
    with pytest.raises(BackendError, match=r"^nothing cannot be started: .*No such file"):
        run("nothing", ["/nonexistent/tool"], 60.0)


@pytest.mark.parametrize("code", [BUSY, "import time; time.sleep(600)"], ids=["busy", "asleep"])
def test_a_program_that_does_not_end_is_ended(code: str) -> None:
    with (
        Child("it", python(code), 0.5) as child,
        pytest.raises(BackendError, match=r"it did not finish within 0.5 s; allow it more time: it printed nothing"),
    ):
        child.wait()
    assert not processes.members(child.pid)


def test_what_a_program_started_ends_with_it() -> None:
    code = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print('started', flush=True)"
    with Child("it", python(code), 60.0, piped=True) as child:
        assert child.read(8) == b"started\n"
        child.quit(60.0)
        assert processes.members(child.pid)
    assert not processes.members(child.pid)


def test_waiting_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of a process in state R counts with what it computed, one that sleeps with the time that passed."""
    now, used, state = 100.0, 5.0, "R"
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(processes, "_session", lambda session: [(session, "S", 0.0), (session + 1, state, used)])
    clock = processes._Clock(7)
    now, used = 160.0, 5.5  # a minute of a busy machine
    assert clock.seconds() == 0.5
    now, used = 161.0, 9.5  # four threads at once
    assert clock.seconds() == 1.5
    now, state = 171.0, "S"
    assert clock.seconds() == 11.5
    now, used, state = 181.0, 0.0, "R"  # a process ended, and its seconds with it
    assert clock.seconds() == 11.5


def test_the_session_is_that_of_the_program() -> None:
    with Child("it", python(BUSY), 60.0) as child:
        time.sleep(0.5)
        ((pid, state, used),) = processes._session(child.pid)
        assert (pid, state) == (child.pid, "R") and used > 0.02
    assert os.getpid() not in processes.members(child.pid)


def test_a_program_that_stops_answering_is_ended() -> None:
    code = "import sys, time; sys.stdout.write('ab'); sys.stdout.flush(); time.sleep(600)"
    with Child("it", python(code), 0.5, piped=True) as child:
        assert child.read(1) == b"a"
        with pytest.raises(BackendError, match=r"it did not answer within 0.5 s and was ended"):
            child.read(2)
        assert not processes.members(child.pid)
    with Child("it", python("raise SystemExit('no more')"), 60.0, piped=True) as child:
        with pytest.raises(BackendError, match=r"it ended with status 1: no more"):
            child.read(1)
        with pytest.raises(BackendError, match=r"it ended with status 1: no more"):
            child.write(bytes(1 << 20))


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TELL_SECONDS", 0.2)
    told: list[str] = []
    run("it", python("import time; time.sleep(1)"), 60.0, progress=told.append)
    assert len(told) >= 2 and told[0].startswith("it ")
