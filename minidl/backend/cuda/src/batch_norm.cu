// Batch norm of x (segments, rows, columns), by columns: y = relu((x - mean) rstd w + b + more). A
// column's statistics are those of channel j % channels: narrow arrays are folded, some rows making
// one. Blocks of 32 columns by 8 rows at a time take a piece of the rows: grid (columns / 32,
// pieces, segments). Sums are Sum<T> within a piece, pieces are combined in double, in order (Chan
// et al. 1979). Bytes: x twice and y once forward; g and x twice, dx once backward.
#include "sums.cuh"

struct Piece {
    long long j, start, stop, columns;  // of the array; rows of the segment's piece
    int level;
    __device__ Piece(long long rows, long long columns, long long piece)
        : j(blockIdx.x * 32LL + threadIdx.x % 32), columns(columns), level(threadIdx.x / 32) {
        start = blockIdx.y * piece;
        stop = start + piece < rows ? start + piece : rows;
        start += blockIdx.z * rows;
        stop += blockIdx.z * rows;
    }
    // Of part (segments, pieces, 2, columns).
    __device__ long long place(int which) const {
        return ((static_cast<long long>(blockIdx.z) * gridDim.y + blockIdx.y) * 2 + which) *
                   columns +
               j;
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
    A mean, rstd, slope, shift;
    template <typename T>
    __device__ void load(const A* means, const A* vars, const T* w, const T* b, long long j,
                         long long channels, double eps, long long scaled, long long shifted) {
        const long long c = j % channels, s = blockIdx.z * channels + c;
        mean = means[s];
        rstd = A(1) / sqrt(vars[s] + A(eps));
        slope = scaled ? rstd * static_cast<A>(w[c]) : rstd;
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

// mean and biased variance (segments, channels) from the pieces' moments. A thread a channel.
template <typename A>
__global__ void __launch_bounds__(256)
    combine_moments(const A* __restrict__ part, A* __restrict__ mean, A* __restrict__ var,
                    long long segments, long long rows, long long columns, long long piece,
                    long long pieces, long long channels) {
    const long long t = blockIdx.x * 256LL + threadIdx.x;
    if (t >= segments * channels) return;
    double count = 0, m = 0, m2 = 0;
    for (long long p = 0; p < pieces; p++) {
        const double n = p * piece + piece < rows ? piece : rows - p * piece;
        const A* of = part + (t / channels * pieces + p) * 2 * columns;
        for (long long j = t % channels; j < columns; j += channels) {
            const double d = of[j] - m, total = count + n;
            m += d * n / total;
            m2 += of[columns + j] + d * d * count * n / total;
            count = total;
        }
    }
    mean[t] = static_cast<A>(m);
    var[t] = static_cast<A>(m2 / count);
}

template <typename T>
__global__ void __launch_bounds__(256)
    normalise(const T* __restrict__ x, const T* __restrict__ more, T* __restrict__ y,
              const typename Sum<T>::type* __restrict__ mean,
              const typename Sum<T>::type* __restrict__ var, const T* __restrict__ w,
              const T* __restrict__ b, long long rows, long long columns, long long piece,
              long long channels, double eps, long long scaled, long long shifted, long long adds,
              long long relu) {
    typedef typename Sum<T>::type A;
    const Piece p(rows, columns, piece);
    if (p.j >= columns) return;
    Column<A> column;
    column.load(mean, var, w, b, p.j, channels, eps, scaled, shifted);
    for (long long i = p.start + p.level; i < p.stop; i += 8) {
        const long long at = i * columns + p.j;
        A v = column.affine(static_cast<A>(x[at]));
        if (adds) v += static_cast<A>(more[at]);
        y[at] = static_cast<T>(relu && v <= A(0) ? A(0) : v);
    }
}

// part = sums of g and of g xhat over the piece. gate 1: g counts where y > 0, and is kept in
// gated; gate 2: where the normalised x is.
template <typename T>
__global__ void __launch_bounds__(256)
    gradient_sums(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ y,
                  T* __restrict__ gated, typename Sum<T>::type* __restrict__ part,
                  const typename Sum<T>::type* __restrict__ mean,
                  const typename Sum<T>::type* __restrict__ var, const T* __restrict__ w,
                  const T* __restrict__ b, long long rows, long long columns, long long piece,
                  long long channels, double eps, long long scaled, long long shifted,
                  long long gate) {
    typedef typename Sum<T>::type A;
    const Piece p(rows, columns, piece);
    A first = A(0), second = A(0);
    if (p.j < columns) {
        Column<A> column;
        column.load(mean, var, w, b, p.j, channels, eps, scaled, shifted);
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

// sums (segments, 2, channels) of the pieces' sums. A thread a sum.
template <typename A>
__global__ void __launch_bounds__(256)
    combine_sums(const A* __restrict__ part, A* __restrict__ sums, long long segments,
                 long long columns, long long pieces, long long channels) {
    const long long t = blockIdx.x * 256LL + threadIdx.x, c = t % channels;
    if (t >= segments * 2 * channels) return;
    const long long segment = t / (2 * channels), which = t / channels % 2;
    double sum = 0;
    for (long long p = 0; p < pieces; p++) {
        const A* of = part + ((segment * pieces + p) * 2 + which) * columns;
        for (long long j = c; j < columns; j += channels) sum += of[j];
    }
    sums[t] = static_cast<A>(sum);
}

// dx = rstd w (g - mean(g) - xhat mean(g xhat)); g is gated by x for gate 2, else it has been.
template <typename T>
__global__ void __launch_bounds__(256)
    input_gradient(const T* __restrict__ g, const T* __restrict__ x, T* __restrict__ dx,
                   const typename Sum<T>::type* __restrict__ sums,
                   const typename Sum<T>::type* __restrict__ mean,
                   const typename Sum<T>::type* __restrict__ var, const T* __restrict__ w,
                   const T* __restrict__ b, long long rows, long long columns, long long piece,
                   long long channels, double eps, long long scaled, long long shifted,
                   long long gate) {
    typedef typename Sum<T>::type A;
    const Piece p(rows, columns, piece);
    if (p.j >= columns) return;
    Column<A> column;
    column.load(mean, var, w, b, p.j, channels, eps, scaled, shifted);
    const A* of = sums + blockIdx.z * 2 * channels + p.j % channels;
    const A count = A(rows) * A(columns / channels);
    const A level = of[0] / count, along = of[channels] / count;
    for (long long i = p.start + p.level; i < p.stop; i += 8) {
        const long long at = i * columns + p.j;
        const A v = static_cast<A>(x[at]), hat = (v - column.mean) * column.rstd;
        A d = static_cast<A>(g[at]);
        if (gate == 2 && column.affine(v) <= A(0)) d = A(0);
        dx[at] = static_cast<T>(column.slope * (d - level - hat * along));
    }
}
