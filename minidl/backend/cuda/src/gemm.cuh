// The main loop of our own products: c (M, N) += a (M, K) b (K, N), for a block of 256 threads that
// makes Tile::M x Tile::N results from 64 bytes of K at a time. Sources say where the operands lie
// and results where they go, so that convolutions and linear layers share it.
//
// Tiles are copied by cp.async into Tile::STAGES buffers of shared memory, in chunks of 16 bytes
// that are permuted so that reading 8 rows meets every bank once. Half and bfloat16 are multiplied
// by tensor cores (8 warps of 64 x 32, 32 x 32 or 32 x 16), and so are floats rounded to tf32 if
// the tile says so; else float and double by FMAs (up to 8 x 8 results a thread). Sums are Sum<T>.
//
// A tile lies with K along its rows (row tiles: M or N rows of 64 bytes), or, if KMAJOR, with a row
// for each of its K, of M or N elements: as the operands of a weight gradient lie in memory.
#pragma once
#include "sums.cuh"
#include "warpops.cuh"

// M and N: 128 x 128, 128 x 64 or 64 x 64.
template <int ROWS, int COLUMNS, int BUFFERS, bool ROUNDED>
struct Tile {
    static constexpr int M = ROWS, N = COLUMNS, STAGES = BUFFERS;
    static constexpr bool TF32 = ROUNDED;                // of floats
    static constexpr int A = M * 64, BOTH = A + N * 64;  // bytes of a's tile, and with b's
};

// Whether tensor cores multiply, and for how many blocks a multiprocessor must have registers.
template <typename T, typename Tile>
constexpr bool TENSOR = sizeof(T) == 2 || Tile::TF32;
template <typename T, typename Tile>
constexpr int RESIDENT = TENSOR<T, Tile> ? 2 : 1;

template <typename T>
struct Chunk {
    static constexpr int WIDE = 16 / sizeof(T);  // elements of a chunk
    static constexpr int DEEP = 64 / sizeof(T);  // K of a tile
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

// Where a chunk lies in a tile of SIDE rows or, KMAJOR, of SIDE elements a row.
template <typename T, int SIDE, bool KMAJOR>
__device__ int chunk_offset(int row, int chunk) {
    if (!KMAJOR) return row * 64 + ((chunk ^ (row >> 1)) & 3) * 16;
    const int mixed = sizeof(T) == 4 ? row % 4 * 2 : row % 8;  // tf32 reads 4 rows of 2 chunks
    return row * SIDE * static_cast<int>(sizeof(T)) + (chunk ^ mixed) * 16;
}

// The element of a tile in one of its M or N rows, and at k.
template <typename T, int SIDE, bool KMAJOR>
__device__ const T& element(const char* tile, int row, int k) {
    constexpr int WIDE = Chunk<T>::WIDE;
    const int place = KMAJOR ? chunk_offset<T, SIDE, true>(k, row / WIDE)
                             : chunk_offset<T, SIDE, false>(row, k / WIDE);
    return reinterpret_cast<const T*>(tile + place)[(KMAJOR ? row : k) % WIDE];
}

// Starts to copy one tile. Thread t takes a chunk for each 64 of SIDE; source.chunk(slot, row, k)
// gives the address of the one from row and k on (KMAJOR: along the rows), or null for zeros.
template <typename T, int SIDE, bool KMAJOR, typename Source>
__device__ void fill(char* tile, Source& source, int k) {
    constexpr int WIDE = Chunk<T>::WIDE, LINE = KMAJOR ? SIDE / WIDE : 4;  // chunks of a row
#pragma unroll
    for (int slot = 0; slot < SIDE / 64; slot++) {
        const int row = threadIdx.x / LINE + slot * (256 / LINE), chunk = threadIdx.x % LINE;
        const T* from = KMAJOR ? source.chunk(slot, chunk * WIDE, k + row)
                               : source.chunk(slot, row, k + chunk * WIDE);
        cp_async16(tile + chunk_offset<T, SIDE, KMAJOR>(row, chunk), from ? from : source.any(),
                   from ? 16 : 0);
    }
}

__device__ inline void mma(float* d, const unsigned* a, const unsigned* b, __half) {
    mma_m16n8k16_f16(d, a, b);
}
__device__ inline void mma(float* d, const unsigned* a, const unsigned* b, __nv_bfloat16) {
    mma_m16n8k16_bf16(d, a, b);
}
__device__ inline void mma(float* d, const unsigned* a, const unsigned* b, float) {
    mma_m16n8k8_tf32(d, a, b);
}

// What a lane holds of 16 rows of a tile, from `row` on, and 32 bytes of K, the step-th: a word of
// each quarter of 8 rows and 16 bytes. Quarters one below the other are neighbours in `words` if
// DOWN, as mma takes a, else those side by side, as it takes b twice.
template <typename T, int SIDE, bool KMAJOR, bool DOWN>
__device__ void load_words(unsigned* words, const char* tile, int row, int step) {
    const int lane = threadIdx.x % 32, quarter = lane / 8;
    const int below = DOWN ? quarter % 2 : quarter / 2, beside = DOWN ? quarter / 2 : quarter % 2;
    if constexpr (!KMAJOR) {
        const int r = row + 8 * below + lane % 8;
        ldmatrix_x4(words, tile + chunk_offset<T, SIDE, false>(r, 2 * step + beside));
    } else if constexpr (sizeof(T) == 2) {
        const int k = 16 * step + 8 * beside + lane % 8;
        ldmatrix_x4_trans(words, tile + chunk_offset<T, SIDE, true>(k, row / 8 + below));
    } else {  // ldmatrix transposes 16 bits only
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = row + 8 * (DOWN ? i % 2 : i / 2) + lane / 4;
            const int k = 8 * step + 4 * (DOWN ? i / 2 : i % 2) + lane % 4;
            words[i] = __float_as_uint(element<T, SIDE, true>(tile, r, k));
        }
    }
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = to_tf32(__uint_as_float(words[i]));
    }
}

