"""What is known of a signal before a program runs: its size, its worst case, the widths that are declared for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError

Ints = NDArray[Any]


@dataclass(frozen=True)
class Signal:
    """Static knowledge of one signal. low, high: (size,) worst-case interval; spikes: a count, not a potential."""

    size: int
    low: Ints
    high: Ints
    spikes: bool

    @property
    def bits(self) -> int:
        """Width in bits of the two's complement number that holds the interval."""
        return width(int(self.low.min()), int(self.high.max()))

    @property
    def largest(self) -> int:
        """Largest magnitude of any neuron."""
        return max(-int(self.low.min()), int(self.high.max()), 0)


def between(size: int, low: int, high: int) -> Signal:
    """Spikes of ``size`` neurons with one interval."""
    return Signal(size, np.full(size, low, np.int64), np.full(size, high, np.int64), True)


@dataclass(frozen=True)
class Widths:
    """Declared widths in bits: potentials and states, and the comparator of `Count`.

    Raises:
        GraphError: a width that no backend has.
    """

    potential: int = 24
    comparator: int = 32

    def __post_init__(self) -> None:
        if not (2 <= self.potential <= 40 and 2 <= self.comparator <= 64):
            raise GraphError(
                "widths must be 2..40 bits for potentials and 2..64 for the comparator, "
                f"got {self.potential} and {self.comparator}"
            )


DEFAULT_WIDTHS = Widths()


def width(low: int, high: int) -> int:
    """Bits of the narrowest two's complement (low < 0) or unsigned number that holds [low, high]."""
    if low >= 0:
        return max(1, high.bit_length())
    return 1 + max((-low - 1).bit_length(), max(high, 0).bit_length())
