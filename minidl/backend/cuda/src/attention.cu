// Scaled dot-product attention without a (T, T) array: y = softmax(x) v, x = scale q kᵀ + mask, by
// blocks of scores that live in registers (arXiv 2205.14135, 2307.08691). attention.cuh says how a
// block of threads works.
#include "attention.cuh"

struct Higher {
    template <typename A>
    __device__ static A of(A a, A b) {
        return fmax(a, b);
    }
};

// Over the four lanes that hold a row of results.
template <typename Join, typename A>
__device__ A join_row(A value) {
    value = Join::of(value, __shfl_xor_sync(0xffffffff, value, 1));
    return Join::of(value, __shfl_xor_sync(0xffffffff, value, 2));
}

// Rows whose highest score is far above their level are levelled anew: what has been summed fades.
template <typename C, typename A>
__device__ void raise_levels(const A (&high)[C::R][2], A (&y)[C::R][C::OUT / 8][4],
                             A (&level)[C::R][2], A (&sum)[C::R][2], A far) {
#pragma unroll
    for (int r = 0; r < C::R; r++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const A top = join_row<Higher>(high[r][h]), old = level[r][h];
            if (top > old + far) level[r][h] = top;
            const A fade = top > old + far ? exp2(old - top) : A(1);
            sum[r][h] *= fade;
#pragma unroll
            for (int c = 0; c < C::OUT / 8; c++) {
                y[r][c][2 * h] *= fade;
                y[r][c][2 * h + 1] *= fade;
            }
        }
}

// Scores, divided by `factor`, become weights relative to the row's level. That is a score no
// further than 2^8 below the highest so far: seldom another one than for the tile before.
template <typename C, typename A>
__device__ void soften(A (&s)[C::R][C::N / 8][4], A factor, A (&y)[C::R][C::OUT / 8][4],
                       A (&level)[C::R][2], A (&sum)[C::R][2]) {
    const A far = A(8);
    A high[C::R][2];
    bool higher = false;
#pragma unroll
    for (int r = 0; r < C::R; r++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            high[r][h] = lowest<A>();
#pragma unroll
            for (int j = 0; j < C::N / 8; j++) {
                high[r][h] = fmax(high[r][h], fmax(s[r][j][2 * h], s[r][j][2 * h + 1]));
            }
            high[r][h] *= factor;
            higher = higher || high[r][h] > level[r][h] + far;
        }
    if (__any_sync(0xffffffff, higher)) raise_levels<C>(high, y, level, sum, far);
#pragma unroll
    for (int r = 0; r < C::R; r++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const A shift = level[r][h] == lowest<A>() ? A(0) : level[r][h];
#pragma unroll
            for (int j = 0; j < C::N / 8; j++)
#pragma unroll
                for (int i = 2 * h; i < 2 * h + 2; i++) {
                    s[r][j][i] = exp2(s[r][j][i] * factor - shift);
                    sum[r][h] += s[r][j][i];
                }
        }
}

