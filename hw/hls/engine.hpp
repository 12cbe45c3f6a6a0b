// One token: put the input events in place, run the descriptors in order, advance the delays, write the ports.
#pragma once

#include "conv.hpp"
#include "neuron.hpp"

namespace nsllm {

// The packet of one token, read in its order. at: its next word; left: events not yet read.
struct Packet {
    Index at;
    Word left;
};

// A neuron that does not occur has count 0. The packet is read to its end, also behind a bad event.
template <class C>
Word place_events(const Word image[], Op op, const Word events[], Packet& packet, Value (&signals)[C::SIGNAL_WORDS]) {
    for (Index i = 0; i < padded(op.size); ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        signals[op.destination + i] = 0;
    }
    const Word levels = image[HEADER_INPUT_LEVELS];
    Word status = OK;
    for (Word e = 0; packet.left != 0; ++e, --packet.left) {
        HLS(pipeline II=2)
        HLS(loop_tripcount max=NSLLM_EVENT_DEPTH)
        const Word neuron = events[packet.at++], count = events[packet.at++];
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

// Returns the number of words written.
template <class C>
Index write_ports(const Word image[], bool traced, const Value (&signals)[C::SIGNAL_WORDS], Word results[]) {
    Word at = image[HEADER_PORTS_START];
    Index written = 0;
    for (Word p = 0; p < image[HEADER_PORTS]; ++p, at += PORT_WORDS) {
        HLS(loop_tripcount max=256)
        if (!traced && (image[at + PORT_FLAGS] & PORT_OUTPUT) == 0) continue;
        const Index signal = image[at + PORT_SIGNAL], size = image[at + PORT_SIZE];
        for (Index i = 0; i < size; ++i, ++written) {
            HLS(pipeline II=1)
            HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
            results[written] = bits(signals[signal + i]);
        }
    }
    return written;
}

template <class C>
Word run_op(const Word image[], Op op, const Word events[], Packet& packet, Value (&signals)[C::SIGNAL_WORDS],
            Value (&states)[C::STATE_WORDS], Fields<C>& fields, Word (&acc)[C::ACCUMULATORS], Work& work) {
    switch (op.kind) {
        case INPUT: return place_events<C>(image, op, events, packet, signals);
        case LINEAR: work = linear<C>(image, op, signals, fields, acc); break;
        case SUM: sum<C>(image, op, signals); break;
        case COUNT: count<C>(image, op, signals); break;
        case GATE: gate<C>(op, signals); break;
        case INTEGRATE: integrate<C>(image, op, signals, states); break;
        case LIF: lif<C>(image, op, signals, states); break;
        case CONV2D: work = convolve<C>(image, op, signals, acc); break;
        default: delay<C>(image, op, signals, states);
    }
    return OK;
}

template <class C>
Word run_token(const Word image[], const Word events[], bool traced, Word results[], Work (&counters)[C::DESCRIPTORS],
               Value (&signals)[C::SIGNAL_WORDS], Value (&states)[C::STATE_WORDS], Fields<C>& fields, Word (&acc)[C::ACCUMULATORS]) {
    const Word ops = image[HEADER_OPS];
    Packet packet{1, events[0]};
    Word at = image[HEADER_OPS_START];
    for (Word i = 0; i < ops; ++i, at += OP_WORDS) {
        HLS(loop_tripcount max=NSLLM_DESCRIPTORS)
        counters[i] = Work{0, 0};
        const Word status = run_op<C>(image, load_op(image, at), events, packet, signals, states, fields, acc, counters[i]);
        if (status != OK) return status;
    }
    at = image[HEADER_OPS_START];
    for (Word i = 0; i < ops; ++i, at += OP_WORDS) {
        HLS(loop_tripcount max=NSLLM_DESCRIPTORS)
        const Op op = load_op(image, at);
        if (op.kind == DELAY) advance<C>(op, signals, states);
    }
    Index written = write_ports<C>(image, traced, signals, results);
    for (Word i = 0; i < ops; ++i) {
        HLS(pipeline II=2)
        HLS(loop_tripcount max=NSLLM_DESCRIPTORS)
        results[written++] = counters[i].rows;
        results[written++] = counters[i].additions;
    }
    return OK;
}

}  // namespace nsllm
