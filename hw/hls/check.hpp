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
    Word image, signals, states, row, accumulators, input, alignment;
};

// A signal of `size` neurons: aligned, and whole padded blocks inside the signal memory.
inline bool signal_inside(Word at, Word size, const Limits& have) {
    return size >= 1 && size <= have.signals && (at & (ALIGNMENT - 1)) == 0 && inside(at, padded(size), have.signals);
}

inline bool section_inside(Word at, Word size, const Limits& have) { return size <= have.image && inside(at, padded(size), have.image); }

constexpr Word byte_words(Word values) { return (values >> 2) + ((values & 3U) != 0 ? 1U : 0U); }

// A constant of `neurons`, whose field is `at`: absent, one for all neurons (`same` is its flag), or a section.
inline bool constant_inside(const Op& op, const Constant& constant, Word same, Word at, Word neurons, const Limits& have) {
    if (constant.layout == NONE) return true;
    if ((op.flags & constant.without) != 0) return (op.flags & same) == 0;
    return (op.flags & same) != 0 || section_inside(at, constant.layout == BYTES ? byte_words(neurons) : neurons, have);
}

// `count` states of `words` each, aligned.
inline bool states_inside(const Op& op, Word count, Word words, const Limits& have) {
    return (op.state & (ALIGNMENT - 1)) == 0 && strides_inside(op.state, count, words, have.states);
}

// `rows` aligned rows or kernel blocks.
inline bool weights_inside(const Op& op, Word rows, const Limits& have) {
    return weight_log(op.parameter) != 0 && ((op.stride | op.weights) & (have.alignment - 1)) == 0 && op.stride <= have.row &&
           strides_inside(op.weights, rows, op.stride, have.image);
}

inline bool check_linear(const Op& op, const Limits& have) {
    return signal_inside(op.source, op.source_size, have) && weights_inside(op, op.source_size, have) && op.size <= have.accumulators &&
           row_words(op.size, weight_log(op.parameter), have.alignment) <= op.stride;
}

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
    for (; channels < geometry.channels; channels += geometry.group_channels, outputs += geometry.group_outputs) {
        HLS(loop_tripcount max=256)
        if (geometry.group_channels > geometry.channels - channels || geometry.group_outputs > geometry.outputs - outputs) return false;
    }
    return outputs == geometry.outputs;
}

// Sizes, kernel blocks and accumulators of a geometry whose axes are valid.
inline bool check_maps(const Op& op, const Geometry& geometry, const Limits& have) {
    Word plane = 0, neurons = 0, taps = 0, block = 0;
    if (!total_inside(geometry.y.size, geometry.x.size, op.source_size, plane)) return false;
    if (!total_inside(geometry.channels, plane, op.source_size, neurons) || neurons != op.source_size) return false;
    if (!total_inside(geometry.y.outputs, geometry.x.outputs, op.size, plane)) return false;
    if (!total_inside(geometry.outputs, plane, op.size, neurons) || neurons != op.size) return false;
    const Word log = weight_log(op.parameter), lanes = unit_words(geometry.group_outputs, log) << (5U - log);
    const Word words = row_words(geometry.group_outputs, log, have.alignment);
    if (!total_inside(geometry.y.kernel, geometry.x.kernel, op.stride, taps) || !total_inside(taps, words, op.stride, block)) return false;
    return op.size <= have.accumulators && inside(op.size - geometry.group_outputs, lanes, have.accumulators);
}

inline bool check_conv(const Word image[], const Op& op, const Limits& have) {
    if (!signal_inside(op.source, op.source_size, have) || !section_inside(op.second, GEOMETRY_WORDS, have)) return false;
    const Geometry geometry = load_geometry(image, op.second);
    if (!check_axis(geometry.y) || !check_axis(geometry.x) || !check_groups(geometry, have)) return false;
    return weights_inside(op, geometry.channels, have) && check_maps(op, geometry, have);
}

inline bool check_sum(const Word image[], const Op& op, const Limits& have) {
    if (op.source_size < 1 || !section_inside(op.more, op.source_size, have)) return false;
    for (Word i = 0; i < op.source_size; ++i) {
        HLS(loop_tripcount max=16)
        if (!signal_inside(image[op.more + i], op.size, have)) return false;
    }
    return true;
}

// The line of past tokens, behind the slot of the current one.
inline bool check_delay(const Op& op, const Limits& have) {
    return op.stride == 0 || (states_inside(op, 1, ALIGNMENT, have) && strides_inside(op.state + ALIGNMENT, op.stride, padded(op.size), have.states));
}

// The neurons that have a constant each.
inline Word constant_neurons(const Word image[], const Op& op) {
    return op.kind == CONV2D ? load_geometry(image, op.second).outputs : op.size;
}

// What the descriptor refers to by its format alone.
inline bool check_format(const Word image[], const Op& op, const Format& format, const Limits& have) {
    if ((format.source && !signal_inside(op.source, op.size, have)) || (format.second && !signal_inside(op.second, op.size, have))) return false;
    if (op.parameter < format.parameter_low || op.parameter > format.parameter_high) return false;
    if (format.states != 0 && !states_inside(op, format.states, padded(op.size), have)) return false;
    const Word neurons = constant_neurons(image, op);
    return constant_inside(op, format.constants, SAME_CONSTANTS, op.constants, neurons, have) &&
           constant_inside(op, format.more, SAME_MORE, op.more, neurons, have) &&
           constant_inside(op, format.weights, SAME_WEIGHTS, op.weights, neurons, have);
}

