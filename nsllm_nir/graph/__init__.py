"""NIR graphs as plain data: reading, writing, time steps, files of spikes."""

from nsllm_nir.graph.nir_graph import DT, Graph, LazyArray, Node, Shape, chain, predecessors, walk
from nsllm_nir.graph.node_kinds import NODE_KINDS
from nsllm_nir.graph.reader import as_graph, from_nir_object, read
from nsllm_nir.graph.writer import GraphWriter, write

__all__ = [
    "DT",
    "NODE_KINDS",
    "Graph",
    "GraphWriter",
    "LazyArray",
    "Node",
    "Shape",
    "as_graph",
    "chain",
    "from_nir_object",
    "predecessors",
    "read",
    "walk",
    "write",
]
