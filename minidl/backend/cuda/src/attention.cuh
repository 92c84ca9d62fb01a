// What the kernels of attention are made of: tiles of rows in shared memory, the two products of a
// warp, and where rows of arrays lie.
//
// Every kernel keeps M rows of one or two arrays in shared memory, 16 R a warp, and walks along
// other arrays N rows at a time through two buffers. `row_products` multiplies the kept rows with
// those passing by: s (16 R, N) = a bᵀ. `mix_rows` mixes the rows passing by with what became of
// the products: y (16 R, OUT) += s b. Half and bfloat16 take tensor cores, float and double FMAs;
// sums are Sum<T>.
//
// An H100 takes at least 1.6 clocks for an mma.sync of 16 x 8 x 16 (its four tensor cores
// together), in which shared memory gives 205 bytes. The right operand alone is 256: hence R = 2
// products for each, where the results of 32 rows leave room in a warp's registers.
//
// A warp's results are spread over its lanes as those of mma.m16n8k16: with lane = 4 g + t, element
// (r, j, i) is row 16 r + g + 8 (i >> 1) of the products, and their column 8 j + 2 t + (i & 1).
#pragma once
#include "attention_products.cuh"

// The most rows passing by, of 64, 48, 32, 24 and so on from n, whose `tile` has so many bytes and
// whose products fit in `most`: `results` columns of sums and `scores` numbers for each of the
// rows.
constexpr int rows_passing(int n, int line, int tile, int results, int scores, int most) {
    const bool fits = n * line <= tile && results + n * scores <= most;
    const int next = n % 3 ? n * 3 / 4 : n * 2 / 3;
    return n == 8 || fits ? n : rows_passing(next, line, tile, results, scores, most);
}

// How rows of W elements are cut up for a kernel whose warps hold SCORES arrays of products and one
// of W columns of results; RESULTS warps share the rows kept, tiles of rows passing by are of at
// most TILE bytes. cut_of of attention.py says the same.
template <typename T, int W, int SCORES, int RESULTS, int TILE>
struct Cut {
    typedef typename Sum<T>::type A;
    static constexpr bool HALF = sizeof(T) == 2;
    static constexpr int BYTES = W * sizeof(T);  // of a row
    static constexpr int CHUNKS = BYTES / 16, WIDE = 16 / sizeof(T);
    static constexpr int R = HALF && W <= 128 ? 2 : 1;  // what is read is used R times
    static constexpr int WARPS = BYTES <= 512 ? 4 : BYTES <= 1024 ? 2 : RESULTS;
    static constexpr int M = 16 * R * WARPS / RESULTS;
    static constexpr int MOST = 1024 / sizeof(A);  // columns that registers can hold
    static constexpr int OUT = W < MOST ? W : MOST, PARTS = W / OUT;  // of a block; blocks
    static constexpr int ALL = HALF ? SCORES + RESULTS == 2 ? 352 : 384 : 1280 / sizeof(A);
    static constexpr int ROOM = ALL / R;  // results and scores of a row; attend needs more besides
    static constexpr int N = rows_passing(64, BYTES, TILE, OUT, SCORES, ROOM);
    static constexpr int KEPT = M * BYTES, PASSING = N * BYTES;  // bytes of tiles
};

// x, of which the compiler knows nothing: what is computed from it is computed where it is needed,
// not kept in registers that the products have to themselves.
__device__ inline unsigned anew(unsigned x) {
    asm volatile("" : "+r"(x));
    return x;
}

template <typename T>
__device__ T* anew(T* x) {
    asm volatile("" : "+l"(x));
    return x;
}

// Some of an array's rows, ld elements apart; `whole` if they are made of aligned chunks and less
// than 2^24 elements apart.
template <typename T>
struct Rows {
    T* at;
    long long ld;
    int width, whole;
};

// Where an array (batch, head, row, column) lies, in elements; columns are contiguous.
struct Strides {
    long long batch, head, row, whole;
};

template <typename T>
__device__ Rows<T> rows_of(T* x, const Strides& s, long long b, long long h, long long width) {
    return {anew(x + b * s.batch + h * s.head), s.row, static_cast<int>(width),
            static_cast<int>(s.whole)};
}

