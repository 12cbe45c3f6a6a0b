"""Blocks as subgraphs of standard NIR primitives, and back.

Signals have the shape (1, C), so that a Conv1d of kernel 1 expands a neuron into its D threshold
lines (D, C) and collapses them into a count. The metadata names the composite; every number is read
from the primitives, and `block_numbers` rebuilds the subgraph and compares before it trusts the name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.composites.blocks import (
    AttentionNumbers,
    BlockInputNumbers,
    BlockNumbers,
    FinalNumbers,
    MixerNumbers,
    Projection,
)
from nsllm_nir.errors import GraphError, LossyConversionError
from nsllm_nir.graph import DT, Graph, Node, chain
from nsllm_nir.program.constants import MAX_SHIFT

Ints = NDArray[Any]
VERSION = 1
Nodes = dict[str, Node | Graph]
Edges = list[tuple[str, str]]


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


def _lines(
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
    """``2 v - (2m - 1) step > 1/2`` for each line m, as name.lines; returns the sign of each line."""
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


def _count(
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
    """The lines of `_lines` and their sum."""
    nodes[name] = _collapse(
        step.size, _lines(nodes, edges, name, source, step, levels, signed=signed, step_signal=step_signal)
    )
    edges += chain(name + ".lines", name)


def _gate(nodes: Nodes, edges: Edges, name: str, gate: str, source: str, size: int, levels: int) -> None:
    """Logical AND of the gate with every line of ``source``: line + gate > 3/2."""
    nodes[name + ".gate"] = _expand(size, [1] * levels)
    nodes[name + ".lines"] = _threshold(np.full((levels, size), 1.5))
    nodes[name] = _collapse(size, [1] * levels)
    edges += [*chain(gate, name + ".gate", name + ".lines", name), (source + ".lines", name + ".lines")]


def _integrate(nodes: Nodes, edges: Edges, name: str, source: str, decay_shift: Ints, fraction_bits: int) -> None:
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


def _block_input(nodes: Nodes, edges: Edges, prefix: str, source: str, numbers: BlockInputNumbers) -> None:
    if numbers.pool_step is None:
        _count(nodes, edges, prefix + "spikes", source, numbers.step, numbers.levels, signed=numbers.signed)
        return
    c = numbers.step.size
    _count(nodes, edges, prefix + "pool_spikes", source, numbers.pool_step, numbers.levels)
    nodes[prefix + "pool"] = Node("Linear", {"weight": np.ones((1, 1, c), np.int8)})
    nodes[prefix + "step"] = Node("Linear", {"weight": np.ones((1, c, 1), np.int8)})
    edges += chain(prefix + "pool_spikes", prefix + "pool", prefix + "step")
    _count(
        nodes,
        edges,
        prefix + "spikes",
        source,
        numbers.step,
        numbers.levels,
        signed=numbers.signed,
        step_signal=prefix + "step",
    )


def _shift(nodes: Nodes, edges: Edges, delay: Ints) -> None:
    nodes["shift"] = Node("Delay", {"delay": (delay[None] * DT).astype(np.float32)})
    edges += chain("input.spikes", "shift")


def _write(nodes: Nodes, edges: Edges, name: str, source: str, projection: Projection) -> None:
    size = projection.shift.size
    nodes[name] = linear(projection, False)
    nodes[name + ".scale"] = scale(projection.shift)
    nodes["output"] = port("Output", size)
    edges += chain(source, name, name + ".scale", "output")


def _attention_graph(a: AttentionNumbers) -> tuple[Nodes, Edges]:
    c = a.delay.size
    nodes: Nodes = {"input": port("Input", c)}
    edges: Edges = []
    _block_input(nodes, edges, "input.", "input", a.input)
    _shift(nodes, edges, a.delay)
    for name, projection, step, levels in (
        ("receptance", a.receptance, a.receptance_step, 1),
        ("key", a.key, a.key_step, 1),
        ("value", a.value, a.value_step, a.levels),
    ):
        nodes[name] = linear(projection, True)
        edges += chain("shift", name)
        # The value is read line by line; a sum without a reader would become a second output of the graph.
        (_lines if name == "value" else _count)(nodes, edges, name + "_spikes", name, step, levels)
    _gate(nodes, edges, "key_value", "key_spikes", "value_spikes", c, a.levels)
    _integrate(nodes, edges, "numerator", "key_value", a.decay_shift, a.fraction_bits)
    if a.denominator:
        _integrate(nodes, edges, "denominator", "key_spikes", a.decay_shift, a.fraction_bits)
    _lines(
        nodes,
        edges,
        "read_spikes",
        "numerator",
        a.read_step,
        a.levels,
        step_signal="denominator" if a.denominator else "",
    )
    _gate(nodes, edges, "read_gate", "receptance_spikes", "read_spikes", c, a.levels)
    _write(nodes, edges, "out", "read_gate", a.out)
    return nodes, edges


def _mixer_graph(m: MixerNumbers) -> tuple[Nodes, Edges]:
    nodes: Nodes = {"input": port("Input", m.delay.size)}
    edges: Edges = []
    _block_input(nodes, edges, "input.", "input", m.input)
    _shift(nodes, edges, m.delay)
    nodes["up"] = linear(m.up, True)
    edges += chain("shift", "up")
    _count(nodes, edges, "up_spikes", "up", m.up_step, m.levels)
    _write(nodes, edges, "down", "up_spikes", m.down)
    return nodes, edges


def _final_graph(f: FinalNumbers) -> tuple[Nodes, Edges]:
    c = f.input.step.size
    nodes: Nodes = {"input": port("Input", c), "output": port("Output", c)}
    edges: Edges = chain("spikes", "output")
    _block_input(nodes, edges, "", "input", f.input)
    return nodes, edges


def block_graph(numbers: BlockNumbers) -> Graph:
    """The composite subgraph of a block: one Input, one Output, standard primitives, naming metadata."""
    match numbers:
        case AttentionNumbers():
            op, (nodes, edges) = "spiking_linear_attention", _attention_graph(numbers)
        case MixerNumbers():
            op, (nodes, edges) = "spiking_channel_mixer", _mixer_graph(numbers)
        case FinalNumbers():
            op, (nodes, edges) = "spike_count", _final_graph(numbers)
    return Graph(nodes, tuple(sorted(edges)), {"nsllm_nir": {"op": op, "version": VERSION}})


def composite_op(graph: Graph) -> str | None:
    """The composite that the metadata names, or None."""
    entry = graph.metadata.get("nsllm_nir")
    return str(entry["op"]) if isinstance(entry, dict) and "op" in entry else None


def _step(graph: Graph, name: str) -> tuple[Ints, int, bool]:
    """Step, levels and signedness of a count."""
    threshold = _array(graph, name + ".lines", "threshold")
    weight = _array(graph, name + ".expand", "weight").reshape(-1)
    levels = int((weight > 0).sum())
    return np.floor(threshold[0]).astype(np.int32), levels, bool((weight < 0).any())


def _array(graph: Graph, name: str, parameter: str) -> Ints:
    node = graph.nodes.get(name)
    if not isinstance(node, Node) or parameter not in node.parameters:
        raise KeyError(f"{name}.{parameter}")
    return node.array(parameter)


def projection(graph: Graph, name: str, scale_name: str = "") -> Projection:
    """Weights of a Linear or Affine of shape (1, out, in) and the shift of the Scale that follows it.

    Raises:
        KeyError, IndexError, ValueError: a parameter that is missing, or holds other than such integers.
    """
    weight = _exact(_array(graph, name, "weight"), np.int8, f"{name}.weight")
    if weight.ndim != 3 or len(weight) != 1:
        raise ValueError(f"{name}.weight, whose shape {weight.shape} must be (1, outputs, inputs)")
    node = graph.nodes[name]
    out = weight.shape[1]
    has_bias = isinstance(node, Node) and "bias" in node.parameters
    bias = _exact(_array(graph, name, "bias")[0], np.int32, f"{name}.bias") if has_bias else np.zeros(out, np.int32)
    shift = _shifts(_array(graph, scale_name, "scale")[0], scale_name) if scale_name else np.zeros(out, np.uint8)
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


def _block_input_numbers(graph: Graph, prefix: str) -> BlockInputNumbers:
    step, levels, signed = _step(graph, prefix + "spikes")
    pool = _step(graph, prefix + "pool_spikes")[0] if prefix + "pool" in graph.nodes else None
    return BlockInputNumbers(step, levels, signed, pool)


def _delay(graph: Graph) -> Ints:
    return np.rint(_array(graph, "shift", "delay")[0] / DT).astype(np.int32)


def _attention_numbers(graph: Graph) -> AttentionNumbers:
    value_step, levels, _ = _step(graph, "value_spikes")
    return AttentionNumbers(
        input=_block_input_numbers(graph, "input."),
        delay=_delay(graph),
        receptance=projection(graph, "receptance"),
        receptance_step=_step(graph, "receptance_spikes")[0],
        key=projection(graph, "key"),
        key_step=_step(graph, "key_spikes")[0],
        value=projection(graph, "value"),
        value_step=value_step,
        levels=levels,
        decay_shift=(8 - np.rint(np.log2(_array(graph, "numerator", "r")[0]))).astype(np.int32),
        fraction_bits=int(np.log2(_array(graph, "numerator.in", "scale").flat[0])),
        denominator="denominator" in graph.nodes,
        read_step=_step(graph, "read_spikes")[0],
        out=projection(graph, "out", "out.scale"),
    )


def _mixer_numbers(graph: Graph) -> MixerNumbers:
    step, levels, _ = _step(graph, "up_spikes")
    return MixerNumbers(
        _block_input_numbers(graph, "input."),
        _delay(graph),
        projection(graph, "up"),
        step,
        levels,
        projection(graph, "down", "down.scale"),
    )


_READERS: dict[str, Callable[[Graph], BlockNumbers]] = {
    "spiking_linear_attention": _attention_numbers,
    "spiking_channel_mixer": _mixer_numbers,
    "spike_count": lambda graph: FinalNumbers(_block_input_numbers(graph, "")),
}


def block_numbers(graph: Graph, where: str) -> BlockNumbers:
    """The integers of a composite subgraph, after checking that its primitives compute what its name says.

    Raises:
        GraphError: unknown composite or version, or primitives that differ from the composite's definition.
    """
    op = composite_op(graph)
    version = graph.metadata["nsllm_nir"].get("version") if op else None
    if op not in _READERS or not np.array_equal(np.asarray(version), VERSION):
        raise GraphError(
            f"{where}: composite {op!r} version {version} is unknown; delete its metadata to run the primitives"
        )
    try:
        numbers = _READERS[op](graph)
        expected = block_graph(numbers)
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        raise GraphError(f"{where}: its metadata says {op}, but its primitives lack or distort {error}") from error
    _compare(graph, expected, where, op)
    return numbers


def _compare(found: Graph, expected: Graph, where: str, op: str) -> None:
    if set(found.nodes) != set(expected.nodes):
        odd = sorted(set(found.nodes) ^ set(expected.nodes))
        raise GraphError(f"{where}: its metadata says {op}, but the node {odd[0]!r} is missing or extra")
    if sorted(found.edges) != sorted(expected.edges):
        edge = sorted(set(found.edges) ^ set(expected.edges))
        raise GraphError(
            f"{where}: its metadata says {op}, but the edge {edge[0] if edge else 'list'} is missing, extra or doubled"
        )
    for name, want in expected.nodes.items():
        have = found.nodes[name]
        if not isinstance(want, Node) or not isinstance(have, Node) or have.type != want.type:
            raise GraphError(
                f"{where}.{name}: its metadata says {op}, but this is not the {getattr(want, 'type', 'NIRGraph')} it should be"
            )
        for key, value in want.parameters.items():
            if key == "weight" and want.type in ("Linear", "Affine"):
                continue  # free parameters, taken from the file itself
            if not np.array_equal(np.asarray(value), np.asarray(have.parameters.get(key))):
                raise GraphError(
                    f"{where}.{name}: its metadata says {op}, but the parameter {key!r} does not fit that composite"
                )
