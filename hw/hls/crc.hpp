// CRC-32 (reflected polynomial 0xEDB88320, start and final inversion) over little-endian words.
#pragma once

#include "config.hpp"

namespace nsllm {

// value[n][byte]: the checksum of `byte` followed by n zero bytes.
struct CrcTables {
    Word value[4][256];

    constexpr CrcTables() : value() {
        for (Word byte = 0; byte < 256; ++byte) {
            Word crc = byte;
            for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0xEDB88320U : 0U);
            value[0][byte] = crc;
        }
        for (Word n = 1; n < 4; ++n)
            for (Word byte = 0; byte < 256; ++byte) value[n][byte] = (value[n - 1][byte] >> 8) ^ value[0][value[n - 1][byte] & 0xFFU];
    }
};

// The four bytes of a word at once.
inline Word crc_word(Word crc, Word word) {
    static constexpr CrcTables table{};
    const Word mixed = crc ^ word;
    return table.value[3][mixed & 0xFFU] ^ table.value[2][(mixed >> 8) & 0xFFU] ^ table.value[1][(mixed >> 16) & 0xFFU] ^ table.value[0][mixed >> 24];
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
