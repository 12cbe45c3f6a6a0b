"""The NIR primitives that this project reads: one entry per node type, what files say of it.

What a node does is said once per stage: `lowering.node_rules` makes operations of it, `quantization.float_nodes` has
its float step and its part in quantization. `tests/test_registries.py` names a node type that a stage lacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError
from nsllm_nir.graph.geometry import convolution, pooling
from nsllm_nir.graph.nir_graph import DT, Node, Shape


@dataclass(frozen=True)
class Example:
    """The smallest useful node of a kind: shape of what it reads, parameters.

    Integers hold it as it is, unless its kind is refused.
    """

    shape: Shape
    parameters: dict[str, Any]


def _same(node: Node, where: str, shape: Shape) -> Shape:
    return shape


def _per_neuron(node: Node, where: str, shape: Shape) -> Shape:
    """A node whose parameters hold one value per neuron, or one for all of them."""
    for name, value in node.parameters.items():
        if math.prod(np.shape(value)) not in (
            1,
            math.prod(shape),
        ):  # the shape alone: arrays load when they are lowered
            raise GraphError(
                f"{where}: its {name} has the shape {np.shape(value)}, its input {shape}; "
                "give one value per neuron, or one for all"
            )
    return shape


def _matrix(node: Node, where: str, shape: Shape) -> Shape:
    weight = np.shape(node.parameters["weight"])
    if len(weight) < 2:
        raise GraphError(f"{where}: the weight has shape {weight}, expected (outputs, inputs)")
    if int(np.prod(weight[:-2])) != 1:
        raise GraphError(f"{where}: batched weights {weight} are not supported; use one matrix per node")
    if weight[-1] != math.prod(shape):
        raise GraphError(f"{where}: the weight {weight} does not fit an input of shape {shape}")
    return (*weight[:-2], weight[-2])


def _plane(node: Node, where: str, shape: Shape) -> Shape:
    return convolution(node, where, shape).output_shape


def _line(node: Node, where: str, shape: Shape) -> Shape:
    outputs, _, length = convolution(node, where, shape).output_shape
    return outputs, length


def _pooled(node: Node, where: str, shape: Shape) -> Shape:
    return pooling(node, where, shape).output_shape


def _flat(node: Node, where: str, shape: Shape) -> Shape:
    start, end = int(node.parameters["start_dim"]), int(node.parameters["end_dim"]) % len(shape)
    return (*shape[:start], int(np.prod(shape[start : end + 1])), *shape[end + 1 :])


@dataclass(frozen=True)
class NodeKind:
    """What files say of a node type.

    parameters: in the order of NIR's constructor. optional: those that a file may lack.
    seconds, per_second: parameters whose values change with the time step (`time_step`).
    threshold: the parameter that makes it spike, "" for a node that does not; it has the shape of the node.
    output_shape: shape of the output, of (node, dotted name, shape of the input); it raises GraphError for shapes
        that do not fit.
    """

    parameters: tuple[str, ...]
    example: Example
    optional: frozenset[str] = frozenset()
    seconds: tuple[str, ...] = ()
    per_second: tuple[str, ...] = ()
    threshold: str = ""
    output_shape: Callable[[Node, str, Shape], Shape] = _per_neuron


def _full(value: float, size: int = 3) -> NDArray[np.float64]:
    return np.full(size, value)


WEIGHT = np.array([[3.0, -2, 5], [4, 7, -1]])
TAP = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": np.array([1.0])}
POOL = {"kernel_size": np.array([2, 2]), "stride": np.array([2, 2]), "padding": np.array([0, 0])}
MEMBRANE = {"r": _full(4.0), "v_leak": _full(0.0)}
FIRING = {"v_threshold": _full(6.0), "v_reset": _full(0.0)}
SYNAPSE = {"tau_syn": _full(2 * DT), "tau_mem": _full(4 * DT), "w_in": _full(2.0)}
RESET = frozenset({"v_reset"})  # older nir versions leave it out, and w_in
NODE_KINDS: dict[str, NodeKind] = {
    "Input": NodeKind(("shape",), Example((3,), {"shape": np.array([3])}), output_shape=_same),
    "Output": NodeKind(("shape",), Example((3,), {"shape": np.array([3])}), output_shape=_same),
    "Affine": NodeKind(
        ("weight", "bias"), Example((3,), {"weight": WEIGHT, "bias": np.array([2.0, -3])}), output_shape=_matrix
    ),
    "Linear": NodeKind(("weight",), Example((3,), {"weight": WEIGHT}), output_shape=_matrix),
    "Scale": NodeKind(("scale",), Example((3,), {"scale": np.array([3.0, -5, 2])})),
    "Conv1d": NodeKind(
        ("input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"),
        Example((1, 4), {"input_shape": 4, "weight": np.array([[[2.0, -1, 3]]]), **TAP}),
        optional=frozenset({"input_shape"}),
        output_shape=_line,
    ),
    "Conv2d": NodeKind(
        ("input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"),
        Example((1, 3, 3), {"input_shape": np.array([3, 3]), "weight": np.array([[[[2.0, -1], [3, 4]]]]), **TAP}),
        optional=frozenset({"input_shape"}),
        output_shape=_plane,
    ),
    "SumPool2d": NodeKind(("kernel_size", "stride", "padding"), Example((1, 4, 4), POOL), output_shape=_pooled),
    "AvgPool2d": NodeKind(("kernel_size", "stride", "padding"), Example((1, 4, 4), POOL), output_shape=_pooled),
    "Flatten": NodeKind(
        ("start_dim", "end_dim"), Example((1, 2, 2), {"start_dim": 0, "end_dim": -1}), output_shape=_flat
    ),
    "Delay": NodeKind(("delay",), Example((3,), {"delay": DT * np.array([0.0, 1, 3])}), seconds=("delay",)),
    "Threshold": NodeKind(("threshold",), Example((3,), {"threshold": _full(0.5)}), threshold="threshold"),
    "I": NodeKind(("r",), Example((3,), {"r": _full(1 / DT)}), per_second=("r",)),
    "LI": NodeKind(("tau", "r", "v_leak"), Example((3,), {"tau": _full(4 * DT), **MEMBRANE}), seconds=("tau",)),
    "IF": NodeKind(
        ("r", "v_threshold", "v_reset"),
        Example((3,), {"r": _full(1 / DT), **FIRING}),
        optional=RESET,
        per_second=("r",),
        threshold="v_threshold",
    ),
    "LIF": NodeKind(
        ("tau", "r", "v_leak", "v_threshold", "v_reset"),
        Example((3,), {"tau": _full(4 * DT), **MEMBRANE, **FIRING, "v_threshold": _full(2.0)}),
        optional=RESET,
        seconds=("tau",),
        threshold="v_threshold",
    ),
    "CubaLI": NodeKind(
        ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
        Example((3,), {**SYNAPSE, **MEMBRANE}),
        optional=frozenset({"w_in"}),
        seconds=("tau_syn", "tau_mem"),
    ),
    "CubaLIF": NodeKind(
        ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
        Example((3,), {**SYNAPSE, **MEMBRANE, **FIRING, "v_threshold": _full(3.0)}),
        optional=RESET | {"w_in"},
        seconds=("tau_syn", "tau_mem"),
        threshold="v_threshold",
    ),
}


def known(name: str, where: str) -> NodeKind:
    """The kind of a node type; raises GraphError for a type that is not read."""
    if name not in NODE_KINDS:
        raise GraphError(
            f"{where}: node type {name!r} is not supported; supported are {', '.join(sorted(NODE_KINDS))} and NIRGraph"
        )
    return NODE_KINDS[name]


def per_neuron(node: Node, shape: Shape) -> Node:
    """The node with one value per neuron of ``shape`` where a parameter holds one for all of them."""
    if NODE_KINDS[node.type].output_shape is not _per_neuron or math.prod(shape) == 1:
        return node
    one = {name: np.asarray(value) for name, value in node.parameters.items() if math.prod(np.shape(value)) == 1}
    spread = {name: np.broadcast_to(value.reshape(()), shape) for name, value in one.items()}
    return replace(node, parameters={**node.parameters, **spread}) if spread else node


def spikes(node: object) -> bool:
    """True for a primitive that spikes."""
    return isinstance(node, Node) and bool(NODE_KINDS[node.type].threshold)


def spike_shape(node: Node) -> Shape:
    """Shape of a spiking node from its threshold alone, for loops that read it before it runs."""
    return np.shape(node.parameters[NODE_KINDS[node.type].threshold])
