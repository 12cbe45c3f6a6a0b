"""Processor time until a command answers, on two checkouts in one run.

    python benchmarks/startup.py /path/of/an/older/checkout      # writes benchmarks/startup.md

Each command runs in a process of its own with the packages of this Python; `doctor` with an empty cache folder each
time.
The figure is user and system time of the process and its children; Lava's worker is among them, the processes that Lava
itself starts are not. The checkouts take turns; the least of three turns counts (of one for `doctor`).
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent.parent
MAIN = """
import importlib
try:
    main = importlib.import_module("nsllm_nir.cli.main").main
except ModuleNotFoundError:  # in an older checkout
    main = importlib.import_module("nsllm_nir.cli").main
main()
"""
# What is measured: code, arguments, turns.
COMMANDS = {
    "`import nsllm_nir`": ("import nsllm_nir", (), 3),
    "`nsllm-nir --help`": (MAIN, ("--help",), 3),
    "`nsllm-nir doctor --quick`": (MAIN, ("doctor", "--quick"), 3),
    "`nsllm-nir doctor`, nothing in the cache": (MAIN, ("doctor",), 1),
    "of which `--backend rtl`": (MAIN, ("doctor", "--backend", "rtl"), 1),
    "of which `--backend hls`": (MAIN, ("doctor", "--backend", "hls"), 1),
    "of which `--backend snntorch`": (MAIN, ("doctor", "--backend", "snntorch"), 1),
    "of which `--backend lava`": (MAIN, ("doctor", "--backend", "lava"), 1),
}


def seconds(checkout: Path, code: str, arguments: tuple[str, ...]) -> float:
    """Processor seconds of one run; ends this program if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "NSLLM_NIR_CACHE": cache}
        command = [sys.executable, "-P", "-c", code, *arguments]
        done = subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{checkout}: {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    older = Path(sys.argv[1]).resolve()
    lines = [
        "# Time until a command answers",
        "",
        f"Written by `python benchmarks/startup.py OLDER` (Python {platform.python_version()}). Processor seconds,",
        "user and system, of the process and its children; measured.",
        "",
        "| | older checkout | this one |",
        "|---|---|---|",
    ]
    for name, (code, arguments, turns) in COMMANDS.items():
        times = [(seconds(older, code, arguments), seconds(HERE, code, arguments)) for _ in range(turns)]
        best = [min(column) for column in zip(*times, strict=True)]
        lines.append(f"| {name} | {best[0]:.2f} | {best[1]:.2f} |")
        print(lines[-1], flush=True)
    (HERE / "benchmarks" / "startup.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
