"""What composites are made of: projections and block inputs as integers, as program operations and as NIR primitives.

Signals have the shape (1, C), so that a Conv1d of kernel 1 expands a neuron into its D threshold
lines (D, C) and collapses them into a count. C: hidden size, D: levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import LossyConversionError
from nsllm_nir.graph import DT, Graph, Node, chain
from nsllm_nir.program import Count, Linear, Op
from nsllm_nir.program.constants import MAX_SHIFT

Ints = NDArray[Any]
Nodes = dict[str, Node | Graph]
Edges = list[tuple[str, str]]
Settings = list[tuple[str, Any]]  # a name may stand in it more than once: all its values have to agree


class Composite(ABC):
    """The integers of one composite subgraph: what its program operations and its NIR primitives are made from."""

    OP: ClassVar[str]  # the name in the subgraph's metadata

    @abstractmethod
    def ops(self, prefix: str, source: str) -> list[Op]:
        """Operations named ``prefix + ...`` that read the signal ``source``; the last one is the output."""

    @abstractmethod
    def primitives(self) -> tuple[Nodes, Edges]:
        """Nodes and edges of the subgraph, with one Input ``input`` and one Output ``output``."""

    @classmethod
    @abstractmethod
    def read(cls, graph: Graph) -> Self:
        """The integers of a subgraph that `primitives` made.

        Raises:
            KeyError, IndexError, ValueError: a parameter that is missing, or holds other than such integers.
        """


class ResidualComposite(Composite):
    """A block of a layer: reads the residual stream and gives what is added to it."""

    PART: ClassVar[str]  # its name in `NSLLMConfig.blocks`, in the model and in the graph (``layer_000.mixer``)

    @abstractmethod
    def settings(self) -> Settings:
        """Entries of NSLLMConfig that follow from these integers, ``levels`` as that of this layer."""


def token_shift(channels: int) -> Ints:
    """Delays of the token shift (channels,): one token on the first half."""
    return (np.arange(channels) < channels // 2).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Projection:
    """``(weight s + bias) << shift``. weight: (out, in) int8; bias: (out,) int32; shift: (out,) uint8."""

    weight: Ints
    bias: Ints
    shift: Ints

    def op(self, name: str, source: str) -> Linear:
        """The operation of these integers."""
        return Linear(name, source, self.weight, self.bias, self.shift)


@dataclass(frozen=True, eq=False)
class BlockInputNumbers:
    """Residual potentials to spikes. step: (C,) int32; pool_step: step of the pooled first count, or None."""

    step: Ints
    levels: int
    signed: bool
    pool_step: Ints | None = None

    def settings(self) -> Settings:
        """Entries of NSLLMConfig that follow from these integers."""
        return [
            ("levels", self.levels),
            ("coding", "ternary" if self.signed else "binary"),
            ("normalisation", "none" if self.pool_step is None else "pooled"),
        ]

    def ops(self, prefix: str, source: str) -> list[Op]:
        """Operations named ``prefix + ...``; the last one is ``prefix + 'spikes'``."""
        spikes = prefix + "spikes"
        if self.pool_step is None:
            return [Count(spikes, source, self.step, self.levels, self.signed)]
        c = self.step.size
        one = np.ones((1, c), np.int8)
        return [
            Count(prefix + "pool_spikes", source, self.pool_step, self.levels),
            Linear(prefix + "pool", prefix + "pool_spikes", one, np.zeros(1, np.int32), np.zeros(1, np.uint8)),
            Linear(prefix + "step", prefix + "pool", one.T.copy(), self.step, np.zeros(c, np.uint8)),
            Count(spikes, source, prefix + "step", self.levels, self.signed),
        ]


def port(kind: str, size: int) -> Node:
    """Input or Output node of shape (1, size)."""
    return Node(kind, {"shape": np.array([1, size], np.int64)})


def _conv(size: int, weight: Ints) -> Node:
    """Conv1d of kernel 1 over ``size`` neurons, weight (lines out, lines in)."""
    bias = np.zeros(len(weight), np.int32)
    kernel = weight.astype(np.int16)[:, :, None]
    return Node(
        "Conv1d",
        {"input_shape": size, "weight": kernel, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": bias},
    )


def _expand(size: int, weights: list[int]) -> Node:
    """One line to many."""
    return _conv(size, np.array(weights)[:, None])


def _collapse(size: int, weights: list[int]) -> Node:
    """Many lines to their weighted sum."""
    return _conv(size, np.array(weights)[None])


def _threshold(value: Ints) -> Node:
    return Node("Threshold", {"threshold": value.astype(np.float32)})


def scale(shift: Ints) -> Node:
    """Power-of-two gains (1, C)."""
    return Node("Scale", {"scale": np.exp2(shift[None].astype(np.float32))})


def linear(projection: Projection, bias: bool) -> Node:
    """Linear, or Affine, with int8 weights (1, out, in)."""
    weight = projection.weight[None]
    return (
        Node("Affine", {"weight": weight, "bias": projection.bias[None]})
        if bias
        else Node("Linear", {"weight": weight})
    )


def _odd(levels: int, signed: bool) -> list[int]:
    odd = [2 * m - 1 for m in range(1, levels + 1)]
    return odd + odd if signed else odd


def add_lines(
    nodes: Nodes,
    edges: Edges,
    name: str,
    source: str,
    step: Ints,
    levels: int,
    *,
    signed: bool = False,
    step_signal: str = "",
) -> list[int]:
    """``2 v - (2m - 1) step > 1/2`` for each line m, as name.lines; returns the sign of each line.

    Raises:
        LossyConversionError: the largest line is beyond the 24 bits of a float32.
    """
    size, odd = step.size, _odd(levels, signed)
    sign = [1] * levels + [-1] * (levels if signed else 0)
    nodes[name + ".expand"] = _expand(size, [2 * s for s in sign])
    if int(step.max()) * odd[levels - 1] >= 2**23:
        worst = f"{odd[levels - 1]} * {step.max()} + 1/2"
        raise LossyConversionError(
            f"{name}: the threshold {worst} exceeds the 24 bits of a float32; use fewer levels or a smaller step"
        )
    nodes[name + ".lines"] = _threshold(np.array(odd)[:, None] * step[None].astype(np.int64) + 0.5)
    edges += chain(source, name + ".expand", name + ".lines")
    if step_signal:
        nodes[name + ".step"] = _expand(size, [-m for m in odd])
        edges += chain(step_signal, name + ".step", name + ".lines")
    return sign


def add_count(
    nodes: Nodes,
    edges: Edges,
    name: str,
    source: str,
    step: Ints,
    levels: int,
    *,
    signed: bool = False,
    step_signal: str = "",
) -> None:
    """The lines of `add_lines` and their sum."""
    nodes[name] = _collapse(
        step.size, add_lines(nodes, edges, name, source, step, levels, signed=signed, step_signal=step_signal)
    )
    edges += chain(name + ".lines", name)


def add_gate(nodes: Nodes, edges: Edges, name: str, gate: str, source: str, size: int, levels: int) -> None:
    """Logical AND of the gate with every line of ``source``: line + gate > 3/2."""
    nodes[name + ".gate"] = _expand(size, [1] * levels)
    nodes[name + ".lines"] = _threshold(np.full((levels, size), 1.5))
    nodes[name] = _collapse(size, [1] * levels)
    edges += [*chain(gate, name + ".gate", name + ".lines", name), (source + ".lines", name + ".lines")]


def add_integrate(nodes: Nodes, edges: Edges, name: str, source: str, decay_shift: Ints, fraction_bits: int) -> None:
    """LI with 1 - dt/tau = c/256 and unit gain r dt/tau = 1; integer rounding as in docs/semantics.md."""
    ratio = np.exp2(8.0 - decay_shift[None])
    nodes[name + ".in"] = scale(np.full(decay_shift.size, fraction_bits))
    nodes[name] = Node(
        "LI",
        {
            "tau": (DT * ratio).astype(np.float32),
            "r": ratio.astype(np.float32),
            "v_leak": np.zeros_like(ratio, np.float32),
        },
    )
    edges += chain(source, name + ".in", name)


def add_block_input(nodes: Nodes, edges: Edges, prefix: str, source: str, numbers: BlockInputNumbers) -> None:
    """Nodes of the neurons that read the residual stream, pooled inhibition included."""
    if numbers.pool_step is None:
        add_count(nodes, edges, prefix + "spikes", source, numbers.step, numbers.levels, signed=numbers.signed)
        return
    c = numbers.step.size
    add_count(nodes, edges, prefix + "pool_spikes", source, numbers.pool_step, numbers.levels)
    nodes[prefix + "pool"] = Node("Linear", {"weight": np.ones((1, 1, c), np.int8)})
    nodes[prefix + "step"] = Node("Linear", {"weight": np.ones((1, c, 1), np.int8)})
    edges += chain(prefix + "pool_spikes", prefix + "pool", prefix + "step")
    add_count(
        nodes,
        edges,
        prefix + "spikes",
        source,
        numbers.step,
        numbers.levels,
        signed=numbers.signed,
        step_signal=prefix + "step",
    )


def add_shift(nodes: Nodes, edges: Edges, delay: Ints) -> None:
    """The token shift: a Delay of 0 or 1 token per channel."""
    nodes["shift"] = Node("Delay", {"delay": (delay[None] * DT).astype(np.float32)})
    edges += chain("input.spikes", "shift")


def add_write(nodes: Nodes, edges: Edges, name: str, source: str, projection: Projection) -> None:
    """A projection into the residual stream, and the Scale behind it."""
    size = projection.shift.size
    nodes[name] = linear(projection, False)
    nodes[name + ".scale"] = scale(projection.shift)
    nodes["output"] = port("Output", size)
    edges += chain(source, name, name + ".scale", "output")


def read_step(graph: Graph, name: str) -> tuple[Ints, int, bool]:
    """Step (C,), levels and signedness of a count; raises KeyError where one of its nodes is missing."""
    threshold = read_array(graph, name + ".lines", "threshold")
    weight = read_array(graph, name + ".expand", "weight").reshape(-1)
    levels = int((weight > 0).sum())
    return np.floor(threshold[0]).astype(np.int32), levels, bool((weight < 0).any())


def read_array(graph: Graph, name: str, parameter: str) -> Ints:
    """An integer parameter of a node, (...); raises KeyError where node or parameter is missing."""
    node = graph.nodes.get(name)
    if not isinstance(node, Node) or parameter not in node.parameters:
        raise KeyError(f"{name}.{parameter}")
    return node.array(parameter)


def projection(graph: Graph, name: str, scale_name: str = "") -> Projection:
    """Weights of a Linear or Affine of shape (1, out, in) and the shift of the Scale that follows it.

    Raises:
        KeyError, IndexError, ValueError: a parameter that is missing, or holds other than such integers.
    """
    weight = _exact(read_array(graph, name, "weight"), np.int8, f"{name}.weight")
    if weight.ndim != 3 or len(weight) != 1:
        raise ValueError(f"{name}.weight, whose shape {weight.shape} must be (1, outputs, inputs)")
    node = graph.nodes[name]
    out = weight.shape[1]
    has_bias = isinstance(node, Node) and "bias" in node.parameters
    bias = _exact(read_array(graph, name, "bias")[0], np.int32, f"{name}.bias") if has_bias else np.zeros(out, np.int32)
    shift = _shifts(read_array(graph, scale_name, "scale")[0], scale_name) if scale_name else np.zeros(out, np.uint8)
    return Projection(weight[0], bias, shift)


def _exact(array: Ints, dtype: type[np.signedinteger], what: str) -> Ints:
    """The same numbers as ``dtype``."""
    with np.errstate(invalid="ignore"):
        same = array.astype(dtype, copy=False)
    if not np.array_equal(same, array):
        raise ValueError(f"{what}, which must hold {np.dtype(dtype).name} integers")
    return same


def _shifts(gain: Ints, what: str) -> Ints:
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.log2(gain.astype(np.float64)).astype(np.uint8)
    if not np.array_equal(np.exp2(shift.astype(np.float64)), gain) or shift.max(initial=0) > MAX_SHIFT:
        raise ValueError(f"{what}.scale, whose gains must be powers of two in 2**0..2**31")
    return shift


def read_block_input(graph: Graph, prefix: str) -> BlockInputNumbers:
    """The integers of `add_block_input`."""
    step, levels, signed = read_step(graph, prefix + "spikes")
    pool = read_step(graph, prefix + "pool_spikes")[0] if prefix + "pool" in graph.nodes else None
    return BlockInputNumbers(step, levels, signed, pool)


def read_delay(graph: Graph) -> Ints:
    """The delays of `add_shift`, (C,) tokens; raises KeyError where they are missing."""
    delay: Ints = np.rint(read_array(graph, "shift", "delay")[0] / DT).astype(np.int32)
    return delay
