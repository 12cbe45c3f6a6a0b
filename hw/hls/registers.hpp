// Written from hw/registers.py by: python -m nsllm_nir.hw.generated_files
#pragma once

#include "config.hpp"
#if !defined(__SYNTHESIS__)
#include <string>
#endif

namespace nsllm {

enum Command : Word { LOAD = 1, RESET = 2, STEP = 3, STEP_TRACED = 4 };

// A status carries the index of the offending descriptor, port or event in its upper 24 bits.
enum Status : Word {
    OK = 0,
    UNKNOWN_COMMAND = 1,
    NOT_LOADED = 2,
    BAD_LENGTH = 3,
    BAD_MAGIC = 4,
    BAD_VERSION = 5,
    BAD_CHECKSUM = 6,
    BAD_LAYOUT = 7,
    SIGNALS_TOO_SMALL = 8,
    STATES_TOO_SMALL = 9,
    ROW_TOO_SMALL = 10,
    ACCUMULATORS_TOO_SMALL = 11,
    BAD_DESCRIPTOR = 12,
    BAD_CONSTANT = 13,
    BAD_EVENT = 14,
    BITS_TOO_WIDE = 15,
    ROWS_UNALIGNED = 16,
    TOO_MANY_OPS = 17,
    MEMORY_ERROR = 18,
    QUEUE_TOO_SMALL = 19,
};

#if !defined(__SYNTHESIS__)
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
        case SIGNALS_TOO_SMALL: return "the program needs more signal memory than this build has";
        case STATES_TOO_SMALL: return "the program needs more state memory than this build has";
        case ROW_TOO_SMALL: return "a weight row is longer than the row buffer of this build";
        case ACCUMULATORS_TOO_SMALL: return "a Linear or Conv2d has more outputs than this build has accumulators";
        case BAD_DESCRIPTOR: return "op descriptor " + at + ": it is invalid";
        case BAD_CONSTANT: return "op descriptor " + at + ": it has a step, threshold, shift, decay or delay out of range";
        case BAD_EVENT: return "event " + at + ": it names a neuron or count outside the input";
        case BITS_TOO_WIDE: return "the program declares wider values or comparisons than this build has";
        case ROWS_UNALIGNED: return "the weight rows of the image are aligned to fewer words than one memory beat of this build";
        case TOO_MANY_OPS: return "the program has more op descriptors or ports than this build holds";
        case MEMORY_ERROR: return "the external memory answered a read with an error";
        case QUEUE_TOO_SMALL: return "op descriptor " + at + ": its source has more neurons than the event queue of this build";
        default: return "unknown status " + std::to_string(status);
    }
}
#endif

}  // namespace nsllm
