// Batch and group norm of x (segments, rows, columns), by columns: y = relu((x - mean) rstd w + b +
// more). A segment is the whole batch, or an image; statistics are those of a group of neighbouring
// channels in a segment, of a single one for batch norm. Column j is of channel j % channels:
// narrow arrays are folded, some rows making one. Blocks of 32 columns by 8 rows at a time take a
// piece of a segment's rows: grid (segments columns / 32, pieces). Sums are Sum<T> within a piece,
// pieces are combined in double by a warp, always alike (Chan et al. 1979). Bytes: x twice and y
// once forward; g and x twice, dx once backward.
#include "sums.cuh"

struct Piece {
    long long j, start, stop, columns, segment;  // of the array; rows of the segment's piece
    int level;
    __device__ Piece(long long rows, long long columns, long long piece)
        : columns(columns), level(threadIdx.x / 32) {
        const unsigned blocks = (columns + 31) / 32;
        segment = blockIdx.x / blocks;
        j = blockIdx.x % blocks * 32LL + threadIdx.x % 32;
        start = blockIdx.y * piece;
        stop = start + piece < rows ? start + piece : rows;
        start += segment * rows;
        stop += segment * rows;
    }
    // Of part (segments, pieces, 2, columns).
    __device__ long long place(int which) const {
        return ((segment * gridDim.y + blockIdx.y) * 2 + which) * columns + j;
    }
};

// Adds two values of the 8 threads of a column; both sums in the first of them.
template <typename A>
__device__ void join_levels(A& first, A& second) {
    __shared__ A sums[2][8][33];
    const int lane = threadIdx.x % 32, level = threadIdx.x / 32;
    sums[0][level][lane] = first;
    sums[1][level][lane] = second;
    __syncthreads();
    if (level == 0)
        for (int k = 1; k < 8; k++) {
            first += sums[0][k][lane];
            second += sums[1][k][lane];
        }
}

// The factors of one column.
template <typename A>
struct Column {
    A mean, rstd, scale, slope, shift;
    long long group;  // of all segments'
    template <typename T>
    __device__ void load(const A* means, const A* vars, const T* w, const T* b, const Piece& p,
                         long long channels, long long groups, double eps, long long scaled,
                         long long shifted) {
        const long long c = p.j % channels;
        group = p.segment * groups + c / (channels / groups);
        mean = means[group];
        rstd = A(1) / sqrt(vars[group] + A(eps));
        scale = scaled ? static_cast<A>(w[c]) : A(1);
        slope = rstd * scale;
        shift = shifted ? static_cast<A>(b[c]) : A(0);
    }
    __device__ A affine(A x) const { return (x - mean) * slope + shift; }
};

// part = mean, sum of squared deviations of each column over the piece: sums of differences from
// its first row, so that little cancels.
template <typename T>
__global__ void __launch_bounds__(256)
    moments(const T* __restrict__ x, typename Sum<T>::type* __restrict__ part, long long rows,
            long long columns, long long piece) {
    typedef typename Sum<T>::type A;
    const Piece p(rows, columns, piece);
    const bool inside = p.j < columns;
    const A base = inside ? static_cast<A>(x[p.start * columns + p.j]) : A(0);
    A sum = A(0), squares = A(0);
    if (inside)
        for (long long i = p.start + p.level; i < p.stop; i += 8) {
            const A d = static_cast<A>(x[i * columns + p.j]) - base;
            sum += d;
            squares += d * d;
        }
    join_levels(sum, squares);
    if (p.level == 0 && inside) {
        const A mean = sum / A(p.stop - p.start), m2 = squares - sum * mean;
        part[p.place(0)] = base + mean;
        part[p.place(1)] = m2 > A(0) || m2 != m2 ? m2 : A(0);
    }
}

