// Softmax, its logarithm and cross entropy over rows of n elements, with their gradients. One block
// of 256 threads a row, thread t its elements t, t + 256 and so on; sums are Sum<T>. A row is read
// from memory once if it fits the caches, and up to three times by the threads. grid (rows).
#include "sums.cuh"

template <typename T>
__device__ typename Sum<T>::type row_max(const T* x, long long n) {
    typedef typename Sum<T>::type A;
    A top = static_cast<A>(x[0]);
    for (long long j = threadIdx.x; j < n; j += 256) top = Max::of(static_cast<A>(x[j]), top);
    return join_block<Max, 256>(top);
}

// Sum of exp(x - top); a row of -inf gives NaN, as its softmax is.
template <typename T, typename A>
__device__ A row_exp_sum(const T* x, long long n, A top) {
    A sum = A(0);
    for (long long j = threadIdx.x; j < n; j += 256) sum += exp(static_cast<A>(x[j]) - top);
    return join_block<Add, 256>(sum);
}

// y = exp(x - max) / sum(exp(x - max))
template <typename T>
__global__ void __launch_bounds__(256)
    softmax(const T* __restrict__ x, T* __restrict__ y, long long n) {
    typedef typename Sum<T>::type A;
    x += blockIdx.x * n;
    y += blockIdx.x * n;
    const A top = row_max(x, n), scale = 1 / row_exp_sum(x, n, top);
    for (long long j = threadIdx.x; j < n; j += 256) {
        y[j] = static_cast<T>(exp(static_cast<A>(x[j]) - top) * scale);
    }
}

// dx = y (g - sum(g y))
template <typename T>
__global__ void __launch_bounds__(256)
    softmax_grad(const T* __restrict__ g, const T* __restrict__ y, T* __restrict__ dx,
                 long long n) {
    typedef typename Sum<T>::type A;
    const long long row = blockIdx.x * n;
    A sum = A(0);
    for (long long j = threadIdx.x; j < n; j += 256) {
        sum += static_cast<A>(g[row + j]) * static_cast<A>(y[row + j]);
    }
    sum = join_block<Add, 256>(sum);
    for (long long j = threadIdx.x; j < n; j += 256) {
        dx[row + j] =
            static_cast<T>(static_cast<A>(y[row + j]) * (static_cast<A>(g[row + j]) - sum));
    }
}

// y = x - max - log(sum(exp(x - max)))
template <typename T>
__global__ void __launch_bounds__(256)
    log_softmax(const T* __restrict__ x, T* __restrict__ y, long long n) {
    typedef typename Sum<T>::type A;
    x += blockIdx.x * n;
    y += blockIdx.x * n;
    const A top = row_max(x, n), level = log(row_exp_sum(x, n, top));
    for (long long j = threadIdx.x; j < n; j += 256) {
        y[j] = static_cast<T>(static_cast<A>(x[j]) - top - level);
    }
}

// dx = g - exp(y) sum(g)
template <typename T>
__global__ void __launch_bounds__(256)
    log_softmax_grad(const T* __restrict__ g, const T* __restrict__ y, T* __restrict__ dx,
                     long long n) {
    typedef typename Sum<T>::type A;
    const long long row = blockIdx.x * n;
    A sum = A(0);
    for (long long j = threadIdx.x; j < n; j += 256) sum += static_cast<A>(g[row + j]);
    sum = join_block<Add, 256>(sum);
    for (long long j = threadIdx.x; j < n; j += 256) {
        dx[row + j] =
            static_cast<T>(static_cast<A>(g[row + j]) - exp(static_cast<A>(y[row + j])) * sum);
    }
}

