// The main loop of our own products: c (M, N) += a (M, K) b (K, N), for a block of 128 or 256
// threads that makes Tile::M x Tile::N results from 64 bytes of K at a time. Sources say where the
// operands lie and results where they go, so that convolutions and linear layers share it.
//
// Tiles are copied by cp.async into Tile::STAGES buffers of shared memory, in chunks of 16 bytes
// that are permuted so that reading 8 rows meets every bank once. A source keeps the place of each
// thread's chunks and moves it on by a tile: addresses cost few instructions, which are issued amid
// products. Half and bfloat16 are multiplied by tensor cores, and so are floats rounded to tf32 if
// the tile says so; else float and double by FMAs (up to 8 x 8 results a thread). Sums are Sum<T>.
//
// For each product of 16 x 8 x 16 a warp reads 128 bytes of shared memory if 64 x 64 results are
// its own, as in the large tiles, 192 for 64 x 32 (128 x 64, 128 x 128 of floats), 256 for 32 x 32
// (64 x 64). An H100 takes at least 1.6 clocks for one, in which shared memory gives 205.
//
// A tile lies with K along its rows (row tiles: M or N rows of 64 bytes), or, if KMAJOR, with a row
// for each of its K, of M or N elements: as the operands of a weight gradient lie in memory.
#pragma once
#include "packs.cuh"
#include "sums.cuh"
#include "warpops.cuh"

// M and N: 128 x 128, 128 x 64 or 64 x 64; for half and bfloat16 256 x 128 too.
template <int ROWS, int COLUMNS, int BUFFERS, bool ROUNDED>
struct Tile {
    static constexpr int M = ROWS, N = COLUMNS, STAGES = BUFFERS;
    static constexpr bool TF32 = ROUNDED;                // of floats
    static constexpr int A = M * 64, BOTH = A + N * 64;  // bytes of a's tile, and with b's
};

// Whether tensor cores multiply, with what threads, and for how many blocks a multiprocessor must
// have registers.
template <typename T, typename Tile>
constexpr bool TENSOR = sizeof(T) == 2 || Tile::TF32;
template <typename T, typename Tile>
constexpr int THREADS =
    TENSOR<T, Tile> && Tile::M * Tile::N * sizeof(T) < 256 * 128 * 2 ? 128 : 256;
template <typename T, typename Tile>
constexpr int RESIDENT = THREADS<T, Tile> == 256                        ? 1
                         : Tile::M * Tile::N * sizeof(T) > 128 * 64 * 2 ? 2
                                                                        : 3;

