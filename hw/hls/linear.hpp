// Linear, event by event: one packed weight row is fetched for each source neuron that spiked, none for the others.
#pragma once

#include "image.hpp"
#include "integer.hpp"

namespace nsllm {

// Rows fetched and additions done by one op in one token, modulo 2^32.
struct Work {
    Word rows, additions;
};

// Queue the spiking neurons among [first, last): address of the row and count. Returns how many.
template <class C>
Word collect(const Op& op, const Value (&signals)[C::SIGNAL_WORDS], Word first, Word last, Word& address,
             Word (&rows)[C::QUEUE_WORDS], Value (&counts)[C::QUEUE_WORDS], Work& work) {
    Word events = 0;
    for (Index i = first; i < last; ++i, address += op.stride) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_QUEUE_WORDS)
        const Value c = signals[op.source + i];
        if (c == 0) continue;
        rows[events] = address;
        counts[events] = c;
        ++events;
        ++work.rows;
        for (Word bit = 0; bit < 32; ++bit) {
            HLS(unroll)
            if (((magnitude(c) >> bit) & 1U) != 0) work.additions += op.size;
        }
    }
    return events;
}

template <class C>
void fetch(const Word image[], const Word (&rows)[C::QUEUE_WORDS], Word event, Word words, Word (&row)[C::ROW_WORDS]) {
    const Index at = rows[event];
    for (Index i = 0; i < words; ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_ROW_WORDS)
        row[i] = image[at + i];
    }
}

// acc += row << bit (or -=): LANES accumulators per cycle. LOG is log2 of the weight bits.
template <class C, Word LOG, bool NEGATIVE>
void add_row(const Word (&row)[C::ROW_WORDS], Word words, Word bit, Word (&acc)[C::ACCUMULATORS]) {
    constexpr Word EACH = per_word(LOG), TOP = 32U - (1U << LOG), BEAT = C::LANES >> (5U - LOG);
    for (Index first = 0; first < words; first += BEAT) {
        HLS(pipeline II=1)
        HLS(dependence variable=acc type=inter false)
        HLS(loop_tripcount max=NSLLM_ROW_WORDS)
        for (Index b = 0; b < BEAT; ++b) {
            HLS(unroll)
            const Index w = first + b, base = w << (5U - LOG);
            if (w >= words) continue;
            const Word packed = row[w];
            NSLLM_LANE_LOOP
            for (Index k = 0; k < EACH; ++k) {
                HLS(unroll)
                const Word weight = bits(value(packed << (TOP - (k << LOG))) >> TOP) << bit;
                acc[base + k] = NEGATIVE ? acc[base + k] - weight : acc[base + k] + weight;
            }
        }
    }
}

template <class C, Word LOG>
void add_count(const Word (&row)[C::ROW_WORDS], Word words, Value count, Word (&acc)[C::ACCUMULATORS]) {
    Word bit = 0;
    for (Word rest = magnitude(count); rest != 0; rest >>= 1, ++bit) {
        HLS(loop_tripcount max=8)
        if ((rest & 1U) == 0) continue;
        if (count < 0) add_row<C, LOG, true>(row, words, bit, acc);
        else add_row<C, LOG, false>(row, words, bit, acc);
    }
}

template <class C>
void accumulate(const Word (&row)[C::ROW_WORDS], const Value (&counts)[C::QUEUE_WORDS], Word event, Word words, Word weight_bits,
                Word (&acc)[C::ACCUMULATORS]) {
    switch (weight_bits) {
        case 2: add_count<C, 1>(row, words, counts[event], acc); break;
        case 4: add_count<C, 2>(row, words, counts[event], acc); break;
        default: add_count<C, 3>(row, words, counts[event], acc);
    }
}

// Fetching the next row overlaps accumulating this one.
template <class C>
void drain(const Word image[], const Word (&rows)[C::QUEUE_WORDS], const Value (&counts)[C::QUEUE_WORDS], Word events, Word words,
           Word weight_bits, Word (&acc)[C::ACCUMULATORS]) {
    for (Word event = 0; event < events; ++event) {
        HLS(dataflow)
        HLS(loop_tripcount max=NSLLM_QUEUE_WORDS)
        Word row[C::ROW_WORDS];
        HLS(array_partition variable=row type=cyclic factor=NSLLM_LANES)
        fetch<C>(image, rows, event, words, row);
        accumulate<C>(row, counts, event, words, weight_bits, acc);
    }
}

template <class C>
void finish(const Word image[], const Op& op, const Word (&acc)[C::ACCUMULATORS], Value (&signals)[C::SIGNAL_WORDS]) {
    for (Index i = 0; i < op.size; ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
        signals[op.destination + i] = value((acc[i] + image[op.constants + i]) << image[op.more + i]);
    }
}

template <class C>
Work linear(const Word image[], const Op& op, Value (&signals)[C::SIGNAL_WORDS], Word (&acc)[C::ACCUMULATORS]) {
    Word rows[C::QUEUE_WORDS];
    Value counts[C::QUEUE_WORDS];
    Work work{0, 0};
    for (Index i = 0; i < padded(op.size); ++i) {
        HLS(pipeline II=1)
        HLS(unroll factor=NSLLM_LANES)
        HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
        acc[i] = 0;
    }
    const Word words = packed_words(op.size, weight_log(op.parameter));
    Word address = op.weights;
    for (Word first = 0; first < op.source_size; first += C::QUEUE_WORDS) {
        HLS(loop_tripcount max=64)
        const Word left = op.source_size - first;
        const Word last = first + (left < C::QUEUE_WORDS ? left : C::QUEUE_WORDS);
        const Word events = collect<C>(op, signals, first, last, address, rows, counts, work);
        drain<C>(image, rows, counts, events, words, op.parameter, acc);
    }
    finish<C>(image, op, acc, signals);
    return work;
}

}  // namespace nsllm
