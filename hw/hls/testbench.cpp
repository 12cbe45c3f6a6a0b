// Runs the engine on golden vectors and compares every port, step and neuron.
// Arguments: image file, vectors file (default image.bin, vectors.bin). Exit status: 0 equal, 1 different, 2 refused.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "crc.hpp"
#include "top.hpp"

using nsllm::Value;
using nsllm::Word;

namespace {

constexpr Word VECTORS_MAGIC = 0x564C534EU;  // the bytes 'N' 'S' 'L' 'V'
constexpr Word VECTORS_HEADER = 8;
enum VectorsField : Word { VECTORS_ID, VECTORS_VERSION, VECTORS_WORDS, VECTORS_CRC, VECTORS_TOKENS, VECTORS_TRACE_WORDS };

int refused(const std::string& text) {
    std::cerr << "REFUSED: " << text << '\n';
    return 2;
}

std::vector<Word> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file || file.tellg() % 4 != 0) return {};
    std::vector<Word> words(static_cast<std::size_t>(file.tellg()) / 4);
    file.seekg(0);
    file.read(reinterpret_cast<char*>(words.data()), static_cast<std::streamsize>(words.size() * 4));
    return words;
}

std::string name_of(const std::vector<Word>& image, Word offset) {
    const Word start = image[nsllm::HEADER_NAMES_START], words = image[nsllm::HEADER_NAMES_WORDS];
    std::string name;
    for (Word at = offset; at < 4 * words; ++at) {
        const char byte = static_cast<char>(image[start + at / 4] >> (8 * (at % 4)) & 0xFFU);
        if (byte == 0) break;
        name += byte;
    }
    return name;
}

bool vectors_fit(const std::vector<Word>& vectors, const std::vector<Word>& image) {
    return vectors.size() >= VECTORS_HEADER && vectors[VECTORS_ID] == VECTORS_MAGIC && vectors[VECTORS_VERSION] == nsllm::VERSION &&
           vectors[VECTORS_WORDS] == vectors.size() && vectors[VECTORS_TRACE_WORDS] == image[nsllm::HEADER_TRACE_WORDS] &&
           nsllm::crc_image(vectors.data(), vectors[VECTORS_WORDS], VECTORS_CRC) == vectors[VECTORS_CRC];
}

// Number of differing neurons of one token; prints the first one ever found.
Word compare(const std::vector<Word>& image, Word step, const Word* expected, const std::vector<Word>& results, Word before) {
    Word differences = 0, word = 0;
    for (Word p = 0; p < image[nsllm::HEADER_PORTS]; ++p) {
        const Word port = image[nsllm::HEADER_PORTS_START] + p * nsllm::PORT_WORDS;
        for (Word i = 0; i < image[port + nsllm::PORT_SIZE]; ++i, ++word) {
            if (expected[word] == results[word]) continue;
            if (before + differences++ == 0)
                std::cout << "FAIL: node '" << name_of(image, image[port + nsllm::PORT_NAME]) << "', step " << step << ", neuron " << i
                          << ": expected " << static_cast<Value>(expected[word]) << ", got " << static_cast<Value>(results[word]) << '\n';
        }
    }
    return differences;
}

// Runs all tokens; returns the exit status.
int run(const std::vector<Word>& image, Word image_words, const std::vector<Word>& vectors) {
    const std::size_t words = vectors[VECTORS_TRACE_WORDS] + 2 * std::size_t{image[nsllm::HEADER_OPS]};
    nsllm::Stream events, answers;
    std::vector<Word> results(words);
    std::size_t at = VECTORS_HEADER;
    Word differences = 0;
    for (Word step = 0; step < vectors[VECTORS_TOKENS]; ++step) {
        const std::size_t left = vectors.size() - at;
        const std::size_t packet = left == 0 ? 1 : 1 + 2 * std::size_t{vectors[at]};
        if (left < packet + vectors[VECTORS_TRACE_WORDS]) return refused("the vectors end at step " + std::to_string(step));
        for (std::size_t i = 0; i < packet; ++i) events.write(vectors[at + i]);
        const Word status = spike_engine(image.data(), image_words, nsllm::STEP_TRACED, events, answers);
        if (status != nsllm::OK) return refused("step " + std::to_string(step) + ": " + nsllm::status_text(status));
        for (Word& word : results) word = answers.read();
        if (!events.empty() || !answers.empty()) return refused("step " + std::to_string(step) + ": words are left in the streams");
        at += packet;
        differences += compare(image, step, vectors.data() + at, results, differences);
        at += vectors[VECTORS_TRACE_WORDS];
    }
    if (differences != 0) {
        std::cout << "FAIL: " << differences << " differences in " << vectors[VECTORS_TOKENS] << " steps\n";
        return 1;
    }
    std::cout << "PASS: " << vectors[VECTORS_TOKENS] << " steps, " << image[nsllm::HEADER_PORTS] << " nodes, 0 differences\n";
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string image_path = argc > 1 ? argv[1] : "image.bin", vectors_path = argc > 2 ? argv[2] : "vectors.bin";
    std::vector<Word> image = read_file(image_path);
    if (image.empty()) return refused(image_path + " cannot be read, is empty or is not a whole number of words");
    const Word image_words = static_cast<Word>(image.size());
    image.resize(std::max<std::size_t>({image.size(), NSLLM_IMAGE_DEPTH, nsllm::HEADER_WORDS}));  // co-simulation copies the depth of the port
    nsllm::Stream no_events, no_results;
    const Word loaded = spike_engine(image.data(), image_words, nsllm::LOAD, no_events, no_results);
    if (loaded != nsllm::OK) return refused(image_path + ": status " + std::to_string(loaded & 0xFFU) + ", " + nsllm::status_text(loaded));
    const std::vector<Word> vectors = read_file(vectors_path);
    if (!vectors_fit(vectors, image)) return refused(vectors_path + ": not golden vectors of this image, or corrupt");
    return run(image, image_words, vectors);
}
