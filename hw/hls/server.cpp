// C simulation behind two pipes (docs/image_format.md, "Pipe protocol"). Ends with its input.
#include <iostream>

#include "host.hpp"

using nsllm::Value;
using nsllm::Word;

namespace {

constexpr Word BAD_REQUEST = 0xFF;  // beside the statuses of the engine

template <typename T>
bool read_words(std::vector<T>& words) {
    return static_cast<bool>(std::cin.read(reinterpret_cast<char*>(words.data()), static_cast<std::streamsize>(words.size() * sizeof(T))));
}

template <typename T>
void write_all(const std::vector<T>& data) {
    std::cout.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size() * sizeof(T)));
}

void reply(Word status, std::size_t words) { write_all(std::vector<Word>{status, static_cast<Word>(words)}); }

void refuse(Word status, const std::string& text) {
    std::vector<char> padded(text.begin(), text.end());
    padded.resize((text.size() + 3) / 4 * 4, ' ');
    reply(status, padded.size() / 4);
    write_all(padded);
}

class Server {
public:
    // Runs one request and answers it.
    void answer(Word command, std::vector<Word>& payload) {
        if (command == nsllm::STEP || command == nsllm::STEP_TRACED) return run(command, payload);
        if (command == nsllm::LOAD) image_.swap(payload);
        const Word status = call(command, nullptr, 0, nullptr);
        if (command == nsllm::LOAD) loaded_ = status == nsllm::OK;
        if (status != nsllm::OK) return refuse(status, nsllm::status_text(status));
        counters_.resize(2 * image_[nsllm::HEADER_OPS]);
        step_ = 0;
        reply(status, 0);
    }

private:
    Word call(Word command, const Word* events, Word count, Value* out) {
        return spike_engine(image_.data(), static_cast<Word>(image_.size()), events, count, command, out, counters_.data());
    }

    // Payload: tokens, the number of events of each, all pairs. All tokens run before anything is answered.
    void run(Word command, const std::vector<Word>& payload) {
        const std::size_t tokens = payload.empty() ? 0 : payload[0];
        std::size_t at = 1 + tokens, pairs = 0;
        for (std::size_t t = 1; t < at && t < payload.size(); ++t) pairs += payload[t];
        if (payload.size() != at + 2 * pairs)
            return refuse(BAD_REQUEST, "the request does not hold the events that it announces");
        if (!loaded_) return refuse(nsllm::NOT_LOADED, nsllm::status_text(nsllm::NOT_LOADED));
        const std::size_t words = image_[command == nsllm::STEP ? nsllm::HEADER_OUTPUT_WORDS : nsllm::HEADER_TRACE_WORDS];
        ports_.resize(tokens * words);
        work_.assign(counters_.size(), 0);
        for (std::size_t t = 0; t < tokens; ++t, ++step_) {
            const Word status = call(command, payload.data() + at, payload[1 + t], ports_.data() + t * words);
            if (status != nsllm::OK) return refuse(status, "step " + std::to_string(step_) + ": " + nsllm::status_text(status));
            at += 2 * std::size_t{payload[1 + t]};
            for (std::size_t i = 0; i < work_.size(); ++i) work_[i] += counters_[i];
        }
        reply(nsllm::OK, ports_.size() + 2 * work_.size());
        write_all(ports_);
        write_all(work_);
    }

    std::vector<Word> image_, counters_;
    std::vector<Value> ports_;
    std::vector<std::uint64_t> work_;
    bool loaded_ = false;
    std::size_t step_ = 0;  // since LOAD or RESET
};

}  // namespace

int main() {
    std::ios::sync_with_stdio(false);
    std::vector<Word> payload, request(2);
    Server server;
    while (read_words(request)) {
        payload.resize(request[1]);
        if (!read_words(payload)) return 1;
        server.answer(request[0], payload);
        std::cout.flush();
    }
    return 0;
}
