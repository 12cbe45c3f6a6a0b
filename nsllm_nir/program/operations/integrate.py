"""`Integrate`: a leaky integrator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from nsllm_nir.program.constants import DECAY_BITS, DECAY_ONE, MAX_SHIFT
from nsllm_nir.program.operations.base import Int64, Operation, State, Values, same_size
from nsllm_nir.program.signals import Ints, Signal
from nsllm_nir.program.wide import shifted


@dataclass(frozen=True, eq=False)
class Integrate(Operation):
    """Leaky integrator: ``S = ((S * decay) >> 8) + (source << fraction_bits)``, output S.

    decay: (neurons,) of the form 256 - 2**j, j in 0..8: a shift and a subtraction, floor rounding.
    """

    source: str
    decay: Ints
    fraction_bits: int

    @classmethod
    def example(cls, name: str, source: str) -> Self:
        return cls(name, source, np.array([128, 192, 224, 240], np.int32), 4)

    def interval(self, operands: Sequence[Signal]) -> Signal:
        (source,) = operands
        same_size(self, self.decay.size, operands)
        leak = DECAY_ONE - self.decay.astype(np.int64)
        if (leak < 1).any() or (leak > DECAY_ONE).any() or (leak & (leak - 1)).any():
            raise self.error("decays must be 256 - 2**j with j in 0..8 (a shift and a subtraction)")
        if not 0 <= self.fraction_bits <= MAX_SHIFT:
            raise self.error(f"fraction bits must be in [0, {MAX_SHIFT}], got {self.fraction_bits}")
        # Fixed points of S = S c/256 + x; the floor adds at most one unit per step below zero.
        most, least = (shifted(end, self.fraction_bits + DECAY_BITS) for end in (source.high, source.low))
        high = np.where(source.high > 0, most // leak + 1, 0)
        low = np.where(source.low < 0, -((DECAY_ONE - least) // leak + 1), 0)
        return Signal(source.size, low, high, False)

    def hardware(self, signal: Signal) -> Counter[str]:
        return Counter(shift=3 * signal.size, add=2 * signal.size)

    def compute(self, x: Values, state: State) -> Int64:
        s: Int64 = state.get(self.name, np.zeros(self.decay.size, np.int64))
        s = ((s * self.decay.astype(np.int64)) >> DECAY_BITS) + (x[self.source] << self.fraction_bits)
        state[self.name] = s
        return s
