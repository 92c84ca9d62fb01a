// Rows of a table by index, and adding rows into a table in any order (in a fixed one:
// indexing.cu). Bytes: each row once.
#include "packs.cuh"
#include "sums.cuh"

// y[i] = table[index[i]], 0 where there is no such row. A team of threads takes a row, thread t its
// packs t, t + team and so on. grid (count team / 256).
template <typename T, int WIDE>
__global__ void __launch_bounds__(256)
    take_rows(const T* __restrict__ table, const long long* __restrict__ index, T* __restrict__ y,
              long long rows, long long n, long long count, long long team) {
    const int t = threadIdx.x % static_cast<int>(team), own = threadIdx.x / static_cast<int>(team);
    const long long i = blockIdx.x * (256 / team) + own;
    if (i >= count) return;
    const long long row = index[i];
    const bool inside = row >= 0 && row < rows;
    for (long long j = t * WIDE; j < n; j += team * WIDE) {
        Pack<T, WIDE> pack = {};
        if (inside) pack = load_pack<WIDE>(table + row * n + j);
        store_pack(y + i * n + j, pack);
    }
}

// table[index[i]] += g[i], in an order of chance, where deterministic algorithms are not asked for;
// indices out of range and `skip` add nothing. A block: one row of g, thread t its elements t, t +
// 256 and so on. The table holds sums: float for half types. Bytes: g once, the table's rows once a
// row of g. grid (indices).
template <typename T>
__global__ void __launch_bounds__(256)
    add_rows(const T* __restrict__ g, const long long* __restrict__ index,
             typename Sum<T>::type* __restrict__ table, long long rows, long long n,
             long long skip) {
    typedef typename Sum<T>::type A;
    const long long row = index[blockIdx.x];
    if (row < 0 || row >= rows || row == skip) return;
    for (long long j = threadIdx.x; j < n; j += 256) {
        atomicAdd(table + row * n + j, static_cast<A>(g[blockIdx.x * n + j]));
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
