// The SystemVerilog engine behind two pipes. Request: operation, word count, payload; reply: status, word count, payload.
// All are little-endian 32-bit words. A status other than 0 comes with a text. Ends with its input.
#include <cstdlib>
#include <iostream>

#include "simulation.hpp"

using simulation::Word;

namespace {

enum Operation : Word { READ_REGISTER = 1, WRITE_REGISTER, WRITE_MEMORY, SEND, RECEIVE, WAIT, ACCOUNTS };

bool read_words(std::vector<Word>& words) {
    return static_cast<bool>(std::cin.read(reinterpret_cast<char*>(words.data()), static_cast<std::streamsize>(words.size() * 4)));
}

void reply(Word status, const std::vector<Word>& words) {
    const Word header[2] = {status, static_cast<Word>(words.size())};
    std::cout.write(reinterpret_cast<const char*>(header), 8);
    std::cout.write(reinterpret_cast<const char*>(words.data()), static_cast<std::streamsize>(words.size() * 4));
    std::cout.flush();
}

std::vector<Word> text_words(std::string text) {
    text.resize((text.size() + 3) / 4 * 4, ' ');
    std::vector<Word> words(text.size() / 4);
    std::copy(text.begin(), text.end(), reinterpret_cast<char*>(words.data()));
    return words;
}

simulation::Cycle accounted = 0;  // by the last answer to ACCOUNTS

void append(std::vector<Word>& words, std::uint64_t number) {
    words.push_back(static_cast<Word>(number));
    words.push_back(static_cast<Word>(number >> 32));
}

// Beats, bursts, clock cycles, rules checked, then the busy cycles of each descriptor; all start from 0 again.
std::vector<Word> accounts(simulation::Simulation& run) {
    std::vector<Word> words;
    append(words, run.memory.beats_read);
    append(words, run.memory.bursts_read);
    append(words, run.cycle - accounted);
    append(words, run.rules.checks);
    for (const simulation::Cycle cycles : run.op_cycles) append(words, cycles);
    run.memory.beats_read = run.memory.bursts_read = run.rules.checks = 0;
    accounted = run.cycle;
    run.op_cycles.clear();
    return words;
}

std::vector<Word> execute(simulation::Simulation& run, Word operation, const std::vector<Word>& payload) {
    switch (operation) {
        case READ_REGISTER: return {run.read_register(payload.at(0))};
        case WRITE_REGISTER: run.write_register(payload.at(0), payload.at(1)); return {};
        case WRITE_MEMORY: run.memory.write(payload.at(0) | std::uint64_t{payload.at(1)} << 32, payload.data() + 2, payload.size() - 2); return {};
        case SEND: run.send(payload); return {};
        case RECEIVE: return run.receive();
        case WAIT: run.wait_for_interrupt(); return {};
        case ACCOUNTS: return accounts(run);
        default: throw std::runtime_error("unknown operation");
    }
}

}  // namespace

int main(int count, char** values) {
    if (count != 6) return 2;
    const auto number = [&](int i) { return static_cast<Word>(std::strtoul(values[i], nullptr, 10)); };
    std::ios::sync_with_stdio(false);
    std::vector<Word> header(2), payload;
    try {
        simulation::Simulation run({number(1), number(2), number(3), number(4), number(5)});
        while (read_words(header)) {
            payload.resize(header[1]);
            if (!read_words(payload)) return 1;
            reply(0, execute(run, header[0], payload));
        }
    } catch (const std::exception& error) {
        while (true) {  // a broken rule is the answer to the request that met it, and to every later one
            reply(1, text_words(error.what()));
            if (!read_words(header)) return 0;
            payload.resize(header[1]);
            if (!read_words(payload)) return 0;
        }
    }
    return 0;
}
