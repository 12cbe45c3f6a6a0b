"""How each NIR primitive becomes program operations: one small function per node type, in `RULES`.

A rule gets the node, its dotted name and the shape of what it reads, and returns its integer form: the numbers that
must be integers, and the operations made of them (the last one carries the node's name). Numbers must be integers
already (`quantize` makes them so); neuron constants must be exact in Loihi's formats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.graph import DT, Node, Shape
from nsllm_nir.graph.geometry import Geometry, convolution, pooling
from nsllm_nir.program import Conv2d, Count, Delay, Integrate, Lif, Linear, Op, Sum
from nsllm_nir.program.constants import MAX_WEIGHT_BITS

Ints = NDArray[Any]
Floats = NDArray[np.float64]
WEIGHT_LIMIT = 1 << (MAX_WEIGHT_BITS - 1)
MAX_THRESHOLD = (1 << 17) - 1
MAX_GAIN = (1 << 17) - 1  # of a Scale: what the synaptic input of a `Lif` holds
MAX_FIRE = (1 << 29) - 1
MAX_BIAS = (1 << 31) - 1
MAX_DELAY = 1 << 20  # steps
MAX_SHIFT = 255  # what a program's array of shifts can state; a `Program` takes fewer
LIF_BIAS = (1 << 22) - 1


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers of a node in the unit in which a program holds them, and the range that it can hold."""

    what: str
    values: Any
    low: int
    high: int

    @cached_property
    def array(self) -> Ints:
        """The values, loaded once."""
        return np.asarray(self.values)

    @cached_property
    def fault(self) -> str:
        """Why they are no integers of that range, "" if they are."""
        array = self.array
        floating = not np.issubdtype(array.dtype, np.integer)  # large integer weights need no copies for these checks
        if floating and not np.isfinite(array).all():
            return f"{self.what} holds NaN or infinity"
        if floating and (array != np.rint(array)).any():
            return f"{self.what} is not integer (first value {array.reshape(-1)[0]}); quantize the graph first"
        if array.size and (array.min() < self.low or array.max() > self.high):
            return f"{self.what} is in [{array.min()}, {array.max()}], allowed is [{self.low}, {self.high}]"
        return ""


@dataclass(frozen=True, eq=False)
class Form:
    """The integer form of a node. ops: from the name of the signal that it reads, once ``fault`` is empty.

    refusal: why there is none, whatever the numbers.
    """

    constants: tuple[Constant, ...] = ()
    ops: Callable[[str], list[Op]] = lambda source: []
    refusal: str = ""

    @property
    def fault(self) -> str:
        """Why integers do not hold the node as it is, "" if they do."""
        return self.refusal or next((constant.fault for constant in self.constants if constant.fault), "")


Rule = Callable[[Node, str, Shape, int], Form]


def _bias(node: Node, size: int) -> Constant:
    found = node.array("bias").reshape(-1) if "bias" in node.parameters else np.zeros(size, np.int32)
    return Constant("the bias", found, -MAX_BIAS - 1, MAX_BIAS)


def _linear(node: Node, where: str, shape: Shape, limit: int) -> Form:
    """Weights beyond 8 bits, allowed up to ``limit``, become shifted digits."""
    weight = Constant("the weight", node.parameters["weight"], -limit, limit - 1)
    rows = int(np.shape(node.parameters["weight"])[-2])
    bias = _bias(node, rows)

    def ops(source: str) -> list[Op]:
        matrix = weight.array.reshape(rows, -1)
        offset = bias.array.astype(np.int32)
        if not matrix.size or (matrix.min() >= -WEIGHT_LIMIT and matrix.max() < WEIGHT_LIMIT):
            return [Linear(where, source, matrix.astype(np.int8, copy=False), offset, np.zeros(offset.size, np.uint8))]
        return _wide(
            matrix.astype(np.int64),
            offset,
            where,
            lambda name, digit, shift: Linear(name, source, digit, np.zeros(offset.size, np.int32), shift),
        )

    return Form((weight, bias), ops)


def _wide(rest: Ints, bias: Ints, where: str, synapse: Callable[[str, Ints, Ints], Op]) -> list[Op]:
    """Weights beyond 8 bits as a sum of shifted 7-bit digits.

    All digits of a weight have its sign, so intervals stay tight.
    """
    digits: list[Op] = []
    while rest.any():
        digit = np.sign(rest) * (np.abs(rest) & (WEIGHT_LIMIT - 1))
        shift = np.full(bias.size, (MAX_WEIGHT_BITS - 1) * len(digits), np.uint8)
        digits.append(synapse(f"{where}.digit_{len(digits)}", digit.astype(np.int8), shift))
        rest = np.sign(rest) * (np.abs(rest) >> (MAX_WEIGHT_BITS - 1))
    return [*digits, Sum(where, tuple(op.name for op in digits), bias)]


