// A stream of words, read and written once and in order: that of Vitis HLS, elsewhere a queue with the same three functions.
#pragma once

#include "config.hpp"

#if defined(NSLLM_VITIS)
#include <hls_stream.h>
#else
#include <vector>
#endif

namespace nsllm {

#if defined(NSLLM_VITIS)
using Stream = hls::stream<Word>;
#else
class Stream {
public:
    void write(Word word) { words_.push_back(word); }

    // An empty stream would stop the hardware for good: here it throws.
    Word read() {
        const Word word = words_.at(next_++);
        if (next_ == words_.size()) {
            words_.clear();
            next_ = 0;
        }
        return word;
    }

    bool empty() const { return words_.empty(); }

private:
    std::vector<Word> words_;
    std::size_t next_ = 0;
};
#endif

}  // namespace nsllm
