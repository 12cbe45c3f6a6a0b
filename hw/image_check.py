"""The full check of a program image (docs/image_format.md, section 2.5), and the numbers of the format."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.hw.registers import status_code, status_text
from nsllm_nir.hw.toolchain import RtlSizes

MAGIC, VECTORS_MAGIC, VERSION = 0x494C534E, 0x564C534E, 3
HEADER_WORDS, OP_WORDS, PORT_WORDS, GEOMETRY_WORDS, VECTORS_HEADER = 32, 16, 4, 16, 8
ALIGNMENT = 64  # words
UNIT_WORDS = 4  # of packed weights
ROW_ALIGNMENTS = (4, 8, 16, 32)  # words
CRC_WORD, FIRST_RESERVED = 3, 21
SIGNED_COUNT, SIGNAL_STEP, POTENTIAL, PORT_OUTPUT, PORT_SPIKES = 1, 2, 4, 1, 2
IMMEDIATE = {"constants": 8, "more": 16, "weights": 32}
GEOMETRY_LIMIT = 1 << 24

Words = NDArray[np.uint32]


class Kind(IntEnum):
    """Word 0 of an op descriptor."""

    INPUT = 1
    LINEAR = 2
    SUM = 3
    COUNT = 4
    GATE = 5
    INTEGRATE = 6
    DELAY = 7
    LIF = 8
    CONV2D = 9


_FLAGS: dict[int, int] = {  # the flags that a kind may have
    Kind.LINEAR: 24, Kind.SUM: 8, Kind.COUNT: 11, Kind.INTEGRATE: 8, Kind.DELAY: 8, Kind.LIF: 60, Kind.CONV2D: 24,
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """The header words by name, in their order."""

    magic: int
    version: int
    image_words: int
    crc: int
    ops: int
    ops_start: int
    ports: int
    ports_start: int
    names_start: int
    names_words: int
    signal_words: int
    state_words: int
    row_words: int
    accumulators: int
    input_size: int
    input_levels: int
    trace_words: int
    output_words: int
    row_words_aligned: int
    potential_bits: int
    comparator_bits: int


@dataclass(frozen=True)
class Descriptor:
    """The words of one op descriptor by name, in their order."""

    kind: int
    flags: int
    size: int
    destination: int
    source: int
    second: int
    source_size: int
    constants: int
    more: int
    weights: int
    stride: int
    parameter: int
    state: int
    name: int


@dataclass(frozen=True)
class Refusal:
    """Why an image is refused. status: as an engine returns it; text: its name and reason."""

    status: int
    text: str


def read_header(image: bytes) -> Header:
    """The header of an image that holds one."""
    return Header(*np.frombuffer(image[: 4 * FIRST_RESERVED], "<u4").tolist())


def padded(words: int) -> int:
    """``words`` rounded up to the alignment."""
    return -(-words // ALIGNMENT) * ALIGNMENT


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
        outputs += size if flags & PORT_OUTPUT else 0
    return None if (trace, outputs) == (header.trace_words, header.output_words) else _refusal("BAD_LAYOUT")


def _check_ops(words: Words, header: Header, sizes: RtlSizes | None) -> Refusal | None:
    if not _inside(header.ops_start, OP_WORDS * header.ops, words.size):
        return _refusal("BAD_LAYOUT")
    rows = words[header.ops_start : header.ops_start + OP_WORDS * header.ops].reshape(-1, OP_WORDS).tolist()
    for i, (*fields, reserved0, reserved1) in enumerate(rows):
        op = Descriptor(*fields)
        if reserved0 or reserved1 or not _descriptor(words, header, op):
            return _refusal("BAD_DESCRIPTOR", i)
        if not all(_constants(words, header, op)):
            return _refusal("BAD_CONSTANT", i)
        if sizes and op.kind in (Kind.LINEAR, Kind.CONV2D) and op.source_size > sizes.queue_words:
            return _refusal("QUEUE_TOO_SMALL", i, f": it has {op.source_size}, the queue {sizes.queue_words}")
    return None


def _descriptor(words: Words, header: Header, op: Descriptor) -> bool:
    if not _signal(op.destination, op.size, header) or op.flags & ~_FLAGS.get(op.kind, 0):
        return False
    same = _signal(op.source, op.size, header)  # a source of as many neurons
    match op.kind:
        case Kind.INPUT:
            return op.size == header.input_size
        case Kind.LINEAR:
            return _linear(words, header, op)
        case Kind.SUM:
            return op.source_size >= 1 and _sections(words, op, constants=op.size) and _sum_sources(words, header, op)
        case Kind.COUNT:
            own = bool(op.flags & SIGNAL_STEP)
            step = (
                _signal(op.second, op.size, header) and not op.flags & IMMEDIATE["constants"]
                if own
                else _sections(words, op, constants=op.size)
            )
            return same and step and 1 <= op.parameter <= 255
        case Kind.GATE:
            return same and _signal(op.second, op.size, header)
        case Kind.INTEGRATE:
            return (
                same
                and op.parameter <= 31
                and _sections(words, op, constants=_byte_words(op.size))
                and _state(op, padded(op.size), header)
            )
        case Kind.DELAY:
            lines = _state(op, ALIGNMENT + op.stride * padded(op.size), header) if op.stride else True
            return same and lines and _sections(words, op, constants=op.size)
        case Kind.LIF:
            fires = not op.flags & POTENTIAL
            thresholds = _sections(words, op, more=op.size) if fires else not op.flags & IMMEDIATE["more"]
            return (
                same
                and thresholds
                and _sections(words, op, constants=op.size, weights=op.size)
                and _state(op, 2 * padded(op.size), header)
            )
        case Kind.CONV2D:
            return _conv(words, header, op)
    return False


def _byte_words(values: int) -> int:
    return -(-values // 4)


def _sections(words: Words, op: Descriptor, **lengths: int) -> bool:
    """Those of the named sections that are not immediate values lie inside the image."""
    return all(
        op.flags & IMMEDIATE[key] or _inside(getattr(op, key), padded(length), words.size)
        for key, length in lengths.items()
    )


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
        and op.parameter in (2, 4, 8)
        and _inside(op.weights, rows * op.stride, words.size)
    )


def _linear(words: Words, header: Header, op: Descriptor) -> bool:
    if (
        not _signal(op.source, op.source_size, header)
        or not _weights(words, header, op, op.source_size)
        or op.size > header.accumulators
    ):
        return False
    return _row_words(op.size, op.parameter, header) <= op.stride and _sections(
        words, op, constants=op.size, more=_byte_words(op.size)
    )


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
    lanes = -(-group_outputs * op.parameter // 128) * (128 // op.parameter)
    if op.size > header.accumulators or op.size - group_outputs + lanes > header.accumulators:
        return False
    block = y[2] * x[2] * _row_words(group_outputs, op.parameter, header)
    return block <= op.stride and _sections(words, op, constants=outputs, more=_byte_words(outputs))


def _axis(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    if (
        not all(1 <= word <= GEOMETRY_LIMIT for word in (size, outputs, kernel, stride, dilation))
        or padding > GEOMETRY_LIMIT
    ):
        return False
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    return span >= 0 and span // stride == outputs - 1


def _constants(words: Words, header: Header, op: Descriptor) -> Iterator[bool]:
    """Whether each constant of a checked descriptor is in its range."""
    match op.kind:
        case Kind.LINEAR:
            yield _range(_values(words, op, "more", op.size, bytewise=True), 0, 31)
        case Kind.CONV2D:
            yield _range(_values(words, op, "more", int(words[op.second + 1]), bytewise=True), 0, 31)
        case Kind.COUNT if not op.flags & SIGNAL_STEP:
            yield _range(_values(words, op, "constants", op.size), 1, (1 << 31) - 1)
        case Kind.INTEGRATE:
            yield _range(_values(words, op, "constants", op.size, bytewise=True), 0, 8)
        case Kind.DELAY:
            yield _range(_values(words, op, "constants", op.size), 0, op.stride)
        case Kind.LIF:
            factors = _values(words, op, "weights", op.size)
            yield _range(factors & 0xFFFF, 0, 4096) and _range(factors >> 16, 0, 4096)
            yield bool(op.flags & POTENTIAL) or _range(_values(words, op, "more", op.size), 0, (1 << 17) - 1)


def _values(words: Words, op: Descriptor, key: str, size: int, bytewise: bool = False) -> NDArray[Any]:
    at = getattr(op, key)
    if op.flags & IMMEDIATE[key]:
        return np.array([at], np.uint32)
    return words[at : at + _byte_words(size)].view(np.uint8)[:size] if bytewise else words[at : at + size]


def _range(values: NDArray[Any], low: int, high: int) -> bool:
    return bool(((values >= low) & (values <= high)).all())
