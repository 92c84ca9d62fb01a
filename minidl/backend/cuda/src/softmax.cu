// Softmax, its logarithm and cross entropy over rows of n elements, with their gradients. A team of
// threads takes a row, 16 bytes at a time (rows.cuh): a warp one of up to 1024 elements (512
// doubles, or where they do not come in packs), a block longer ones; to 4096 (2048 doubles) they
// are held in registers. Sums are Sum<T>. Bytes: each array once; a longer row twice where the
// result needs a sum of it. grid (rows TEAM / 256).
#include "rows.cuh"

// exp(d), d <= 0; for half types by the GPU's own 2^x: relative error below 2e-7 (1 + |d|).
template <typename T, typename A>
__device__ A exp_of(A d) {
    if constexpr (sizeof(T) == 2) {
        return exp2f(d * 1.4426950408889634f);
    } else {
        return exp(d);
    }
}

// The largest element of a row and the sum of exp(x - top), in one walk: each thread's sum is
// scaled anew when its own top rises. A row of -inf gives NaN, as its softmax is; NaN anywhere,
// too.
template <typename T, typename C>
struct Exps {
    typedef typename Sum<T>::type A;
    A top, sum;
    __device__ Exps(Row<T, C>& row, long long n) {
        A own = static_cast<A>(__int_as_float(0xff800000));
        A level = A(0);  // what is subtracted: own, but 0 as long as that is -inf
        sum = A(0);
        walk<C>(
            n,
            [&](int k, long long) {
                A most = own;
#pragma unroll
                for (int e = 0; e < C::WIDE; e++) most = max(most, row.v[k + e]);
                if (most > own) {
                    sum *= exp_of<T>(own - most);
                    own = level = most;
                }
#pragma unroll
                for (int e = 0; e < C::WIDE; e++) sum += exp_of<T>(row.v[k + e] - level);
            },
            row);
        top = join_team<Max, C>(own);
        sum = join_team<Add, C>(sum * exp_of<T>(own - top));
    }
};

// y = exp(x - max) / sum(exp(x - max))
template <typename T, typename C>
__global__ void __launch_bounds__(256, 2)
    softmax(const T* __restrict__ x, T* __restrict__ y, long long rows, long long n) {
    typedef typename Sum<T>::type A;
    const long long r = C::row();
    if (r >= rows) return;
    Row<T, C> row(x + r * n, n);
    const Exps<T, C> exps(row, n);
    const A scale = A(1) / exps.sum;
    write_row<C>(y + r * n, n, [&](int k) { return exp_of<T>(row.v[k] - exps.top) * scale; }, row);
}

// dx = y (g - sum(g y))
template <typename T, typename C>
__global__ void __launch_bounds__(256, 2)
    softmax_grad(const T* __restrict__ g, const T* __restrict__ y, T* __restrict__ dx,
                 long long rows, long long n) {
    typedef typename Sum<T>::type A;
    const long long r = C::row();
    if (r >= rows) return;
    Row<T, C> given(g + r * n, n), kept(y + r * n, n);
    A sum = A(0);
    walk<C>(
        n,
        [&](int k, long long) {
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) sum += given.v[k + e] * kept.v[k + e];
        },
        given, kept);
    sum = join_team<Add, C>(sum);
    write_row<C>(dx + r * n, n, [&](int k) { return kept.v[k] * (given.v[k] - sum); }, given, kept);
}

// y = x - max - log(sum(exp(x - max)))
template <typename T, typename C>
__global__ void __launch_bounds__(256, 2)
    log_softmax(const T* __restrict__ x, T* __restrict__ y, long long rows, long long n) {
    typedef typename Sum<T>::type A;
    const long long r = C::row();
    if (r >= rows) return;
    Row<T, C> row(x + r * n, n);
    const Exps<T, C> exps(row, n);
    const A level = log(exps.sum);
    write_row<C>(y + r * n, n, [&](int k) { return row.v[k] - exps.top - level; }, row);
}

// dx = g - exp(y) sum(g)
template <typename T, typename C>
__global__ void __launch_bounds__(256, 2)
    log_softmax_grad(const T* __restrict__ g, const T* __restrict__ y, T* __restrict__ dx,
                     long long rows, long long n) {
    typedef typename Sum<T>::type A;
    const long long r = C::row();
    if (r >= rows) return;
    Row<T, C> given(g + r * n, n), kept(y + r * n, n);
    A sum = A(0);
    walk<C>(
        n,
        [&](int k, long long) {
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) sum += given.v[k + e];
        },
        given);
    sum = join_team<Add, C>(sum);
    write_row<C>(
        dx + r * n, n, [&](int k) { return given.v[k] - exp_of<T>(kept.v[k]) * sum; }, given, kept);
}

