"""Finds g++, compiles the spike engine once per set of sources, flags and machine, and keeps the binary in a cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

from nsllm_nir.errors import BackendError, ToolNotFoundError

SOURCES = Path(__file__).parent / "hls"
TEMPLATES = Path(__file__).parent / "templates"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion")
COMPILE_TIMEOUT = 300.0  # seconds


@dataclass(frozen=True)
class Depths:
    """Sizes fixed when the engine is built: lanes, rows added at once, and memories in 32-bit words (docs/image_format.md, "Build sizes")."""

    lanes: int = 16
    rows: int = 4
    signal_words: int = 1 << 16
    state_words: int = 1 << 16
    row_words: int = 1 << 12
    accumulators: int = 1 << 14
    queue_words: int = 1 << 10

    def flags(self) -> list[str]:
        """The compiler flags that set these sizes."""
        return [f"-DNSLLM_{f.name.upper()}={getattr(self, f.name)}" for f in fields(self)]


# The C simulation: untouched pages of these memories cost nothing.
SIMULATION = Depths(signal_words=1 << 22, state_words=1 << 22, row_words=1 << 16, accumulators=1 << 20, queue_words=1 << 12)


def find_compiler() -> str:
    """Path of g++.

    Raises:
        ToolNotFoundError: there is none; the message holds the command that installs it.
    """
    found = shutil.which("g++")
    if found is None:
        raise ToolNotFoundError("the hls backend needs the C++ compiler g++, which is not on PATH; install it with: apt-get install g++")
    return found


def compiler_version(compiler: str) -> str:
    """First line of ``g++ --version``."""
    return _execute([compiler, "--version"], 30.0).splitlines()[0]


def build_engine(depths: Depths = SIMULATION, flags: tuple[str, ...] = ("-O3", "-march=native")) -> Path:
    """The C simulation (``server.cpp``) as a binary, compiled unless the cache holds it.

    Raises:
        ToolNotFoundError: no compiler.
        BackendError: the compiler failed or took longer than `COMPILE_TIMEOUT`, or the cache cannot be written.
    """
    compiler = find_compiler()
    options = ["-std=c++17", *flags, *WARNINGS, *depths.flags()]
    key = _key(compiler_version(compiler), options)
    binary = cache_folder() / f"spike_engine-{key}"
    if not binary.exists():
        try:
            _compile(compiler, options, binary)
        except OSError as error:
            raise BackendError(f"the compiled engine cannot be kept in {binary.parent}: {error}; set NSLLM_NIR_CACHE to a writable folder") from error
    return binary


def cache_folder() -> Path:
    """``$NSLLM_NIR_CACHE``, else ``nsllm-nir`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("NSLLM_NIR_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nsllm-nir"


def _key(version: str, options: list[str]) -> str:
    digest = hashlib.sha256("\0".join([version, *options, _machine()]).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:24]


def _machine() -> str:
    """What ``-march=native`` depends on: a cache on a shared home must not serve another processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _compile(compiler: str, options: list[str], binary: Path) -> None:
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent, prefix="build-") as folder:
        built = Path(folder) / "spike_engine"
        _execute([compiler, *options, str(SOURCES / "top.cpp"), str(SOURCES / "server.cpp"), "-o", str(built)], COMPILE_TIMEOUT)
        os.replace(built, binary)


def _execute(command: list[str], timeout: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise BackendError(f"{command[0]} did not finish within {timeout:g} s: {' '.join(command)}") from None
    if done.returncode:
        raise BackendError(f"{command[0]} failed with status {done.returncode}: {' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout
