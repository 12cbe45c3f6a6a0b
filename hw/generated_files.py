"""The files that follow from `registers` and `instruction_set`: SystemVerilog packages, C++ headers, tables of a page.

`python -m nsllm_nir.hw.generated_files` writes them; tests/test_registries.py compares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from nsllm_nir.hw import instruction_set, registers
from nsllm_nir.hw.instruction_set import CHANNELS, IMMEDIATE, Constant, Descriptor, Flag, Header, Instruction, channel
from nsllm_nir.hw.registers import Status
from nsllm_nir.program.constants import LIF_LIMIT

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent / "docs" / "image_format.md"


def _origin(source: str) -> str:
    return f"// Written from hw/{source}.py by: python -m nsllm_nir.hw.generated_files"


def _package(name: str, lines: list[str]) -> str:
    """A SystemVerilog package; not every module uses all of it."""
    start = [_origin(name), "/* verilator lint_off UNUSEDPARAM */", f"package {name};"]
    end = ["endpackage", "/* verilator lint_on UNUSEDPARAM */", ""]
    return "\n".join([*start, *(f"    {line}" if line else "" for line in lines), *end])


def _registers_sv() -> str:
    lines = [f"localparam logic [31:0] IDENTIFICATION = 32'h{registers.IDENTIFICATION:08X};"]
    lines += [f"localparam logic [7:0] OFFSET_{r.name.upper()} = 8'h{r.offset:02X};" for r in registers.REGISTERS]
    lines += [f"localparam logic [31:0] COMMAND_{c.name} = 32'd{c.code};" for c in registers.COMMANDS]
    lines += [f"localparam logic [7:0] STATUS_{s.name} = 8'd{s.code};" for s in registers.STATUSES]
    return _package("registers", lines)


def _registers_hpp() -> str:
    commands = ", ".join(f"{c.name} = {c.code}" for c in registers.COMMANDS)
    statuses = [f"    {s.name} = {s.code}," for s in registers.STATUSES]
    texts = [f"        case {s.name}: return {_cpp_text(s)};" for s in registers.STATUSES]
    return _REGISTERS_HPP.format(
        origin=_origin("registers"), commands=commands, statuses="\n".join(statuses), texts="\n".join(texts)
    )


def _cpp_text(status: Status) -> str:
    return f'"{status.index} " + at + ": {status.text}"' if status.index else f'"{status.text}"'


_REGISTERS_HPP = """{origin}
#pragma once

#include "config.hpp"
#if !defined(__SYNTHESIS__)
#include <string>
#endif

