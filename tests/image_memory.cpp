// Random bursts on the image memory, with random stalls of both sides: every beat is compared with what was written; ends with 0 if all are right.
#include <cstdio>
#include <cstdlib>
#include <deque>

#include "ImageMemory.h"

int main() {
    constexpr unsigned BEATS = 64, BEAT_WORDS = 4;
    struct Beat { unsigned beat; bool last; };
    VerilatedContext context;
    context.randReset(2);
    ImageMemory memory(&context);
    std::deque<Beat> expected;
    unsigned quiet = 0, together = 0, longest = 0, taken = 0, held = 0;
    const auto clock = [&] {
        memory.clock = 0;
        memory.eval();
        memory.clock = 1;
        memory.eval();
    };
    memory.s_axi_arvalid = memory.s_axi_rready = memory.write = 0;
    memory.reset = 1;
    clock();
    memory.reset = 0;
    for (unsigned word = 0; word < BEATS * BEAT_WORDS; ++word) {
        memory.write = 1;
        memory.write_address = word;
        memory.write_data = word * 0x9E3779B9U;
        clock();
    }
    memory.write = 0;
    std::srand(1);
    for (unsigned cycle = 0; cycle < 200000; ++cycle) {
        const bool patient = cycle % 20000 < 10000;  // half of the time nobody stalls
        if (!held) {
            memory.s_axi_arvalid = patient || std::rand() % 3 == 0;
            memory.s_axi_arlen = std::rand() % 4 ? 0 : std::rand() % 16;
            memory.s_axi_araddr = (std::rand() % (BEATS + 8)) * 4ULL * BEAT_WORDS;
        }
        memory.s_axi_rready = patient || std::rand() % 2;
        memory.clock = 0;
        memory.eval();
        const bool request = memory.s_axi_arvalid && memory.s_axi_arready, beat = memory.s_axi_rvalid && memory.s_axi_rready;
        held = memory.s_axi_arvalid && !memory.s_axi_arready;
        if (beat) {
            if (expected.empty()) return std::puts("a beat that nobody asked for"), 1;
            const Beat wanted = expected.front();
            expected.pop_front();
            const bool outside = wanted.beat >= BEATS;
            if (memory.s_axi_rlast != wanted.last || memory.s_axi_rresp != (outside ? 2 : 0)) return std::puts("wrong last or response"), 1;
            for (unsigned k = 0; k < BEAT_WORDS && !outside; ++k)
                if (memory.s_axi_rdata[k] != (wanted.beat * BEAT_WORDS + k) * 0x9E3779B9U) return std::puts("wrong data"), 1;
            ++taken;
        }
        together = beat ? together + 1 : 0;
        if (together > longest) longest = together;
        if (request)
            for (unsigned i = 0; i <= memory.s_axi_arlen; ++i)
                expected.push_back({static_cast<unsigned>(memory.s_axi_araddr / (4 * BEAT_WORDS)) + i, i == memory.s_axi_arlen});
        quiet = beat || expected.empty() ? 0 : quiet + 1;
        if (quiet > 40) return std::puts("no beat for 40 cycles"), 1;
        memory.clock = 1;
        memory.eval();
    }
    std::printf("%u beats, %u in a row\n", taken, longest);
    return taken > 100000 && longest > 9900 ? 0 : 1;
}
