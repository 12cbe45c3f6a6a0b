"""NIR graph to `Program`: composites become fused operations, every other primitive one operation each.

Conventions (docs/semantics.md): fan-in is a sum; edges that leave a spiking node inside a cycle carry
one step of delay; all values are integers, thresholds may be half-integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import nir
import numpy as np

from nsllm_nir.composites.registry import block_numbers
from nsllm_nir.errors import GraphError
from nsllm_nir.graph import NODE_KINDS, Graph, Node, Shape, as_graph
from nsllm_nir.graph.node_kinds import per_neuron, spike_shape
from nsllm_nir.lowering.net import Net, Read, check_ports, fitting, inline, joined, shapes
from nsllm_nir.lowering.node_rules import RULES, WEIGHT_LIMIT, Constant, Form, Ints, depthwise, gain_shift
from nsllm_nir.program import DEFAULT_WIDTHS, Conv2d, Delay, Input, Linear, Op, Program, Sum, Widths

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
        widths: bits of potentials and of comparisons.
        input_levels: largest input value per step; with ``node``, of the values that enter the subgraph.

    Raises:
        GraphError: unknown or inconsistent node, non-integer or non-finite numbers, a loop without a spiking node.
        IntegerOverflowError: a worst case exceeds ``widths``.
    """
    found = as_graph(source)
    if node is not None:
        inner = found.nodes.get(node)
        if not isinstance(inner, Graph):
            names = ", ".join(name for name, other in found.nodes.items() if isinstance(other, Graph))
            raise GraphError(f"{node!r} is not a subgraph; subgraphs are {names}")
        (entry,), _ = check_ports(inner, f"{node}.")
        size = math.prod(_shape(inner.nodes[entry]))
        ports = {"input": Node("Input", {"shape": [1, size]}), "output": Node("Output", {"shape": [1, 1]})}
        found = Graph({**ports, node: inner}, (("input", node), (node, "output")))
    return lower_net(inline(found), widths=widths, input_levels=input_levels)


def lower_net(net: Net, *, widths: Widths = DEFAULT_WIDTHS, input_levels: int = 1) -> Program:
    """`lower` of an inlined graph; raises the same errors."""
    state = _Lowering(net, input_levels, weight_limit(net))
    state.run()
    return Program(tuple(state.ops), tuple(state.outputs), widths, net.origin)


def why_not_integer(net: Net) -> str:
    """Why integers do not hold a graph as it is, so that it has to be quantized; "" where they do.

    The first node, in execution order, whose numbers are no integers in the ranges of a program. What this project
    wrote is integer whatever it holds, and so is a graph with a composite block: there an error of `lower` is an error
    of the file.

    Raises:
        GraphError: shapes or parameters that do not fit.
    """
    if "nsllm_nir" in net.metadata or any(isinstance(node, Graph) for node in net.nodes.values()):
        return ""
    limit = weight_limit(net)
    found = shapes(net)
    for name, node in net.primitives():
        if node.type in RULES and (fault := form(node, name, found[name], limit).fault):
            return f"{name}: {fault}"
    return ""


def weight_limit(net: Net) -> int:
    """Weights are in [-limit, limit - 1]."""
    info = net.metadata.get("nsllm_nir")
    portable = isinstance(info, dict) and info.get("profile") == "portable"
    return PORTABLE_WEIGHT_LIMIT if portable else WEIGHT_LIMIT


def form(node: Node, where: str, shape: Shape, limit: int) -> Form:
    """The integer form of a node; raises GraphError where shapes or parameters do not fit."""
    with fitting(node, where, shape):
        return RULES[node.type](per_neuron(node, shape), where, shape, limit)


