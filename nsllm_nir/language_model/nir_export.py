"""Model to NIR file: language models in the structured profile, streamed block by block.

Other networks go through `snntorch_network.export`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from nsllm_nir.composites.final import FinalNumbers
from nsllm_nir.composites.primitives import linear, port, scale
from nsllm_nir.composites.registry import VERSION, block_graph
from nsllm_nir.errors import InputError, LossyConversionError
from nsllm_nir.graph import Graph, GraphWriter, chain, write
from nsllm_nir.language_model.blocks.base import layer_numbers
from nsllm_nir.language_model.modeling import NSLLMBlock, NSLLMForCausalLM
from nsllm_nir.language_model.spiking_linear import SpikingLinear
from nsllm_nir.snntorch_network.export import network_graph


def to_nir(model: nn.Module, path: Path | str, *, input_shape: tuple[int, ...] | None = None) -> Path:
    """Write ``model`` as a NIR file of standard nodes; returns its path. Equal models give equal bytes.

    An `NSLLMForCausalLM` gives integers (structured profile); peak memory on top of it stays below twice its largest
    layer. A network of snnTorch neurons gives floats, which `quantize` makes integers (docs/snntorch_networks.md).

    Args:
        model: `NSLLMForCausalLM`, or any module of snnTorch neurons and torch layers.
        path: of the file to write; its folder must exist.
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
        # Nodes of the default blocks in alphabetical order, as every other writer of this project and the reader do.
        h = _add_linear(writer, "embedding", "input", model.embedding, config.residual_fraction_bits, bias=False)
        writer.add("final", block_graph(FinalNumbers(model.final.numbers())))
        logits = _add_linear(writer, "head", "final", model.head, config.logit_fraction_bits, bias=True)
        writer.add("input", port("Input", config.vocab_size))
        for i, layer in enumerate(model.layers):
            assert isinstance(layer, NSLLMBlock)
            for part, block in layer.blocks():
                h = _add_block(writer, h, f"layer_{i:03d}.{part}", block_graph(block.numbers()), config.hidden_size)
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
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise LossyConversionError(f"parameter {name!r} holds NaN or infinity; the model cannot be exported")


def _add_linear(
    writer: GraphWriter, name: str, source: str, layer: SpikingLinear, fraction_bits: int, *, bias: bool
) -> str:
    numbers = layer_numbers(layer, fraction_bits)
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
