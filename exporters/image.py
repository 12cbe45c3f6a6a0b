"""Packs a `Program` into the image that the spike engine runs, and golden vectors beside it (docs/image_format.md)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError, LossyConversionError
from nsllm_nir.hw.image_check import Words, read_header, seal
from nsllm_nir.hw.instruction_set import (
    ALIGNMENT,
    GEOMETRY_LIMIT,
    HEADER_WORDS,
    IMMEDIATE,
    MAGIC,
    OF_OP,
    OP_WORDS,
    PORT_WORDS,
    ROW_ALIGNMENTS,
    UNIT_WORDS,
    VECTORS_MAGIC,
    VERSION,
    WEIGHT_BITS,
    Descriptor,
    Flag,
    Layout,
    PortFlag,
    padded,
)
from nsllm_nir.hw.toolchain import Depths
from nsllm_nir.program import (
    Conv2d,
    Count,
    Delay,
    Input,
    Integrate,
    Lif,
    Linear,
    Op,
    Program,
    Sum,
    reference,
    sources,
)
from nsllm_nir.program.constants import DECAY_BITS, DECAY_ONE, LIF_DECAY_ONE, LIF_STATE_BITS, MAX_SHIFT
from nsllm_nir.program.trace import Trace

LIF_BIAS_LIMIT = 1 << LIF_STATE_BITS + 1  # beyond it v saturates whatever u and v are


class _Section(int):
    """An address that counts from the start of the sections; `_assemble` makes it an image address."""


@dataclass
class _Packer:
    """Where the next signal, state, constant and name go; grows while the ops are packed in order."""

    program: Program
    row_alignment: int
    signals: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    sections: list[Words] = field(default_factory=list)
    section_words: int = 0
    signal_words: int = 0
    state_words: int = 0
    row_words: int = 0
    accumulators: int = 0

    def section(self, values: NDArray[np.integer]) -> _Section:
        """Append words, zero-padded to the alignment."""
        flat = (np.asarray(values).astype(np.int64) & 0xFFFFFFFF).astype(np.uint32).reshape(-1)
        return self.block(np.pad(flat, (0, -flat.size % ALIGNMENT)))

    def block(self, words: Words) -> _Section:
        at = self.section_words
        self.sections.append(words)
        self.section_words += words.size
        return _Section(at)

    def constants(self, *, bytewise: tuple[str, ...] = (), **arrays: NDArray[np.integer] | None) -> dict[str, int]:
        """Descriptor fields of constant arrays: each (neurons,), none of an absent one.

        A field is the value that all neurons share, or a section; the flags say which.
        """
        fields: dict[str, int] = {"flags": 0}
        for key, values in arrays.items():
            if values is None:
                continue
            if (values == values[0]).all():
                fields[key] = int(values[0]) & 0xFFFFFFFF
                fields["flags"] |= IMMEDIATE[key]
            else:
                fields[key] = self.section(_four_per_word(values) if key in bytewise else values)
        return fields

    def state(self, words: int) -> int:
        at = self.state_words
        self.state_words += padded(words)
        return at


@dataclass(frozen=True)
class Needs:
    """What a program asks of an engine build, in 32-bit words (accumulators: values; descriptors: ops)."""

    signal_words: int
    state_words: int
    row_words: int
    accumulators: int
    descriptors: int

    def check(self, depths: Depths) -> None:
        """Compare with a build.

        Raises:
            LossyConversionError: a memory is too small; names it, what is needed and what there is.
        """
        for name, need in vars(self).items():
            have = getattr(depths, name)
            if need > have:
                raise LossyConversionError(
                    f"the program needs {name} = {need}, this build of the spike engine has {have}; "
                    f"use a build with larger {name}"
                )


def pack_image(program: Program, row_alignment: int = UNIT_WORDS) -> bytes:
    """The program image: header, descriptors, ports, constants, weight rows, names. Deterministic.

    row_alignment: words (4, 8, 16 or 32) of which the length of a weight row is a multiple. An engine takes the image
    if its memory beat is no longer.

    Raises:
        LossyConversionError: the program does not have exactly one input, needs numbers of more than 32 bits or a
        larger geometry.
        InputError: another row alignment.
    """
    if row_alignment not in ROW_ALIGNMENTS:
        raise InputError(
            f"the row alignment is one of {', '.join(map(str, ROW_ALIGNMENTS))} words, got {row_alignment}"
        )
    _check_program(program)
    packer = _Packer(program, row_alignment)
    for op in program.ops:  # all addresses first: a recurrent delay reads a signal that is produced later
        packer.signals[op.name] = packer.signal_words
        packer.signal_words += padded(program.signals[op.name].size)
    names, blob = _names(program)
    packer.names = names
    descriptors = [_descriptor(packer, op) for op in program.ops]
    return _assemble(packer, descriptors, blob)


def needs(image: bytes) -> Needs:
    """Memory sizes from the header of a packed image."""
    header = read_header(image)
    return Needs(header.signal_words, header.state_words, header.row_words, header.accumulators, header.ops)


def pack_vectors(program: Program, inputs: NDArray[np.integer], trace: Trace) -> bytes:
    """Golden vectors: for each token its input events and the expected value of every port.

    Raises:
        InputError: the inputs do not fit the program.
    """
    spikes = reference.check_inputs(program, inputs)
    expected = np.concatenate(
        [np.asarray(trace.values[name]).reshape(len(spikes), -1) for name in program.traced], axis=1
    )
    parts = [np.array([VECTORS_MAGIC, VERSION, 0, 0, len(spikes), expected.shape[1], 0, 0])]
    for row, words in zip(spikes, expected, strict=True):
        pairs = events(row)
        parts += [np.array([len(pairs)]), pairs.reshape(-1), words]
    return seal((np.concatenate(parts).astype(np.int64) & 0xFFFFFFFF).astype("<u4"))


def events(spikes: NDArray[np.integer]) -> Words:
    """Input spikes (neurons,) to pairs (events, 2): neuron and count."""
    active = np.flatnonzero(spikes)
    return np.stack([active, spikes[active]], axis=1).astype(np.uint32)


def _check_program(program: Program) -> None:
    if len(program.inputs) != 1:
        raise LossyConversionError(
            f"the spike engine takes programs with one input, this one has {len(program.inputs)}"
        )
    widest = max(program.widths.potential, program.widths.comparator)
    if widest > 32:
        raise LossyConversionError(
            f"the spike engine computes with 32 bits, the program declares {widest}; lower its widths"
        )
    for op in program.ops:
        if isinstance(op, Integrate) and op.fraction_bits > MAX_SHIFT:
            raise LossyConversionError(
                f"Integrate {op.name!r}: the spike engine shifts by at most {MAX_SHIFT} bits, "
                f"fraction_bits is {op.fraction_bits}"
            )
        if isinstance(op, Conv2d) and (largest := max(*op.stride, *op.padding, *op.dilation)) > GEOMETRY_LIMIT:
            raise LossyConversionError(
                f"Conv2d {op.name!r}: the spike engine takes strides, paddings and dilations of at most "
                f"{GEOMETRY_LIMIT}, "
                f"found {largest}"
            )


def _four_per_word(values: NDArray[np.integer]) -> Words:
    """Small numbers as bytes, four in each word."""
    return np.pad(values.astype(np.uint8), (0, -values.size % 4)).view("<u4")


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
    fields = {
        "kind": OF_OP[type(op)].kind,
        "size": packer.program.signals[op.name].size,
        "destination": packer.signals[op.name],
        "name": packer.names[op.name],
    }
    match op:
        case Input():
            return fields
        case Linear():
            return fields | {"source": read[0]} | _linear(packer, op)
        case Sum():
            return (
                fields
                | packer.constants(constants=op.bias)
                | {"source_size": len(read), "more": packer.section(np.array(read))}
            )
        case Count():
            step = (
                {"second": read[1], "flags": Flag.SIGNAL_STEP}
                if isinstance(op.step, str)
                else packer.constants(constants=op.step)
            )
            return (
                fields
                | step
                | {"source": read[0], "parameter": op.levels, "flags": step["flags"] | Flag.SIGNED_COUNT * op.signed}
            )
        case Integrate():
            # decay = 256 - 2**j is stored as the right shift 8 - j of the leak
            leak_shift = DECAY_BITS + 1 - np.array([(DECAY_ONE - int(d)).bit_length() for d in op.decay])
            return fields | _by_instruction(packer, dataclasses.replace(op, decay=leak_shift), read)
        case Lif():
            return fields | {"source": read[0]} | _lif(packer, op)
        case Conv2d():
            return fields | {"source": read[0]} | _conv(packer, op)
        case Delay():
            slots = int(op.steps.max())
            state = packer.state(ALIGNMENT + slots * padded(op.steps.size)) if slots else 0
            return fields | packer.constants(constants=op.steps) | {"source": read[0], "stride": slots, "state": state}
        case _:
            return fields | _by_instruction(packer, op, read)


def _by_instruction(packer: _Packer, op: Op, read: list[int]) -> dict[str, int]:
    """Descriptor fields of an op as its `Instruction` says: signals, constants, parameter, states."""
    instruction = OF_OP[type(op)]
    constants = {constant.field: getattr(op, constant.name) for constant in instruction.constants}
    bytewise = tuple(constant.field for constant in instruction.constants if constant.layout is Layout.BYTES)
    fields = packer.constants(bytewise=bytewise, **constants) | dict(zip(instruction.signals, read, strict=True))
    if instruction.parameter:
        fields["parameter"] = getattr(op, instruction.parameter)
    if instruction.states:
        fields["state"] = packer.state(instruction.states * padded(packer.program.signals[op.name].size))
    return fields


def _linear(packer: _Packer, op: Linear) -> dict[str, int]:
    outputs, inputs = op.weight.shape
    weight_bits = _weight_bits(op.weight)
    stride = _row_words(outputs, weight_bits, packer.row_alignment)
    packer.row_words = max(packer.row_words, stride)
    packer.accumulators = max(packer.accumulators, outputs)
    return packer.constants(bytewise=("more",), constants=op.bias, more=op.shift) | {
        "source_size": inputs,
        "weights": packer.block(_rows(op.weight, weight_bits, stride)),
        "stride": stride,
        "parameter": weight_bits,
    }


def _lif(packer: _Packer, op: Lif) -> dict[str, int]:
    factors = (LIF_DECAY_ONE - op.current_decay.astype(np.int64)) | (
        LIF_DECAY_ONE - op.voltage_decay.astype(np.int64)
    ) << 16
    bias = np.clip(op.bias.astype(np.int64), -LIF_BIAS_LIMIT, LIF_BIAS_LIMIT)
    fields = packer.constants(constants=bias, more=op.threshold, weights=factors)
    return fields | {
        "flags": fields["flags"] | Flag.POTENTIAL * (op.threshold is None),
        "state": packer.state(2 * padded(op.bias.size)),
    }


def _conv(packer: _Packer, op: Conv2d) -> dict[str, int]:
    """Per input channel one block with a packed row of the group's outputs for each tap."""
    (channels, *sizes), (outputs, *results), (_, per_group, *kernel) = op.input_shape, op.output_shape, op.weight.shape
    group_outputs, taps = outputs // op.groups, kernel[0] * kernel[1]
    weight_bits = _weight_bits(op.weight)
    words = _row_words(group_outputs, weight_bits, packer.row_alignment)
    stride = taps * words
    by_output = (
        op.weight.reshape(op.groups, group_outputs, per_group, taps)
        .transpose(1, 0, 2, 3)
        .reshape(group_outputs, channels * taps)
    )
    axes = [(sizes[i], results[i], kernel[i], op.stride[i], op.padding[i], op.dilation[i]) for i in (0, 1)]
    # A row is added in whole units: its unused weights are 0, but they need accumulators.
    lanes = -(-group_outputs * weight_bits // (32 * UNIT_WORDS)) * (32 * UNIT_WORDS // weight_bits)
    packer.row_words = max(packer.row_words, stride)
    packer.accumulators = max(packer.accumulators, int(np.prod(op.output_shape)) + lanes - group_outputs)
    return packer.constants(bytewise=("more",), constants=op.bias, more=op.shift) | {
        "source_size": int(np.prod(op.input_shape)),
        "second": packer.section(np.array([channels, outputs, per_group, group_outputs, *axes[0], *axes[1]])),
        "weights": packer.block(_rows(by_output, weight_bits, words)),
        "stride": stride,
        "parameter": weight_bits,
    }


def _weight_bits(weight: NDArray[np.integer]) -> int:
    """2, 4 or 8: the narrowest two's complement number that holds every weight."""
    blocks = [np.asarray(weight[i : i + 256]) for i in range(0, weight.shape[0], 256)]
    low, high = min(int(b.min()) for b in blocks), max(int(b.max()) for b in blocks)
    return next(b for b in WEIGHT_BITS if -(1 << b - 1) <= low and high < 1 << b - 1)


def _row_words(outputs: int, weight_bits: int, alignment: int) -> int:
    """Length of one packed row."""
    return -(-outputs * weight_bits // (32 * alignment)) * alignment


def _rows(weight: NDArray[np.integer], weight_bits: int, stride: int) -> Words:
    """Weights (outputs, rows) to packed rows of ``stride`` words. Blocks of rows keep the copies small.

    Byte k of a unit (16 bytes) holds, from its lowest bits, the weights of outputs k, 16 + k, 32 + k, ... of the unit.
    """
    outputs, inputs = weight.shape
    words = np.zeros(padded(inputs * stride), np.uint32)
    each, unit = 8 // weight_bits, 4 * UNIT_WORDS
    rows = words[: inputs * stride].view(np.uint8).reshape(inputs, -1, unit)
    for first in range(0, inputs, 1024):
        block = np.asarray(weight[:, first : first + 1024]).T.astype(np.int8).view(np.uint8) & ((1 << weight_bits) - 1)
        units = np.pad(block, ((0, 0), (0, -outputs % (each * unit)))).reshape(len(block), -1, each, unit)
        for q in range(each):
            rows[first : first + len(block), : units.shape[1]] |= units[:, :, q] << q * weight_bits
    return words


def _assemble(packer: _Packer, descriptors: list[dict[str, int]], blob: Words) -> bytes:
    program = packer.program
    ports_start = HEADER_WORDS + OP_WORDS * len(descriptors)
    start = padded(ports_start + PORT_WORDS * len(program.traced))
    ports = [_port(packer, name) for name in program.traced]
    node = program.inputs[0]
    header = [
        MAGIC, VERSION, 0, 0, len(descriptors), HEADER_WORDS, len(ports), ports_start,
        start + packer.section_words, blob.size,
        packer.signal_words, packer.state_words, packer.row_words, packer.accumulators, node.size, node.levels,
        sum(p[1] for p in ports), sum(p[1] for p in ports if p[2] & PortFlag.OUTPUT),
        packer.row_alignment, program.widths.potential, program.widths.comparator,
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
    return seal(words)


def _port(packer: _Packer, name: str) -> tuple[int, int, int, int]:
    signal = packer.program.signals[name]
    flags = PortFlag.OUTPUT * (name in packer.program.outputs) | PortFlag.SPIKES * signal.spikes
    return packer.signals[name], signal.size, flags, packer.names[name]


def _descriptor_words(fields: dict[str, int], sections: int) -> list[int]:
    values = (fields.get(field.name, 0) for field in dataclasses.fields(Descriptor))
    row = [value + sections if isinstance(value, _Section) else value for value in values]
    return row + [0] * (OP_WORDS - len(row))
