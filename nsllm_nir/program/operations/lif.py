"""`Lif`: Loihi's leaky integrate-and-fire neuron."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from nsllm_nir.program.constants import (
    LIF_DECAY_BITS,
    LIF_DECAY_ONE,
    LIF_FRACTION_BITS,
    LIF_LIMIT,
    LIF_MAX_THRESHOLD,
    LIF_STATE_BITS,
)
from nsllm_nir.program.operations.base import Int64, Operation, State, Values, same_size
from nsllm_nir.program.signals import Ints, Signal, Widths, between
from nsllm_nir.program.wide import added, shifted


@dataclass(frozen=True, eq=False)
class Lif(Operation):
    """Loihi's leaky integrate-and-fire neuron, as Lava's fixed-point LIF computes it.

    ``u = trunc(u (4096 - current_decay) / 4096) + (source << 6)``,
    ``v = clip(trunc(v (4096 - voltage_decay) / 4096) + u + bias, +-(2**23 - 1))``,
    spike where ``v > threshold << 6``, then v = 0. trunc rounds toward zero. Without ``threshold`` the output is v.

    current_decay, voltage_decay: (neurons,) in 0..4096; threshold: (neurons,) in 0..2**17 - 1, or None; bias:
    (neurons,).
    """

    source: str
    current_decay: Ints
    voltage_decay: Ints
    threshold: Ints | None
    bias: Ints

    @classmethod
    def example(cls, name: str, source: str) -> Self:
        current, zero = np.full(4, LIF_DECAY_ONE, np.int32), np.zeros(4, np.int32)
        return cls(name, source, current, current // 4, np.array([0, 1, 1, 0], np.int32), zero)

    @property
    def bounds(self) -> tuple[int, int] | None:
        return None if self.threshold is None else (0, 1)

    def interval(self, operands: Sequence[Signal]) -> Signal:
        (source,) = operands
        same_size(self, self.bias.size, operands)
        for name, values, most in (
            ("current_decay", self.current_decay, LIF_DECAY_ONE),
            ("voltage_decay", self.voltage_decay, LIF_DECAY_ONE),
            ("threshold", self.threshold, LIF_MAX_THRESHOLD),
        ):
            if values is not None and (values.shape != (source.size,) or values.min() < 0 or values.max() > most):
                raise self.error(f"{name} must hold {source.size} values in [0, {most}]")
        if self.threshold is not None:
            return between(source.size, 0, 1)
        return Signal(source.size, -_bound(self, -source.low, -1), _bound(self, source.high, 1), False)

    def check_widths(self, operands: Sequence[Signal], widths: Widths) -> None:
        current = current_bound(self, operands[0])
        bad = np.flatnonzero((current < 0) | (current > LIF_LIMIT))
        if bad.size:
            raise self.overflow(
                f", neuron {int(bad[0])}: the synaptic current may leave {LIF_STATE_BITS} bits; "
                "use smaller weights or a larger current decay"
            )

    def hardware(self, signal: Signal) -> Counter[str]:
        """A 12-bit decay constant is at most 12 shifted additions, for u and for v."""
        n = signal.size
        return Counter(add=26 * n, shift=27 * n, compare=3 * n, select=n)

    def compute(self, x: Values, state: State) -> Int64:
        a = x[self.source]
        u, v = state.get(self.name, (np.zeros_like(a), np.zeros_like(a)))
        u = _leak(u, self.current_decay) + (a << LIF_FRACTION_BITS)
        v = np.clip(_leak(v, self.voltage_decay) + u + self.bias, -LIF_LIMIT, LIF_LIMIT)
        if self.threshold is None:
            state[self.name] = (u, v)
            return v
        spikes = v > self.threshold.astype(np.int64) << LIF_FRACTION_BITS
        state[self.name] = (u, np.where(spikes, 0, v))
        return spikes.astype(np.int64)


def _leak(state: Int64, decay: Ints) -> Int64:
    """``state (4096 - decay) / 4096``, rounded toward zero."""
    kept: Int64 = np.sign(state) * ((np.abs(state) * (LIF_DECAY_ONE - decay.astype(np.int64))) >> LIF_DECAY_BITS)
    return kept


def _bound(op: Lif, most: Ints, sign: int) -> Ints:
    """Largest ``sign * v`` where ``sign`` times the input is at most ``most``."""
    current = _decaying(shifted(np.maximum(most, 0), LIF_FRACTION_BITS), op.current_decay)
    drive = np.maximum(added([current, sign * op.bias.astype(np.int64)]), 0)
    return np.minimum(_decaying(drive, op.voltage_decay), LIF_LIMIT)


def _decaying(drive: Ints, decay: Ints) -> Ints:
    """Bound of a state that gains at most ``drive`` >= 0 per step: it decays toward zero, so its fixed point."""
    leak = decay.astype(np.int64)
    fixed = shifted(drive, LIF_DECAY_BITS) // np.maximum(leak, 1)
    return np.where((leak == 0) & (drive > 0), LIF_LIMIT, fixed)


def current_bound(op: Lif, source: Signal) -> Ints:
    """Largest magnitude of the synaptic current u of each neuron, or -1 where it may grow without bound."""
    step = shifted(np.maximum(-source.low, source.high), LIF_FRACTION_BITS)
    decay = op.current_decay.astype(np.int64)
    bound = shifted(step, LIF_DECAY_BITS) // np.maximum(decay, 1) + 1
    return np.where(step == 0, 0, np.where(decay == 0, -1, bound))
