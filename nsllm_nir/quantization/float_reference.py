"""A plain numpy float64 interpreter of NIR graphs: what a float graph means, one step at a time.

The conventions are those of `lowering` and `node_rules`: forward Euler with steps of `graph.DT`, strict
thresholds, reset within the step of the spike, fan-in is a sum, and one step of delay on the edges that
leave a spiking node inside a cycle. It is what `quantize` is measured against, never a backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.composites.registry import composite_op
from nsllm_nir.errors import GraphError, InputError
from nsllm_nir.graph import DT, Graph, Node, predecessors
from nsllm_nir.lowering.lower import SPIKING, delayed_edges, execution_order
from nsllm_nir.lowering.node_rules import RULES, Shape, rounded
from nsllm_nir.program import Conv2d
from nsllm_nir.program.operations import convolve
from nsllm_nir.program.trace import Trace

Floats = NDArray[np.float64]
Cell = Callable[[Floats], Floats]
CONVOLUTIONS = ("Conv1d", "Conv2d", "SumPool2d", "AvgPool2d")


@dataclass(frozen=True)
class Read:
    """One summand of a node's input; ``delayed``: its value of the step before."""

    source: str
    delayed: bool


@dataclass(frozen=True, eq=False)
class Flat:
    """Primitives by dotted name, in execution order, without the ports of subgraphs; and what each reads."""

    nodes: dict[str, Node] = field(default_factory=dict)
    reads: dict[str, tuple[Read, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Synapses:
    """A memoryless linear node: ``apply(weight, x) + bias``; ``apply`` is linear in both arguments."""

    weight: Floats
    bias: Floats
    apply: Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, eq=False)
class Neuron:
    """Constants of a neuron per step, broadcast to its shape.

    ``i = i (1 - syn) + x``; ``v = v (1 - mem) + mem leak + gain i``; spike where ``v > threshold`` (None: the output is v).
    """

    syn: Floats
    mem: Floats
    gain: Floats
    leak: Floats
    threshold: Floats | None
    reset: Floats


def flatten(graph: Graph) -> Flat:
    """Inline all subgraphs; the names are those that `lower` gives.

    Raises:
        GraphError: an unconnected node, a loop without a spiking node, a block of a spiking language model.
    """
    flat = Flat()
    _flatten(graph, "", None, flat)
    return flat


def _flatten(graph: Graph, prefix: str, entry: tuple[Read, ...] | None, flat: Flat) -> tuple[Read, ...]:
    delayed, sources = delayed_edges(graph), predecessors(graph)
    signals: dict[str, tuple[Read, ...]] = {}
    out: tuple[Read, ...] = ()
    for name in execution_order(graph, delayed, prefix):
        node, where = graph.nodes[name], prefix + name
        if isinstance(node, Node) and node.type == "Input" and entry is not None:
            signals[name] = entry
            continue
        reads = tuple(
            r for s in sources[name] for r in ((Read(prefix + s, True),) if (s, name) in delayed else signals[s])
        )
        if not reads and not (isinstance(node, Node) and node.type == "Input"):
            raise GraphError(f"{where}: the node has no input; connect or delete it")
        if isinstance(node, Graph):
            if composite_op(node) is not None:
                raise GraphError(
                    f"{where}: a block of a spiking language model is integer already; lower it without quantizing"
                )
            signals[name] = _flatten(node, where + ".", reads, flat)
        elif node.type == "Output" and entry is not None:
            out = signals[name] = reads
        elif where in flat.nodes:
            raise GraphError(f"{where}: two nodes have this dotted name; rename one")
        else:
            flat.nodes[where], flat.reads[where] = node, reads
            signals[name] = (Read(where, False),)
    return out


def values(node: Node, name: str, shape: Shape) -> Floats:
    """A parameter as float64, one value per neuron of ``shape``; raises GraphError where it does not fit."""
    array = np.asarray(node.parameters[name], np.float64)
    if array.size not in (1, int(np.prod(shape))):
        raise GraphError(f"the {name} of a {node.type} node has {array.size} values, its input has the shape {shape}")
    return np.broadcast_to(array.reshape(-1), (int(np.prod(shape)),)).reshape(shape)


def neuron(node: Node, where: str, shape: Shape) -> Neuron:
    """The constants per step of I, IF, LI, LIF, CubaLI, CubaLIF.

    Raises:
        GraphError: NaN or infinity, a time constant below one step, a gain that is not positive.
    """
    p = node.parameters
    for name in p:
        if not np.isfinite(np.asarray(p[name], np.float64)).all():
            remedy = "; a neuron that never leaks is an IF or I node" if name in ("tau", "tau_mem", "r") else ""
            raise GraphError(f"{where}: {name} holds NaN or infinity{remedy}")

    def value(name: str, default: float) -> Floats:
        return values(node, name, shape) if name in p else np.full(shape, default)

    def rate(name: str) -> Floats:
        tau = value(name, 0.0)
        if not (tau > 0).all() or (per_step := rounded(4096 * DT / tau)).max() > 4096:
            raise GraphError(f"{where}: {name} must be at least one step of {DT:g} s, the smallest is {tau.min():g} s")
        return (per_step / 4096).reshape(shape)

    membrane = next((name for name in ("tau_mem", "tau") if name in p), None)
    mem = rate(membrane) if membrane else np.zeros(shape)
    syn = rate("tau_syn") if "tau_syn" in p else np.ones(shape)
    gain = rounded(value("r", 1.0) * (mem if membrane else DT) * value("w_in", 1.0) * syn).reshape(shape)
    if not (gain > 0).all():
        raise GraphError(
            f"{where}: r, w_in and dt / tau must give a positive gain, found {gain.min():g}; move the sign into the weights"
        )
    threshold = value("v_threshold", 0.0) if "v_threshold" in p else None
    return Neuron(syn, mem, gain, value("v_leak", 0.0), threshold, value("v_reset", 0.0))


def synapses(node: Node, where: str, shape: Shape) -> Synapses | None:
    """The weights of Linear, Affine, Scale, convolutions and poolings on an input of ``shape``; None for other nodes."""
    if node.type in CONVOLUTIONS:
        return _convolution(node, where, shape)
    if node.type == "Scale":
        return Synapses(values(node, "scale", shape), np.zeros(()), np.multiply)
    if node.type not in ("Linear", "Affine"):
        return None
    weight = node.array("weight").astype(np.float64)
    if int(np.prod(weight.shape[:-2])) != 1:
        raise GraphError(f"{where}: batched weights {weight.shape} are not supported; use one matrix per node")
    if weight.shape[-1] != int(np.prod(shape)):
        raise GraphError(f"{where}: the weight {weight.shape} does not fit an input of shape {shape}")
    outputs = weight.shape[:-1]
    bias = node.array("bias").astype(np.float64).reshape(outputs) if "bias" in node.parameters else np.zeros(outputs)
    return Synapses(weight, bias, lambda w, x: (w.reshape(w.shape[-2:]) @ x.reshape(-1)).reshape(outputs))


def _convolution(node: Node, where: str, shape: Shape) -> Synapses:
    """Geometry from the rule that lowers the node, arithmetic in float64."""
    parameters, kind = dict(node.parameters), node.type.replace("Avg", "Sum")
    pooling = kind == "SumPool2d"
    if not pooling:
        parameters |= {
            "weight": np.zeros(node.array("weight").shape, np.int8),
            "bias": np.zeros(node.array("bias").size, np.int32),
        }
    ops, out = RULES[kind](Node(kind, parameters), where, "", shape)
    op = ops[0]
    assert isinstance(op, Conv2d)
    weight = op.weight.astype(np.float64) if pooling else node.array("weight").astype(np.float64)
    if node.type == "AvgPool2d":
        weight = weight / weight[0].size
    bias = np.zeros(()) if pooling else node.array("bias").astype(np.float64).reshape(-1, *([1] * (len(out) - 1)))
    return Synapses(
        weight, bias, lambda w, x: convolve(op, w.reshape(op.weight.shape), x.reshape(op.input_shape)).reshape(out)
    )


def delay_steps(node: Node, where: str, shape: Shape) -> NDArray[np.int64]:
    """Delays in steps; raises GraphError where they are not whole steps."""
    steps = rounded(values(node, "delay", shape) / DT).reshape(shape)
    if not np.isfinite(steps).all() or (steps != np.rint(steps)).any() or (steps < 0).any():
        raise GraphError(
            f"{where}: the delay must be a whole number of steps of {DT:g} s, found {steps.reshape(-1)[:4]} steps; round it"
        )
    return steps.astype(np.int64)


def _neuron_cell(node: Node, where: str, shape: Shape) -> Cell:
    n = neuron(node, where, shape)
    current, v = np.zeros(shape), np.zeros(shape)

    def step(x: Floats) -> Floats:
        nonlocal current, v
        current = current * (1 - n.syn) + x
        v = v * (1 - n.mem) + (n.mem * n.leak + n.gain * current)
        if n.threshold is None:
            return v
        spikes = v > n.threshold
        v = np.where(spikes, n.reset, v)
        return spikes.astype(np.float64)

    return step


def _delay_cell(node: Node, where: str, shape: Shape) -> Cell:
    steps = delay_steps(node, where, shape)
    line = np.zeros((int(steps.max()) + 1, *shape))

    def step(x: Floats) -> Floats:
        line[1:] = line[:-1].copy()
        line[0] = x
        out: Floats = np.take_along_axis(line, steps[None], 0)[0]
        return out

    return step


def cell(node: Node, where: str, shape: Shape) -> Cell:
    """One step of a node on inputs of ``shape``; cells with memory start silent."""
    found = synapses(node, where, shape)
    if found is not None:
        return lambda x: found.apply(found.weight, x) + found.bias
    match node.type:
        case "Output":
            return lambda x: x
        case "Flatten":
            flat = RULES["Flatten"](node, where, "", shape)[1]
            return lambda x: x.reshape(flat)
        case "Delay":
            return _delay_cell(node, where, shape)
        case "Threshold":
            threshold = values(node, "threshold", shape)
            return lambda x: (x > threshold).astype(np.float64)
        case _:
            return _neuron_cell(node, where, shape)


def shape_of_spikes(node: Node) -> Shape:
    """Shape of a spiking node from its threshold alone, for reads of the step before the first."""
    return np.shape(node.parameters["threshold" if node.type == "Threshold" else "v_threshold"])


def total(reads: tuple[Read, ...], now: dict[str, Floats], before: dict[str, Floats], where: str) -> Floats:
    """Sum of what a node reads; raises GraphError where shapes differ."""
    found = [before[r.source] if r.delayed else now[r.source] for r in reads]
    if any(x.shape != found[0].shape for x in found):
        shapes = ", ".join(f"{r.source} {x.shape}" for r, x in zip(reads, found, strict=True))
        raise GraphError(f"{where}: its inputs have different shapes: {shapes}")
    return np.sum(found, axis=0) if len(found) > 1 else found[0]


def signals(flat: Flat, inputs: NDArray[np.number]) -> list[dict[str, Floats]]:
    """Every signal of every step, from a silent start; inputs (steps, neurons) of the only Input.

    Raises:
        InputError: more than one Input, or an array that does not fit it.
    """
    ports = [name for name, node in flat.nodes.items() if node.type == "Input"]
    if len(ports) != 1:
        raise InputError(f"the graph has {len(ports)} inputs, one is expected")
    shape = tuple(int(n) for n in flat.nodes[ports[0]].array("shape").reshape(-1))
    array = np.asarray(inputs, np.float64)
    if array.ndim != 2 or array.shape[1] != int(np.prod(shape)):
        raise InputError(f"input {ports[0]!r} expects an array (steps, {int(np.prod(shape))}), got shape {array.shape}")
    before = {name: np.zeros(shape_of_spikes(node)) for name, node in flat.nodes.items() if node.type in SPIKING}
    cells: dict[str, Cell] = {}
    steps = []
    for row in array:
        now: dict[str, Floats] = {ports[0]: row.reshape(shape)}
        for name, node in flat.nodes.items():
            if node.type != "Input":
                x = total(flat.reads[name], now, before, name)
                if name not in cells:
                    cells[name] = cell(node, name, x.shape)
                now[name] = cells[name](x)
        steps.append(now)
        before = now
    return steps


def run(graph: Graph, inputs: NDArray[np.number]) -> Trace:
    """Run spikes (steps, neurons) through a float graph.

    Returns bool arrays (steps, neurons) of every spiking node, and float64 arrays of the other outputs,
    by the names that `lower` gives them.

    Raises:
        GraphError: an inconsistent graph or parameter.
        InputError: ``inputs`` do not fit.
    """
    flat = flatten(graph)
    steps = signals(flat, inputs)

    def stack(name: str) -> Floats:
        return np.array([x[name].reshape(-1) for x in steps])

    out: dict[str, NDArray[np.generic]] = {
        name: stack(name).astype(bool) for name, node in flat.nodes.items() if node.type in SPIKING
    }
    for name, node in flat.nodes.items():
        if node.type == "Output":
            reads = flat.reads[name]
            out.setdefault(reads[0].source if len(reads) == 1 else name + ".sum", stack(name))
    return Trace(out)