// Starts to copy rows first..first + count to a tile of W columns; zeros from `limit` and behind
// the array's width.
template <typename C, int COUNT, typename T>
__device__ void load_rows(char* tile, const Rows<const T>& x, int first, int limit) {
    constexpr int THREADS = 32 * C::WARPS, ACROSS = C::CHUNKS < THREADS ? C::CHUNKS : THREADS;
    constexpr int DOWN = THREADS / ACROSS;
    static_assert(COUNT % DOWN == 0, "all threads copy as many chunks");
    const int row = anew(threadIdx.x) / ACROSS, step = static_cast<int>(x.ld), end = limit - first;
#pragma unroll 1
    for (int n = 0; n < C::CHUNKS / ACROSS; n++) {
        const int c = n * ACROSS + static_cast<int>(anew(threadIdx.x) % ACROSS),
                  to = place<C::BYTES>(row, c);
        const int width = x.width - c * C::WIDE, start = row * step + c * C::WIDE;
        const T* from = anew(x.at + first * x.ld);
        if (x.whole) {
#pragma unroll
            for (int i = 0; i < COUNT; i += DOWN) {
                cp_async16(tile + (to ^ i % 8 * 16) + i * C::BYTES, from + (start + i * step),
                           row + i < end && width > 0 ? 16 : 0);
            }
            continue;
        }
#pragma unroll 1
        for (int i = 0; i < COUNT; i += DOWN) {
            T* chunk = reinterpret_cast<T*>(tile + (to ^ i % 8 * 16) + i * C::BYTES);
#pragma unroll 1
            for (int e = 0; e < C::WIDE; e++) {
                const bool there = row + i < end && e < width;
                chunk[e] = there ? from[(row + i) * x.ld + c * C::WIDE + e] : T(0.0f);
            }
        }
    }
}

// ---- what a kernel is given --------------------------------------------------------------------

struct Shape {
    long long count;          // of query heads in all images
    long long heads, shared;  // query heads of an image; that share one key head
    long long tq, tk, d, e;
    long long causal, moved, masked;  // moved: `before` is given; masked: 1 bool, 2 added
    long long tiles, splits, span;    // of the rows kept; of the keys (attend), and their length
    long long mask[4];                // strides in elements
    Strides q, k, v, y, g, dq, dk, dv;
};

constexpr double LOG2E = 1.4426950408889634;

template <typename A>
__device__ A lowest() {
    return static_cast<A>(__int_as_float(0xff800000));
}

// A number of a mask in units of log 2. What is finite stays so: a row of the least number there is
// hides nothing from itself.
template <typename A>
__device__ A in_bits(A x) {
    const A most = sizeof(A) == 4 ? __int_as_float(0x7f7fffff)
                                  : static_cast<A>(__longlong_as_double(0x7fefffffffffffff));
    const A y = x * A(LOG2E);
    return isinf(y) && !isinf(x) ? copysign(most, x) : y;
}

// What a block is to do.
struct Work {
    int part, split, tile, n;  // n: head
    __device__ Work(int parts, long long splits, long long tiles, bool last_first) {
        const unsigned s = splits, t = tiles;
        unsigned id = blockIdx.x;
        part = id % parts, id /= parts;
        split = id % s, id /= s;
        tile = last_first ? t - 1 - id % t : id % t;  // the longest first
        n = id / t;
    }
};

// Which keys a head's queries see, and their scores in units of log 2.
template <typename T>
struct Seen {
    typedef typename Sum<T>::type A;
    const void* mask;
    long long base, row, column;
    int kind, tq, tk, causal, past;
    A factor;

    __device__ Seen(const void* mask, const Shape& s, long long b, long long h, double scale)
        : mask(mask),
          base(b * s.mask[0] + h * s.mask[1]),
          row(s.mask[2]),
          column(s.mask[3]),
          kind(s.masked),
          tq(s.tq),
          tk(s.tk),
          causal(s.causal),
          past(0),
          factor(scale * LOG2E) {}

    __device__ int visible(int query) const { return causal ? min(tk, past + query + 1) : tk; }

    // Products of rows with rows passing by become scores divided by the number that is returned:
    // rows are queries, or, TURNED, keys; `first` and `other` are the first ones of the warp.
    template <bool TURNED, typename C>
    __device__ A score(A (&s)[C::R][C::N / 8][4], int first, int other) const {
        const bool plain = kind == 0 && factor > A(0);
        if (!plain) each<TURNED, C>(s, first, other, [&](A& x, long long) { x *= factor; });
        if (kind == 1) {
            const bool* seen = static_cast<const bool*>(mask);
            each<TURNED, C>(s, first, other, [&](A& x, long long at) {
                if (!seen[at]) x = lowest<A>();
            });
        }
        if (kind == 2) {
            const T* added = static_cast<const T*>(mask);
            each<TURNED, C>(s, first, other,
                            [&](A& x, long long at) { x += in_bits(static_cast<A>(added[at])); });
        }
        hide<TURNED, C>(s, first, other);
        return plain ? factor : A(1);
    }

