"""NIR graph to `Program`: composites become fused operations, every other primitive one operation each.

Conventions (docs/semantics.md): fan-in is a sum; edges that leave a spiking node inside a cycle carry
one step of delay; all values are integers, thresholds may be half-integers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from . import graph as nir_graph
from .errors import GraphError
from .graph import DT, Graph, Node, predecessors
from .nir_blocks import block_numbers, composite_op
from .program import MAX_WEIGHT_BITS, Count, Delay, Input, Integrate, Linear, Op, Program, Sum, Widths

Ints = NDArray[Any]
SPIKING = ("Threshold", "LIF")
MAX_DENSE_CONV = 1 << 24
MAX_THRESHOLD = 1 << 29
WEIGHT_LIMIT = 1 << (MAX_WEIGHT_BITS - 1)
PORTABLE_WEIGHT_LIMIT = 1 << 21  # the portable profile folds thresholds of counts and states into its weights
DEFAULT_WIDTHS = Widths()


def as_graph(source: Graph | nir.NIRGraph | str | Path) -> Graph:
    """A `Graph` from a file (lazily), a `nir.NIRGraph`, or a `Graph`."""
    if isinstance(source, Graph):
        return source
    return nir_graph.from_nir_object(source) if isinstance(source, nir.NIRGraph) else nir_graph.read(source)


def lower(source: Graph | nir.NIRGraph | str | Path, *, node: str | None = None, widths: Widths = DEFAULT_WIDTHS, input_levels: int = 1) -> Program:
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
            raise GraphError(f"{node!r} is not a subgraph; subgraphs are {', '.join(n for n, g in found.nodes.items() if isinstance(g, Graph))}")
        size = _port_size(inner, "Input")
        ports = {"input": Node("Input", {"shape": [1, size]}), "output": Node("Output", {"shape": [1, 1]})}
        found = Graph({**ports, node: inner}, (("input", node), (node, "output")))
    info = found.metadata.get("nsllm_nir")
    portable = isinstance(info, dict) and info.get("profile") == "portable"
    state = _Lowering(input_levels, PORTABLE_WEIGHT_LIMIT if portable else WEIGHT_LIMIT)
    state.graph(found, "", [])
    return Program(tuple(state.ops), tuple(state.outputs), widths, found.origin)


@dataclass
class _Lowering:
    """Operations made so far, and what each NIR node's output is called."""

    input_levels: int
    weight_limit: int
    ops: list[Op] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def graph(self, graph: Graph, prefix: str, entry: list[str]) -> str:
        """Lower ``graph``; ``entry`` are the signals at its Input node (none: it is the top level). Returns its output signal."""
        _check_ports(graph, prefix)
        sources = predecessors(graph)
        delayed = _delayed_edges(graph, prefix)
        signals: dict[str, str] = {}
        out = ""
        for name in _order(graph, delayed, prefix):
            node, where = graph.nodes[name], prefix + name
            if isinstance(node, Node) and node.type == "Input":
                signals[name] = self._input(node, where, entry)
                continue
            reads = [signals.get(s, prefix + s) if (s, name) not in delayed else self._loop(prefix + s, where, graph, s) for s in sources[name]]
            if not reads:
                raise GraphError(f"{where}: the node has no input; connect or delete it")
            if isinstance(node, Node) and node.type == "Output":
                out = signals[name] = self._sum(where, reads)
                if not entry:
                    self.outputs.append(out)
            elif isinstance(node, Graph):
                signals[name] = self._subgraph(node, where, reads)
            elif node.type == "Scale":
                # A subgraph may pass a signal through: then others read the Linear behind it as well.
                alone = sum(a == sources[name][0] for a, _ in graph.edges) == 1 and reads[0] == prefix + sources[name][0]
                signals[name] = self._scale(node, where, reads, alone)
            else:
                read = self._sum(where, reads)
                linear = node.type in ("Affine", "Linear")
                self.ops += _linear(node, where, read, self.weight_limit) if linear else _TABLE[node.type](node, where, read)
                signals[name] = where
        return out

    def _scale(self, node: Node, where: str, reads: list[str], alone: bool) -> str:
        """Power-of-two gains: the shift of the Linear in front where nothing else reads it, a plain sum where they are 1."""
        shift = _gain_shift(node, where)
        last = self.ops[-1] if self.ops else None
        if len(reads) == 1 and alone and isinstance(last, Linear) and last.name == reads[0] and not last.shift.any():
            self.ops[-1] = replace(last, shift=shift)
            return last.name
        if not shift.any():
            self.ops.append(Sum(where, tuple(reads), np.zeros(shift.size, np.int32)))
        else:
            self.ops.append(Linear(where, self._sum(where, reads), np.eye(shift.size, dtype=np.int8), np.zeros(shift.size, np.int32), shift))
        return where

    def _input(self, node: Node, where: str, entry: list[str]) -> str:
        if entry:
            return self._sum(where, entry)
        self.ops.append(Input(where, int(np.prod(node.array("shape"))), self.input_levels))
        return where

    def _subgraph(self, node: Graph, where: str, reads: list[str]) -> str:
        if composite_op(node) is None:
            return self.graph(node, where + ".", reads)
        ops = block_numbers(node, where).ops(where + ".", self._sum(where, reads))
        self.ops += ops
        return ops[-1].name

    def _loop(self, source: str, where: str, graph: Graph, name: str) -> str:
        """One step of delay on an edge that closes a cycle."""
        delay = f"{source}.delay"
        if not any(op.name == delay for op in self.ops):
            node = graph.nodes[name]
            assert isinstance(node, Node)
            threshold = node.array("threshold" if node.type == "Threshold" else "v_threshold")
            self.ops.append(Delay(delay, source, np.ones(threshold.size, np.int32)))
        return delay

    def _sum(self, where: str, reads: list[str]) -> str:
        if len(reads) == 1:
            return reads[0]
        name = where + ".sum"
        self.ops.append(Sum(name, tuple(reads), np.zeros(self._size(reads[0]), np.int32)))
        return name

    def _size(self, signal: str) -> int:
        op = next(op for op in self.ops if op.name == signal)
        match op:
            case Input():
                return op.size
            case Linear():
                return int(op.weight.shape[0])
            case Sum():
                return int(op.bias.size)
            case Integrate():
                return int(op.decay.size)
            case Delay():
                return int(op.steps.size)
            case _:
                return self._size(op.source)


