"""Quantization-aware linear layers: integer weights of 2 (ternary), 4 or 8 bits at power-of-two scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsllm_nir.errors import InputError
from nsllm_nir.language_model.neuron import round_straight_through

WEIGHT_LIMIT = {2: 1, 4: 7, 8: 127}
LOWEST_EXPONENT = -14


@dataclass(frozen=True, eq=False)
class IntegerLinear:
    """What hardware stores: weight (out, in) int8, bias (out,) int32, exponent (out,) int8: int * 2**exponent."""

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    exponent: NDArray[np.int8]


class SpikingLinear(nn.Module):
    """``y = W s``: the weight rows of spiking neurons are accumulated over all timesteps of a token.

    Training keeps a float32 latent weight and quantizes it in each forward pass (straight-through);
    `freeze` replaces it by the int8 weight and its exponents, which hold the same values.

    Args:
        inputs, outputs: layer size.
        weight_bits: 2 (ternary), 4 or 8.
        bias: initial value of a learned bias (an integer in the units of its channel), or None for no bias.
        lowest_exponent: smallest allowed scale 2**e per output channel; residual writes share one fixed point.
        gain: standard deviation of the initial weights, times 1/sqrt(inputs).
    """

    weight: Tensor
    exponent: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        weight_bits: int,
        *,
        bias: float | None = None,
        lowest_exponent: int = LOWEST_EXPONENT,
        gain: float = 1.0,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if weight_bits not in WEIGHT_LIMIT:
            raise InputError(f"weight_bits must be one of {sorted(WEIGHT_LIMIT)}, got {weight_bits}")
        self.inputs, self.outputs, self.weight_bits, self.lowest_exponent, self.gain = (
            inputs,
            outputs,
            weight_bits,
            lowest_exponent,
            gain,
        )
        if frozen:
            self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8))
            self.register_buffer("exponent", torch.zeros(outputs, dtype=torch.int8))
        else:
            self.weight = nn.Parameter(torch.empty(outputs, inputs))
            self.reset_parameters()
        self.bias = None if bias is None else nn.Parameter(torch.full((outputs,), bias))

    def reset_parameters(self) -> None:
        """Draw the latent weights from N(0, gain**2 / inputs)."""
        nn.init.normal_(self.weight, std=self.gain / self.inputs**0.5)

    @property
    def frozen(self) -> bool:
        """True if the weight is stored as int8 (see `freeze`)."""
        return self.weight.dtype == torch.int8

    def unit(self) -> Tensor:
        """Size of one integer unit of each output potential: a power of two, shape (outputs,)."""
        if self.frozen:
            return torch.exp2(self.exponent.float())
        magnitude = self.weight.detach().abs()
        # Ternary: the mean magnitude (BitNet b1.58); otherwise the largest, slightly clipped.
        size = magnitude.mean(1) if self.weight_bits == 2 else 0.9 * magnitude.amax(1) / WEIGHT_LIMIT[self.weight_bits]
        exponent = torch.log2(size.clamp_min(2.0**LOWEST_EXPONENT)).round()
        return torch.exp2(exponent.clamp_min(self.lowest_exponent))

    def quantized(self, unit: Tensor) -> Tensor:
        """Quantized weight values (outputs, inputs), float32."""
        if self.frozen:
            return self.weight.float() * unit[:, None]
        limit = WEIGHT_LIMIT[self.weight_bits]
        scaled = self.weight / unit[:, None]
        grid = torch.floor(scaled + 0.5).clamp(-limit, limit)
        return (scaled + (grid - scaled).detach()) * unit[:, None]

    def quantized_bias(self, unit: Tensor) -> Tensor | None:
        """Bias rounded to whole multiples of ``unit``, shape (outputs,), float32; None without a bias."""
        return None if self.bias is None else round_straight_through(self.bias / unit) * unit

    def forward(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """spikes: (T, B, N, inputs) to the potential (B, N, outputs), summed over T, and its unit (outputs,)."""
        unit = self.unit()
        weight = self.quantized(unit)
        potential = nn.functional.linear(spikes[0], weight, self.quantized_bias(unit))
        for timestep in spikes[1:]:
            potential = potential + nn.functional.linear(timestep, weight)
        return potential, unit

    @torch.no_grad()
    def integers(self) -> IntegerLinear:
        """The exact integers that the forward pass uses."""
        unit = self.unit()
        weight = self.weight if self.frozen else torch.round(self.quantized(unit) / unit[:, None])
        bias = self.quantized_bias(unit)
        bias = torch.zeros(self.outputs) if bias is None else bias / unit
        return IntegerLinear(
            weight.to(torch.int8).numpy(),
            bias.round().to(torch.int32).numpy(),
            torch.log2(unit).round().to(torch.int8).numpy(),
        )

    @torch.no_grad()
    def freeze(self) -> None:
        """Replace the latent weight by int8 weights and exponents; the function stays the same."""
        if self.frozen:
            return
        numbers, unit = self.integers(), self.unit()
        bias = self.quantized_bias(unit)
        del self.weight
        self.register_buffer("weight", torch.from_numpy(numbers.weight))
        self.register_buffer("exponent", torch.from_numpy(numbers.exponent))
        if bias is not None and self.bias is not None:
            self.bias.copy_(bias)
