"""What each op of a program does in each token: events, digits, levels, counted on the integer reference.

The input of `cost_model`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.hw.instruction_set import ALIGNMENT, OF_OP, WEIGHT_BITS, Layout
from nsllm_nir.program import Conv2d, Count, Delay, Input, Lif, Linear, Op, Program, Sum, reference, sources
from nsllm_nir.program.operations import Ints, convolve

COUNT_LEVELS = 3  # a group of a Count takes at least as long as this many levels
DIGIT_BITS = 4  # of one pass over a source


@dataclass(frozen=True)
class Pass:
    """One digit of one scan: of the source of a Linear, of one window and group of a Conv2d. Numbers may be means.

    events: neurons whose digit is not 0; digits: sum of these digits, which is how often a beat is added; plane:
    number of the digit; scan: a Linear: blocks of 64 neurons, rows of PORTS neurons that are read, cycles of the
    neurons that are not 0 (one per set bit in plane 0); a Conv2d: taps outside of the image, inside, and those of them
    that are not 0.
    """

    events: float
    digits: float
    plane: int
    scan: tuple[float, float, float]


@dataclass(frozen=True)
class Work:
    """One op in one token.

    size: its neurons; words, bytes: channels of constants that it fetches for each neuron (0: immediates). steps:
    Input: events; Sum: sources; Count: levels looked at, summed over the groups of PORTS neurons; Delay: slots;
    Conv2d: bits of the factors of its geometry. operands: signals that it reads. outputs: of one pass of a Linear or
    Conv2d; the rest belongs to these two. count, groups: of a Conv2d, the scan of its whole source before the windows,
    as that of a Linear, and its groups of channels.
    """

    name: str
    kind: str
    size: int
    words: int = 0
    bytes: int = 0
    steps: float = 0.0
    operands: int = 1
    outputs: int = 0
    source: int = 0
    weight_bits: int = 0
    count: tuple[float, float, float] = (0.0, 0.0, 0.0)
    groups: int = 1
    passes: tuple[Pass, ...] = ()


def profile(program: Program, spikes: NDArray[np.integer], ports: int) -> list[tuple[Work, ...]]:
    """The work of every token of a run on the reference, starting from the silent state.

    Args:
        program: with one input.
        spikes: (tokens, neurons).
        ports: neurons per cycle of the vector unit.

    Raises:
        InputError: the spikes do not fit the program.
    """
    inputs = reference.check_inputs(program, spikes)
    state = reference.State()
    kinds = {op.name: op for op in program.ops}
    tokens = []
    for row in inputs:
        signals = reference.step(program, state, {program.inputs[0].name: row})
        tokens.append(tuple(_work(op, signals, kinds, ports) for op in program.ops))
    return tokens


def weight_bits(weight: Ints) -> int:
    """Bits per weight in the image: 2, 4 or 8."""
    low, high = int(weight.min()), int(weight.max())
    return next(bits for bits in WEIGHT_BITS if -(1 << bits - 1) <= low and high < 1 << bits - 1)


def _work(op: Op, signals: dict[str, Any], ops: dict[str, Op], ports: int) -> Work:
    out = signals[op.name]
    work = Work(op.name, type(op).__name__, out.size)
    match op:
        case Input():
            return replace(work, steps=int(np.count_nonzero(out)))
        case Linear():
            values = signals[op.source]
            passes = tuple(_scans(values, ports, isinstance(ops[op.source], Conv2d)))
            work = replace(work, words=_varies(op.bias), bytes=_varies(op.shift), weight_bits=weight_bits(op.weight))
            return replace(work, outputs=out.size, source=values.size, passes=passes)
        case Conv2d():
            values = signals[op.source]
            count = _scanned(np.abs(values), ports, isinstance(ops[op.source], Conv2d))
            work = replace(
                work,
                words=_varies(op.bias),
                bytes=_varies(op.shift),
                weight_bits=weight_bits(op.weight),
                steps=_geometry_bits(op),
                count=count,
            )
            outputs = op.weight.shape[0] // op.groups
            return replace(
                work, outputs=outputs, groups=op.groups, source=values.size, passes=tuple(_windows(op, values))
            )
        case Sum():
            return replace(work, words=_varies(op.bias), steps=len(op.sources), operands=len(op.sources))
        case Count():
            levels = np.maximum(np.minimum(_groups(np.abs(out), ports).max(axis=1) + 1, op.levels), COUNT_LEVELS).sum()
            by_signal = isinstance(op.step, str)
            return replace(
                work,
                words=0 if isinstance(op.step, str) else _varies(op.step),
                steps=int(levels),
                operands=1 + by_signal,
            )
        case Lif():
            factors = op.current_decay.astype(np.int64) << 16 | op.voltage_decay.astype(np.int64)
            return replace(
                work, words=_varies(op.bias) + _varies(factors) + (0 if op.threshold is None else _varies(op.threshold))
            )
        case Delay():
            return replace(work, words=_varies(op.steps), steps=int(op.steps.max()))
        case _:  # what its instruction says is all
            channels = dict.fromkeys(Layout, 0)
            for constant in OF_OP[type(op)].constants:
                channels[constant.layout] += _varies(getattr(op, constant.name))
            return replace(work, operands=len(sources(op)), words=channels[Layout.WORDS], bytes=channels[Layout.BYTES])


def _varies(values: Ints) -> int:
    return int((values != values[0]).any())


def _groups(values: Ints, ports: int) -> Ints:
    """(neurons,) to (groups, ports), padded with 0."""
    return np.pad(values, (0, -values.size % ports)).reshape(-1, ports)


def _planes(largest: int) -> int:
    return max(1, -(-largest.bit_length() // DIGIT_BITS))


def _scanned(sizes: Ints, ports: int, serial: bool) -> tuple[int, int, int]:
    """Blocks, rows and neurons of a scan.

    serial: the source was written one by one, so that the flags of its rows are all set.
    """
    rows = _groups(sizes, ports)
    return (
        -(-sizes.size // ALIGNMENT),
        len(rows) if serial else int(np.count_nonzero(rows.any(axis=1))),
        int(np.count_nonzero(sizes)),
    )


def _scans(values: Ints, ports: int, serial: bool) -> Iterator[Pass]:
    """The passes of a Linear."""
    sizes = np.abs(values)
    blocks, rows, used = _scanned(sizes, ports, serial)
    bits = sum(int((sizes >> b & 1).sum()) for b in range(int(sizes.max()).bit_length()))
    for plane in range(_planes(int(sizes.max()))):
        digits = sizes >> DIGIT_BITS * plane & 15
        yield Pass(int(np.count_nonzero(digits)), int(digits.sum()), plane, (blocks, rows, used if plane else bits))


def _windows(op: Conv2d, values: Ints) -> Iterator[Pass]:
    """The passes of a Conv2d, window by window."""
    sizes = np.abs(values).reshape(op.input_shape)
    each = replace(op, weight=np.ones((op.groups, *op.weight.shape[1:]), np.int64))
    taps = int(each.weight[0].size)

    def windows(image: Ints) -> Ints:
        """Sums over each window: (windows, groups)."""
        summed: Ints = convolve(each, each.weight, image.astype(np.int64))
        return summed.reshape(op.groups, -1).T

    inside, hits = windows(np.ones_like(sizes)), windows(sizes > 0)
    planes = _planes(int(sizes.max()))
    digits = [sizes >> DIGIT_BITS * plane & 15 for plane in range(planes)]
    events, sums = [windows(d > 0) for d in digits], [windows(d) for d in digits]
    for at in np.ndindex(*inside.shape):
        last = max(plane for plane in range(planes) if plane == 0 or events[plane][at])
        for plane in range(last + 1):
            scan = (taps - int(inside[at]), int(inside[at]), int(hits[at]))
            yield Pass(int(events[plane][at]), int(sums[plane][at]), plane, scan)


def _geometry_bits(op: Conv2d) -> int:
    """Bits of the right factors of `conv_geometry`: one cycle each."""
    high, wide = op.output_shape[1:]
    return 4 * op.input_shape[2].bit_length() + wide.bit_length() + (high * wide).bit_length()