def _check_ports(graph: Graph, prefix: str) -> None:
    ports = {kind: [n for n, node in graph.nodes.items() if isinstance(node, Node) and node.type == kind] for kind in ("Input", "Output")}
    for kind, names in ports.items():
        if not names or (prefix and len(names) > 1):
            raise GraphError(f"{prefix[:-1] or 'the graph'}: {'a subgraph needs one' if prefix else 'it has no'} {kind}, this one has {len(names)}")
    for a, b in graph.edges:
        if b in ports["Input"]:
            raise GraphError(f"{prefix}{b}: an Input node reads nothing; delete the edge from {a!r}")
    for name, node in graph.nodes.items():
        for key, value in node.parameters.items() if isinstance(node, Node) else ():
            if isinstance(value, str) and key != "padding":
                raise GraphError(f"{prefix}{name}: the parameter {key!r} holds text, expected numbers")


def _port_size(graph: Graph, kind: str) -> int:
    return next(int(np.prod(n.array("shape"))) for n in graph.nodes.values() if isinstance(n, Node) and n.type == kind)


def _integers(values: Any, where: str, what: str, low: int, high: int) -> Ints:
    array = np.asarray(values)
    floating = not np.issubdtype(array.dtype, np.integer)  # large integer weights need no copies for these checks
    if floating and not np.isfinite(array).all():
        raise GraphError(f"{where}: {what} holds NaN or infinity")
    if floating and (array != np.rint(array)).any():
        raise GraphError(f"{where}: {what} is not integer (first value {array.reshape(-1)[0]}); quantize the graph first")
    if array.size and (array.min() < low or array.max() > high):
        raise GraphError(f"{where}: {what} is in [{array.min()}, {array.max()}], allowed is [{low}, {high}]")
    return array


