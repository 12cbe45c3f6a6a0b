"""Reads NIR files lazily: names, types, shapes and edges are checked at once, arrays load when numpy asks for them."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np

from nsllm_nir.errors import GraphError
from nsllm_nir.graph.hdf5_guard import FAILURES, Source, dataset, member, open_file
from nsllm_nir.graph.nir_graph import Graph, LazyArray, Node
from nsllm_nir.graph.node_kinds import known

DEPTH = 64  # of subgraphs and metadata in each other
EAGER = 1 << 26  # bytes beyond its own size that a file's edges, metadata and scalars may take


def as_graph(source: Graph | nir.NIRGraph | str | Path) -> Graph:
    """A `Graph` from a file (lazily), a `nir.NIRGraph`, or a `Graph`; raises GraphError."""
    if isinstance(source, Graph):
        return source
    return from_nir_object(source) if isinstance(source, nir.NIRGraph) else read(source)


def from_nir_object(graph: nir.NIRGraph) -> Graph:
    """Take over a `nir.NIRGraph` that is in memory.

    Raises:
        GraphError: unknown node type.
    """

    def convert(name: str, node: Any) -> Node | Graph:
        if isinstance(node, nir.NIRGraph):
            return Graph(
                {k: convert(f"{name}.{k}", v) for k, v in node.nodes.items()},
                tuple(map(tuple, node.edges)),
                dict(node.metadata),
            )
        kind = type(node).__name__
        names = known(kind, name).parameters
        if kind in ("Input", "Output"):
            return Node(kind, {"shape": np.asarray(next(iter(getattr(node, f"{kind.lower()}_type").values())))})
        return Node(kind, {p: _plain(getattr(node, p)) for p in names if getattr(node, p, None) is not None})

    out = convert("graph", graph)
    assert isinstance(out, Graph)
    return out


def _plain(value: Any) -> Any:
    """Torch tensors as arrays, also those that need gradients; everything else as it is."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def read(path: Path | str) -> Graph:
    """Open a NIR file lazily: names, types, shapes and edges are checked now, arrays load when used.

    Raises:
        GraphError: missing, truncated, corrupt or non-NIR file, unknown node type, missing parameter, dangling edge.
    """
    path = Path(path)
    if not path.is_file():
        raise GraphError(f"{path} is a folder, not a NIR file" if path.is_dir() else f"{path}: no such file")
    try:
        with open_file(path) as source:
            if "node" not in source.file:
                raise GraphError(f"{path} is an HDF5 file but not a NIR file (it has no group 'node')")
            graph = _Reader(path, source, source.size + EAGER).graph(member(source.file, "node"), "graph", 0)
    except FAILURES as error:
        if isinstance(error, GraphError):
            raise
        raise GraphError(
            f"{path} is not a readable NIR file ({error}); it may be truncated or corrupt, export it again"
        ) from error
    return Graph(graph.nodes, graph.edges, graph.metadata, path)


@dataclass
class _Reader:
    """One reading of a file. room: bytes that may still be loaded; groups: addresses of those met so far.

    A file in which one group or data set stands in many places could be small and its graph enormous.
    """

    path: Path
    source: Source
    room: int
    groups: set[int] = field(default_factory=set)

    def graph(self, group: h5py.Group, where: str, depth: int) -> Graph:
        self._enter(group, depth)
        kind = self._text(group, "type")
        if kind != "NIRGraph":
            raise GraphError(f"{where}: expected a NIRGraph, found {kind!r}")
        children = member(group, "nodes")
        self._enter(children, depth)
        nodes = {name: self._node(member(children, name), f"{where}.{name}", depth + 1) for name in children}
        edges = self._edges(group)
        for edge, times in Counter(edges).items():
            if times > 1:
                raise GraphError(f"{where}: the edge {edge} is listed twice")
        for a, b in edges:
            for end in (a, b):
                if end not in nodes:
                    raise GraphError(f"{where}: the edge {a!r} -> {b!r} names a node {end!r} that does not exist")
        return Graph(nodes, edges, self._metadata(member(group, "metadata"), depth) if "metadata" in group else {})

    def _enter(self, group: h5py.Group, depth: int) -> None:
        if depth > DEPTH:
            raise GraphError(f"{group.name} lies more than {DEPTH} subgraphs deep")
        address = h5py.h5o.get_info(group.id).addr
        if address in self.groups:
            raise GraphError(f"{group.name} stands in the file a second time; store every node and subgraph once")
        self.groups.add(address)

    def _value(self, group: h5py.Group, name: str) -> Any:
        found = self.source.value(group, name)
        self.room -= sys.getsizeof(found) if isinstance(found, str) else np.asarray(found).nbytes
        if self.room < 0:
            raise GraphError(
                f"{group.name}/{name}: edges and metadata up to here take {EAGER >> 20} MiB more than the file; store "
                "each array once"
            )
        return found

    def _text(self, group: h5py.Group, name: str) -> str:
        data = dataset(group, name)
        if data.shape != ():
            raise GraphError(f"{data.name} has shape {data.shape}, expected one text")
        return str(self._value(group, name))

    def _edges(self, group: h5py.Group) -> tuple[tuple[str, str], ...]:
        if not dataset(group, "edges").size:
            return ()
        return tuple((a.decode("utf8"), b.decode("utf8")) for a, b in self._value(group, "edges"))

    def _metadata(self, group: h5py.Group, depth: int) -> dict[str, Any]:
        self._enter(group, depth)
        items = {key: member(group, key) for key in group}
        return {
            key: self._metadata(item, depth + 1) if isinstance(item, h5py.Group) else self._value(group, key)
            for key, item in items.items()
        }

    def _node(self, group: h5py.Group, where: str, depth: int) -> Node | Graph:
        kind = self._text(group, "type")
        if kind == "NIRGraph":
            return self.graph(group, where, depth)
        declared = known(kind, where)
        parameters: dict[str, Any] = {}
        for name in declared.parameters:
            if name not in group:
                if name in declared.optional:
                    continue
                raise GraphError(f"{where}: the {kind} node lacks the parameter {name!r}")
            data = dataset(group, name)
            if data.shape and data.dtype.kind not in "biuf":
                raise GraphError(f"{where}: the parameter {name!r} holds text, expected numbers")
            if data.shape and data.size:
                data[tuple(0 for _ in data.shape)]  # touch it: a truncated file fails here, not in the middle of a run
                parameters[name] = LazyArray(self.path, data.name, data.shape, data.dtype)
            else:
                parameters[name] = self._value(group, name)
        return Node(kind, parameters)
