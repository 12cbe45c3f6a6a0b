"""The number formats that `quantize` rounds to: Loihi's, or narrower ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsllm_nir.errors import InputError
from nsllm_nir.quantization.float_nodes import Floats

LIMITS = {"weight_bits": (2, 8), "decay_bits": (1, 12), "threshold_bits": (2, 17)}


@dataclass(frozen=True)
class Formats:
    """Bits of weights (symmetric), decays and thresholds; the largest of each are those of Loihi. States hold 24 bits.

    Raises:
        InputError: a number of bits out of range.
    """

    weight_bits: int = 8
    decay_bits: int = 12
    threshold_bits: int = 17

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            if (bits := getattr(self, name)) not in range(low, high + 1):
                raise InputError(f"{name} must be in {low}..{high}, got {bits}")

    @property
    def largest_weight(self) -> int:
        """Largest magnitude of a weight."""
        return (1 << (self.weight_bits - 1)) - 1

    @property
    def largest_threshold(self) -> int:
        """Largest threshold, before the shift by 6 bits."""
        return (1 << self.threshold_bits) - 1

    def decay(self, rate: Floats) -> Floats:
        """Decays in 1/4096, the unit of the backends, of rates in [0, 1]."""
        rounded: Floats = np.rint(rate * (1 << self.decay_bits)) * (1 << (12 - self.decay_bits))
        return rounded
