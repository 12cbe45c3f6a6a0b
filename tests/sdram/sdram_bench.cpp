// Random bursts, writes and flushes on the SDRAM, with random stalls; every beat is compared with what was written. Then the times of reads, which it
// prints: cycles to the first beat of an open row, of a closed row, of another row than the open one; cycles per beat in a row, cycles per beat at
// random. Ends with 0 if all are right. Argument: cycles of the random part.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include "SdramBench.h"

namespace {
constexpr unsigned WORDS = 1U << 14, BEATS = WORDS / BEAT_WORDS, BYTES = 4 * BEAT_WORDS;

struct Beat {
    unsigned beat;
    bool last;
};

class Bench {
public:
    Bench(int count, char** values) : words(WORDS) {
        context.commandArgs(count, values);
        context.randReset(2);
        bench.s_axi_arvalid = bench.s_axi_rready = bench.write = 0;
        bench.reset = bench.flush = 1;
        for (int i = 0; i < 16; ++i) clock();
        bench.reset = bench.flush = 0;
    }

    void clock() {
        ++cycle;
        bench.clock = 0;
        bench.eval();
        request = bench.s_axi_arvalid && bench.s_axi_arready && !bench.flush;
        wrote = bench.write && bench.write_ready;
        taken = bench.s_axi_rvalid && bench.s_axi_rready && !bench.flush;
        if (wrote) words[bench.write_address] = bench.write_data;
        if (taken) compare();
        if (request)
            for (unsigned i = 0; i <= bench.s_axi_arlen; ++i)
                expected.push_back({static_cast<unsigned>(bench.s_axi_araddr / BYTES) + i, i == bench.s_axi_arlen});
        quiet = taken || expected.empty() || !bench.s_axi_rready ? 0 : quiet + 1;
        if (quiet > 300 && cycle > 40000) fail("no beat for 300 cycles");
        bench.clock = 1;
        bench.eval();
    }

    void write(unsigned place, unsigned data) {
        bench.write = 1;
        bench.write_address = place;
        bench.write_data = data;
        do clock();
        while (!wrote);
        bench.write = 0;
    }

    void ask(unsigned beat, unsigned length) {
        bench.s_axi_arvalid = 1;
        bench.s_axi_araddr = std::uint64_t{beat} * BYTES;
        bench.s_axi_arlen = static_cast<unsigned char>(length - 1);
        do clock();
        while (!request);
        bench.s_axi_arvalid = 0;
    }

    unsigned drain() {  // cycles until the last beat
        const unsigned before = cycle;
        for (bench.s_axi_rready = 1; !expected.empty();) clock();
        return cycle - before;
    }

    bool expects(unsigned beat) const {
        for (const Beat& wanted : expected)
            if (wanted.beat == beat) return true;
        return false;
    }

    [[noreturn]] void fail(const char* why) const {
        std::printf("cycle %u: %s\n", cycle, why);
        std::exit(1);
    }

    VerilatedContext context;
    SdramBench bench{&context};
    std::deque<Beat> expected;
    std::vector<unsigned> words;
    unsigned cycle = 0, quiet = 0, beats = 0;
    bool request = false, wrote = false, taken = false;

private:
    void compare() {
        if (expected.empty()) fail("a beat that nobody asked for");
        const Beat wanted = expected.front();
        expected.pop_front();
        const bool outside = wanted.beat >= BEATS;
        if (bench.s_axi_rlast != wanted.last || bench.s_axi_rresp != (outside ? 2 : 0)) fail("wrong last or response");
        for (unsigned k = 0; k < BEAT_WORDS && !outside; ++k)
            if (bench.s_axi_rdata[k] != words[wanted.beat * BEAT_WORDS + k]) fail("wrong data");
        ++beats;
    }
};
}  // namespace

int main(int count, char** values) {
    Bench b(count, values);
    std::srand(1);
    const auto chance = [](int n) { return std::rand() % n == 0; };
    for (unsigned place = 0; place < WORDS; ++place) b.write(place, place * 0x9E3779B9U);
    const unsigned end = b.cycle + static_cast<unsigned>(std::atoi(values[1]));
    bool asked = false, writes = false;
    while (b.cycle < end) {
        const bool patient = b.cycle % 20000 < 10000;  // half of the time nobody stalls
        if (!asked) {
            b.bench.s_axi_arvalid = patient || chance(3);
            b.bench.s_axi_arlen = chance(4) ? std::rand() % 16 : std::rand() % 4;
            b.bench.s_axi_araddr = (chance(2) ? std::rand() % (BEATS + 8) : std::rand() % 64) * std::uint64_t{BYTES};
        }
        if (!writes && chance(50)) {
            const unsigned place = std::rand() % WORDS, beat = place / BEAT_WORDS;
            const unsigned next = static_cast<unsigned>(b.bench.s_axi_araddr / BYTES);
            writes = !b.expects(beat) && !(b.bench.s_axi_arvalid && beat >= next && beat < next + 16);
            b.bench.write_address = place;
            b.bench.write_data = static_cast<unsigned>(std::rand());
        }
        b.bench.write = writes;
        if (writes && !asked && b.bench.write_address / BEAT_WORDS - b.bench.s_axi_araddr / BYTES < 16) b.bench.s_axi_arvalid = 0;
        b.bench.s_axi_rready = patient || chance(2 + static_cast<int>(b.cycle / 5000 % 30));
        b.bench.flush = b.bench.flush ? !chance(20) : chance(5000);
        if (b.bench.flush) {
            b.expected.clear();
            b.bench.s_axi_arvalid = 0;
        }
        b.clock();
        asked = b.bench.s_axi_arvalid && !b.request;
        writes = writes && !b.wrote;
    }
    b.bench.flush = b.bench.s_axi_arvalid = 0;
    for (; writes; writes = !b.wrote) b.clock();
    b.bench.write = 0;
    b.drain();
    const unsigned random_beats = b.beats, row = 1024 / BYTES;  // beats of a row of one bank

    std::vector<unsigned> open, closed, other;
    for (int i = 0; i < 51; ++i) {  // the median: now and then a refresh comes in between
        const auto first = [&](unsigned beat) {
            b.ask(beat, 1);
            return b.drain();
        };
        first(0);
        open.push_back(first(1));
        other.push_back(first(4 * row));
        for (int wait = 0; wait < 1200; ++wait) b.clock();  // a refresh closes all rows
        closed.push_back(first(4 * row));
    }
    const auto median = [](std::vector<unsigned>& values) {
        std::sort(values.begin(), values.end());
        return values[values.size() / 2];
    };
    const auto rate = [&](bool in_order) {
        constexpr unsigned ASKED = 4000;
        const unsigned before = b.cycle;
        b.bench.s_axi_rready = 1;
        for (unsigned i = 0; i < ASKED; i += 4) b.ask(in_order ? i % BEATS : std::rand() % (BEATS / 4) * 4, 4);
        b.drain();
        return static_cast<double>(b.cycle - before) / ASKED;
    };
    const double in_order = rate(true), at_random = rate(false);
    std::printf("%u %u %u %.3f %.3f\n", median(open), median(closed), median(other), in_order, at_random);
    return random_beats > static_cast<unsigned>(std::atoi(values[1])) / 100 ? 0 : 1;
}
