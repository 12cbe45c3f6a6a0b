"""NIR file to model: rebuild an NSLLM from a structured-profile file, with the same integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch

from nsllm_nir.composites.blocks import (
    AttentionNumbers,
    BlockInputNumbers,
    FinalNumbers,
    MixerNumbers,
    Projection,
    token_shift,
)
from nsllm_nir.composites.nir_blocks import VERSION, block_numbers, composite_op, projection
from nsllm_nir.errors import GraphError
from nsllm_nir.graph import Graph, Node, as_graph, chain
from nsllm_nir.language_model.configuration import NSLLMConfig
from nsllm_nir.language_model.layers import BlockInput, SpikingChannelMixer, SpikingLinearAttention
from nsllm_nir.language_model.modeling import NSLLMForCausalLM
from nsllm_nir.language_model.neuron import LeakyIntegrator, SpikeCount
from nsllm_nir.language_model.spiking_linear import SpikingLinear


def from_nir(source: Graph | nir.NIRGraph | str | Path) -> NSLLMForCausalLM:
    """Rebuild the model of a file that `to_nir` wrote (int8 weights, evaluation mode, count mode).

    Raises:
        GraphError: not an NSLLM graph, or one whose numbers this model class cannot hold.
    """
    graph = as_graph(source)
    info = graph.metadata.get("nsllm_nir")
    if not isinstance(info, dict) or info.get("model") != "nsllm":
        raise GraphError(
            "the graph is not an NSLLM model (its metadata does not say so); use `lower` and a backend that runs programs"
        )
    if not np.array_equal(np.asarray(info.get("version")), VERSION):
        raise GraphError(
            f"the NSLLM graph's version {info.get('version')} is unknown; this release reads version {VERSION}"
        )
    fraction, logit_fraction = _number(info, "residual_fraction_bits"), _number(info, "logit_fraction_bits")
    layers = sorted({name.split(".")[0] for name in graph.nodes if name.startswith("layer_")})
    if not layers:
        raise GraphError("the NSLLM graph has no layer")
    blocks = [
        (_block(graph, f"{name}.attention", AttentionNumbers), _block(graph, f"{name}.mixer", MixerNumbers))
        for name in layers
    ]
    final = _block(graph, "final", FinalNumbers)
    embedding, head = _projection(graph, "embedding"), _projection(graph, "head")
    _check_wiring(graph, layers)
    config = _config(info, embedding, blocks, final)
    with torch.no_grad():
        model = NSLLMForCausalLM(config).eval()
        _load_linear(model.embedding, embedding, "embedding", fraction)
        for name, layer, (attention, mixer) in zip(layers, model.layers, blocks, strict=True):
            _load_attention(layer.attention, attention, f"{name}.attention", fraction)
            _load_mixer(layer.mixer, mixer, f"{name}.mixer", fraction)
        _load_input(model.final, final.input, "final", fraction)
        _load_linear(model.head, head, "head", logit_fraction)
    return model


def _number(info: dict[str, Any], key: str) -> int:
    try:
        return int(info[key])
    except (KeyError, TypeError, ValueError) as error:
        raise GraphError(f"the NSLLM graph lacks the number {key!r} in its metadata") from error


def _block(graph: Graph, name: str, kind: type) -> Any:
    node = graph.nodes.get(name)
    numbers = block_numbers(node, name) if isinstance(node, Graph) and composite_op(node) else None
    if not isinstance(numbers, kind):
        raise GraphError(f"the NSLLM graph lacks its block {name!r}")
    return numbers


def _projection(graph: Graph, name: str) -> Projection:
    try:
        return projection(graph, name, f"{name}.scale")
    except (KeyError, IndexError, ValueError) as error:
        raise GraphError(f"the NSLLM graph lacks or distorts {error}") from error


def _check_wiring(graph: Graph, layers: list[str]) -> None:
    """The model class has one wiring; a graph with another must not be bent to it."""
    edges, h = list(chain("input", "embedding", "embedding.scale")), "embedding.scale"
    for block in (f"{name}.{part}" for name in layers for part in ("attention", "mixer")):
        total = f"{block}_residual"
        edges += [(h, block), (h, total), (block, total)]
        h = total
        node = graph.nodes.get(total)
        if not isinstance(node, Node) or node.type != "Scale" or (node.array("scale") != 1).any():
            raise GraphError(f"{total!r} must be a Scale of ones in an NSLLM graph")
    edges += [(h, "final"), *chain("final", "head", "head.scale", "output")]
    odd = sorted(set(graph.nodes) ^ {end for edge in edges for end in edge})
    if odd:
        raise GraphError(f"the node {odd[0]!r} is missing or extra in an NSLLM graph")
    if sorted(graph.edges) != sorted(edges):
        wrong = sorted(set(graph.edges) ^ set(edges))
        raise GraphError(f"the edge {wrong[0] if wrong else 'list'} is missing, extra or doubled in an NSLLM graph")


def _config(
    info: dict[str, Any],
    embedding: Projection,
    blocks: list[tuple[AttentionNumbers, MixerNumbers]],
    final: FinalNumbers,
) -> NSLLMConfig:
    first, mixer = blocks[0]
    _check_alike(blocks, final)
    return NSLLMConfig(
        vocab_size=embedding.weight.shape[1],
        hidden_size=embedding.weight.shape[0],
        intermediate_size=mixer.up.weight.shape[0],
        num_hidden_layers=len(blocks),
        levels=[a.levels for a, _ in blocks],
        final_levels=final.input.levels,
        weight_bits=_number(info, "weight_bits"),
        coding="ternary" if final.input.signed else "binary",
        denominator=first.denominator,
        normalisation="none" if final.input.pool_step is None else "pooled",
        residual_fraction_bits=_number(info, "residual_fraction_bits"),
        logit_fraction_bits=_number(info, "logit_fraction_bits"),
        state_fraction_bits=first.fraction_bits,
        frozen=True,
    )


def _check_alike(blocks: list[tuple[AttentionNumbers, MixerNumbers]], final: FinalNumbers) -> None:
    inputs = [final.input, *(block.input for pair in blocks for block in pair)]
    found: dict[str, bool] = {
        "coding": len({i.signed for i in inputs}) == 1,
        "normalisation": len({i.pool_step is None for i in inputs}) == 1,
        "levels within a layer": all(len({a.input.levels, a.levels, m.input.levels, m.levels}) == 1 for a, m in blocks),
        "fraction bits": len({a.fraction_bits for a, _ in blocks}) == 1,
        "denominator": len({a.denominator for a, _ in blocks}) == 1,
        "intermediate size": len({m.up.weight.shape[0] for _, m in blocks}) == 1,
    }
    wrong = [name for name, alike in found.items() if not alike]
    if wrong:
        raise GraphError(f"the layers differ in {', '.join(wrong)}, which one NSLLMConfig cannot hold")


def _load_linear(layer: SpikingLinear, numbers: Projection, where: str, fraction_bits: int = 0) -> None:
    if (
        layer.weight.shape != numbers.weight.shape
        or numbers.shift.shape != (layer.outputs,)
        or numbers.bias.shape != (layer.outputs,)
    ):
        raise GraphError(
            f"{where}: the weight has shape {numbers.weight.shape}, the model needs {tuple(layer.weight.shape)}"
        )
    layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(numbers.weight)))
    exponent = numbers.shift.astype(np.int16) - fraction_bits
    layer.exponent.copy_(torch.from_numpy(exponent))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(numbers.bias * np.exp2(exponent.astype(np.float64))))


def _load_step(neuron: SpikeCount, step: np.ndarray, where: str, unit: float = 1.0) -> None:
    if neuron.threshold.shape != step.shape:
        raise GraphError(f"{where}: {step.size} neurons, the model needs {neuron.threshold.numel()}")
    neuron.threshold.copy_(torch.from_numpy(step * unit))


def _load_input(block: BlockInput, numbers: BlockInputNumbers, where: str, fraction_bits: int) -> None:
    unit = 2.0**-fraction_bits
    _load_step(block.spikes, numbers.step, where, unit)
    if numbers.pool_step is not None:
        _load_step(block.pool_spikes, numbers.pool_step, where, unit)


def _check_delay(delay: np.ndarray, where: str) -> None:
    if not np.array_equal(delay, token_shift(delay.size)):
        raise GraphError(
            f"{where}: the model class delays the first half of the channels by one token; this file has other delays"
        )


def _load_attention(a: SpikingLinearAttention, numbers: AttentionNumbers, where: str, fraction_bits: int) -> None:
    _check_delay(numbers.delay, where)
    low, high = int(numbers.decay_shift.min()), int(numbers.decay_shift.max())
    if low < LeakyIntegrator.MIN_SHIFT or high > LeakyIntegrator.MAX_SHIFT:
        raise GraphError(
            f"{where}: decay shifts in [{low}, {high}] are outside the model's [{LeakyIntegrator.MIN_SHIFT}, {LeakyIntegrator.MAX_SHIFT}]"
        )
    if numbers.denominator and (numbers.read_step != 1 << numbers.fraction_bits).any():
        raise GraphError(f"{where}: the read-out step must be one key spike (1 << fraction_bits) in every channel")
    _load_input(a.input, numbers.input, where, fraction_bits)
    for layer, weights, neuron, step in (
        (a.receptance, numbers.receptance, a.receptance_spikes, numbers.receptance_step),
        (a.key, numbers.key, a.key_spikes, numbers.key_step),
        (a.value, numbers.value, a.value_spikes, numbers.value_step),
    ):
        _load_linear(layer, weights, where)
        _load_step(neuron, step, where)
    a.integrator.shift.copy_(torch.from_numpy(numbers.decay_shift))
    if not numbers.denominator:
        _load_step(a.read_spikes, numbers.read_step, where)
    _load_linear(a.out, numbers.out, where, fraction_bits)


def _load_mixer(m: SpikingChannelMixer, numbers: MixerNumbers, where: str, fraction_bits: int) -> None:
    _check_delay(numbers.delay, where)
    _load_input(m.input, numbers.input, where, fraction_bits)
    _load_linear(m.up, numbers.up, where)
    _load_step(m.up_spikes, numbers.up_step, where)
    _load_linear(m.down, numbers.down, where, fraction_bits)
