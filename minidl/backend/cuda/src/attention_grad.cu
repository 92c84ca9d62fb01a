// The gradients of attention (attention.cu): scores are made again, once for dq and once for dk and
// dv, so that nothing is summed by atomics: dk and dv add up the heads that share them in order.
#include "attention.cuh"
#include "packs.cuh"

// delta (count, tq) = the rows' sums of g y, a warp each. Bytes: g and y once. grid (8 rows).
template <typename T>
__global__ void __launch_bounds__(256)
    row_dots(const T* __restrict__ g, const T* __restrict__ y,
             typename Sum<T>::type* __restrict__ delta, const Shape s) {
    typedef typename Sum<T>::type A;
    const long long row = blockIdx.x * 8LL + threadIdx.x / 32;
    if (row >= s.count * s.tq) return;
    const long long n = row / s.tq, b = n / s.heads, h = n % s.heads, i = row % s.tq;
    const Rows<const T> left = rows_of(g, s.g, b, h, s.e), right = rows_of(y, s.y, b, h, s.e);
    A sum = A(0);
    for (int c = threadIdx.x % 32; c < s.e; c += 32) {
        sum +=
            static_cast<A>(left.at[i * left.ld + c]) * static_cast<A>(right.at[i * right.ld + c]);
    }
    sum = join_warp<Add>(sum);
    if (threadIdx.x % 32 == 0) delta[row] = sum;
}

// dq = scale ds k with ds = p (g vᵀ - delta), p = 2^(x - lse). A block: M queries of a head, and
// all keys. Bytes: q, g and dq once, k and v once a block.
template <typename T, int W, int TILE>
__global__ void __launch_bounds__(128, 2)
    query_grad(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
               const void* __restrict__ mask, const T* __restrict__ g,
               const typename Sum<T>::type* __restrict__ lse,
               const typename Sum<T>::type* __restrict__ delta, T* __restrict__ dq, const Shape s,
               double scale) {
    typedef typename Sum<T>::type A;
    typedef Cut<T, W, 2, 1, TILE> C;
    extern __shared__ __align__(128) char tiles[];  // q, g; twice k and v
    const Work work(C::PARTS, 1, s.tiles, s.causal);
    const int heads = s.heads, b = work.n / heads, h = work.n % heads;
    const int group = h / static_cast<int>(s.shared);
    const auto keys = rows_of(k, s.k, b, group, s.d), values = rows_of(v, s.v, b, group, s.e);
    const Seen<T> seen(mask, s, b, h, scale);
    const int first = work.tile * C::M, m = threadIdx.x / 32 * 16 * C::R, tq = s.tq;
    const int end = seen.visible(min(first + C::M, tq) - 1);
    const auto fetch = [&](int key, int stage) {
        char* to = tiles + 2 * C::KEPT + 2 * stage * C::PASSING;
        load_rows<C, C::N>(to, keys, key, end);
        load_rows<C, C::N>(to + C::PASSING, values, key, end);
        cp_async_commit();
    };
    load_rows<C, C::M>(tiles, rows_of(q, s.q, b, h, s.d), first, tq);
    load_rows<C, C::M>(tiles + C::KEPT, rows_of(g, s.g, b, h, s.e), first, tq);
    fetch(0, 0);
    A sums[C::R][C::OUT / 8][4] = {}, level[2 * C::R] = {}, mean[2 * C::R] = {};
    const long long line = static_cast<long long>(work.n) * tq;
    for (int i = 0; i < 2 * C::R; i++) {
        const int row = first + m + threadIdx.x % 32 / 4 + 8 * i;
        if (row >= tq) continue;
        level[i] = lse[line + row];
        mean[i] = delta[line + row];
    }
    for (int key = 0, stage = 0; key < end; key += C::N, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();  // the tiles are there, and all are done with those to be replaced
        if (key + C::N < end) fetch(key + C::N, stage ^ 1);
        if (first + m >= tq || key >= seen.visible(first + m + 16 * C::R - 1)) continue;
        const char* passing = tiles + 2 * C::KEPT + 2 * stage * C::PASSING;
        A x[C::R][C::N / 8][4] = {}, dp[C::R][C::N / 8][4] = {};
        Products<T>::template row_products<C>(x, tiles, m, passing, s.d);
        Products<T>::template row_products<C>(dp, tiles + C::KEPT, m, passing + C::PASSING, s.e);
        const A left = seen.template score<false, C>(x, first + m, key);
#pragma unroll
        for (int r = 0; r < C::R; r++)
#pragma unroll
            for (int j = 0; j < C::N / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int row = 2 * r + i / 2;
                    const A p = exp2(x[r][j][i] * left - level[row]);
                    x[r][j][i] = p * (dp[r][j][i] - mean[row]);
                }
        Products<T>::template mix_rows<C>(sums, x, passing, work.part * C::OUT);
    }
    A factor[C::R][2];
    for (int r = 0; r < 2 * C::R; r++) factor[r / 2][r % 2] = scale;
    store_rows<C>(tiles, m, sums, factor, rows_of(dq, s.dq, b, h, s.d), first, tq,
                  work.part * C::OUT);
}

