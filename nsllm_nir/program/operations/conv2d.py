"""`Conv2d`: a convolution, and the geometry of it that every backend uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.program.operations.base import Int64, Operation, State, Values
from nsllm_nir.program.operations.linear import check_shifts, check_weights
from nsllm_nir.program.signals import Ints, Signal
from nsllm_nir.program.wide import added, largest, shifted, widened

Number = TypeVar("Number", bound=np.generic)


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
class Conv2d(Operation):
    """``(weight * source + bias) << shift`` on signals of shape ``input_shape`` = (channels, height, width), flattened.

    weight: (outputs, channels / groups, kernel height, kernel width) integers of at most 8 bits; bias, shift:
    (outputs,).
    A 1-D convolution has height 1; a sum pooling has one group per channel and weights 1.
    """

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

    @classmethod
    def example(cls, name: str, source: str) -> Self:
        weight, zero = np.array([[[[2, 3, -1]]]], np.int8), np.zeros(1, np.int32)
        return cls(name, source, weight, zero, zero.astype(np.uint8), (1, 1, 4), (1, 1), (0, 1), (1, 1), 1)

    def interval(self, operands: Sequence[Signal]) -> Signal:
        (source,) = operands
        self._check(source)
        low, high = (end.reshape(self.input_shape) for end in (source.low, source.high))
        bound = int(self.weight[0].size) * largest(self.weight) * source.largest
        pos, neg, low, high = widened(
            bound, np.maximum(self.weight, 0), np.minimum(self.weight, 0), np.minimum(low, 0), np.maximum(high, 0)
        )  # the padding is 0
        ends = ((convolve(self, pos, a) + convolve(self, neg, b)).reshape(-1) for a, b in ((low, high), (high, low)))
        bias, shift = per_neuron(self, self.bias), per_neuron(self, self.shift)
        low, high = (shifted(added([end, bias]), shift) for end in ends)
        return Signal(low.size, low, high, False)

    def _check(self, source: Signal) -> None:
        channels, height, width = self.input_shape
        if self.weight.ndim != 4:
            raise self.error(
                f"the weight has shape {self.weight.shape}, "
                "expected (outputs, channels / groups, kernel height, kernel width)"
            )
        if source.size != channels * height * width:
            raise self.error(f"expects {self.input_shape} neurons, its source has {source.size}")
        outputs, per_group = self.weight.shape[:2]
        if per_group * self.groups != channels or outputs % self.groups:
            raise self.error(
                f"weight {self.weight.shape} with {self.groups} groups does not fit {channels} input channels"
            )
        if self.bias.shape != (outputs,) or self.shift.shape != (outputs,) or min(self.output_shape) < 1:
            raise self.error(
                f"bias {self.bias.shape}, shift {self.shift.shape} or output {self.output_shape} "
                f"does not fit weight {self.weight.shape}"
            )
        check_weights(self, self.weight)
        check_shifts(self, self.shift)

    def hardware(self, signal: Signal) -> Counter[str]:
        return Counter(add=int(self.weight[0].size) * signal.size + signal.size, shift=signal.size)

    def compute(self, x: Values, state: State) -> Int64:
        out = convolve(self, self.weight.astype(np.int64), x[self.source].reshape(self.input_shape)).reshape(-1)
        return (out + per_neuron(self, self.bias).astype(np.int64)) << per_neuron(self, self.shift).astype(np.int64)


def taps(op: Conv2d) -> NDArray[np.int64]:
    """Flat input position of each kernel tap at each output position, -1 in the padding.

    Returns (kernel height * kernel width, output height * output width): the same for every channel.
    """
    along = []
    for size, kernel, out, stride, pad, gap in zip(
        op.input_shape[1:], op.weight.shape[2:], op.output_shape[1:], op.stride, op.padding, op.dilation, strict=True
    ):
        at = np.arange(kernel)[:, None] * gap + np.arange(out) * stride - pad
        along.append(np.where((at >= 0) & (at < size), at, -1))
    rows, columns = along[0][:, None, :, None], along[1][None, :, None, :]
    plane = np.where((rows >= 0) & (columns >= 0), rows * op.input_shape[2] + columns, -1)
    return plane.reshape(rows.shape[0] * columns.shape[1], -1).astype(np.int64)


def channel_taps(op: Conv2d) -> NDArray[np.int64]:
    """`taps` as flat input neurons: (channels, kernel height * kernel width, output height * output width)."""
    channels, height, width = op.input_shape
    plane = taps(op)
    return np.where(plane < 0, -1, plane + np.arange(channels)[:, None, None] * (height * width))


def convolve(op: Conv2d, weight: NDArray[Number], image: NDArray[Number]) -> NDArray[Number]:
    """Convolution of ``image`` (channels, height, width) to (outputs, height, width), with the geometry of ``op``.

    weight: of the shape of ``op.weight``. Both of one number type, integers, floats or Python integers, which is that
    of the sums. An image of 0 surrounds the padding.
    """
    outputs, height, width = op.output_shape
    padded = np.pad(image.reshape(len(image), -1), ((0, 0), (0, 1)))  # -1, the padding, is the last position
    windows = padded[:, taps(op)].reshape(op.groups, -1, height * width)
    kernels = weight.reshape(op.groups, outputs // op.groups, -1)
    out: NDArray[Number] = np.matmul(kernels, windows)
    return out.reshape(outputs, height, width)


def synapses(op: Conv2d) -> tuple[Ints, Ints, Ints]:
    """(output neuron, input neuron, weight) of every synapse whose weight is not 0, int64; a padded input has none."""
    outputs, per_group = op.weight.shape[:2]
    inputs = channel_taps(op)
    kernels = op.weight.astype(np.int64).reshape(outputs, per_group, -1)
    positions = np.arange(inputs.shape[2])
    parts = []
    for o in range(outputs):
        first = o // (outputs // op.groups) * per_group
        channel, tap = np.nonzero(kernels[o])
        columns = inputs[first + channel, tap]  # (taps with a weight, positions)
        inside = columns >= 0
        rows = np.broadcast_to(o * positions.size + positions, columns.shape)
        weights = np.broadcast_to(kernels[o][channel, tap][:, None], columns.shape)
        parts.append((rows[inside], columns[inside], weights[inside]))
    rows, columns, weights = (np.concatenate(x) for x in zip(*parts, strict=True))
    return rows, columns, weights


def per_neuron(op: Conv2d, values: NDArray[Any]) -> NDArray[Any]:
    """``values`` (outputs,) repeated for every output neuron, in flat order."""
    _, height, width = op.output_shape
    return np.repeat(values, height * width)