    // Calls act(score, where the mask has it); for rows behind the last query or key, which are not
    // written, with the last one's, but not for queries behind it, whose scores are added up.
    template <bool TURNED, typename C, typename Do>
    __device__ void each(A (&s)[C::R][C::N / 8][4], int first, int other, const Do& act) const {
        const int t = threadIdx.x % 4;
        const int g = __shfl_sync(0xffffffff, first, 0) + threadIdx.x % 32 / 4;
#pragma unroll
        for (int j = 0; j < C::N / 8; j++) {
            if (other + 8 * j >= (TURNED ? tq : tk)) return;
#pragma unroll
            for (int r = 0; r < C::R; r++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int kept = g + 16 * r + i / 2 * 8;
                    const int passing = other + 8 * j + 2 * t + i % 2;
                    if (TURNED && passing >= tq) continue;
                    const int query = min(TURNED ? passing : kept, tq - 1);
                    const int key = min(TURNED ? kept : passing, tk - 1);
                    act(s[r][j][i], base + query * row + key * column);
                }
        }
    }

    // Keys that a query does not see. (A key behind the last one needs no hiding from itself.)
    template <bool TURNED, typename C>
    __device__ void hide(A (&s)[C::R][C::N / 8][4], int first, int other) const {
        if (TURNED ? !causal || first + 16 * C::R - 1 <= past + other
                   : other + C::N <= visible(first)) {
            return;
        }
#pragma unroll
        for (int r = 0; r < C::R; r++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int kept = first + 16 * r + 8 * h + threadIdx.x % 32 / 4;
                const int edge = TURNED ? kept - past : visible(kept);
                const int before = edge - other - 2 * (threadIdx.x % 4);
#pragma unroll
                for (int j = 0; j < C::N / 8; j++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const bool hidden = TURNED ? 8 * j + i < before : 8 * j + i >= before;
                        if (hidden) s[r][j][2 * h + i] = lowest<A>();
                    }
            }
    }
};

// ---- results -----------------------------------------------------------------------------------

// Column of element (j, i) among a warp's OUT results of mix_rows.
template <typename T>
__device__ int result_column(int j, int i) {
    constexpr int NEAR = Products<T>::NEAR;
    const int at = 2 * j + i % 2;
    return (at / NEAR * 4 + threadIdx.x % 4) * NEAR + at % NEAR;
}

// Rows of a warp's results times factor[r][row / 8]: to the warp's own rows m.. of a tile of T,
// from where they are written in whole chunks to rows first + m.. of an array, up to `limit`.
template <typename C, typename T, typename A>
__device__ void store_rows(char* tile, int m, const A (&y)[C::R][C::OUT / 8][4],
                           const A (&factor)[C::R][2], const Rows<T>& to, int first, int limit,
                           int column) {
    const int lane = threadIdx.x % 32;
    __syncwarp();  // all lanes have read the tile
#pragma unroll
    for (int r = 0; r < C::R; r++)
#pragma unroll
        for (int j = 0; j < C::OUT / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = column + result_column<T>(j, i),
                          row = m + 16 * r + lane / 4 + i / 2 * 8;
                char* chunk = tile + place<C::BYTES>(row, at / C::WIDE);
                const A value = y[r][j][i] * factor[r][i / 2];
                reinterpret_cast<T*>(chunk)[at % C::WIDE] = static_cast<T>(value);
            }
    __syncwarp();
    constexpr int CHUNKS = C::OUT / C::WIDE;
    for (int i = lane; i < 16 * C::R * CHUNKS; i += 32) {
        const int row = m + i / CHUNKS, chunk = column / C::WIDE + i % CHUNKS;
        const int left = first + row < limit ? to.width - chunk * C::WIDE : 0;
        T* out = to.at + (first + row) * to.ld + chunk * C::WIDE;
        const char* from = tile + place<C::BYTES>(row, chunk);
        if (to.whole) {
            if (left > 0) *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(from);
        } else {
            for (int e = 0; e < C::WIDE && e < left; e++)
                out[e] = reinterpret_cast<const T*>(from)[e];
        }
    }
}
