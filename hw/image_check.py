"""The full check of a program image (docs/image_format.md, section 2.5)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.hw.instruction_set import (
    ALIGNMENT,
    GEOMETRY_LIMIT,
    GEOMETRY_WORDS,
    HEADER_WORDS,
    IMMEDIATE,
    MAGIC,
    OF_KIND,
    OP_WORDS,
    PORT_WORDS,
    ROW_ALIGNMENTS,
    UNIT_WORDS,
    VERSION,
    WEIGHT_BITS,
    Constant,
    Descriptor,
    Flag,
    Header,
    Instruction,
    Kind,
    Layout,
    PortFlag,
    padded,
)
from nsllm_nir.hw.registers import status_code, status_text
from nsllm_nir.hw.toolchain import RtlSizes

Words = NDArray[np.uint32]
CRC_WORD = 3
FIRST_RESERVED = len(fields(Header))
DESCRIPTOR_WORDS = len(fields(Descriptor))  # behind them: reserved


@dataclass(frozen=True)
class Refusal:
    """Why an image is refused. status: as an engine returns it; text: its name and reason."""

    status: int
    text: str


def read_header(image: bytes) -> Header:
    """The header of an image that holds one."""
    return Header(*np.frombuffer(image[: 4 * FIRST_RESERVED], "<u4").tolist())


def seal(words: Words) -> bytes:
    """Fill in the length (word 2) and the checksum (word 3, over all the others)."""
    words[2] = words.size
    words[CRC_WORD] = _crc(words)
    return words.tobytes()


def _crc(words: Words) -> int:
    raw = words.view(np.uint8).data
    return zlib.crc32(raw[4 * CRC_WORD + 4 :], zlib.crc32(raw[: 4 * CRC_WORD]))


def check_image(image: bytes, sizes: RtlSizes | None = None) -> Refusal | None:
    """Check everything that a reader may reject, in the order of the format; None if an engine can run the image.

    sizes: the build that shall run it; without it only the image itself is checked.
    """
    if len(image) % 4 or len(image) < 4 * HEADER_WORDS:
        return _refusal("BAD_LENGTH")
    words = np.frombuffer(image, "<u4")
    header = read_header(image)
    simple = {
        "BAD_MAGIC": header.magic != MAGIC,
        "BAD_VERSION": header.version != VERSION,
        "BAD_LENGTH": header.image_words != words.size,
        "BAD_CHECKSUM": header.crc != _crc(words),
        "BAD_LAYOUT": bool(words[FIRST_RESERVED:HEADER_WORDS].any()) or header.row_words_aligned not in ROW_ALIGNMENTS,
    }
    for name, wrong in simple.items():
        if wrong:
            return _refusal(name)
    if sizes and (small := _too_small(header, sizes)):
        return small
    if not _inside(header.names_start, header.names_words, words.size):
        return _refusal("BAD_LAYOUT")
    return _check_ports(words, header) or _check_ops(words, header, sizes)


def _refusal(name: str, index: int = 0, more: str = "") -> Refusal:
    status = status_code(name) | index << 8
    return Refusal(status, status_text(status) + more)


def _too_small(header: Header, sizes: RtlSizes) -> Refusal | None:
    needs = (
        ("SIGNALS_TOO_SMALL", "signal_words", header.signal_words, sizes.signal_words),
        ("STATES_TOO_SMALL", "state_words", header.state_words, sizes.state_words),
        ("BITS_TOO_WIDE", "potential_bits", header.potential_bits, sizes.potential_bits),
        ("BITS_TOO_WIDE", "comparator_bits", header.comparator_bits, sizes.comparator_bits),
        ("TOO_MANY_OPS", "descriptors", header.ops, sizes.descriptors),
        ("TOO_MANY_OPS", "ports (one per descriptor at most)", header.ports, sizes.descriptors),
    )
    for status, name, need, have in needs:
        if need > have:
            return _refusal(status, more=f": it needs {name} = {need}, the build has {have}")
    if header.row_words_aligned < sizes.beat_words:
        return _refusal(
            "ROWS_UNALIGNED",
            more=f": rows are aligned to {header.row_words_aligned} words, the build needs {sizes.beat_words}",
        )
    return None


def _inside(start: int, words: int, limit: int) -> bool:
    return start + words <= limit


def _signal(at: int, size: int, header: Header) -> bool:
    return size >= 1 and at % ALIGNMENT == 0 and _inside(at, padded(size), header.signal_words)


def _check_ports(words: Words, header: Header) -> Refusal | None:
    if not _inside(header.ports_start, PORT_WORDS * header.ports, words.size):
        return _refusal("BAD_LAYOUT")
    trace = outputs = 0
    ports = words[header.ports_start : header.ports_start + PORT_WORDS * header.ports].reshape(-1, PORT_WORDS).tolist()
    for i, (signal, size, flags, _) in enumerate(ports):
        if not _signal(signal, size, header):
            return _refusal("BAD_LAYOUT", i)
        trace += size
        outputs += size if flags & PortFlag.OUTPUT else 0
    return None if (trace, outputs) == (header.trace_words, header.output_words) else _refusal("BAD_LAYOUT")


def _check_ops(words: Words, header: Header, sizes: RtlSizes | None) -> Refusal | None:
    if not _inside(header.ops_start, OP_WORDS * header.ops, words.size):
        return _refusal("BAD_LAYOUT")
    rows = words[header.ops_start : header.ops_start + OP_WORDS * header.ops].reshape(-1, OP_WORDS).tolist()
    for i, row in enumerate(rows):
        op, reserved = Descriptor(*row[:DESCRIPTOR_WORDS]), row[DESCRIPTOR_WORDS:]
        if any(reserved) or not _descriptor(words, header, op):
            return _refusal("BAD_DESCRIPTOR", i)
        if not all(_constants(words, op)):
            return _refusal("BAD_CONSTANT", i)
        if sizes and op.kind in (Kind.LINEAR, Kind.CONV2D) and op.source_size > sizes.queue_words:
            return _refusal("QUEUE_TOO_SMALL", i, f": it has {op.source_size}, the queue {sizes.queue_words}")
    return None


def _descriptor(words: Words, header: Header, op: Descriptor) -> bool:
    instruction = OF_KIND.get(op.kind)
    if instruction is None or not _signal(op.destination, op.size, header) or op.flags & ~int(instruction.known_flags):
        return False
    return _rules(words, header, op) and _references(words, header, op, instruction)


def _rules(words: Words, header: Header, op: Descriptor) -> bool:
    """What a kind asks for beyond its `Instruction`."""
    match op.kind:
        case Kind.INPUT:
            return op.size == header.input_size
        case Kind.LINEAR:
            return _linear(words, header, op)
        case Kind.SUM:
            return op.source_size >= 1 and _sum_sources(words, header, op)
        case Kind.COUNT:
            return not op.flags & Flag.SIGNAL_STEP or _signal(op.second, op.size, header)
        case Kind.DELAY:
            return not op.stride or _state(op, ALIGNMENT + op.stride * padded(op.size), header)
        case Kind.CONV2D:
            return _conv(words, header, op)
    return True


def _references(words: Words, header: Header, op: Descriptor, instruction: Instruction) -> bool:
    """Whether signals, constants and states lie in their memories, and the parameter in its range."""
    low, high = instruction.parameter_range or (0, op.parameter)
    return (
        all(_signal(getattr(op, field), op.size, header) for field in instruction.signals)
        and all(_placed(words, op, constant) for constant in instruction.constants)
        and low <= op.parameter <= high
        and (not instruction.states or _state(op, instruction.states * padded(op.size), header))
    )


def _neurons(words: Words, op: Descriptor) -> int:
    """How many have a constant each: of a Conv2d, whose geometry is in its place, the output channels."""
    return int(words[op.second + 1]) if op.kind == Kind.CONV2D else op.size


def _placed(words: Words, op: Descriptor, constant: Constant) -> bool:
    """Whether a constant is absent, an immediate, or a section inside the image."""
    immediate = bool(op.flags & IMMEDIATE[constant.field])
    if op.flags & constant.without:
        return not immediate
    neurons = _neurons(words, op)
    length = _byte_words(neurons) if constant.layout is Layout.BYTES else neurons
    return immediate or _inside(getattr(op, constant.field), padded(length), words.size)


def _byte_words(values: int) -> int:
    return -(-values // 4)


def _state(op: Descriptor, size: int, header: Header) -> bool:
    return op.state % ALIGNMENT == 0 and _inside(op.state, size, header.state_words)


def _sum_sources(words: Words, header: Header, op: Descriptor) -> bool:
    if not _inside(op.more, padded(op.source_size), words.size):
        return False
    return all(_signal(at, op.size, header) for at in words[op.more : op.more + op.source_size].tolist())


def _row_words(outputs: int, bits: int, header: Header) -> int:
    """Words of one packed row: whole units, aligned."""
    return -(-outputs * bits // (32 * header.row_words_aligned)) * header.row_words_aligned


def _weights(words: Words, header: Header, op: Descriptor, rows: int) -> bool:
    aligned = op.stride % header.row_words_aligned == 0 and op.weights % header.row_words_aligned == 0
    return (
        aligned
        and op.stride <= header.row_words
        and op.parameter in WEIGHT_BITS
        and _inside(op.weights, rows * op.stride, words.size)
    )


def _linear(words: Words, header: Header, op: Descriptor) -> bool:
    if (
        not _signal(op.source, op.source_size, header)
        or not _weights(words, header, op, op.source_size)
        or op.size > header.accumulators
    ):
        return False
    return _row_words(op.size, op.parameter, header) <= op.stride


def _conv(words: Words, header: Header, op: Descriptor) -> bool:
    if not _signal(op.source, op.source_size, header) or not _inside(op.second, padded(GEOMETRY_WORDS), words.size):
        return False
    channels, outputs, group_channels, group_outputs, *rest = words[op.second : op.second + GEOMETRY_WORDS].tolist()
    y, x = rest[:6], rest[6:]
    if min(channels, outputs, group_channels, group_outputs) < 1 or not (_axis(*y) and _axis(*x)):
        return False
    groups, left = divmod(channels, group_channels)
    if left or groups * group_outputs != outputs or not _weights(words, header, op, channels):
        return False
    if channels * y[0] * x[0] != op.source_size or outputs * y[1] * x[1] != op.size:
        return False
    unit = 32 * UNIT_WORDS
    lanes = -(-group_outputs * op.parameter // unit) * (unit // op.parameter)
    if op.size > header.accumulators or op.size - group_outputs + lanes > header.accumulators:
        return False
    block: int = y[2] * x[2] * _row_words(group_outputs, op.parameter, header)
    return block <= op.stride


def _axis(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    if (
        not all(1 <= word <= GEOMETRY_LIMIT for word in (size, outputs, kernel, stride, dilation))
        or padding > GEOMETRY_LIMIT
    ):
        return False
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    return span >= 0 and span // stride == outputs - 1


def _constants(words: Words, op: Descriptor) -> Iterator[bool]:
    """Whether each constant of a checked descriptor is in its range."""
    for constant in OF_KIND[op.kind].constants:
        if not op.flags & constant.without:
            values = _values(words, op, constant)
            yield constant.high is None or _range(values, constant.low, constant.high)
    if op.kind == Kind.DELAY:
        yield _range(_values(words, op, OF_KIND[op.kind].constants[0]), 0, op.stride)


def _values(words: Words, op: Descriptor, constant: Constant) -> NDArray[Any]:
    """Of an immediate: its one value. Of decay factors: those of u and of v."""
    at, neurons = getattr(op, constant.field), _neurons(words, op)
    immediate = op.flags & IMMEDIATE[constant.field]
    if constant.layout is Layout.BYTES and not immediate:
        return words[at : at + _byte_words(neurons)].view(np.uint8)[:neurons]
    values = np.array([at], np.uint32) if immediate else words[at : at + neurons]
    return np.concatenate([values & 0xFFFF, values >> 16]) if constant.layout is Layout.FACTORS else values


def _range(values: NDArray[Any], low: int, high: int) -> bool:
    return bool(((values >= low) & (values <= high)).all())
