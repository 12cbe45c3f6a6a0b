"""Spiking transformer layers: block input, spiking linear attention, channel mixer.

The names of the sub-modules are the node names of the exported graph (``layer_00.attention.key_spikes``).
Notation: T timesteps (1 with graded counts), B batch, N tokens, C channels, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsllm_nir.language_model.configuration import NSLLMConfig
from nsllm_nir.language_model.neuron import LeakyIntegrator, SpikeCount, SpikeGate, TokenShift
from nsllm_nir.language_model.spiking_linear import SpikingLinear

LayerState = dict[str, Tensor]


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
        if self.normalisation == "pooled":
            pool = self.pool_spikes(h, self.unit).sum(0).sum(-1, keepdim=True)
            step = (self.spikes.integer_step(self.unit) + pool) * self.unit
            return self.spikes(h, self.unit, step)
        return self.spikes(h, self.unit)


def _projection(config: NSLLMConfig, inputs: int, outputs: int, bias: float = 0.0) -> SpikingLinear:
    return SpikingLinear(inputs, outputs, config.weight_bits, bias=bias, frozen=config.frozen)


def _residual_write(config: NSLLMConfig, inputs: int) -> SpikingLinear:
    return SpikingLinear(
        inputs,
        config.hidden_size,
        config.weight_bits,
        lowest_exponent=-config.residual_fraction_bits,
        gain=config.residual_gain,
        frozen=config.frozen,
    )


class SpikingLinearAttention(nn.Module):
    """Spike-based linear attention (after RWKV-4 and NSLLM, NSR 2025), state O(C) or O(C * C / H).

    vector: ``A = decay(A) + k v``, ``b = decay(b) + k``, ``out = r Count(A, b + theta)`` per channel;
    matrix: ``S = decay(S) + k v^T``, ``out = Count(r S, r b + theta)`` per head.
    k and r are binary gates, theta is one key spike.
    """

    def __init__(self, config: NSLLMConfig, levels: int) -> None:
        super().__init__()
        c = config.hidden_size
        self.state_kind, self.heads, self.denominator = config.state, config.num_attention_heads, config.denominator
        self.fraction_bits = config.state_fraction_bits
        self.input = BlockInput(config, levels)
        self.shift = TokenShift(c)
        # Gates start half open and open, so that gradients pass.
        self.receptance, self.key, self.value = (_projection(config, c, c, bias) for bias in (1.0, 0.5, 0.0))
        self.receptance_spikes = SpikeCount(c, 1, margin=config.gate_margin)
        self.key_spikes = SpikeCount(c, 1, margin=config.gate_margin)
        self.value_spikes = SpikeCount(c, levels, margin=config.margin)
        self.key_value = SpikeGate()
        self.integrator = LeakyIntegrator(c, config.state_fraction_bits)
        self.read_spikes = SpikeCount(c, levels, margin=config.margin, learn_threshold=not self.denominator)
        self.read_gate = SpikeGate()
        self.out = _residual_write(config, c)
        if not self.denominator:
            # A quarter of the steady state of one spike per token.
            with torch.no_grad():
                self.read_spikes.threshold.copy_(
                    0.25 * 2.0**config.state_fraction_bits * torch.exp2(8 - self.integrator.shift)
                )

    def forward(self, h: Tensor, state: LayerState) -> Tensor:
        """h: (B, N, C) to the residual update (B, N, C); entries of ``state`` are replaced."""
        x, state["attention_shift"] = self.shift(self.input(h), state.get("attention_shift"))
        r = self.receptance_spikes(*self.receptance(x))
        k = self.key_spikes(*self.key(x))
        v = self.value_spikes(*self.value(x))
        read = self._read_vector if self.state_kind == "vector" else self._read_matrix
        return self.out(read(r, k, v, state))[0]

    def _integrate(self, groups: Tensor, state: LayerState) -> Tensor:
        """groups: (B, N, k, C); the last group is the denominator's key spikes."""
        states = self.integrator(groups, state.get("integrator"))
        state["integrator"] = states[:, -1].detach().clone()  # a view would keep the whole sequence
        return states

    def _read_vector(self, r: Tensor, k: Tensor, v: Tensor, state: LayerState) -> Tensor:
        states = self._integrate(torch.stack([self.key_value(k, v).sum(0), k[0]], dim=2), state)
        numerator, denominator = states.unbind(2)
        return self.read_gate(r, self._count(numerator, denominator))

    def _read_matrix(self, r: Tensor, k: Tensor, v: Tensor, state: LayerState) -> Tensor:
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
        return self.read_spikes(numerator, 1.0, step)


class SpikingChannelMixer(nn.Module):
    """``W_down Count(W_up x)``: the saturating spike count is the nonlinearity of the feed-forward part."""

    def __init__(self, config: NSLLMConfig, levels: int) -> None:
        super().__init__()
        self.input = BlockInput(config, levels)
        self.shift = TokenShift(config.hidden_size)
        self.up = _projection(config, config.hidden_size, config.intermediate_size)
        self.up_spikes = SpikeCount(config.intermediate_size, levels, margin=config.margin)
        self.down = _residual_write(config, config.intermediate_size)

    def forward(self, h: Tensor, state: LayerState) -> Tensor:
        """h: (B, N, C) to the residual update (B, N, C); entries of ``state`` are replaced."""
        x, state["mixer_shift"] = self.shift(self.input(h), state.get("mixer_shift"))
        return self.down(self.up_spikes(*self.up(x)))[0]