def _linear(node: Node, where: str, source: str, limit: int = WEIGHT_LIMIT) -> list[Op]:
    weight = node.parameters["weight"]
    if len(weight.shape) < 2:
        raise GraphError(f"{where}: the weight has shape {weight.shape}, expected (outputs, inputs)")
    if int(np.prod(weight.shape[:-2])) != 1:
        raise GraphError(f"{where}: batched weights {weight.shape} are not supported; use one matrix per node")
    weight = _integers(weight, where, "the weight", -limit, limit - 1).reshape(weight.shape[-2:])
    bias = np.zeros(weight.shape[0], np.int32)
    if "bias" in node.parameters:
        bias = _integers(node.parameters["bias"], where, "the bias", -(2**31), 2**31 - 1).astype(np.int32).reshape(-1)
    if not weight.size or (weight.min() >= -WEIGHT_LIMIT and weight.max() < WEIGHT_LIMIT):
        return [Linear(where, source, weight.astype(np.int8, copy=False), bias, np.zeros(bias.size, np.uint8))]
    return _wide_linear(weight.astype(np.int64), bias, where, source)


def _wide_linear(rest: Ints, bias: Ints, where: str, source: str) -> list[Op]:
    """Weights beyond 8 bits as a sum of shifted 7-bit digits; all digits of a weight have its sign, so intervals stay tight."""
    digits: list[Op] = []
    while rest.any():
        digit = np.sign(rest) * (np.abs(rest) & (WEIGHT_LIMIT - 1))
        shift = np.full(bias.size, (MAX_WEIGHT_BITS - 1) * len(digits), np.uint8)
        digits.append(Linear(f"{where}.digit_{len(digits)}", source, digit.astype(np.int8), np.zeros(bias.size, np.int32), shift))
        rest = np.sign(rest) * (np.abs(rest) >> (MAX_WEIGHT_BITS - 1))
    return [*digits, Sum(where, tuple(op.name for op in digits), bias)]


