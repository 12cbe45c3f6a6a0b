"""The operations of a `Program` and what is known of their signals: plain data, no analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError

Ints = NDArray[Any]
DECAY_BITS = 8
MAX_WEIGHT_BITS = 8
LIF_LIMIT = (1 << 23) - 1  # 24-bit states of Loihi
MAX_SHIFT = 31


@dataclass(frozen=True, eq=False)
class Input:
    """External spikes: ``size`` neurons, each with a count in [0, levels] per token."""

    name: str
    size: int
    levels: int = 1


@dataclass(frozen=True, eq=False)
class Linear:
    """``(weight @ source + bias) << shift``: accumulate the weight rows of the neurons that spiked.

    weight: (outputs, inputs) integers of at most 8 bits; bias: (outputs,); shift: (outputs,) >= 0.
    """

    name: str
    source: str
    weight: Ints
    bias: Ints
    shift: Ints


@dataclass(frozen=True, eq=False)
class Sum:
    """Elementwise sum of ``sources`` (fan-in of NIR edges, residual stream) plus a constant ``bias``."""

    name: str
    sources: tuple[str, ...]
    bias: Ints


@dataclass(frozen=True, eq=False)
class Count:
    """Spike count: the number of m in 1..levels with ``2 v > (2m - 1) step``.

    ``step`` is a constant (neurons,) > 0 or the name of a signal whose interval is > 0.
    ``signed`` subtracts the count of ``-v`` (ternary coding).
    """

    name: str
    source: str
    step: Ints | str
    levels: int
    signed: bool = False


@dataclass(frozen=True, eq=False)
class Gate:
    """``source`` where the binary spike ``gate`` is 1, else 0 (a selection, no product)."""

    name: str
    gate: str
    source: str


@dataclass(frozen=True, eq=False)
class Integrate:
    """Leaky integrator: ``S = ((S * decay) >> 8) + (source << fraction_bits)``, output S.

    decay: (neurons,) of the form 256 - 2**j, j in 0..8: a shift and a subtraction, floor rounding.
    """

    name: str
    source: str
    decay: Ints
    fraction_bits: int


@dataclass(frozen=True, eq=False)
class Delay:
    """Axonal delay: neuron i repeats ``source`` of ``steps[i]`` tokens ago (0 before the start).

    Only where every step is >= 1 may the source be produced later in the program (recurrence).
    """

    name: str
    source: str
    steps: Ints


def convolved(
    size: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
) -> tuple[int, int]:
    """(height, width) of the result of a convolution; each pair is (vertical, horizontal)."""
    high, wide = (
        (side + 2 * pad - gap * (reach - 1) - 1) // step + 1
        for side, pad, gap, reach, step in zip(size, padding, dilation, kernel, stride, strict=True)
    )
    return high, wide


@dataclass(frozen=True, eq=False)
class Conv2d:
    """``(weight * source + bias) << shift`` on signals of shape ``input_shape`` = (channels, height, width), flattened.

    weight: (outputs, channels / groups, kernel height, kernel width) integers of at most 8 bits; bias, shift: (outputs,).
    A 1-D convolution has height 1; a sum pooling has one group per channel and weights 1.
    """

    name: str
    source: str
    weight: Ints
    bias: Ints
    shift: Ints
    input_shape: tuple[int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(outputs, height, width)."""
        kernel = (int(self.weight.shape[2]), int(self.weight.shape[3]))
        high, wide = convolved(self.input_shape[1:], self.padding, self.dilation, kernel, self.stride)
        return int(self.weight.shape[0]), high, wide


@dataclass(frozen=True, eq=False)
class Lif:
    """Loihi's leaky integrate-and-fire neuron, as Lava's fixed-point LIF computes it.

    ``u = trunc(u (4096 - current_decay) / 4096) + (source << 6)``,
    ``v = clip(trunc(v (4096 - voltage_decay) / 4096) + u + bias, +-(2**23 - 1))``,
    spike where ``v > threshold << 6``, then v = 0. trunc rounds toward zero. Without ``threshold`` the output is v.

    current_decay, voltage_decay: (neurons,) in 0..4096; threshold: (neurons,) in 0..2**17 - 1, or None; bias: (neurons,).
    """

    name: str
    source: str
    current_decay: Ints
    voltage_decay: Ints
    threshold: Ints | None
    bias: Ints


Op = Input | Linear | Conv2d | Sum | Count | Gate | Integrate | Lif | Delay


@dataclass(frozen=True)
class Signal:
    """Static knowledge of one signal. low, high: (size,) int64 worst-case interval."""

    size: int
    low: Ints
    high: Ints
    spikes: bool

    @property
    def bits(self) -> int:
        """Width in bits of the two's complement number that holds the interval."""
        return width(int(self.low.min()), int(self.high.max()))


@dataclass(frozen=True)
class Widths:
    """Declared widths in bits: potentials and states, and the comparator of `Count`."""

    potential: int = 24
    comparator: int = 32

    def __post_init__(self) -> None:
        if not (2 <= self.potential <= 40 and 2 <= self.comparator <= 64):
            raise GraphError(
                f"widths must be 2..40 bits for potentials and 2..64 for the comparator, got {self.potential} and {self.comparator}"
            )


DEFAULT_WIDTHS = Widths()


def width(low: int, high: int) -> int:
    """Bits of the narrowest two's complement (low < 0) or unsigned number that holds [low, high]."""
    if low >= 0:
        return max(1, high.bit_length())
    return 1 + max((-low - 1).bit_length(), max(high, 0).bit_length())


def sources(op: Op) -> tuple[str, ...]:
    """Names of the signals that ``op`` reads."""
    match op:
        case Input():
            return ()
        case Sum():
            return op.sources
        case Gate():
            return (op.gate, op.source)
        case Count():
            return (op.source, op.step) if isinstance(op.step, str) else (op.source,)
        case _:
            return (op.source,)


def constants(op: Op) -> dict[str, Ints]:
    """The constant arrays of ``op`` by field name."""
    return {k: v for k, v in vars(op).items() if isinstance(v, np.ndarray)}


def is_recurrent(op: Op) -> bool:
    """True for a `Delay` whose output never depends on the current token."""
    return isinstance(op, Delay) and int(op.steps.min()) >= 1


def convolve(op: Conv2d, weight: Ints, image: Ints) -> Ints:
    """Convolution of int64 ``image`` (channels, height, width) with ``weight``: one term per kernel tap."""
    outputs, high, wide = op.output_shape
    padded = np.pad(image, ((0, 0), *((p, p) for p in op.padding)))
    groups = padded.reshape(op.groups, -1, *padded.shape[1:])
    kernels = weight.reshape(op.groups, outputs // op.groups, *weight.shape[1:])
    out = np.zeros((op.groups, outputs // op.groups, high, wide), np.int64)
    for i, j in np.ndindex(*weight.shape[2:]):
        top, left = i * op.dilation[0], j * op.dilation[1]
        window = groups[
            :,
            :,
            top : top + (high - 1) * op.stride[0] + 1 : op.stride[0],
            left : left + (wide - 1) * op.stride[1] + 1 : op.stride[1],
        ]
        out += np.einsum("goc,gchw->gohw", kernels[..., i, j], window)
    return out.reshape(outputs, high, wide)
