// The main loop of our own products: c (M, N) += a (M, K) b (K, N), for a block of 256 threads that
// makes 128 x 128 results from 64 bytes of K at a time. Sources say where the operands lie and
// results where they go, so that convolutions and linear layers share it.
//
// Tiles are copied by cp.async into STAGES buffers of shared memory, in chunks of 16 bytes that are
// permuted so that reading 8 rows meets every bank once. Half and bfloat16 are multiplied by tensor
// cores (8 warps of 64 x 32), float and double by FMAs (8 x 8 results a thread). Sums are Sum<T>.
//
// A tile lies with K along its rows (row tiles: 128 rows of 64 bytes), or, if KMAJOR, with a row
// for each of its K, of 128 elements: as the operands of a weight gradient lie in memory.
#pragma once
#include "sums.cuh"
#include "warpops.cuh"

constexpr int SIDE = 128;   // results of a block, both ways
constexpr int TILE = 8192;  // bytes of an operand's tile
constexpr int STAGES = 3;

template <typename T>
struct Chunk {
    static constexpr int WIDE = 16 / sizeof(T);         // elements of a chunk
    static constexpr int DEEP = 64 / sizeof(T);         // K of a tile
    static constexpr int LINE = SIDE * sizeof(T) / 16;  // chunks of a KMAJOR tile's row
};

// Division by a number that the host knows: n / d for 0 <= n < 2^31.
struct Divisor {
    int d;
    unsigned m;
    int s;
    __device__ int of(int n) const {
        const unsigned high = static_cast<unsigned>((static_cast<unsigned long long>(n) * m) >> 32);
        return static_cast<int>((high + static_cast<unsigned>(n)) >> s);
    }
};

template <bool KMAJOR, typename T>
__device__ int chunk_offset(int row, int chunk) {
    if (KMAJOR) return (row * Chunk<T>::LINE + (chunk ^ (row & 7))) * 16;
    return row * 64 + ((chunk ^ (row >> 1)) & 3) * 16;
}

// Starts to copy one tile. Thread t takes two chunks; source.chunk(slot, row, k) gives the address
// of the one from row and k on (KMAJOR: along the rows), or null for zeros.
template <bool KMAJOR, typename T, typename Source>
__device__ void fill(char* tile, Source& source, int k) {
#pragma unroll
    for (int slot = 0; slot < 2; slot++) {
        int row, chunk;
        const T* from;
        if (KMAJOR) {
            row = threadIdx.x / Chunk<T>::LINE + slot * (256 / Chunk<T>::LINE);
            chunk = threadIdx.x % Chunk<T>::LINE;
            from = source.chunk(slot, chunk * Chunk<T>::WIDE, k + row);
        } else {
            row = threadIdx.x / 4 + slot * 64;
            chunk = threadIdx.x % 4;
            from = source.chunk(slot, row, k + chunk * Chunk<T>::WIDE);
        }
        cp_async16(tile + chunk_offset<KMAJOR, T>(row, chunk), from ? from : source.any(),
                   from ? 16 : 0);
    }
}

__device__ inline void mma(float* d, const unsigned* a, const unsigned* b, __half) {
    mma_m16n8k16_f16(d, a, b);
}
__device__ inline void mma(float* d, const unsigned* a, const unsigned* b, __nv_bfloat16) {
    mma_m16n8k16_bf16(d, a, b);
}

// The sums of one thread, for 16-bit operands: 4 x 4 fragments of its warp's 64 x 32 results.
template <typename T>
struct Sums {
    float v[4][4][4] = {};

