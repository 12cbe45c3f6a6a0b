// The elementwise ops: sums, spike counts, gates, leaky integrators, LIF neurons and delays. Adds, compares, shifts, selections.
#pragma once

#include "image.hpp"
#include "integer.hpp"

namespace nsllm {

template <class C>
void sum(const Word image[], Op op, Value (&signals)[C::SIGNAL_WORDS]) {
    for (Index i = 0; i < op.size; ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
        signals[op.destination + i] = value(constant(image, op.constants, (op.flags & SAME_CONSTANTS) != 0, i));
    }
    for (Word s = 0; s < op.source_size; ++s) {
        HLS(loop_tripcount max=16)
        const Index source = image[op.more + s];
        for (Index i = 0; i < op.size; ++i) {
            HLS(pipeline II=1)
            HLS(dependence variable=signals type=inter false)
            HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
            signals[op.destination + i] = add(signals[op.destination + i], signals[source + i]);
        }
    }
}

// LANES neurons at a time: compare 2v (and -2v) with step, 3 step, 5 step ... by adding 2 step each time.
template <class C>
void count_lanes(Op op, Index first, const Value (&step)[C::LANES], Value (&signals)[C::SIGNAL_WORDS]) {
    Value doubled[C::LANES], threshold[C::LANES], spikes[C::LANES];
    HLS(array_partition variable=doubled type=complete)
    HLS(array_partition variable=threshold type=complete)
    HLS(array_partition variable=spikes type=complete)
    NSLLM_LANE_LOOP
    for (Index k = 0; k < C::LANES; ++k) {
        HLS(unroll)
        doubled[k] = shift_left(signals[op.source + first + k], 1);
        threshold[k] = step[k];
        spikes[k] = 0;
    }
    const bool two_sided = (op.flags & SIGNED_COUNT) != 0;
    for (Word m = 0; m < op.parameter; ++m) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=8)
        NSLLM_LANE_LOOP
        for (Index k = 0; k < C::LANES; ++k) {
            HLS(unroll)
            const Value up = doubled[k] > threshold[k] ? 1 : 0;
            const Value down = two_sided && negate(doubled[k]) > threshold[k] ? 1 : 0;
            spikes[k] += up - down;
            threshold[k] = add(threshold[k], shift_left(step[k], 1));
        }
    }
    NSLLM_LANE_LOOP
    for (Index k = 0; k < C::LANES; ++k) {
        HLS(unroll)
        signals[op.destination + first + k] = spikes[k];
    }
}

template <class C>
void count(const Word image[], Op op, Value (&signals)[C::SIGNAL_WORDS]) {
    const bool from_signal = (op.flags & SIGNAL_STEP) != 0, same = (op.flags & SAME_CONSTANTS) != 0;
    for (Index first = 0; first < op.size; first += C::LANES) {
        HLS(loop_tripcount max=1024)
        Value step[C::LANES];
        HLS(array_partition variable=step type=complete)
        for (Index k = 0; k < C::LANES; ++k) {
            HLS(pipeline II=1)
            step[k] = from_signal ? signals[op.second + first + k] : value(constant(image, op.constants, same, first + k));
        }
        count_lanes<C>(op, first, step, signals);
    }
}

template <class C>
void gate(Op op, Value (&signals)[C::SIGNAL_WORDS]) {
    for (Index i = 0; i < op.size; ++i) {
        HLS(pipeline II=1)
        HLS(dependence variable=signals type=inter false)
        HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
        signals[op.destination + i] = signals[op.second + i] == 1 ? signals[op.source + i] : 0;
    }
}

template <class C>
void integrate(const Word image[], Op op, Value (&signals)[C::SIGNAL_WORDS], Value (&states)[C::STATE_WORDS]) {
    const bool same = (op.flags & SAME_CONSTANTS) != 0;
    for (Index i = 0; i < op.size; ++i) {
        HLS(pipeline II=1)
        HLS(dependence variable=signals type=inter false)
        HLS(dependence variable=states type=inter false)
        HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
        const Word leak = byte_constant(image, op.constants, same, i);
        const Value s = add(decay(states[op.state + i], leak), shift_left(signals[op.source + i], op.parameter));
        states[op.state + i] = s;
        signals[op.destination + i] = s;
    }
}