namespace nsllm {{

enum Command : Word {{ {commands} }};

// A status carries the index of the offending descriptor, port or event in its upper 24 bits.
enum Status : Word {{
{statuses}
}};

#if !defined(__SYNTHESIS__)
inline std::string status_text(Word status) {{
    const std::string at = std::to_string(status >> 8);
    switch (status & 0xFFU) {{
{texts}
        default: return "unknown status " + std::to_string(status);
    }}
}}
#endif

}}  // namespace nsllm
"""


def _names(record: type[Header] | type[Descriptor]) -> list[str]:
    return [field.name for field in fields(record)]


def _instruction_set_sv() -> str:
    kinds, jobs = instruction_set.Kind, instruction_set.JOBS
    kind_bits, job_bits = max(kinds).bit_length(), (len(jobs) - 1).bit_length()
    flag_bits = len(Flag)
    lines = [f"localparam logic [31:0] MAGIC = 32'h{instruction_set.MAGIC:08X};  // the bytes 'N' 'S' 'L' 'I'"]
    lines += [f"localparam logic [31:0] VERSION = 32'd{instruction_set.VERSION};"]
    lines += [f"localparam int {name} = {value};" for name, value in instruction_set.SV_NUMBERS.items()]
    lines += ["", "// Words of the header and of a descriptor."]
    lines += [f"localparam logic [4:0] HEADER_{n.upper()} = 5'd{i};" for i, n in enumerate(_names(Header))]
    lines += [f"localparam logic [4:0] HEADER_RESERVED = 5'd{len(_names(Header))};  // and all behind"]
    lines += [f"localparam logic [3:0] FIELD_{n.upper()} = 4'd{i};" for i, n in enumerate(_names(Descriptor))]
    lines += [f"localparam logic [3:0] FIELD_RESERVED = 4'd{len(_names(Descriptor))};  // and all behind"]
    lines += ["", f"localparam int KIND_BITS = {kind_bits};"]
    lines += [f"localparam logic [{kind_bits - 1}:0] KIND_{k.name} = {kind_bits}'d{k.value};" for k in kinds]
    lines += [f"localparam logic [31:0] LAST_KIND = 32'd{max(kinds)};"]
    lines += ["", "// Bits of the flags of a descriptor.", f"localparam int FLAG_BITS = {flag_bits};"]
    lines += [f"localparam int FLAG_{f.name} = {f.value.bit_length() - 1};" for f in Flag]
    lines += ["", "// Jobs of the vector unit.", f"localparam int JOB_BITS = {job_bits};"]
    lines += [f"localparam logic [{job_bits - 1}:0] JOB_{name} = {job_bits}'d{i};" for i, name in enumerate(jobs)]
    lines += ["", "// Channels of constants, in the order of their requests."]
    lines += [f"localparam int CHANNEL_{name.upper()} = {i};" for i, name in enumerate(CHANNELS)]
    lines += ["", "// The job that runs an op."]
    lines += _sv_function(
        f"logic [{job_bits - 1}:0] job_of(input logic [{kind_bits - 1}:0] kind)",
        {i: f"JOB_{i.job}" for i in instruction_set.INSTRUCTIONS if i.job},
        f"JOB_{jobs[0]}",
    )
    lines += ["", "// Whether an op reads the signal of the field `second` whatever its flags are."]
    lines += _sv_function(
        f"logic reads_second(input logic [{kind_bits - 1}:0] kind)",
        {i: "1'b1" for i in instruction_set.INSTRUCTIONS if "second" in i.signals},
        "1'b0",
    )
    lines += ["", "// The channels of constants that an op takes."]
    taken = {i: _channels(i.constants) for i in instruction_set.INSTRUCTIONS if i.constants}
    lines += _sv_function(
        f"logic [{len(CHANNELS) - 1}:0] channels_of(input logic [{kind_bits - 1}:0] kind, "
        f"input logic [{flag_bits - 1}:0] flags)",
        taken,
        f"{len(CHANNELS)}'b0",
        ["logic unused;", "unused = &{1'b0, flags};"],
    )
    return _package("instruction_set", lines)


def _channels(constants: tuple[Constant, ...]) -> str:
    bits = dict.fromkeys(CHANNELS, "1'b0")
    for constant in constants:
        without = constant.without
        bits[channel(constant)] = f"!flags[FLAG_{without.name}]" if without else "1'b1"
    return "{" + ", ".join(bits[name] for name in reversed(CHANNELS)) + "}"


def _sv_function(head: str, values: dict[Instruction, str], default: str, before: list[str] | None = None) -> list[str]:
    """A function of the kind; ``head`` names its result, itself and its arguments."""
    name = head.split("(")[0].split()[-1]
    cases = [f"        KIND_{instruction.kind.name}: {name} = {value};" for instruction, value in values.items()]
    body = [
        *(f"    {line}" for line in before or []),
        "    case (kind)",
        *cases,
        f"        default: {name} = {default};",
    ]
    return [f"function automatic {head};", *body, "    endcase", "endfunction"]


def _instruction_set_hpp() -> str:
    descriptor = _names(Descriptor)
    words = [*descriptor, *(f"reserved{i}" for i in range(instruction_set.OP_WORDS - len(descriptor)))]
    return _INSTRUCTION_SET_HPP.format(
        origin=_origin("instruction_set"),
        numbers="\n".join(f"constexpr Word {name} = {value}U;" for name, value in instruction_set.CPP_NUMBERS.items()),
        header=_enumerators("HEADER_", [*_names(Header), "reserved"]),
        kinds="\n".join(f"    {kind.name} = {kind.value}," for kind in instruction_set.Kind),
        flags="\n".join(f"    {flag.name} = {flag.value}," for flag in Flag),
        port_flags=", ".join(f"PORT_{flag.name} = {flag.value}" for flag in instruction_set.PortFlag),
        fields="\n".join(f"    Word {word};" for word in words),
        magic=f"0x{instruction_set.MAGIC:08X}U",
        limit=LIF_LIMIT,
        last=max(instruction_set.Kind).name,
        words=_wrapped([f"image[at + {i}]" for i in range(len(words))]),
        formats="\n".join(f"        case {i.kind.name}: return {_format(i)};" for i in instruction_set.INSTRUCTIONS),
        alignments=" || ".join(f"words == {words}" for words in instruction_set.ROW_ALIGNMENTS),
    )


def _wrapped(parts: list[str]) -> str:
    """The parts with commas, six in a line."""
    rows = [", ".join(parts[i : i + 6]) for i in range(0, len(parts), 6)]
    return (",\n" + " " * 14).join(rows)


def _enumerators(prefix: str, names: list[str]) -> str:
    return "\n".join(f"    {prefix}{name.upper()}," for name in names)


def _format(instruction: Instruction) -> str:
    """The initializer of a `Format`."""
    by_field = {constant.field: constant for constant in instruction.constants}
    signals = [str(name in instruction.signals).lower() for name in ("source", "second")]
    constants = [_constant(by_field.get(field)) for field in IMMEDIATE]
    low, high = instruction.parameter_range or (0, 0xFFFFFFFF)
    states = str(instruction.states)
    parts = [str(int(instruction.known_flags)), *signals, *constants, f"{low}U", f"{high}U", states]
    return "{" + ", ".join(parts) + "}"


def _constant(constant: Constant | None) -> str:
    if constant is None:
        return "{}"
    layout, high = constant.layout.name, 0xFFFFFFFF if constant.high is None else constant.high
    return f"{{{layout}, {int(constant.without)}, {constant.low}U, {high}U}}"


_INSTRUCTION_SET_HPP = """{origin}
#pragma once

