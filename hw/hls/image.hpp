// The program image as the engine sees it: 32-bit words, specified in docs/image_format.md.
#pragma once

#include "registers.hpp"

namespace nsllm {

constexpr Word MAGIC = 0x494C534EU;  // the bytes 'N' 'S' 'L' 'I'
constexpr Word VERSION = 3;
constexpr Word HEADER_WORDS = 32;
constexpr Word OP_WORDS = 16;
constexpr Word PORT_WORDS = 4;
constexpr Word GEOMETRY_WORDS = 16;

enum HeaderField : Word {
    HEADER_MAGIC, HEADER_VERSION, HEADER_IMAGE_WORDS, HEADER_CRC,
    HEADER_OPS, HEADER_OPS_START, HEADER_PORTS, HEADER_PORTS_START, HEADER_NAMES_START, HEADER_NAMES_WORDS,
    HEADER_SIGNAL_WORDS, HEADER_STATE_WORDS, HEADER_ROW_WORDS, HEADER_ACCUMULATORS,
    HEADER_INPUT_SIZE, HEADER_INPUT_LEVELS, HEADER_TRACE_WORDS, HEADER_OUTPUT_WORDS,
    HEADER_ROW_ALIGNMENT, HEADER_POTENTIAL_BITS, HEADER_COMPARATOR_BITS, HEADER_RESERVED
};

enum Kind : Word { INPUT = 1, LINEAR, SUM, COUNT, GATE, INTEGRATE, DELAY, LIF, CONV2D };

// The last three: the constant in the field of that name is the value of all neurons.
enum Flag : Word { SIGNED_COUNT = 1, SIGNAL_STEP = 2, POTENTIAL = 4, SAME_CONSTANTS = 8, SAME_MORE = 16, SAME_WEIGHTS = 32 };

enum PortField : Word { PORT_SIGNAL, PORT_SIZE, PORT_FLAGS, PORT_NAME };

enum PortFlag : Word { PORT_OUTPUT = 1, PORT_SPIKES = 2 };

constexpr Word status_at(Word status, Word index) { return status | (index << 8); }

// One op descriptor; addresses of signals and states are words in their memory, sections are words in the image.
// The ops take it by value: of a reference, a compiler must assume that a store to a memory changes it.
struct Op {
    Word kind, flags, size, destination;
    Word source, second, source_size, constants;
    Word more, weights, stride, parameter;
    Word state, name, reserved0, reserved1;
};

inline Op load_op(const Word image[], Word at) {
    HLS(inline)
    return Op{image[at], image[at + 1], image[at + 2], image[at + 3], image[at + 4], image[at + 5], image[at + 6], image[at + 7],
              image[at + 8], image[at + 9], image[at + 10], image[at + 11], image[at + 12], image[at + 13], image[at + 14], image[at + 15]};
}

// One axis of a convolution: neurons in, neurons out, taps, and the distances in neurons.
struct Axis {
    Word size, outputs, kernel, stride, padding, dilation;
};

// Section `second` of a Conv2d.
struct Geometry {
    Word channels, outputs, group_channels, group_outputs;
    Axis y, x;
};

inline Axis load_axis(const Word image[], Word at) {
    HLS(inline)
    return Axis{image[at], image[at + 1], image[at + 2], image[at + 3], image[at + 4], image[at + 5]};
}

inline Geometry load_geometry(const Word image[], Word at) {
    HLS(inline)
    return Geometry{image[at], image[at + 1], image[at + 2], image[at + 3], load_axis(image, at + 4), load_axis(image, at + 10)};
}

// log2 of the weight bits 2, 4, 8; 0 for anything else.
constexpr Word weight_log(Word bits) { return bits == 2 ? 1U : bits == 4 ? 2U : bits == 8 ? 3U : 0U; }

// Packed weights come in units of 16 bytes. Byte k holds the weights of outputs k, 16 + k, ... of the unit, from its lowest bits.
constexpr Word UNIT_WORDS = 4;
constexpr Word UNIT_BYTES = 16;

// log2 of the weights in a unit.
constexpr Word unit_log(Word log) { return 7U - log; }

// Words of the units that hold the weights of `outputs`.
constexpr Word unit_words(Word outputs, Word log) { return ((outputs + (1U << unit_log(log)) - 1U) >> unit_log(log)) << 2; }

// The same, aligned: one row in the image. alignment: a power of two, at least a unit.
constexpr Word row_words(Word outputs, Word log, Word alignment) { return (unit_words(outputs, log) + alignment - 1U) & ~(alignment - 1U); }

// A constant of neuron i: `field` itself if all neurons share it, else from the section at `field`.
inline Word constant(const Word image[], Word field, bool same, Index i) {
    HLS(inline)
    return same ? field : image[field + i];
}

// The same for sections of bytes.
inline Word byte_constant(const Word image[], Word field, bool same, Index i) {
    HLS(inline)
    return same ? field : (image[field + (i >> 2)] >> ((i & 3U) << 3)) & 0xFFU;
}

constexpr Word padded(Word words) { return (words + ALIGNMENT - 1U) & ~(ALIGNMENT - 1U); }

}  // namespace nsllm