constexpr Value saturate(Value v) { return v > LIF_LIMIT ? LIF_LIMIT : v < -LIF_LIMIT ? -LIF_LIMIT : v; }

// LANES states times factor / 4096, rounded toward zero, for factors up to 4096. A serial multiplier takes one bit of the
// factor per step, from the lowest, and shifts its sum right: the bits that leave are those that the division drops, as
// floor((floor(a / 2) + b) / 2) = floor((a + 2 b) / 4), so nothing wider than the magnitude and one carry occurs.
template <class C>
void leak_lanes(const Word (&factor)[C::LANES], Value (&state)[C::LANES]) {
    Word size[C::LANES], part[C::LANES];
    HLS(array_partition variable=size type=complete)
    HLS(array_partition variable=part type=complete)
    Word any = 0;
    NSLLM_LANE_LOOP
    for (Index k = 0; k < C::LANES; ++k) {
        HLS(unroll)
        any |= factor[k];
        size[k] = magnitude(state[k]);
        part[k] = 0;
    }
    for (Word bit = 0; any != 0 && bit < LIF_DECAY_BITS; ++bit) {
        HLS(pipeline II=1)
        NSLLM_LANE_LOOP
        for (Index k = 0; k < C::LANES; ++k) {
            HLS(unroll)
            part[k] = (part[k] + (size[k] & (0U - ((factor[k] >> bit) & 1U)))) >> 1;
        }
    }
    NSLLM_LANE_LOOP
    for (Index k = 0; k < C::LANES; ++k) {
        HLS(unroll)
        const Value scaled = value(part[k] + (size[k] & (0U - (factor[k] >> LIF_DECAY_BITS))));
        state[k] = state[k] < 0 ? negate(scaled) : scaled;
    }
}

// LANES neurons: u leaks and takes the input, v leaks and takes u and the bias, then fires and resets or is shown.
template <class C>
void lif_lanes(const Value (&input)[C::LANES], const Value (&bias)[C::LANES], const Value (&threshold)[C::LANES], const Word (&keep_u)[C::LANES],
               const Word (&keep_v)[C::LANES], bool fires, Value (&u)[C::LANES], Value (&v)[C::LANES], Value (&out)[C::LANES]) {
    leak_lanes<C>(keep_u, u);
    leak_lanes<C>(keep_v, v);
    NSLLM_LANE_LOOP
    for (Index k = 0; k < C::LANES; ++k) {
        HLS(unroll)
        u[k] = add(u[k], shift_left(input[k], LIF_FRACTION_BITS));
        const Value now = saturate(add(add(v[k], u[k]), bias[k]));
        const bool spike = fires && now > shift_left(threshold[k], LIF_FRACTION_BITS);
        v[k] = spike ? 0 : now;
        out[k] = !fires ? now : spike ? 1 : 0;
    }
}

