// One token: put the input events in place, run the descriptors in order, advance the delays, write the ports.
#pragma once

#include "conv.hpp"
#include "neuron.hpp"
#include "stream.hpp"

namespace nsllm {

// A neuron that does not occur has count 0. The packet is read to its end, also behind a bad event. left: its events.
template <class C>
Word place_events(const Word image[], Op op, Stream& events, Word left, Value (&signals)[C::SIGNAL_WORDS]) {
    for (Index i = 0; i < padded(op.size); ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        signals[op.destination + i] = 0;
    }
    const Word levels = image[HEADER_INPUT_LEVELS];
    Word status = OK;
    for (Word e = 0; e < left; ++e) {
        HLS(pipeline II=2)
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        const Word neuron = events.read();
        const Word count = events.read();
        if (neuron < op.size && count <= levels) signals[op.destination + neuron] = value(count);
        else if (status == OK) status = status_at(BAD_EVENT, e);
    }
    return status;
}

// The silent start: integrators, LIF neurons and delay lines at 0, every delay line at slot 0.
template <class C>
void clear_states(Word words, Value (&states)[C::STATE_WORDS]) {
    for (Index i = 0; i < words; ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_STATE_WORDS)
        states[i] = 0;
    }
}

template <class C>
void write_ports(const Word image[], bool traced, const Value (&signals)[C::SIGNAL_WORDS], Stream& results) {
    Word at = image[HEADER_PORTS_START];
    for (Word p = 0; p < image[HEADER_PORTS]; ++p, at += PORT_WORDS) {
        HLS(loop_tripcount max=256)
        if (!traced && (image[at + PORT_FLAGS] & PORT_OUTPUT) == 0) continue;
        const Index signal = image[at + PORT_SIGNAL], size = image[at + PORT_SIZE];
        for (Index i = 0; i < size; ++i) {
            HLS(pipeline II=1)
            HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
            results.write(bits(signals[signal + i]));
        }
    }
}

template <class C>
Word run_op(const Word image[], Op op, Stream& events, Word left, Value (&signals)[C::SIGNAL_WORDS],
            Value (&states)[C::STATE_WORDS], Fields<C>& fields, Word (&acc)[C::ACCUMULATORS], Work& work) {
    switch (op.kind) {
        case INPUT: return place_events<C>(image, op, events, left, signals);
        case LINEAR: work = linear<C>(image, op, signals, fields, acc); break;
        case CONV2D: work = convolve<C>(image, op, signals, acc); break;
        default: elementwise<C>(image, op, signals, states);
    }
    return OK;
}

template <class C>
Word run_token(const Word image[], Stream& events, bool traced, Stream& results, Work (&counters)[C::DESCRIPTORS],
               Value (&signals)[C::SIGNAL_WORDS], Value (&states)[C::STATE_WORDS], Fields<C>& fields, Word (&acc)[C::ACCUMULATORS]) {
    const Word ops = image[HEADER_OPS], left = events.read();
    Word at = image[HEADER_OPS_START];
    for (Word i = 0; i < ops; ++i, at += OP_WORDS) {
        HLS(loop_tripcount max=NSLLM_DESCRIPTORS)
        counters[i] = Work{0, 0};
        const Word status = run_op<C>(image, load_op(image, at), events, left, signals, states, fields, acc, counters[i]);
        if (status != OK) return status;
    }
    at = image[HEADER_OPS_START];
    for (Word i = 0; i < ops; ++i, at += OP_WORDS) {
        HLS(loop_tripcount max=NSLLM_DESCRIPTORS)
        const Op op = load_op(image, at);
        if (op.kind == DELAY) advance<C>(op, signals, states);
    }
    write_ports<C>(image, traced, signals, results);
    for (Word i = 0; i < ops; ++i) {
        HLS(pipeline II=2)
        HLS(loop_tripcount max=NSLLM_DESCRIPTORS)
        results.write(counters[i].rows);
        results.write(counters[i].additions);
    }
    return OK;
}

}  // namespace nsllm
