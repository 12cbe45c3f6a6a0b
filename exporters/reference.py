"""Backend ``reference``: the numpy oracle behind the common protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.exporters import About
from nsllm_nir.program import Program, State, reference
from nsllm_nir.program.trace import Trace


@dataclass
class _Session:
    program: Program
    state: State = field(default_factory=dict)

    def step(self, spikes: NDArray[np.integer]) -> NDArray[np.int64]:
        row = reference.check_inputs(self.program, np.asarray(spikes)[None])[0]
        return reference.step(self.program, self.state, {self.program.inputs[0].name: row})[self.program.outputs[0]]

    def reset(self) -> None:
        self.state.clear()


@dataclass(frozen=True)
class _Executable:
    program: Program

    def run(self, inputs: NDArray[np.integer]) -> Trace:
        return reference.run(self.program, inputs)

    @contextmanager
    def open(self) -> Iterator[_Session]:
        yield _Session(self.program)


@dataclass(frozen=True)
class _Reference:
    name: str = "reference"
    about = About("plain numpy loops, int64", "every program", "nothing else", generates=True)

    def version(self) -> str:
        return f"numpy {np.__version__}"

    def compile(self, program: Program) -> _Executable:
        return _Executable(program)


backend = _Reference()
