"""Geometry of convolutions and poolings: read once from a node, used by shapes, float reference and lowering."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsllm_nir.errors import GraphError
from nsllm_nir.graph.nir_graph import Node, Shape
from nsllm_nir.program.operations.conv2d import convolved

MAX_GEOMETRY = 1 << 14  # largest side, stride, dilation or padding of a convolution
Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """A convolution over (channels, height, width); pairs are (vertical, horizontal). A 1-D one is one row high."""

    channels: int
    outputs: int
    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what it reads."""
        return self.channels, *self.size

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(outputs, height, width)."""
        return self.outputs, *convolved(self.size, self.padding, self.dilation, self.kernel, self.stride)


def convolution(node: Node, where: str, shape: Shape) -> Geometry:
    """Geometry of a Conv1d or Conv2d node that reads a signal of ``shape``.

    Raises:
        GraphError: numbers out of range, a padding that is none, or an input of another size.
    """
    line = node.type == "Conv1d"
    weight = (1, *np.shape(node.parameters["weight"])[2:]) if line else np.shape(node.parameters["weight"])[2:]
    outputs, inputs = np.shape(node.parameters["weight"])[:2]
    size = _size(node, where, shape, line=line)
    stride, dilation = pair(node, where, "stride"), pair(node, where, "dilation")
    pads = _padding(node, where, weight, stride, dilation)
    if line:
        stride, dilation, pads = (1, stride[1]), (1, dilation[1]), (0, pads[1])
    groups = int(node.parameters["groups"])
    if (
        len(weight) != 2
        or min(*stride, *dilation, *size, groups) < 1
        or min(pads) < 0
        or max(*stride, *dilation, *pads, *size) > MAX_GEOMETRY
    ):
        geometry = f"stride {stride}, dilation {dilation}, padding {pads}, groups {groups}, input {size}"
        raise GraphError(f"{where}: weight {(outputs, inputs, *weight)} or {geometry} is out of range")
    found = Geometry(inputs * groups, outputs, size, (weight[0], weight[1]), stride, pads, dilation, groups)
    expected = (found.channels, size[1]) if line else found.input_shape
    if (len(shape) == len(expected) and shape != expected) or math.prod(shape) != math.prod(expected):
        raise GraphError(f"{where}: its input has the shape {shape}, its weight and input_shape need {expected}")
    return found


def pooling(node: Node, where: str, shape: Shape) -> Geometry:
    """Geometry of a SumPool2d or AvgPool2d node, one group per channel; raises GraphError as `convolution`."""
    size, channels = _plane(where, shape), shape[0]
    kernel, stride, padding = (pair(node, where, name) for name in ("kernel_size", "stride", "padding"))
    if (
        min(*kernel, *stride) < 1
        or min(padding) < 0
        or max(*kernel, *stride, *padding) > MAX_GEOMETRY
        or kernel[0] * kernel[1] > MAX_GEOMETRY
    ):
        raise GraphError(f"{where}: kernel {kernel}, stride {stride} or padding {padding} is out of range")
    found = Geometry(channels, channels, size, kernel, stride, padding, (1, 1), channels)
    if min(found.output_shape) < 1:
        raise GraphError(f"{where}: a kernel of {kernel} does not fit its input of shape {shape}")
    return found


def pair(node: Node, where: str, name: str) -> Pair:
    """A parameter with one value for both directions, or (vertical, horizontal); raises GraphError for more."""
    flat = np.asarray(node.parameters[name]).reshape(-1)
    if flat.size not in (1, 2):
        raise GraphError(f"{where}: {name} has {flat.size} values {flat.tolist()}, expected one or (height, width)")
    return int(flat[0]), int(flat[-1])


def _size(node: Node, where: str, shape: Shape, *, line: bool) -> Pair:
    """(height, width) of the input: what the node states, else what it reads."""
    stated: Any = node.parameters.get("input_shape")
    if line:
        return 1, shape[-1] if stated is None else int(stated)
    return _plane(where, shape) if stated is None else pair(node, where, "input_shape")


def _plane(where: str, shape: Shape) -> Pair:
    if len(shape) != 3:
        raise GraphError(f"{where}: its input has the shape {shape}, expected (channels, height, width)")
    return shape[1], shape[2]


def _padding(node: Node, where: str, kernel: Shape, stride: Pair, dilation: Pair) -> Pair:
    padding = node.parameters["padding"]
    if not isinstance(padding, str):
        return pair(node, where, "padding")
    if padding not in ("valid", "same"):
        raise GraphError(f"{where}: padding must be a number, 'valid' or 'same', got {padding!r}")
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same" and (any(r % 2 for r in reach) or stride != (1, 1)):
        raise GraphError(f"{where}: padding 'same' needs odd kernels and stride 1; give the padding as a number")
    return (0, 0) if padding == "valid" else (reach[0] // 2, reach[1] // 2)
