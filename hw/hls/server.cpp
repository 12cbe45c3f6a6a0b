// C simulation behind two pipes. Request: command, word count, payload; reply: status, word count, payload.
// All are little-endian 32-bit words. LOAD carries the image, STEP and STEP_TRACED the events of one token and
// are answered with the ports followed by the counters; a refusal is answered with its text. Ends with its input.
#include <cstring>
#include <iostream>

#include "host.hpp"

using nsllm::Buffers;
using nsllm::Value;
using nsllm::Word;

namespace {

template <typename T>
bool read_words(std::vector<T>& words) {
    return static_cast<bool>(std::cin.read(reinterpret_cast<char*>(words.data()), static_cast<std::streamsize>(words.size() * sizeof(T))));
}

template <typename T>
void write_words(const T* words, std::size_t count) {
    std::cout.write(reinterpret_cast<const char*>(words), static_cast<std::streamsize>(count * sizeof(T)));
}

void reply(Word status, std::size_t count) {
    const Word header[2] = {status, static_cast<Word>(count)};
    write_words(header, 2);
}

void refuse(Word status) {
    std::string text = nsllm::status_text(status);
    text.resize((text.size() + 3) / 4 * 4, ' ');
    reply(status, text.size() / 4);
    write_words(text.data(), text.size());
}

void answer(Word status, Word command, const std::vector<Word>& image, const Buffers& buffers) {
    if (status != nsllm::OK) return refuse(status);
    if (command == nsllm::LOAD || command == nsllm::RESET) return reply(status, 0);
    const std::size_t ports = image[command == nsllm::STEP ? nsllm::HEADER_OUTPUT_WORDS : nsllm::HEADER_TRACE_WORDS];
    const std::size_t counters = 2 * image[nsllm::HEADER_OPS];
    reply(status, ports + counters);
    write_words(buffers.out.data(), ports);
    write_words(buffers.counters.data(), counters);
}

}  // namespace

int main() {
    std::ios::sync_with_stdio(false);
    std::vector<Word> image(nsllm::HEADER_WORDS), payload, request(2);
    Buffers buffers(image);
    while (read_words(request)) {
        payload.resize(request[1]);
        if (!read_words(payload)) return 1;
        const Word command = request[0];
        Word status;
        if (command == nsllm::LOAD) {
            image.swap(payload);
            payload.clear();
            status = nsllm::send(command, image, request[1], payload, 0, buffers);
            if (status == nsllm::OK) buffers = Buffers(image);
        } else {
            status = nsllm::send(command, image, static_cast<Word>(image.size()), payload, request[1] / 2, buffers);
        }
        answer(status, command, image, buffers);
        std::cout.flush();
    }
    return 0;
}
