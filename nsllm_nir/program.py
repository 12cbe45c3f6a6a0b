"""The typed integer form that every backend consumes (normative rules: ``docs/semantics.md``).

A `Program` is a tuple of operations in execution order. Each operation produces one signal that
carries its name: a flat vector of integers, one value per neuron and token. Interval analysis runs
at construction, so a `Program` that exists cannot overflow its widths.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import GraphError, IntegerOverflowError

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
        high, wide = (
            (size + 2 * pad - gap * (kernel - 1) - 1) // stride + 1
            for size, pad, gap, kernel, stride in zip(
                self.input_shape[1:], self.padding, self.dilation, self.weight.shape[2:], self.stride, strict=True
            )
        )
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
            raise GraphError(f"widths must be 2..40 bits for potentials and 2..64 for the comparator, got {self.potential} and {self.comparator}")


@dataclass(frozen=True, eq=False)
class Program:
    """Operations in execution order, the names of the outputs, and what analysis knows of each signal.

    Raises:
        GraphError: an operation refers to a missing signal, or shapes do not agree.
        IntegerOverflowError: a worst case exceeds the widths (names operation, neuron, interval).
    """

    ops: tuple[Op, ...]
    outputs: tuple[str, ...]
    widths: Widths = Widths()
    origin: Path | None = None  # the NIR file it was lowered from
    signals: Mapping[str, Signal] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signals", _analyse(self))

    @property
    def inputs(self) -> tuple[Input, ...]:
        return tuple(op for op in self.ops if isinstance(op, Input))

    @property
    def traced(self) -> tuple[str, ...]:
        """Signals that a `Trace` holds: every spiking signal, then the outputs, in program order."""
        return tuple(n for n, s in self.signals.items() if s.spikes or n in self.outputs)

    def audit(self) -> dict[str, Counter[str]]:
        """Hardware operations per token of each op, every neuron spiking once (dense bound).

        `_operations` states for each op class what implements it, as docs/semantics.md derives it; the tests
        scan the source of the spike engine for operators beyond those.
        """
        return {op.name: _operations(op, self.signals) for op in self.ops}

    def parameters(self) -> int:
        """Number of stored weights, biases, shifts, steps, decays and delays."""
        return sum(a.size for op in self.ops for a in constants(op).values())

    def __str__(self) -> str:
        return format_program(self)


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


def _fail(op: Op, message: str) -> GraphError:
    return GraphError(f"{type(op).__name__} {op.name!r}: {message}")


def _analyse(program: Program) -> dict[str, Signal]:
    names: set[str] = set()
    for op in program.ops:
        if op.name in names:
            raise _fail(op, "this name is used twice; names must be unique")
        names.add(op.name)
        _check_constants(op)
    signals: dict[str, Signal] = {}
    for op in program.ops:
        for name in sources(op):
            if name not in names:
                raise _fail(op, f"reads the signal {name!r}, which no operation produces")
            if name not in signals and not is_recurrent(op):
                raise _fail(op, f"reads {name!r} before it is produced; order the operations, or put a delay of at least one token into the loop")
        loop = is_recurrent(op) and sources(op)[0] not in signals
        signals[op.name] = _declared_loop(program, op) if loop else _interval(op, signals)
        _check_width(program, op, signals)
    for op in program.ops:
        if isinstance(op, Delay):
            _same_size(op, op.steps.size, [signals[op.source]])
    for name in program.outputs:
        if name not in signals:
            raise GraphError(f"output {name!r} is not a signal of the program")
    return signals


def _check_constants(op: Op) -> None:
    if not isinstance(op, Input) and not sources(op):
        raise _fail(op, "it has no source")
    for name, array in constants(op).items():
        if array.size == 0:
            raise _fail(op, f"its {name} is empty")
        if array.ndim != 1 and name != "weight":
            raise _fail(op, f"its {name} must be a vector, one value per neuron, got shape {array.shape}")
        if not np.issubdtype(array.dtype, np.integer):
            raise _fail(op, f"its {name} must hold integers, got {array.dtype}")
        if not np.can_cast(array.dtype, np.int32) and (int(array.min()) < -(2**31) or int(array.max()) >= 2**31):
            raise _fail(op, f"its {name} must fit 32 bits, found [{array.min()}, {array.max()}]")


def _declared_loop(program: Program, op: Op) -> Signal:
    """A loop is bounded by the count that closes it: only spiking signals may recur."""
    source = next(o for o in program.ops if o.name == sources(op)[0])
    size = int(op.steps.size) if isinstance(op, Delay) else 0
    if isinstance(source, Lif) and source.threshold is not None:
        return _spikes(size, 1)
    if not isinstance(source, Count):
        raise _fail(op, f"closes a loop through {source.name!r}, a {type(source).__name__}; only a Count or a spiking Lif may close a loop")
    return _spikes(size, source.levels, source.signed)


def _spikes(size: int, levels: int, signed: bool = False) -> Signal:
    high = np.full(size, levels, np.int64)
    return Signal(size, -high if signed else 0 * high, high, True)


def _interval(op: Op, signals: Mapping[str, Signal]) -> Signal:
    ins = [signals[name] for name in sources(op)]
    match op:
        case Input():
            if op.size < 1 or op.levels < 1:
                raise _fail(op, f"size and levels must be at least 1, got {op.size} and {op.levels}")
            return Signal(op.size, np.zeros(op.size, np.int64), np.full(op.size, op.levels, np.int64), True)
        case Linear():
            return _linear_interval(op, ins[0])
        case Conv2d():
            return _conv_interval(op, ins[0])
        case Lif():
            return _lif_interval(op, ins[0])
        case Sum():
            _same_size(op, op.bias.size, ins)
            low = np.sum([s.low for s in ins], axis=0) + op.bias
            high = np.sum([s.high for s in ins], axis=0) + op.bias
            return Signal(op.bias.size, low, high, False)
        case Count():
            return _count_interval(op, ins)
        case Gate():
            gate, source = ins
            _same_size(op, source.size, ins)
            if gate.low.min() < 0 or gate.high.max() > 1:
                raise _fail(op, f"the gate {op.gate!r} must be binary, its interval is [{gate.low.min()}, {gate.high.max()}]")
            return Signal(source.size, np.minimum(source.low, 0), np.maximum(source.high, 0), source.spikes)
        case Integrate():
            return _integrate_interval(op, ins[0])
        case Delay():
            _same_size(op, op.steps.size, ins)
            if op.steps.min() < 0:
                raise _fail(op, f"delays must be >= 0 tokens, got {op.steps.min()}")
            return Signal(ins[0].size, np.minimum(ins[0].low, 0), np.maximum(ins[0].high, 0), ins[0].spikes)


def _shifted(values: Ints, shift: Ints) -> Ints:
    """``values << shift``, in Python integers where 64 bits could wrap."""
    worst = max(-int(values.min()), int(values.max()), 1) << int(shift.max())
    return values << shift if worst < 2**62 else values.astype(object) << shift.astype(object)


def _same_size(op: Op, size: int, ins: list[Signal]) -> None:
    if any(s.size != size for s in ins):
        raise _fail(op, f"expects {size} neurons, its sources have {[s.size for s in ins]}")


def _linear_interval(op: Linear, source: Signal) -> Signal:
    outputs = op.bias.size
    if op.weight.shape != (outputs, source.size) or op.shift.shape != (outputs,):
        raise _fail(op, f"weight {op.weight.shape}, bias {op.bias.shape}, shift {op.shift.shape} do not fit a source of {source.size} neurons")
    limit = 2 ** (MAX_WEIGHT_BITS - 1)
    low, high = np.empty(outputs, np.int64), np.empty(outputs, np.int64)
    for rows in range(0, outputs, 256):  # blocks keep the temporary int64 copies small
        w = np.asarray(op.weight[rows : rows + 256], dtype=np.int64)
        if w.min() < -limit or w.max() >= limit:
            raise _fail(op, f"weights must be in [{-limit}, {limit - 1}], found [{w.min()}, {w.max()}]; quantize the model first")
        pos, neg = np.maximum(w, 0), np.minimum(w, 0)
        high[rows : rows + 256] = pos @ source.high + neg @ source.low
        low[rows : rows + 256] = pos @ source.low + neg @ source.high
    if op.shift.min() < 0 or op.shift.max() > MAX_SHIFT:
        raise _fail(op, f"shifts must be in [0, {MAX_SHIFT}], found [{op.shift.min()}, {op.shift.max()}]")
    shift = op.shift.astype(np.int64)
    return Signal(outputs, _shifted(low + op.bias, shift), _shifted(high + op.bias, shift), False)


def _count_interval(op: Count, ins: list[Signal]) -> Signal:
    size = ins[0].size
    if op.levels < 1 or op.levels > 255:
        raise _fail(op, f"levels must be in [1, 255], got {op.levels}")
    if isinstance(op.step, str):
        _same_size(op, size, ins)
        smallest = int(ins[1].low.min())
    else:
        if op.step.shape != (size,):
            raise _fail(op, f"step has shape {op.step.shape}, its source has {size} neurons")
        smallest = int(op.step.min())
    if smallest < 1:
        raise _fail(op, f"the step must be at least 1, its smallest value is {smallest}")
    return _spikes(size, op.levels, op.signed)


def _conv_interval(op: Conv2d, source: Signal) -> Signal:
    channels, height, width_ = op.input_shape
    if op.weight.ndim != 4:
        raise _fail(op, f"the weight has shape {op.weight.shape}, expected (outputs, channels / groups, kernel height, kernel width)")
    if source.size != channels * height * width_:
        raise _fail(op, f"expects {op.input_shape} neurons, its source has {source.size}")
    outputs, per_group = op.weight.shape[:2]
    if per_group * op.groups != channels or outputs % op.groups:
        raise _fail(op, f"weight {op.weight.shape} with {op.groups} groups does not fit {channels} input channels")
    if op.bias.shape != (outputs,) or op.shift.shape != (outputs,) or min(op.output_shape) < 1:
        raise _fail(op, f"bias {op.bias.shape}, shift {op.shift.shape} or output {op.output_shape} does not fit weight {op.weight.shape}")
    limit = 2 ** (MAX_WEIGHT_BITS - 1)
    if not np.issubdtype(op.weight.dtype, np.integer) or op.weight.min() < -limit or op.weight.max() >= limit:
        raise _fail(op, f"weights must be integers in [{-limit}, {limit - 1}]; quantize the model first")
    if op.shift.min() < 0 or op.shift.max() > 31:
        raise _fail(op, f"shifts must be in [0, 31], found [{op.shift.min()}, {op.shift.max()}]")
    ends = np.minimum(source.low, 0).reshape(op.input_shape), np.maximum(source.high, 0).reshape(op.input_shape)
    weight = op.weight.astype(np.int64)
    parts = [[convolve(op, np.where(sign * weight > 0, weight, 0), end) for end in ends] for sign in (1, -1)]
    bias, shift = (x.astype(np.int64)[:, None, None] for x in (op.bias, op.shift))
    low, high = parts[0][0] + parts[1][1], parts[0][1] + parts[1][0]
    return Signal(low.size, ((low + bias) << shift).reshape(-1), ((high + bias) << shift).reshape(-1), False)


def convolve(op: Conv2d, weight: Ints, image: Ints) -> Ints:
    """Convolution of int64 ``image`` (channels, height, width) with ``weight``: one term per kernel tap."""
    outputs, high, wide = op.output_shape
    padded = np.pad(image, ((0, 0), *((p, p) for p in op.padding)))
    groups = padded.reshape(op.groups, -1, *padded.shape[1:])
    kernels = weight.reshape(op.groups, outputs // op.groups, *weight.shape[1:])
    out = np.zeros((op.groups, outputs // op.groups, high, wide), np.int64)
    for i, j in np.ndindex(*weight.shape[2:]):
        top, left = i * op.dilation[0], j * op.dilation[1]
        window = groups[:, :, top : top + (high - 1) * op.stride[0] + 1 : op.stride[0], left : left + (wide - 1) * op.stride[1] + 1 : op.stride[1]]
        out += np.einsum("goc,gchw->gohw", kernels[..., i, j], window)
    return out.reshape(outputs, high, wide)


def _lif_interval(op: Lif, source: Signal) -> Signal:
    _same_size(op, op.bias.size, [source])
    for name, values, most in (
        ("current_decay", op.current_decay, 4096),
        ("voltage_decay", op.voltage_decay, 4096),
        ("threshold", op.threshold, (1 << 17) - 1),
    ):
        if values is not None and (values.shape != (source.size,) or values.min() < 0 or values.max() > most):
            raise _fail(op, f"{name} must hold {source.size} values in [0, {most}]")
    if op.threshold is not None:
        return _spikes(source.size, 1)
    high = np.full(source.size, LIF_LIMIT, np.int64)
    return Signal(source.size, -high, high, False)


def current_bound(op: Lif, source: Signal) -> Ints:
    """Largest magnitude of the synaptic current u of each neuron, or -1 where it may grow without bound."""
    step = np.maximum(-source.low, source.high) << 6
    decay = op.current_decay.astype(np.int64)
    bound = (step << 12) // np.maximum(decay, 1) + 1
    return np.where(step == 0, 0, np.where(decay == 0, -1, bound))


def _integrate_interval(op: Integrate, source: Signal) -> Signal:
    _same_size(op, op.decay.size, [source])
    leak = (1 << DECAY_BITS) - op.decay.astype(np.int64)
    if (leak < 1).any() or (leak > 256).any() or (leak & (leak - 1)).any():
        raise _fail(op, "decays must be 256 - 2**j with j in 0..8 (a shift and a subtraction)")
    if not 0 <= op.fraction_bits <= MAX_SHIFT:
        raise _fail(op, f"fraction bits must be in [0, {MAX_SHIFT}], got {op.fraction_bits}")
    gain = np.array([op.fraction_bits + DECAY_BITS])
    # Fixed points of S = S c/256 + x; the floor adds at most one unit per step below zero.
    high = np.where(source.high > 0, _shifted(source.high, gain) // leak + 1, 0)
    low = np.where(source.low < 0, -(((1 << DECAY_BITS) - _shifted(source.low, gain)) // leak + 1), 0)
    return Signal(source.size, low, high, False)


def _check_width(program: Program, op: Op, signals: Mapping[str, Signal]) -> None:
    signal = signals[op.name]
    limit = 1 << (program.widths.potential - 1)
    bad = np.flatnonzero((signal.low < -limit) | (signal.high >= limit))
    if bad.size:
        i = int(bad[0])
        raise IntegerOverflowError(
            f"{type(op).__name__} {op.name!r}, neuron {i}: the worst case [{signal.low[i]}, {signal.high[i]}] needs "
            f"{width(int(signal.low[i]), int(signal.high[i]))} bits, {program.widths.potential} are declared; "
            "use fewer weight bits, fewer levels or a smaller shift"
        )
    if isinstance(op, Lif):
        current = current_bound(op, signals[op.source])
        bad = np.flatnonzero((current < 0) | (current > LIF_LIMIT))
        if bad.size:
            where = f"Lif {op.name!r}, neuron {int(bad[0])}"
            raise IntegerOverflowError(f"{where}: the synaptic current may leave 24 bits; use smaller weights or a larger current decay")
    if isinstance(op, Count):
        source = signals[op.source]
        step = int(signals[op.step].high.max()) if isinstance(op.step, str) else int(op.step.max())
        need = width(-1 - 2 * max(-int(source.low.min()), 0) - (2 * op.levels - 1) * step, 2 * int(source.high.max()))
        if need > program.widths.comparator:
            raise IntegerOverflowError(f"Count {op.name!r}: the comparison needs {need} bits, {program.widths.comparator} are declared; use a smaller step")


# Hardware operations behind one element of each op; docs/semantics.md derives them.
def _operations(op: Op, signals: Mapping[str, Signal]) -> Counter[str]:
    n = signals[op.name].size
    match op:
        case Linear():
            return Counter(add=int(op.weight.size) + n, shift=n)
        case Conv2d():
            return Counter(add=int(op.weight[0].size) * n + n, shift=n)
        case Lif():  # a 12-bit decay constant is at most 12 shifted additions, for u and for v
            return Counter(add=26 * n, shift=27 * n, compare=3 * n, select=n)
        case Sum():
            return Counter(add=n * len(op.sources))
        case Count():
            return Counter(compare=n * op.levels * (1 + op.signed), add=n * op.levels, shift=2 * n)
        case Gate():
            return Counter(select=n)
        case Integrate():
            return Counter(shift=3 * n, add=2 * n)
        case _:
            return Counter(move=n)


def _constant_text(value: Ints) -> str:
    flat = value.reshape(-1)
    if flat.size == 0:
        return "[]"
    if (flat == flat[0]).all():
        return f"{flat[0]}"
    return f"[{flat.min()}..{flat.max()}]#{zlib.crc32(np.ascontiguousarray(flat, dtype='<i4').tobytes()):08x}"


def _constants_text(op: Op) -> str:
    shown = []
    for key, value in vars(op).items():
        if key in ("name", "source", "sources", "gate"):
            continue
        if isinstance(value, np.ndarray):
            shape = "x".join(map(str, value.shape)) if value.ndim > 1 else ""
            shown.append(f"{key}={shape + ':' if shape else ''}{_constant_text(value)}")
        else:
            shown.append(f"{key}={'%' + value if isinstance(value, str) else value}")
    return " ".join(shown)


def format_program(program: Program) -> str:
    """One line per op: inputs, constants (value, or range and CRC-32), interval and width. Golden text."""
    lines = [f"program widths potential={program.widths.potential} comparator={program.widths.comparator}"]
    for op in program.ops:
        s = program.signals[op.name]
        kind = "spikes" if s.spikes else "potential"
        read = ", ".join("%" + name for name in sources(op)[: 2 if isinstance(op, Gate) else None])
        lines.append(
            f"%{op.name} = {type(op).__name__.lower()}({read}) {_constants_text(op)}".rstrip()
            + f" : {kind}[{s.size}] in [{s.low.min()}, {s.high.max()}] u{s.bits}".replace(" u", " i" if s.low.min() < 0 else " u")
        )
    lines.append("output " + ", ".join("%" + name for name in program.outputs))
    return "\n".join(lines) + "\n"
