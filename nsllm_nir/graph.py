"""NIR graphs as plain data, read lazily from and streamed to NIR's HDF5 layout.

`Graph` mirrors `nir.NIRGraph` (nodes by name, edges, metadata) without loading arrays; the files are
those that `nir.write` produces (checked against nir 1.0.8), so any `nir.read` opens them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
from numpy.typing import NDArray

from .errors import GraphError
from .hdf5_guard import Sink, Source, dataset, member, open_file

UNTIMED = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
UNTIMED.set_obj_track_times(False)  # no time stamps, for equal bytes
SMALL = 4096  # elements; larger parameters are not compared
Stored = dict[Any, tuple[h5py.h5g.GroupID, bytes]]
DT = float(np.float32(1e-4))  # seconds per step, the field's de-facto value (snnTorch, norse examples)
PARAMETERS: dict[str, tuple[str, ...]] = {
    "Input": ("shape",),
    "Output": ("shape",),
    "Affine": ("weight", "bias"),
    "Linear": ("weight",),
    "Scale": ("scale",),
    "Conv1d": ("input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"),
    "Conv2d": ("input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"),
    "SumPool2d": ("kernel_size", "stride", "padding"),
    "AvgPool2d": ("kernel_size", "stride", "padding"),
    "Flatten": ("start_dim", "end_dim"),
    "Delay": ("delay",),
    "Threshold": ("threshold",),
    "LI": ("tau", "r", "v_leak"),
    "I": ("r",),
    "IF": ("r", "v_threshold", "v_reset"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
}
# Older nir versions leave these out; convolutions may leave their input shape to inference.
OPTIONAL = {
    *((kind, "v_reset") for kind in ("IF", "LIF", "CubaLIF")),
    *((kind, "w_in") for kind in ("CubaLI", "CubaLIF")),
    *((kind, "input_shape") for kind in ("Conv1d", "Conv2d")),
}
DEPTH = 64  # of subgraphs and metadata in each other
EAGER = 1 << 26  # bytes beyond its own size that a file's edges, metadata and scalars may take


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
                f"{self.path}: {self.dataset} is not readable ({error}); the file may be truncated or corrupt, export it again"
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


class GraphWriter:
    """Streams a graph into a file: nodes one by one, then the edges. The old file stays until all is written.

    Use as a context manager; an exception removes the temporary file. Equal graphs give equal bytes
    when their nodes come in alphabetical order.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise GraphError(f"cannot write {self.path}: the folder {self.path.parent} does not exist")
        self.edges: list[tuple[str, str]] = []
        self.stored: Stored = {}

    def __enter__(self) -> GraphWriter:
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        except OSError as error:
            raise self._failure(error) from error
        self.temporary, self.sink = Path(name), Sink(handle)
        try:
            self.file = h5py.File(self.sink, "w")
        except OSError as error:
            self.sink.close()
            self.temporary.unlink()
            raise self._failure(error) from error
        self.file.create_dataset("version", data=nir.version, dtype=h5py.string_dtype())
        self.group = self.file.create_group("node")
        self.nodes = self.group.create_group("nodes")
        return self

    def add(self, name: str, node: Node | Graph) -> None:
        """Write one node of the top level."""
        _check_name(name)
        _write_node(self.nodes, name, node, self.stored)
        if self.sink.error:
            raise self.sink.error

    def connect(self, *edges: tuple[str, str]) -> None:
        self.edges += edges

    def finish(self, metadata: dict[str, Any]) -> None:
        """Write the edges (sorted) and metadata of the top level."""
        _write_graph_tail(self.group, sorted(self.edges), metadata)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        failure = error
        try:
            self.file.close()
            failure = failure or self.sink.close()
            if failure is None:
                os.chmod(self.temporary, 0o666 & ~_umask())
                os.replace(self.temporary, self.path)
        except OSError as late:
            failure = failure or late
        finally:
            self.sink.close()
            self.temporary.unlink(missing_ok=True)
        if isinstance(failure, OSError):
            raise self._failure(failure) from failure

    def _failure(self, error: OSError) -> GraphError:
        return GraphError(f"cannot write {self.path}: {error}; the old file, if any, is unchanged")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _check_name(name: str) -> None:
    if not name or "/" in name:
        raise GraphError(f"node name {name!r}: NIR node names must not be empty or hold a slash")


