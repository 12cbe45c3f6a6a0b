// One token: put the input events in place, run the descriptors in order, advance the delays, write the ports.
#pragma once

#include "conv.hpp"
#include "neuron.hpp"

namespace nsllm {

// events: pairs (neuron, count). A neuron that does not occur has count 0.
template <class C>
Word place_events(const Word image[], Op op, const Word events[], Word event_count, Value (&signals)[C::SIGNAL_WORDS]) {
    for (Index i = 0; i < padded(op.size); ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_SIGNAL_WORDS)
        signals[op.destination + i] = 0;
    }
    for (Word e = 0, at = 0; e < event_count; ++e, at += 2) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_EVENT_DEPTH)
        if (events[at] >= op.size || events[at + 1] > image[HEADER_INPUT_LEVELS]) return status_at(BAD_EVENT, e);
        signals[op.destination + events[at]] = value(events[at + 1]);
    }
    return OK;
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
void write_ports(const Word image[], bool traced, const Value (&signals)[C::SIGNAL_WORDS], Value out[]) {
    Word at = image[HEADER_PORTS_START];
    Index written = 0;
    for (Word p = 0; p < image[HEADER_PORTS]; ++p, at += PORT_WORDS) {
        HLS(loop_tripcount max=256)
        if (!traced && (image[at + PORT_FLAGS] & PORT_OUTPUT) == 0) continue;
        const Index signal = image[at + PORT_SIGNAL], size = image[at + PORT_SIZE];
        for (Index i = 0; i < size; ++i, ++written) {
            HLS(pipeline II=1)
            HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
            out[written] = signals[signal + i];
        }
    }
}

template <class C>
Word run_op(const Word image[], Op op, const Word events[], Word event_count, Value (&signals)[C::SIGNAL_WORDS],
            Value (&states)[C::STATE_WORDS], Fields<C>& fields, Word (&acc)[C::ACCUMULATORS], Work& work) {
    switch (op.kind) {
        case INPUT: return place_events<C>(image, op, events, event_count, signals);
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
Word run_token(const Word image[], const Word events[], Word event_count, bool traced, Value out[], Word counters[],
               Value (&signals)[C::SIGNAL_WORDS], Value (&states)[C::STATE_WORDS], Fields<C>& fields, Word (&acc)[C::ACCUMULATORS]) {
    const Word ops = image[HEADER_OPS];
    Word at = image[HEADER_OPS_START], counter = 0;
    for (Word i = 0; i < ops; ++i, at += OP_WORDS, counter += 2) {
        HLS(loop_tripcount max=256)
        Work work{0, 0};
        const Word status = run_op<C>(image, load_op(image, at), events, event_count, signals, states, fields, acc, work);
        if (status != OK) return status;
        counters[counter] = work.rows;
        counters[counter + 1] = work.additions;
    }
    at = image[HEADER_OPS_START];
    for (Word i = 0; i < ops; ++i, at += OP_WORDS) {
        HLS(loop_tripcount max=256)
        const Op op = load_op(image, at);
        if (op.kind == DELAY) advance<C>(op, signals, states);
    }
    write_ports<C>(image, traced, signals, out);
    return OK;
}

}  // namespace nsllm
