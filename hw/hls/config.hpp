// Sizes that are fixed when the engine is built. A build script overrides them with -D; a model never does.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef NSLLM_LANES
#define NSLLM_LANES 16
#endif
#ifndef NSLLM_SIGNAL_WORDS
#define NSLLM_SIGNAL_WORDS 65536
#endif
#ifndef NSLLM_STATE_WORDS
#define NSLLM_STATE_WORDS 65536
#endif
#ifndef NSLLM_ROW_WORDS
#define NSLLM_ROW_WORDS 4096
#endif
#ifndef NSLLM_ROWS
#define NSLLM_ROWS 4
#endif
#ifndef NSLLM_ACCUMULATORS
#define NSLLM_ACCUMULATORS 16384
#endif
#ifndef NSLLM_QUEUE_WORDS
#define NSLLM_QUEUE_WORDS 1024
#endif
#ifndef NSLLM_DESCRIPTORS
#define NSLLM_DESCRIPTORS 256
#endif

// Words of the program image; only C/RTL co-simulation reads it.
#ifndef NSLLM_IMAGE_DEPTH
#define NSLLM_IMAGE_DEPTH 1048576
#endif

// What a cycle adds: words of a weight row with four accumulators for each, and units of 16 accumulators. A pragma takes a number, no expression.
#if NSLLM_LANES == 16
#define NSLLM_BEAT 4
#define NSLLM_UNITS 1
#elif NSLLM_LANES == 32
#define NSLLM_BEAT 8
#define NSLLM_UNITS 2
#elif NSLLM_LANES == 64
#define NSLLM_BEAT 16
#define NSLLM_UNITS 4
#else
#error "NSLLM_LANES must be 16, 32 or 64"
#endif

// run_hls.tcl defines NSLLM_VITIS, for synthesis and for the test bench. HLS(pipeline II=1) then becomes "#pragma HLS pipeline II=1",
// elsewhere nothing: other compilers would warn about a pragma they do not know.
#if defined(NSLLM_VITIS)
#define NSLLM_PRAGMA(text) _Pragma(#text)
#define HLS(...) NSLLM_PRAGMA(HLS __VA_ARGS__)
#else
#define HLS(...)
#endif

// Before a loop over lanes: GCC then turns it into vector instructions instead of unrolling it to scalar ones.
#if defined(__GNUC__) && !defined(__clang__)
#define NSLLM_LANE_LOOP _Pragma("GCC unroll 1")
#else
#define NSLLM_LANE_LOOP
#endif

namespace nsllm {

using Word = std::uint32_t;
using Value = std::int32_t;

// Index into an on-chip memory. On a 64-bit host a 32-bit index could wrap, which keeps a compiler from vectorising.
#if defined(__SYNTHESIS__)
using Index = Word;
#else
using Index = std::size_t;
#endif

struct Build {
    static constexpr Word LANES = NSLLM_LANES;                // accumulators that work in parallel
    static constexpr Word SIGNAL_WORDS = NSLLM_SIGNAL_WORDS;  // values of the current token, 32 bits each
    static constexpr Word STATE_WORDS = NSLLM_STATE_WORDS;    // integrators, LIF neurons and delay lines
    static constexpr Word ROW_WORDS = NSLLM_ROW_WORDS;        // the longest weight row or kernel block
    static constexpr Word ROWS = NSLLM_ROWS;                  // weight rows of a Linear added in one pass
    static constexpr Word ACCUMULATORS = NSLLM_ACCUMULATORS;  // outputs of the widest Linear or Conv2d
    static constexpr Word QUEUE_WORDS = NSLLM_QUEUE_WORDS;    // source neurons queued at a time
    static constexpr Word DESCRIPTORS = NSLLM_DESCRIPTORS;    // ops whose work is counted
    static constexpr Word BITS = 32;                          // width of values and of comparisons
};

}  // namespace nsllm
