// Rows of a table by index, and adding rows into a table. A block takes one row, or one row of the
// table, thread t its elements t, t + 256 and so on. Bytes: each row once; the table once, adding.
#include "sums.cuh"

// y[i] = table[index[i]], 0 where there is no such row. grid (indices).
template <typename T>
__global__ void __launch_bounds__(256)
    take_rows(const T* __restrict__ table, const long long* __restrict__ index, T* __restrict__ y,
              long long rows, long long n) {
    const long long row = index[blockIdx.x];
    const bool inside = row >= 0 && row < rows;
    for (long long j = threadIdx.x; j < n; j += 256) {
        y[blockIdx.x * n + j] = inside ? table[row * n + j] : T(0);
    }
}

// table[r] = sum of g[i] over the places i where index[i] is r, in their order; `skip` adds
// nothing. All threads of a block look at 256 indices at a time; those of the block's row are then
// added by every thread to its own elements. grid (rows of the table).
template <typename T>
__global__ void __launch_bounds__(256)
    add_rows(const T* __restrict__ g, const long long* __restrict__ index, T* __restrict__ table,
             long long count, long long n, long long skip) {
    typedef typename Sum<T>::type A;
    __shared__ unsigned found[8];  // a bit for each of 256 indices
    const long long row = blockIdx.x;
    for (long long j0 = 0; j0 < n; j0 += 256) {
        const long long j = j0 + threadIdx.x;
        A sum = A(0);
        for (long long i0 = 0; i0 < count && row != skip; i0 += 256) {
            const bool mine = i0 + threadIdx.x < count && index[i0 + threadIdx.x] == row;
            const unsigned bits = __ballot_sync(0xffffffff, mine);
            if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = bits;
            __syncthreads();
            for (int w = 0; w < 8; w++) {
                for (unsigned left = found[w]; left; left &= left - 1) {
                    const long long i = i0 + w * 32 + __ffs(left) - 1;
                    if (j < n) sum += static_cast<A>(g[i * n + j]);
                }
            }
            __syncthreads();
        }
        if (j < n) table[row * n + j] = static_cast<T>(sum);
    }
}

// Leaves in `bad` the largest index, seen as unsigned, that lies outside [0, n), n > 0, and is not
// `ignore`; nothing where there is none.
extern "C" __global__ void __launch_bounds__(256)
    check_indices(const long long* __restrict__ index, unsigned long long* __restrict__ bad,
                  long long count, long long n, long long ignore, long long ignoring) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= count || (ignoring && index[i] == ignore)) return;
    const unsigned long long value = static_cast<unsigned long long>(index[i]);
    if (value >= static_cast<unsigned long long>(n)) atomicMax(bad, value);
}
