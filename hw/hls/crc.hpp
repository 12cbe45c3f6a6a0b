// CRC-32 (reflected polynomial 0xEDB88320, start and final inversion) over little-endian words.
#pragma once

#include "config.hpp"

namespace nsllm {

struct CrcTable {
    Word value[256];

    constexpr CrcTable() : value() {
        for (Word byte = 0; byte < 256; ++byte) {
            Word crc = byte;
            for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0xEDB88320U : 0U);
            value[byte] = crc;
        }
    }
};

inline Word crc_word(Word crc, Word word) {
    static constexpr CrcTable table{};
    for (int byte = 0; byte < 4; ++byte) {
        HLS(unroll)
        crc = (crc >> 8) ^ table.value[(crc ^ word) & 0xFFU];
        word >>= 8;
    }
    return crc;
}

// Over the words [0, words) without word `skipped`, which holds the result.
inline Word crc_image(const Word image[], Word words, Word skipped) {
    Word crc = ~0U;
    for (Word i = 0; i < words; ++i) {
        HLS(loop_tripcount max=NSLLM_IMAGE_DEPTH)
        if (i != skipped) crc = crc_word(crc, image[i]);
    }
    return ~crc;
}

}  // namespace nsllm