def _gain_shift(node: Node, where: str) -> Ints:
    gain = node.array("scale").reshape(-1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.log2(gain)
    bad = ~np.isfinite(shift) | (shift != np.rint(shift)) | (shift < 0)
    if bad.any():
        raise GraphError(f"{where}: gains must be powers of two >= 1, found {gain[bad][0]}")
    return shift.astype(np.uint8)


def _conv1d(node: Node, where: str, source: str) -> list[Op]:
    weight = _integers(node.array("weight"), where, "the weight", -128, 127).astype(np.int8)
    plain = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    usual = all(np.array_equal(np.unique(node.parameters[key]), [value]) for key, value in plain.items())
    if weight.ndim != 3 or weight.shape[2] != 1 or not usual or np.size(node.parameters["input_shape"]) != 1:
        raise GraphError(f"{where}: only Conv1d of kernel 1, stride 1, dilation 1, groups 1 without padding is supported, got weight {weight.shape}")
    length = int(_integers(node.parameters["input_shape"], where, "the input shape", 1, 2**31 - 1).reshape(-1)[0])
    dense_size = weight.shape[0] * weight.shape[1] * length * length
    if dense_size > MAX_DENSE_CONV:
        raise GraphError(f"{where}: as a dense matrix this Conv1d needs {dense_size:,} weights; keep the composite's metadata")
    bias = _integers(node.array("bias"), where, "the bias", -(2**31), 2**31 - 1).astype(np.int32)
    dense = np.kron(weight[:, :, 0], np.eye(length, dtype=np.int8)).astype(np.int8)
    return [Linear(where, source, dense, np.repeat(bias, length), np.zeros(dense.shape[0], np.uint8))]


def _spike(threshold: Ints, where: str, source: str) -> list[Op]:
    """[v > t] on integers is a count of one level: step 2 floor(t) + 1, or step 1 after adding -floor(t)."""
    if not np.isfinite(threshold).all():
        raise GraphError(f"{where}: the threshold holds NaN or infinity")
    if threshold.size and np.abs(threshold).max() >= MAX_THRESHOLD:
        raise GraphError(f"{where}: the threshold reaches {np.abs(threshold).max():g}, below {MAX_THRESHOLD} is allowed")
    floor = np.floor(threshold.reshape(-1)).astype(np.int64)
    step = np.where(floor >= 0, 2 * floor + 1, 1).astype(np.int32)
    bias = np.where(floor >= 0, 0, -floor).astype(np.int32)
    if not bias.any():
        return [Count(where, source, step, 1)]
    return [Sum(where + ".offset", (source,), bias), Count(where, where + ".offset", step, 1)]


def _threshold(node: Node, where: str, source: str) -> list[Op]:
    return _spike(node.array("threshold"), where, source)


def _ratio(node: Node, where: str, name: str) -> NDArray[np.float64]:
    """A time in steps; multiples of the step that float32 rounded are whole numbers."""
    ratio = node.array(name).reshape(-1).astype(np.float64) / DT
    whole = np.rint(ratio)
    return np.where(np.abs(ratio - whole) <= 1e-6 * np.maximum(np.abs(whole), 1), whole, ratio)


def _lif(node: Node, where: str, source: str) -> list[Op]:
    leak, reset = node.array("v_leak"), np.asarray(node.parameters.get("v_reset", 0.0))
    if leak.any() or reset.any() or (node.array("r") != 1).any() or (_ratio(node, where, "tau") != 1).any():
        raise GraphError(f"{where}: only memoryless LIF (tau = dt = 1e-4, r = 1, v_leak = v_reset = 0) is supported")
    return _spike(node.array("v_threshold"), where, source)


def _li(node: Node, where: str, source: str) -> list[Op]:
    ratio = _ratio(node, where, "tau")
    if node.array("r").size != ratio.size or (ratio <= 0).any():
        raise GraphError(f"{where}: an LI must have tau = 2**k dt > 0 and r of the same shape, got tau {ratio.shape} and r {node.array('r').shape}")
    shift = 8 - np.log2(ratio)
    if node.array("v_leak").any() or (node.array("r").reshape(-1) != ratio).any() or (shift != np.rint(shift)).any() or (shift < 0).any() or (shift > 8).any():
        raise GraphError(f"{where}: an LI must have tau = 2**k dt with k in 0..8, r = tau/dt and v_leak = 0 (unit gain, decay 1 - 2**-k)")
    decay = (256 - (1 << shift.astype(np.int64))).astype(np.int32)
    return [Integrate(where, source, decay, 0)]


def _delay(node: Node, where: str, source: str) -> list[Op]:
    steps = _integers(_ratio(node, where, "delay"), where, "the delay in steps of 1e-4 s", 0, 2**20)
    return [Delay(where, source, steps.astype(np.int32))]


_TABLE: dict[str, Callable[[Node, str, str], list[Op]]] = {
    "Conv1d": _conv1d,
    "Threshold": _threshold,
    "LIF": _lif,
    "LI": _li,
    "Delay": _delay,
}


def _delayed_edges(graph: Graph, prefix: str) -> set[tuple[str, str]]:
    """Edges of a cycle that leave a spiking node: they carry the step of delay that makes the loop well defined."""
    component = _components(graph)
    delayed = set()
    for a, b in graph.edges:
        node = graph.nodes[a]
        if component[a] == component[b] and isinstance(node, Node) and node.type in SPIKING and (a == b or _on_cycle(component, a)):
            delayed.add((a, b))
    return delayed


def _on_cycle(component: dict[str, int], name: str) -> bool:
    return sum(c == component[name] for c in component.values()) > 1


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


def _order(graph: Graph, delayed: set[tuple[str, str]], prefix: str) -> list[str]:
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
        raise GraphError(f"{prefix or 'graph '}: the cycle through {', '.join(stuck[:4])} has no spiking node that could delay it")
    return order

