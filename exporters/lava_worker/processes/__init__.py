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
from nsllm_nir.program import Program


class FileSource(AbstractProcess):
    """Sends row ``(t - 1) % rows`` of a memory-mapped int32 array (rows, neurons) at Lava step t = 1, 2, ...

    The file is read at every step, so the host can change it between two runs without `Var.set`,
    which moves one element at a time.
    """

    def __init__(self, *, path: str, neurons: int) -> None:
        super().__init__(path=path)
        self.s_out = OutPort(shape=(neurons,))


class FileSink(AbstractProcess):
    """Writes ``a_in[indices]`` to row ``(t - 1) % rows`` of a memory-mapped int32 array (rows, len(indices)).

    Instrumentation: it replaces Monitor and RingBuffer, whose `Var.get` moves one element at a time.
    """

    def __init__(self, *, path: str, neurons: int, indices: Any) -> None:
        super().__init__(path=path, indices=indices)
        self.a_in = InPort(shape=(neurons,))


class FusedProgram(AbstractProcess):
    """A whole `Program`: input spikes of one token in, values of every traced signal out, in the same step."""

    def __init__(self, *, program: Program) -> None:
        super().__init__(program=program)
        self.s_in = InPort(shape=(program.inputs[0].size,))
        self.s_out = OutPort(shape=(sum(program.signals[n].size for n in program.traced),))


@implements(proc=FileSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFileSource(PyLoihiProcessModel):
    """Model of `FileSource`."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._rows = np.load(proc_params["path"], mmap_mode="r")

    def run_spk(self) -> None:
        self.s_out.send(np.array(self._rows[(self.time_step - 1) % len(self._rows)]))


@implements(proc=FileSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFileSink(PyLoihiProcessModel):
    """Model of `FileSink`."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._rows = np.load(proc_params["path"], mmap_mode="r+")
        self._indices = proc_params["indices"]

    def run_spk(self) -> None:
        self._rows[(self.time_step - 1) % len(self._rows)] = self.a_in.recv()[self._indices]


@implements(proc=FusedProgram, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFusedProgram(PyLoihiProcessModel):
    """Model of `FusedProgram`."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._engine = Engine(proc_params["program"])

    def run_spk(self) -> None:
        self.s_out.send(self._engine.step(self.s_in.recv()))
