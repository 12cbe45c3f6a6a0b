// What both hosts share, the simulation server and the test bench: the texts of the refusals. Not synthesised.
#pragma once

#include <string>
#include <vector>

#include "top.hpp"

namespace nsllm {

inline std::string status_text(Word status) {
    const std::string at = std::to_string(status >> 8);
    switch (status & 0xFFU) {
        case OK: return "ok";
        case UNKNOWN_COMMAND: return "the command is not one of LOAD, RESET, STEP, STEP_TRACED";
        case NOT_LOADED: return "no image is loaded";
        case BAD_LENGTH: return "the image is truncated or longer than its header says";
        case BAD_MAGIC: return "this is not a program image (wrong magic number)";
        case BAD_VERSION: return "the image has another format version than this engine";
        case BAD_CHECKSUM: return "the checksum of the image does not match its content";
        case BAD_LAYOUT: return "a section of the image lies outside it or does not fit the header";
        case SIGNALS_TOO_SMALL: return "the program needs more signal memory than this build has (NSLLM_SIGNAL_WORDS)";
        case STATES_TOO_SMALL: return "the program needs more state memory than this build has (NSLLM_STATE_WORDS)";
        case ROW_TOO_SMALL: return "a weight row is longer than the row buffer of this build (NSLLM_ROW_WORDS)";
        case ACCUMULATORS_TOO_SMALL: return "a Linear or Conv2d has more outputs than this build has accumulators (NSLLM_ACCUMULATORS)";
        case BAD_DESCRIPTOR: return "op descriptor " + at + " is invalid";
        case BAD_CONSTANT: return "op descriptor " + at + " has a step, threshold, shift, decay or delay out of range";
        case BAD_EVENT: return "event " + at + " names a neuron or count outside the input";
        default: return "unknown status " + std::to_string(status);
    }
}

}  // namespace nsllm
