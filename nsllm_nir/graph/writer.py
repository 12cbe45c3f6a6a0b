"""Streams graphs into the HDF5 files that `nir.write` of nir 1.0.8 produces; equal graphs give equal bytes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import nir
import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError
from nsllm_nir.files import whole
from nsllm_nir.graph.hdf5_guard import Sink
from nsllm_nir.graph.nir_graph import Graph, Node

UNTIMED = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
UNTIMED.set_obj_track_times(False)  # no time stamps, for equal bytes
SMALL = 4096  # elements; larger parameters are not compared
Stored = dict[Any, tuple[h5py.h5g.GroupID, bytes]]


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
        with ExitStack() as stack:
            try:
                new = stack.enter_context(whole(self.path))
                self.sink = Sink(os.open(new, os.O_RDWR | os.O_CREAT, 0o666))
                stack.callback(self.sink.close)
                self.file = h5py.File(self.sink, "w")
            except OSError as error:
                raise self._failure(error) from error
            self.cleanup = stack.pop_all()
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
        """Remember edges (source, target); `finish` writes them."""
        self.edges += edges

    def finish(self, metadata: dict[str, Any]) -> None:
        """Write the edges (sorted) and metadata of the top level."""
        _write_graph_tail(self.group, sorted(self.edges), metadata)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = error
        try:
            self.file.close()
            failure = failure or self.sink.close()
        except OSError as late:
            failure = failure or late
        try:
            self.cleanup.__exit__(type(failure) if failure else None, failure, trace)
        except OSError as late:
            failure = failure or late
        if isinstance(failure, OSError):
            raise self._failure(failure) from failure

    def _failure(self, error: OSError) -> GraphError:
        return GraphError(f"cannot write {self.path}: {error}; the old file, if any, is unchanged")


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
