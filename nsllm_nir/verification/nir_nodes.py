"""NIR nodes as the support matrix and the tests write them: time constants in steps, one for all neurons or each."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from nsllm_nir.graph import DT

Shape = int | tuple[int, ...]
Floats = NDArray[np.float64]


def full(shape: Shape, value: Any) -> Floats:
    """float64 of ``shape``, a copy of ``value`` (a number, or an array that broadcasts)."""
    return np.broadcast_to(np.asarray(value, np.float64), shape if isinstance(shape, tuple) else (shape,)).copy()


def lif(shape: Shape, k: Any, threshold: float = 1.0, r: Any = None, leak: float = 0.0, reset: float = 0.0) -> nir.LIF:
    """tau = k dt; r = k unless given, which is snnTorch's convention: the input enters with gain 1."""
    gain = full(shape, k if r is None else r)
    return nir.LIF(full(shape, k) * DT, gain, full(shape, leak), full(shape, threshold), full(shape, reset))


def li(shape: Shape, k: float) -> nir.LI:
    """tau = k dt, gain 1."""
    return nir.LI(full(shape, k * DT), full(shape, k), full(shape, 0))


def cuba(
    shape: Shape,
    synapse: float,
    membrane: float,
    threshold: float,
    leak: float = 0.0,
    r: float | None = None,
    w_in: float | None = None,
) -> nir.CubaLIF:
    """tau_syn = synapse dt, tau_mem = membrane dt; r and w_in unless given such that the input enters with gain 1."""
    taus = full(shape, synapse * DT), full(shape, membrane * DT)
    gain, scale = full(shape, membrane if r is None else r), full(shape, synapse if w_in is None else w_in)
    return nir.CubaLIF(*taus, gain, full(shape, leak), full(shape, threshold), v_reset=full(shape, 0), w_in=scale)


def cuba_li(shape: Shape, synapse: float, membrane: float) -> nir.CubaLI:
    """tau_syn = synapse dt, tau_mem = membrane dt, gain 1."""
    taus = full(shape, synapse * DT), full(shape, membrane * DT)
    return nir.CubaLI(*taus, full(shape, membrane), full(shape, 0), full(shape, synapse))


def integrate_and_fire(shape: Shape, threshold: float) -> nir.IF:
    """Gain 1: r = 1 / dt."""
    return nir.IF(full(shape, 1 / DT), full(shape, threshold), full(shape, 0))


def pool(kind: type[nir.SumPool2d] | type[nir.AvgPool2d] = nir.SumPool2d) -> nir.SumPool2d | nir.AvgPool2d:
    """Windows of 2 by 2 that do not overlap."""
    return kind(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))


def sequence(size: int | list[int], *nodes: nir.NIRNode) -> nir.NIRGraph:
    """An Input of ``size``, the nodes one after the other, an Output."""
    return nir.NIRGraph.from_list(nir.Input(np.array(size if isinstance(size, list) else [size])), *nodes)
