// Linear, event by event: weight rows are fetched only for source neurons that spiked.
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
Word collect(Op op, const Value (&signals)[C::SIGNAL_WORDS], Word first, Word last, Word& address,
             Word (&rows)[C::QUEUE_WORDS], Value (&counts)[C::QUEUE_WORDS]) {
    Index events = 0;
    for (Index i = first; i < last; ++i, address += op.stride) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_QUEUE_WORDS)
        const Value count = signals[op.source + i];
        rows[events] = address;  // the next neuron takes the place of a silent one: no branch to predict
        counts[events] = count;
        events += count != 0 ? 1U : 0U;
    }
    return static_cast<Word>(events);
}

// Bits set in the counts of the queue: each is one addition of a row.
template <class C>
Word set_bits(const Value (&counts)[C::QUEUE_WORDS], Word events) {
    Word set = 0;
    for (Word event = 0; event < events; ++event) {
        HLS(loop_tripcount max=NSLLM_QUEUE_WORDS)
        for (Word rest = magnitude(counts[event]); rest != 0; rest &= rest - 1U) {
            HLS(loop_tripcount max=8)
            ++set;
        }
    }
    return set;
}

template <class C>
void fetch_row(const Word image[], Word address, Word words, Word (&row)[C::ROW_WORDS]) {
    const Index at = address;
    for (Index i = 0; i < words; ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_ROW_WORDS)
        row[i] = image[at + i];
    }
}

template <class C>
void silence_row(Word words, Word (&row)[C::ROW_WORDS]) {
    for (Index i = 0; i < words; ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_ROW_WORDS)
        row[i] = 0;
    }
}

// A batch: up to ROWS rows that are added in one pass.
template <class C>
void fetch(const Word image[], const Word (&rows)[C::QUEUE_WORDS], Word first, Word events, Word words, Word (&row)[C::ROWS][C::ROW_WORDS]) {
    for (Word r = 0; r < C::ROWS; ++r) {
        if (r < events - first) fetch_row<C>(image, rows[first + r], words, row[r]);
        else silence_row<C>(words, row[r]);
    }
}

// Sums of unsigned weights, two of 16 bits in a word: `even` sums the weights in bytes 0 and 2 of a word of weights, `odd`
// those in bytes 1 and 3. Pass q stands for the q-th weight of each byte and has its sums after those of pass q - 1.
// spikes: magnitude of the counts in the sums; bias: what the sums exceed the signed ones by, the same for all outputs.
template <class C>
struct Fields {
    Word even[C::ACCUMULATORS >> 2], odd[C::ACCUMULATORS >> 2];
    Word spikes, bias;
};

constexpr Word FIELD_SPIKES = 255;  // 255 weights of at most 255 fit 16 bits

// The lowest weights, of 2^log bits, of bytes 0 and 2.
constexpr Word field_mask(Word log) { return log == 3 ? 0x00FF00FFU : log == 2 ? 0x000F000FU : 0x00030003U; }

// The sign bit of every weight of a word: inverting it adds half of the range, which makes the weight unsigned.
constexpr Word sign_mask(Word log) { return log == 3 ? 0x80808080U : log == 2 ? 0x88888888U : 0xAAAAAAAAU; }

// Add ROWS rows, each after inverting the bits `flip` and where `keep` is not 0, times 2^bit.
template <class C, Word LOG>
void add_fields(const Word (&row)[C::ROWS][C::ROW_WORDS], const Word (&flip)[C::ROWS], const Word (&keep)[C::ROWS], Word words, Word bit,
                Fields<C>& fields) {
    Index at = 0;
    for (Word shift = 0; shift < 8; shift += 1U << LOG) {
        HLS(loop_tripcount max=4)
        NSLLM_LANE_LOOP
        for (Index w = 0; w < words; ++w) {
            HLS(pipeline II=1)
            HLS(unroll factor=NSLLM_BEAT)
            HLS(loop_tripcount max=NSLLM_ROW_WORDS)
            Word even = 0, odd = 0;
            for (Index r = 0; r < C::ROWS; ++r) {
                HLS(unroll)
                const Word weights = (row[r][w] ^ flip[r]) >> shift;
                even += weights & keep[r];
                odd += (weights >> 8) & keep[r];
            }
            fields.even[at + w] += even << bit;
            fields.odd[at + w] += odd << bit;
        }
        at += words;
    }
}

// acc += (sums - bias) << bit; the sums are then 0.
template <class C, Word LOG>
void flush(Word words, Word bit, Fields<C>& fields, Word (&acc)[C::ACCUMULATORS]) {
    constexpr Index UNIT = Index{1} << unit_log(LOG);
    const Word bias = fields.bias;
    Index at = 0;
    for (Index pass = 0; pass < UNIT; pass += UNIT_BYTES) {
        HLS(loop_tripcount max=4)
        Index output = pass;
        for (Index unit = 0; unit < words; unit += UNIT_WORDS, at += UNIT_WORDS, output += UNIT) {
            HLS(pipeline II=1)
            HLS(loop_tripcount max=NSLLM_ROW_WORDS)
            for (Index w = 0; w < UNIT_WORDS; ++w) {
                HLS(unroll)
                const Word even = fields.even[at + w], odd = fields.odd[at + w];
                const Index first = output + (w << 2);
                acc[first] += ((even & 0xFFFFU) - bias) << bit;
                acc[first + 1] += ((odd & 0xFFFFU) - bias) << bit;
                acc[first + 2] += ((even >> 16) - bias) << bit;
                acc[first + 3] += ((odd >> 16) - bias) << bit;
                fields.even[at + w] = fields.odd[at + w] = 0;
            }
        }
    }
    fields.spikes = fields.bias = 0;
}

