// The emulator's meaning of warpops.cuh, in which the device build has inline PTX.
#pragma once

static inline void mma_m16n8k16_f16(float* d, const unsigned* a, const unsigned* b,
                                    simt::Place at = SIMT_HERE) {
    simt::mma(simt::kHalf, d, a, b, at);
}
static inline void mma_m16n8k16_bf16(float* d, const unsigned* a, const unsigned* b,
                                     simt::Place at = SIMT_HERE) {
    simt::mma(simt::kBfloat16, d, a, b, at);
}
static inline void mma_m16n8k8_tf32(float* d, const unsigned* a, const unsigned* b,
                                    simt::Place at = SIMT_HERE) {
    simt::mma(simt::kTf32, d, a, b, at);
}

// Nearest, ties away from zero; infinities and NaN keep their class.
static inline unsigned to_tf32(float value) {
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits & 0x007fffffu ? 0x7fffffffu : bits;
    return (bits + 0x1000u) & 0xffffe000u;
}

#define SIMT_LDMATRIX(name, count, transposed)                                          \
    static inline void name(unsigned* r, const void* row, simt::Place at = SIMT_HERE) { \
        simt::ldmatrix(count, transposed, r, row, at);                                  \
    }
SIMT_LDMATRIX(ldmatrix_x1, 1, false)
SIMT_LDMATRIX(ldmatrix_x2, 2, false)
SIMT_LDMATRIX(ldmatrix_x4, 4, false)
SIMT_LDMATRIX(ldmatrix_x1_trans, 1, true)
SIMT_LDMATRIX(ldmatrix_x2_trans, 2, true)
SIMT_LDMATRIX(ldmatrix_x4_trans, 4, true)

#define SIMT_CP_ASYNC(name, bytes)                                                      \
    static inline void name(void* shared, const void* global, int source_bytes = bytes, \
                            simt::Place at = SIMT_HERE) {                               \
        simt::cp_async(shared, global, bytes, source_bytes, at);                        \
    }
SIMT_CP_ASYNC(cp_async4, 4)
SIMT_CP_ASYNC(cp_async8, 8)
SIMT_CP_ASYNC(cp_async16, 16)

static inline void cp_async_commit() { simt::cp_async_commit(); }
template <int groups>
static inline void cp_async_wait() {
    simt::cp_async_wait(groups);
}

static inline void store16(void* global, const void* from, simt::Place at = SIMT_HERE) {
    simt::store16(global, from, at);
}
