#include "top.hpp"

#include "check.hpp"
#include "engine.hpp"

using nsllm::Build;
using nsllm::Value;
using nsllm::Word;

extern "C" Word spike_engine(const Word image[], Word image_words, Word command, nsllm::Stream& events, nsllm::Stream& results) {
    HLS(interface mode=m_axi port=image offset=slave bundle=weights depth=NSLLM_IMAGE_DEPTH latency=64 num_read_outstanding=16 max_read_burst_length=64)
    HLS(interface mode=axis port=events)
    HLS(interface mode=axis port=results)
    // The offsets of the register map; the block control takes 0x00 to 0x0C, the returned status 0x10.
    HLS(interface mode=s_axilite port=image bundle=control offset=0x18)
    HLS(interface mode=s_axilite port=image_words bundle=control offset=0x24)
    HLS(interface mode=s_axilite port=command bundle=control offset=0x2C)
    HLS(interface mode=s_axilite port=return bundle=control)

    static Value signals[Build::SIGNAL_WORDS];
    static Value states[Build::STATE_WORDS];
    static nsllm::Fields<Build> fields;
    static Word accumulators[Build::ACCUMULATORS];
    static nsllm::Work counters[Build::DESCRIPTORS];
    static bool loaded = false;
    HLS(array_partition variable=signals type=cyclic factor=NSLLM_LANES)
    HLS(array_partition variable=fields.even type=cyclic factor=NSLLM_BEAT)
    HLS(array_partition variable=fields.odd type=cyclic factor=NSLLM_BEAT)
    HLS(array_partition variable=accumulators type=cyclic factor=NSLLM_LANES)
    HLS(bind_storage variable=states type=ram_2p)
    HLS(reset variable=loaded)

    if (command == nsllm::LOAD) {
        const Word status = nsllm::check_image<Build>(image, image_words);
        loaded = status == nsllm::OK;
        if (loaded) nsllm::clear_states<Build>(image[nsllm::HEADER_STATE_WORDS], states);
        return status;
    }
    if (!loaded) return nsllm::NOT_LOADED;
    switch (command) {
        case nsllm::RESET: nsllm::clear_states<Build>(image[nsllm::HEADER_STATE_WORDS], states); return nsllm::OK;
        case nsllm::STEP:
        case nsllm::STEP_TRACED:
            return nsllm::run_token<Build>(image, events, command == nsllm::STEP_TRACED, results, counters, signals, states, fields, accumulators);
        default: return nsllm::UNKNOWN_COMMAND;
    }
}