// The sums of one thread, for tensor cores: fragments of its warp's results.
template <typename T, typename Tile, bool KMAJOR, bool = TENSOR<T, Tile>>
struct Sums {
    static constexpr int DOWN = 2 * Tile::M / Tile::N;                      // warps
    static constexpr int HIGH = Tile::M / DOWN, WIDE = Tile::N * DOWN / 8;  // results of one
    float v[HIGH / 16][WIDE / 8][4] = {};

    __device__ void add(const char* a, const char* b) {
        const int warp = threadIdx.x / 32, m0 = warp % DOWN * HIGH, n0 = warp / DOWN * WIDE;
#pragma unroll
        for (int step = 0; step < 2; step++) {
            unsigned fa[4], fb[WIDE / 16][4];
#pragma unroll
            for (int j = 0; j < WIDE / 16; j++) {
                load_words<T, Tile::N, KMAJOR, false>(fb[j], b, n0 + 16 * j, step);
            }
#pragma unroll
            for (int i = 0; i < HIGH / 16; i++) {
                load_words<T, Tile::M, KMAJOR, true>(fa, a, m0 + 16 * i, step);
#pragma unroll
                for (int j = 0; j < WIDE / 8; j++) mma(v[i][j], fa, fb[j / 2] + j % 2 * 2, T());
            }
        }
    }

    template <typename Result>
    __device__ void store(const Result& result) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int m0 = warp % DOWN * HIGH + lane / 4, n0 = warp / DOWN * WIDE + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < HIGH / 16; i++)
#pragma unroll
            for (int j = 0; j < WIDE / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    result.put(m0 + i * 16 + e / 2 * 8, n0 + j * 8 + e % 2, v[i][j][e]);
                }
    }
};

// The same by FMAs. Results lie so that reading tiles meets every bank once: 16 apart, or KMAJOR a
// chunk side by side.
template <typename T, typename Tile, bool KMAJOR>
struct Sums<T, Tile, KMAJOR, false> {
    static constexpr int HIGH = Tile::M / 16, WIDE = Tile::N / 16;
    static constexpr int RUN = KMAJOR ? Chunk<T>::WIDE : 1;  // neighbours, read at once
    T v[HIGH][WIDE] = {};

