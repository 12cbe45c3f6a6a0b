"""Backend ``hls``: the C simulation of the spike engine. `build_vitis` writes it as a Vitis HLS project."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError
from nsllm_nir.exporters import About
from nsllm_nir.exporters import image as images
from nsllm_nir.exporters.spike_engine import EngineSession, SynapticEvents
from nsllm_nir.files import check_new_folder, new_folder
from nsllm_nir.hw import instruction_set, toolchain
from nsllm_nir.hw.simulation import EngineProcess
from nsllm_nir.program import Program, reference
from nsllm_nir.program.trace import Trace
from nsllm_nir.templates import render


@dataclass
class Executable:
    """A packed program and the engine binary. counters: {Linear or Conv2d op: SynapticEvents} of the last `run`."""

    program: Program
    image: bytes
    binary: Path
    counters: dict[str, SynapticEvents] = field(default_factory=dict)

    @contextmanager
    def open(self) -> Iterator[EngineSession[EngineProcess]]:
        """A session that starts from the silent state; the engine process ends with it.

        Raises:
            BackendError: the engine refuses the image, crashed or hung.
        """
        with EngineProcess(self.binary) as process:
            process.load(self.image)
            yield EngineSession(self.program, process)

    def run(self, inputs: NDArray[np.integer]) -> Trace:
        """Spikes (tokens, neurons) to the trace; fills ``counters``.

        Raises:
            InputError: the inputs do not fit the program.
            BackendError: the engine crashed or hung.
        """
        spikes = reference.check_inputs(self.program, inputs)  # before a process starts
        with self.open() as session:
            values = session.run(spikes, traced=True)
        self.counters = session.synaptic_events()
        return Trace(values)


@dataclass(frozen=True)
class _Hls:
    name: str = "hls"
    about = About(
        "C simulation of the spike engine: event-driven, weight rows are fetched only for neurons that spiked",
        "programs that fit its memories",
        "g++",
        generates=True,
    )
    flags: tuple[str, ...] = ("-O3", "-march=native")

    def version(self) -> str:
        """The compiler behind the C simulation, and the version of the image format."""
        return f"{toolchain.compiler_version(toolchain.find_compiler())}, image format {instruction_set.VERSION}"

    def compile(self, program: Program) -> Executable:
        """Pack the program; the engine itself is compiled only if the cache does not hold it.

        Raises:
            LossyConversionError: the program does not fit the engine (names the memory or op).
            ToolNotFoundError: no g++.
        """
        image = images.pack_image(program)
        images.needs(image).check(toolchain.SIMULATION)
        return Executable(program, image, toolchain.build_engine(flags=self.flags))

    def tiny(self) -> _Hls:
        """The engine compiled in a fraction of the time."""
        return replace(self, flags=toolchain.TINY_FLAGS)


backend = _Hls()


def build_vitis(
    program: Program,
    inputs: NDArray[np.integer],
    trace: Trace,
    out_dir: str | Path,
    *,
    part: str = "xcvc1902-vsva2197-2MP-e-S",
    clock_ns: float = 4.0,
) -> Path:
    """Write a self-contained project: engine, image, golden vectors, test bench, Makefile (g++) and tcl (Vitis HLS).

    inputs: spikes (tokens, neurons); trace: what the reference returns for them. The folder appears complete or not
    at all. Returns its path.

    Raises:
        InputError: ``out_dir`` exists and is not empty, no such part or clock, or the inputs do not fit the program.
        LossyConversionError: the engine cannot hold the program.
    """
    target = Path(out_dir)
    check_new_folder(target)
    if not (math.isfinite(clock_ns) and clock_ns > 0):
        raise InputError(f"the clock period must be a positive number of nanoseconds, got {clock_ns:g}")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", part):
        raise InputError(f"an FPGA part is named by letters, digits, '-', '_' and '.', got {part!r}")
    image, vectors = images.pack_image(program), images.pack_vectors(program, inputs, trace)
    depths = _hardware_depths(images.needs(image))
    facts = {
        "part": part,
        "clock_ns": clock_ns,
        "flags": [*depths.flags(), f"-DNSLLM_IMAGE_DEPTH={len(image) // 4}"],  # co-simulation copies that many words
        "ops": len(program.ops),
        "parameters": program.parameters(),
        "image_bytes": len(image),
        "tokens": len(inputs),
        "nodes": len(program.traced),
    }
    with new_folder(target) as project:
        _write_project(project, image, vectors, facts)
    return target


def _hardware_depths(need: images.Needs) -> toolchain.Depths:
    """The default build, with each memory that is too small for the program raised to the next power of two."""
    default = toolchain.Depths()
    raised = {
        f.name: max(getattr(default, f.name), 1 << (getattr(need, f.name) - 1).bit_length()) for f in fields(need)
    }
    return toolchain.Depths(**raised)


def _write_project(project: Path, image: bytes, vectors: bytes, facts: dict[str, object]) -> None:
    (project / "hls").mkdir()
    for source in sorted(toolchain.SOURCES.iterdir()):
        if source.name != "server.cpp":  # the pipe server belongs to the hls backend
            shutil.copyfile(source, project / "hls" / source.name)
    (project / "image.bin").write_bytes(image)
    (project / "vectors.bin").write_bytes(vectors)
    for name in ("Makefile", "run_hls.tcl", "README.txt"):
        (project / name).write_text(render(toolchain.TEMPLATES / "vitis" / f"{name}.j2", facts), encoding="utf-8")
