"""Packs a `Program` into the image that the spike engine runs, and golden vectors beside it (docs/image_format.md)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nsllm_nir import reference
from nsllm_nir.errors import LossyConversionError
from nsllm_nir.hw.toolchain import Depths
from nsllm_nir.program import Conv2d, Count, Delay, Gate, Input, Integrate, Lif, Linear, Op, Program, Sum, sources
from nsllm_nir.trace import Trace

MAGIC, VECTORS_MAGIC, VERSION = 0x494C534E, 0x564C534E, 2
HEADER_WORDS, OP_WORDS, PORT_WORDS, VECTORS_HEADER = 32, 16, 4, 8
ALIGNMENT = 64  # words
CRC_WORD = 3
KINDS: dict[type, int] = {Input: 1, Linear: 2, Sum: 3, Count: 4, Gate: 5, Integrate: 6, Delay: 7, Lif: 8, Conv2d: 9}
SIGNED_COUNT, SIGNAL_STEP, POTENTIAL, PORT_OUTPUT, PORT_SPIKES = 1, 2, 4, 1, 2
GEOMETRY_LIMIT = 1 << 24
LIF_BIAS_LIMIT = 1 << 25  # beyond it v saturates whatever u and v are

Words = NDArray[np.uint32]


@dataclass
class _Packer:
    """Where the next signal, state, constant and name go; grows while the ops are packed in order."""

    program: Program
    signals: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    sections: list[Words] = field(default_factory=list)
    section_words: int = 0
    signal_words: int = 0
    state_words: int = 0
    row_words: int = 0
    accumulators: int = 0

    def section(self, values: NDArray[np.integer]) -> int:
        """Append words, zero-padded to the alignment; returns their address within the sections."""
        flat = (np.asarray(values).astype(np.int64) & 0xFFFFFFFF).astype(np.uint32).reshape(-1)
        return self.block(np.pad(flat, (0, -flat.size % ALIGNMENT)))

    def block(self, words: Words) -> int:
        at = self.section_words
        self.sections.append(words)
        self.section_words += words.size
        return at

    def state(self, words: int) -> int:
        at = self.state_words
        self.state_words += words
        return at


@dataclass(frozen=True)
class Needs:
    """What a program asks of an engine build, in 32-bit words (accumulators: values)."""

    signal_words: int
    state_words: int
    row_words: int
    accumulators: int

    def check(self, depths: Depths) -> None:
        """Compare with a build.

        Raises:
            LossyConversionError: a memory is too small; names it, what is needed and what there is.
        """
        for name, need in vars(self).items():
            have = getattr(depths, name)
            if need > have:
                raise LossyConversionError(f"the program needs {name} = {need}, this build of the spike engine has {have}; use a build with larger {name}")


def pack_image(program: Program) -> bytes:
    """The program image: header, descriptors, ports, constants, weight rows, names. Deterministic.

    Raises:
        LossyConversionError: the program does not have exactly one input, needs numbers of more than 32 bits or a larger geometry.
    """
    _check_program(program)
    packer = _Packer(program)
    for op in program.ops:  # all addresses first: a recurrent delay reads a signal that is produced later
        packer.signals[op.name] = packer.signal_words
        packer.signal_words += _padded(program.signals[op.name].size)
    names, blob = _names(program)
    packer.names = names
    descriptors = [_descriptor(packer, op) for op in program.ops]
    return _assemble(packer, descriptors, blob)


def needs(image: bytes) -> Needs:
    """Memory sizes from the header of a packed image."""
    return Needs(*np.frombuffer(image[40:56], "<u4").tolist())


def pack_vectors(program: Program, inputs: NDArray[np.integer], trace: Trace) -> bytes:
    """Golden vectors: for each token its input events and the expected value of every port.

    Raises:
        InputError: the inputs do not fit the program.
    """
    spikes = reference.check_inputs(program, inputs)
    expected = np.concatenate([np.asarray(trace.values[name]).reshape(len(spikes), -1) for name in program.traced], axis=1)
    parts = [np.array([VECTORS_MAGIC, VERSION, 0, 0, len(spikes), expected.shape[1], 0, 0])]
    for row, words in zip(spikes, expected, strict=True):
        pairs = events(row)
        parts += [np.array([len(pairs)]), pairs.reshape(-1), words]
    return _seal((np.concatenate(parts).astype(np.int64) & 0xFFFFFFFF).astype("<u4"))


def events(spikes: NDArray[np.integer]) -> Words:
    """Input spikes (neurons,) to pairs (events, 2): neuron and count."""
    active = np.flatnonzero(spikes)
    return np.stack([active, spikes[active]], axis=1).astype(np.uint32)


def _seal(words: Words) -> bytes:
    """Fill in the length (word 2) and the checksum (word 3, over all the others)."""
    words[2] = words.size
    raw = words.view(np.uint8).data
    words[CRC_WORD] = zlib.crc32(raw[4 * CRC_WORD + 4 :], zlib.crc32(raw[: 4 * CRC_WORD]))
    return words.tobytes()


def _check_program(program: Program) -> None:
    if len(program.inputs) != 1:
        raise LossyConversionError(f"the spike engine takes programs with one input, this one has {len(program.inputs)}")
    widest = max(program.widths.potential, program.widths.comparator)
    if widest > 32:
        raise LossyConversionError(f"the spike engine computes with 32 bits, the program declares {widest}; lower its widths")
    for op in program.ops:
        if isinstance(op, Integrate) and op.fraction_bits > 31:
            raise LossyConversionError(f"Integrate {op.name!r}: the spike engine shifts by at most 31 bits, fraction_bits is {op.fraction_bits}")
        if isinstance(op, Conv2d) and (largest := max(*op.stride, *op.padding, *op.dilation)) > GEOMETRY_LIMIT:
            raise LossyConversionError(
                f"Conv2d {op.name!r}: the spike engine takes strides, paddings and dilations of at most {GEOMETRY_LIMIT}, found {largest}"
            )


def _padded(words: int) -> int:
    return -(-words // ALIGNMENT) * ALIGNMENT


def _names(program: Program) -> tuple[dict[str, int], Words]:
    """Byte offset of each name, and the NUL-terminated UTF-8 texts padded to words."""
    offsets, blob = {}, bytearray()
    for op in program.ops:
        offsets[op.name] = len(blob)
        blob += op.name.encode() + b"\0"
    blob += bytes(-len(blob) % 4)
    return offsets, np.frombuffer(bytes(blob), "<u4").astype(np.uint32)


def _descriptor(packer: _Packer, op: Op) -> dict[str, int]:
    """Fields of one descriptor; section addresses are relative to the start of the sections until `_assemble`."""
    read = [packer.signals[name] for name in sources(op)]
    fields = {"kind": KINDS[type(op)], "size": packer.program.signals[op.name].size, "destination": packer.signals[op.name], "name": packer.names[op.name]}
    match op:
        case Input():
            return fields
        case Linear():
            return fields | {"source": read[0]} | _linear(packer, op)
        case Sum():
            return fields | {"source_size": len(read), "constants": packer.section(op.bias), "more": packer.section(np.array(read))}
        case Count():
            step = {"second": read[1]} if isinstance(op.step, str) else {"constants": packer.section(op.step)}
            flags = SIGNED_COUNT * op.signed + SIGNAL_STEP * isinstance(op.step, str)
            return fields | step | {"source": read[0], "parameter": op.levels, "flags": flags}
        case Gate():
            return fields | {"second": read[0], "source": read[1]}
        case Integrate():
            # decay = 256 - 2**j is stored as the right shift 8 - j of the leak
            leak_shift = 9 - np.array([(256 - int(d)).bit_length() for d in op.decay])
            state = packer.state(op.decay.size)
            return fields | {"source": read[0], "constants": packer.section(leak_shift), "parameter": op.fraction_bits, "state": state}
        case Lif():
            return fields | {"source": read[0]} | _lif(packer, op)
        case Conv2d():
            return fields | {"source": read[0]} | _conv(packer, op)
        case Delay():
            slots = int(op.steps.max())
            state = packer.state(1 + slots * op.steps.size) if slots else 0
            return fields | {"source": read[0], "constants": packer.section(op.steps), "stride": slots, "state": state}


def _linear(packer: _Packer, op: Linear) -> dict[str, int]:
    outputs, inputs = op.weight.shape
    weight_bits = _weight_bits(op.weight)
    stride = -(-outputs * weight_bits // 128) * 4
    packer.row_words = max(packer.row_words, stride)
    packer.accumulators = max(packer.accumulators, outputs)
    return {
        "source_size": inputs,
        "constants": packer.section(op.bias),
        "more": packer.section(op.shift),
        "weights": packer.block(_rows(op.weight, weight_bits, stride)),
        "stride": stride,
        "parameter": weight_bits,
    }


def _lif(packer: _Packer, op: Lif) -> dict[str, int]:
    factors = (4096 - op.current_decay.astype(np.int64)) | (4096 - op.voltage_decay.astype(np.int64)) << 16
    threshold = {"flags": POTENTIAL} if op.threshold is None else {"more": packer.section(op.threshold)}
    return threshold | {
        "constants": packer.section(np.clip(op.bias.astype(np.int64), -LIF_BIAS_LIMIT, LIF_BIAS_LIMIT)),
        "weights": packer.section(factors),
        "state": packer.state(2 * _padded(op.bias.size)),
    }


def _conv(packer: _Packer, op: Conv2d) -> dict[str, int]:
    """Per input channel one block with a packed row of the group's outputs for each tap."""
    (channels, *sizes), (outputs, *results), (_, per_group, *kernel) = op.input_shape, op.output_shape, op.weight.shape
    group_outputs, taps = outputs // op.groups, kernel[0] * kernel[1]
    weight_bits = _weight_bits(op.weight)
    words = -(-group_outputs * weight_bits // 32)
    stride = -(-taps * words // 4) * 4
    by_output = op.weight.reshape(op.groups, group_outputs, per_group, taps).transpose(1, 0, 2, 3).reshape(group_outputs, channels * taps)
    rows = _rows(by_output, weight_bits, words)[: channels * taps * words].reshape(channels, taps * words)
    axes = [(sizes[i], results[i], kernel[i], op.stride[i], op.padding[i], op.dilation[i]) for i in (0, 1)]
    lanes = words * (32 // weight_bits)  # a row is added whole: its unused weights are 0, but they need accumulators
    packer.row_words = max(packer.row_words, stride)
    packer.accumulators = max(packer.accumulators, int(np.prod(op.output_shape)) + max(0, lanes - group_outputs))
    return {
        "source_size": int(np.prod(op.input_shape)),
        "second": packer.section(np.array([channels, outputs, per_group, group_outputs, *axes[0], *axes[1]])),
        "constants": packer.section(op.bias),
        "more": packer.section(op.shift),
        "weights": packer.section(np.pad(rows, ((0, 0), (0, stride - taps * words)))),
        "stride": stride,
        "parameter": weight_bits,
    }


def _weight_bits(weight: NDArray[np.integer]) -> int:
    """2, 4 or 8: the narrowest two's complement number that holds every weight."""
    blocks = [np.asarray(weight[i : i + 256]) for i in range(0, weight.shape[0], 256)]
    low, high = min(int(b.min()) for b in blocks), max(int(b.max()) for b in blocks)
    return next(b for b in (2, 4, 8) if -(1 << b - 1) <= low and high < 1 << b - 1)


def _rows(weight: NDArray[np.integer], weight_bits: int, stride: int) -> Words:
    """Weights (outputs, rows) to packed rows, lowest output in the lowest bits. Blocks of rows keep the copies small."""
    outputs, inputs = weight.shape
    words = np.zeros((_padded(inputs * stride) // ALIGNMENT, ALIGNMENT), np.uint32).reshape(-1)
    rows = words[: inputs * stride].view(np.uint8).reshape(inputs, 4 * stride)
    each = 8 // weight_bits
    for first in range(0, inputs, 1024):
        block = np.asarray(weight[:, first : first + 1024]).T.astype(np.int8).view(np.uint8) & ((1 << weight_bits) - 1)
        block = np.pad(block, ((0, 0), (0, -outputs % each)))
        for k in range(each):
            rows[first : first + len(block), : block.shape[1] // each] |= block[:, k::each] << k * weight_bits
    return words


def _assemble(packer: _Packer, descriptors: list[dict[str, int]], blob: Words) -> bytes:
    program = packer.program
    ports_start = HEADER_WORDS + OP_WORDS * len(descriptors)
    start = _padded(ports_start + PORT_WORDS * len(program.traced))
    ports = [_port(packer, name) for name in program.traced]
    node = program.inputs[0]
    header = [
        MAGIC, VERSION, 0, 0, len(descriptors), HEADER_WORDS, len(ports), ports_start, start + packer.section_words, blob.size,
        packer.signal_words, packer.state_words, packer.row_words, packer.accumulators, node.size, node.levels,
        sum(p[1] for p in ports), sum(p[1] for p in ports if p[2] & PORT_OUTPUT),
    ]  # fmt: skip
    words = np.zeros(start + packer.section_words + blob.size, "<u4")
    words[: len(header)] = header
    for i, fields in enumerate(descriptors):
        at = HEADER_WORDS + OP_WORDS * i
        words[at : at + OP_WORDS] = _descriptor_words(fields, start)
    words[ports_start : ports_start + PORT_WORDS * len(ports)] = np.array(ports, np.uint32).reshape(-1)
    at = start
    for section in [*packer.sections, blob]:
        words[at : at + section.size] = section
        at += section.size
    return _seal(words)


def _port(packer: _Packer, name: str) -> tuple[int, int, int, int]:
    signal = packer.program.signals[name]
    flags = PORT_OUTPUT * (name in packer.program.outputs) | PORT_SPIKES * signal.spikes
    return packer.signals[name], signal.size, flags, packer.names[name]


_FIELDS = (
    "kind", "flags", "size", "destination", "source", "second", "source_size", "constants",
    "more", "weights", "stride", "parameter", "state", "name",
)  # fmt: skip


def _descriptor_words(fields: dict[str, int], sections: int) -> list[int]:
    sections_of = ("constants", "more", "weights", "second") if fields["kind"] == KINDS[Conv2d] else ("constants", "more", "weights")
    absolute = {key: fields[key] + sections for key in sections_of if key in fields}
    row = fields | absolute
    return [row.get(key, 0) for key in _FIELDS] + [0] * (OP_WORDS - len(_FIELDS))
