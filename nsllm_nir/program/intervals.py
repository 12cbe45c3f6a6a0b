"""Interval analysis: the worst case of every signal of a program, from its constants and the range of its inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nsllm_nir.errors import GraphError, IntegerOverflowError
from nsllm_nir.program.operations import (
    DECAY_BITS,
    LIF_LIMIT,
    MAX_SHIFT,
    MAX_WEIGHT_BITS,
    Conv2d,
    Count,
    Delay,
    Gate,
    Input,
    Integrate,
    Ints,
    Lif,
    Linear,
    Op,
    Signal,
    Sum,
    Widths,
    constants,
    convolve,
    is_recurrent,
    sources,
    width,
)


def _fail(op: Op, message: str) -> GraphError:
    return GraphError(f"{type(op).__name__} {op.name!r}: {message}")


def analyse(ops: tuple[Op, ...], outputs: tuple[str, ...], widths: Widths) -> dict[str, Signal]:
    """Size, interval and kind of every signal.

    Raises:
        GraphError: an operation refers to a missing signal, or its constants do not fit.
        IntegerOverflowError: a worst case exceeds ``widths``.
    """
    names: set[str] = set()
    for op in ops:
        if op.name in names:
            raise _fail(op, "this name is used twice; names must be unique")
        names.add(op.name)
        _check_constants(op)
    signals: dict[str, Signal] = {}
    for op in ops:
        for name in sources(op):
            if name not in names:
                raise _fail(op, f"reads the signal {name!r}, which no operation produces")
            if name not in signals and not is_recurrent(op):
                raise _fail(
                    op,
                    f"reads {name!r} before it is produced; order the operations, or put a delay of at least one token into the loop",
                )
        loop = is_recurrent(op) and sources(op)[0] not in signals
        signals[op.name] = _declared_loop(ops, op) if loop else _interval(op, signals)
        _check_width(widths, op, signals)
    for op in ops:
        if isinstance(op, Delay):
            _same_size(op, op.steps.size, [signals[op.source]])
    for name in outputs:
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


def _declared_loop(ops: tuple[Op, ...], op: Op) -> Signal:
    """A loop is bounded by the count that closes it: only spiking signals may recur."""
    source = next(o for o in ops if o.name == sources(op)[0])
    size = int(op.steps.size) if isinstance(op, Delay) else 0
    if isinstance(source, Lif) and source.threshold is not None:
        return _spikes(size, 1)
    if not isinstance(source, Count):
        raise _fail(
            op,
            f"closes a loop through {source.name!r}, a {type(source).__name__}; only a Count or a spiking Lif may close a loop",
        )
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
                raise _fail(
                    op, f"the gate {op.gate!r} must be binary, its interval is [{gate.low.min()}, {gate.high.max()}]"
                )
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
        raise _fail(
            op,
            f"weight {op.weight.shape}, bias {op.bias.shape}, shift {op.shift.shape} do not fit a source of {source.size} neurons",
        )
    limit = 2 ** (MAX_WEIGHT_BITS - 1)
    low, high = np.empty(outputs, np.int64), np.empty(outputs, np.int64)
    for rows in range(0, outputs, 256):  # blocks keep the temporary int64 copies small
        w = np.asarray(op.weight[rows : rows + 256], dtype=np.int64)
        if w.min() < -limit or w.max() >= limit:
            raise _fail(
                op,
                f"weights must be in [{-limit}, {limit - 1}], found [{w.min()}, {w.max()}]; quantize the model first",
            )
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
        raise _fail(
            op,
            f"the weight has shape {op.weight.shape}, expected (outputs, channels / groups, kernel height, kernel width)",
        )
    if source.size != channels * height * width_:
        raise _fail(op, f"expects {op.input_shape} neurons, its source has {source.size}")
    outputs, per_group = op.weight.shape[:2]
    if per_group * op.groups != channels or outputs % op.groups:
        raise _fail(op, f"weight {op.weight.shape} with {op.groups} groups does not fit {channels} input channels")
    if op.bias.shape != (outputs,) or op.shift.shape != (outputs,) or min(op.output_shape) < 1:
        raise _fail(
            op,
            f"bias {op.bias.shape}, shift {op.shift.shape} or output {op.output_shape} does not fit weight {op.weight.shape}",
        )
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
    return Signal(source.size, -_lif_bound(op, -source.low, -1), _lif_bound(op, source.high, 1), False)


def _lif_bound(op: Lif, most: Ints, sign: int) -> Ints:
    """Largest ``sign * v`` where ``sign`` times the input is at most ``most``."""
    current = _decaying(np.maximum(most, 0) << 6, op.current_decay)
    return np.minimum(_decaying(np.maximum(current + sign * op.bias.astype(np.int64), 0), op.voltage_decay), LIF_LIMIT)


def _decaying(drive: Ints, decay: Ints) -> Ints:
    """Bound of a state that gains at most ``drive`` >= 0 per step: it decays toward zero, so its fixed point."""
    leak = decay.astype(np.int64)
    return np.where((leak == 0) & (drive > 0), LIF_LIMIT, (drive << 12) // np.maximum(leak, 1))


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


def _check_width(widths: Widths, op: Op, signals: Mapping[str, Signal]) -> None:
    signal = signals[op.name]
    limit = 1 << (widths.potential - 1)
    bad = np.flatnonzero((signal.low < -limit) | (signal.high >= limit))
    if bad.size:
        i = int(bad[0])
        raise IntegerOverflowError(
            f"{type(op).__name__} {op.name!r}, neuron {i}: the worst case [{signal.low[i]}, {signal.high[i]}] needs "
            f"{width(int(signal.low[i]), int(signal.high[i]))} bits, {widths.potential} are declared; "
            "use fewer weight bits, fewer levels or a smaller shift"
        )
    if isinstance(op, Lif):
        current = current_bound(op, signals[op.source])
        bad = np.flatnonzero((current < 0) | (current > LIF_LIMIT))
        if bad.size:
            where = f"Lif {op.name!r}, neuron {int(bad[0])}"
            raise IntegerOverflowError(
                f"{where}: the synaptic current may leave 24 bits; use smaller weights or a larger current decay"
            )
    if isinstance(op, Count):
        source = signals[op.source]
        step = int(signals[op.step].high.max()) if isinstance(op.step, str) else int(op.step.max())
        need = width(-1 - 2 * max(-int(source.low.min()), 0) - (2 * op.levels - 1) * step, 2 * int(source.high.max()))
        if need > widths.comparator:
            raise IntegerOverflowError(
                f"Count {op.name!r}: the comparison needs {need} bits, {widths.comparator} are declared; use a smaller step"
            )
