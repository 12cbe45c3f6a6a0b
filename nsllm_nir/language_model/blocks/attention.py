"""Spiking linear attention as a torch module.

Notation: T timesteps (1 with graded counts), B batch, N tokens, C channels, H heads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nsllm_nir.composites.attention import AttentionNumbers
from nsllm_nir.composites.primitives import token_shift
from nsllm_nir.errors import GraphError, LossyConversionError
from nsllm_nir.language_model.blocks.base import (
    BlockState,
    ResidualBlock,
    check_delay,
    input_projection,
    layer_numbers,
    load_layer,
    load_step,
    residual_write,
    shifted,
    step_numbers,
)
from nsllm_nir.language_model.configuration import NSLLMConfig
from nsllm_nir.language_model.neuron import LeakyIntegrator, SpikeCount, SpikeGate, TokenShift


class SpikingLinearAttention(ResidualBlock[AttentionNumbers]):
    """Spike-based linear attention (after RWKV-4 and NSLLM, NSR 2025), state O(C) or O(C * C / H).

    vector: ``A = decay(A) + k v``, ``b = decay(b) + k``, ``out = r Count(A, b + theta)`` per channel;
    matrix: ``S = decay(S) + k v^T``, ``out = Count(r S, r b + theta)`` per head.
    k and r are binary gates, theta is one key spike.
    """

    def __init__(self, config: NSLLMConfig, levels: int) -> None:
        super().__init__(config, levels)
        c = config.hidden_size
        self.state_kind, self.heads, self.denominator = config.state, config.num_attention_heads, config.denominator
        self.fraction_bits = config.state_fraction_bits
        self.shift = TokenShift(c)
        # Gates start half open and open, so that gradients pass.
        self.receptance, self.key, self.value = (input_projection(config, c, c, bias) for bias in (1.0, 0.5, 0.0))
        self.receptance_spikes = SpikeCount(c, 1, margin=config.gate_margin)
        self.key_spikes = SpikeCount(c, 1, margin=config.gate_margin)
        self.value_spikes = SpikeCount(c, levels, margin=config.margin)
        self.key_value = SpikeGate()
        self.integrator = LeakyIntegrator(c, config.state_fraction_bits)
        self.read_spikes = SpikeCount(c, levels, margin=config.margin, learn_threshold=not self.denominator)
        self.read_gate = SpikeGate()
        self.out = residual_write(config, c)
        if not self.denominator:
            # A quarter of the steady state of one spike per token.
            with torch.no_grad():
                self.read_spikes.threshold.copy_(
                    0.25 * 2.0**config.state_fraction_bits * torch.exp2(8 - self.integrator.shift)
                )

    def forward(self, h: Tensor, state: BlockState) -> Tensor:
        """h: (B, N, C) to the residual update (B, N, C); entries of ``state`` are replaced."""
        x = shifted(self.shift, self.input(h), state)
        r = self.receptance_spikes(*self.receptance(x))
        k = self.key_spikes(*self.key(x))
        v = self.value_spikes(*self.value(x))
        read = self._read_vector if self.state_kind == "vector" else self._read_matrix
        update: Tensor = self.out(read(r, k, v, state))[0]
        return update

    def _integrate(self, groups: Tensor, state: BlockState) -> Tensor:
        """groups: (B, N, k, C); the last group is the denominator's key spikes."""
        states: Tensor = self.integrator(groups, state.get("integrator"))
        state["integrator"] = states[:, -1].detach().clone()  # a view would keep the whole sequence
        return states

    def _read_vector(self, r: Tensor, k: Tensor, v: Tensor, state: BlockState) -> Tensor:
        states = self._integrate(torch.stack([self.key_value(k, v).sum(0), k[0]], dim=2), state)
        numerator, denominator = states.unbind(2)
        read: Tensor = self.read_gate(r, self._count(numerator, denominator))
        return read

    def _read_matrix(self, r: Tensor, k: Tensor, v: Tensor, state: BlockState) -> Tensor:
        b, n, c = r.shape[1:]
        width = c // self.heads
        # Group j of channel (h, i) holds k[h, i] v[h, j].
        values = (
            v.view(*v.shape[:3], self.heads, width)
            .transpose(-1, -2)[..., None]
            .expand(*v.shape[:3], width, self.heads, width)
        )
        outer = self.key_value(k[:, :, :, None], values.flatten(-2)).sum(0)
        states = self._integrate(torch.cat([outer, k[0][:, :, None]], dim=2), state)
        gated = self.read_gate(r[0][:, :, None], states).view(b, n, width + 1, self.heads, width).sum(-1)
        numerator = gated[:, :, :-1].transpose(-1, -2).reshape(b, n, c)
        denominator = gated[:, :, -1].repeat_interleave(width, dim=-1)
        return self._count(numerator, denominator)

    def _count(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        step = denominator + 2.0**self.fraction_bits if self.denominator else None
        count: Tensor = self.read_spikes(numerator, 1.0, step)
        return count

    @torch.no_grad()
    def numbers(self) -> AttentionNumbers:
        """The integers of the composite.

        Raises:
            LossyConversionError: a matrix state, or a threshold beyond the 24 bits of a float32.
        """
        if self.state_kind == "matrix":
            raise LossyConversionError(
                "state 'matrix' gates integer states with spikes, which NIR primitives cannot express at useful sizes; "
                "train with 'vector'"
            )
        size = self.key.outputs
        read = step_numbers(self.read_spikes, 1.0)
        return AttentionNumbers(
            input=self.input.numbers(),
            delay=token_shift(size),
            receptance=layer_numbers(self.receptance),
            receptance_step=step_numbers(self.receptance_spikes, self.receptance.unit()),
            key=layer_numbers(self.key),
            key_step=step_numbers(self.key_spikes, self.key.unit()),
            value=layer_numbers(self.value),
            value_step=step_numbers(self.value_spikes, self.value.unit()),
            levels=self.value_spikes.levels,
            decay_shift=self.integrator.integer_shift().to(torch.int32).cpu().numpy(),
            fraction_bits=self.fraction_bits,
            denominator=self.denominator,
            read_step=np.full(size, 1 << self.fraction_bits, np.int32) if self.denominator else read,
            out=layer_numbers(self.out, self.residual_fraction_bits),
        )

    @torch.no_grad()
    def load(self, numbers: AttentionNumbers, where: str) -> None:
        """Take the integers of a file, of this block at ``where``.

        Raises:
            GraphError: sizes or constants that this block cannot hold.
        """
        check_delay(numbers.delay, where)
        low, high = int(numbers.decay_shift.min()), int(numbers.decay_shift.max())
        if low < LeakyIntegrator.MIN_SHIFT or high > LeakyIntegrator.MAX_SHIFT:
            raise GraphError(
                f"{where}: decay shifts in [{low}, {high}] are outside the model's "
                f"[{LeakyIntegrator.MIN_SHIFT}, {LeakyIntegrator.MAX_SHIFT}]"
            )
        if numbers.denominator and (numbers.read_step != 1 << numbers.fraction_bits).any():
            raise GraphError(f"{where}: the read-out step must be one key spike (1 << fraction_bits) in every channel")
        self.input.load(numbers.input, where)
        for layer, weights, neuron, step in (
            (self.receptance, numbers.receptance, self.receptance_spikes, numbers.receptance_step),
            (self.key, numbers.key, self.key_spikes, numbers.key_step),
            (self.value, numbers.value, self.value_spikes, numbers.value_step),
        ):
            load_layer(layer, weights, where)
            load_step(neuron, step, where)
        self.integrator.shift.copy_(torch.from_numpy(numbers.decay_shift))
        if not numbers.denominator:
            load_step(self.read_spikes, numbers.read_step, where)
        load_layer(self.out, numbers.out, where, self.residual_fraction_bits)


BLOCK = SpikingLinearAttention
