"""NIR graphs as plain data: nodes by name, edges, metadata, as `nir.NIRGraph` has them, arrays loaded when used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError

DT = float(np.float32(1e-4))  # seconds per step, the field's de-facto value (snnTorch, norse examples)
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LazyArray:
    """A dataset of a file, loaded when numpy asks for it."""

    path: Path
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        try:
            with h5py.File(self.path, "r") as file:
                loaded: NDArray[Any] = file[self.dataset][()]
        except (OSError, RuntimeError, KeyError, MemoryError) as error:
            raise GraphError(
                f"{self.path}: {self.dataset} is not readable ({error}); the file may be truncated or corrupt, export "
                "it again"
            ) from error
        return loaded if dtype is None else loaded.astype(dtype)


@dataclass(frozen=True, eq=False)
class Node:
    """One NIR primitive: its type name and parameters (arrays, LazyArrays, ints or strings)."""

    type: str
    parameters: dict[str, Any]

    def array(self, name: str) -> NDArray[Any]:
        """A parameter as an array, loaded now."""
        return np.asarray(self.parameters[name])


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes by name, edges (source, target), metadata (nested str / int / float / array)."""

    nodes: dict[str, Node | Graph]
    edges: tuple[tuple[str, str], ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    origin: Path | None = None


def predecessors(graph: Graph) -> dict[str, list[str]]:
    """Sources of each node, sorted by name (fan-in is a sum, so their order carries no meaning)."""
    found: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in sorted(graph.edges):
        found[b].append(a)
    return found


def walk(graph: Graph, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Every primitive with its dotted name."""
    for name, node in graph.nodes.items():
        if isinstance(node, Graph):
            yield from walk(node, f"{prefix}{name}.")
        else:
            yield prefix + name, node


def chain(*names: str) -> list[tuple[str, str]]:
    """Edges that connect ``names`` one after the other."""
    return list(pairwise(names))
