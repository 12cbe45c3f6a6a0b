"""The integers of a spiking language model, block by block, and the program operations they mean.

One block is what one composite subgraph of a NIR file holds. `nir_blocks` writes and reads the same
dataclasses as standard NIR primitives, `to_nir` and `from_nir` exchange them with the torch model.
C: hidden size, M: intermediate size, V: vocabulary, D: levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.program import Count, Delay, Gate, Integrate, Linear, Op, Sum

Ints = NDArray[Any]


def token_shift(channels: int) -> Ints:
    """Delays of the token shift (channels,): one token on the first half."""
    return (np.arange(channels) < channels // 2).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Projection:
    """``(weight s + bias) << shift``. weight: (out, in) int8; bias: (out,) int32; shift: (out,) uint8."""

    weight: Ints
    bias: Ints
    shift: Ints

    def op(self, name: str, source: str) -> Linear:
        return Linear(name, source, self.weight, self.bias, self.shift)


@dataclass(frozen=True, eq=False)
class BlockInputNumbers:
    """Residual potentials to spikes. step: (C,) int32; pool_step: step of the pooled first count, or None."""

    step: Ints
    levels: int
    signed: bool
    pool_step: Ints | None = None

    def ops(self, prefix: str, source: str) -> list[Op]:
        """Operations named ``prefix + ...``; the last one is ``prefix + 'spikes'``."""
        spikes = prefix + "spikes"
        if self.pool_step is None:
            return [Count(spikes, source, self.step, self.levels, self.signed)]
        c = self.step.size
        one = np.ones((1, c), np.int8)
        return [
            Count(prefix + "pool_spikes", source, self.pool_step, self.levels),
            Linear(prefix + "pool", prefix + "pool_spikes", one, np.zeros(1, np.int32), np.zeros(1, np.uint8)),
            Linear(prefix + "step", prefix + "pool", one.T.copy(), self.step, np.zeros(c, np.uint8)),
            Count(spikes, source, prefix + "step", self.levels, self.signed),
        ]


@dataclass(frozen=True, eq=False)
class AttentionNumbers:
    """Spiking linear attention, vector state. decay_shift: j of c = 256 - 2**j.

    read_step: constant step of the read-out (C,), added to the denominator b where ``denominator``.
    """

    input: BlockInputNumbers
    delay: Ints
    receptance: Projection
    receptance_step: Ints
    key: Projection
    key_step: Ints
    value: Projection
    value_step: Ints
    levels: int
    decay_shift: Ints
    fraction_bits: int
    denominator: bool
    read_step: Ints
    out: Projection

    def ops(self, p: str, source: str) -> list[Op]:
        """Operations named ``p + ...``; the last one is ``p + 'out'``, the residual update."""
        decay = (256 - (1 << self.decay_shift.astype(np.int64))).astype(np.int32)
        gates = [
            ("receptance", self.receptance, self.receptance_step, 1),
            ("key", self.key, self.key_step, 1),
            ("value", self.value, self.value_step, self.levels),
        ]
        ops = self.input.ops(p + "input.", source)
        ops.append(Delay(p + "shift", p + "input.spikes", self.delay))
        ops += [projection.op(p + name, p + "shift") for name, projection, _, _ in gates]
        ops += [Count(f"{p}{name}_spikes", p + name, step, levels) for name, _, step, levels in gates]
        ops += [
            Gate(p + "key_value", p + "key_spikes", p + "value_spikes"),
            Integrate(p + "numerator", p + "key_value", decay, self.fraction_bits),
        ]
        step: Ints | str = self.read_step
        if self.denominator:
            step = p + "read_step"
            ops += [
                Integrate(p + "denominator", p + "key_spikes", decay, self.fraction_bits),
                Sum(step, (p + "denominator",), self.read_step),
            ]
        return [
            *ops,
            Count(p + "read_spikes", p + "numerator", step, self.levels),
            Gate(p + "read_gate", p + "receptance_spikes", p + "read_spikes"),
            self.out.op(p + "out", p + "read_gate"),
        ]


@dataclass(frozen=True, eq=False)
class MixerNumbers:
    """Spiking channel mixer."""

    input: BlockInputNumbers
    delay: Ints
    up: Projection
    up_step: Ints
    levels: int
    down: Projection

    def ops(self, p: str, source: str) -> list[Op]:
        """Operations named ``p + ...``; the last one is ``p + 'down'``, the residual update."""
        return [
            *self.input.ops(p + "input.", source),
            Delay(p + "shift", p + "input.spikes", self.delay),
            self.up.op(p + "up", p + "shift"),
            Count(p + "up_spikes", p + "up", self.up_step, self.levels),
            self.down.op(p + "down", p + "up_spikes"),
        ]


@dataclass(frozen=True, eq=False)
class FinalNumbers:
    """The neurons that feed the output head."""

    input: BlockInputNumbers

    def ops(self, p: str, source: str) -> list[Op]:
        """The last operation is ``p + 'spikes'``."""
        return self.input.ops(p, source)


BlockNumbers = AttentionNumbers | MixerNumbers | FinalNumbers