// A label outside [0, n) counts as one that is ignored: embedding.cu's check finds it.
// loss = (1-e) w_t (lse - x_t) + e/n sum_c w_c (lse - x_c), lse = top + log(total), for the label t
// of the row; 0 where it is `ignore`. Without weights, w = 1. top and total are kept for the
// gradient.
template <typename T, typename C>
__global__ void __launch_bounds__(256, 2)
    cross_entropy(const T* __restrict__ x, const T* __restrict__ weight, long long rows,
                  long long n, const long long* __restrict__ label,
                  typename Sum<T>::type* __restrict__ loss, typename Sum<T>::type* __restrict__ top,
                  typename Sum<T>::type* __restrict__ total, long long ignore, double smoothing,
                  long long weighted) {
    typedef typename Sum<T>::type A;
    const long long r = C::row();
    if (r >= rows) return;
    const long long t = label[r];
    const bool ignored = t == ignore || t < 0 || t >= n;
    const A own = ignored ? A(0) : static_cast<A>(x[r * n + t]), e = A(smoothing);
    Row<T, C> row(x + r * n, n);
    const Exps<T, C> exps(row, n);
    const A level = log(exps.sum);
    A spread = A(0);
    if (smoothing > 0) {
        walk<C>(
            n,
            [&](int k, long long j) {
                Pack<T, C::WIDE> w;
                if (weighted) w = load_pack<C::WIDE>(weight + j);
#pragma unroll
                for (int i = 0; i < C::WIDE; i++) {
                    const A loss = level - (row.v[k + i] - exps.top);
                    spread += weighted ? static_cast<A>(w.v[i]) * loss : loss;
                }
            },
            row);
        spread = join_team<Add, C>(spread);
    }
    if (threadIdx.x % C::TEAM == 0) {
        A value = A(0);
        if (!ignored) {
            const A w = weighted ? static_cast<A>(weight[t]) : A(1);
            value = (1 - e) * w * (level - (own - exps.top)) + e / A(n) * spread;
        }
        loss[r] = value;
        top[r] = ignored ? A(0) : exps.top;
        total[r] = ignored ? A(1) : exps.sum;
    }
}

// dx = g / whole (((1-e) w_t + e/n sum w) p_c - e/n w_c - (1-e) w_t [c = t]), p the softmax;
// `every` is 0 where all rows share one g.
template <typename T, typename C>
__global__ void __launch_bounds__(256, 2)
    cross_entropy_grad(const T* __restrict__ x, const T* __restrict__ weight, T* __restrict__ dx,
                       long long rows, long long n, const T* __restrict__ g, long long every,
                       const long long* __restrict__ label,
                       const typename Sum<T>::type* __restrict__ top,
                       const typename Sum<T>::type* __restrict__ total,
                       const typename Sum<T>::type* __restrict__ whole, long long ignore,
                       double smoothing, long long weighted) {
    typedef typename Sum<T>::type A;
    const long long r = C::row();
    if (r >= rows) return;
    const long long t = label[r];
    const bool ignored = t == ignore || t < 0 || t >= n;
    Row<T, C> row(x + r * n, n);
    A weights = A(n);
    if (smoothing > 0 && weighted) {
        A own = A(0);
        for (long long j = threadIdx.x % C::TEAM; j < n; j += C::TEAM) {
            own += static_cast<A>(weight[j]);
        }
        weights = join_team<Add, C>(own);
    }
    const A s = ignored ? A(0) : static_cast<A>(g[r * every]) / whole[0], most = top[r];
    const A w = ignored || !weighted ? A(1) : static_cast<A>(weight[t]);
    const A hard = s * A(1 - smoothing) * w;
    const A soft = s * A(smoothing) / A(n), scale = (hard + soft * weights) / total[r];
    walk<C>(
        n,
        [&](int k, long long j) {
            Pack<T, C::WIDE> out, own;
            if (smoothing > 0 && weighted) own = load_pack<C::WIDE>(weight + j);
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) {
                A d = exp_of<T>(row.v[k + e] - most) * scale;
                if (smoothing > 0) d -= weighted ? soft * static_cast<A>(own.v[e]) : soft;
                if (j + e == t) d -= hard;
                out.v[e] = static_cast<T>(ignored ? A(0) : d);
            }
            store_pack(dx + r * n + j, out);
        },
        row);
}

// both[0] = sum of losses / both[1], both[1] = sum of the weights of labels not ignored. One block,
// of 1024 threads.
template <typename T>
__global__ void __launch_bounds__(1024)
    weighted_mean(const typename Sum<T>::type* __restrict__ loss,
                  const long long* __restrict__ label, const T* __restrict__ weight,
                  typename Sum<T>::type* __restrict__ both, long long rows, long long n,
                  long long ignore, long long weighted) {
    typedef typename Sum<T>::type A;
    double total = 0, weights = 0;
#pragma unroll 4
    for (long long i = threadIdx.x; i < rows; i += 1024) {
        const long long t = label[i];
        const A own = loss[i];
        if (t == ignore) continue;  // of others outside [0, n) the losses are 0
        total += own;
        const bool inside = t >= 0 && t < n;
        weights += weighted && inside ? static_cast<double>(static_cast<A>(weight[t])) : 1;
    }
    total = join_block<Add, 1024>(total);
    weights = join_block<Add, 1024>(weights);
    if (threadIdx.x == 0) {
        both[0] = static_cast<A>(total / weights);
        both[1] = static_cast<A>(weights);
    }
}
