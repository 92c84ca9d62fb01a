// Order and running sums along the rows of a dense array (rows, n).
//
// Sorting: every value becomes an unsigned key in whose order it stands (NaN above all, -0 as 0,
// turned round when descending); a key and its place in the row are an item, no two of which are
// equal, so that any sort of them is stable. Runs of items are merged in pairs, pass by pass:
// an item's place is its place in its own run and the number of smaller ones in the other.
// Bytes: x once, 4 or 8 and a place of the same size an element, written and read in each of the
// log2(n / 1024) passes behind the first.
#include "sums.cuh"

template <typename K>
struct alignas(2 * sizeof(K)) Item {
    K key, at;
    __device__ bool operator<(const Item& other) const {
        return key < other.key || (key == other.key && at < other.at);
    }
};

// The key of a float from its bits: those of positive ones are in order, of negative ones reversed.
template <typename K>
__device__ inline K float_key(K bits, K infinity) {
    const K sign = K(1) << (sizeof(K) * 8 - 1), magnitude = bits & (sign - 1);
    if (magnitude > infinity) return ~K(0);
    if (magnitude == 0) return sign;
    return bits & sign ? ~bits : bits | sign;
}
template <typename T>
__device__ inline unsigned key_of(T x) {  // integers of up to 32 bits
    const bool is_signed = T(-1) < T(1);
    return static_cast<unsigned>(x) ^ (is_signed ? 0x80000000u : 0u);
}
__device__ inline unsigned long long key_of(unsigned long long x) { return x; }
__device__ inline unsigned long long key_of(long long x) {
    return static_cast<unsigned long long>(x) ^ 0x8000000000000000ULL;
}
__device__ inline unsigned key_of(bool x) { return x; }
__device__ inline unsigned key_of(float x) {
    return float_key<unsigned>(__float_as_uint(x), 0x7f800000u);
}
__device__ inline unsigned key_of(__half x) {
    return float_key<unsigned>(static_cast<unsigned>(__half_as_ushort(x)) << 16, 0x7c000000u);
}
__device__ inline unsigned key_of(__nv_bfloat16 x) {
    return float_key<unsigned>(static_cast<unsigned>(__bfloat16_as_ushort(x)) << 16, 0x7f800000u);
}
__device__ inline unsigned long long key_of(double x) {
    return float_key<unsigned long long>(__double_as_longlong(x), 0x7ff0000000000000ULL);
}

// How many of the sorted items of a run come before one.
template <typename K, typename I>
__device__ inline I rank_in(const Item<K>* run, I count, const Item<K>& item) {
    I low = 0, high = count;
    while (low < high) {
        const I middle = (low + high) / 2;
        if (run[middle] < item) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

template <typename K>
__device__ inline void keep(Item<K>* to, const Item<K>& item) {
    *to = item;
}
template <typename K>
__device__ inline void keep(long long* to, const Item<K>& item) {  // the last pass: places
    *to = item.at;
}

// Sorts runs of `width` elements of the rows, `runs` to a row, width a power of 2 up to 1024. A
// block: 1024 / width runs in shared memory, 4 items a thread; what a row lacks is filled with
// items behind all others. grid (rows * runs * width / 1024).
template <typename T, typename K, typename To>
__global__ void __launch_bounds__(256)
    sort_runs(const T* __restrict__ x, To* __restrict__ to, long long rows, long long n,
              long long width, long long runs, long long descending) {
    __shared__ Item<K> tile[2][1024];
    const int own = static_cast<int>(width);
    const long long first = blockIdx.x * (1024 / width);
    for (int s = threadIdx.x; s < 1024; s += 256) {
        const long long run = first + s / own, row = run / runs;
        const long long j = run % runs * width + s % own;
        Item<K> item = {static_cast<K>(~K(0)), static_cast<K>(j)};
        if (row < rows && j < n) {
            const K key = key_of(x[row * n + j]);
            item.key = descending ? ~key : key;
        }
        tile[0][s] = item;
    }
    __syncthreads();
    int now = 0;
    for (int w = 1; w < own; w *= 2, now ^= 1) {
        for (int s = threadIdx.x; s < 1024; s += 256) {
            const Item<K> item = tile[now][s];
            const int rank = rank_in(tile[now] + (s & ~(w - 1) ^ w), w, item);
            tile[now ^ 1][(s & ~w) + rank] = item;
        }
        __syncthreads();
    }
    for (int s = threadIdx.x; s < 1024; s += 256) {
        const long long run = first + s / own, row = run / runs;
        const long long j = run % runs * width + s % own;
        if (row < rows && j < n) keep(to + row * n + j, tile[now][s]);
    }
}

// Merges pairs of sorted runs of `width` items, a power of 2. A thread: one item; neighbours search
// side by side and write nearly so. grid (rows * n / 256).
template <typename K, typename To>
__global__ void __launch_bounds__(256)
    merge_runs(const Item<K>* __restrict__ from, To* __restrict__ to, long long rows, long long n,
               long long width) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= rows * n) return;
    const long long row = i / n * n, j = i - row, other = (j & ~(width - 1)) ^ width;
    const long long count = other + width < n ? width : n - other;  // none: negative
    const Item<K> item = from[i];
    keep(to + row + (j & ~width) + rank_in(from + row + other, count, item), item);
}

// sums[row, p] = sum of the p-th piece of a row, of 512 elements. A warp: one piece. Bytes: x once.
// grid (rows * pieces / 8).
template <typename T>
__global__ void __launch_bounds__(256)
    piece_sums(const T* __restrict__ x, typename Sum<T>::type* __restrict__ sums, long long rows,
               long long n, long long pieces) {
    typedef typename Sum<T>::type A;
    const long long piece = blockIdx.x * 8LL + threadIdx.x / 32, row = piece / pieces;
    if (row >= rows) return;
    const long long start = (piece - row * pieces) * 512;
    const long long stop = start + 512 < n ? start + 512 : n;
    A sum = A(0);
    for (long long j = start + threadIdx.x % 32; j < stop; j += 32) {
        sum += static_cast<A>(x[row * n + j]);
    }
    sum = join_warp<Add>(sum);
    if (threadIdx.x % 32 == 0) sums[piece] = sum;
}

// y[row, j] = x[row, 0] + … + x[row, j], from `before`, the running sums of a row's pieces (pieces
// > 1). A warp: one piece, 32 elements at a time. Sums are float for half types, double for double,
// long long for integers. Bytes: x and y once. grid (rows * pieces / 8).
template <typename T, typename O>
__global__ void __launch_bounds__(256)
    running_sums(const T* __restrict__ x, const typename Sum<T>::type* __restrict__ before,
                 O* __restrict__ y, long long rows, long long n, long long pieces) {
    typedef typename Sum<T>::type A;
    const long long piece = blockIdx.x * 8LL + threadIdx.x / 32, row = piece / pieces;
    if (row >= rows) return;
    const int lane = threadIdx.x % 32;
    const long long start = (piece - row * pieces) * 512;
    const long long stop = start + 512 < n ? start + 512 : n;
    A carried = start ? before[piece - 1] : A(0);
#pragma unroll 4
    for (long long j0 = start; j0 < stop; j0 += 32) {
        const long long j = j0 + lane;
        A sum = j < stop ? static_cast<A>(x[row * n + j]) : A(0);
        for (int apart = 1; apart < 32; apart *= 2) {
            const A left = __shfl_up_sync(0xffffffff, sum, apart);
            if (lane >= apart) sum += left;
        }
        sum += carried;
        if (j < stop) y[row * n + j] = static_cast<O>(sum);
        carried = __shfl_sync(0xffffffff, sum, 31);
    }
}
