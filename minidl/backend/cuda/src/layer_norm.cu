// Layer norm over rows of n elements: y = (x - mean) rstd w + b; RMS norm, without centre, takes
// the mean as 0. One block of 256 threads a row, thread t its elements t, t + 256 and so on. The
// variance is taken in a second pass over the row. Sums are Sum<T>. Bytes: x and y once, if a row
// fits the caches. grid (rows).
#include "sums.cuh"

template <typename T>
__global__ void __launch_bounds__(256)
    layer_norm(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
               T* __restrict__ y, typename Sum<T>::type* __restrict__ mean,
               typename Sum<T>::type* __restrict__ rstd, long long n, double eps, long long centre,
               long long scaled, long long shifted) {
    typedef typename Sum<T>::type A;
    x += blockIdx.x * n;
    y += blockIdx.x * n;
    A sum = A(0), squares = A(0);
    if (centre)
        for (long long j = threadIdx.x; j < n; j += 256) sum += static_cast<A>(x[j]);
    const A m = join_block<Add, 256>(sum) / A(n);
    for (long long j = threadIdx.x; j < n; j += 256) {
        const A d = static_cast<A>(x[j]) - m;
        squares += d * d;
    }
    const A r = A(1) / sqrt(join_block<Add, 256>(squares) / A(n) + A(eps));
    for (long long j = threadIdx.x; j < n; j += 256) {
        A v = (static_cast<A>(x[j]) - m) * r;
        if (scaled) v *= static_cast<A>(w[j]);
        if (shifted) v += static_cast<A>(b[j]);
        y[j] = static_cast<T>(v);
    }
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = m;
        rstd[blockIdx.x] = r;
    }
}

// dx = rstd (g w - mean(g w) - xhat mean(g w xhat)), xhat = (x - mean) rstd; the first mean is 0
// without centre.
template <typename T>
__global__ void __launch_bounds__(256)
    layer_norm_input_grad(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ w,
                          const typename Sum<T>::type* __restrict__ mean,
                          const typename Sum<T>::type* __restrict__ rstd, T* __restrict__ dx,
                          long long n, long long centre, long long scaled) {
    typedef typename Sum<T>::type A;
    const long long row = blockIdx.x * n;
    const A m = mean[blockIdx.x], r = rstd[blockIdx.x];
    A sum = A(0), along = A(0);
    for (long long j = threadIdx.x; j < n; j += 256) {
        const A d = static_cast<A>(g[row + j]) * (scaled ? static_cast<A>(w[j]) : A(1));
        sum += d;
        along += d * (static_cast<A>(x[row + j]) - m) * r;
    }
    sum = centre ? join_block<Add, 256>(sum) / A(n) : A(0);
    along = join_block<Add, 256>(along) / A(n);
    for (long long j = threadIdx.x; j < n; j += 256) {
        const A d = static_cast<A>(g[row + j]) * (scaled ? static_cast<A>(w[j]) : A(1));
        const A hat = (static_cast<A>(x[row + j]) - m) * r;
        dx[row + j] = static_cast<T>(r * (d - sum - hat * along));
    }
}

// Sums over pieces of the rows of g xhat and of g: part (pieces, 2, n). A block: 32 columns by 8
// rows at a time. grid (32 columns, pieces).
template <typename T>
__global__ void __launch_bounds__(256)
    layer_norm_weight_grad(const T* __restrict__ g, const T* __restrict__ x,
                           const typename Sum<T>::type* __restrict__ mean,
                           const typename Sum<T>::type* __restrict__ rstd,
                           typename Sum<T>::type* __restrict__ part, long long rows, long long n,
                           long long piece) {
    typedef typename Sum<T>::type A;
    __shared__ A sums[2][8][33];
    const int lane = threadIdx.x % 32, level = threadIdx.x / 32;
    const long long j = blockIdx.x * 32LL + lane, start = blockIdx.y * piece;
    const long long stop = start + piece < rows ? start + piece : rows;
    A dw = A(0), db = A(0);
    if (j < n)
        for (long long i = start + level; i < stop; i += 8) {
            const A d = static_cast<A>(g[i * n + j]);
            dw += d * (static_cast<A>(x[i * n + j]) - mean[i]) * rstd[i];
            db += d;
        }
    sums[0][level][lane] = dw;
    sums[1][level][lane] = db;
    __syncthreads();
    if (level < 2 && j < n) {
        A sum = A(0);
        for (int k = 0; k < 8; k++) sum += sums[level][k][lane];
        part[(blockIdx.y * 2LL + level) * n + j] = sum;
    }
}
