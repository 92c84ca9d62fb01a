// The two products of a warp of attention (attention.cuh says of what and how they lie in lanes).
#pragma once
#include "sums.cuh"
#include "warpops.cuh"

// Where a chunk of 16 bytes of a tile lies: 8 rows' chunks of one number meet every bank once.
template <int BYTES>
__device__ int place(int row, int chunk) {
    return row * BYTES + ((chunk ^ (row & 7)) * 16);
}

__device__ inline unsigned both(float low, float high, __half) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
}
__device__ inline unsigned both(float low, float high, __nv_bfloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
}
__device__ inline void mma(float* d, const unsigned* a, const unsigned* b, __half) {
    mma_m16n8k16_f16(d, a, b);
}
__device__ inline void mma(float* d, const unsigned* a, const unsigned* b, __nv_bfloat16) {
    mma_m16n8k16_bf16(d, a, b);
}

template <typename T>
struct Products {
    static constexpr int NEAR = 2;  // neighbours in a row of results that a lane holds

    // s += a bᵀ, for the rows of a from m on. A tile's chunks k elements further on lie where the
    // bits of k are turned over.
    template <typename C>
    __device__ static void row_products(float (&s)[C::R][C::N / 8][4], const char* a, int m,
                                        const char* b, int) {
        const int lane = threadIdx.x % 32, part = lane / 8;
        const int own = place<C::BYTES>(m + lane % 16, lane / 16);
        const int other = place<C::BYTES>(part / 2 * 8 + lane % 8, part % 2);
#pragma unroll
        for (int k = 0; k < C::CHUNKS * C::WIDE; k += 16) {
            unsigned fa[C::R][4], fb[4];
#pragma unroll
            for (int r = 0; r < C::R; r++) {
                ldmatrix_x4(fa[r], a + (own ^ 2 * k) + 16 * r * C::BYTES);
            }
#pragma unroll
            for (int j = 0; j < C::N / 8; j += 2) {
                ldmatrix_x4(fb, b + (other ^ 2 * k) + 8 * j * C::BYTES);
#pragma unroll
                for (int r = 0; r < C::R; r++) {
                    mma(s[r][j], fa[r], fb, T());
                    mma(s[r][j + 1], fa[r], fb + 2, T());
                }
            }
        }
    }

    // y += s b, for the columns of b from `column` on; s is rounded to T.
    template <typename C>
    __device__ static void mix_rows(float (&y)[C::R][C::OUT / 8][4],
                                    const float (&s)[C::R][C::N / 8][4], const char* b,
                                    int column) {
        const int lane = threadIdx.x % 32, part = lane / 8;
        const int at = place<C::BYTES>(part % 2 * 8 + lane % 8, part / 2) ^ 2 * column;
#pragma unroll
        for (int j = 0; j < C::N / 8; j += 2) {
            unsigned fa[C::R][4], fb[4];
#pragma unroll
            for (int r = 0; r < C::R; r++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float* pair = s[r][j + i / 2] + i % 2 * 2;
                    fa[r][i] = both(pair[0], pair[1], T());
                }
#pragma unroll
            for (int c = 0; c < C::OUT / 8; c += 2) {
                ldmatrix_x4_trans(fb, b + (at ^ 16 * c) + 8 * j * C::BYTES);
#pragma unroll
                for (int r = 0; r < C::R; r++) {
                    mma(y[r][c], fa[r], fb, T());
                    mma(y[r][c + 1], fa[r], fb + 2, T());
                }
            }
        }
    }
};

// The same by FMAs; results' columns lie so that lanes read whole chunks of b.
template <typename T>
struct PlainProducts {
    static constexpr int NEAR = 16 / sizeof(T);
    struct alignas(16) Pack {
        T v[NEAR];
    };

    template <typename C>
    __device__ static Pack pack(const char* tile, int row, int chunk) {
        return *reinterpret_cast<const Pack*>(tile + place<C::BYTES>(row, chunk));
    }

    template <typename C>
    __device__ static void row_products(T (&s)[C::R][C::N / 8][4], const char* a, int m,
                                        const char* b, int deep) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll 1
        for (int k = 0; k * NEAR < deep; k++) {
            Pack fa[C::R][2];
#pragma unroll
            for (int r = 0; r < 2 * C::R; r++) fa[r / 2][r % 2] = pack<C>(a, m + 8 * r + g, k);
#pragma unroll
            for (int j = 0; j < C::N / 4; j++) {
                const Pack fb = pack<C>(b, j / 2 * 8 + 2 * t + j % 2, k);
#pragma unroll
                for (int r = 0; r < 2 * C::R; r++)
#pragma unroll
                    for (int e = 0; e < NEAR; e++) {
                        s[r / 2][j / 2][r % 2 * 2 + j % 2] += fa[r / 2][r % 2].v[e] * fb.v[e];
                    }
            }
        }
    }

    template <typename C>
    __device__ static void mix_rows(T (&y)[C::R][C::OUT / 8][4], const T (&s)[C::R][C::N / 8][4],
                                    const char* b, int column) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int j = 0; j < C::N / 4; j++) {  // rows 8 (j / 2) + 2 t + j % 2 of b, for each t
#pragma unroll 1
            for (int t = 0; t < 4; t++) {
                T weight[2 * C::R];
#pragma unroll
                for (int r = 0; r < 2 * C::R; r++) {
                    const T own = s[r / 2][j / 2][r % 2 * 2 + j % 2];
                    weight[r] = __shfl_sync(0xffffffff, own, (lane & 28) + t);
                }
#pragma unroll
                for (int c = 0; c < C::OUT / (4 * NEAR); c++) {
                    const int row = j / 2 * 8 + 2 * t + j % 2;
                    const Pack fb = pack<C>(b, row, column / NEAR + 4 * c + lane % 4);
#pragma unroll
                    for (int r = 0; r < 2 * C::R; r++)
#pragma unroll
                        for (int e = 0; e < NEAR; e++) {
                            const int at = c * NEAR + e;
                            y[r / 2][at / 2][r % 2 * 2 + at % 2] += weight[r] * fb.v[e];
                        }
                }
            }
        }
    }
};

template <>
struct Products<float> : PlainProducts<float> {};
template <>
struct Products<double> : PlainProducts<double> {};
