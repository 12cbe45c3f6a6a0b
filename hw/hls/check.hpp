// Everything a program image must satisfy before it runs. After `check_image` no index can leave a memory.
#pragma once

#include "crc.hpp"
#include "image.hpp"

namespace nsllm {

constexpr bool inside(Word start, Word words, Word limit) { return start <= limit && words <= limit - start; }

// start + count strides, by additions that stop at the first that leaves [0, limit].
inline bool strides_inside(Word start, Word count, Word stride, Word limit) {
    if (start > limit) return false;
    Word left = limit - start;
    for (Word i = 0; i < count; ++i) {
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        if (stride > left) return false;
        left -= stride;
    }
    return true;
}

struct Limits {
    Word image, signals, states, row, accumulators, input;
};

// A signal of `size` neurons: aligned, and whole padded blocks inside the signal memory.
inline bool signal_inside(Word at, Word size, const Limits& have) {
    return size >= 1 && size <= have.signals && (at & (ALIGNMENT - 1)) == 0 && inside(at, padded(size), have.signals);
}

inline bool section_inside(Word at, Word size, const Limits& have) { return size <= have.image && inside(at, padded(size), have.image); }

inline bool check_linear(const Op& op, const Limits& have) {
    const Word log = weight_log(op.parameter);
    if (log == 0 || op.size > have.accumulators || op.stride > have.row || (op.stride & 3U) != 0) return false;
    if (!signal_inside(op.source, op.source_size, have) || packed_words(op.size, log) > op.stride) return false;
    return section_inside(op.constants, op.size, have) && section_inside(op.more, op.size, have) &&
           strides_inside(op.weights, op.source_size, op.stride, have.image);
}

constexpr Word GEOMETRY_LIMIT = 1U << 24;

// result = count terms of `term` >= 1, by additions that stop before they leave [0, limit].
inline bool total_inside(Word count, Word term, Word limit, Word& result) {
    result = 0;
    for (Word i = 0; i < count; ++i) {
        HLS(loop_tripcount max=256)
        if (term > limit - result) return false;
        result += term;
    }
    return true;
}

// `outputs` is what size, padding, kernel, dilation and stride give.
inline bool check_axis(const Axis& axis) {
    const Word words[] = {axis.size, axis.outputs, axis.kernel, axis.stride, axis.dilation};
    for (const Word word : words)
        if (word < 1 || word > GEOMETRY_LIMIT) return false;
    if (axis.padding > GEOMETRY_LIMIT) return false;
    const Word last = axis.size + (axis.padding << 1) - 1U;
    Word span = 0, reach = 0;
    if (!total_inside(axis.kernel - 1U, axis.dilation, last, span)) return false;
    return total_inside(axis.outputs - 1U, axis.stride, last - span, reach) && last - span - reach < axis.stride;
}

// Channels and outputs divide into the same number of groups.
inline bool check_groups(const Geometry& geometry, const Limits& have) {
    if (geometry.channels < 1 || geometry.channels > have.signals || geometry.group_channels < 1 || geometry.group_outputs < 1) return false;
    Word channels = 0, outputs = 0;
    while (channels < geometry.channels) {
        HLS(loop_tripcount max=256)
        if (geometry.group_channels > geometry.channels - channels || geometry.group_outputs > geometry.outputs - outputs) return false;
        channels += geometry.group_channels;
        outputs += geometry.group_outputs;
    }
    return outputs == geometry.outputs;
}

// Sizes, kernel blocks and accumulators of a geometry whose axes are valid.
inline bool check_maps(const Op& op, const Geometry& geometry, Word log, const Limits& have) {
    Word plane = 0, neurons = 0, taps = 0, block = 0;
    if (!total_inside(geometry.y.size, geometry.x.size, op.source_size, plane)) return false;
    if (!total_inside(geometry.channels, plane, op.source_size, neurons) || neurons != op.source_size) return false;
    if (!total_inside(geometry.y.outputs, geometry.x.outputs, op.size, plane)) return false;
    if (!total_inside(geometry.outputs, plane, op.size, neurons) || neurons != op.size) return false;
    const Word words = packed_words(geometry.group_outputs, log), lanes = words << (5U - log);
    if (!total_inside(geometry.y.kernel, geometry.x.kernel, op.stride, taps) || !total_inside(taps, words, op.stride, block)) return false;
    return op.size <= have.accumulators && inside(op.size - geometry.group_outputs, lanes, have.accumulators);
}

inline bool check_conv(const Word image[], const Op& op, const Limits& have) {
    const Word log = weight_log(op.parameter);
    if (log == 0 || op.stride > have.row || (op.stride & 3U) != 0 || !section_inside(op.second, GEOMETRY_WORDS, have)) return false;
    if (!signal_inside(op.source, op.source_size, have)) return false;
    const Geometry geometry = load_geometry(image, op.second);
    if (!check_axis(geometry.y) || !check_axis(geometry.x) || !check_groups(geometry, have) || !check_maps(op, geometry, log, have)) return false;
    return section_inside(op.constants, geometry.outputs, have) && section_inside(op.more, geometry.outputs, have) &&
           strides_inside(op.weights, geometry.channels, op.stride, have.image);
}

inline bool check_lif(const Op& op, const Limits& have) {
    if ((op.flags & ~POTENTIAL) != 0 || !signal_inside(op.source, op.size, have)) return false;
    const bool threshold = (op.flags & POTENTIAL) != 0 || section_inside(op.more, op.size, have);
    return threshold && section_inside(op.constants, op.size, have) && section_inside(op.weights, op.size, have) &&
           inside(op.state, padded(op.size) << 1, have.states);
}

inline bool check_sum(const Word image[], const Op& op, const Limits& have) {
    if (op.source_size < 1 || !section_inside(op.constants, op.size, have) || !section_inside(op.more, op.source_size, have)) return false;
    for (Word i = 0; i < op.source_size; ++i) {
        HLS(loop_tripcount max=16)
        if (!signal_inside(image[op.more + i], op.size, have)) return false;
    }
    return true;
}

inline bool check_count(const Op& op, const Limits& have) {
    if (op.flags > (SIGNED_COUNT | SIGNAL_STEP) || op.parameter < 1 || op.parameter > 255) return false;
    const bool step = (op.flags & SIGNAL_STEP) != 0 ? signal_inside(op.second, op.size, have) : section_inside(op.constants, op.size, have);
    return step && signal_inside(op.source, op.size, have);
}

inline bool check_delay(const Op& op, const Limits& have) {
    if (!signal_inside(op.source, op.size, have) || !section_inside(op.constants, op.size, have)) return false;
    if (op.stride == 0) return true;
    return inside(op.state, 1, have.states) && strides_inside(op.state + 1, op.size, op.stride, have.states);
}

inline bool check_op(const Word image[], const Op& op, const Limits& have) {
    if (!signal_inside(op.destination, op.size, have) || op.reserved0 != 0 || op.reserved1 != 0) return false;
    switch (op.kind) {
        case INPUT: return op.size == have.input;
        case LINEAR: return check_linear(op, have);
        case SUM: return check_sum(image, op, have);
        case COUNT: return check_count(op, have);
        case GATE: return signal_inside(op.source, op.size, have) && signal_inside(op.second, op.size, have);
        case INTEGRATE:
            return op.parameter <= 31 && signal_inside(op.source, op.size, have) && section_inside(op.constants, op.size, have) &&
                   inside(op.state, op.size, have.states);
        case DELAY: return check_delay(op, have);
        case LIF: return check_lif(op, have);
        case CONV2D: return check_conv(image, op, have);
        default: return false;
    }
}

// True if the `size` words from `at` lie in [low, high].
inline bool values_inside(const Word image[], Word at, Word size, Word low, Word high) {
    for (Word i = 0; i < size; ++i) {
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        if (image[at + i] < low || image[at + i] > high) return false;
    }
    return true;
}

// Decay factors: two of at most 4096 in each word.
inline bool factors_inside(const Word image[], Word at, Word size) {
    for (Word i = 0; i < size; ++i) {
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        if ((image[at + i] & 0xFFFFU) > 4096U || (image[at + i] >> 16) > 4096U) return false;
    }
    return true;
}

inline bool check_constants(const Word image[], const Op& op) {
    switch (op.kind) {
        case LINEAR: return values_inside(image, op.more, op.size, 0, 31);
        case COUNT: return (op.flags & SIGNAL_STEP) != 0 || values_inside(image, op.constants, op.size, 1, 0x7FFFFFFFU);
        case INTEGRATE: return values_inside(image, op.constants, op.size, 0, 8);
        case DELAY: return values_inside(image, op.constants, op.size, 0, op.stride);
        case LIF:
            return factors_inside(image, op.weights, op.size) &&
                   ((op.flags & POTENTIAL) != 0 || values_inside(image, op.more, op.size, 0, (1U << 17) - 1U));
        case CONV2D: return values_inside(image, op.more, load_geometry(image, op.second).outputs, 0, 31);
        default: return true;
    }
}

inline Word check_header(const Word image[], Word words) {
    if (words < HEADER_WORDS) return BAD_LENGTH;
    if (image[HEADER_MAGIC] != MAGIC) return BAD_MAGIC;
    if (image[HEADER_VERSION] != VERSION) return BAD_VERSION;
    if (image[HEADER_IMAGE_WORDS] != words) return BAD_LENGTH;
    if (crc_image(image, words, HEADER_CRC) != image[HEADER_CRC]) return BAD_CHECKSUM;
    for (Word i = HEADER_RESERVED; i < HEADER_WORDS; ++i)
        if (image[i] != 0) return BAD_LAYOUT;
    return OK;
}

template <class C>
Word check_depths(const Word image[]) {
    if (image[HEADER_SIGNAL_WORDS] > C::SIGNAL_WORDS) return SIGNALS_TOO_SMALL;
    if (image[HEADER_STATE_WORDS] > C::STATE_WORDS) return STATES_TOO_SMALL;
    if (image[HEADER_ROW_WORDS] > C::ROW_WORDS) return ROW_TOO_SMALL;
    if (image[HEADER_ACCUMULATORS] > C::ACCUMULATORS) return ACCUMULATORS_TOO_SMALL;
    return OK;
}

inline Word check_ports(const Word image[], const Limits& have) {
    if (!strides_inside(image[HEADER_PORTS_START], image[HEADER_PORTS], PORT_WORDS, have.image)) return BAD_LAYOUT;
    Word at = image[HEADER_PORTS_START], trace = 0, outputs = 0;
    for (Word i = 0; i < image[HEADER_PORTS]; ++i, at += PORT_WORDS) {
        HLS(loop_tripcount max=256)
        const Word size = image[at + PORT_SIZE];
        if (!signal_inside(image[at + PORT_SIGNAL], size, have) || size > ~trace) return status_at(BAD_LAYOUT, i);
        trace += size;
        if ((image[at + PORT_FLAGS] & PORT_OUTPUT) != 0) outputs += size;
    }
    return trace == image[HEADER_TRACE_WORDS] && outputs == image[HEADER_OUTPUT_WORDS] ? OK : BAD_LAYOUT;
}

inline Word check_ops(const Word image[], const Limits& have) {
    if (!strides_inside(image[HEADER_OPS_START], image[HEADER_OPS], OP_WORDS, have.image)) return BAD_LAYOUT;
    Word at = image[HEADER_OPS_START];
    for (Word i = 0; i < image[HEADER_OPS]; ++i, at += OP_WORDS) {
        HLS(loop_tripcount max=256)
        const Op op = load_op(image, at);
        if (!check_op(image, op, have)) return status_at(BAD_DESCRIPTOR, i);
        if (!check_constants(image, op)) return status_at(BAD_CONSTANT, i);
    }
    return OK;
}

template <class C>
Word check_image(const Word image[], Word words) {
    const Word header = check_header(image, words);
    if (header != OK) return header;
    const Word depths = check_depths<C>(image);
    if (depths != OK) return depths;
    const Limits have{words, image[HEADER_SIGNAL_WORDS], image[HEADER_STATE_WORDS], image[HEADER_ROW_WORDS], image[HEADER_ACCUMULATORS],
                      image[HEADER_INPUT_SIZE]};
    if (!inside(image[HEADER_NAMES_START], image[HEADER_NAMES_WORDS], words)) return BAD_LAYOUT;
    const Word ports = check_ports(image, have);
    return ports != OK ? ports : check_ops(image, have);
}

}  // namespace nsllm
