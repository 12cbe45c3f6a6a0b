"""Layers without memory as NIR nodes: weights, pooling, flattening, and the statistics of a batch normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsllm_nir.errors import LossyConversionError
from nsllm_nir.graph import Node

Shape = tuple[int, ...]
Floats = NDArray[np.float64]


def array(tensor: torch.Tensor, where: str, what: str) -> Floats:
    """A tensor as float64; raises LossyConversionError where it holds NaN or infinity."""
    values = tensor.detach().cpu().to(torch.float64).numpy()
    if not np.isfinite(values).all():
        raise LossyConversionError(f"{where}: {what} holds NaN or infinity; the network cannot be exported")
    return values


def _compact(values: Floats) -> NDArray[Any]:
    """float32 where that loses nothing."""
    single = values.astype(np.float32)
    return single if np.array_equal(single, values) else values


def weights(module: nn.Module, where: str, shape: Shape) -> Node:
    """Linear, Conv1d or Conv2d on inputs of ``shape``.

    Raises:
        LossyConversionError: NaN, infinity, a padding other than zeros, or a Linear that acts on one of several
        dimensions.
    """
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    found = {"weight": array(module.weight, where, "the weight")}
    if module.bias is not None:
        found["bias"] = array(module.bias, where, "the bias")
    if isinstance(module, nn.Linear):
        if len(shape) > 1:
            raise LossyConversionError(
                f"{where}: Linear on neurons of shape {shape} acts on the last dimension only, NIR's on all; flatten "
                "in front of it"
            )
        return _weights_node("Affine" if "bias" in found else "Linear", found)
    if module.padding_mode != "zeros":
        raise LossyConversionError(
            f"{where}: padding_mode {module.padding_mode!r} has no NIR form; use padding_mode='zeros'"
        )
    found.setdefault("bias", np.zeros(len(found["weight"])))
    line = isinstance(module, nn.Conv1d)
    geometry = {name: getattr(module, name) for name in ("stride", "padding", "dilation")}
    numbers = {
        name: value if isinstance(value, str) else value[0] if line else np.array(value)
        for name, value in geometry.items()
    }
    size = shape[-1] if line else np.array(shape[-2:])
    return _weights_node("Conv1d" if line else "Conv2d", found, input_shape=size, groups=module.groups, **numbers)


def _weights_node(kind: str, found: dict[str, Floats], **geometry: Any) -> Node:
    return Node(kind, {**geometry, **{name: _compact(values) for name, values in found.items()}})


def normalized(node: Node, norm: nn.Module, where: str) -> Node:
    """Weights that took over the batch normalisation behind them: ``(y - mean) / sqrt(var + eps) * weight + bias``.

    Raises:
        LossyConversionError: statistics of the batch in place of stored ones, NaN or infinity.
    """
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    if norm.running_mean is None or norm.running_var is None:
        raise LossyConversionError(
            f"{where}: a batch normalisation without running statistics depends on the batch; use "
            "track_running_stats=True"
        )
    gain = 1 / np.sqrt(array(norm.running_var, where, "the running variance") + norm.eps)
    if norm.weight is not None:
        gain = gain * array(norm.weight, where, "the weight")
    weight = node.array("weight").astype(np.float64)
    bias = node.array("bias").astype(np.float64) if "bias" in node.parameters else np.zeros(len(weight))
    bias = (bias - array(norm.running_mean, where, "the running mean")) * gain
    if norm.bias is not None:
        bias = bias + array(norm.bias, where, "the bias")
    kind = node.type.replace("Linear", "Affine")
    geometry = {name: value for name, value in node.parameters.items() if name not in ("weight", "bias")}
    return _weights_node(
        kind, {"weight": weight * gain.reshape(-1, *([1] * (weight.ndim - 1))), "bias": bias}, **geometry
    )


def pool(module: nn.Module, where: str, shape: Shape, out: Shape) -> Node:
    """AvgPool2d; for MaxPool2d the SumPool2d of the same windows.

    Raises:
        LossyConversionError: options that NIR's pooling lacks.
    """
    assert isinstance(module, nn.AvgPool2d | nn.MaxPool2d)
    kernel, stride, padding = (_pair(each) for each in (module.kernel_size, module.stride, module.padding))
    floored = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in zip(shape[-2:], padding, kernel, stride, strict=True))
    if floored != out[-2:]:
        raise LossyConversionError(
            f"{where}: windows that stick out at the end (ceil_mode) or have gaps (dilation) have no NIR form; pad or "
            "crop the input"
        )
    if isinstance(module, nn.MaxPool2d):
        if _pair(module.dilation) != (1, 1) or module.return_indices:
            raise LossyConversionError(f"{where}: dilation and return_indices have no NIR form; use neither")
    elif module.divisor_override is not None or (any(padding) and not module.count_include_pad):
        raise LossyConversionError(
            f"{where}: NIR averages over the whole window; use count_include_pad=True and no divisor_override"
        )
    kind = "AvgPool2d" if isinstance(module, nn.AvgPool2d) else "SumPool2d"
    return Node(
        kind,
        {name: np.array(value) for name, value in (("kernel_size", kernel), ("stride", stride), ("padding", padding))},
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def flatten(module: nn.Module, shape: Shape) -> Node:
    """Flatten, its dimensions counted without the batch."""
    assert isinstance(module, nn.Flatten)
    rank = len(shape) + 1
    start, end = (dim % rank - 1 for dim in (module.start_dim, module.end_dim))
    return Node("Flatten", {"start_dim": start, "end_dim": end})
