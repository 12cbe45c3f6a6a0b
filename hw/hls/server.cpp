// C simulation behind two pipes (docs/image_format.md, "Pipe protocol"). Ends with its input.
#include <iostream>
#include <string>
#include <vector>

#include "top.hpp"

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
        const Word status = call(command);
        if (command == nsllm::LOAD) loaded_ = status == nsllm::OK;
        if (status != nsllm::OK) return refuse(status, nsllm::status_text(status));
        step_ = 0;
        reply(status, 0);
    }

private:
    Word call(Word command) { return spike_engine(image_.data(), static_cast<Word>(image_.size()), command, events_, answers_); }

    // Payload: tokens, the packet of each. All tokens run before anything is answered.
    void run(Word command, const std::vector<Word>& payload) {
        if (!whole(payload)) return refuse(BAD_REQUEST, "the request does not hold the events that it announces");
        if (!loaded_) return refuse(nsllm::NOT_LOADED, nsllm::status_text(nsllm::NOT_LOADED));
        const std::size_t words = image_[command == nsllm::STEP ? nsllm::HEADER_OUTPUT_WORDS : nsllm::HEADER_TRACE_WORDS];
        work_.assign(2 * std::size_t{image_[nsllm::HEADER_OPS]}, 0);
        results_.resize(payload[0] * words);
        std::size_t at = 1, to = 0;
        for (Word t = 0; t < payload[0]; ++t, ++step_) {
            for (const std::size_t end = at + packet_words(payload[at]); at < end; ++at) events_.write(payload[at]);
            const Word status = call(command);
            if (status != nsllm::OK) return refuse(status, "step " + std::to_string(step_) + ": " + nsllm::status_text(status));
            for (const std::size_t end = to + words; to < end; ++to) results_[to] = answers_.read();
            for (std::uint64_t& word : work_) word += answers_.read();
        }
        reply(nsllm::OK, results_.size() + 2 * work_.size());
        write_all(results_);
        write_all(work_);
    }

    static std::size_t packet_words(Word events) { return 1 + 2 * std::size_t{events}; }

    // The payload holds as many packets as it announces, and nothing else.
    static bool whole(const std::vector<Word>& payload) {
        Word tokens = 0;
        std::size_t end = 1;
        for (; end < payload.size(); ++tokens) end += packet_words(payload[end]);
        return end == payload.size() && tokens == payload[0];
    }

    nsllm::Stream events_, answers_;
    std::vector<Word> image_, results_;
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
