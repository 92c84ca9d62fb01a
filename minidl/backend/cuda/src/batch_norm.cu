// Batch and group norm of x (segments, rows, columns), by columns: y = (x - mean) rstd w + b +
// more, within bounds if asked for. A segment is the whole batch, or an image; statistics are those
// of a group of neighbouring channels in a segment, of a single one for batch norm. Column j is of
// channel j % channels: narrow arrays are folded, some rows making one. A thread has WIDE
// neighbouring columns, 16 bytes (1 where arrays do not allow it). Blocks of 32 threads by 8 rows
// at a time take a piece of a segment's rows: grid (segments columns / (32 WIDE), pieces). Sums are
// Sum<T> within a piece, pieces are combined in double by a block, always alike (Chan et al. 1979).
// Bytes: x twice and y once forward; g and x twice, dx once backward. The second reading goes from
// the last piece to the first, since what was read last may still be in the cache. How many rows
// are unrolled was measured on an H200: two at a time cost the passes that write a third of their
// speed.
#include "packs.cuh"
#include "sums.cuh"

template <int WIDE>
struct Piece {
    long long start, stop, columns, segment;  // rows of the segment's piece, of the array's columns
    long long j;                              // the thread's first column
    int level;
    __device__ Piece(long long rows, long long columns, long long piece, bool reversed = false)
        : columns(columns), level(threadIdx.x / 32) {
        const unsigned blocks = (columns + 32 * WIDE - 1) / (32 * WIDE);
        segment = blockIdx.x / blocks;
        j = (blockIdx.x % blocks * 32LL + threadIdx.x % 32) * WIDE;
        start = (reversed ? gridDim.y - 1 - blockIdx.y : blockIdx.y) * piece;
        stop = start + piece < rows ? start + piece : rows;
        start += segment * rows;
        stop += segment * rows;
    }
    __device__ bool inside() const { return j < columns; }
    // Where the thread's packs lie: every `step` from the first on.
    __device__ long long first() const { return (start + level) * columns + j; }
    __device__ long long end() const { return stop * columns; }
    __device__ long long step() const { return 8 * columns; }
    // Of part (segments, pieces, 2, columns).
    __device__ long long place(int which, long long column) const {
        return ((segment * gridDim.y + blockIdx.y) * 2 + which) * columns + column;
    }
};

// Adds two values of each column over the 8 threads that have it: the thread of level e gets the
// sums of the e-th column.
template <int WIDE, typename A>
__device__ void join_levels(const A* first, const A* second, A& one, A& other) {
    __shared__ A sums[2][8][WIDE][32];
    const int lane = threadIdx.x % 32, level = threadIdx.x / 32;
#pragma unroll
    for (int e = 0; e < WIDE; e++) {
        sums[0][level][e][lane] = first[e];
        sums[1][level][e][lane] = second[e];
    }
    __syncthreads();
    one = other = A(0);
    if (level < WIDE) {
        for (int k = 0; k < 8; k++) {
            one += sums[0][k][level][lane];
            other += sums[1][k][level][lane];
        }
    }
}

// Statistics and affine vectors of the array's columns.
template <typename T>
struct Factors {
    typedef typename Sum<T>::type A;
    const A *means, *vars;
    const A *w, *b;
    unsigned channels, groups, per;  // channels a group
    A eps;
    bool scaled, shifted;
    __device__ Factors(const A* means, const A* vars, const A* w, const A* b, long long channels,
                       long long groups, double eps, long long scaled, long long shifted)
        : means(means),
          vars(vars),
          w(w),
          b(b),
          channels(channels),
          groups(groups),
          per(channels / groups),
          eps(eps),
          scaled(scaled),
          shifted(shifted) {}
    __device__ A scale(unsigned c) const { return scaled ? w[c] : A(1); }
    __device__ A shift(unsigned c) const { return shifted ? b[c] : A(0); }
};

// The channel of a column, and its group of all segments'; neighbouring columns by turns.
struct Channel {
    unsigned c, within, group, first;
    template <typename T>
    __device__ Channel(const Factors<T>& f, long long segment, long long column)
        : c(static_cast<unsigned>(column) % f.channels), first(segment * f.groups) {
        group = first + c / f.per;
        within = c % f.per;
    }
    template <typename T>
    __device__ void next(const Factors<T>& f) {
        const bool last = ++c == f.channels, leaves = ++within == f.per;
        c = last ? 0 : c;
        within = leaves ? 0 : within;
        group = last ? first : group + leaves;
    }
};

