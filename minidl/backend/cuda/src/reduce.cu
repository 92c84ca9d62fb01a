// Sums over rows of dense arrays (outer, rows, columns), in two launches: partial sums of fixed
// pieces, then their sum. Which thread adds what depends on the sizes alone, so a result is
// the same every time. Sums are float for float, half and bfloat16, double for double, long long
// for integers and bools. Bytes: x once.
#include "packs.cuh"
#include "sums.cuh"

// Of one column: part[outer, p] = sum of the p-th piece of n rows. A team of threads, a warp or a
// block, takes a piece, thread t its elements t, t + TEAM and so on. grid (count TEAM / 256).
template <typename T, int TEAM>
__global__ void __launch_bounds__(256)
    row_sums(const T* __restrict__ x, typename Sum<T>::type* __restrict__ part, long long n,
             long long piece, long long pieces, long long count) {
    typedef typename Sum<T>::type A;
    const long long i = blockIdx.x * (256LL / TEAM) + threadIdx.x / TEAM;
    if (i >= count) return;
    const int t = threadIdx.x % TEAM;
    const long long start = i % pieces * piece, stop = start + piece < n ? start + piece : n;
    const T* row = x + i / pieces * n;
    A sum = A(0);
    for (long long j = start + t; j < stop; j += TEAM) sum += static_cast<A>(row[j]);
    if constexpr (TEAM == 32) {
        sum = join_warp<Add>(sum);
    } else {
        sum = join_block<Add, TEAM>(sum);
    }
    if (t == 0) part[i] = sum;
}

// part[outer, p, j] = sum of the p-th piece of the rows in column j. A block: 32 threads with WIDE
// neighbouring columns each by 8 rows at a time. grid (outer columns / (32 WIDE), pieces).
template <typename T, int WIDE>
__global__ void __launch_bounds__(256, 4)
    column_sums(const T* __restrict__ x, typename Sum<T>::type* __restrict__ part, long long rows,
                long long columns, long long piece) {
    typedef typename Sum<T>::type A;
    __shared__ A sums[8][WIDE][33];
    const int lane = threadIdx.x % 32, level = threadIdx.x / 32;
    const unsigned across = (columns + 32 * WIDE - 1) / (32 * WIDE), outer = blockIdx.x / across;
    const long long j = (blockIdx.x % across * 32LL + lane) * WIDE, start = blockIdx.y * piece;
    const long long stop = start + piece < rows ? start + piece : rows;
    x += outer * rows * columns;
    A sum[WIDE] = {};
    if (j < columns)
        for (long long i = start + level; i < stop; i += 8) {
            const Pack<T, WIDE> pack = load_pack<WIDE>(x + i * columns + j);
#pragma unroll
            for (int e = 0; e < WIDE; e++) sum[e] += static_cast<A>(pack.v[e]);
        }
#pragma unroll
    for (int e = 0; e < WIDE; e++) sums[level][e][lane] = sum[e];
    __syncthreads();
    if (level < WIDE && j < columns) {
        A whole = sums[0][level][lane];
        for (int k = 1; k < 8; k++) whole += sums[k][level][lane];
        part[(static_cast<long long>(outer) * gridDim.y + blockIdx.y) * columns + j + level] =
            whole;
    }
}

// Arrays of one launch: addresses, sizes and first blocks, as backend/cuda/plans.py lays them.
template <typename T>
struct Rows {
    const T* p[48];
    long long n[48];
    long long first[48];
};

// part[block] = sum of the squares of 4096 elements of one of the arrays. grid (blocks of all).
template <typename T>
__global__ void __launch_bounds__(256)
    square_sums(const Rows<T> rows, long long count, typename Sum<T>::type* __restrict__ part) {
    typedef typename Sum<T>::type A;
    int row = 0;
    while (row + 1 < count && blockIdx.x >= rows.first[row + 1]) row++;
    const long long start = (blockIdx.x - rows.first[row]) * 4096;
    const long long stop = start + 4096 < rows.n[row] ? start + 4096 : rows.n[row];
    A sum = A(0);
    for (long long i = start + threadIdx.x; i < stop; i += 256) {
        const A x = static_cast<A>(rows.p[row][i]);
        sum += x * x;
    }
    sum = join_block<Add, 256>(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

// A value and where it stands; of equal values the first, NaN before all others.
template <typename A>
struct Best {
    A value;
    long long at;
    __device__ bool loses(const Best& other, bool largest) const {
        const bool nan = value != value, nans = other.value != other.value;
        if (nan != nans) return nans;
        if (nan || value == other.value) return other.at < at;
        return largest ? other.value > value : other.value < value;
    }
};

// y[row] = the largest (or smallest) of a row's columns, where[row] = its first index. A block a
// row, thread t its elements t, t + 256 and so on; columns > 0. grid (rows).
template <typename T>
__global__ void __launch_bounds__(256)
    row_extremes(const T* __restrict__ x, T* __restrict__ y, long long* __restrict__ where,
                 long long columns, long long largest) {
    typedef typename Sum<T>::type A;
    __shared__ A values[8];
    __shared__ long long places[8];
    const T* row = x + blockIdx.x * columns;
    Best<A> best = {static_cast<A>(row[0]), 0};
    for (long long j = threadIdx.x; j < columns; j += 256) {
        const Best<A> other = {static_cast<A>(row[j]), j};
        if (best.loses(other, largest)) best = other;
    }
    for (int apart = 16; apart; apart /= 2) {
        const Best<A> other = {__shfl_down_sync(0xffffffff, best.value, apart),
                               __shfl_down_sync(0xffffffff, best.at, apart)};
        if (best.loses(other, largest)) best = other;
    }
    if (threadIdx.x % 32 == 0) {
        values[threadIdx.x / 32] = best.value;
        places[threadIdx.x / 32] = best.at;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < 8; w++) {
            const Best<A> other = {values[w], places[w]};
            if (best.loses(other, largest)) best = other;
        }
        y[blockIdx.x] = row[best.at];
        where[blockIdx.x] = best.at;
    }
}