// A batch, bit by bit of its counts. A batch whose counts are too large for 16-bit sums goes to the accumulators at every bit.
template <class C, Word LOG>
void add_batch(const Word (&row)[C::ROWS][C::ROW_WORDS], const Value (&counts)[C::QUEUE_WORDS], Word first, Word events, Word words,
               Fields<C>& fields, Word (&acc)[C::ACCUMULATORS]) {
    constexpr Word HALF_RANGE = 1U << ((1U << LOG) - 1U);
    Value count[C::ROWS];
    HLS(array_partition variable=count type=complete)
    Word any = 0, spikes = 0;
    for (Word r = 0; r < C::ROWS; ++r) {
        HLS(unroll)
        count[r] = first + r < events ? counts[first + r] : 0;
        const Word size = magnitude(count[r]);
        any |= size;
        spikes += size > FIELD_SPIKES ? FIELD_SPIKES + 1U : size;
    }
    const bool wide = spikes > FIELD_SPIKES;
    if (fields.spikes + spikes > FIELD_SPIKES) flush<C, LOG>(words, 0, fields, acc);
    for (Word bit = 0; (any >> bit) != 0; ++bit) {
        HLS(loop_tripcount max=8)
        Word flip[C::ROWS], keep[C::ROWS], bias = 0;
        HLS(array_partition variable=flip type=complete)
        HLS(array_partition variable=keep type=complete)
        for (Word r = 0; r < C::ROWS; ++r) {
            HLS(unroll)
            const bool here = ((magnitude(count[r]) >> bit) & 1U) != 0, negative = count[r] < 0;
            flip[r] = negative ? ~sign_mask(LOG) : sign_mask(LOG);  // ~w = -w - 1
            keep[r] = here ? field_mask(LOG) : 0U;
            bias += !here ? 0U : negative ? HALF_RANGE - 1U : HALF_RANGE;
        }
        const Word shift = wide ? 0U : bit;
        add_fields<C, LOG>(row, flip, keep, words, shift, fields);
        fields.bias += bias << shift;
        if (wide) flush<C, LOG>(words, bit, fields, acc);
        if (bit == 31) break;
    }
    if (!wide) fields.spikes += spikes;
}

// Fetching the next batch overlaps adding this one.
template <class C, Word LOG>
void drain(const Word image[], const Word (&rows)[C::QUEUE_WORDS], const Value (&counts)[C::QUEUE_WORDS], Word events, Word words,
           Fields<C>& fields, Word (&acc)[C::ACCUMULATORS]) {
    for (Word first = 0; first < events; first += C::ROWS) {
        HLS(dataflow)
        HLS(loop_tripcount max=NSLLM_QUEUE_WORDS)
        Word row[C::ROWS][C::ROW_WORDS];
        HLS(array_partition variable=row type=complete dim=1)
        HLS(array_partition variable=row type=cyclic factor=NSLLM_BEAT dim=2)
        fetch<C>(image, rows, first, events, words, row);
        add_batch<C, LOG>(row, counts, first, events, words, fields, acc);
    }
    flush<C, LOG>(words, 0, fields, acc);
}

template <class C>
void finish(const Word image[], Op op, const Word (&acc)[C::ACCUMULATORS], Value (&signals)[C::SIGNAL_WORDS]) {
    const bool same_bias = (op.flags & SAME_CONSTANTS) != 0, same_shift = (op.flags & SAME_MORE) != 0;
    for (Index i = 0; i < op.size; ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
        const Word bias = constant(image, op.constants, same_bias, i), shift = byte_constant(image, op.more, same_shift, i);
        signals[op.destination + i] = value((acc[i] + bias) << shift);
    }
}

template <class C>
void clear(Word size, Word (&acc)[C::ACCUMULATORS]) {
    for (Index i = 0; i < padded(size); ++i) {
        HLS(pipeline II=1)
        HLS(unroll factor=NSLLM_LANES)
        HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
        acc[i] = 0;
    }
}

template <class C>
Work linear(const Word image[], Op op, Value (&signals)[C::SIGNAL_WORDS], Fields<C>& fields, Word (&acc)[C::ACCUMULATORS]) {
    Word rows[C::QUEUE_WORDS];
    Value counts[C::QUEUE_WORDS];
    Work work{0, 0};
    clear<C>(op.size, acc);
    const Word words = unit_words(op.size, weight_log(op.parameter));
    Word address = op.weights;
    for (Word first = 0; first < op.source_size; first += C::QUEUE_WORDS) {
        HLS(loop_tripcount max=64)
        const Word left = op.source_size - first;
        const Word last = first + (left < C::QUEUE_WORDS ? left : C::QUEUE_WORDS);
        const Word events = collect<C>(op, signals, first, last, address, rows, counts);
        work.rows += events;
        work.additions += times(set_bits<C>(counts, events), op.size);
        switch (op.parameter) {
            case 2: drain<C, 1>(image, rows, counts, events, words, fields, acc); break;
            case 4: drain<C, 2>(image, rows, counts, events, words, fields, acc); break;
            default: drain<C, 3>(image, rows, counts, events, words, fields, acc);
        }
    }
    finish<C>(image, op, acc, signals);
    return work;
}

}  // namespace nsllm
