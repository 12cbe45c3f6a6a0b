"""What the blocks of a layer share: spiking input, projections, states, and the exchange of integers with composites.

Notation: T timesteps (1 with graded counts), B batch, N tokens, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nsllm_nir.composites.primitives import BlockInputNumbers, Ints, Projection, ResidualComposite, token_shift
from nsllm_nir.errors import GraphError, LossyConversionError
from nsllm_nir.language_model.configuration import NSLLMConfig
from nsllm_nir.language_model.neuron import SpikeCount, TokenShift
from nsllm_nir.language_model.spiking_linear import SpikingLinear

BlockState = dict[str, Tensor]  # recurrent states of one block, the batch on the first axis
Numbers = TypeVar("Numbers", bound=ResidualComposite)


class BlockInput(nn.Module):
    """Residual stream to spikes, in place of a normalisation and its activation function.

    ``none``: Count(h, theta_0). ``pooled``: Count(h, theta_0 + 2**-F n), n = the spikes of a first count of
    the same potentials (pooled inhibition). ``rms``: RMSNorm before the count, for ablations only.
    """

    def __init__(self, config: NSLLMConfig, levels: int) -> None:
        super().__init__()
        self.normalisation = config.normalisation
        self.unit = 2.0**-config.residual_fraction_bits
        signed = config.coding == "ternary"
        self.spikes = SpikeCount(
            config.hidden_size, levels, threshold=config.input_threshold, signed=signed, margin=config.margin
        )
        if self.normalisation == "pooled":
            self.pool_spikes = SpikeCount(
                config.hidden_size, levels, threshold=config.input_threshold, margin=config.margin
            )

    def forward(self, h: Tensor) -> Tensor:
        """h: (B, N, C) residual potentials; returns spikes (T, B, N, C)."""
        if self.normalisation == "rms":
            h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-5)
        step = None
        if self.normalisation == "pooled":
            pool = self.pool_spikes(h, self.unit).sum(0).sum(-1, keepdim=True)
            step = (self.spikes.integer_step(self.unit) + pool) * self.unit
        spikes: Tensor = self.spikes(h, self.unit, step)
        return spikes

    def numbers(self) -> BlockInputNumbers:
        """The integers that the forward pass uses.

        Raises:
            LossyConversionError: a threshold beyond the 24 bits of a float32.
        """
        pool = step_numbers(self.pool_spikes, self.unit) if self.normalisation == "pooled" else None
        return BlockInputNumbers(step_numbers(self.spikes, self.unit), self.spikes.levels, self.spikes.signed, pool)

    def load(self, numbers: BlockInputNumbers, where: str) -> None:
        """Take the integers of a file.

        Raises:
            GraphError: another number of neurons.
        """
        load_step(self.spikes, numbers.step, where, self.unit)
        if numbers.pool_step is not None:
            load_step(self.pool_spikes, numbers.pool_step, where, self.unit)


class ResidualBlock(nn.Module, ABC, Generic[Numbers]):
    """A block of a layer, ``h + block(h)``.

    The names of its sub-modules are the node names of the exported graph (``layer_000.attention.key_spikes``). Its
    integers are those of a composite, ``Numbers``, whose ``PART`` names the block in `NSLLMConfig.blocks`.

    Args:
        levels: D of this layer.
    """

    def __init__(self, config: NSLLMConfig, levels: int) -> None:
        super().__init__()
        self.residual_fraction_bits = config.residual_fraction_bits
        self.input = BlockInput(config, levels)

    @abstractmethod
    def forward(self, h: Tensor, state: BlockState) -> Tensor:
        """h: (B, N, C) to the residual update (B, N, C); entries of ``state`` are replaced."""

    @abstractmethod
    def numbers(self) -> Numbers:
        """The integers that the forward pass uses.

        Raises:
            LossyConversionError: something that the integers cannot hold.
        """

    @abstractmethod
    def load(self, numbers: Numbers, where: str) -> None:
        """Take the integers of a file (the weights of this block are frozen).

        Raises:
            GraphError: sizes or constants that this block cannot hold; ``where`` names the block in the file.
        """

    def __call__(self, h: Tensor, state: BlockState) -> Tensor:
        """h: (B, N, C) residual potentials, and the block's state; returns what is added to h, (B, N, C)."""
        update: Tensor = super().__call__(h, state)
        return update


def shifted(shift: TokenShift, spikes: Tensor, state: BlockState) -> Tensor:
    """Token shift of spikes (T, B, N, C) whose last token stays in ``state["shift"]``, (B, T, 1, C/2)."""
    previous = state.get("shift")
    out: Tensor
    out, last = shift(spikes, None if previous is None else previous.transpose(0, 1))
    state["shift"] = last.transpose(0, 1)
    return out


def input_projection(config: NSLLMConfig, inputs: int, outputs: int, bias: float = 0.0) -> SpikingLinear:
    """A layer that reads spikes and feeds neurons."""
    return SpikingLinear(inputs, outputs, config.weight_bits, bias=bias, frozen=config.frozen)


def residual_write(config: NSLLMConfig, inputs: int) -> SpikingLinear:
    """A layer that writes to the residual stream, in its fixed point."""
    return SpikingLinear(
        inputs,
        config.hidden_size,
        config.weight_bits,
        lowest_exponent=-config.residual_fraction_bits,
        gain=config.residual_gain,
        frozen=config.frozen,
    )


def layer_numbers(layer: SpikingLinear, fraction_bits: int | None = None) -> Projection:
    """Integers of a layer; a layer with a fixed point of ``fraction_bits`` carries its gains as shifts."""
    numbers = layer.integers()
    shift = (
        np.zeros(layer.outputs, np.uint8)
        if fraction_bits is None
        else (numbers.exponent + fraction_bits).astype(np.uint8)
    )
    return Projection(numbers.weight, numbers.bias, shift)


@torch.no_grad()
def step_numbers(neuron: SpikeCount, unit: Tensor | float) -> Ints:
    """Firing steps (C,) int32 in integer units of the potential.

    Raises:
        LossyConversionError: a step beyond the 24 bits of a float32.
    """
    step = neuron.integer_step(unit)
    if float(step.max()) >= 2**24:
        raise LossyConversionError(
            f"a threshold of {float(step.max()):.3g} integer units exceeds the 24 bits of a float32; "
            "train with smaller thresholds"
        )
    return step.to(torch.int32).cpu().numpy()


@torch.no_grad()
def load_layer(layer: SpikingLinear, numbers: Projection, where: str, fraction_bits: int = 0) -> None:
    """Put integers into a frozen layer.

    Raises:
        GraphError: another size.
    """
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


@torch.no_grad()
def load_step(neuron: SpikeCount, step: Ints, where: str, unit: float = 1.0) -> None:
    """Put firing steps (C,), in integer units, into a neuron.

    Raises:
        GraphError: another number of neurons.
    """
    if neuron.threshold.shape != step.shape:
        raise GraphError(f"{where}: {step.size} neurons, the model needs {neuron.threshold.numel()}")
    neuron.threshold.copy_(torch.from_numpy(step * unit))


def check_delay(delay: Ints, where: str) -> None:
    """Raises GraphError if the delays are not those of the token shift."""
    if not np.array_equal(delay, token_shift(delay.size)):
        raise GraphError(
            f"{where}: the model class delays the first half of the channels by one token; this file has other delays"
        )