// What y is made of in a thread's columns: (x - mean) slope + shift. All that is read is asked for
// before a root: those have branches, behind which no load is moved.
template <typename A, int WIDE>
struct Columns {
    A mean[WIDE], rstd[WIDE], slope[WIDE], shift[WIDE];
    template <typename T>
    __device__ Columns(const Factors<T>& f, const Piece<WIDE>& p) {
        Channel at(f, p.segment, p.j);
#pragma unroll
        for (int e = 0; e < WIDE; e++) {
            mean[e] = f.means[at.group];
            rstd[e] = f.vars[at.group];
            slope[e] = f.scale(at.c);
            shift[e] = f.shift(at.c);
            at.next(f);
        }
#pragma unroll
        for (int e = 0; e < WIDE; e++) {
            rstd[e] = rsqrt(rstd[e] + f.eps);
            slope[e] *= rstd[e];
        }
    }
    __device__ A affine(int e, A x) const { return (x - mean[e]) * slope[e] + shift[e]; }
};

// part = mean, sum of squared deviations of each column over the piece: sums of differences from
// its first row, so that little cancels.
template <typename T, int WIDE>
__global__ void __launch_bounds__(256)
    moments(const T* __restrict__ x, typename Sum<T>::type* __restrict__ part, long long rows,
            long long columns, long long piece) {
    typedef typename Sum<T>::type A;
    const Piece<WIDE> p(rows, columns, piece);
    A base[WIDE], sum[WIDE], squares[WIDE];
#pragma unroll
    for (int e = 0; e < WIDE; e++) {
        base[e] = p.inside() ? static_cast<A>(x[p.start * columns + p.j + e]) : A(0);
        sum[e] = squares[e] = A(0);
    }
    if (p.inside()) {
#pragma unroll 4
        for (long long i = p.start + p.level; i < p.stop; i += 8) {
            const Pack<T, WIDE> v = load_pack<WIDE>(x + i * columns + p.j);
#pragma unroll
            for (int e = 0; e < WIDE; e++) {
                const A d = static_cast<A>(v.v[e]) - base[e];
                sum[e] += d;
                squares[e] += d * d;
            }
        }
    }
    A whole, about;
    join_levels<WIDE>(sum, squares, whole, about);
    if (p.level < WIDE && p.inside()) {
        const long long j = p.j + p.level;
        const A mean = whole / A(p.stop - p.start), m2 = about - whole * mean;
        part[p.place(0, j)] = static_cast<A>(x[p.start * columns + j]) + mean;
        part[p.place(1, j)] = m2 > A(0) || m2 != m2 ? m2 : A(0);
    }
}

struct Moments {
    double count, mean, m2;
    __device__ void add(const Moments& other) {
        if (other.count == 0) return;
        const double d = other.mean - mean, total = count + other.count;
        const double share = other.count / total;
        mean += d * share;
        m2 += other.m2 + d * d * count * share;
        count = total;
    }
};

// mean and biased variance (segments, groups) from the pieces' moments. A block each, of 32 or 256
// threads.
template <typename A>
__global__ void __launch_bounds__(256)
    combine_moments(const A* __restrict__ part, A* __restrict__ mean, A* __restrict__ var,
                    long long rows, long long columns, long long piece, long long channels,
                    long long groups, long long pieces) {
    __shared__ Moments warps[8];
    const long long t = blockIdx.x, per = channels / groups, folds = columns / channels;
    Moments all = {0, 0, 0};
    for (long long k = threadIdx.x; k < pieces * folds * per; k += blockDim.x) {
        const long long p = k / (folds * per), left = rows - p * piece;
        const A* of = part + (t / groups * pieces + p) * 2 * columns + k / per % folds * channels +
                      t % groups * per + k % per;
        const double count = left < piece ? left : piece;
        all.add({count, static_cast<double>(of[0]), static_cast<double>(of[columns])});
    }
    for (int apart = 16; apart; apart /= 2) {
        const Moments other = {__shfl_down_sync(0xffffffff, all.count, apart),
                               __shfl_down_sync(0xffffffff, all.mean, apart),
                               __shfl_down_sync(0xffffffff, all.m2, apart)};
        all.add(other);
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = all;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int k = 1; k < blockDim.x / 32; k++) all.add(warps[k]);
        mean[t] = static_cast<A>(all.mean);
        var[t] = static_cast<A>(all.m2 / all.count);
    }
}

