"""NIR file to model: rebuild an NSLLM from a structured-profile file, with the same integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch

from .blocks import AttentionNumbers, BlockInputNumbers, FinalNumbers, MixerNumbers, Projection
from .configuration import NSLLMConfig
from .errors import GraphError
from .graph import Graph
from .layers import BlockInput, SpikingChannelMixer, SpikingLinearAttention
from .lowering import as_graph
from .model import NSLLMForCausalLM
from .neuron import LeakyIntegrator, SpikeCount
from .nir_blocks import block_numbers, projection
from .quantization import SpikingLinear


def from_nir(source: Graph | nir.NIRGraph | str | Path) -> NSLLMForCausalLM:
    """Rebuild the model of a file that `to_nir` wrote (int8 weights, evaluation mode, count mode).

    Raises:
        GraphError: not an NSLLM graph, or one whose numbers this model class cannot hold.
    """
    graph = as_graph(source)
    info = graph.metadata.get("nsllm_nir")
    if not isinstance(info, dict) or info.get("model") != "nsllm":
        raise GraphError("the graph is not an NSLLM model (its metadata does not say so); use `lower` and a backend that runs programs")
    fraction, logit_fraction = int(info["residual_fraction_bits"]), int(info["logit_fraction_bits"])
    layers = sorted({name.split(".")[0] for name in graph.nodes if name.startswith("layer_")})
    blocks = [(_block(graph, f"{name}.attention", AttentionNumbers), _block(graph, f"{name}.mixer", MixerNumbers)) for name in layers]
    final = _block(graph, "final", FinalNumbers)
    embedding, head = projection(graph, "embedding", "embedding.scale"), projection(graph, "head", "head.scale")
    config = _config(info, embedding, blocks, final)
    with torch.no_grad():
        model = NSLLMForCausalLM(config).eval()
        _load_linear(model.embedding, embedding, fraction)
        for layer, (attention, mixer) in zip(model.layers, blocks, strict=True):
            _load_attention(layer.attention, attention, fraction)
            _load_mixer(layer.mixer, mixer, fraction)
        _load_input(model.final, final.input, fraction)
        _load_linear(model.head, head, logit_fraction)
    return model


def _block(graph: Graph, name: str, kind: type) -> Any:
    node = graph.nodes.get(name)
    numbers = block_numbers(node, name) if isinstance(node, Graph) else None
    if not isinstance(numbers, kind):
        raise GraphError(f"the NSLLM graph lacks its block {name!r}")
    return numbers


def _config(info: dict[str, Any], embedding: Projection, blocks: list[tuple[AttentionNumbers, MixerNumbers]], final: FinalNumbers) -> NSLLMConfig:
    first, mixer = blocks[0]
    if any(a.levels != m.levels or a.fraction_bits != first.fraction_bits or a.denominator != first.denominator for a, m in blocks):
        raise GraphError("the layers differ in fraction bits, denominator, or levels within a layer, which one NSLLMConfig cannot hold")
    return NSLLMConfig(
        vocab_size=embedding.weight.shape[1],
        hidden_size=embedding.weight.shape[0],
        intermediate_size=mixer.up.weight.shape[0],
        num_hidden_layers=len(blocks),
        levels=[a.levels for a, _ in blocks],
        final_levels=final.input.levels,
        weight_bits=int(info["weight_bits"]),
        coding="ternary" if final.input.signed else "binary",
        denominator=first.denominator,
        normalisation="none" if final.input.pool_step is None else "pooled",
        residual_fraction_bits=int(info["residual_fraction_bits"]),
        logit_fraction_bits=int(info["logit_fraction_bits"]),
        state_fraction_bits=first.fraction_bits,
        frozen=True,
    )


def _load_linear(layer: SpikingLinear, numbers: Projection, fraction_bits: int = 0) -> None:
    layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(numbers.weight)))
    exponent = numbers.shift.astype(np.int16) - fraction_bits
    layer.exponent.copy_(torch.from_numpy(exponent))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(numbers.bias * np.exp2(exponent.astype(np.float64))))


def _load_step(neuron: SpikeCount, step: np.ndarray, unit: float = 1.0) -> None:
    neuron.threshold.copy_(torch.from_numpy(step * unit))


def _load_input(block: BlockInput, numbers: BlockInputNumbers, fraction_bits: int) -> None:
    unit = 2.0**-fraction_bits
    _load_step(block.spikes, numbers.step, unit)
    if numbers.pool_step is not None:
        _load_step(block.pool_spikes, numbers.pool_step, unit)


def _check_delay(delay: np.ndarray, where: str) -> None:
    if not np.array_equal(delay, np.arange(delay.size) < delay.size // 2):
        raise GraphError(f"{where}: the model class delays the first half of the channels by one token; this file has other delays")


def _load_attention(a: SpikingLinearAttention, numbers: AttentionNumbers, fraction_bits: int) -> None:
    _check_delay(numbers.delay, "spiking_linear_attention")
    low, high = int(numbers.decay_shift.min()), int(numbers.decay_shift.max())
    if low < LeakyIntegrator.MIN_SHIFT or high > LeakyIntegrator.MAX_SHIFT:
        raise GraphError(f"decay shifts in [{low}, {high}] are outside the model's [{LeakyIntegrator.MIN_SHIFT}, {LeakyIntegrator.MAX_SHIFT}]")
    if numbers.denominator and (numbers.read_step != 1 << numbers.fraction_bits).any():
        raise GraphError("the read-out step must be one key spike (1 << fraction_bits) in every channel")
    _load_input(a.input, numbers.input, fraction_bits)
    for layer, weights, neuron, step in (
        (a.receptance, numbers.receptance, a.receptance_spikes, numbers.receptance_step),
        (a.key, numbers.key, a.key_spikes, numbers.key_step),
        (a.value, numbers.value, a.value_spikes, numbers.value_step),
    ):
        _load_linear(layer, weights)
        _load_step(neuron, step)
    a.integrator.shift.copy_(torch.from_numpy(numbers.decay_shift))
    if not numbers.denominator:
        _load_step(a.read_spikes, numbers.read_step)
    _load_linear(a.out, numbers.out, fraction_bits)


def _load_mixer(m: SpikingChannelMixer, numbers: MixerNumbers, fraction_bits: int) -> None:
    _check_delay(numbers.delay, "spiking_channel_mixer")
    _load_input(m.input, numbers.input, fraction_bits)
    _load_linear(m.up, numbers.up)
    _load_step(m.up_spikes, numbers.up_step)
    _load_linear(m.down, numbers.down, fraction_bits)
