"""A graph without nesting: subgraphs inlined, loops closed by a delay, nodes in execution order.

Cycles are found here, on the inlined graph, so that a subgraph means the same as its nodes in its place
(docs/semantics.md).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nsllm_nir.composites.registry import composite_op
from nsllm_nir.errors import GraphError
from nsllm_nir.graph import NODE_KINDS, Graph, Node, Shape
from nsllm_nir.graph.node_kinds import spike_shape, spikes

Edge = tuple[str, str]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Read:
    """One summand of a node's input; ``delayed``: its value of the step before."""

    source: str
    delayed: bool


@dataclass(frozen=True, eq=False)
class Net:
    """Primitives and composite blocks by dotted name, in execution order, without inner ports; and what each reads."""

    nodes: Mapping[str, Node | Graph]
    reads: Mapping[str, tuple[Read, ...]]
    metadata: dict[str, Any] = field(default_factory=dict)
    origin: Path | None = None

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Pairs (source, reader) of dotted names."""
        return tuple((read.source, name) for name, found in self.reads.items() for read in found)

    @property
    def graph(self) -> Graph:
        """As a graph of one level, which means the same."""
        return Graph(dict(self.nodes), tuple(sorted(self.edges)), self.metadata)

    def primitives(self) -> Iterator[tuple[str, Node]]:
        """Nodes in execution order; raises GraphError for a composite block."""
        for name, node in self.nodes.items():
            if isinstance(node, Graph):
                raise GraphError(
                    f"{name}: a block of a spiking language model is integer already; lower it without quantizing"
                )
            yield name, node


def inline(graph: Graph) -> Net:
    """All subgraphs inlined but composite blocks, under dotted names.

    Raises:
        GraphError: an unconnected node, ports that do not fit, a loop without a spiking node, two nodes of one
            dotted name.
    """
    nodes: dict[str, Node | Graph] = {}
    ports: dict[str, Node | Graph] = {}
    edges: list[Edge] = []
    _collect(graph, "", nodes, ports, edges)
    return connected(nodes, _without_ports(ports, edges), graph.metadata, graph.origin)


def connected(
    nodes: Mapping[str, Node | Graph], edges: list[Edge], metadata: dict[str, Any], origin: Path | None = None
) -> Net:
    """The net of nodes and edges of one level.

    Raises:
        GraphError: an unconnected node, or a loop without a spiking node.
    """
    delayed = _delayed_edges(nodes, edges)
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in sorted(edges):
        sources[b].append(a)
    order = _execution_order(nodes, [edge for edge in edges if edge not in delayed])
    for name in order:
        node = nodes[name]
        if not sources[name] and not (isinstance(node, Node) and node.type == "Input"):
            raise GraphError(f"{name}: the node has no input; connect or delete it")
    reads = {name: tuple(Read(source, (source, name) in delayed) for source in sources[name]) for name in order}
    return Net({name: nodes[name] for name in order}, reads, metadata, origin)


def _collect(
    graph: Graph, prefix: str, nodes: dict[str, Node | Graph], ports: dict[str, Node | Graph], edges: list[Edge]
) -> None:
    """Nodes by dotted name; the ports of subgraphs apart; edges between them, those of a subgraph at its ports."""
    inputs, outputs = check_ports(graph, prefix)
    inner: dict[str, Edge] = {}  # subgraph: its own ports
    for name, node in graph.nodes.items():
        where = prefix + name
        if where in nodes or where in ports:
            raise GraphError(f"{where}: two nodes have this dotted name; rename one")
        if isinstance(node, Graph) and composite_op(node) is None:
            _collect(node, f"{where}.", nodes, ports, edges)
            inner[name] = (f"{where}.{_port(node, 'Input')}", f"{where}.{_port(node, 'Output')}")
        else:
            (ports if prefix and name in (*inputs, *outputs) else nodes)[where] = node
    for a, b in graph.edges:
        edges.append((inner[a][1] if a in inner else prefix + a, inner[b][0] if b in inner else prefix + b))


def _port(graph: Graph, kind: str) -> str:
    return next(name for name, node in graph.nodes.items() if isinstance(node, Node) and node.type == kind)


def _without_ports(ports: Mapping[str, Node | Graph], edges: list[Edge]) -> list[Edge]:
    """Edges between nodes alone: what reads a port reads what the port reads."""
    into: dict[str, list[str]] = {name: [] for name in ports}
    for a, b in edges:
        if b in ports:
            into[b].append(a)
    sources: dict[str, list[str]] = {}
    for name in _execution_order(ports, [edge for edge in edges if edge[0] in ports and edge[1] in ports]):
        if not into[name]:
            raise GraphError(f"{name}: the node has no input; connect or delete it")
        sources[name] = [source for a in into[name] for source in sources.get(a, [a])]
    return [(source, b) for a, b in edges if b not in ports for source in sources.get(a, [a])]


def check_ports(graph: Graph, prefix: str) -> tuple[list[str], list[str]]:
    """Names of the Input and Output nodes.

    Raises GraphError for too few or too many, and for text where numbers belong.
    """
    ports = {
        kind: [n for n, node in graph.nodes.items() if isinstance(node, Node) and node.type == kind]
        for kind in ("Input", "Output")
    }
    for kind, names in ports.items():
        if not names or (prefix and len(names) > 1):
            raise GraphError(
                f"{prefix[:-1] or 'the graph'}: {'a subgraph needs one' if prefix else 'it has no'} {kind}, this one "
                f"has {len(names)}"
            )
    for a, b in graph.edges:
        if b in ports["Input"]:
            raise GraphError(f"{prefix}{b}: an Input node reads nothing; delete the edge from {a!r}")
    for name, node in graph.nodes.items():
        for key, value in node.parameters.items() if isinstance(node, Node) else ():
            if isinstance(value, str) and key != "padding":
                raise GraphError(f"{prefix}{name}: the parameter {key!r} holds text, expected numbers")
    return ports["Input"], ports["Output"]


def _delayed_edges(nodes: Mapping[str, Node | Graph], edges: list[Edge]) -> set[Edge]:
    """Edges of a cycle that leave a spiking node: they carry the step of delay that makes the loop well defined.

    An edge lies on a cycle exactly if both ends are in one strongly connected component.
    """
    component = _components(nodes, edges)
    return {(a, b) for a, b in edges if component[a] == component[b] and spikes(nodes[a])}


def _components(nodes: Mapping[str, Node | Graph], edges: list[Edge]) -> dict[str, int]:
    """Strongly connected components (iterative Kosaraju)."""
    out: dict[str, list[str]] = {n: [] for n in nodes}
    back: dict[str, list[str]] = {n: [] for n in nodes}
    for a, b in edges:
        out[a].append(b)
        back[b].append(a)
    finished: list[str] = []
    seen: set[str] = set()
    for root in nodes:
        stack = [(root, iter(out[root]))] if root not in seen else []
        seen.add(root)
        while stack:
            name, children = stack[-1]
            child = next((c for c in children if c not in seen), None)
            if child is None:
                finished.append(stack.pop()[0])
            else:
                seen.add(child)
                stack.append((child, iter(out[child])))
    component: dict[str, int] = {}
    for number, root in enumerate(reversed(finished)):
        todo = [root] if root not in component else []
        while todo:
            name = todo.pop()
            if name not in component:
                component[name] = number
                todo += back[name]
    return component


def _execution_order(nodes: Mapping[str, Node | Graph], edges: list[Edge]) -> list[str]:
    """Topological order, alphabetical among equals, so that it does not depend on how the file lists nodes."""
    waiting = dict.fromkeys(nodes, 0)
    out: dict[str, list[str]] = {n: [] for n in nodes}
    for a, b in edges:
        waiting[b] += 1
        out[a].append(b)
    ready = [n for n, count in waiting.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        name = heapq.heappop(ready)
        order.append(name)
        for b in out[name]:
            waiting[b] -= 1
            if not waiting[b]:
                heapq.heappush(ready, b)
    if len(order) != len(nodes):
        stuck = sorted(set(nodes) - set(order))
        raise GraphError(f"the graph: the cycle through {', '.join(stuck[:4])} has no spiking node that could delay it")
    return order


@contextmanager
def fitting(node: Node, where: str, shape: Shape) -> Iterator[None]:
    """Whatever numpy cannot do with the parameters of a node, or Python with their types, is a GraphError."""
    try:
        yield
    except GraphError:
        raise
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        raise GraphError(
            f"{where}: the parameters of this {node.type} do not fit each other or its input of shape {shape} ({error})"
        ) from error


def joined(
    reads: tuple[Read, ...], values: Callable[[Read], Item], shape: Callable[[Item], Shape], where: str
) -> list[Item]:
    """The summands of a node's input; raises GraphError where their shapes differ."""
    found = [values(read) for read in reads]
    if any(shape(item) != shape(found[0]) for item in found):
        shapes = ", ".join(f"{read.source} {shape(item)}" for read, item in zip(reads, found, strict=True))
        raise GraphError(f"{where}: its inputs have different shapes: {shapes}")
    return found


def shapes(net: Net) -> dict[str, Shape]:
    """Shape of what each primitive reads (of the port itself, for an Input).

    Raises:
        GraphError: shapes or parameters that do not fit, a composite block.
    """
    inner: dict[str, Shape] = {}
    outer: dict[str, Shape] = {}
    for name, node in net.primitives():
        if node.type == "Input":
            inner[name] = outer[name] = tuple(int(n) for n in node.array("shape").reshape(-1))
            continue

        def of(read: Read) -> Shape:
            source = net.nodes[read.source]
            return spike_shape(source) if read.delayed and isinstance(source, Node) else outer[read.source]

        inner[name] = joined(net.reads[name], of, lambda found: found, name)[0]
        with fitting(node, name, inner[name]):
            outer[name] = NODE_KINDS[node.type].output_shape(node, name, inner[name])
    return inner
