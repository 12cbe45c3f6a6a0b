"""Model to NIR file: language models in the structured profile, streamed block by block; other networks through `snntorch_export`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from nsllm_nir.composites.blocks import (
    AttentionNumbers,
    BlockInputNumbers,
    FinalNumbers,
    MixerNumbers,
    Projection,
    token_shift,
)
from nsllm_nir.composites.nir_blocks import VERSION, block_graph, linear, port, scale
from nsllm_nir.errors import InputError, LossyConversionError
from nsllm_nir.graph import Graph, GraphWriter, chain, write
from nsllm_nir.language_model.layers import BlockInput, SpikingChannelMixer, SpikingLinearAttention
from nsllm_nir.language_model.modeling import NSLLMBlock, NSLLMForCausalLM
from nsllm_nir.language_model.neuron import SpikeCount
from nsllm_nir.language_model.spiking_linear import SpikingLinear
from nsllm_nir.snntorch_network.export import network_graph


def to_nir(model: nn.Module, path: Path | str, *, input_shape: tuple[int, ...] | None = None) -> Path:
    """Write ``model`` as a NIR file of standard nodes; returns its path. Equal models give equal bytes.

    An `NSLLMForCausalLM` gives integers (structured profile); peak memory on top of it stays below twice its largest layer. A network of
    snnTorch neurons gives floats, which `quantize` makes integers (docs/snntorch_networks.md).

    Args:
        model: `NSLLMForCausalLM`, or any module of snnTorch neurons and torch layers.
        input_shape: of one step without batch, for such a module; needed unless its first layer with weights is Linear.

    Raises:
        LossyConversionError: something NIR or the integer semantics cannot hold; nothing is written.
        GraphError: a forward that cannot be read, or a file that cannot be written; an old file stays as it was.
        InputError: ``input_shape`` is missing or does not fit.
    """
    path = Path(path)
    if not isinstance(model, NSLLMForCausalLM):
        write(path, network_graph(model, input_shape))
        return path
    if input_shape is not None:
        raise InputError("input_shape is for networks of snnTorch layers; an NSLLM model reads tokens, leave it out")
    _refuse_lossy(model)
    config = model.config
    with GraphWriter(path) as writer:
        # Nodes in alphabetical order, as every other writer of this project and the reader list them.
        h = _add_linear(writer, "embedding", "input", model.embedding, config.residual_fraction_bits, bias=False)
        writer.add("final", block_graph(FinalNumbers(_block_input(model.final))))
        logits = _add_linear(writer, "head", "final", model.head, config.logit_fraction_bits, bias=True)
        writer.add("input", port("Input", config.vocab_size))
        for i, layer in enumerate(model.layers):
            assert isinstance(layer, NSLLMBlock)
            prefix = f"layer_{i:03d}."
            h = _add_block(
                writer,
                h,
                prefix + "attention",
                block_graph(_attention(layer.attention, config.residual_fraction_bits)),
                config.hidden_size,
            )
            h = _add_block(
                writer,
                h,
                prefix + "mixer",
                block_graph(_mixer(layer.mixer, config.residual_fraction_bits)),
                config.hidden_size,
            )
        writer.add("output", port("Output", config.vocab_size))
        writer.connect((h, "final"), (logits, "output"))
        fractions = {
            "residual_fraction_bits": config.residual_fraction_bits,
            "logit_fraction_bits": config.logit_fraction_bits,
        }
        writer.finish(
            {"nsllm_nir": {"model": "nsllm", "version": VERSION, "weight_bits": config.weight_bits, **fractions}}
        )
    return path


def _refuse_lossy(model: NSLLMForCausalLM) -> None:
    config = model.config
    if config.normalisation == "rms":
        raise LossyConversionError(
            "normalisation 'rms' needs a square root and a division, which NIR lacks; train with 'none' or 'pooled'"
        )
    if config.state == "matrix":
        raise LossyConversionError(
            "state 'matrix' gates integer states with spikes, which NIR primitives cannot express at useful sizes; train with 'vector'"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise LossyConversionError(f"parameter {name!r} holds NaN or infinity; the model cannot be exported")


def _add_linear(
    writer: GraphWriter, name: str, source: str, layer: SpikingLinear, fraction_bits: int, *, bias: bool
) -> str:
    numbers = _projection(layer, fraction_bits)
    gain = f"{name}.scale"
    writer.add(name, linear(numbers, bias))
    writer.add(gain, scale(numbers.shift))
    writer.connect(*chain(source, name, gain))
    return gain


def _add_block(writer: GraphWriter, h: str, name: str, block: Graph, size: int) -> str:
    """``h + block(h)``, as the implicit sum at a Scale of ones."""
    total = name + "_residual"
    writer.add(name, block)
    writer.add(total, scale(np.zeros(size)))
    writer.connect((h, name), (h, total), (name, total))
    return total


def _projection(layer: SpikingLinear, fraction_bits: int | None = None) -> Projection:
    """Integers of a layer; a layer with a fixed point of ``fraction_bits`` carries its gains as shifts."""
    numbers = layer.integers()
    shift = (
        np.zeros(layer.outputs, np.uint8)
        if fraction_bits is None
        else (numbers.exponent + fraction_bits).astype(np.uint8)
    )
    return Projection(numbers.weight, numbers.bias, shift)


@torch.no_grad()
def _step(neuron: SpikeCount, unit: torch.Tensor | float) -> np.ndarray:
    step = neuron.integer_step(unit)
    if float(step.max()) >= 2**24:
        raise LossyConversionError(
            f"a threshold of {float(step.max()):.3g} integer units exceeds the 24 bits of a float32; train with smaller thresholds"
        )
    return step.to(torch.int32).numpy()


def _block_input(block: BlockInput) -> BlockInputNumbers:
    pool = _step(block.pool_spikes, block.unit) if block.normalisation == "pooled" else None
    return BlockInputNumbers(_step(block.spikes, block.unit), block.spikes.levels, block.spikes.signed, pool)


@torch.no_grad()
def _attention(a: SpikingLinearAttention, fraction_bits: int) -> AttentionNumbers:
    size = a.key.outputs
    read = _step(a.read_spikes, 1.0)
    return AttentionNumbers(
        input=_block_input(a.input),
        delay=token_shift(size),
        receptance=_projection(a.receptance),
        receptance_step=_step(a.receptance_spikes, a.receptance.unit()),
        key=_projection(a.key),
        key_step=_step(a.key_spikes, a.key.unit()),
        value=_projection(a.value),
        value_step=_step(a.value_spikes, a.value.unit()),
        levels=a.value_spikes.levels,
        decay_shift=a.integrator.integer_shift().to(torch.int32).numpy(),
        fraction_bits=a.fraction_bits,
        denominator=a.denominator,
        read_step=np.full(size, 1 << a.fraction_bits, np.int32) if a.denominator else read,
        out=_projection(a.out, fraction_bits),
    )


@torch.no_grad()
def _mixer(m: SpikingChannelMixer, fraction_bits: int) -> MixerNumbers:
    return MixerNumbers(
        input=_block_input(m.input),
        delay=token_shift(m.up.inputs),
        up=_projection(m.up),
        up_step=_step(m.up_spikes, m.up.unit()),
        levels=m.up_spikes.levels,
        down=_projection(m.down, fraction_bits),
    )
