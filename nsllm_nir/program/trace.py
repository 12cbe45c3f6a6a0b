"""What a run returns: the spike counts of every node, and the comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError
from nsllm_nir.notebook import html_table


@dataclass(frozen=True, eq=False)
class Trace:
    """``values[node]``: int array (tokens, neurons); spike counts, or potentials for an output.

    A count c of a node with D levels stands for the binary train of D timesteps whose first c
    entries are 1 (thermometer order), so equal counts mean equal rasters; `raster` writes it out.
    """

    values: Mapping[str, NDArray[Any]]

    def raster(self, node: str, levels: int) -> NDArray[np.uint8]:
        """Binary spikes (tokens * levels, neurons) of an unsigned node, timesteps in thermometer order."""
        counts = self.values[node]
        steps = np.arange(1, levels + 1)[None, :, None]
        return (counts[:, None, :] >= steps).astype(np.uint8).reshape(-1, counts.shape[1])

    def _repr_html_(self) -> str:
        """In a notebook: one row per node."""
        rows = [
            (node, *v.shape, int(np.abs(v).sum()), *((int(v.min()), int(v.max())) if v.size else ("", "")))
            for node, v in self.values.items()
        ]
        return html_table("Trace", ("node", "steps", "neurons", "sum of magnitudes", "lowest", "highest"), rows)


@dataclass(frozen=True)
class Difference:
    """One differing cell: ``expected`` from the reference, ``actual`` from the backend."""

    node: str
    step: int
    neuron: int
    expected: int
    actual: int

    def __str__(self) -> str:
        return (
            f"node {self.node!r}, step {self.step}, neuron {self.neuron}: expected {self.expected}, got {self.actual}"
        )


@dataclass(frozen=True)
class NodeResult:
    """Comparison of one node: spikes that the backend counted, differing cells, the first of them."""

    node: str
    spikes: int
    differences: int
    first: Difference | None


def compare(expected: Trace, actual: Trace) -> list[NodeResult]:
    """Compare two aligned traces cell by cell, in the node order of ``expected``.

    Raises:
        BackendError: ``actual`` lacks a node or has another shape (a run that did not finish).
    """
    results = []
    for node, want in expected.values.items():
        if node not in actual.values:
            raise BackendError(f"the backend returned no trace for node {node!r}")
        got = actual.values[node]
        if got.shape != want.shape:
            raise BackendError(f"node {node!r}: the backend returned shape {got.shape}, the reference has {want.shape}")
        cells = np.argwhere(want != got)
        first = None
        if cells.size:
            step, neuron = (int(i) for i in cells[0])
            first = Difference(node, step, neuron, int(want[step, neuron]), int(got[step, neuron]))
        results.append(NodeResult(node, int(np.abs(got).sum()), len(cells), first))
    return results


def first_difference(results: list[NodeResult]) -> Difference | None:
    """The earliest difference: smallest step, then the node that comes first in the program."""
    found = [r.first for r in results if r.first]
    return min(found, key=lambda d: d.step) if found else None