struct Moments {
    double count, mean, m2;
    __device__ void add(double n, double m, double squares) {
        if (n == 0) return;
        const double d = m - mean, total = count + n;
        mean += d * n / total;
        m2 += squares + d * d * count * n / total;
        count = total;
    }
};

// mean and biased variance (segments, groups) from the pieces' moments. A warp each.
template <typename A>
__global__ void __launch_bounds__(256)
    combine_moments(const A* __restrict__ part, A* __restrict__ mean, A* __restrict__ var,
                    long long segments, long long rows, long long columns, long long piece,
                    long long channels, long long groups, long long pieces) {
    const long long t = blockIdx.x * 8LL + threadIdx.x / 32;
    if (t >= segments * groups) return;
    const long long per = channels / groups, folds = channels ? columns / channels : 0;
    Moments all = {0, 0, 0};
    for (long long k = threadIdx.x % 32; k < pieces * folds * per; k += 32) {
        const long long p = k / (folds * per), left = rows - p * piece;
        const A* of = part + (t / groups * pieces + p) * 2 * columns + k / per % folds * channels +
                      t % groups * per + k % per;
        all.add(left < piece ? left : piece, of[0], of[columns]);
    }
    for (int apart = 16; apart; apart /= 2) {
        const Moments other = {__shfl_down_sync(0xffffffff, all.count, apart),
                               __shfl_down_sync(0xffffffff, all.mean, apart),
                               __shfl_down_sync(0xffffffff, all.m2, apart)};
        all.add(other.count, other.mean, other.m2);
    }
    if (threadIdx.x % 32 == 0) {
        mean[t] = static_cast<A>(all.mean);
        var[t] = static_cast<A>(all.m2 / all.count);
    }
}

// y = relu((x - mean) rstd w + b + more).
template <typename T>
__global__ void __launch_bounds__(256)
    normalise(const T* __restrict__ x, const T* __restrict__ more, T* __restrict__ y,
              const typename Sum<T>::type* __restrict__ mean,
              const typename Sum<T>::type* __restrict__ var, const T* __restrict__ w,
              const T* __restrict__ b, long long rows, long long columns, long long piece,
              long long channels, long long groups, double eps, long long scaled, long long shifted,
              long long adds, long long relu) {
    typedef typename Sum<T>::type A;
    const Piece p(rows, columns, piece);
    if (p.j >= columns) return;
    Column<A> column;
    column.load(mean, var, w, b, p, channels, groups, eps, scaled, shifted);
    for (long long i = p.start + p.level; i < p.stop; i += 8) {
        const long long at = i * columns + p.j;
        A v = column.affine(static_cast<A>(x[at]));
        if (adds) v += static_cast<A>(more[at]);
        y[at] = static_cast<T>(relu && v <= A(0) ? A(0) : v);
    }
}

// part = sums of g and of g xhat over the piece. gate 1: g counts where y > 0, and is kept in
// gated; gate 2: where the normalised x is. Without the 4, some registers are spilled.
template <typename T>
__global__ void __launch_bounds__(256, 4)
    gradient_sums(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ y,
                  T* __restrict__ gated, typename Sum<T>::type* __restrict__ part,
                  const typename Sum<T>::type* __restrict__ mean,
                  const typename Sum<T>::type* __restrict__ var, const T* __restrict__ w,
                  const T* __restrict__ b, long long rows, long long columns, long long piece,
                  long long channels, long long groups, double eps, long long scaled,
                  long long shifted, long long gate) {
    typedef typename Sum<T>::type A;
    const Piece p(rows, columns, piece);
    A first = A(0), second = A(0);
    if (p.j < columns) {
        Column<A> column;
        column.load(mean, var, w, b, p, channels, groups, eps, scaled, shifted);
        for (long long i = p.start + p.level; i < p.stop; i += 8) {
            const long long at = i * columns + p.j;
            const A v = static_cast<A>(x[at]);
            A d = static_cast<A>(g[at]);
            if (gate == 1 && static_cast<A>(y[at]) <= A(0)) d = A(0);
            if (gate == 2 && column.affine(v) <= A(0)) d = A(0);
            if (gate == 1) gated[at] = static_cast<T>(d);
            first += d;
            second += d * (v - column.mean) * column.rstd;
        }
    }
    join_levels(first, second);
    if (p.level == 0 && p.j < columns) {
        part[p.place(0)] = first;
        part[p.place(1)] = second;
    }
}

