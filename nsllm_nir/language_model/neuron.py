"""Spiking neurons and their integer dynamics in torch, built on `snntorch.SpikingNeuron`.

Notation of the shapes: T timesteps (or 1 with graded counts), B batch, N tokens, C channels.
Every potential is an integer times a power of two, so float32 is exact below 2**24 units; the
interval analysis of `program.Program` proves the bound for an exported model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

BINARY, TERNARY = "binary", "ternary"


class _StraightThroughRound(torch.autograd.Function):
    """Round half up with the gradient of the identity."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return torch.floor(x + 0.5)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return grad


def round_straight_through(x: Tensor) -> Tensor:
    """floor(x + 1/2) elementwise; the gradient passes unchanged."""
    rounded: Tensor = _StraightThroughRound.apply(x)  # type: ignore[no-untyped-call] # of torch
    return rounded


class _SpikeCount(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, step: Tensor, levels: int, margin: float, signed: bool) -> Tensor:
        # One correctly rounded division decides like the comparisons while 2 * levels * step < 2**23 units.
        u = v / step
        if signed:
            count = torch.sign(u) * torch.ceil(u.abs() - 0.5).clamp_(0, levels)
            inside = u.abs() <= levels + margin
        else:
            count = torch.ceil(u - 0.5).clamp_(0, levels)
            inside = (u >= -margin) & (u <= levels + margin)
        ctx.save_for_backward(inside, u, step)
        return count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        inside, u, step = ctx.saved_tensors
        grad_v = torch.where(inside, grad, 0.0) / step
        return grad_v, (-grad_v * u).sum_to_size(step.shape), None, None, None


def spike_count(v: Tensor, step: Tensor, levels: int, *, margin: float = 0.5, signed: bool = False) -> Tensor:
    """The number of m in 1..levels with v > (m - 1/2) step (signed: minus that of -v).

    Gradient: the rectangular straight-through window of I-LIF (Luo et al., SpikeYOLO, ECCV 2024,
    eq. 6), 1/step where -margin <= v/step <= levels + margin.

    Args:
        v: membrane potential (..., C), float32.
        step: firing step (..., C) or (C,), > 0.
        levels: D, the largest count.
        margin: how far the window of the gradient reaches beyond [0, D], in steps.
        signed: counts of both signs (ternary coding).
    """
    count: Tensor = _SpikeCount.apply(v, step, levels, margin, signed)  # type: ignore[no-untyped-call] # of torch
    return count


class SpikeCount(SpikingNeuron):  # type: ignore[misc] # snnTorch is untyped
    """Spike-count neuron: graded counts while training, binary spikes in inference.

    ``binary_mode`` False: one pass returns the count, shape (1, B, N, C). True: the neuron runs
    `levels` timesteps as an integrate-and-fire neuron with soft reset, input at the first timestep
    and an initial potential of step/2, and returns its spikes, shape (levels, B, N, C), in {0, 1}
    (ternary coding: {-1, 0, 1}). Both carry the same integer: sum over timesteps = count.

    Args:
        channels: C, number of neurons.
        levels: D, timesteps per token.
        threshold: initial firing step; one learnable value per neuron (snnTorch ``learn_threshold``).
        signed: ternary coding.
        spike_grad: surrogate for binary mode, any function of `snntorch.surrogate`.
        margin: how far the straight-through window reaches beyond [0, levels], in steps.
    """

    def __init__(
        self,
        channels: int,
        levels: int,
        *,
        threshold: float = 1.0,
        signed: bool = False,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        margin: float = 0.5,
        learn_threshold: bool = True,
    ) -> None:
        super().__init__(
            threshold=torch.full((channels,), float(threshold)),
            spike_grad=spike_grad,
            learn_threshold=learn_threshold,
            reset_mechanism="subtract",
        )
        # snnTorch keeps every neuron in a class-level list for `init_hidden`; these hold no hidden state.
        SpikingNeuron.instances.remove(self)
        self.levels, self.signed, self.margin = levels, signed, margin
        self.binary_mode = False

    def integer_step(self, unit: Tensor | float) -> Tensor:
        """Firing step in integer units of the potential, at least 1; shape (C,)."""
        return round_straight_through(self.threshold / unit).clamp_min(1.0)

    def forward(self, potential: Tensor, unit: Tensor | float, step: Tensor | None = None) -> Tensor:
        """potential: (B, N, C); unit: size of one integer unit, () or (C,); step: (B, N, C) replaces the threshold."""
        if step is None:
            step = self.integer_step(unit) * unit
        if not self.binary_mode:
            return spike_count(potential, step, self.levels, margin=self.margin, signed=self.signed)[None]
        spikes = self._unroll(potential, step)
        return spikes - self._unroll(-potential, step) if self.signed else spikes

    def _unroll(self, potential: Tensor, step: Tensor) -> Tensor:
        mem = potential + 0.5 * step
        spikes = []
        for _ in range(self.levels):
            spk = self.spike_grad(mem - step)
            mem = mem - spk.detach() * step  # soft reset, as reset_mechanism="subtract" with reset_delay=False
            spikes.append(spk)
        return torch.stack(spikes)


