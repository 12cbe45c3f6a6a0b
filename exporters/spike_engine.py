"""What the backends of the spike engine share: a session that runs a loaded program, and its counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.program import Conv2d, Linear, Program, reference

MESSAGE_TOKENS = 64  # of one request to the engine: each request has its own time-out


@dataclass(frozen=True)
class SynapticEvents:
    """Work of one Linear or Conv2d in a run, counted by the engine.

    rows: source neurons and tokens whose count is not 0 (for each, a Linear fetches its weight row); additions:
    accumulations of one weight (each once for each set bit of the count; of a Conv2d, those whose tap reaches an
    output).
    """

    rows: int
    additions: int


class Engine(Protocol):
    """An engine with an image loaded."""

    def run(self, spikes: NDArray[np.integer], traced: bool) -> NDArray[np.uint32]:
        """Advance by spikes (tokens, neurons): the ports of every token, then two 64-bit counters per op, summed."""
        ...

    def reset(self) -> None:
        """Back to the silent start."""
        ...


E = TypeVar("E", bound=Engine)


class EngineSession(Generic[E]):
    """An engine with the program loaded."""

    def __init__(self, program: Program, engine: E) -> None:
        self.program, self.engine = program, engine
        self._counters = np.zeros((len(program.ops), 2), np.int64)

    def run(self, spikes: NDArray[np.integer], traced: bool) -> dict[str, NDArray[np.int64]]:
        """Advance by spikes (tokens, neurons): the values (tokens, size) of the traced signals, or of the outputs only.

        Raises:
            InputError: the spikes do not fit the program.
            BackendError: the engine crashed or hung.
        """
        checked = reference.check_inputs(self.program, spikes)
        names = [n for n in self.program.traced if traced or n in self.program.outputs]
        ends = np.cumsum([self.program.signals[n].size for n in names])
        values = np.empty((len(checked), ends[-1]), np.int32)
        for first in range(0, len(checked), MESSAGE_TOKENS):
            block = checked[first : first + MESSAGE_TOKENS]
            ports, counters = np.split(self.engine.run(block, traced), [len(block) * ends[-1]])
            values[first : first + len(block)] = ports.view(np.int32).reshape(len(block), -1)
            self._counters += counters.view(np.int64).reshape(-1, 2)
        return {n: part.astype(np.int64) for n, part in zip(names, np.split(values, ends[:-1], axis=1), strict=True)}

    def step(self, spikes: NDArray[np.integer]) -> NDArray[np.int64]:
        """The first output, (neurons,), for the spikes (neurons,) of the next token. Raises as `run`."""
        values: NDArray[np.int64] = self.run(np.asarray(spikes)[None], traced=False)[self.program.outputs[0]][0]
        return values

    def reset(self) -> None:
        """A silent start again; the counters stay. Raises BackendError as `run`."""
        self.engine.reset()

    def synaptic_events(self) -> dict[str, SynapticEvents]:
        """What each Linear and Conv2d has done so far."""
        work = zip(self.program.ops, self._counters.tolist(), strict=True)
        return {op.name: SynapticEvents(*events) for op, events in work if isinstance(op, Linear | Conv2d)}