// states: u of all neurons, then v, each padded like a signal.
template <class C>
void lif(const Word image[], Op op, Value (&signals)[C::SIGNAL_WORDS], Value (&states)[C::STATE_WORDS]) {
    const bool fires = (op.flags & POTENTIAL) == 0, same_bias = (op.flags & SAME_CONSTANTS) != 0;
    const bool same_threshold = (op.flags & SAME_MORE) != 0, same_factors = (op.flags & SAME_WEIGHTS) != 0;
    const Index currents = op.state, potentials = op.state + padded(op.size);
    for (Index first = 0; first < op.size; first += C::LANES) {
        HLS(loop_tripcount max=1024)
        Value input[C::LANES], bias[C::LANES], threshold[C::LANES], u[C::LANES], v[C::LANES], out[C::LANES];
        Word keep_u[C::LANES], keep_v[C::LANES];
        HLS(array_partition variable=input type=complete)
        HLS(array_partition variable=bias type=complete)
        HLS(array_partition variable=threshold type=complete)
        HLS(array_partition variable=u type=complete)
        HLS(array_partition variable=v type=complete)
        HLS(array_partition variable=out type=complete)
        HLS(array_partition variable=keep_u type=complete)
        HLS(array_partition variable=keep_v type=complete)
        NSLLM_LANE_LOOP
        for (Index k = 0; k < C::LANES; ++k) {
            HLS(pipeline II=1)
            input[k] = signals[op.source + first + k];
            bias[k] = value(constant(image, op.constants, same_bias, first + k));
            threshold[k] = fires ? value(constant(image, op.more, same_threshold, first + k)) : 0;
            const Word factors = constant(image, op.weights, same_factors, first + k);
            keep_u[k] = factors & 0xFFFFU;
            keep_v[k] = factors >> 16;
            u[k] = states[currents + first + k];
            v[k] = states[potentials + first + k];
        }
        lif_lanes<C>(input, bias, threshold, keep_u, keep_v, fires, u, v, out);
        NSLLM_LANE_LOOP
        for (Index k = 0; k < C::LANES; ++k) {
            HLS(pipeline II=1)
            states[currents + first + k] = u[k];
            states[potentials + first + k] = v[k];
            signals[op.destination + first + k] = out[k];
        }
    }
}

// A delay line holds, after ALIGNMENT words with the slot of the current token in the first, one padded signal per past token.
inline Word delay_slot(Op op, Word slot) { return op.state + ALIGNMENT + times(slot, padded(op.size)); }

// Slot by slot, from this token back: each neuron takes its value from the one that lies its steps in the past.
template <class C>
void delay(const Word image[], Op op, Value (&signals)[C::SIGNAL_WORDS], const Value (&states)[C::STATE_WORDS]) {
    const bool same = (op.flags & SAME_CONSTANTS) != 0;
    Word slot = op.stride == 0 ? 0 : bits(states[op.state]);
    for (Word age = 0; age <= op.stride; ++age) {
        HLS(loop_tripcount max=8)
        const Index past = delay_slot(op, slot);
        for (Index i = 0; i < op.size && (!same || op.constants == age); ++i) {
            HLS(pipeline II=1)
            HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
            if (constant(image, op.constants, same, i) != age) continue;
            signals[op.destination + i] = age == 0 ? signals[op.source + i] : states[past + i];
        }
        slot = (slot == 0 ? op.stride : slot) - 1;
    }
}

// At the end of a token, when every source is known: store this token and move on by one slot.
template <class C>
void advance(Op op, const Value (&signals)[C::SIGNAL_WORDS], Value (&states)[C::STATE_WORDS]) {
    if (op.stride == 0) return;
    const Word slot = bits(states[op.state]);
    const Index line = delay_slot(op, slot);
    for (Index i = 0; i < op.size; ++i) {
        HLS(pipeline II=1)
        HLS(loop_tripcount max=NSLLM_ACCUMULATORS)
        states[line + i] = signals[op.source + i];
    }
    states[op.state] = slot + 1 == op.stride ? 0 : value(slot + 1);
}

// One elementwise op. The other kinds are run by `run_op`.
template <class C>
void elementwise(const Word image[], Op op, Value (&signals)[C::SIGNAL_WORDS], Value (&states)[C::STATE_WORDS]) {
    switch (static_cast<Kind>(op.kind)) {
        case SUM: sum<C>(image, op, signals); break;
        case COUNT: count<C>(image, op, signals); break;
        case GATE: gate<C>(op, signals); break;
        case INTEGRATE: integrate<C>(image, op, signals, states); break;
        case DELAY: delay<C>(image, op, signals, states); break;
        case LIF: lif<C>(image, op, signals, states); break;
        case INPUT:
        case LINEAR:
        case CONV2D: break;
    }
}

}  // namespace nsllm
