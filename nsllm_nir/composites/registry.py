"""All composites: subgraphs of standard NIR primitives that name themselves in their metadata.

Every number is read from the primitives, and `block_numbers` rebuilds the subgraph and compares before it trusts the
name.
A new block of a layer is one member of `BlockNumbers` here, beside its own file and its torch module
(``language_model/blocks/PART.py``).
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from nsllm_nir.composites.attention import AttentionNumbers
from nsllm_nir.composites.final import FinalNumbers
from nsllm_nir.composites.mixer import MixerNumbers
from nsllm_nir.composites.primitives import Composite, ResidualComposite
from nsllm_nir.errors import GraphError
from nsllm_nir.graph import Graph, Node

VERSION = 1
BlockNumbers = AttentionNumbers | MixerNumbers | FinalNumbers
COMPOSITES: dict[str, type[BlockNumbers]] = {kind.OP: kind for kind in get_args(BlockNumbers)}
BLOCKS: dict[str, type[ResidualComposite]] = {
    kind.PART: kind for kind in COMPOSITES.values() if issubclass(kind, ResidualComposite)
}


def block_graph(numbers: Composite) -> Graph:
    """The composite subgraph of a block: one Input, one Output, standard primitives, naming metadata."""
    nodes, edges = numbers.primitives()
    return Graph(nodes, tuple(sorted(edges)), {"nsllm_nir": {"op": numbers.OP, "version": VERSION}})


def composite_op(graph: Graph) -> str | None:
    """The composite that the metadata names, or None."""
    entry = graph.metadata.get("nsllm_nir")
    return str(entry["op"]) if isinstance(entry, dict) and "op" in entry else None


def is_version(version: Any) -> bool:
    """Whether metadata, a number or a 0-d array, name the version that this release reads and writes."""
    return bool(np.ndim(version) == 0 and version == VERSION)


def block_numbers(graph: Graph, where: str) -> BlockNumbers:
    """The integers of a composite subgraph, after checking that its primitives compute what its name says.

    Raises:
        GraphError: unknown composite or version, or primitives that differ from the composite's definition.
    """
    op = composite_op(graph)
    version = graph.metadata["nsllm_nir"].get("version") if op else None
    if op not in COMPOSITES or not is_version(version):
        raise GraphError(
            f"{where}: composite {op!r} version {version} is unknown; delete its metadata to run the primitives"
        )
    try:
        numbers = COMPOSITES[op].read(graph)
        expected = block_graph(numbers)
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        raise GraphError(f"{where}: its metadata says {op}, but its primitives lack or distort {error}") from error
    _compare(graph, expected, where, op)
    return numbers


def _compare(found: Graph, expected: Graph, where: str, op: str) -> None:
    if set(found.nodes) != set(expected.nodes):
        odd = sorted(set(found.nodes) ^ set(expected.nodes))
        raise GraphError(f"{where}: its metadata says {op}, but the node {odd[0]!r} is missing or extra")
    if sorted(found.edges) != sorted(expected.edges):
        edge = sorted(set(found.edges) ^ set(expected.edges))
        raise GraphError(
            f"{where}: its metadata says {op}, but the edge {edge[0] if edge else 'list'} is missing, extra or doubled"
        )
    for name, want in expected.nodes.items():
        have = found.nodes[name]
        if not isinstance(want, Node) or not isinstance(have, Node) or have.type != want.type:
            kind = getattr(want, "type", "NIRGraph")
            raise GraphError(f"{where}.{name}: its metadata says {op}, but this is not the {kind} it should be")
        for key, value in want.parameters.items():
            if key == "weight" and want.type in ("Linear", "Affine"):
                continue  # free parameters, taken from the file itself
            if not np.array_equal(np.asarray(value), np.asarray(have.parameters.get(key))):
                raise GraphError(
                    f"{where}.{name}: its metadata says {op}, but the parameter {key!r} does not fit that composite"
                )