// y and the rows' log-sum-exp in units of log 2. A block: M queries of a head, and all keys, or
// with splits > 1 `span` of them; then sums (splits, count, tq, e) go to `some`, and lse is (2,
// splits, count, tq): levels, -infinity where nothing is seen, and sums of weights. Bytes: q and y
// once, k and v once a block.
template <typename T, int W, int TILE>
__global__ void __launch_bounds__(128, 2)
    attend(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
           const void* __restrict__ mask, const void* __restrict__ before, T* __restrict__ y,
           typename Sum<T>::type* __restrict__ lse, typename Sum<T>::type* __restrict__ some,
           const Shape s, double scale) {
    typedef typename Sum<T>::type A;
    typedef Cut<T, W, 1, 1, TILE> C;
    extern __shared__ __align__(128) char tiles[];  // q; twice k and v
    const Work work(C::PARTS, s.splits, s.tiles, s.causal);
    const int heads = s.heads, b = work.n / heads, h = work.n % heads;
    const int group = h / static_cast<int>(s.shared);
    const auto keys = rows_of(k, s.k, b, group, s.d), values = rows_of(v, s.v, b, group, s.e);
    Seen<T> seen(mask, s, b, h, scale);
    if (s.moved) seen.past = static_cast<int>(*static_cast<const long long*>(before));
    const int first = work.tile * C::M, tq = s.tq;
    const int limit = seen.visible(min(first + C::M, tq) - 1);  // what is behind may be undefined
    const int start = work.split * static_cast<int>(s.span);
    const int end = min(limit, start + static_cast<int>(s.span));
    const auto fetch = [&](int key, int stage) {
        char* to = tiles + C::KEPT + 2 * stage * C::PASSING;
        load_rows<C, C::N>(to, keys, key, end);
        load_rows<C, C::N>(to + C::PASSING, values, key, end);
        cp_async_commit();
    };
    A sums[C::R][C::OUT / 8][4] = {}, level[C::R][2], sum[C::R][2] = {};
    for (int r = 0; r < 2 * C::R; r++) level[r / 2][r % 2] = lowest<A>();
    if (start < end) {
        load_rows<C, C::M>(tiles, rows_of(q, s.q, b, h, s.d), first, tq);
        fetch(start, 0);
    }
    for (int key = start, stage = 0; key < end; key += C::N, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();  // the tiles are there, and all are done with those to be replaced
        if (key + C::N < end) fetch(key + C::N, stage ^ 1);
        const int m = anew(threadIdx.x) / 32 * 16 * C::R;
        if (first + m >= tq || key >= seen.visible(first + m + 16 * C::R - 1)) continue;
        const char* passing = tiles + C::KEPT + 2 * stage * C::PASSING;
        A x[C::R][C::N / 8][4] = {};
        Products<T>::template row_products<C>(x, tiles, m, passing, s.d);
        const A left = seen.template score<false, C>(x, first + m, key);
        soften<C>(x, left, sums, level, sum);
        Products<T>::template mix_rows<C>(sums, x, passing + C::PASSING, work.part * C::OUT);
    }
    const int lane = threadIdx.x % 32, m = threadIdx.x / 32 * 16 * C::R, n = anew(work.n);
    const long long line = (work.split * s.count + n) * tq + first + m + lane / 4;
    A factor[C::R][2];
    for (int r = 0; r < C::R; r++)
        for (int i = 0; i < 2; i++) {
            const A total = join_row<Add>(sum[r][i]);
            factor[r][i] = s.splits > 1 ? A(1) : total == A(0) ? A(0) : 1 / total;
            if (lane % 4 || work.part || first + m + lane / 4 + 16 * r + 8 * i >= tq) continue;
            A* out = lse + line + 16 * r + 8 * i;
            if (s.splits > 1) {
                out[0] = level[r][i], out[s.splits * s.count * tq] = total;
            } else {
                out[0] = total == A(0) ? -lowest<A>() : level[r][i] + log2(total);
            }
        }
    if (s.splits == 1) {
        store_rows<C>(tiles, m, sums, factor, rows_of(y, s.y, n / heads, n % heads, s.e), first, tq,
                      work.part * C::OUT);
        return;
    }
#pragma unroll
    for (int r = 0; r < C::R; r++)
#pragma unroll
        for (int j = 0; j < C::OUT / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = 16 * r + i / 2 * 8;
                const int column = work.part * C::OUT + result_column<T>(j, i);
                if (first + m + lane / 4 + row >= tq || column >= s.e) continue;
                some[(line + row) * s.e + column] = sums[r][j][i] * factor[r][i / 2];
            }
}

// y and lse of the splits' results, weighted by their levels. A block of 128 threads a row. Bytes:
// `some` once.
template <typename T>
__global__ void __launch_bounds__(128)
    combine(const typename Sum<T>::type* __restrict__ some,
            const typename Sum<T>::type* __restrict__ levels, T* __restrict__ y,
            typename Sum<T>::type* __restrict__ lse, const Shape s) {
    typedef typename Sum<T>::type A;
    const long long row = blockIdx.x, rows = s.count * s.tq, n = row / s.tq;
    A top = lowest<A>(), total = A(0);
    for (int i = 0; i < s.splits; i++) top = fmax(top, levels[i * rows + row]);
    const A shift = top == lowest<A>() ? A(0) : top;
#pragma unroll 2
    for (int i = 0; i < s.splits; i++) {
        total += exp2(levels[i * rows + row] - shift) * levels[(s.splits + i) * rows + row];
    }
    const A factor = total == A(0) ? A(0) : 1 / total;
    const Rows<T> to = rows_of(y, s.y, n / s.heads, n % s.heads, s.e);
    for (int c = threadIdx.x; c < s.e; c += 128) {
        A sum = A(0);
        for (int i = 0; i < s.splits; i++) {
            sum += exp2(levels[i * rows + row] - shift) * some[(i * rows + row) * s.e + c];
        }
        to.at[row % s.tq * to.ld + c] = static_cast<T>(sum * factor);
    }
    if (threadIdx.x == 0) lse[row] = total == A(0) ? -lowest<A>() : shift + log2(total);
}

// room[..., first + t, :] = new[..., t, :], a thread an element of new, whose axes are
// sizes[0..rank). Rows outside the room are left out. Bytes: new twice.
struct Move {
    long long rank, rows;  // rows of the room
    long long sizes[8], from[8], to[8];
};

template <typename T>
__global__ void __launch_bounds__(256)
    put_rows(T* __restrict__ room, const T* __restrict__ from, const long long* __restrict__ first,
             const Move v, long long count) {
    long long left = blockIdx.x * 256LL + threadIdx.x, source = 0, target = 0, row = 0;
    if (left >= count) return;
    for (int i = static_cast<int>(v.rank) - 1; i >= 0; i--) {
        long long at = left % v.sizes[i];
        left /= v.sizes[i];
        source += at * v.from[i];
        if (i == v.rank - 2) at = row = at + *first;
        target += at * v.to[i];
    }
    if (row >= 0 && row < v.rows) room[target] = from[source];
}
