// Written from hw/instruction_set.py by: python -m nsllm_nir.hw.generated_files
#pragma once

#include "config.hpp"

namespace nsllm {

constexpr Word MAGIC = 0x494C534EU;  // the bytes 'N' 'S' 'L' 'I'
constexpr Word VERSION = 3U;
constexpr Word HEADER_WORDS = 32U;
constexpr Word OP_WORDS = 16U;
constexpr Word PORT_WORDS = 4U;
constexpr Word GEOMETRY_WORDS = 16U;
constexpr Word ALIGNMENT = 64U;
constexpr Word UNIT_WORDS = 4U;
constexpr Word GEOMETRY_LIMIT = 16777216U;
constexpr Word LIF_DECAY_BITS = 12U;
constexpr Word LIF_FRACTION_BITS = 6U;
constexpr Value LIF_LIMIT = 8388607;

// Words to which rows may be aligned.
constexpr bool is_row_alignment(Word words) { return words == 4 || words == 8 || words == 16 || words == 32; }

enum HeaderField : Word {
    HEADER_MAGIC,
    HEADER_VERSION,
    HEADER_IMAGE_WORDS,
    HEADER_CRC,
    HEADER_OPS,
    HEADER_OPS_START,
    HEADER_PORTS,
    HEADER_PORTS_START,
    HEADER_NAMES_START,
    HEADER_NAMES_WORDS,
    HEADER_SIGNAL_WORDS,
    HEADER_STATE_WORDS,
    HEADER_ROW_WORDS,
    HEADER_ACCUMULATORS,
    HEADER_INPUT_SIZE,
    HEADER_INPUT_LEVELS,
    HEADER_TRACE_WORDS,
    HEADER_OUTPUT_WORDS,
    HEADER_ROW_WORDS_ALIGNED,
    HEADER_POTENTIAL_BITS,
    HEADER_COMPARATOR_BITS,
    HEADER_RESERVED,
};

enum Kind : Word {
    INPUT = 1,
    LINEAR = 2,
    SUM = 3,
    COUNT = 4,
    GATE = 5,
    INTEGRATE = 6,
    DELAY = 7,
    LIF = 8,
    CONV2D = 9,
};

constexpr Word LAST_KIND = CONV2D;

// The last three: the constant in the field of that name is the value of all neurons.
enum Flag : Word {
    SIGNED_COUNT = 1,
    SIGNAL_STEP = 2,
    POTENTIAL = 4,
    SAME_CONSTANTS = 8,
    SAME_MORE = 16,
    SAME_WEIGHTS = 32,
};

enum PortField : Word { PORT_SIGNAL, PORT_SIZE, PORT_FLAGS, PORT_NAME };

enum PortFlag : Word { PORT_OUTPUT = 1, PORT_SPIKES = 2 };

// One op descriptor; addresses of signals and states are words in their memory, sections are words in the image.
// The ops take it by value: of a reference, a compiler must assume that a store to a memory changes it.
struct Op {
    Word kind;
    Word flags;
    Word size;
    Word destination;
    Word source;
    Word second;
    Word source_size;
    Word constants;
    Word more;
    Word weights;
    Word stride;
    Word parameter;
    Word state;
    Word name;
    Word reserved0;
    Word reserved1;
};

inline Op load_op(const Word image[], Word at) {
    HLS(inline)
    return Op{image[at + 0], image[at + 1], image[at + 2], image[at + 3], image[at + 4], image[at + 5],
              image[at + 6], image[at + 7], image[at + 8], image[at + 9], image[at + 10], image[at + 11],
              image[at + 12], image[at + 13], image[at + 14], image[at + 15]};
}

// How a constant lies in the image: a word or a byte per neuron, or a word with two factors.
enum Layout : Word { NONE, WORDS, BYTES, FACTORS };

// without: the flag with which there is no constant; low, high: range of its values.
struct Constant {
    Layout layout = NONE;
    Word without = 0, low = 0, high = 0;
};

// What a descriptor of a kind refers to: the flags that it may have, signals of `size` neurons, constants of the
// neurons (of a Conv2d: of the output channels), the range of its parameter, words of state for each neuron.
struct Format {
    Word flags;
    bool source, second;
    Constant constants, more, weights;
    Word parameter_low, parameter_high, states;
};

constexpr Format format_of(Kind kind) {
    switch (kind) {
        case INPUT: return {0, false, false, {}, {}, {}, 0U, 4294967295U, 0};
        case LINEAR: return {24, false, false, {WORDS, 0, 0U, 4294967295U}, {BYTES, 0, 0U, 31U}, {}, 0U, 4294967295U, 0};
        case SUM: return {8, false, false, {WORDS, 0, 0U, 4294967295U}, {}, {}, 0U, 4294967295U, 0};
        case COUNT: return {11, true, false, {WORDS, 2, 1U, 2147483647U}, {}, {}, 1U, 255U, 0};
        case GATE: return {0, true, true, {}, {}, {}, 0U, 4294967295U, 0};
        case INTEGRATE: return {8, true, false, {BYTES, 0, 0U, 8U}, {}, {}, 0U, 31U, 1};
        case DELAY: return {8, true, false, {WORDS, 0, 0U, 4294967295U}, {}, {}, 0U, 4294967295U, 0};
        case LIF: return {60, true, false, {WORDS, 0, 0U, 4294967295U}, {WORDS, 4, 0U, 131071U}, {FACTORS, 0, 0U, 4096U}, 0U, 4294967295U, 2};
        case CONV2D: return {24, false, false, {WORDS, 0, 0U, 4294967295U}, {BYTES, 0, 0U, 31U}, {}, 0U, 4294967295U, 0};
    }
    return {};
}

}  // namespace nsllm