def gain_shift(node: Node) -> Ints | None:
    """Left shifts (neurons,) of a Scale whose gains are powers of two >= 1, else None."""
    gain = node.array("scale").reshape(-1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.log2(gain)
    exact = np.isfinite(shift) & (shift == np.rint(shift)) & (shift >= 0)
    return np.minimum(shift, MAX_SHIFT).astype(np.uint8) if exact.all() else None


def _scale(node: Node, where: str, shape: Shape, limit: int) -> Form:
    """One synapse per neuron and 7-bit digit: a convolution with as many groups as neurons."""
    shift, gain = gain_shift(node), node.array("scale").reshape(-1)
    if shift is not None:
        return Form(ops=lambda source: [depthwise(where, source, np.ones(gain.size, np.int8), shift)])
    weight = Constant("the gain", gain, -MAX_GAIN, MAX_GAIN)

    def ops(source: str) -> list[Op]:
        found = weight.array
        if found.min() >= -WEIGHT_LIMIT and found.max() < WEIGHT_LIMIT:
            return [depthwise(where, source, found.astype(np.int8), np.zeros(gain.size, np.uint8))]
        return _wide(
            found.astype(np.int64),
            np.zeros(gain.size, np.int32),
            where,
            lambda name, digit, shift: depthwise(name, source, digit, shift),
        )

    return Form((weight,), ops)


def depthwise(where: str, source: str, weight: Ints, shift: Ints) -> Conv2d:
    """``(weight[i] source[i]) << shift[i]`` for every neuron i."""
    n = weight.size
    return Conv2d(
        where, source, weight.reshape(n, 1, 1, 1), np.zeros(n, np.int32), shift, (n, 1, 1), (1, 1), (0, 0), (1, 1), n
    )


def operation(where: str, source: str, weight: Ints, bias: Ints, geometry: Geometry) -> Conv2d:
    """A convolution of integers."""
    return Conv2d(
        where,
        source,
        weight.reshape(geometry.outputs, -1, *geometry.kernel).astype(np.int8),
        bias.astype(np.int32),
        np.zeros(bias.size, np.uint8),
        geometry.input_shape,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
    )


def _convolution(node: Node, where: str, shape: Shape, limit: int) -> Form:
    geometry = convolution(node, where, shape)
    weight = Constant("the weight", node.parameters["weight"], -WEIGHT_LIMIT, WEIGHT_LIMIT - 1)
    bias = _bias(node, geometry.outputs)
    return Form((weight, bias), lambda source: [operation(where, source, weight.array, bias.array, geometry)])


def _sum_pool(node: Node, where: str, shape: Shape, limit: int) -> Form:
    geometry = pooling(node, where, shape)
    weight, bias = np.ones((geometry.channels, 1, *geometry.kernel), np.int8), np.zeros(geometry.channels, np.int32)
    return Form(ops=lambda source: [operation(where, source, weight, bias, geometry)])


def _average_pool(node: Node, where: str, shape: Shape, limit: int) -> Form:
    return Form(
        refusal="AvgPool2d divides, which integers cannot do exactly; use SumPool2d and divide the weights that follow"
    )


def _flatten(node: Node, where: str, shape: Shape, limit: int) -> Form:
    """No operation: the readers read what it reads, in another shape."""
    return Form()


def _fire(threshold: Ints, where: str) -> Form:
    """[v > t] on integers is a count of one level: step 2 floor(t) + 1, or step 1 after adding -floor(t)."""
    if not np.isfinite(threshold).all():
        return Form(refusal="the threshold holds NaN or infinity")
    level = Constant("the threshold, rounded down,", np.floor(threshold.reshape(-1)), -MAX_FIRE, MAX_FIRE)

    def ops(source: str) -> list[Op]:
        floor = level.array.astype(np.int64)
        step = np.where(floor >= 0, 2 * floor + 1, 1).astype(np.int32)
        bias = np.where(floor >= 0, 0, -floor).astype(np.int32)
        if not bias.any():
            return [Count(where, source, step, 1)]
        return [Sum(where + ".offset", (source,), bias), Count(where, where + ".offset", step, 1)]

    return Form((level,), ops)


def _threshold(node: Node, where: str, shape: Shape, limit: int) -> Form:
    return _fire(node.array("threshold"), where)


def delay_steps(node: Node) -> Constant:
    """The delays of a node in steps."""
    return Constant("the delay in steps of 1e-4 s", rounded(node.array("delay") / DT), 0, MAX_DELAY)


def _delay(node: Node, where: str, shape: Shape, limit: int) -> Form:
    steps = delay_steps(node)
    return Form((steps,), lambda source: [Delay(where, source, steps.array.astype(np.int32))])


def rounded(values: Any) -> Floats:
    """float64, rid of the rounding of float32 parameters: 1e-6 of the value, and never as much as an eighth."""
    flat = np.asarray(values, np.float64).reshape(-1)
    near = np.rint(flat)
    return np.where(np.abs(flat - near) <= np.clip(1e-6 * np.abs(near), 1e-8, 0.125), near, flat)


def _values(node: Node, name: str, size: int) -> Floats:
    return np.broadcast_to(np.asarray(node.parameters[name], np.float64).reshape(-1), (size,))


def _no_neuron(node: Node) -> str:
    """Why no integers are a neuron's parameters, whatever its gain; "" if they may be."""
    for name, value in node.parameters.items():
        if not np.isfinite(np.asarray(value, np.float64)).all():
            return f"{name} holds NaN or infinity"
        if name.startswith("tau") and not (np.asarray(value, np.float64) > 0).all():
            return f"{name} must be positive"
    return "v_reset must be 0, as Loihi resets to zero" if np.any(node.parameters.get("v_reset", 0.0)) else ""


def _lif(node: Node, where: str, shape: Shape, limit: int) -> Form:
    """LIF, CubaLIF, IF, and their leaky integrators, under Loihi's rule; gains fold into the threshold.

    With unit-free weights the membrane moves by the integer input per step, so that a threshold t of the
    node means t / gain, gain = r dt/tau_mem (times w_in dt/tau_syn); for IF and I, gain = r dt.
    """
    size = int(np.prod(shape))
    p = node.parameters
    if refusal := _no_neuron(node):
        return Form(refusal=refusal)
    membrane = "tau_mem" if "tau_mem" in p else "tau"
    taus = {name: _values(node, name, size) for name in (membrane, "tau_syn") if name in p}
    decays = {name: Constant(f"4096 dt / {name}", rounded(4096 * DT / tau), 0, 4096) for name, tau in taus.items()}
    voltage = decays[membrane].array if membrane in decays else np.zeros(size)
    current = decays["tau_syn"].array if "tau_syn" in decays else np.full(size, 4096.0)
    gain = _values(node, "r", size) * (voltage / 4096 if membrane in decays else DT)
    if "tau_syn" in p:
        gain = gain * current / 4096 * (_values(node, "w_in", size) if "w_in" in p else 1.0)
    if not (gain > 0).all():
        return Form(refusal=f"r, w_in and dt / tau must give a positive gain, found {gain.min()}")
    leak = _values(node, "v_leak", size) if "v_leak" in p else np.zeros(size)
    bias = Constant("the leak current in 1/64 units", rounded(64 * leak * voltage / 4096 / gain), -LIF_BIAS, LIF_BIAS)
    constants = (*decays.values(), bias)
    level = None
    if "v_threshold" in p:
        scaled = rounded(_values(node, "v_threshold", size) / gain)
        if (voltage == 4096).all() and (current == 4096).all() and not bias.array.any():
            return _fire(scaled, where)
        level = Constant("v_threshold / gain", scaled, 0, MAX_THRESHOLD)
        constants = (*constants, level)

    def ops(source: str) -> list[Op]:
        found = None if level is None else level.array.astype(np.int32)
        return [
            Lif(where, source, current.astype(np.int32), voltage.astype(np.int32), found, bias.array.astype(np.int32))
        ]

    return Form(constants, ops)


def _li(node: Node, where: str, shape: Shape, limit: int) -> Form:
    """Unit gain and tau = 2**k dt: `Integrate`; others: `Lif` without threshold (values in 1/64)."""
    ratio = rounded(node.array("tau") / DT)
    shift = 8 - np.log2(np.maximum(ratio, 1e-9))
    exact = (shift == np.rint(shift)).all() and (shift >= 0).all() and (shift <= 8).all()
    if exact and not node.array("v_leak").any() and np.array_equal(rounded(node.array("r")), ratio):
        decay = (256 - (1 << shift.astype(np.int64))).astype(np.int32)
        return Form(ops=lambda source: [Integrate(where, source, decay, 0)])
    return _lif(node, where, shape, limit)


RULES: dict[str, Rule] = {
    "Affine": _linear,
    "AvgPool2d": _average_pool,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
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
