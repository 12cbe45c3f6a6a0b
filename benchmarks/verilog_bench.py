"""Runs commands and SystemVerilog test benches for the comparisons with other tools."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nsllm_nir.errors import BackendError
from nsllm_nir.hw.toolchain import find_verilator

FLAGS = (
    "--binary",
    "--timing",
    "-CFLAGS",
    "-std=c++20 -fcoroutines",
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-style",
    "--top-module",
    "bench",
)
MAKE = (
    "-MAKEFLAGS",
    "CFG_CXXFLAGS_PCH_I=-include",
)  # the Verilator of the Python package does not know how g++ takes a precompiled header


def execute(command: Sequence[str], folder: Path, timeout: float, **environment: str) -> str:
    """What a command prints. A time-out, in seconds, ends all that it started.

    Raises:
        BackendError: it failed or took longer than ``timeout``.
    """
    with subprocess.Popen(
        command,
        cwd=folder,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise BackendError(f"did not finish within {timeout:g} s") from None
    if process.returncode:
        raise BackendError(
            f"{command[0]}, status {process.returncode}: {(errors.strip() or output.strip())[-300:]}".replace("\n", " ")
        )
    return output


def run_bench(text: str, sources: Sequence[Path], folder: Path, timeout: float) -> str:
    """What module ``bench`` of ``text`` prints in Verilator; it runs in ``folder``.

    timeout: seconds, of the build and of the run each.

    Raises:
        ToolNotFoundError: no Verilator.
        BackendError: as `execute`.
    """
    (folder / "bench.sv").write_text(text, encoding="utf-8")
    verilator = find_verilator()
    execute(
        [verilator.binary, *FLAGS, *MAKE, "--Mdir", "bench", "bench.sv", *map(str, sources)],
        folder,
        timeout,
        VERILATOR_ROOT=str(verilator.root),
    )
    return execute([str(folder / "bench" / "Vbench")], folder, timeout)
