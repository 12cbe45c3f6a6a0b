"""`Delay`: an axonal delay, the only operation that may close a loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from nsllm_nir.program.operations.base import Int64, Operation, State, Values, same_size
from nsllm_nir.program.signals import Ints, Signal

ROOM = 64  # tokens by which a delay line grows at least


@dataclass(frozen=True, eq=False)
class Delay(Operation):
    """Axonal delay: neuron i repeats ``source`` of ``steps[i]`` tokens ago (0 before the start).

    Only where every step is >= 1 may the source be produced later in the program (recurrence).
    """

    source: str
    steps: Ints

    @classmethod
    def example(cls, name: str, source: str) -> Self:
        return cls(name, source, np.array([0, 1, 0, 2], np.int32))

    @property
    def recurrent(self) -> bool:
        return int(self.steps.min()) >= 1

    def interval(self, operands: Sequence[Signal]) -> Signal:
        (source,) = operands
        same_size(self, self.steps.size, operands)
        if self.steps.min() < 0:
            raise self.error(f"delays must be >= 0 tokens, got {self.steps.min()}")
        return Signal(source.size, np.minimum(source.low, 0), np.maximum(source.high, 0), source.spikes)

    def hardware(self, signal: Signal) -> Counter[str]:
        return Counter(move=signal.size)

    def compute(self, x: Values, state: State) -> Int64:
        late = state[self.name].read(self.steps) if self.name in state else np.zeros(self.steps.size, np.int64)
        return late if self.recurrent else np.where(self.steps == 0, x[self.source], late)

    def remember(self, x: Values, state: State) -> None:
        if self.name not in state:
            state[self.name] = _Line(int(self.steps.max()), self.steps.size)
        state[self.name].push(x[self.source])


class _Line:
    """The last ``longest`` rows of a signal, and older ones: room is made for many tokens at once."""

    def __init__(self, longest: int, neurons: int) -> None:
        self._longest = longest
        self._rows = np.zeros((0, neurons), np.int64)  # in the order of time; those from `_used` on are free
        self._used = 0

    def push(self, row: Int64) -> None:
        if self._used == len(self._rows):
            kept = self._rows[max(0, self._used - self._longest) :]
            self._rows = np.concatenate([kept, np.zeros((len(kept) + ROOM, row.size), np.int64)])
            self._used = len(kept)
        self._rows[self._used] = row
        self._used += 1

    def read(self, steps: Ints) -> Int64:
        """Neuron i of ``steps[i]`` tokens ago: 0 where that is before the start, or in this token."""
        ago = np.where(steps <= self._used, steps, 0).astype(np.int64)
        return np.where(ago > 0, self._rows[np.maximum(self._used - ago, 0) % len(self._rows), np.arange(ago.size)], 0)
