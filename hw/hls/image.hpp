// The program image as the engine sees it: 32-bit words, specified in docs/image_format.md.
#pragma once

#include "instruction_set.hpp"
#include "registers.hpp"

namespace nsllm {

static_assert((Build::SIGNAL_WORDS & (ALIGNMENT - 1)) == 0, "signal memory must be a whole number of aligned blocks");
static_assert((Build::ACCUMULATORS & (ALIGNMENT - 1)) == 0, "accumulators must be a whole number of aligned blocks");

constexpr Word status_at(Word status, Word index) { return status | (index << 8); }

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
constexpr Word UNIT_BYTES = UNIT_WORDS << 2;

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