// Starts to copy one number, or zero.
template <typename A>
__device__ void load_one(A* to, const A* from, bool there) {
    if (sizeof(A) == 4) cp_async4(to, from, there ? 4 : 0);
    if (sizeof(A) == 8) cp_async8(to, from, there ? 8 : 0);
}

// Scores, rounded to T, for another warp: each lane's for the same lane.
template <typename C, typename T, typename A>
__device__ void put_scores(T* to, const A (&s)[C::R][C::N / 8][4]) {
    constexpr int ROW = C::N / 2;  // scores of a lane
#pragma unroll
    for (int i = 0; i < C::R * ROW; i += C::WIDE) {
        Pack<T, C::WIDE> pack;
#pragma unroll
        for (int e = 0; e < C::WIDE; e++) {
            pack.v[e] = static_cast<T>(s[i / ROW][(i + e) % ROW / 4][(i + e) % 4]);
        }
        *reinterpret_cast<Pack<T, C::WIDE>*>(to + i * 32 + threadIdx.x % 32 * C::WIDE) = pack;
    }
}

// s = p (s - mean), with p as the other warp has put it.
template <typename C, typename T, typename A>
__device__ void take_scores(const T* from, A (&s)[C::R][C::N / 8][4], const A* mean) {
    constexpr int ROW = C::N / 2;
#pragma unroll
    for (int i = 0; i < C::R * ROW; i += C::WIDE) {
        const auto p = load_pack<C::WIDE>(from + i * 32 + threadIdx.x % 32 * C::WIDE);
#pragma unroll
        for (int e = 0; e < C::WIDE; e++) {
            const int j = (i + e) % ROW / 4;
            A& x = s[i / ROW][j][(i + e) % 4];
            x = static_cast<A>(p.v[e]) * (x - mean[8 * j + e % 2]);
        }
    }
}

