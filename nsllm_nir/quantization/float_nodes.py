"""What each NIR primitive computes in floats, and its part in quantization: one role per node type, in `ROLES`.

Forward Euler with steps of `graph.DT`, strict thresholds, reset within the step of the spike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError
from nsllm_nir.graph import DT, NODE_KINDS, Node, Shape
from nsllm_nir.graph.geometry import Geometry, convolution, pooling
from nsllm_nir.lowering.node_rules import MAX_DELAY, gain_shift, operation, rounded
from nsllm_nir.program.operations import convolve

Floats = NDArray[np.float64]
Cell = Callable[[Floats], Floats]
Interval = tuple[Floats, Floats]


@dataclass(frozen=True, eq=False)
class Synapses:
    """A memoryless linear node: ``apply(weight, x) + bias``; ``apply`` is linear in both arguments."""

    weight: Floats
    bias: Floats
    apply: Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, eq=False)
class Neuron:
    """Constants of a neuron per step, broadcast to its shape.

    ``i = i (1 - syn) + x``; ``v = v (1 - mem) + mem leak + gain i``; spike where ``v > threshold`` (None: the output is
    v).
    """

    syn: Floats
    mem: Floats
    gain: Floats
    leak: Floats
    threshold: Floats | None
    reset: Floats


@dataclass(frozen=True)
class Entry:
    """Where spikes come in: it sends what it gets."""


@dataclass(frozen=True)
class Weighted:
    """Linear and without memory. Its weights are rounded and set the ratio of two scales, unless it keeps them.

    synapses: of (node, dotted name, shape of the input).
    kept: output scale over input scale of a node that keeps its weights; None: they are rounded.
    integer: node type of the quantized node, "" for its own.
    """

    synapses: Callable[[Node, str, Shape], Synapses]
    kept: Callable[[Node], float | None] = lambda node: None
    integer: str = ""


@dataclass(frozen=True)
class Passing:
    """Adds and moves values without weights of its own: output and input have one scale.

    cell: one step, of (node, dotted name, shape of the input). bounds: interval of the output in the long
    run, of the same and the interval of the input.
    """

    cell: Callable[[Node, str, Shape], Cell]
    bounds: Callable[[Node, str, Shape, Interval], Interval]


@dataclass(frozen=True)
class Dynamic:
    """A neuron or integrator: `neuron` has its constants."""


@dataclass(frozen=True)
class Firing:
    """Spikes where its input exceeds a threshold, which has the scale of the input."""

    parameter: str


Role = Entry | Weighted | Passing | Dynamic | Firing


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
            f"{where}: r, w_in and dt / tau must give a positive gain, found {gain.min():g}; move the sign into the "
            "weights"
        )
    threshold = value("v_threshold", 0.0) if "v_threshold" in p else None
    return Neuron(syn, mem, gain, value("v_leak", 0.0), threshold, value("v_reset", 0.0))


def matrix(node: Node, where: str, shape: Shape) -> Synapses:
    """Synapses of a Linear or Affine node; raises GraphError where the weight does not fit ``shape``."""
    weight = node.array("weight").astype(np.float64)
    if weight.shape[-1] != int(np.prod(shape)):
        raise GraphError(f"{where}: the weight {weight.shape} does not fit an input of shape {shape}")
    outputs = weight.shape[:-1]
    bias = node.array("bias").astype(np.float64).reshape(outputs) if "bias" in node.parameters else np.zeros(outputs)
    return Synapses(weight, bias, lambda w, x: (w.reshape(w.shape[-2:]) @ x.reshape(-1)).reshape(outputs))


def _gains(node: Node, where: str, shape: Shape) -> Synapses:
    return Synapses(values(node, "scale", shape), np.zeros(()), np.multiply)


def _kernels(node: Node, where: str, shape: Shape) -> Synapses:
    geometry = convolution(node, where, shape)
    weight, out = node.array("weight").astype(np.float64), NODE_KINDS[node.type].output_shape(node, where, shape)
    bias = node.array("bias").astype(np.float64).reshape(-1, *([1] * (len(out) - 1)))
    return Synapses(weight, bias, lambda w, x: _convolved(geometry, w, x).reshape(out))


def _pool(node: Node, where: str, shape: Shape, area: int) -> Synapses:
    geometry = pooling(node, where, shape)
    weight = np.full((geometry.channels, 1, *geometry.kernel), 1 / area)
    return Synapses(weight, np.zeros(()), lambda w, x: _convolved(geometry, w, x))


def _area(node: Node) -> int:
    return int(np.prod(np.broadcast_to(node.array("kernel_size").reshape(-1), (2,))))


def _convolved(geometry: Geometry, weight: Floats, image: Floats) -> Floats:
    """Weight (outputs, channels / groups, ...kernel) on an image, to (outputs, height, width)."""
    bias = np.zeros(geometry.outputs, np.int32)
    op = operation("", "", np.zeros(weight.shape, np.int8), bias, geometry)
    return convolve(op, weight.reshape(op.weight.shape), image.reshape(op.input_shape))


def steps_of(node: Node, where: str, shape: Shape) -> NDArray[np.int64]:
    """Delays in steps, of ``shape``; raises GraphError where they are no whole steps, or too many."""
    steps = rounded(values(node, "delay", shape) / DT).reshape(shape)
    if not np.isfinite(steps).all() or (steps != np.rint(steps)).any() or (steps < 0).any():
        raise GraphError(
            f"{where}: the delay must be a whole number of steps of {DT:g} s, "
            f"found {steps.reshape(-1)[:4]} steps; round it"
        )
    if steps.max() > MAX_DELAY:
        raise GraphError(f"{where}: the delay reaches {steps.max():g} steps, {MAX_DELAY} are allowed")
    return steps.astype(np.int64)


def delayed(steps: NDArray[np.int64]) -> Cell:
    """A cell that repeats its input of ``steps`` steps ago, 0 before the start."""
    line = np.zeros((int(steps.max()) + 1, *steps.shape))

    def step(x: Floats) -> Floats:
        line[1:] = line[:-1].copy()
        line[0] = x
        out: Floats = np.take_along_axis(line, steps[None], 0)[0]
        return out

    return step


def _shaped(node: Node, where: str, shape: Shape) -> Cell:
    out = NODE_KINDS[node.type].output_shape(node, where, shape)
    return lambda x: x.reshape(out)


def _moved(node: Node, where: str, shape: Shape, reads: Interval) -> Interval:
    """Of a node that only gives its values another shape."""
    out = NODE_KINDS[node.type].output_shape(node, where, shape)
    return reads[0].reshape(out), reads[1].reshape(out)


def _late(node: Node, where: str, shape: Shape, reads: Interval) -> Interval:
    return np.minimum(reads[0], 0), np.maximum(reads[1], 0)


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


def cell(node: Node, where: str, shape: Shape) -> Cell:
    """One step of a node on inputs of ``shape``; cells with memory start silent."""
    role = ROLES[node.type]
    match role:
        case Entry():
            return lambda x: x
        case Weighted():
            found = role.synapses(node, where, shape)
            return lambda x: found.apply(found.weight, x) + found.bias
        case Passing():
            return role.cell(node, where, shape)
        case Dynamic():
            return _neuron_cell(node, where, shape)
        case Firing():
            threshold = values(node, role.parameter, shape)
            return lambda x: (x > threshold).astype(np.float64)
        case _:
            assert_never(role)


def synapses(node: Node, where: str, shape: Shape) -> Synapses | None:
    """The weights of a node on an input of ``shape``; None for one that has none."""
    role = ROLES[node.type]
    return role.synapses(node, where, shape) if isinstance(role, Weighted) else None


def tie(node: Node) -> float | None:
    """Output scale over input scale of a node that keeps its numbers; None for the others."""
    role = ROLES[node.type]
    if isinstance(role, Weighted):
        return role.kept(node)
    return 1.0 if isinstance(role, Passing) else None


def has_states(node: Node) -> bool:
    """True for neurons and integrators."""
    return isinstance(ROLES[node.type], Dynamic)


def integrates(node: Node) -> bool:
    """True for a neuron without threshold: its output is the potential."""
    return has_states(node) and not NODE_KINDS[node.type].threshold


def _power_of_two(node: Node) -> float | None:
    return None if gain_shift(node) is None else 1.0


ROLES: dict[str, Role] = {
    "Affine": Weighted(matrix),
    "AvgPool2d": Weighted(
        lambda node, where, shape: _pool(node, where, shape, _area(node)), lambda node: float(_area(node)), "SumPool2d"
    ),
    "Conv1d": Weighted(_kernels),
    "Conv2d": Weighted(_kernels),
    "CubaLI": Dynamic(),
    "CubaLIF": Dynamic(),
    "Delay": Passing(lambda node, where, shape: delayed(steps_of(node, where, shape)), _late),
    "Flatten": Passing(_shaped, _moved),
    "I": Dynamic(),
    "IF": Dynamic(),
    "Input": Entry(),
    "LI": Dynamic(),
    "LIF": Dynamic(),
    "Linear": Weighted(matrix),
    "Output": Passing(_shaped, _moved),
    "Scale": Weighted(_gains, _power_of_two),
    "SumPool2d": Weighted(lambda node, where, shape: _pool(node, where, shape, 1), lambda node: 1.0),
    "Threshold": Firing("threshold"),
}
