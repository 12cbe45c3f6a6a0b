"""How each NIR primitive becomes program operations: one small function per node type, in `RULES`.

A rule gets the node, its dotted name, the signal it reads and that signal's shape; it returns the
operations (the last one carries the node's name) and the shape of the result. Numbers must be
integers already (`quantize` makes them so); neuron constants must be exact in Loihi's formats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError
from nsllm_nir.graph import DT, Node
from nsllm_nir.program import Conv2d, Count, Delay, Integrate, Lif, Linear, Op, Sum
from nsllm_nir.program.constants import MAX_WEIGHT_BITS

Ints = NDArray[Any]
Floats = NDArray[np.float64]
Shape = tuple[int, ...]
Rule = Callable[[Node, str, str, Shape], tuple[list[Op], Shape]]
WEIGHT_LIMIT = 1 << (MAX_WEIGHT_BITS - 1)
MAX_THRESHOLD = (1 << 17) - 1
MAX_GAIN = (1 << 17) - 1  # of a Scale: what the synaptic input of a `Lif` holds
MAX_FIRE = 1 << 29
MAX_GEOMETRY = 1 << 14  # largest side, stride, dilation or padding of a convolution


def integers(values: Any, where: str, what: str, low: int, high: int) -> Ints:
    """``values`` as they are, after checking that they are finite integers in [low, high]; raises GraphError."""
    array = np.asarray(values)
    floating = not np.issubdtype(array.dtype, np.integer)  # large integer weights need no copies for these checks
    if floating and not np.isfinite(array).all():
        raise GraphError(f"{where}: {what} holds NaN or infinity")
    if floating and (array != np.rint(array)).any():
        raise GraphError(
            f"{where}: {what} is not integer (first value {array.reshape(-1)[0]}); quantize the graph first"
        )
    if array.size and (array.min() < low or array.max() > high):
        raise GraphError(f"{where}: {what} is in [{array.min()}, {array.max()}], allowed is [{low}, {high}]")
    return array


def linear(node: Node, where: str, source: str, limit: int = WEIGHT_LIMIT) -> list[Op]:
    """Linear or Affine; weights beyond 8 bits, allowed up to ``limit``, become shifted digits."""
    weight = node.parameters["weight"]
    if len(np.shape(weight)) < 2:
        raise GraphError(f"{where}: the weight has shape {np.shape(weight)}, expected (outputs, inputs)")
    if int(np.prod(weight.shape[:-2])) != 1:
        raise GraphError(f"{where}: batched weights {weight.shape} are not supported; use one matrix per node")
    weight = integers(weight, where, "the weight", -limit, limit - 1).reshape(weight.shape[-2:])
    bias = np.zeros(weight.shape[0], np.int32)
    if "bias" in node.parameters:
        bias = integers(node.parameters["bias"], where, "the bias", -(2**31), 2**31 - 1).astype(np.int32).reshape(-1)
    if not weight.size or (weight.min() >= -WEIGHT_LIMIT and weight.max() < WEIGHT_LIMIT):
        return [Linear(where, source, weight.astype(np.int8, copy=False), bias, np.zeros(bias.size, np.uint8))]
    return _wide(
        weight.astype(np.int64),
        bias,
        where,
        lambda name, digit, shift: Linear(name, source, digit, np.zeros(bias.size, np.int32), shift),
    )


def _wide(rest: Ints, bias: Ints, where: str, synapse: Callable[[str, Ints, Ints], Op]) -> list[Op]:
    """Weights beyond 8 bits as a sum of shifted 7-bit digits; all digits of a weight have its sign, so intervals stay tight."""
    digits: list[Op] = []
    while rest.any():
        digit = np.sign(rest) * (np.abs(rest) & (WEIGHT_LIMIT - 1))
        shift = np.full(bias.size, (MAX_WEIGHT_BITS - 1) * len(digits), np.uint8)
        digits.append(synapse(f"{where}.digit_{len(digits)}", digit.astype(np.int8), shift))
        rest = np.sign(rest) * (np.abs(rest) >> (MAX_WEIGHT_BITS - 1))
    return [*digits, Sum(where, tuple(op.name for op in digits), bias)]


def _linear(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    ops = linear(node, where, source)
    weight = node.parameters["weight"]
    return ops, (*weight.shape[:-2], weight.shape[-2])


def gain_shift(node: Node) -> Ints | None:
    """Shifts of a Scale whose gains are powers of two >= 1, else None."""
    gain = node.array("scale").reshape(-1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.log2(gain)
    exact = np.isfinite(shift) & (shift == np.rint(shift)) & (shift >= 0)
    return shift.astype(np.uint8) if exact.all() else None


def _scale(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    """One synapse per neuron and 7-bit digit: a convolution with as many groups as neurons."""
    shift, gain = gain_shift(node), node.array("scale").reshape(-1)
    if shift is not None:
        return [depthwise(where, source, np.ones(gain.size, np.int8), shift)], shape
    weight = integers(gain, where, "the gain", -MAX_GAIN, MAX_GAIN)
    if weight.min() >= -WEIGHT_LIMIT and weight.max() < WEIGHT_LIMIT:
        return [depthwise(where, source, weight.astype(np.int8), np.zeros(gain.size, np.uint8))], shape
    return _wide(
        weight.astype(np.int64),
        np.zeros(gain.size, np.int32),
        where,
        lambda name, digit, shift: depthwise(name, source, digit, shift),
    ), shape


def depthwise(where: str, source: str, weight: Ints, shift: Ints) -> Conv2d:
    """``(weight[i] source[i]) << shift[i]`` for every neuron i."""
    n = weight.size
    return Conv2d(
        where, source, weight.reshape(n, 1, 1, 1), np.zeros(n, np.int32), shift, (n, 1, 1), (1, 1), (0, 0), (1, 1), n
    )


def _pair(value: Any) -> tuple[int, int]:
    flat = np.asarray(value).reshape(-1)
    return int(flat[0]), int(flat[-1])


def _convolution(
    node: Node, where: str, source: str, shape: Shape, weight: Ints, size: tuple[int, int], *, line: bool
) -> Conv2d:
    stride, dilation = _pair(node.parameters["stride"]), _pair(node.parameters["dilation"])
    padding = node.parameters["padding"]
    kernel = weight.shape[2:]
    if isinstance(padding, str):
        if padding not in ("valid", "same"):
            raise GraphError(f"{where}: padding must be a number, 'valid' or 'same', got {padding!r}")
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if padding == "same" and (any(r % 2 for r in reach) or stride != (1, 1)):
            raise GraphError(f"{where}: padding 'same' needs odd kernels and stride 1; give the padding as a number")
        pads = (0, 0) if padding == "valid" else (reach[0] // 2, reach[1] // 2)
    else:
        pads = _pair(padding)
    if line:  # a 1-D convolution is one row high
        stride, dilation, pads = (1, stride[1]), (1, dilation[1]), (0, pads[1])
    groups = int(node.parameters["groups"])
    if (
        weight.ndim != 4
        or min(*stride, *dilation, *size, groups) < 1
        or min(pads) < 0
        or max(*stride, *dilation, *pads, *size) > MAX_GEOMETRY
    ):
        geometry = f"stride {stride}, dilation {dilation}, padding {pads}, groups {groups}, input {size}"
        raise GraphError(f"{where}: weight {weight.shape} or {geometry} is out of range")
    bias = integers(node.parameters["bias"], where, "the bias", -(2**31), 2**31 - 1).astype(np.int32).reshape(-1)
    channels = weight.shape[1] * groups
    return Conv2d(
        where,
        source,
        weight.astype(np.int8),
        bias,
        np.zeros(bias.size, np.uint8),
        (channels, *size),
        stride,
        pads,
        dilation,
        groups,
    )


def _conv2d(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    weight = integers(node.array("weight"), where, "the weight", -WEIGHT_LIMIT, WEIGHT_LIMIT - 1)
    size = _pair(node.parameters["input_shape"]) if "input_shape" in node.parameters else _plane(where, shape)
    op = _convolution(node, where, source, shape, weight, size, line=False)
    return [op], op.output_shape


def _conv1d(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    weight = integers(node.array("weight"), where, "the weight", -WEIGHT_LIMIT, WEIGHT_LIMIT - 1)[:, :, None]
    length = int(node.parameters["input_shape"]) if "input_shape" in node.parameters else shape[-1]
    op = _convolution(node, where, source, shape, weight, (1, length), line=True)
    return [op], (op.output_shape[0], op.output_shape[2])


def _plane(where: str, shape: Shape) -> tuple[int, int]:
    if len(shape) != 3:
        raise GraphError(f"{where}: its input has the shape {shape}, expected (channels, height, width)")
    return shape[1], shape[2]


def _sum_pool(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    size, channels = _plane(where, shape), shape[0]
    kernel, stride, padding = (_pair(node.parameters[name]) for name in ("kernel_size", "stride", "padding"))
    if (
        min(*kernel, *stride) < 1
        or min(padding) < 0
        or max(*kernel, *stride, *padding) > MAX_GEOMETRY
        or kernel[0] * kernel[1] > MAX_GEOMETRY
    ):
        raise GraphError(f"{where}: kernel {kernel}, stride {stride} or padding {padding} is out of range")
    weight = np.ones((channels, 1, *kernel), np.int8)
    bias, shift = np.zeros(channels, np.int32), np.zeros(channels, np.uint8)
    op = Conv2d(where, source, weight, bias, shift, (channels, *size), stride, padding, (1, 1), channels)
    return [op], op.output_shape


def _average_pool(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    raise GraphError(
        f"{where}: AvgPool2d divides, which integers cannot do exactly; use SumPool2d and divide the weights that follow"
    )


def _flatten(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    start, end = int(node.parameters["start_dim"]), int(node.parameters["end_dim"]) % len(shape)
    return [], (*shape[:start], int(np.prod(shape[start : end + 1])), *shape[end + 1 :])


def _fire(threshold: Ints, where: str, source: str) -> list[Op]:
    """[v > t] on integers is a count of one level: step 2 floor(t) + 1, or step 1 after adding -floor(t)."""
    if not np.isfinite(threshold).all():
        raise GraphError(f"{where}: the threshold holds NaN or infinity")
    if threshold.size and np.abs(threshold).max() >= MAX_FIRE:
        raise GraphError(f"{where}: the threshold reaches {np.abs(threshold).max():g}, below {MAX_FIRE} is allowed")
    floor = np.floor(threshold.reshape(-1)).astype(np.int64)
    step = np.where(floor >= 0, 2 * floor + 1, 1).astype(np.int32)
    bias = np.where(floor >= 0, 0, -floor).astype(np.int32)
    if not bias.any():
        return [Count(where, source, step, 1)]
    return [Sum(where + ".offset", (source,), bias), Count(where, where + ".offset", step, 1)]


def _threshold(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    return _fire(node.array("threshold"), where, source), shape


def _delay(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    steps = integers(rounded(node.array("delay") / DT), where, "the delay in steps of 1e-4 s", 0, 2**20)
    return [Delay(where, source, steps.astype(np.int32))], shape


def rounded(values: Any) -> Floats:
    """float64, rid of the rounding of float32 parameters."""
    flat = np.asarray(values, np.float64).reshape(-1)
    near = np.rint(flat)
    return np.where(np.abs(flat - near) <= 1e-5 * np.maximum(np.abs(near), 1e-3), near, flat)


def _values(node: Node, name: str, size: int) -> Floats:
    return np.broadcast_to(np.asarray(node.parameters[name], np.float64).reshape(-1), (size,))


def _decay(node: Node, where: str, name: str, size: int) -> Floats:
    """dt / tau of a time constant, in 1/4096."""
    tau = _values(node, name, size)
    if not (tau > 0).all():
        raise GraphError(f"{where}: {name} must be positive")
    return np.asarray(integers(rounded(4096 * DT / tau), where, f"4096 dt / {name}", 0, 4096), np.float64)


def _lif(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    """LIF, CubaLIF, IF, and their leaky integrators, under Loihi's rule; gains fold into the threshold.

    With unit-free weights the membrane moves by the integer input per step, so that a threshold t of the
    node means t / gain, gain = r dt/tau_mem (times w_in dt/tau_syn); for IF and I, gain = r dt.
    """
    size = int(np.prod(shape))
    p = node.parameters
    for name in p:
        if not np.isfinite(np.asarray(p[name], np.float64)).all():
            raise GraphError(f"{where}: {name} holds NaN or infinity")
    if np.any(np.asarray(p.get("v_reset", 0.0))):
        raise GraphError(f"{where}: v_reset must be 0, as Loihi resets to zero")
    membrane = "tau_mem" if "tau_mem" in p else "tau" if "tau" in p else ""
    voltage = _decay(node, where, membrane, size) if membrane else np.zeros(size)
    current = _decay(node, where, "tau_syn", size) if "tau_syn" in p else np.full(size, 4096.0)
    gain = _values(node, "r", size) * (voltage / 4096 if membrane else DT)
    if "tau_syn" in p:
        gain = gain * current / 4096 * (_values(node, "w_in", size) if "w_in" in p else 1.0)
    if not (gain > 0).all():
        raise GraphError(f"{where}: r, w_in and dt / tau must give a positive gain, found {gain.min()}")
    leak = _values(node, "v_leak", size) if "v_leak" in p else np.zeros(size)
    bias = integers(
        rounded(64 * leak * voltage / 4096 / gain), where, "the leak current in 1/64 units", -LIF_BIAS, LIF_BIAS
    ).astype(np.int32)
    threshold = None
    if "v_threshold" in p:
        scaled = rounded(_values(node, "v_threshold", size) / gain)
        if (voltage == 4096).all() and (current == 4096).all() and not bias.any():
            return _fire(scaled, where, source), shape
        threshold = integers(scaled, where, "v_threshold / gain", 0, MAX_THRESHOLD).astype(np.int32)
    return [Lif(where, source, current.astype(np.int32), voltage.astype(np.int32), threshold, bias)], shape


LIF_BIAS = (1 << 22) - 1


def _li(node: Node, where: str, source: str, shape: Shape) -> tuple[list[Op], Shape]:
    """Unit gain and tau = 2**k dt: `Integrate`; others: `Lif` without threshold (values in 1/64)."""
    ratio = rounded(node.array("tau") / DT)
    shift = 8 - np.log2(np.maximum(ratio, 1e-9))
    exact = (shift == np.rint(shift)).all() and (shift >= 0).all() and (shift <= 8).all()
    if exact and not node.array("v_leak").any() and np.array_equal(rounded(node.array("r")), ratio):
        return [Integrate(where, source, (256 - (1 << shift.astype(np.int64))).astype(np.int32), 0)], shape
    return _lif(node, where, source, shape)


RULES: dict[str, Rule] = {
    "Affine": _linear,
    "AvgPool2d": _average_pool,
    "Conv1d": _conv1d,
    "Conv2d": _conv2d,
    "CubaLI": _lif,
    "CubaLIF": _lif,
    "Delay": _delay,
    "Flatten": _flatten,
    "I": _lif,
    "IF": _lif,
    "LI": _li,
    "LIF": _lif,
    "Linear": _linear,
    "Scale": _scale,
    "SumPool2d": _sum_pool,
    "Threshold": _threshold,
}
