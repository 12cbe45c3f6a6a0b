"""Mutated NIR files through `read` and `lower`, each in a process of its own with limits on time and memory.

    python benchmarks/fuzz.py                                 # 10,000 files, writes benchmarks/fuzz.md
    python benchmarks/fuzz.py --files 1 --first 4711          # one file again; prints what happens
    python benchmarks/fuzz.py some.nir other.nir              # these files as they are; one line of JSON each

File ``index`` of a ``seed`` is always the same. The exit status is 1 if a file led to anything else than a program
or an error of this project.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fuzz_mutations import mutated, write_seeds
from memory import peak_mib

from nsllm_nir import lower
from nsllm_nir.errors import NsllmNirError
from nsllm_nir.graph import read

SECONDS = 10  # of one file, before its process is ended
MEMORY = 1 << 30  # bytes that one file may add to the address space


@dataclass(frozen=True)
class Outcome:
    """What one file led to: "accepted", the name of a project error, or of anything else. peak: MiB that it added."""

    kind: str
    expected: bool
    message: str
    seconds: float
    peak: float


def trial(path: Path) -> tuple[str, bool, str]:
    """Read and lower the file; returns the kind of outcome, whether it is an expected one, and its message."""
    try:
        lower(read(path))
    except NsllmNirError as error:
        return type(error).__name__, True, str(error)
    except BaseException as error:
        return type(error).__name__, False, str(error)
    return "accepted", True, ""


def guarded(path: Path) -> Outcome:
    """`trial` in a process of its own, which the kernel ends after `SECONDS`, also inside the HDF5 library."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        before = peak_mib()
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # its default action ends the process
        start = time.perf_counter()
        kind, expected, message = trial(path)
        os.write(
            send,
            json.dumps([kind, expected, message[:4000], time.perf_counter() - start, peak_mib() - before]).encode(),
        )
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if answer:
        return Outcome(*json.loads(answer))
    kind = "time-out" if status == -signal.SIGALRM else signal.Signals(-status).name if status < 0 else f"exit {status}"
    return Outcome(kind, False, "", float(SECONDS), 0.0)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def one(folder: Path, seeds: list[bytes], seed: int, index: int) -> tuple[int, str, Outcome]:
    """Make and try one file."""
    how, data = mutated(seeds, seed, index)
    path = folder / f"mutated{os.getpid()}"
    path.write_bytes(data)
    return index, how, guarded(path)


def main() -> None:
    """Run the trials and print the table; the run of 10,000 becomes benchmarks/fuzz.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.paths:
        outcomes = [guarded(path) for path in options.paths]
        print(*(json.dumps(vars(outcome)) for outcome in outcomes), sep="\n")
        sys.exit(any(not outcome.expected for outcome in outcomes))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not (child := os.fork()):  # torch stays out of this process, which is copied for every file
            write_seeds(folder)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        paths = sorted(folder.glob("*.nir"))
        seeds = [path.read_bytes() for path in paths]
        whole = [guarded(path) for path in paths]
        assert all(outcome.kind == "accepted" for outcome in whole), whole
        found: list[tuple[int, str, Outcome]] = []
        with multiprocessing.get_context("fork").Pool() as pool:
            for index, how, outcome in pool.imap(
                partial(one, folder, seeds, options.seed), range(options.first, options.first + options.files), 20
            ):
                found.append((index, how, outcome))
                if not outcome.expected or options.files == 1:
                    print(f"--seed {options.seed} --first {index} ({how}): {outcome}", flush=True)
    usual = statistics.median(outcome.seconds for outcome in whole)
    table = report(options.seed, len(paths), found, usual)
    print(table)
    if options.files == parser.get_default("files"):
        Path(__file__).with_suffix(".md").write_text(table)
    sys.exit(any(not outcome.expected for *_, outcome in found))


def report(seed: int, seeds: int, found: list[tuple[int, str, Outcome]], usual: float) -> str:
    """The table; usual: median seconds of an unchanged file."""
    kinds = Counter(outcome.kind for *_, outcome in found)
    bad = sum(not outcome.expected for *_, outcome in found)
    steps = Counter(step for _, how, _ in found for step in how.split("+"))
    slowest, largest = (max(found, key=lambda trial: getattr(trial[2], of)) for of in ("seconds", "peak"))
    lines = ["# Mutated files through read and lower (measured)", ""]
    lines += [
        (
            f"Written by `python benchmarks/fuzz.py`: {len(found):,} files, seed {seed}, made from {seeds} files; a "
            "process each, ended after "
        )
    ]
    lines[-1] += f"{SECONDS} s or {MEMORY >> 20:,} MiB of added address space."
    lines += [
        "",
        "| outcome | files |",
        "|---|---|",
        *(f"| {kind} | {number:,} |" for kind, number in kinds.most_common()),
    ]
    lines += [f"| **crash, hang, foreign error** | {bad:,} |", ""]
    lines += [
        (
            f"- slowest file: {slowest[2].seconds / usual:.1f} x the median of the unchanged files (file "
            f"{slowest[0]}, {slowest[1]})"
        )
    ]
    lines += [f"- largest memory that one file added: {largest[2].peak:.0f} MiB (file {largest[0]}, {largest[1]})", ""]
    lines += ["Mutations: " + ", ".join(f"{step} {number:,}" for step, number in sorted(steps.items())) + ".", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
