"""`Conv2d` in two forms: its synapses one by one (stock Lava), and as one matrix product per group (fused)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.program import Conv2d

Indices = NDArray[np.signedinteger[Any]]


def taps(op: Conv2d) -> Indices:
    """Flat input neuron of each kernel tap at each output position, -1 in the padding.

    Returns (channels, kernel height * kernel width, output height * output width), int64.
    """
    along = []
    for size, kernel, out, stride, pad, gap in zip(
        op.input_shape[1:], op.weight.shape[2:], op.output_shape[1:], op.stride, op.padding, op.dilation, strict=True
    ):
        at = np.arange(kernel)[:, None] * gap + np.arange(out) * stride - pad
        along.append(np.where((at >= 0) & (at < size), at, -1))
    rows, columns = along[0][:, None, :, None], along[1][None, :, None, :]
    channels, height, width = op.input_shape
    plane = np.where((rows >= 0) & (columns >= 0), rows * width + columns, -1).reshape(
        rows.shape[0] * columns.shape[1], -1
    )
    return np.where(plane < 0, -1, plane + np.arange(channels)[:, None, None] * (height * width))


def synapses(op: Conv2d) -> tuple[Indices, Indices, Indices]:
    """(output neuron, input neuron, weight) of every synapse whose weight is not 0, int64; a padded input has none."""
    outputs, per_group = op.weight.shape[:2]
    inputs = taps(op)
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
