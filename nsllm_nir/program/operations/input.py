"""`Input`: spikes from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from nsllm_nir.program.operations.base import Int64, Operation, State, Values
from nsllm_nir.program.signals import Signal, between


@dataclass(frozen=True, eq=False)
class Input(Operation):
    """External spikes: ``size`` neurons, each with a count in [0, levels] per token."""

    size: int
    levels: int = 1

    @classmethod
    def example(cls, name: str, source: str) -> Self:
        return cls(name, 4)

    def interval(self, operands: Sequence[Signal]) -> Signal:
        if self.size < 1 or self.levels < 1:
            raise self.error(f"size and levels must be at least 1, got {self.size} and {self.levels}")
        return between(self.size, 0, self.levels)

    def hardware(self, signal: Signal) -> Counter[str]:
        return Counter(move=signal.size)

    def compute(self, x: Values, state: State) -> Int64:
        return x[self.name]
