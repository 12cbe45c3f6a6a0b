"""`Linear`: weights, a bias, a left shift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from nsllm_nir.program.constants import MAX_SHIFT, MAX_WEIGHT_BITS
from nsllm_nir.program.operations.base import Int64, Operation, State, Values
from nsllm_nir.program.signals import Ints, Signal
from nsllm_nir.program.wide import added, extremes, shifted

ROWS = 256  # of a block of weights: the analysis copies them to int64


@dataclass(frozen=True, eq=False)
class Linear(Operation):
    """``(weight @ source + bias) << shift``: accumulate the weight rows of the neurons that spiked.

    weight: (outputs, inputs) integers of at most 8 bits; bias: (outputs,); shift: (outputs,) in 0..31.
    """

    source: str
    weight: Ints
    bias: Ints
    shift: Ints

    @classmethod
    def example(cls, name: str, source: str) -> Self:
        weight = np.array([[3, -2, 1, 0], [-1, 4, 0, 2], [2, 2, -3, 1], [0, 1, 2, -4]], np.int8)
        return cls(name, source, weight, np.array([1, 0, -1, 2], np.int32), np.array([0, 1, 0, 2], np.uint8))

    def interval(self, operands: Sequence[Signal]) -> Signal:
        (source,) = operands
        outputs = self.bias.size
        if self.weight.shape != (outputs, source.size) or self.shift.shape != (outputs,):
            raise self.error(
                f"weight {self.weight.shape}, bias {self.bias.shape}, shift {self.shift.shape} "
                f"do not fit a source of {source.size} neurons"
            )
        check_weights(self, self.weight)
        check_shifts(self, self.shift)
        blocks = [extremes(self.weight[row : row + ROWS], source.low, source.high) for row in range(0, outputs, ROWS)]
        low, high = (
            shifted(added([np.concatenate(ends), self.bias]), self.shift) for ends in zip(*blocks, strict=True)
        )
        return Signal(outputs, low, high, False)

    def hardware(self, signal: Signal) -> Counter[str]:
        return Counter(add=int(self.weight.size) + signal.size, shift=signal.size)

    def compute(self, x: Values, state: State) -> Int64:
        """Sum the weight rows of the neurons that spiked, each as often as it spiked."""
        spikes = x[self.source]
        active = np.flatnonzero(spikes)
        potential: Int64 = self.weight[:, active].astype(np.int64) @ spikes[active] + self.bias
        return potential << self.shift.astype(np.int64)


def check_weights(op: Operation, weight: Ints) -> None:
    """Raises GraphError for weights that are not integers of 8 bits."""
    limit = 1 << (MAX_WEIGHT_BITS - 1)
    low, high = int(weight.min()), int(weight.max())
    if low < -limit or high >= limit:
        raise op.error(f"weights must be in [{-limit}, {limit - 1}], found [{low}, {high}]; quantize the model first")


def check_shifts(op: Operation, shift: Ints) -> None:
    """Raises GraphError for left shifts that no backend has."""
    if shift.min() < 0 or shift.max() > MAX_SHIFT:
        raise op.error(f"shifts must be in [0, {MAX_SHIFT}], found [{shift.min()}, {shift.max()}]")
