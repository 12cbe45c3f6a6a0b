// The design of a board at the other end of a serial line: a pipe on one side, bits on the other.
// Request: operation, word count, payload; reply: status, word count, payload. All are 32-bit words; a byte of the line is a word here.
//   1 WRITE bytes; 2 READ count, patience: bytes from the board, fewer if none came for so many clock cycles.
// Arguments: length of a bit of the host, in hundredths of a clock cycle; seed; arguments of the simulation.
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <vector>

#include "Board.h"

using Word = std::uint32_t;

class Line {
public:
    Line(int count, char** values) : bit(std::atol(values[1])) {
        context.commandArgs(count, values);
        context.randReset(2);
        context.randSeed(std::atoi(values[2]));
        board = new Board(&context);
        board->rx = 1;
        board->reset = 1;
        for (int i = 0; i < 16; ++i) clock();
        board->reset = 0;
    }

    void write(const std::vector<Word>& bytes) {
        for (const Word byte : bytes)
            for (int i = 0; i < 10; ++i) {  // start, 8 data bits, stop
                board->rx = i == 0 ? 0 : i == 9 ? 1 : byte >> (i - 1) & 1;
                for (due += bit; due >= 100; due -= 100) clock();
            }
    }

    std::vector<Word> read(std::size_t count, Word patience) {
        for (Word quiet = 0; received.size() < count && quiet < patience; ++quiet) {
            const std::size_t before = received.size();
            clock();
            if (received.size() != before || listening) quiet = 0;
        }
        std::vector<Word> bytes(received.begin(), received.begin() + static_cast<long>(std::min(count, received.size())));
        received.erase(received.begin(), received.begin() + static_cast<long>(bytes.size()));
        return bytes;
    }

private:
    void clock() {
        board->clock = 0;
        board->eval();
        board->clock = 1;
        board->eval();
        if (!listening && !board->reset && !board->tx) {
            listening = true;
            elapsed = 0;
            bits = 0;
            place = 0;
        } else if (listening) {
            elapsed += 100;
            if (elapsed < bit / 2 + place * bit) return;
            if (place == 9 && board->tx) received.push_back(bits);
            if (place > 0 && place < 9) bits |= Word{board->tx} << (place - 1);
            listening = ++place < 10;
        }
    }

    VerilatedContext context;
    Board* board;
    long bit, due = 0, elapsed = 0, place = 0;
    Word bits = 0;
    bool listening = false;
    std::deque<Word> received;
};

int main(int count, char** values) {
    Line line(count, values);
    Word header[2];
    while (std::cin.read(reinterpret_cast<char*>(header), 8)) {
        std::vector<Word> words(header[1]);
        std::cin.read(reinterpret_cast<char*>(words.data()), static_cast<std::streamsize>(4 * words.size()));
        std::vector<Word> answer;
        if (header[0] == 1) line.write(words);
        else answer = line.read(words.at(0), words.at(1));
        const Word reply[2] = {0, static_cast<Word>(answer.size())};
        std::cout.write(reinterpret_cast<const char*>(reply), 8);
        std::cout.write(reinterpret_cast<const char*>(answer.data()), static_cast<std::streamsize>(4 * answer.size()));
        std::cout.flush();
    }
    return 0;
}
