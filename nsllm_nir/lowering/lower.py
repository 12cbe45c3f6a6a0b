"""NIR graph to `Program`: composites become fused operations, every other primitive one operation each.

Conventions (docs/semantics.md): fan-in is a sum; edges that leave a spiking node inside a cycle carry
one step of delay; all values are integers, thresholds may be half-integers.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from nsllm_nir.composites.registry import block_numbers, composite_op
from nsllm_nir.errors import GraphError
from nsllm_nir.graph import Graph, Node, as_graph, predecessors
from nsllm_nir.lowering.node_rules import RULES, WEIGHT_LIMIT, Shape, depthwise, gain_shift, integers, linear
from nsllm_nir.program import DEFAULT_WIDTHS, Conv2d, Delay, Input, Linear, Op, Program, Sum, Widths

Ints = NDArray[Any]
SPIKING = ("Threshold", "IF", "LIF", "CubaLIF")
MAX_NEURONS = 1 << 24  # of one signal, and synapses of a convolution, so that
MAX_SYNAPSES = 1 << 32  # corrupt shapes neither fill the memory nor take hours
PORTABLE_WEIGHT_LIMIT = 1 << 21  # the portable profile folds thresholds of counts and states into its weights


def lower(
    source: Graph | nir.NIRGraph | str | Path,
    *,
    node: str | None = None,
    widths: Widths = DEFAULT_WIDTHS,
    input_levels: int = 1,
) -> Program:
    """Lower a NIR graph, or only its subgraph ``node``, to a program.

    Args:
        source: file path (arrays load when their node is lowered), `nir.NIRGraph` or `Graph`.
        node: name of one subgraph to lower alone; the rest of the file is not loaded.
        input_levels: largest input value per step; with ``node``, of the values that enter the subgraph.

    Raises:
        GraphError: unknown or inconsistent node, non-integer or non-finite numbers, a loop without a spiking node.
        IntegerOverflowError: a worst case exceeds ``widths``.
    """
    found = as_graph(source)
    if node is not None:
        inner = found.nodes.get(node)
        if not isinstance(inner, Graph):
            raise GraphError(
                f"{node!r} is not a subgraph; subgraphs are {', '.join(n for n, g in found.nodes.items() if isinstance(g, Graph))}"
            )
        size = _port_size(inner, "Input")
        ports = {"input": Node("Input", {"shape": [1, size]}), "output": Node("Output", {"shape": [1, 1]})}
        found = Graph({**ports, node: inner}, (("input", node), (node, "output")))
    info = found.metadata.get("nsllm_nir")
    portable = isinstance(info, dict) and info.get("profile") == "portable"
    state = _Lowering(input_levels, PORTABLE_WEIGHT_LIMIT if portable else WEIGHT_LIMIT)
    state.graph(found, "", [])
    return Program(tuple(state.ops), tuple(state.outputs), widths, found.origin)


@dataclass(frozen=True)
class _Wire:
    """What a node reads: a signal in a shape. A Flatten gives the signal in front of it another shape, for its own readers only.

    Raises:
        GraphError: more neurons than `MAX_NEURONS`.
    """

    signal: str
    shape: Shape

    def __post_init__(self) -> None:
        if self.size > MAX_NEURONS:
            raise GraphError(f"{self.signal}: {self.size:,} neurons of shape {self.shape}, allowed are {MAX_NEURONS:,}")

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass
class _Lowering:
    """Operations made so far, and the delayed spikes that loops read."""

    input_levels: int
    weight_limit: int
    ops: list[Op] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    loops: dict[str, _Wire] = field(default_factory=dict)

    def graph(self, graph: Graph, prefix: str, entry: list[_Wire]) -> _Wire:
        """Lower ``graph``; ``entry`` is what its Input node reads (nothing: it is the top level). Returns what its Output node passes on."""
        _check_ports(graph, prefix)
        sources = predecessors(graph)
        delayed = delayed_edges(graph)
        wires: dict[str, _Wire] = {}
        for name in execution_order(graph, delayed, prefix):
            node, where = graph.nodes[name], prefix + name
            if isinstance(node, Node) and node.type == "Input":
                wires[name] = self._input(node, where, entry)
                continue
            reads = [
                wires[s] if (s, name) not in delayed else self._loop(prefix + s, graph.nodes[s]) for s in sources[name]
            ]
            if not reads:
                raise GraphError(f"{where}: the node has no input; connect or delete it")
            if isinstance(node, Node) and node.type == "Output":
                out = wires[name] = self._sum(where, reads)
                if not entry:
                    self.outputs.append(out.signal)
            elif isinstance(node, Graph):
                wires[name] = self._subgraph(node, where, reads)
            elif node.type == "Scale" and (shift := gain_shift(node)) is not None:
                # A subgraph may pass a signal through: then others read the Linear behind it as well.
                alone = (
                    sum(a == sources[name][0] for a, _ in graph.edges) == 1
                    and reads[0].signal == prefix + sources[name][0]
                )
                wires[name] = self._power_of_two(shift, where, reads, alone)
            else:
                wires[name] = self._node(node, where, self._sum(where, reads))
        return out

    def _node(self, node: Node, where: str, source: _Wire) -> _Wire:
        shape: Shape
        try:
            if node.type in ("Affine", "Linear") and self.weight_limit > WEIGHT_LIMIT:
                ops, shape = (
                    linear(node, where, source.signal, self.weight_limit),
                    (int(node.parameters["weight"].shape[-2]),),
                )
            else:
                ops, shape = RULES[node.type](node, where, source.signal, source.shape)
        except GraphError:
            raise
        except (ArithmeticError, IndexError, TypeError, ValueError) as error:
            shown = f"{where}: the parameters of this {node.type} do not fit each other or its input of shape {source.shape}"
            raise GraphError(f"{shown} ({error})") from error
        wire = _Wire(ops[-1].name if ops else source.signal, shape)
        for op in ops:
            if isinstance(op, Conv2d) and math.prod(op.weight.shape[1:]) * wire.size > MAX_SYNAPSES:
                raise GraphError(
                    f"{where}: a kernel of {op.weight.shape} on {wire.size:,} neurons has more than {MAX_SYNAPSES:,} synapses"
                )
        self.ops += ops
        return wire

    def _power_of_two(self, shift: Ints, where: str, reads: list[_Wire], alone: bool) -> _Wire:
        """Power-of-two gains: the shift of the Linear in front where nothing else reads it, a plain sum where they are 1."""
        last = self.ops[-1] if self.ops else None
        if (
            len(reads) == 1
            and alone
            and isinstance(last, Linear)
            and last.name == reads[0].signal
            and not last.shift.any()
        ):
            self.ops[-1] = replace(last, shift=shift)
            return reads[0]
        if not shift.any():
            self.ops.append(Sum(where, tuple(read.signal for read in reads), np.zeros(shift.size, np.int32)))
        else:
            self.ops.append(depthwise(where, self._sum(where, reads).signal, np.ones(shift.size, np.int8), shift))
        return _Wire(where, reads[0].shape)

    def _input(self, node: Node, where: str, entry: list[_Wire]) -> _Wire:
        if entry:
            return self._sum(where, entry)
        shape = integers(node.array("shape"), where, "the shape", 1, MAX_NEURONS).reshape(-1)
        wire = _Wire(where, tuple(int(n) for n in shape))
        self.ops.append(Input(where, wire.size, self.input_levels))
        return wire

    def _subgraph(self, node: Graph, where: str, reads: list[_Wire]) -> _Wire:
        if composite_op(node) is None:
            return self.graph(node, where + ".", reads)
        source = self._sum(where, reads)
        ops = block_numbers(node, where).ops(where + ".", source.signal)
        self.ops += ops
        last = ops[-1]
        return _Wire(last.name, (1, last.weight.shape[0] if isinstance(last, Linear) else source.size))

    def _loop(self, source: str, node: Node | Graph) -> _Wire:
        """One step of delay on the edges that leave a spiking node inside a cycle."""
        if source not in self.loops:
            assert isinstance(node, Node)
            threshold = node.array("threshold" if node.type == "Threshold" else "v_threshold")
            self.ops.append(Delay(f"{source}.delay", source, np.ones(threshold.size, np.int32)))
            self.loops[source] = _Wire(f"{source}.delay", threshold.shape)
        return self.loops[source]

    def _sum(self, where: str, reads: list[_Wire]) -> _Wire:
        if len(reads) == 1:
            return reads[0]
        if any(read.shape != reads[0].shape for read in reads):
            raise GraphError(
                f"{where}: its inputs have different shapes: {', '.join(f'{read.signal} {read.shape}' for read in reads)}"
            )
        wire = _Wire(where + ".sum", reads[0].shape)
        self.ops.append(Sum(wire.signal, tuple(read.signal for read in reads), np.zeros(wire.size, np.int32)))
        return wire


def _check_ports(graph: Graph, prefix: str) -> None:
    ports = {
        kind: [n for n, node in graph.nodes.items() if isinstance(node, Node) and node.type == kind]
        for kind in ("Input", "Output")
    }
    for kind, names in ports.items():
        if not names or (prefix and len(names) > 1):
            raise GraphError(
                f"{prefix[:-1] or 'the graph'}: {'a subgraph needs one' if prefix else 'it has no'} {kind}, this one has {len(names)}"
            )
    for a, b in graph.edges:
        if b in ports["Input"]:
            raise GraphError(f"{prefix}{b}: an Input node reads nothing; delete the edge from {a!r}")
    for name, node in graph.nodes.items():
        for key, value in node.parameters.items() if isinstance(node, Node) else ():
            if isinstance(value, str) and key != "padding":
                raise GraphError(f"{prefix}{name}: the parameter {key!r} holds text, expected numbers")


def _port_size(graph: Graph, kind: str) -> int:
    return next(int(np.prod(n.array("shape"))) for n in graph.nodes.values() if isinstance(n, Node) and n.type == kind)


def delayed_edges(graph: Graph) -> set[tuple[str, str]]:
    """Edges of a cycle that leave a spiking node: they carry the step of delay that makes the loop well defined.

    An edge lies on a cycle exactly if both ends are in one strongly connected component.
    """
    component = _components(graph)
    delayed = set()
    for a, b in graph.edges:
        node = graph.nodes[a]
        if component[a] == component[b] and isinstance(node, Node) and node.type in SPIKING:
            delayed.add((a, b))
    return delayed


def _components(graph: Graph) -> dict[str, int]:
    """Strongly connected components (iterative Kosaraju)."""
    out: dict[str, list[str]] = {n: [] for n in graph.nodes}
    back: dict[str, list[str]] = {n: [] for n in graph.nodes}
    for a, b in graph.edges:
        out[a].append(b)
        back[b].append(a)
    finished: list[str] = []
    seen: set[str] = set()
    for root in graph.nodes:
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


def execution_order(graph: Graph, delayed: set[tuple[str, str]], prefix: str) -> list[str]:
    """Topological order, alphabetical among equals, so that it does not depend on how the file lists nodes."""
    waiting = dict.fromkeys(graph.nodes, 0)
    out: dict[str, list[str]] = {n: [] for n in graph.nodes}
    for a, b in graph.edges:
        if (a, b) not in delayed:
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
    if len(order) != len(graph.nodes):
        stuck = sorted(set(graph.nodes) - set(order))
        raise GraphError(
            f"{prefix[:-1] or 'the graph'}: the cycle through {', '.join(stuck[:4])} has no spiking node that could delay it"
        )
    return order