// A label outside [0, n) counts as one that is ignored: embedding.cu's check finds it.
// loss = (1-e) w_t (lse - x_t) + e/n sum_c w_c (lse - x_c), lse = top + log(total), for the label t
// of the row; 0 where it is `ignore`. Without weights, w = 1. top and total are kept for the
// gradient.
template <typename T>
__global__ void __launch_bounds__(256)
    cross_entropy(const T* __restrict__ x, const long long* __restrict__ label,
                  const T* __restrict__ weight, typename Sum<T>::type* __restrict__ loss,
                  typename Sum<T>::type* __restrict__ top,
                  typename Sum<T>::type* __restrict__ total, long long n, long long ignore,
                  double smoothing, long long weighted) {
    typedef typename Sum<T>::type A;
    const long long t = label[blockIdx.x];
    x += blockIdx.x * n;
    const A m = row_max(x, n), s = row_exp_sum(x, n, m), level = log(s), e = A(smoothing);
    A spread = A(0);
    if (smoothing > 0) {
        for (long long j = threadIdx.x; j < n; j += 256) {
            const A w = weighted ? static_cast<A>(weight[j]) : A(1);
            spread += w * (level - (static_cast<A>(x[j]) - m));
        }
        spread = join_block<Add, 256>(spread);
    }
    if (threadIdx.x == 0) {
        const bool ignored = t == ignore || t < 0 || t >= n;
        A value = A(0);
        if (!ignored) {
            const A w = weighted ? static_cast<A>(weight[t]) : A(1);
            value = (1 - e) * w * (level - (static_cast<A>(x[t]) - m)) + e / A(n) * spread;
        }
        loss[blockIdx.x] = value;
        top[blockIdx.x] = ignored ? A(0) : m;
        total[blockIdx.x] = ignored ? A(1) : s;
    }
}

// dx = g / whole (((1-e) w_t + e/n sum w) p_c - e/n w_c - (1-e) w_t [c = t]), p the softmax;
// `every` is 0 where all rows share one g.
template <typename T>
__global__ void __launch_bounds__(256)
    cross_entropy_grad(const T* __restrict__ g, long long every, const T* __restrict__ x,
                       const long long* __restrict__ label, const T* __restrict__ weight,
                       const typename Sum<T>::type* __restrict__ top,
                       const typename Sum<T>::type* __restrict__ total,
                       const typename Sum<T>::type* __restrict__ whole, T* __restrict__ dx,
                       long long n, long long ignore, double smoothing, long long weighted) {
    typedef typename Sum<T>::type A;
    const long long row = blockIdx.x, t = label[row];
    const bool ignored = t == ignore || t < 0 || t >= n;
    x += row * n;
    dx += row * n;
    A weights = A(n);
    if (smoothing > 0 && weighted) {
        A own = A(0);
        for (long long j = threadIdx.x; j < n; j += 256) own += static_cast<A>(weight[j]);
        weights = join_block<Add, 256>(own);
    }
    const A s = ignored ? A(0) : static_cast<A>(g[row * every]) / whole[0];
    const A w = ignored || !weighted ? A(1) : static_cast<A>(weight[t]);
    const A hard = s * A(1 - smoothing) * w;
    const A soft = s * A(smoothing) / A(n), scale = (hard + soft * weights) / total[row];
    for (long long j = threadIdx.x; j < n; j += 256) {
        A d = exp(static_cast<A>(x[j]) - top[row]) * scale;
        if (smoothing > 0) d -= soft * (weighted ? static_cast<A>(weight[j]) : A(1));
        dx[j] = static_cast<T>(ignored ? A(0) : j == t ? d - hard : d);
    }
}

// both[0] = sum of losses / both[1], both[1] = sum of the weights of labels not ignored. One block.
template <typename T>
__global__ void __launch_bounds__(256)
    weighted_mean(const typename Sum<T>::type* __restrict__ loss,
                  const long long* __restrict__ label, const T* __restrict__ weight,
                  typename Sum<T>::type* __restrict__ both, long long rows, long long n,
                  long long ignore, long long weighted) {
    typedef typename Sum<T>::type A;
    double total = 0, weights = 0;
    for (long long i = threadIdx.x; i < rows; i += 256) {
        const long long t = label[i];
        if (t == ignore) continue;  // of others outside [0, n) the losses are 0
        total += loss[i];
        const bool inside = t >= 0 && t < n;
        weights += weighted && inside ? static_cast<double>(static_cast<A>(weight[t])) : 1;
    }
    total = join_block<Add, 256>(total);
    weights = join_block<Add, 256>(weights);
    if (threadIdx.x == 0) {
        both[0] = static_cast<A>(total / weights);
        both[1] = static_cast<A>(weights);
    }
}
