"""`Count`: the spike count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from nsllm_nir.program.constants import MAX_LEVELS
from nsllm_nir.program.operations.base import Int64, Operation, State, Values, same_size
from nsllm_nir.program.signals import Ints, Signal, Widths, between, width


@dataclass(frozen=True, eq=False)
class Count(Operation):
    """Spike count: the number of m in 1..levels with ``2 v > (2m - 1) step``.

    ``step`` is a constant (neurons,) > 0 or the name of a signal whose interval is > 0.
    ``signed`` subtracts the count of ``-v`` (ternary coding).
    """

    source: str
    step: Ints | str
    levels: int
    signed: bool = False

    @classmethod
    def example(cls, name: str, source: str) -> Self:
        return cls(name, source, np.array([1, 1, 2, 1], np.int32), 2)

    @property
    def bounds(self) -> tuple[int, int]:
        return -self.levels if self.signed else 0, self.levels

    def interval(self, operands: Sequence[Signal]) -> Signal:
        size = operands[0].size
        if self.levels < 1 or self.levels > MAX_LEVELS:
            raise self.error(f"levels must be in [1, {MAX_LEVELS}], got {self.levels}")
        if isinstance(self.step, str):
            same_size(self, size, operands)
            smallest = int(operands[1].low.min())
        else:
            if self.step.shape != (size,):
                raise self.error(f"step has shape {self.step.shape}, its source has {size} neurons")
            smallest = int(self.step.min())
        if smallest < 1:
            raise self.error(f"the step must be at least 1, its smallest value is {smallest}")
        return between(size, *self.bounds)

    def check_widths(self, operands: Sequence[Signal], widths: Widths) -> None:
        """The comparison holds ``2 v - (2 levels - 1) step``, and for a signed count that of ``-v``."""
        low, high = int(operands[0].low.min()), int(operands[0].high.max())
        step = int(operands[1].high.max()) if isinstance(self.step, str) else int(self.step.max())
        if self.signed:
            low, high = min(low, -high), max(high, -low)
        need = width(-1 - 2 * max(-low, 0) - (2 * self.levels - 1) * step, 2 * high)
        if need > widths.comparator:
            raise self.overflow(
                f": the comparison needs {need} bits, {widths.comparator} are declared; use a smaller step"
            )

    def hardware(self, signal: Signal) -> Counter[str]:
        n = signal.size
        return Counter(compare=n * self.levels * (1 + self.signed), add=n * self.levels, shift=2 * n)

    def compute(self, x: Values, state: State) -> Int64:
        step = x[self.step] if isinstance(self.step, str) else self.step.astype(np.int64)
        c = count(x[self.source], step, self.levels)
        return c - count(-x[self.source], step, self.levels) if self.signed else c


def count(v: Int64, step: Int64, levels: int) -> Int64:
    """The number of m in 1..levels with ``2 v > (2m - 1) step``, elementwise."""
    c = np.zeros_like(v)
    for m in range(1, levels + 1):
        c += 2 * v > (2 * m - 1) * step
    return c