// dv = pᵀ g and dk = scale dsᵀ q, summed over the queries of all heads that share the keys. A
// block: M keys of a key head. Two warps share 16 R keys: one makes p and dv, the other, which is
// given p, dk. Bytes: k, v, dk and dv once, q and g once a block.
template <typename T, int W, int TILE>
__global__ void __launch_bounds__(128, 2)
    key_grad(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
             const void* __restrict__ mask, const T* __restrict__ g,
             const typename Sum<T>::type* __restrict__ lse,
             const typename Sum<T>::type* __restrict__ delta, T* __restrict__ dk,
             T* __restrict__ dv, const Shape s, double scale) {
    typedef typename Sum<T>::type A;
    typedef Cut<T, W, 1, 2, TILE> C;
    extern __shared__ __align__(128) char tiles[];  // k, v; twice q and g; p; twice lse and delta
    T* weights = reinterpret_cast<T*>(tiles + 2 * C::KEPT + 4 * C::PASSING);
    A* levels = reinterpret_cast<A*>(weights + C::M * C::N);
    const Work work(C::PARTS, 1, s.tiles, false);
    const int groups = s.heads / s.shared, shared = s.shared, tq = s.tq, tk = s.tk;
    const int b = work.n / groups, group = work.n % groups;
    const int first = work.tile * C::M;
    const int top = s.causal ? first / C::N * C::N : 0;  // the first query that sees the block
    const auto fetch = [&](int head, int query, int stage) {
        char* to = tiles + 2 * C::KEPT + 2 * stage * C::PASSING;
        const int h = group * shared + head;
        const long long line = (work.n * s.shared + head) * tq + query;
        load_rows<C, C::N>(to, rows_of(q, s.q, b, h, s.d), query, tq);
        load_rows<C, C::N>(to + C::PASSING, rows_of(g, s.g, b, h, s.e), query, tq);
        static_assert(C::N <= 32 * C::WARPS, "a thread for each query");
        if (const int i = threadIdx.x; i < C::N) {
            const bool there = query + i < tq;
            A* at = levels + 2 * stage * C::N + i;
            load_one(at, lse + line + i, there);
            load_one(at + C::N, delta + line + i, there);
        }
        cp_async_commit();
    };
    A sums[C::R][C::OUT / 8][4] = {};
    if (top < tq) {
        load_rows<C, C::M>(tiles, rows_of(k, s.k, b, group, s.d), first, tk);
        load_rows<C, C::M>(tiles + C::KEPT, rows_of(v, s.v, b, group, s.e), first, tk);
        fetch(0, top, 0);
    }
    for (int head = 0, query = top, stage = 0; top < tq && head < shared; stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();  // the tiles are there, and all are done with those to be replaced
        const bool last = query + C::N >= tq;
        if (head + last < shared) fetch(head + last, last ? top : query + C::N, stage ^ 1);
        const int second = anew(threadIdx.x) / 32 % 2, m = anew(threadIdx.x) / 64 * 16 * C::R;
        const char* passing = tiles + 2 * C::KEPT + 2 * stage * C::PASSING;
        const A* level = levels + (2 * stage + second) * C::N + threadIdx.x % 4 * 2;
        const bool seen = first + m < tk && !(s.causal && query + C::N <= first + m);
        A x[C::R][C::N / 8][4] = {};
        if (seen) {
            Products<T>::template row_products<C>(
                x, tiles + second * C::KEPT, m, passing + second * C::PASSING, second ? s.e : s.d);
        }
        if (seen && !second) {
            const Seen<T> keys(mask, s, b, group * shared + head, scale);
            const A factor = keys.template score<true, C>(x, first + m, query);
#pragma unroll
            for (int j = 0; j < C::N / 8; j++) {
                const auto shift = load_pack<2>(level + 8 * j);
#pragma unroll
                for (int r = 0; r < C::R; r++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        x[r][j][i] = exp2(x[r][j][i] * factor - shift.v[i % 2]);
                    }
            }
            put_scores<C>(weights + m * C::N, x);
        }
        __syncthreads();  // p is there
        if (seen && second) take_scores<C>(weights + m * C::N, x, level);
        if (seen) {
            Products<T>::template mix_rows<C>(sums, x, passing + (1 - second) * C::PASSING,
                                              work.part * C::OUT);
        }
        query += C::N;
        if (query >= tq) head++, query = top;
    }
    const int second = threadIdx.x / 32 % 2, m = threadIdx.x / 64 * 16 * C::R;
    A factor[C::R][2];
    for (int r = 0; r < 2 * C::R; r++) factor[r / 2][r % 2] = second ? A(scale) : A(1);
    const auto to = second ? rows_of(dk, s.dk, b, group, s.d) : rows_of(dv, s.dv, b, group, s.e);
    store_rows<C>(tiles + second * C::KEPT, m, sums, factor, to, first, tk, work.part * C::OUT);
}
