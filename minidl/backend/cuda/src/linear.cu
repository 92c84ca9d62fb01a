// A linear layer as one product with its bias in the epilogue: y (M, N) = x (M, K) w (N, K)' + b.
// Rows of x and w are contiguous and start at a chunk (16 bytes); K is a multiple of a chunk.
// Where there are few results and K is long, blocks share K and a second kernel adds their parts.
// Bytes: y once, x N / Tile::N times and w M / Tile::M times through the caches; the parts are
// written and read once. Sums are Sum<T>, the bias is added to them before they are rounded.
#include "gemm.cuh"

// y = x w' + bias. grid (M, N) by Tile.
template <typename T, typename Tile>
__global__ void __launch_bounds__(THREADS<T, Tile>, RESIDENT<T, Tile>)
    linear(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias,
           T* __restrict__ y, long long m, long long n, long long k, long long ldx, long long ldw) {
    const int row = blockIdx.x * Tile::M, column = blockIdx.y * Tile::N;
    const int rows = static_cast<int>(m), columns = static_cast<int>(n), deep = static_cast<int>(k);
    Lines<T, Tile, Tile::M, false> a(x, row, rows, 0, deep, ldx);
    Lines<T, Tile, Tile::N, false> b(w, column, columns, 0, deep, ldw);
    const AddBias<T> epilogue{bias};
    const Matrix<T, AddBias<T>> result{y, epilogue, row, column, rows, columns, n};
    multiply<T, Tile, false>(a, b, result, deep);
}

// part (splits, M, N) = x w' over `span` of K each. grid (M, N) by Tile, then splits.
template <typename T, typename Tile>
__global__ void __launch_bounds__(THREADS<T, Tile>, RESIDENT<T, Tile>)
    linear_parts(const T* __restrict__ x, const T* __restrict__ w,
                 typename Sum<T>::type* __restrict__ part, long long m, long long n, long long k,
                 long long ldx, long long ldw, long long span) {
    const int row = blockIdx.x * Tile::M, column = blockIdx.y * Tile::N;
    const int rows = static_cast<int>(m), columns = static_cast<int>(n);
    const int first = static_cast<int>(blockIdx.z * span);
    const int last = min(first + static_cast<int>(span), static_cast<int>(k));
    Lines<T, Tile, Tile::M, false> a(x, row, rows, first, last, ldx);
    Lines<T, Tile, Tile::N, false> b(w, column, columns, first, last, ldw);
    typename Sum<T>::type* own = part + blockIdx.z * m * n;
    const Matrix<typename Sum<T>::type, Bare> result{own, {}, row, column, rows, columns, n};
    multiply<T, Tile, false>(a, b, result, last - first);
}

// y (M, N) = the sum of part (splits, M, N) in order, plus bias. A thread makes one of `count`.
template <typename T>
__global__ void __launch_bounds__(256)
    add_parts(const typename Sum<T>::type* __restrict__ part, const T* __restrict__ bias,
              T* __restrict__ y, long long count, long long n, long long splits) {
    const long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
    if (i >= count) return;
    typename Sum<T>::type sum = 0;
    for (long long s = 0; s < splits; s++) sum += part[s * count + i];
    const AddBias<T> epilogue{bias};
    y[i] = static_cast<T>(epilogue.of(sum, static_cast<int>(i % n)));
}