#include "config.hpp"

namespace nsllm {{

constexpr Word MAGIC = {magic};  // the bytes 'N' 'S' 'L' 'I'
{numbers}
constexpr Value LIF_LIMIT = {limit};

// Words to which rows may be aligned.
constexpr bool is_row_alignment(Word words) {{ return {alignments}; }}

enum HeaderField : Word {{
{header}
}};

enum Kind : Word {{
{kinds}
}};

constexpr Word LAST_KIND = {last};

// The last three: the constant in the field of that name is the value of all neurons.
enum Flag : Word {{
{flags}
}};

enum PortField : Word {{ PORT_SIGNAL, PORT_SIZE, PORT_FLAGS, PORT_NAME }};

enum PortFlag : Word {{ {port_flags} }};

// One op descriptor; addresses of signals and states are words in their memory, sections are words in the image.
// The ops take it by value: of a reference, a compiler must assume that a store to a memory changes it.
struct Op {{
{fields}
}};

inline Op load_op(const Word image[], Word at) {{
    HLS(inline)
    return Op{{{words}}};
}}

// How a constant lies in the image: a word or a byte per neuron, or a word with two factors.
enum Layout : Word {{ NONE, WORDS, BYTES, FACTORS }};

// without: the flag with which there is no constant; low, high: range of its values.
struct Constant {{
    Layout layout = NONE;
    Word without = 0, low = 0, high = 0;
}};

// What a descriptor of a kind refers to: the flags that it may have, signals of `size` neurons, constants of the
// neurons (of a Conv2d: of the output channels), the range of its parameter, words of state for each neuron.
struct Format {{
    Word flags;
    bool source, second;
    Constant constants, more, weights;
    Word parameter_low, parameter_high, states;
}};

constexpr Format format_of(Kind kind) {{
    switch (kind) {{
{formats}
    }}
    return {{}};
}}

}}  // namespace nsllm
"""


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows])


def _registers_table() -> str:
    return _table(
        "| offset | register | access | meaning |",
        [f"| 0x{r.offset:02X} | {r.name} | {r.access} | {r.meaning} |" for r in registers.REGISTERS],
    )


def _commands_table() -> str:
    return _table("| command | name | effect |", [f"| {c.code} | {c.name} | {c.effect} |" for c in registers.COMMANDS])


def _statuses_table() -> str:
    return _table("| status | name | when |", [f"| {s.code} | {s.name} | {s.when} |" for s in registers.STATUSES])


_SECTIONS: dict[str, Callable[[], str]] = {
    "statuses": _statuses_table,
    "registers": _registers_table,
    "commands": _commands_table,
}


def _page(text: str) -> str:
    """The page with the text between ``<!-- name -->`` and ``<!-- end of name -->`` replaced."""
    for name, table in _SECTIONS.items():
        (before, rest), end = text.split(f"<!-- {name} -->"), f"<!-- end of {name} -->"
        text = f"{before}<!-- {name} -->\n{table()}\n{end}{rest.split(end)[1]}"
    return text


def generated() -> dict[Path, str]:
    """The files that follow from the descriptions, and their text."""
    return {
        FOLDER / "rtl" / "registers.sv": _registers_sv(),
        FOLDER / "hls" / "registers.hpp": _registers_hpp(),
        FOLDER / "rtl" / "instruction_set.sv": _instruction_set_sv(),
        FOLDER / "hls" / "instruction_set.hpp": _instruction_set_hpp(),
        PAGE: _page(PAGE.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
