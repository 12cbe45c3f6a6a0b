// Two's complement arithmetic modulo 2^32: what a 32-bit adder and shifter do, defined for every operand in C++.
#pragma once

#include "config.hpp"

namespace nsllm {

constexpr Word bits(Value v) { return static_cast<Word>(v); }

constexpr Value value(Word w) { return static_cast<Value>(w); }

constexpr Value add(Value a, Value b) { return value(bits(a) + bits(b)); }

constexpr Value subtract(Value a, Value b) { return value(bits(a) - bits(b)); }

constexpr Value negate(Value v) { return value(0U - bits(v)); }

constexpr Value shift_left(Value v, Word n) { return value(bits(v) << n); }

constexpr Word magnitude(Value v) { return v < 0 ? bits(negate(v)) : bits(v); }

// a b by additions.
inline Word times(Word a, Word b) {
    Word product = 0;
    for (; a != 0; a >>= 1, b <<= 1) {
        HLS(loop_tripcount max=16)
        if ((a & 1U) != 0) product += b;
    }
    return product;
}

// (S (256 - 2^j)) >> 8 with k = 8 - j: S minus S / 2^k rounded up. The carry stands for the rounding,
// so nothing wider than S occurs.
constexpr Value decay(Value s, Word k) {
    return subtract(s, add(s >> k, (bits(s) & ((1U << k) - 1U)) != 0 ? 1 : 0));
}

}  // namespace nsllm