// y = (x - mean) rstd w + b + more, within [0, top] if top is not 0.
template <typename T, int WIDE>
__global__ void __launch_bounds__(256)
    normalise(const T* __restrict__ x, const T* __restrict__ more, T* __restrict__ y,
              const typename Sum<T>::type* __restrict__ mean,
              const typename Sum<T>::type* __restrict__ var,
              const typename Sum<T>::type* __restrict__ w,
              const typename Sum<T>::type* __restrict__ b, long long rows, long long columns,
              long long piece, long long channels, long long groups, double eps, long long scaled,
              long long shifted, long long adds, double top) {
    typedef typename Sum<T>::type A;
    const Piece<WIDE> p(rows, columns, piece, true);
    if (!p.inside()) return;
    const Factors<T> f(mean, var, w, b, channels, groups, eps, scaled, shifted);
    const Columns<A, WIDE> column(f, p);
#pragma unroll 1
    for (long long at = p.first(); at < p.end(); at += p.step()) {
        const Pack<T, WIDE> v = load_pack<WIDE>(x + at);
        Pack<T, WIDE> added, out;
        if (adds) added = load_pack<WIDE>(more + at);
#pragma unroll
        for (int e = 0; e < WIDE; e++) {
            A value = column.affine(e, static_cast<A>(v.v[e]));
            if (adds) value += static_cast<A>(added.v[e]);
            if (top > 0) value = value <= A(0) ? A(0) : value > A(top) ? A(top) : value;
            out.v[e] = static_cast<T>(value);
        }
        store_pack(y + at, out);
    }
}

// Whether a value lies outside of (0, top); NaN does not.
template <typename A>
__device__ inline bool beyond(A value, double top) {
    return value <= A(0) || value >= A(top);
}

// part = sums of g and of g xhat over the piece. GATE 1: g counts where 0 < y < top, and is
// kept in gated; GATE 2: where the normalised x is so. Without the bound of 2 blocks, registers are
// spilled.
template <typename T, int WIDE, int GATE>
__global__ void __launch_bounds__(256, 2)
    gradient_sums(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ y,
                  T* __restrict__ gated, typename Sum<T>::type* __restrict__ part,
                  const typename Sum<T>::type* __restrict__ mean,
                  const typename Sum<T>::type* __restrict__ var,
                  const typename Sum<T>::type* __restrict__ w,
                  const typename Sum<T>::type* __restrict__ b, long long rows, long long columns,
                  long long piece, long long channels, long long groups, double eps,
                  long long scaled, long long shifted, double top) {
    typedef typename Sum<T>::type A;
    const Piece<WIDE> p(rows, columns, piece);
    const Factors<T> f(mean, var, w, b, channels, groups, eps, scaled, shifted);
    A first[WIDE] = {}, second[WIDE] = {};
    if (p.inside()) {
        const Columns<A, WIDE> column(f, p);
#pragma unroll(GATE == 1 ? 1 : 4)
        for (long long i = p.start + p.level; i < p.stop; i += 8) {
            const long long at = i * columns + p.j;
            const Pack<T, WIDE> v = load_pack<WIDE>(x + at);
            Pack<T, WIDE> d = load_pack<WIDE>(g + at), result;
            if (GATE == 1) result = load_pack<WIDE>(y + at);
#pragma unroll
            for (int e = 0; e < WIDE; e++) {
                const A value = static_cast<A>(v.v[e]);
                if (GATE == 1 && beyond(static_cast<A>(result.v[e]), top))
                    d.v[e] = static_cast<T>(0);
                if (GATE == 2 && beyond(column.affine(e, value), top)) d.v[e] = static_cast<T>(0);
                first[e] += static_cast<A>(d.v[e]);
                second[e] += static_cast<A>(d.v[e]) * (value - column.mean[e]);
            }
            if (GATE == 1) store_pack(gated + at, d);
        }
    }
    A one, other;
    join_levels<WIDE>(first, second, one, other);
    if (p.level < WIDE && p.inside()) {
        const long long j = p.j + p.level;
        part[p.place(0, j)] = one;
        part[p.place(1, j)] = other / sqrt(f.vars[Channel(f, p.segment, j).group] + f.eps);
    }
}

