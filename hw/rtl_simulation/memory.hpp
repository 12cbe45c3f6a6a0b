// External memory behind the AXI4 read port. Reads outside what the host has written are answered with SLVERR.
#pragma once

#include <deque>
#include <vector>

#include "channel.hpp"

namespace simulation {

class Memory {
public:
    static constexpr Word BEAT_BYTES = 4 * BEAT_WORDS;
    static constexpr std::size_t OUTSTANDING = 64;  // bursts that the memory accepts ahead

    explicit Memory(const Options& options) : options(options), stall_request(options, 1), stall_beat(options, 2) {}

    void write(std::uint64_t address, const Word* data, std::size_t count) {
        start = address;
        words.assign(data, data + count);
    }

    // One clock edge. `requested` and `taken`: the handshakes of this cycle.
    void advance(Cycle cycle, bool requested, std::uint64_t address, Word beats, bool taken) {
        if (taken) {
            ++beats_read;
            valid = false;
            next_beat = cycle + options.interval;
            if (--bursts.front().left == 0) bursts.pop_front();
            else bursts.front().address += BEAT_BYTES;
        }
        if (requested) {
            ++bursts_read;
            bursts.push_back({address, beats, cycle + options.latency});
            next_request = cycle + options.address_interval;
        }
        if (!valid && !bursts.empty() && cycle + 1 >= bursts.front().due && cycle + 1 >= next_beat && !stall_beat()) offer();
        ready = bursts.size() < OUTSTANDING && cycle + 1 >= next_request && !stall_request();
    }

    bool ready = false, valid = false, last = false;
    Word response = 0;
    std::array<Word, BEAT_WORDS> data{};
    std::uint64_t beats_read = 0, bursts_read = 0;

private:
    struct Burst {
        std::uint64_t address;
        Word left;
        Cycle due;
    };

    void offer() {
        const Burst& burst = bursts.front();
        const std::uint64_t first = (burst.address - start) / 4;
        valid = true;
        last = burst.left == 1;
        response = burst.address >= start && first < words.size() ? 0 : 2;
        for (std::size_t i = 0; i < BEAT_WORDS; ++i) data[i] = response == 0 && first + i < words.size() ? words[first + i] : 0xDEADBEEFU;
    }

    Options options;
    Stalls stall_request, stall_beat;
    std::uint64_t start = 0;
    std::vector<Word> words;
    std::deque<Burst> bursts;
    Cycle next_beat = 0, next_request = 0;
};

// The rules of AXI4 for the reads that the engine requests.
inline void check_burst(Rules& rules, Cycle cycle, std::uint64_t address, Word length, Word size, Word burst) {
    const char* channel = "m_axi_image AR";
    rules.require(burst == 1, cycle, channel, "burst type is not INCR");
    rules.require((1U << size) == Memory::BEAT_BYTES, cycle, channel, "beats are not as wide as the port");
    rules.require(address % Memory::BEAT_BYTES == 0, cycle, channel, "address is not a whole beat");
    rules.require((address & 0xFFFU) + std::uint64_t{Memory::BEAT_BYTES} * (length + 1U) <= 0x1000U, cycle, channel, "burst crosses 4 KiB");
}

}  // namespace simulation
