// Conv2d, event by event: the taps of an input channel are fetched at its first spike, and each spike adds those that reach an output.
#pragma once

#include "linear.hpp"

namespace nsllm {

// acc[start...] += row[from...] << bit (or -=): LANES accumulators per cycle, 16 for each pass through a unit, as many passes
// as there are outputs. LOG is log2 of the weight bits.
template <class C, Word LOG, bool NEGATIVE>
void add_row(const Word (&row)[C::ROW_WORDS], Index from, Word outputs, Word bit, Index start, Word (&acc)[C::ACCUMULATORS]) {
    constexpr Word TOP = 32U - (1U << LOG), PASS_MASK = (8U >> LOG) - 1U;
    for (Index first = 0; first < outputs; first += UNIT_BYTES) {
        HLS(pipeline II=1)
        HLS(unroll factor=NSLLM_UNITS)
        HLS(dependence variable=acc type=inter false)
        HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
        const Index unit = from + ((first >> unit_log(LOG)) << 2);
        const Word place = TOP - ((static_cast<Word>(first >> 4) & PASS_MASK) << LOG);
        for (Index w = 0; w < UNIT_WORDS; ++w) {
            HLS(unroll)
            const Word packed = row[unit + w];
            const Index base = start + first + (w << 2);
            NSLLM_LANE_LOOP
            for (Word byte = 0; byte < 4; ++byte) {
                HLS(unroll)
                const Word weight = bits(value(packed << (place - (byte << 3))) >> TOP) << bit;
                acc[base + byte] = NEGATIVE ? acc[base + byte] - weight : acc[base + byte] + weight;
            }
        }
    }
}

template <class C, Word LOG>
void add_count(const Word (&row)[C::ROW_WORDS], Index from, Word outputs, Value count, Index start, Word (&acc)[C::ACCUMULATORS]) {
    Word bit = 0;
    for (Word rest = magnitude(count); rest != 0; rest >>= 1, ++bit) {
        HLS(loop_tripcount max=8)
        if ((rest & 1U) == 0) continue;
        if (count < 0) add_row<C, LOG, true>(row, from, outputs, bit, start, acc);
        else add_row<C, LOG, false>(row, from, outputs, bit, start, acc);
    }
}

// A position on an axis, counted in strides: position = quotient strides + remainder. address = quotient units, the
// accumulators before the output `quotient`. It moves by additions, so that no position is ever divided.
struct Cursor {
    Word quotient, remainder, address;
};

// unit: accumulators from one output of the axis to the next; start: input 0; gap: the distance of two taps.
struct Walk {
    Axis axis;
    Word unit;
    Cursor start, gap;
};

inline Cursor cursor(Word position, Word stride, Word unit) {
    Cursor at{0, position, 0};
    for (; at.remainder >= stride; at.remainder -= stride) {
        HLS(loop_tripcount max=8)
        ++at.quotient;
        at.address += unit;
    }
    return at;
}

inline Walk walk_along(const Axis& axis, Word unit) {
    return Walk{axis, unit, cursor(axis.padding, axis.stride, unit), cursor(axis.dilation, axis.stride, unit)};
}

// To the next input.
inline void forward(const Walk& walk, Cursor& at) {
    if (++at.remainder != walk.axis.stride) return;
    at.remainder = 0;
    ++at.quotient;
    at.address += walk.unit;
}

// To the output that the next tap reaches. False: it lies before the first, as for every later tap.
inline bool back(const Walk& walk, Cursor& at) {
    const bool borrow = at.remainder < walk.gap.remainder;
    const Word strides = walk.gap.quotient + (borrow ? 1U : 0U);
    if (at.quotient < strides) return false;
    at.quotient -= strides;
    at.remainder += (borrow ? walk.axis.stride : 0U) - walk.gap.remainder;
    at.address -= walk.gap.address + (borrow ? walk.unit : 0U);
    return true;
}

inline bool on_output(const Walk& walk, const Cursor& at) { return at.remainder == 0 && at.quotient < walk.axis.outputs; }

// One event of a Conv2d: add the taps that reach an output, `outputs` weights in `words` of each, to the accumulators of these outputs.
// Accumulators are ordered by position, then output. Returns the number of taps added.
template <class C, Word LOG>
Word add_taps(const Word (&taps)[C::ROW_WORDS], const Walk& y, const Walk& x, Cursor row, Cursor column, Word words, Word outputs, Value count,
              Word group, Word (&acc)[C::ACCUMULATORS]) {
    Word added = 0, from = 0;
    for (Word i = 0; i < y.axis.kernel; ++i) {
        HLS(loop_tripcount max=5)
        Cursor at = column;
        bool inside_x = on_output(y, row);
        for (Word j = 0; j < x.axis.kernel; ++j, from += words) {
            HLS(loop_tripcount max=5)
            if (!inside_x) continue;
            if (on_output(x, at)) {
                add_count<C, LOG>(taps, from, outputs, count, group + row.address + at.address, acc);
                ++added;
            }
            inside_x = back(x, at);
        }
        if (!back(y, row)) break;
    }
    return added;
}

// Weights that one added tap stands for: its outputs, once for each set bit of the count.
inline Word tap_additions(Word outputs, Value count) {
    Word additions = 0;
    for (Word rest = magnitude(count); rest != 0; rest >>= 1) {
        HLS(loop_tripcount max=8)
        if ((rest & 1U) != 0) additions += outputs;
    }
    return additions;
}

// All events of one input channel. Its taps (op.stride words from `address`) are fetched at its first event.
template <class C, Word LOG>
void add_channel(const Word image[], Op op, const Walk& y, const Walk& x, Word group_outputs, Index source, Word address, Word group,
                 const Value (&signals)[C::SIGNAL_WORDS], Word (&acc)[C::ACCUMULATORS], Work& work) {
    Word taps[C::ROW_WORDS];
    HLS(array_partition variable=taps type=cyclic factor=NSLLM_LANES)
    const Word words = row_words(group_outputs, LOG, image[HEADER_ROW_WORDS_ALIGNED]);
    bool fetched = false;
    Cursor row = y.start;
    for (Word i = 0; i < y.axis.size; ++i, forward(y, row)) {
        HLS(loop_tripcount max=64)
        Cursor column = x.start;
        for (Word j = 0; j < x.axis.size; ++j, ++source, forward(x, column)) {
            HLS(loop_tripcount max=64)
            const Value count = signals[source];
            if (count == 0) continue;
            if (!fetched) fetch_row<C>(image, address, op.stride, taps);
            fetched = true;
            ++work.rows;
            const Word each = tap_additions(group_outputs, count);
            const Word added = add_taps<C, LOG>(taps, y, x, row, column, words, group_outputs, count, group, acc);
            work.additions += times(added, each);
        }
    }
}

// (acc + bias) << shift, from position-major accumulators to the output-major signal.
template <class C>
void finish_maps(const Word image[], Op op, const Geometry& geometry, Word positions, const Word (&acc)[C::ACCUMULATORS],
                 Value (&signals)[C::SIGNAL_WORDS]) {
    Index to = op.destination;
    for (Word o = 0; o < geometry.outputs; ++o) {
        HLS(loop_tripcount max=256)
        const Word bias = constant(image, op.constants, (op.flags & SAME_CONSTANTS) != 0, o);
        const Word shift = byte_constant(image, op.more, (op.flags & SAME_MORE) != 0, o);
        Index from = o;
        for (Word p = 0; p < positions; ++p, ++to, from += geometry.outputs) {
            HLS(pipeline II=1)
            HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
            signals[to] = value((acc[from] + bias) << shift);
        }
    }
}

template <class C>
Work convolve(const Word image[], Op op, Value (&signals)[C::SIGNAL_WORDS], Word (&acc)[C::ACCUMULATORS]) {
    const Geometry geometry = load_geometry(image, op.second);
    const Word line = times(geometry.x.outputs, geometry.outputs);  // accumulators of one output row
    const Word positions = times(geometry.y.outputs, geometry.x.outputs);
    const Word channel_size = times(geometry.y.size, geometry.x.size);
    const Walk y = walk_along(geometry.y, line), x = walk_along(geometry.x, geometry.outputs);
    Work work{0, 0};
    clear<C>(op.size, acc);
    Word address = op.weights, group = 0, member = 0;
    Index source = op.source;
    for (Word channel = 0; channel < geometry.channels; ++channel, address += op.stride, source += channel_size) {
        HLS(loop_tripcount max=256)
        switch (op.parameter) {
            case 2: add_channel<C, 1>(image, op, y, x, geometry.group_outputs, source, address, group, signals, acc, work); break;
            case 4: add_channel<C, 2>(image, op, y, x, geometry.group_outputs, source, address, group, signals, acc, work); break;
            default: add_channel<C, 3>(image, op, y, x, geometry.group_outputs, source, address, group, signals, acc, work);
        }
        if (++member != geometry.group_channels) continue;
        member = 0;
        group += geometry.group_outputs;
    }
    finish_maps<C>(image, op, geometry, positions, acc, signals);
    return work;
}

}  // namespace nsllm