// sums (segments, 2, channels) of the pieces' sums. A block each, of 32 or 256 threads.
template <typename A>
__global__ void __launch_bounds__(256)
    combine_sums(const A* __restrict__ part, A* __restrict__ sums, long long columns,
                 long long pieces, long long channels) {
    __shared__ double warps[8];
    const long long t = blockIdx.x, folds = columns / channels;
    const long long segment = t / (2 * channels), which = t / channels % 2;
    double sum = 0;
    for (long long k = threadIdx.x; k < pieces * folds; k += blockDim.x) {
        const A* of = part + ((segment * pieces + k / folds) * 2 + which) * columns;
        sum += of[k % folds * channels + t % channels];
    }
    sum = join_warp<Add>(sum);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int k = 1; k < blockDim.x / 32; k++) sum += warps[k];
        sums[t] = static_cast<A>(sum);
    }
}

// totals (segments, 2, groups) = sums of w sums over a group's channels. A warp each.
template <typename T>
__global__ void __launch_bounds__(256)
    weigh_sums(const typename Sum<T>::type* __restrict__ sums,
               const typename Sum<T>::type* __restrict__ w,
               typename Sum<T>::type* __restrict__ totals, long long segments, long long channels,
               long long groups, long long scaled) {
    typedef typename Sum<T>::type A;
    const long long t = blockIdx.x * 8LL + threadIdx.x / 32;
    if (t >= segments * 2 * groups) return;
    const long long per = channels / groups, first = t % groups * per;
    double sum = 0;
    for (long long c = first + threadIdx.x % 32; c < first + per; c += 32) {
        const A scale = scaled ? w[c] : A(1);
        sum += scale * sums[t / groups * channels + c];
    }
    sum = join_warp<Add>(sum);
    if (threadIdx.x % 32 == 0) totals[t] = static_cast<A>(sum);
}

// dx = rstd (w g - mean(w g) - xhat mean(w g xhat)), means over a group; g is gated by x for GATE
// 2, else it has been. totals (segments, 2, groups), not yet weighted for groups of one channel.
template <typename T, int WIDE, int GATE>
__global__ void __launch_bounds__(256, sizeof(T) == 8 ? 2 : 4)
    input_gradient(const T* __restrict__ g, const T* __restrict__ x, T* __restrict__ dx,
                   const typename Sum<T>::type* __restrict__ totals,
                   const typename Sum<T>::type* __restrict__ mean,
                   const typename Sum<T>::type* __restrict__ var,
                   const typename Sum<T>::type* __restrict__ w,
                   const typename Sum<T>::type* __restrict__ b, long long rows, long long columns,
                   long long piece, long long channels, long long groups, double eps,
                   long long scaled, long long shifted, double top) {
    typedef typename Sum<T>::type A;
    const Piece<WIDE> p(rows, columns, piece, true);
    if (!p.inside()) return;
    const Factors<T> f(mean, var, w, b, channels, groups, eps, scaled, shifted);
    A level[WIDE], along[WIDE];
    const A share = A(1) / (A(rows) * A(columns / groups));
    const Columns<A, WIDE> column(f, p);
    Channel at(f, p.segment, p.j);
#pragma unroll
    for (int e = 0; e < WIDE; e++) {
        const A* of = totals + at.group + p.segment * groups;
        const A factor = (groups == channels ? column.slope[e] : column.rstd[e]) * share;
        level[e] = of[0] * factor;
        along[e] = of[groups] * factor * column.rstd[e];
        at.next(f);
    }
#pragma unroll 1
    for (long long at = p.first(); at < p.end(); at += p.step()) {
        const Pack<T, WIDE> v = load_pack<WIDE>(x + at), given = load_pack<WIDE>(g + at);
        Pack<T, WIDE> out;
#pragma unroll
        for (int e = 0; e < WIDE; e++) {
            const A value = static_cast<A>(v.v[e]);
            A d = static_cast<A>(given.v[e]);
            if (GATE == 2 && beyond(column.affine(e, value), top)) d = A(0);
            d = column.slope[e] * d - level[e] - (value - column.mean[e]) * along[e];
            out.v[e] = static_cast<T>(d);
        }
        store_pack(dx + at, out);
    }
}
