"""Lava Processes of this project and their models.

This package holds nothing but this file: Lava's model discovery executes every module that lies
beside a Process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from nsllm_nir.exporters.lava_worker.engine import Engine
from nsllm_nir.exporters.lava_worker.job import RESET
from nsllm_nir.program import Program


class FileSource(AbstractProcess):  # type: ignore[misc]  # Lava has no types
    """Sends the next ``block`` rows of a memory-mapped int32 array (rows, neurons) at each Lava step, round and round.

    The file is read at every step, so the host can change it between two runs without `Var.set`,
    which moves one element at a time. rows is a multiple of ``block``.
    """

    def __init__(self, *, path: str, block: int, neurons: int) -> None:
        super().__init__(path=path, block=block)
        self.s_out = OutPort(shape=(block, neurons))


class FileSink(AbstractProcess):  # type: ignore[misc]  # Lava has no types
    """Writes ``a_in[..., indices]`` to the next rows of a memory-mapped int32 array (rows, len(indices)), in turn.

    shape: (neurons,) for one row per Lava step, or (rows per step, neurons).
    Instrumentation: it replaces Monitor and RingBuffer, whose `Var.get` moves one element at a time.
    """

    def __init__(self, *, path: str, shape: tuple[int, ...], indices: Any) -> None:
        super().__init__(path=path, indices=indices)
        self.a_in = InPort(shape=shape)


class FusedProgram(AbstractProcess):  # type: ignore[misc]  # Lava has no types
    """A whole `Program`: input spikes (block, neurons) of the next tokens in, all traced signals out, in the same step.

    The first row of ``NO_TOKEN`` ends the block; the values beyond are 0. A first row of ``RESET`` makes the state
    silent.
    """

    def __init__(self, *, program: Program, block: int) -> None:
        super().__init__(program=program)
        self.s_in = InPort(shape=(block, program.inputs[0].size))
        self.s_out = OutPort(shape=(block, sum(program.signals[n].size for n in program.traced)))


@implements(proc=FileSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFileSource(PyLoihiProcessModel):  # type: ignore[misc]  # Lava has no types
    """Model of `FileSource`."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        rows = np.load(proc_params["path"], mmap_mode="r")
        self._blocks = rows.reshape(-1, proc_params["block"], rows.shape[1])

    def run_spk(self) -> None:
        """Send the rows of this Lava step."""
        self.s_out.send(np.array(self._blocks[(self.time_step - 1) % len(self._blocks)]))


@implements(proc=FileSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFileSink(PyLoihiProcessModel):  # type: ignore[misc]  # Lava has no types
    """Model of `FileSink`."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._rows = np.load(proc_params["path"], mmap_mode="r+")
        self._indices = proc_params["indices"]

    def run_spk(self) -> None:
        """Write the rows of this Lava step."""
        block = np.atleast_2d(self.a_in.recv())
        first = (self.time_step - 1) * len(block) % len(self._rows)
        self._rows[first : first + len(block)] = block[:, self._indices]


@implements(proc=FusedProgram, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFusedProgram(PyLoihiProcessModel):  # type: ignore[misc]  # Lava has no types
    """Model of `FusedProgram`."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._engine = Engine(proc_params["program"])

    def run_spk(self) -> None:
        """Run the tokens of this block; values of tokens beyond are 0."""
        block = self.s_in.recv()
        if block[0, 0] == RESET:
            self._engine.reset()
        tokens = int(np.count_nonzero(block[:, 0] >= 0))
        values = self._engine.run(block[:tokens]) if tokens else np.zeros((0, self.s_out.shape[1]), np.int32)
        self.s_out.send(np.pad(values, ((0, len(block) - tokens), (0, 0))) if tokens < len(block) else values)