    template <bool KMAJOR>
    __device__ void add(const char* a, const char* b) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = lane / 8;
        const int m0 = warp % 2 * 64, n0 = warp / 2 * 32;
#pragma unroll
        for (int k = 0; k < 2; k++) {  // steps of 16
            unsigned fa[4][4], fb[4][2];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int m = m0 + i * 16;
                if (KMAJOR) {
                    const int row = k * 16 + part / 2 * 8 + lane % 8, chunk = m / 8 + part % 2;
                    ldmatrix_x4_trans(fa[i], a + chunk_offset<true, T>(row, chunk));
                } else {
                    ldmatrix_x4(fa[i],
                                a + chunk_offset<false, T>(m + lane % 16, 2 * k + lane / 16));
                }
            }
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                const int n = n0 + j * 8;
                unsigned both[4];
                if (KMAJOR) {
                    const int row = k * 16 + part % 2 * 8 + lane % 8, chunk = n / 8 + part / 2;
                    ldmatrix_x4_trans(both, b + chunk_offset<true, T>(row, chunk));
                } else {
                    const int row = n + part / 2 * 8 + lane % 8;
                    ldmatrix_x4(both, b + chunk_offset<false, T>(row, 2 * k + part % 2));
                }
                fb[j][0] = both[0], fb[j][1] = both[1];
                fb[j + 1][0] = both[2], fb[j + 1][1] = both[3];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) mma(v[i][j], fa[i], fb[j], T());
        }
    }

    // result.put(row, column, two neighbours of a row)
    template <typename Result>
    __device__ void store(const Result& result) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int m0 = warp % 2 * 64 + lane / 4, n0 = warp / 2 * 32 + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    result.put(m0 + i * 16 + h * 8, n0 + j * 8, v[i][j][2 * h], v[i][j][2 * h + 1]);
                }
    }
};

// The same for float and double: 8 x 8 results, 16 rows and 16 pairs of columns apart.
template <typename T>
struct PlainSums {
    T v[8][8] = {};

    template <bool KMAJOR>
    __device__ void add(const char* a, const char* b) {
        const int y = threadIdx.x / 16, x = threadIdx.x % 16;
#pragma unroll
        for (int k = 0; k < Chunk<T>::DEEP; k++) {
            T fa[8], fb[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                fa[i] = at<KMAJOR>(a, y + 16 * i, k);
                fb[i] = at<KMAJOR>(b, 2 * x + 32 * (i / 2) + i % 2, k);
            }
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) v[i][j] += fa[i] * fb[j];
        }
    }

    template <bool KMAJOR>
    __device__ static T at(const char* tile, int row, int k) {
        constexpr int WIDE = Chunk<T>::WIDE;
        const int place =
            KMAJOR ? chunk_offset<true, T>(k, row / WIDE) : chunk_offset<false, T>(row, k / WIDE);
        return reinterpret_cast<const T*>(tile + place)[(KMAJOR ? row : k) % WIDE];
    }

    template <typename Result>
    __device__ void store(const Result& result) const {
        const int y = threadIdx.x / 16, x = threadIdx.x % 16;
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                result.put(y + 16 * i, 2 * x + 16 * j, v[i][j], v[i][j + 1]);
            }
    }
};

template <>
struct Sums<float> : PlainSums<float> {};
template <>
struct Sums<double> : PlainSums<double> {};

// Adds a b over k from first to last (both multiples of DEEP, or last the end) and stores the sums.
// Beyond the end sources give zeros.
template <bool KMAJOR, typename T, typename A, typename B, typename Result>
__device__ void multiply(A& a, B& b, const Result& result, int first, int last) {
    extern __shared__ __align__(128) char tiles[];  // STAGES times a's and b's
    constexpr int DEEP = Chunk<T>::DEEP;
    Sums<T> sums;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (first + s * DEEP < last) {
            fill<KMAJOR, T>(tiles + 2 * s * TILE, a, first + s * DEEP);
            fill<KMAJOR, T>(tiles + (2 * s + 1) * TILE, b, first + s * DEEP);
        }
        cp_async_commit();
    }
    int stage = 0;
    for (int k = first; k < last; k += DEEP) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the tile is there, and all are done with the one to be replaced
        const int next = k + (STAGES - 1) * DEEP, other = (stage + STAGES - 1) % STAGES;
        if (next < last) {
            fill<KMAJOR, T>(tiles + 2 * other * TILE, a, next);
            fill<KMAJOR, T>(tiles + (2 * other + 1) * TILE, b, next);
        }
        cp_async_commit();
        sums.template add<KMAJOR>(tiles + 2 * stage * TILE, tiles + (2 * stage + 1) * TILE);
        stage = (stage + 1) % STAGES;
    }
    sums.store(result);
}
