// The hardware block. One call is one command; memories keep their contents between calls.
#pragma once

#include "image.hpp"

// image, image_words: the program image in external memory.
// events, event_count: input spikes of this token, pairs (neuron, count).
// command: LOAD (check the image, clear the states), RESET (clear the states), STEP (one token, outputs only),
//          STEP_TRACED (one token, all ports).
// out: the words of the ports; counters: two words per op, rows fetched and additions done in this token.
// Returns a Status; the upper 24 bits hold the index of the offending descriptor, port or event.
extern "C" nsllm::Word spike_engine(const nsllm::Word image[], nsllm::Word image_words, const nsllm::Word events[], nsllm::Word event_count,
                                    nsllm::Word command, nsllm::Value out[], nsllm::Word counters[]);
