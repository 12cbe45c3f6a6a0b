// The hardware block. One call is one command; memories keep their contents between calls.
#pragma once

#include "image.hpp"
#include "stream.hpp"

// image, image_words: the program image in external memory.
// command: LOAD (check the image, clear the states), RESET (clear the states), STEP (one token, outputs only),
//          STEP_TRACED (one token, all ports).
// events: the packet of this token, a count n and n pairs (neuron, count).
// results: the words of the ports, then two per op, rows fetched and additions done in this token.
// Returns a Status; the upper 24 bits hold the index of the offending descriptor, port or event.
extern "C" nsllm::Word spike_engine(const nsllm::Word image[], nsllm::Word image_words, nsllm::Word command, nsllm::Stream& events,
                                    nsllm::Stream& results);