// sums (segments, 2, channels) of the pieces' sums. A warp each.
template <typename A>
__global__ void __launch_bounds__(256)
    combine_sums(const A* __restrict__ part, A* __restrict__ sums, long long segments,
                 long long columns, long long pieces, long long channels) {
    const long long t = blockIdx.x * 8LL + threadIdx.x / 32;
    if (t >= segments * 2 * channels) return;
    const long long segment = t / (2 * channels), which = t / channels % 2;
    const long long folds = columns / channels;
    double sum = 0;
    for (long long k = threadIdx.x % 32; k < pieces * folds; k += 32) {
        const A* of = part + ((segment * pieces + k / folds) * 2 + which) * columns;
        sum += of[k % folds * channels + t % channels];
    }
    sum = join_warp<Add>(sum);
    if (threadIdx.x % 32 == 0) sums[t] = static_cast<A>(sum);
}

// totals (segments, 2, groups) = sums of w sums over a group's channels. A warp each.
template <typename T>
__global__ void __launch_bounds__(256)
    weigh_sums(const typename Sum<T>::type* __restrict__ sums, const T* __restrict__ w,
               typename Sum<T>::type* __restrict__ totals, long long segments, long long channels,
               long long groups, long long scaled) {
    typedef typename Sum<T>::type A;
    const long long t = blockIdx.x * 8LL + threadIdx.x / 32;
    if (t >= segments * 2 * groups) return;
    const long long per = channels / groups, first = t % groups * per;
    double sum = 0;
    for (long long c = first + threadIdx.x % 32; c < first + per; c += 32) {
        const A scale = scaled ? static_cast<A>(w[c]) : A(1);
        sum += scale * sums[t / groups * channels + c];
    }
    sum = join_warp<Add>(sum);
    if (threadIdx.x % 32 == 0) totals[t] = static_cast<A>(sum);
}

// dx = rstd (w g - mean(w g) - xhat mean(w g xhat)), means over a group; g is gated by x for gate
// 2, else it has been. totals (segments, 2, groups), not yet weighted for groups of one channel.
template <typename T>
__global__ void __launch_bounds__(256)
    input_gradient(const T* __restrict__ g, const T* __restrict__ x, T* __restrict__ dx,
                   const typename Sum<T>::type* __restrict__ totals,
                   const typename Sum<T>::type* __restrict__ mean,
                   const typename Sum<T>::type* __restrict__ var, const T* __restrict__ w,
                   const T* __restrict__ b, long long rows, long long columns, long long piece,
                   long long channels, long long groups, double eps, long long scaled,
                   long long shifted, long long gate) {
    typedef typename Sum<T>::type A;
    const Piece p(rows, columns, piece);
    if (p.j >= columns) return;
    Column<A> column;
    column.load(mean, var, w, b, p, channels, groups, eps, scaled, shifted);
    const A* of = totals + column.group + p.segment * groups;
    const A factor =
        column.rstd * (groups == channels ? column.scale : A(1)) / (A(rows) * A(columns / groups));
    const A level = factor * of[0], along = factor * of[groups];
    for (long long i = p.start + p.level; i < p.stop; i += 8) {
        const long long at = i * columns + p.j;
        const A v = static_cast<A>(x[at]), hat = (v - column.mean) * column.rstd;
        A d = static_cast<A>(g[at]);
        if (gate == 2 && column.affine(v) <= A(0)) d = A(0);
        dx[at] = static_cast<T>(column.slope * d - level - hat * along);
    }
}
