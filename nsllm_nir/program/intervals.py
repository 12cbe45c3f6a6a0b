"""Interval analysis: the worst case of every signal of a program, from its constants and the range of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nsllm_nir.errors import GraphError
from nsllm_nir.program.constants import CONSTANT_BITS
from nsllm_nir.program.operations import Input, Op, constants, sources
from nsllm_nir.program.signals import Signal, Widths, between, width


def analyse(ops: tuple[Op, ...], outputs: tuple[str, ...], widths: Widths) -> dict[str, Signal]:
    """Size, interval (int64) and kind of every signal.

    Raises:
        GraphError: an operation refers to a missing signal, or its constants do not fit.
        IntegerOverflowError: a worst case exceeds ``widths``.
    """
    by_name = _named(ops)
    signals: dict[str, Signal] = {}
    for op in ops:
        for name in sources(op):
            if name not in by_name:
                raise op.error(f"reads the signal {name!r}, which no operation produces")
            if name not in signals and not op.recurrent:
                raise op.error(
                    f"reads {name!r} before it is produced; order the operations, "
                    "or put a delay of at least one token into the loop"
                )
        if all(name in signals for name in sources(op)):
            operands = [signals[name] for name in sources(op)]
            signal = op.interval(operands)
            signals[op.name] = _fitting(op, signal, widths)
            op.check_widths(operands, widths)
        else:
            signals[op.name] = _fitting(op, _loop(op, by_name), widths)
    for op in ops:
        if op.recurrent:  # its source is known only now
            op.interval([signals[name] for name in sources(op)])
    for name in outputs:
        if name not in signals:
            raise GraphError(f"output {name!r} is not a signal of the program")
    return signals


def _named(ops: tuple[Op, ...]) -> dict[str, Op]:
    """The operations by name, their constants checked."""
    by_name: dict[str, Op] = {}
    for op in ops:
        if op.name in by_name:
            raise op.error("this name is used twice; names must be unique")
        by_name[op.name] = op
        _check_constants(op)
    return by_name


def _check_constants(op: Op) -> None:
    if not isinstance(op, Input) and not sources(op):
        raise op.error("it has no source")
    for name, array in constants(op).items():
        if array.size == 0:
            raise op.error(f"its {name} is empty")
        if array.ndim != 1 and name != "weight":
            raise op.error(f"its {name} must be a vector, one value per neuron, got shape {array.shape}")
        if not np.issubdtype(array.dtype, np.integer):
            raise op.error(f"its {name} must hold integers, got {array.dtype}")
        limit = 1 << (CONSTANT_BITS - 1)
        if not np.can_cast(array.dtype, np.int32) and (int(array.min()) < -limit or int(array.max()) >= limit):
            raise op.error(f"its {name} must fit {CONSTANT_BITS} bits, found [{array.min()}, {array.max()}]")


def _loop(op: Op, by_name: Mapping[str, Op]) -> Signal:
    """The signal of a loop is bounded by the count that closes it: only spiking signals may recur."""
    source = by_name[sources(op)[0]]
    if source.bounds is None:
        raise op.error(
            f"closes a loop through {source.name!r}, a {type(source).__name__}; "
            "only a Count or a spiking Lif may close a loop"
        )
    size = next(array.size for array in constants(op).values())  # one value per neuron
    return between(size, *source.bounds)


def _fitting(op: Op, signal: Signal, widths: Widths) -> Signal:
    """``signal`` in int64, if it fits."""
    limit = 1 << (widths.potential - 1)
    bad = np.flatnonzero((signal.low < -limit) | (signal.high >= limit))
    if bad.size:
        i = int(bad[0])
        raise op.overflow(
            f", neuron {i}: the worst case [{signal.low[i]}, {signal.high[i]}] needs "
            f"{width(int(signal.low[i]), int(signal.high[i]))} bits, {widths.potential} are declared; "
            "use fewer weight bits, fewer levels or a smaller shift"
        )
    return replace(signal, low=signal.low.astype(np.int64), high=signal.high.astype(np.int64))