    template <int SIDE>
    __device__ static void load(T* to, const char* tile, int row, int k) {
        const T* from = &element<T, SIDE, KMAJOR>(tile, row, k);
#pragma unroll
        for (int e = 0; e < RUN; e++) to[e] = from[e];
    }
    __device__ static int row(int i) {
        return KMAJOR ? threadIdx.x / 16 * HIGH + i : threadIdx.x / 16 + 16 * i;
    }
    __device__ static int column(int j) {
        return KMAJOR ? threadIdx.x % 16 * 4 + j / 4 * 64 + j % 4 : threadIdx.x % 16 + 16 * j;
    }
    __device__ void add(const char* a, const char* b) {
#pragma unroll
        for (int k = 0; k < Chunk<T>::DEEP; k++) {
            T fa[HIGH], fb[WIDE];
#pragma unroll
            for (int i = 0; i < HIGH; i += RUN) load<Tile::M>(fa + i, a, row(i), k);
#pragma unroll
            for (int j = 0; j < WIDE; j += RUN) load<Tile::N>(fb + j, b, column(j), k);
#pragma unroll
            for (int i = 0; i < HIGH; i++)
#pragma unroll
                for (int j = 0; j < WIDE; j++) v[i][j] += fa[i] * fb[j];
        }
    }

    template <typename Result>
    __device__ void store(const Result& result) const {
#pragma unroll
        for (int i = 0; i < HIGH; i++)
#pragma unroll
            for (int j = 0; j < WIDE; j++) result.put(row(i), column(j), v[i][j]);
    }
};

// Adds a b over k from first to last (both multiples of DEEP, or last the end) and stores the sums.
// Beyond the end sources give zeros.
template <typename T, typename Tile, bool KMAJOR, typename A, typename B, typename Result>
__device__ void multiply(A& a, B& b, const Result& result, int first, int last) {
    extern __shared__ __align__(128) char tiles[];  // STAGES times a's and b's
    constexpr int DEEP = Chunk<T>::DEEP, STAGES = Tile::STAGES;
    const auto copy = [&](int stage, int k) {
        if (k < last) {
            fill<T, Tile::M, KMAJOR>(tiles + stage * Tile::BOTH, a, k);
            fill<T, Tile::N, KMAJOR>(tiles + stage * Tile::BOTH + Tile::A, b, k);
        }
        cp_async_commit();
    };
    Sums<T, Tile, KMAJOR> sums;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) copy(s, first + s * DEEP);
    int stage = 0;
    for (int k = first; k < last; k += DEEP) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the tile is there, and all are done with the one to be replaced
        copy((stage + STAGES - 1) % STAGES, k + (STAGES - 1) * DEEP);
        const char* tile = tiles + stage * Tile::BOTH;
        sums.add(tile, tile + Tile::A);
        stage = (stage + 1) % STAGES;
    }
    sums.store(result);
}

// A source: the matrix (rows, k) whose rows are contiguous and ld apart; zeros beyond its edges.
template <typename T>
struct Rows {
    const T* in;
    int first, rows, deep;
    long long ld;
    __device__ const T* any() const { return in; }
    __device__ const T* chunk(int slot, int row, int k) const {
        return first + row < rows && k < deep ? in + (first + row) * ld + k : nullptr;
    }
};

// The same, KMAJOR: the matrix (k, rows).
template <typename T>
struct Columns {
    const T* in;
    int first, rows, deep;
    long long ld;
    __device__ const T* any() const { return in; }
    __device__ const T* chunk(int slot, int row, int k) const {
        return first + row < rows && k < deep ? in + k * ld + first + row : nullptr;
    }
};

// Epilogues: what is stored of a sum, given its column. An activation would be another one.
struct Bare {
    template <typename A>
    __device__ A of(A sum, int) const {
        return sum;
    }
};

template <typename T>
struct AddBias {
    const T* bias;  // or null
    template <typename A>
    __device__ A of(A sum, int column) const {
        return bias ? sum + static_cast<A>(bias[column]) : sum;
    }
};

// A result: the matrix (rows, columns), of which a block makes those from row and column on, whose
// rows are ld apart.
template <typename To, typename Epilogue>
struct Matrix {
    To* out;
    Epilogue epilogue;
    int row, column, rows, columns;
    long long ld;
    template <typename A>
    __device__ void put(int i, int j, A sum) const {
        if (row + i >= rows || column + j >= columns) return;
        out[(row + i) * ld + column + j] = static_cast<To>(epilogue.of(sum, column + j));
    }
};
