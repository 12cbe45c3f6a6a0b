"""The host interface of the spike engine, described once: registers, commands and statuses.

`nsllm_nir.hw.generated_files` writes what follows from it: the SystemVerilog package, the C++ header and the tables of
docs/image_format.md.
"""

from __future__ import annotations

from dataclasses import dataclass

IDENTIFICATION = 0x454C534E  # the bytes "NSLE"


@dataclass(frozen=True)
class Register:
    """One 32-bit register. offset: bytes; access: "R", "W" or "RW" as the host sees it."""

    name: str
    offset: int
    access: str
    meaning: str


@dataclass(frozen=True)
class Command:
    """A value of the register ``command``."""

    name: str
    code: int
    effect: str


@dataclass(frozen=True)
class Status:
    """A returned status.

    text: the message of a host; when: the rule of the format; index: what its upper 24 bits count.
    """

    name: str
    code: int
    text: str
    when: str
    index: str = ""


REGISTERS = (
    Register(
        "control",
        0x00,
        "RW",
        (
            "bit 0 start (write 1; reads 1 until the engine has taken it), bit 1 done (cleared by reading), "
            "bit 2 idle, bit 3 ready"
        ),
    ),
    Register("interrupt_enable", 0x04, "RW", "bit 0: the interrupt line follows the interrupt status"),
    Register("interrupt_mask", 0x08, "RW", "bit 0: done sets the interrupt status"),
    Register("interrupt_status", 0x0C, "RW", "bit 0: a command is done; writing 1 toggles it"),
    Register("status", 0x10, "R", "status of the last command"),
    Register("image_address_low", 0x18, "RW", "byte address of the program image in external memory, low word"),
    Register("image_address_high", 0x1C, "RW", "high word"),
    Register("image_words", 0x24, "RW", "length of the image in words"),
    Register("command", 0x2C, "RW", "the command that start executes"),
    Register("identification", 0x80, "R", f"0x{IDENTIFICATION:08X} (the bytes `NSLE`)"),
    Register("image_version", 0x84, "R", "version of the image format"),
    Register("lanes", 0x88, "R", "accumulators that work in parallel"),
    Register("ports", 0x8C, "R", "neurons per cycle of the vector unit"),
    Register("signal_words", 0x90, "R", "signal memory, words"),
    Register("state_words", 0x94, "R", "state memory, words"),
    Register("queue_words", 0x98, "R", "event queue, entries"),
    Register("descriptors", 0x9C, "R", "descriptor memory, descriptors"),
    Register("potential_bits", 0xA0, "R", "bits of a value"),
    Register("comparator_bits", 0xA4, "R", "bits of a comparison"),
    Register("beat_bits", 0xA8, "R", "bits of one beat of the memory port"),
    Register("cycles_low", 0xB0, "R", "clock cycles of the last command, low word"),
    Register("cycles_high", 0xB4, "R", "high word"),
)

COMMANDS = (
    Command("LOAD", 1, "check the image, clear the states"),
    Command("RESET", 2, "clear the states"),
    Command("STEP", 3, "one token; the results hold the ports with flag OUTPUT (`output_words` signed words)"),
    Command("STEP_TRACED", 4, "one token; the results hold all ports (`trace_words` signed words)"),
)

STATUSES = (
    Status("OK", 0, "ok", ""),
    Status(
        "UNKNOWN_COMMAND",
        1,
        "the command is not one of LOAD, RESET, STEP, STEP_TRACED",
        "the command is none of section 4",
    ),
    Status("NOT_LOADED", 2, "no image is loaded", "RESET or STEP without a loaded image"),
    Status(
        "BAD_LENGTH",
        3,
        "the image is truncated or longer than its header says",
        "fewer than 32 words, or `image_words` is not the number of words given",
    ),
    Status("BAD_MAGIC", 4, "this is not a program image (wrong magic number)", "word 0"),
    Status("BAD_VERSION", 5, "the image has another format version than this engine", "word 1"),
    Status("BAD_CHECKSUM", 6, "the checksum of the image does not match its content", "word 3"),
    Status(
        "BAD_LAYOUT",
        7,
        "a section of the image lies outside it or does not fit the header",
        "a reserved header word is not 0; word 18 is none of 4, 8, 16, 32; descriptors, "
        "ports or names leave the image; a port leaves the signal memory; "
        "the sums of port sizes differ from words 16 and 17",
    ),
    Status(
        "SIGNALS_TOO_SMALL",
        8,
        "the program needs more signal memory than this build has",
        "signal_words exceeds the build",
    ),
    Status(
        "STATES_TOO_SMALL",
        9,
        "the program needs more state memory than this build has",
        "state_words exceeds the build",
    ),
    Status(
        "ROW_TOO_SMALL", 10, "a weight row is longer than the row buffer of this build", "row_words exceeds the build"
    ),
    Status(
        "ACCUMULATORS_TOO_SMALL",
        11,
        "a Linear or Conv2d has more outputs than this build has accumulators",
        "accumulators exceeds the build",
    ),
    Status(
        "BAD_DESCRIPTOR",
        12,
        "it is invalid",
        "unknown kind, flags or parameter out of range, an inconsistent geometry, an unaligned row, or a signal, "
        "state, section, row, kernel block or "
        "accumulator outside its memory as the header declares it",
        "op descriptor",
    ),
    Status(
        "BAD_CONSTANT",
        13,
        "it has a step, threshold, shift, decay or delay out of range",
        "a shift, constant step, threshold, decay shift, decay factor or delay out of its range",
        "op descriptor",
    ),
    Status(
        "BAD_EVENT",
        14,
        "it names a neuron or count outside the input",
        "(at run time) an event names a neuron >= input_size or a count > input_levels",
        "event",
    ),
    Status(
        "BITS_TOO_WIDE",
        15,
        "the program declares wider values or comparisons than this build has",
        "potential_bits or comparator_bits exceeds the build",
    ),
    Status(
        "ROWS_UNALIGNED",
        16,
        "the weight rows of the image are aligned to fewer words than one memory beat of this build",
        "row_words_aligned is less than one memory beat of the build",
    ),
    Status(
        "TOO_MANY_OPS",
        17,
        "the program has more op descriptors or ports than this build holds",
        "ops (SystemVerilog: or ports) exceeds the descriptor memory of the build",
    ),
    Status(
        "MEMORY_ERROR",
        18,
        "the external memory answered a read with an error",
        "(at any time) a read of the image returned an error",
    ),
    Status(
        "QUEUE_TOO_SMALL",
        19,
        "its source has more neurons than the event queue of this build",
        "source_size of a Linear or Conv2d exceeds the event queue, in a build that cannot refill it",
        "op descriptor",
    ),
)

OFFSETS = {register.name: register.offset for register in REGISTERS}
LOAD, RESET, STEP, STEP_TRACED = (command.code for command in COMMANDS)
_BY_CODE = {status.code: status for status in STATUSES}


def status_code(name: str) -> int:
    """The number of a status."""
    return next(status.code for status in STATUSES if status.name == name)


def status_text(status: int) -> str:
    """A status word as a sentence: its name, its reason and the index that it carries."""
    code, index = status & 0xFF, status >> 8
    if code not in _BY_CODE:
        return f"unknown status {status}"
    known = _BY_CODE[code]
    return f"{known.name}: " + (f"{known.index} {index}: " if known.index else "") + known.text