@dataclass(frozen=True)
class _Wire:
    """What a node reads: a signal in a shape.

    A Flatten gives the signal in front of it another shape, for its own readers only.

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

    net: Net
    input_levels: int
    weight_limit: int
    ops: list[Op] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    wires: dict[str, _Wire] = field(default_factory=dict)
    loops: dict[str, _Wire] = field(default_factory=dict)

    def run(self) -> None:
        """Lower every node."""
        readers = [source for source, _ in self.net.edges]
        for name, node in self.net.nodes.items():
            if isinstance(node, Node) and node.type == "Input":
                self.wires[name] = self._input(node, name)
                continue
            reads = self.net.reads[name]
            wires = joined(reads, self._wire, lambda wire: wire.shape, name)
            if isinstance(node, Graph):
                self.wires[name] = self._composite(node, name, wires)
            elif node.type == "Output":
                self.wires[name] = self._sum(name, wires)
                self.outputs.append(self.wires[name].signal)
            elif node.type == "Scale" and (shift := _gain(node, name, wires[0].shape)) is not None:
                alone = readers.count(reads[0].source) == 1 and wires[0].signal == reads[0].source
                self.wires[name] = self._power_of_two(shift, name, wires, alone)
            else:
                self.wires[name] = self._node(node, name, self._sum(name, wires))

    def _wire(self, read: Read) -> _Wire:
        return self._loop(read.source) if read.delayed else self.wires[read.source]

    def _node(self, node: Node, where: str, source: _Wire) -> _Wire:
        with fitting(node, where, source.shape):
            shape = NODE_KINDS[node.type].output_shape(node, where, source.shape)
            found = form(node, where, source.shape, self.weight_limit)
            if found.fault:
                raise GraphError(f"{where}: {found.fault}")
            ops = found.ops(source.signal)
        wire = _Wire(ops[-1].name if ops else source.signal, shape)
        for op in ops:
            if isinstance(op, Conv2d) and math.prod(op.weight.shape[1:]) * wire.size > MAX_SYNAPSES:
                raise GraphError(
                    f"{where}: a kernel of {op.weight.shape} on {wire.size:,} neurons has more than {MAX_SYNAPSES:,} "
                    "synapses"
                )
        self.ops += ops
        return wire

    def _power_of_two(self, shift: Ints, where: str, reads: list[_Wire], alone: bool) -> _Wire:
        """Power-of-two gains: the shift of a Linear in front that nothing else reads; a plain sum where they are 1."""
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

    def _input(self, node: Node, where: str) -> _Wire:
        shape = Constant("the shape", node.array("shape").reshape(-1), 1, MAX_NEURONS)
        if shape.fault:
            raise GraphError(f"{where}: {shape.fault}")
        wire = _Wire(where, tuple(int(n) for n in shape.array))
        self.ops.append(Input(where, wire.size, self.input_levels))
        return wire

    def _composite(self, node: Graph, where: str, reads: list[_Wire]) -> _Wire:
        source = self._sum(where, reads)
        ops = block_numbers(node, where).ops(where + ".", source.signal)
        self.ops += ops
        last = ops[-1]
        return _Wire(last.name, (1, last.weight.shape[0] if isinstance(last, Linear) else source.size))

    def _loop(self, source: str) -> _Wire:
        """One step of delay on the edges that leave a spiking node inside a cycle."""
        if source not in self.loops:
            node = self.net.nodes[source]
            assert isinstance(node, Node)
            shape = spike_shape(node)
            self.ops.append(Delay(f"{source}.delay", source, np.ones(math.prod(shape), np.int32)))
            self.loops[source] = _Wire(f"{source}.delay", shape)
        return self.loops[source]

    def _sum(self, where: str, reads: list[_Wire]) -> _Wire:
        if len(reads) == 1:
            return reads[0]
        wire = _Wire(where + ".sum", reads[0].shape)
        self.ops.append(Sum(wire.signal, tuple(read.signal for read in reads), np.zeros(wire.size, np.int32)))
        return wire


def _gain(node: Node, where: str, shape: Shape) -> Ints | None:
    """Shifts of a Scale on an input of ``shape``, None if its gains are no powers of two; raises GraphError."""
    NODE_KINDS[node.type].output_shape(node, where, shape)
    return gain_shift(per_neuron(node, shape))


def _shape(port: Node | Graph) -> Shape:
    assert isinstance(port, Node)
    return tuple(int(n) for n in port.array("shape").reshape(-1))
