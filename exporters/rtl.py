"""Backend ``rtl``: the SystemVerilog spike engine, simulated clock cycle by clock cycle behind its host driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import LossyConversionError
from nsllm_nir.exporters import About
from nsllm_nir.exporters import image as images
from nsllm_nir.exporters.spike_engine import EngineSession, SynapticEvents
from nsllm_nir.hw import instruction_set, toolchain
from nsllm_nir.hw.driver import Driver, Words
from nsllm_nir.hw.image_check import check_image
from nsllm_nir.hw.simulated_bus import SimulatedBus, Surroundings
from nsllm_nir.hw.toolchain import RtlSizes
from nsllm_nir.program import Program, reference
from nsllm_nir.program.trace import Trace


@dataclass(frozen=True)
class Cycles:
    """Clock cycles of a run.

    total: (tokens,); ops: {op: (tokens,)}, cycles in which it was busy; beats: (tokens,) read from memory.
    """

    total: NDArray[np.int64]
    ops: dict[str, NDArray[np.int64]]
    beats: NDArray[np.int64]


class _Driver(Driver):
    """A driver that notes the cycles of each token."""

    def __init__(self, bus: SimulatedBus, program: Program, image: bytes) -> None:
        super().__init__(bus)
        self.load(image)
        self._bus, self._program = bus, program
        self._rows: list[list[int]] = []
        bus.accounts()  # those of loading

    def step(self, events: Words, traced: bool) -> Words:
        words = super().step(events, traced)
        accounts, ops = self._bus.accounts(), len(self._program.ops)
        self._rows.append([self.cycles, accounts.beats, *(accounts.op_cycles + [0] * ops)[:ops]])
        return words

    def accounts(self) -> Cycles:
        total, beats, *ops = np.array(self._rows, np.int64).reshape(-1, 2 + len(self._program.ops)).T
        return Cycles(total, {op.name: row for op, row in zip(self._program.ops, ops, strict=True)}, beats)


@dataclass
class Executable:
    """A packed program and the simulated engine. counters, cycles: of the last `run`."""

    program: Program
    image: bytes
    binary: Path
    surroundings: Surroundings = field(default_factory=Surroundings)
    counters: dict[str, SynapticEvents] = field(default_factory=dict)
    cycles: Cycles | None = None

    @contextmanager
    def open(self) -> Iterator[EngineSession[_Driver]]:
        """A session that starts from the silent state; the simulation ends with it.

        Raises:
            BackendError: the engine refuses the image, breaks a rule of its buses, crashed or hung.
        """
        with SimulatedBus(self.binary, self.surroundings) as bus:
            yield EngineSession(self.program, _Driver(bus, self.program, self.image))

    def run(self, inputs: NDArray[np.integer], traced: bool = True) -> Trace:
        """Spikes (tokens, neurons) to the trace; fills ``counters`` and ``cycles``.

        Not traced: the engine sends only the outputs, as in use.

        Raises:
            InputError: the inputs do not fit the program.
            BackendError: as `open`.
        """
        spikes = reference.check_inputs(self.program, inputs)  # before a process starts
        with self.open() as session:
            values = session.run(spikes, traced)
        self.counters, self.cycles = session.synaptic_events(), session.engine.accounts()
        return Trace(values)


def executable(program: Program, sizes: RtlSizes, surroundings: Surroundings, binary: Path | None = None) -> Executable:
    """Pack the program for an engine of these sizes; the simulation is built only if the cache does not hold it.

    binary: a simulation of these sizes that is there already.

    Raises:
        LossyConversionError: the program does not fit the engine (names the limit or op).
        ToolNotFoundError: no Verilator or no g++.
    """
    image = images.pack_image(program, sizes.beat_words)
    if refusal := check_image(image, sizes):
        raise LossyConversionError(f"the program does not fit the simulated spike engine: {refusal.text}")
    return Executable(program, image, binary or toolchain.build_rtl(sizes), surroundings)


@dataclass(frozen=True)
class _Rtl:
    name: str = "rtl"
    about = About(
        "the spike engine in SystemVerilog, simulated clock by clock behind its host driver and its AXI ports; "
        "counts cycles",
        "programs that fit its memories",
        "Verilator, g++",
        generates=True,
        slow=True,
    )

    def version(self) -> str:
        """The simulator, the compiler behind it, and the version of the image format."""
        verilator, compiler = toolchain.find_verilator(), toolchain.find_compiler()
        return f"{verilator.version}, {toolchain.compiler_version(compiler)}, image format {instruction_set.VERSION}"

    def compile(self, program: Program) -> Executable:
        """The program on the largest build; raises as `executable`."""
        return executable(program, toolchain.RTL_BUILD, Surroundings())

    def tiny(self) -> _Tiny:
        """A small engine, compiled in a fraction of the time."""
        return _Tiny()


class _Tiny(_Rtl):
    def compile(self, program: Program) -> Executable:
        """The program on the small build; raises as `executable`."""
        sizes = toolchain.TINY_RTL_BUILD
        binary = toolchain.build_rtl(sizes, toolchain.TINY_FLAGS, shared_runtime=False)
        return executable(program, sizes, Surroundings(), binary)


backend = _Rtl()
