"""NIR graphs as plain data: reading, writing, time steps, files of spikes."""

from nsllm_nir.graph.nir_graph import (
    DT,
    PARAMETERS,
    Graph,
    LazyArray,
    Node,
    chain,
    from_nir_object,
    predecessors,
    walk,
)
from nsllm_nir.graph.reader import as_graph, read
from nsllm_nir.graph.writer import GraphWriter, write

__all__ = [
    "DT",
    "PARAMETERS",
    "Graph",
    "GraphWriter",
    "LazyArray",
    "Node",
    "as_graph",
    "chain",
    "from_nir_object",
    "predecessors",
    "read",
    "walk",
    "write",
]