template <typename T>
struct Chunk {
    static constexpr int WIDE = 16 / sizeof(T);  // elements of a chunk
    static constexpr int DEEP = 64 / sizeof(T);  // K of a tile
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

// A thread's share in copying a tile: one chunk in each of SLOTS rows, STEP apart.
template <typename T, typename Tile, int SIDE, bool KMAJOR>
struct Share {
    static constexpr int SLOTS = SIDE * 4 / THREADS<T, Tile>;
    static constexpr int LINE = KMAJOR ? SIDE / Chunk<T>::WIDE : 4;  // chunks of a row
    static constexpr int STEP = THREADS<T, Tile> / LINE;
    __device__ static int row() { return threadIdx.x / LINE; }
    __device__ static int chunk() { return threadIdx.x % LINE; }
    __device__ static int start() { return chunk() * Chunk<T>::WIDE; }  // its first element
};

// Starts to copy one tile: a thread's chunk lies at source.chunk(slot), or is zeros unless
// source.there(slot). Nothing is read from there then, so that the address may be any. Conditions
// are joined by &, which takes no branch.
template <typename T, typename Tile, int SIDE, bool KMAJOR, typename Source>
__device__ void fill(char* tile, const Source& source) {
    typedef Share<T, Tile, SIDE, KMAJOR> S;
#pragma unroll
    for (int slot = 0; slot < S::SLOTS; slot++) {
        const int to = chunk_offset<T, SIDE, KMAJOR>(S::row() + slot * S::STEP, S::chunk());
        cp_async16(tile + to, source.chunk(slot), source.there(slot) ? 16 : 0);
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
    static constexpr int DOWN = Tile::M > 64 ? Tile::M / 64 : 2;  // warps
    static constexpr int ACROSS = THREADS<T, Tile> / 32 / DOWN;
    static constexpr int HIGH = Tile::M / DOWN, WIDE = Tile::N / ACROSS;  // results of one
    float v[HIGH / 16][WIDE / 8][4] = {};

    // What a warp multiplies of half a tile, which of the two `step` says.
    struct Words {
        unsigned a[HIGH / 16][4], b[WIDE / 16][4];
    };
    __device__ static int row() { return threadIdx.x / 32 % DOWN * HIGH; }
    __device__ static int column() { return threadIdx.x / 32 / DOWN * WIDE; }
    __device__ static void load(Words& words, const char* a, const char* b, int step) {
#pragma unroll
        for (int j = 0; j < WIDE / 16; j++) {
            load_words<T, Tile::N, KMAJOR, false>(words.b[j], b, column() + 16 * j, step);
        }
#pragma unroll
        for (int i = 0; i < HIGH / 16; i++) {
            load_words<T, Tile::M, KMAJOR, true>(words.a[i], a, row() + 16 * i, step);
        }
    }
    __device__ void add(const Words& words) {
#pragma unroll
        for (int i = 0; i < HIGH / 16; i++)
#pragma unroll
            for (int j = 0; j < WIDE / 8; j++) {
                mma(v[i][j], words.a[i], words.b[j / 2] + j % 2 * 2, T());
            }
    }
    template <typename Result>
    __device__ void store(const Result& result) const {
        const int lane = threadIdx.x % 32;
        const int m0 = row() + lane / 4, n0 = column() + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < HIGH / 8; i++) {
            const auto line = result.line(m0 + 8 * i);
#pragma unroll
            for (int j = 0; j < WIDE / 8; j++) {
                const float* pair = v[i / 2][j] + i % 2 * 2;
                if (line) result.put(line, n0 + 8 * j, pair[0], pair[1]);
            }
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
    __device__ void add(const char* a, const char* b, int step) {
        constexpr int HALF = Chunk<T>::DEEP / 2;
#pragma unroll
        for (int k = step * HALF; k < step * HALF + HALF; k++) {
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
        for (int i = 0; i < HIGH; i++) {
            const auto line = result.line(row(i));
#pragma unroll
            for (int j = 0; j < WIDE; j++) {
                if (line) result.put(line, column(j), v[i][j]);
            }
        }
    }
};

// Adds a b over `deep` of K from where the sources stand, and stores the sums. Beyond the end of K
// sources give zeros. What tensor cores multiply after a barrier has been loaded before it.
template <typename T, typename Tile, bool KMAJOR, typename A, typename B, typename Result>
__device__ void multiply(A& a, B& b, const Result& result, int deep) {
    extern __shared__ __align__(128) char tiles[];  // STAGES times a's and b's
    constexpr int DEEP = Chunk<T>::DEEP, STAGES = Tile::STAGES;
    const auto copy = [&](int stage) {
        fill<T, Tile, Tile::M, KMAJOR>(tiles + stage * Tile::BOTH, a);
        fill<T, Tile, Tile::N, KMAJOR>(tiles + stage * Tile::BOTH + Tile::A, b);
        cp_async_commit();
        a.next();
        b.next();
    };
    typedef Sums<T, Tile, KMAJOR> S;
    S sums;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) copy(s);
    const auto arrive = [&] {  // the next tile is there, and all are done with the last one
        cp_async_wait<STAGES - 2>();
        __syncthreads();
    };
    if constexpr (TENSOR<T, Tile>) {
        typename S::Words first, second;
        int stage = 0;
        const auto load = [&](typename S::Words& words, int step) {
            const char* tile = tiles + stage * Tile::BOTH;
            S::load(words, tile, tile + Tile::A, step);
        };
        const auto turn = [&] {
            copy(stage ? stage - 1 : STAGES - 1);  // amid products, which hide what it must reckon
            arrive();
            stage = stage == STAGES - 1 ? 0 : stage + 1;
        };
        arrive();
        load(first, 0);
        load(second, 1);
        sums.add(first);
        turn();
        for (int k = DEEP; k < deep; k += DEEP) {  // the barrier is the last, or else ptxas moves
            load(first, 0);                        // products before it that are to follow it
            sums.add(second);
            load(second, 1);
            sums.add(first);
            turn();
        }
        sums.add(second);
    } else {
        for (int k = 0, stage = 0; k < deep; k += DEEP) {
            arrive();
            const char* tile = tiles + stage * Tile::BOTH;
            sums.add(tile, tile + Tile::A, 0);
            copy(stage ? stage - 1 : STAGES - 1);
            sums.add(tile, tile + Tile::A, 1);
            stage = stage == STAGES - 1 ? 0 : stage + 1;
        }
    }
    sums.store(result);
}

// A source: the matrix (rows, deep), or KMAJOR (deep, rows), whose lines are contiguous and ld
// apart, from row `first` and k on; zeros beyond its edges.
template <typename T, typename Tile, int SIDE, bool KMAJOR>
struct Lines {
    typedef Share<T, Tile, SIDE, KMAJOR> S;
    const T* at;
    int line, lines, start, end;  // of this thread's first chunk; of the matrix
    long long ld;

    __device__ Lines(const T* in, int first, int rows, int k, int deep, long long ld)
        : line((KMAJOR ? k : first) + S::row()),
          lines(KMAJOR ? deep : rows),
          start((KMAJOR ? first : k) + S::start()),
          end(KMAJOR ? rows : deep),
          ld(ld) {
        at = in + line * ld + start;
    }
    __device__ bool there(int slot) const {
        return (line + slot * S::STEP < lines) & (start < end);
    }
    __device__ const T* chunk(int slot) const { return at + slot * S::STEP * ld; }
    __device__ void next() {
        (KMAJOR ? line : start) += Chunk<T>::DEEP;
        at += KMAJOR ? Chunk<T>::DEEP * ld : Chunk<T>::DEEP;
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
// rows are ld apart. line(i) is where the block's i-th row begins, or null.
template <typename To, typename Epilogue>
struct Matrix {
    To* out;
    Epilogue epilogue;
    int row, column, rows, columns;
    long long ld;

    __device__ To* line(int i) const {
        return row + i < rows ? out + (row + i) * ld + column : nullptr;
    }
    template <typename A>
    __device__ void put(To* line, int j, A sum) const {
        if (column + j < columns) line[j] = static_cast<To>(epilogue.of(sum, column + j));
    }
    // Two neighbours from an even j on, at once where memory allows it.
    template <typename A>
    __device__ void put(To* line, int j, A left, A right) const {
        const bool even = reinterpret_cast<size_t>(line) % sizeof(Pack<To, 2>) == 0;
        if (even && column + j + 1 < columns) {
            const Pack<To, 2> both = {static_cast<To>(epilogue.of(left, column + j)),
                                      static_cast<To>(epilogue.of(right, column + j + 1))};
            store_pack<2>(line + j, both);
        } else {
            put(line, j, left);
            put(line, j + 1, right);
        }
    }
};
