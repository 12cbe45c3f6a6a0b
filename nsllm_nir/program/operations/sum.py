"""`Sum`: the fan-in of several signals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from nsllm_nir.program.operations.base import Int64, Operation, State, Values, same_size
from nsllm_nir.program.signals import Ints, Signal
from nsllm_nir.program.wide import added


@dataclass(frozen=True, eq=False)
class Sum(Operation):
    """Elementwise sum of ``sources`` (fan-in of NIR edges, residual stream) plus a constant ``bias`` (neurons,)."""

    sources: tuple[str, ...]
    bias: Ints

    @classmethod
    def example(cls, name: str, source: str) -> Self:
        return cls(name, (source, source), np.array([0, 1, -1, 2], np.int32))

    def interval(self, operands: Sequence[Signal]) -> Signal:
        same_size(self, self.bias.size, operands)
        low, high = added([*(s.low for s in operands), self.bias]), added([*(s.high for s in operands), self.bias])
        return Signal(self.bias.size, low, high, False)

    def hardware(self, signal: Signal) -> Counter[str]:
        return Counter(add=signal.size * len(self.sources))

    def compute(self, x: Values, state: State) -> Int64:
        total: Int64 = np.sum([x[name] for name in self.sources], axis=0) + self.bias
        return total
