"""The instruction set of the spike engine, described once.

The numbers of the program image (docs/image_format.md), and of each op its kind, what its descriptor refers to, and
how the vector unit runs it.

The Python half reads this module; `nsllm_nir.hw.generated_files` writes the C++ header and the SystemVerilog package
from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag

from nsllm_nir.program import Conv2d, Count, Delay, Gate, Input, Integrate, Lif, Linear, Op, Sum
from nsllm_nir.program.constants import (
    DECAY_BITS,
    LIF_DECAY_BITS,
    LIF_DECAY_ONE,
    LIF_FRACTION_BITS,
    LIF_MAX_THRESHOLD,
    LIF_STATE_BITS,
    MAX_LEVELS,
    MAX_SHIFT,
)

MAGIC = 0x494C534E  # the bytes "NSLI"
VECTORS_MAGIC = 0x564C534E  # the bytes "NSLV"
VERSION = 3
HEADER_WORDS, OP_WORDS, PORT_WORDS, GEOMETRY_WORDS, VECTORS_HEADER = 32, 16, 4, 16, 8
ALIGNMENT = 64  # words of a block of signals, states or constants
UNIT_WORDS = 4  # of packed weights
ROW_ALIGNMENTS = (4, 8, 16, 32)  # words
WEIGHT_BITS = (2, 4, 8)
GEOMETRY_LIMIT = 1 << 24
LARGEST_STEP = (1 << 31) - 1
# Numbers that C++ and SystemVerilog get, by their names there.
CPP_NUMBERS = {
    "VERSION": VERSION,
    "HEADER_WORDS": HEADER_WORDS,
    "OP_WORDS": OP_WORDS,
    "PORT_WORDS": PORT_WORDS,
    "GEOMETRY_WORDS": GEOMETRY_WORDS,
    "ALIGNMENT": ALIGNMENT,
    "UNIT_WORDS": UNIT_WORDS,
    "GEOMETRY_LIMIT": GEOMETRY_LIMIT,
    "LIF_DECAY_BITS": LIF_DECAY_BITS,
    "LIF_FRACTION_BITS": LIF_FRACTION_BITS,
}
SV_NUMBERS = {
    "ALIGNMENT": ALIGNMENT,
    "LIF_DECAY_BITS": LIF_DECAY_BITS,
    "LIF_FRACTION_BITS": LIF_FRACTION_BITS,
    "LIF_STATE_BITS": LIF_STATE_BITS,
    "LIF_THRESHOLD_BITS": LIF_MAX_THRESHOLD.bit_length(),
}


@dataclass(frozen=True)
class Header:
    """The header words by name, in their order; the rest of the header is reserved and 0."""

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


class Flag(IntFlag):
    """Word 1 of an op descriptor. The last three: the constant in that field is the value of all neurons."""

    SIGNED_COUNT = 1
    SIGNAL_STEP = 2
    POTENTIAL = 4
    SAME_CONSTANTS = 8
    SAME_MORE = 16
    SAME_WEIGHTS = 32


_NONE = Flag(0)
IMMEDIATE = {"constants": Flag.SAME_CONSTANTS, "more": Flag.SAME_MORE, "weights": Flag.SAME_WEIGHTS}


class PortFlag(IntFlag):
    """Word 2 of a port."""

    OUTPUT = 1
    SPIKES = 2


class Layout(Enum):
    """How a constant of n neurons lies in the image."""

    WORDS = "words"  # one per neuron
    BYTES = "bytes"  # four neurons in a word
    FACTORS = "factors"  # a word per neuron with two decay factors of 16 bits


@dataclass(frozen=True)
class Constant:
    """A constant of each neuron (of a Conv2d: of each output channel).

    name: the attribute of the op; field: of the descriptor; low, high: range of its unsigned values, None: any word;
    without: the flag with which there is none.
    """

    name: str
    field: str
    layout: Layout = Layout.WORDS
    low: int = 0
    high: int | None = None
    without: Flag = _NONE


@dataclass(frozen=True)
class Instruction:
    """What the engine knows of an op.

    signals: descriptor fields with the signals of ``size`` neurons that it always reads, in the order of `sources`
    (one of another size, or that a flag asks for, is a rule of the kind); parameter: the attribute that the field of
    this name holds, its range; states: words of state of each neuron; flags: without those of immediates.
    job: of the vector unit, for ops that the sequencer runs as one; additions: of values, by each neuron, for the
    energy.
    """

    op: type[Op]
    kind: Kind
    signals: tuple[str, ...] = ()
    constants: tuple[Constant, ...] = ()
    parameter: str = ""
    parameter_range: tuple[int, int] | None = None
    states: int = 0
    flags: Flag = _NONE
    job: str = ""
    additions: int = 0

    @property
    def known_flags(self) -> Flag:
        """The flags that a descriptor of the kind may have."""
        found = self.flags
        for constant in self.constants:
            found |= IMMEDIATE[constant.field]
        return found


_BIAS = Constant("bias", "constants")
_SHIFT = Constant("shift", "more", Layout.BYTES, high=MAX_SHIFT)
_SOURCE = ("source",)

INSTRUCTIONS = (
    Instruction(Input, Kind.INPUT),
    Instruction(Linear, Kind.LINEAR, constants=(_BIAS, _SHIFT)),
    Instruction(Sum, Kind.SUM, constants=(_BIAS,), job="ADD"),
    Instruction(
        Count,
        Kind.COUNT,
        _SOURCE,
        (Constant("step", "constants", low=1, high=LARGEST_STEP, without=Flag.SIGNAL_STEP),),
        parameter="levels",
        parameter_range=(1, MAX_LEVELS),
        flags=Flag.SIGNED_COUNT | Flag.SIGNAL_STEP,
        job="COUNT",
    ),
    Instruction(Gate, Kind.GATE, ("second", "source"), job="GATE"),
    Instruction(
        Integrate,
        Kind.INTEGRATE,
        _SOURCE,
        (Constant("decay", "constants", Layout.BYTES, high=DECAY_BITS),),
        parameter="fraction_bits",
        parameter_range=(0, MAX_SHIFT),
        states=1,
        job="INTEGRATE",
        additions=2,
    ),
    Instruction(Delay, Kind.DELAY, _SOURCE, (Constant("steps", "constants"),), job="DELAY"),
    Instruction(
        Lif,
        Kind.LIF,
        _SOURCE,
        (
            _BIAS,
            Constant("threshold", "more", high=LIF_MAX_THRESHOLD, without=Flag.POTENTIAL),
            Constant("decays", "weights", Layout.FACTORS, high=LIF_DECAY_ONE),
        ),
        states=2,
        flags=Flag.POTENTIAL,
        job="LIF",
        additions=26,  # two serial products and their sums, as in `Program.audit`
    ),
    Instruction(Conv2d, Kind.CONV2D, constants=(_BIAS, _SHIFT)),
)
OF_OP = {instruction.op: instruction for instruction in INSTRUCTIONS}
OF_NAME = {instruction.op.__name__: instruction for instruction in INSTRUCTIONS}
OF_KIND: dict[int, Instruction] = {instruction.kind: instruction for instruction in INSTRUCTIONS}
# Jobs of the vector unit by number; a Delay asks for a second one at the end of the token.
JOBS = (*(instruction.job for instruction in INSTRUCTIONS if instruction.job), "ADVANCE")
# Channels of constants by number, in the order of their requests; those of words are named after the descriptor's
# fields.
CHANNELS = ("bytes", "constants", "more", "weights")


def channel(constant: Constant) -> str:
    """Where the engine lines up a constant with the neurons."""
    return "bytes" if constant.layout is Layout.BYTES else constant.field


def padded(words: int) -> int:
    """``words`` rounded up to the alignment."""
    return -(-words // ALIGNMENT) * ALIGNMENT
