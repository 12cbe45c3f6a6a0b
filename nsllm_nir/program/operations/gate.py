"""`Gate`: a selection by a binary spike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from nsllm_nir.program.operations.base import Int64, Operation, State, Values, same_size
from nsllm_nir.program.signals import Signal


@dataclass(frozen=True, eq=False)
class Gate(Operation):
    """``source`` where the binary spike ``gate`` is 1, else 0 (a selection, no product)."""

    gate: str
    source: str

    @classmethod
    def example(cls, name: str, source: str) -> Self:
        return cls(name, source, source)

    def interval(self, operands: Sequence[Signal]) -> Signal:
        gate, source = operands
        same_size(self, source.size, operands)
        low, high = int(gate.low.min()), int(gate.high.max())
        if low < 0 or high > 1:
            raise self.error(f"the gate {self.gate!r} must be binary, its interval is [{low}, {high}]")
        return Signal(source.size, np.minimum(source.low, 0), np.maximum(source.high, 0), source.spikes)

    def hardware(self, signal: Signal) -> Counter[str]:
        return Counter(select=signal.size)

    def compute(self, x: Values, state: State) -> Int64:
        return np.where(x[self.gate] == 1, x[self.source], 0)
