"""Arithmetic of worst cases that never wraps: int64 where it is certain to fit, else Python integers.

Every product, sum and shift of the interval analysis goes through `widened`, directly or by one of the other functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nsllm_nir.program.signals import Ints

SAFE = 1 << 62  # magnitudes below it are at least one bit away from the end of int64


def widened(bound: int, *arrays: Ints) -> tuple[Ints, ...]:
    """``arrays`` in int64, or as Python integers where ``bound``, on all that is computed of them, may leave int64."""
    return tuple(array.astype(np.int64 if bound < SAFE else object) for array in arrays)


def largest(*arrays: Ints) -> int:
    """The largest magnitude in ``arrays``."""
    return max((max(-int(a.min()), int(a.max()), 0) for a in arrays if a.size), default=0)


def shifted(values: Ints, shift: Ints | int) -> Ints:
    """``values << shift``, elementwise."""
    by = np.asarray(shift)
    wide, wide_by = widened(largest(values) << int(by.max()), values, by)
    result: Ints = wide << wide_by
    return result


def added(arrays: Sequence[Ints]) -> Ints:
    """Elementwise sum of ``arrays`` of equal shape."""
    wide = widened(sum(largest(a) for a in arrays), *arrays)
    total = wide[0]
    for array in wide[1:]:
        total = total + array
    return total


def extremes(weight: Ints, low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Lowest and highest (outputs,) of ``weight @ x`` for (outputs, inputs) weights and ``low <= x <= high``."""
    bound = weight.shape[1] * largest(weight) * largest(low, high)
    pos, neg, low, high = widened(bound, np.maximum(weight, 0), np.minimum(weight, 0), low, high)
    return pos @ low + neg @ high, pos @ high + neg @ low
