// Barriers, fences, and the warp's shuffles and votes.
#pragma once

static inline void __syncthreads(simt::Place at = SIMT_HERE) { simt::barrier(at, 0); }
static inline int __syncthreads_count(int predicate, simt::Place at = SIMT_HERE) {
    return simt::barrier(at, predicate);
}
static inline int __syncthreads_or(int predicate, simt::Place at = SIMT_HERE) {
    return simt::barrier(at, predicate) != 0;
}
static inline int __syncthreads_and(int predicate, simt::Place at = SIMT_HERE) {
    return simt::barrier(at, !predicate) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, simt::Place at = SIMT_HERE) {
    simt::sync_warp(mask, at);
}
static inline void __threadfence() { simt::fence(); }
static inline void __threadfence_system() { simt::fence(); }
static inline void __threadfence_block() { __asm__ volatile("" ::: "memory"); }
static inline void __trap(simt::Place at = SIMT_HERE) { simt::fail(at, "__trap()"); }

#define SIMT_SHUFFLE(name, mode, Lane)                                                      \
    template <class T>                                                                      \
    static inline T name(unsigned mask, T value, Lane lane, int width = 32,                 \
                         simt::Place at = SIMT_HERE) {                                      \
        static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, #name);           \
        simt::shuffle(mode, mask, &value, sizeof value, static_cast<int>(lane), width, at); \
        return value;                                                                       \
    }
SIMT_SHUFFLE(__shfl_sync, simt::kIndex, int)
SIMT_SHUFFLE(__shfl_up_sync, simt::kUp, unsigned)
SIMT_SHUFFLE(__shfl_down_sync, simt::kDown, unsigned)
SIMT_SHUFFLE(__shfl_xor_sync, simt::kXor, int)

static inline unsigned __ballot_sync(unsigned mask, int p, simt::Place at = SIMT_HERE) {
    return simt::ballot(mask, p, at);
}
static inline int __any_sync(unsigned mask, int p, simt::Place at = SIMT_HERE) {
    return simt::ballot(mask, p, at) != 0;
}
static inline int __all_sync(unsigned mask, int p, simt::Place at = SIMT_HERE) {
    return simt::ballot(mask, !p, at) == 0;
}
static inline unsigned __activemask() { return simt::active_mask(); }

template <class T>
static inline unsigned __match_any_sync(unsigned mask, T value, simt::Place at = SIMT_HERE) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return simt::match_any(mask, bits, at);
}

#define SIMT_REDUCE(T, name, how)                                                         \
    static inline T name(unsigned mask, T value, simt::Place at = SIMT_HERE) {            \
        return static_cast<T>(simt::reduce(how, mask, static_cast<unsigned>(value), at)); \
    }
SIMT_REDUCE(int, __reduce_add_sync, simt::kSum)
SIMT_REDUCE(unsigned, __reduce_add_sync, simt::kSum)
SIMT_REDUCE(int, __reduce_min_sync, simt::kMin)
SIMT_REDUCE(unsigned, __reduce_min_sync, simt::kMinUnsigned)
SIMT_REDUCE(int, __reduce_max_sync, simt::kMax)
SIMT_REDUCE(unsigned, __reduce_max_sync, simt::kMaxUnsigned)
SIMT_REDUCE(unsigned, __reduce_and_sync, simt::kAnd)
SIMT_REDUCE(unsigned, __reduce_or_sync, simt::kOr)
SIMT_REDUCE(unsigned, __reduce_xor_sync, simt::kExclusiveOr)
