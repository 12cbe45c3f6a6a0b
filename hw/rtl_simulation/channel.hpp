// What every model of the surroundings shares: random stalls, and the rules that a valid/ready channel must keep.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace simulation {

using Word = std::uint32_t;
using Cycle = std::uint64_t;

// A broken rule or a run without end: names cycle and channel.
struct Violation : std::runtime_error {
    Violation(Cycle cycle, const std::string& channel, const std::string& rule)
        : std::runtime_error("cycle " + std::to_string(cycle) + ", " + channel + ": " + rule) {}
};

// Every rule of the buses is checked here, and counted.
class Rules {
public:
    void require(bool kept, Cycle cycle, const char* channel, const char* rule) {
        ++checks;
        if (!kept) throw Violation(cycle, channel, rule);
    }
    std::uint64_t checks = 0;
};

struct Options {
    Word latency;   // cycles from an accepted read to its first beat
    Word interval;  // cycles from one beat to the next
    Word stalls;    // percent of the cycles in which a model holds back although it could go on
    Word seed;
    Word address_interval;  // cycles from one accepted read to the next
};

// True in `stalls` percent of the calls: a linear congruential generator, so that a seed gives the same run everywhere.
class Stalls {
public:
    Stalls(const Options& options, Word stream) : state(options.seed * 2654435761U + stream * 40503U + 1U), limit(options.stalls) {}
    bool operator()() {
        state = state * 1664525U + 1013904223U;
        return (state >> 16) % 100U < limit;
    }

private:
    Word state, limit;
};

// A channel that the engine drives: valid stays up and the payload unchanged until ready; no valid in reset.
template <std::size_t N>
class DrivenChannel {
public:
    explicit DrivenChannel(const char* name) : name(name) {}
    void check(Rules& rules, Cycle cycle, bool reset, bool valid, bool ready, const std::array<std::uint64_t, N>& payload) {
        if (reset) {
            if (cycle > 1) rules.require(!valid, cycle, name, "valid in reset");
            return;
        }
        if (waiting) {
            rules.require(valid, cycle, name, "valid fell before ready");
            rules.require(payload == held, cycle, name, "payload changed before ready");
        }
        waiting = valid && !ready;
        held = payload;
    }

private:
    const char* name;
    bool waiting = false;
    std::array<std::uint64_t, N> held{};
};

}  // namespace simulation