// Beyond the format, what a kind asks for.
inline bool check_kind(const Word image[], const Op& op, const Limits& have) {
    switch (op.kind) {
        case INPUT: return op.size == have.input;
        case LINEAR: return check_linear(op, have);
        case SUM: return check_sum(image, op, have);
        case COUNT: return (op.flags & SIGNAL_STEP) == 0 || signal_inside(op.second, op.size, have);
        case DELAY: return check_delay(op, have);
        case CONV2D: return check_conv(image, op, have);
        default: return true;
    }
}

inline bool check_op(const Word image[], const Op& op, const Limits& have) {
    if (op.kind < 1 || op.kind > LAST_KIND) return false;
    const Format format = format_of(static_cast<Kind>(op.kind));
    if (!signal_inside(op.destination, op.size, have) || op.reserved0 != 0 || op.reserved1 != 0 || (op.flags & ~format.flags) != 0) return false;
    return check_kind(image, op, have) && check_format(image, op, format, have);
}

// True if the constant, of `size` neurons, lies in [low, high].
inline bool values_inside(const Word image[], Word at, bool same, Word size, Word low, Word high) {
    for (Word i = 0; i < (same ? 1U : size); ++i) {
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        const Word found = constant(image, at, same, i);
        if (found < low || found > high) return false;
    }
    return true;
}

// True if the constant of bytes is at most `high`.
inline bool bytes_inside(const Word image[], Word at, bool same, Word size, Word high) {
    for (Word i = 0; i < (same ? 1U : size); ++i) {
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        if (byte_constant(image, at, same, i) > high) return false;
    }
    return true;
}

// Decay factors: two of at most `high` in each word.
inline bool factors_inside(const Word image[], Word at, bool same, Word size, Word high) {
    for (Word i = 0; i < (same ? 1U : size); ++i) {
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        const Word factors = constant(image, at, same, i);
        if ((factors & 0xFFFFU) > high || (factors >> 16) > high) return false;
    }
    return true;
}

// The values of a constant of `neurons` whose field is `at`.
inline bool check_constant(const Word image[], const Op& op, const Constant& constant, Word same, Word at, Word neurons) {
    const bool one = (op.flags & same) != 0;
    if ((op.flags & constant.without) != 0) return true;
    switch (constant.layout) {
        case NONE: return true;
        case WORDS: return (constant.low == 0 && constant.high == ~0U) || values_inside(image, at, one, neurons, constant.low, constant.high);
        case BYTES: return bytes_inside(image, at, one, neurons, constant.high);
        case FACTORS: return factors_inside(image, at, one, neurons, constant.high);
    }
    return false;
}

inline bool check_constants(const Word image[], const Op& op) {
    const Format format = format_of(static_cast<Kind>(op.kind));
    const Word neurons = constant_neurons(image, op);
    if (op.kind == DELAY && !values_inside(image, op.constants, (op.flags & SAME_CONSTANTS) != 0, neurons, 0, op.stride)) return false;
    return check_constant(image, op, format.constants, SAME_CONSTANTS, op.constants, neurons) &&
           check_constant(image, op, format.more, SAME_MORE, op.more, neurons) &&
           check_constant(image, op, format.weights, SAME_WEIGHTS, op.weights, neurons);
}

inline Word check_header(const Word image[], Word words) {
    if (words < HEADER_WORDS) return BAD_LENGTH;
    if (image[HEADER_MAGIC] != MAGIC) return BAD_MAGIC;
    if (image[HEADER_VERSION] != VERSION) return BAD_VERSION;
    if (image[HEADER_IMAGE_WORDS] != words) return BAD_LENGTH;
    if (crc_image(image, words, HEADER_CRC) != image[HEADER_CRC]) return BAD_CHECKSUM;
    for (Word i = HEADER_RESERVED; i < HEADER_WORDS; ++i)
        if (image[i] != 0) return BAD_LAYOUT;
    return is_row_alignment(image[HEADER_ROW_WORDS_ALIGNED]) ? OK : BAD_LAYOUT;
}

template <class C>
Word check_depths(const Word image[]) {
    if (image[HEADER_SIGNAL_WORDS] > C::SIGNAL_WORDS) return SIGNALS_TOO_SMALL;
    if (image[HEADER_STATE_WORDS] > C::STATE_WORDS) return STATES_TOO_SMALL;
    if (image[HEADER_ROW_WORDS] > C::ROW_WORDS) return ROW_TOO_SMALL;
    if (image[HEADER_ACCUMULATORS] > C::ACCUMULATORS) return ACCUMULATORS_TOO_SMALL;
    if (image[HEADER_POTENTIAL_BITS] > C::BITS || image[HEADER_COMPARATOR_BITS] > C::BITS) return BITS_TOO_WIDE;
    if (image[HEADER_OPS] > C::DESCRIPTORS) return TOO_MANY_OPS;
    return OK;
}

inline Word check_ports(const Word image[], const Limits& have) {
    if (!strides_inside(image[HEADER_PORTS_START], image[HEADER_PORTS], PORT_WORDS, have.image)) return BAD_LAYOUT;
    Word at = image[HEADER_PORTS_START];
    std::uint64_t trace = 0, outputs = 0;
    for (Word i = 0; i < image[HEADER_PORTS]; ++i, at += PORT_WORDS) {
        HLS(loop_tripcount max=256)
        const Word size = image[at + PORT_SIZE];
        if (!signal_inside(image[at + PORT_SIGNAL], size, have)) return status_at(BAD_LAYOUT, i);
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
                      image[HEADER_INPUT_SIZE], image[HEADER_ROW_WORDS_ALIGNED]};
    if (!inside(image[HEADER_NAMES_START], image[HEADER_NAMES_WORDS], words)) return BAD_LAYOUT;
    const Word ports = check_ports(image, have);
    return ports != OK ? ports : check_ops(image, have);
}

}  // namespace nsllm