def write(path: Path | str, graph: Graph) -> None:
    """Write a graph that is in memory; equal graphs give equal bytes."""
    with GraphWriter(Path(path)) as writer:
        for name, node in sorted(graph.nodes.items()):
            writer.add(name, node)
        writer.connect(*graph.edges)
        writer.finish(graph.metadata)


def _write_node(parent: h5py.Group, name: str, node: Node | Graph, stored: Stored) -> None:
    group = _group(parent, name)
    if isinstance(node, Graph):
        nodes = _group(group, "nodes")
        for child, inner in sorted(node.nodes.items()):
            _check_name(child)
            _write_node(nodes, child, inner, stored)
        _write_graph_tail(group, sorted(node.edges), node.metadata)
        return
    for key, value in sorted({**node.parameters, "type": node.type}.items()):
        # Strings as variable-length UTF-8, as `nir.write` stores them.
        array = np.array(value, dtype=h5py.string_dtype()) if isinstance(value, str) else np.asarray(value, order="C")
        _write_array(group, key.encode(), array, stored)


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    return h5py.Group(h5py.h5g.create(parent.id, name.encode()))


def _write_array(group: h5py.Group, name: bytes, array: NDArray[Any], stored: Stored) -> None:
    """One dataset; small equal ones are stored once and linked, which spares most of a file's objects.

    The low-level calls do what `Group.create_dataset` does, without its search for defaults. There is no
    compression: packing random integer weights would dominate the export.
    """
    content = (
        (array.dtype.str, array.shape, str(array) if array.dtype == object else array.tobytes())
        if array.size <= SMALL
        else None
    )
    if content in stored:
        group.id.links.create_hard(name, *stored[content])
        return
    space = h5py.h5s.create_simple(array.shape) if array.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(group.id, name, h5py.h5t.py_create(array.dtype, logical=True), space, UNTIMED)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)
    if content is not None:
        stored[content] = (group.id, name)


def _write_graph_tail(group: h5py.Group, edges: list[tuple[str, str]], metadata: dict[str, Any]) -> None:
    group.create_dataset("type", data="NIRGraph", dtype=h5py.string_dtype())
    group.create_dataset("edges", data=[list(edge) for edge in edges], dtype=h5py.string_dtype())
    if metadata:
        _write_metadata(group.create_group("metadata"), metadata)


def _write_metadata(group: h5py.Group, metadata: dict[str, Any]) -> None:
    for key, value in sorted(metadata.items()):
        if isinstance(value, dict):
            _write_metadata(group.create_group(key), value)
        elif isinstance(value, str):
            group.create_dataset(key, data=value, dtype=h5py.string_dtype())
        else:
            group.create_dataset(key, data=value)


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
    except (
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
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
                f"{group.name}/{name}: edges and metadata up to here take {EAGER >> 20} MiB more than the file; store each array once"
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
        if kind not in PARAMETERS:
            raise GraphError(
                f"{where}: node type {kind!r} is not supported; supported are {', '.join(sorted(PARAMETERS))} and NIRGraph"
            )
        parameters: dict[str, Any] = {}
        for name in PARAMETERS[kind]:
            if name not in group:
                if (kind, name) in OPTIONAL:
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
        if kind not in PARAMETERS:
            raise GraphError(
                f"{name}: node type {kind!r} is not supported; supported are {', '.join(sorted(PARAMETERS))} and NIRGraph"
            )
        if kind in ("Input", "Output"):
            return Node(kind, {"shape": np.asarray(next(iter(getattr(node, f"{kind.lower()}_type").values())))})
        return Node(kind, {p: getattr(node, p) for p in PARAMETERS[kind] if getattr(node, p, None) is not None})

    out = convert("graph", graph)
    assert isinstance(out, Graph)
    return out


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