class SpikeGate(nn.Module):
    """Binary spikes gate spikes or potentials: a logical AND per timestep, no product in hardware."""

    def forward(self, gate: Tensor, source: Tensor) -> Tensor:
        """gate: (1, B, N, C) in {0, 1}; source: (T, B, N, C)."""
        return gate * source


class TokenShift(nn.Module):
    """One-token axonal delay on the first half of the channels (RWKV token shift on spikes)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.delayed = channels // 2

    def forward(self, spikes: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        """spikes: (T, B, N, C); previous: (T, B, 1, C/2), token before; returns shifted spikes and the next state."""
        late = spikes[..., : self.delayed]
        if previous is None:
            previous = torch.zeros_like(late[..., :1, :])
        shifted = torch.cat([previous, late[..., :-1, :]], dim=-2)
        last = late[..., -1:, :].detach().clone()  # a view would keep the whole sequence
        return torch.cat([shifted, spikes[..., self.delayed :]], dim=-1), last


class _LeakyIntegrate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, state: Tensor, fraction_bits: int) -> Tensor:
        leak = torch.exp2(shift - 8)
        scaled = (x * 2.0**fraction_bits).unbind(1)
        out, s = [], state
        for x_t in scaled:
            # floor(S c / 256) with c = 256 - 2**shift, exact in float32: S - ceil(S 2**(shift-8)).
            s = s - torch.ceil(s * leak) + x_t
            out.append(s)
        states = torch.stack(out, 1)
        ctx.save_for_backward(states, state, leak)
        ctx.fraction_bits = fraction_bits
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        states, state, leak = ctx.saved_tensors
        keep = 1 - leak
        g = torch.zeros_like(grad[:, 0])
        grads = []
        for grad_t in reversed(grad.unbind(1)):
            g = grad_t + g * keep
            grads.append(g)
        grad_s = torch.stack(grads[::-1], 1)
        before = torch.cat([state[:, None], states[:, :-1]], 1)
        grad_shift = -(grad_s * before).sum((0, 1)) * leak * math.log(2)
        return grad_s * 2.0**ctx.fraction_bits, grad_shift, None, None


class LeakyIntegrator(nn.Module):
    """``S = ((S c) >> 8) + (x << fraction_bits)`` over the token axis, c = 256 - 2**shift, shift learnable in 2..7.

    All tokens of a sequence are given at once; only this elementwise recurrence runs token by token,
    because its floor is exact. Gradient: the recurrence without the floor.
    """

    MIN_SHIFT, MAX_SHIFT = 2, 7

    def __init__(self, channels: int, fraction_bits: int) -> None:
        super().__init__()
        self.fraction_bits = fraction_bits
        self.shift = nn.Parameter(torch.linspace(self.MIN_SHIFT, self.MAX_SHIFT, channels))

    def integer_shift(self) -> Tensor:
        """j of c = 256 - 2**j, shape (C,)."""
        return round_straight_through(self.shift.clamp(self.MIN_SHIFT, self.MAX_SHIFT))

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        """x: (B, N, k, C) integers, k groups that share the decays; state: (B, k, C); returns (B, N, k, C) integers."""
        if state is None:
            state = torch.zeros_like(x[:, 0])
        shift = self.integer_shift().expand_as(x[0, 0])
        states: Tensor = _LeakyIntegrate.apply(  # type: ignore[no-untyped-call] # of torch
            x, shift, state, self.fraction_bits
        )
        return states
