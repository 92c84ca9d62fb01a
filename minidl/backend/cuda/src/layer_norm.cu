// Layer norm over rows of n elements: y = (x - mean) rstd w + b; RMS norm, without centre, takes
// the mean as 0. A team of threads takes a row, 16 bytes at a time (rows.cuh), cut as softmax.cu's.
// The variance is taken in a second pass. Sums are Sum<T>. Bytes: x and y once, x of a row that is
// not held thrice. grid (rows TEAM / 256).
#include "rows.cuh"

template <typename T, typename C>
__global__ void __launch_bounds__(256, 2)
    layer_norm(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
               T* __restrict__ y, long long rows, long long n,
               typename Sum<T>::type* __restrict__ mean, typename Sum<T>::type* __restrict__ rstd,
               double eps, long long centre, long long scaled, long long shifted) {
    typedef typename Sum<T>::type A;
    const long long i = C::row();
    if (i >= rows) return;
    Row<T, C> row(x + i * n, n);
    A sum = A(0), squares = A(0);
    if (centre) {
        walk<C>(
            n,
            [&](int k, long long) {
#pragma unroll
                for (int e = 0; e < C::WIDE; e++) sum += row.v[k + e];
            },
            row);
    }
    const A m = join_team<Add, C>(sum) / A(n);
    walk<C>(
        n,
        [&](int k, long long) {
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) squares += (row.v[k + e] - m) * (row.v[k + e] - m);
        },
        row);
    const A r = A(1) / sqrt(join_team<Add, C>(squares) / A(n) + A(eps));
    walk<C>(
        n,
        [&](int k, long long j) {
            Pack<T, C::WIDE> out, scale, shift;
            if (scaled) scale = load_pack<C::WIDE>(w + j);
            if (shifted) shift = load_pack<C::WIDE>(b + j);
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) {
                A v = (row.v[k + e] - m) * r;
                if (scaled) v *= static_cast<A>(scale.v[e]);
                if (shifted) v += static_cast<A>(shift.v[e]);
                out.v[e] = static_cast<T>(v);
            }
            store_pack(y + i * n + j, out);
        },
        row);
    if (threadIdx.x % C::TEAM == 0) {
        mean[i] = m;
        rstd[i] = r;
    }
}

// Sums of two values over each team of a block, in every thread of it. One barrier: `buffer`
// alternates from call to call.
template <int TEAM, typename A>
__device__ void join_pairs(A& first, A& second, A (*buffer)[2]) {
    first = join_warp<Add>(first);
    second = join_warp<Add>(second);
    if constexpr (TEAM == 32) return;
    const int warp = threadIdx.x / 32, leader = threadIdx.x / TEAM * (TEAM / 32);
    if (threadIdx.x % 32 == 0) {
        buffer[warp][0] = first;
        buffer[warp][1] = second;
    }
    __syncthreads();
    first = second = A(0);
#pragma unroll
    for (int k = 0; k < TEAM / 32; k++) {
        first += buffer[leader + k][0];
        second += buffer[leader + k][1];
    }
}

// dx = rstd (g w - mean(g w) - xhat mean(g w xhat)), xhat = (x - mean) rstd, the first mean 0
// without centre; and part (teams, 2, n) = sums of g xhat and of g over the rows of a team. Thread
// t of a team has the same columns of all its rows, every (teams)th; the next row is on its way
// while one is worked on. Bytes: g and x and dx once. grid (teams TEAM / 256), held cuts only.
template <typename T, typename C>
__global__ void __launch_bounds__(256)
    layer_norm_grad(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ w,
                    T* __restrict__ dx, long long rows, long long n,
                    const typename Sum<T>::type* __restrict__ mean,
                    const typename Sum<T>::type* __restrict__ rstd,
                    typename Sum<T>::type* __restrict__ part, long long centre, long long scaled) {
    typedef typename Sum<T>::type A;
    typedef Pack<T, C::WIDE> P;
    __shared__ A sums[2][8][2];
    constexpr int TEAMS = 256 / C::TEAM;
    const long long step = gridDim.x * static_cast<long long>(TEAMS);
    A scale[C::EACH], dw[C::EACH], db[C::EACH];
    Words<T, C::WIDE> next_g[C::PACKS], next_x[C::PACKS];
    A next_mean = A(0), next_rstd = A(0);
    const auto inside = [&](int p) { return C::place(p) < n; };
    const auto fetch = [&](long long i) {
        if (i < rows) {
            next_mean = mean[i];
            next_rstd = rstd[i];
        }
#pragma unroll
        for (int p = 0; p < C::PACKS; p++) {
            if (i < rows && inside(p)) {
                next_g[p] = load_words<C::WIDE>(g + i * n + C::place(p));
                next_x[p] = load_words<C::WIDE>(x + i * n + C::place(p));
            }
        }
    };
    fetch(C::row());
#pragma unroll
    for (int p = 0; p < C::PACKS; p++) {
        P own;
        if (scaled && inside(p)) own = load_pack<C::WIDE>(w + C::place(p));
#pragma unroll
        for (int e = 0; e < C::WIDE; e++) {
            scale[p * C::WIDE + e] = scaled ? static_cast<A>(own.v[e]) : A(1);
            dw[p * C::WIDE + e] = db[p * C::WIDE + e] = A(0);
        }
    }
    int turn = 0;
    for (long long first = C::row() - threadIdx.x / C::TEAM; first < rows; first += step) {
        const long long i = first + threadIdx.x / C::TEAM;
        const bool real = i < rows;
        const A m = next_mean, r = next_rstd;
        A d[C::EACH], hat[C::EACH], sum = A(0), along = A(0);
#pragma unroll
        for (int p = 0; p < C::PACKS; p++) {
            const bool there = real && inside(p);
            const P own_g = next_g[p].pack(), own_x = next_x[p].pack();
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) {
                const int k = p * C::WIDE + e;
                d[k] = there ? static_cast<A>(own_g.v[e]) : A(0);
                hat[k] = there ? (static_cast<A>(own_x.v[e]) - m) * r : A(0);
                dw[k] += d[k] * hat[k];
                db[k] += d[k];
                d[k] = there ? d[k] * scale[k] : A(0);
                sum += d[k];
                along += d[k] * hat[k];
            }
        }
        fetch(i + step);
        join_pairs<C::TEAM>(sum, along, sums[turn]);
        turn ^= 1;
        sum = centre ? sum / A(n) : A(0);
        along /= A(n);
#pragma unroll
        for (int p = 0; p < C::PACKS; p++) {
            P out;
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) {
                const int k = p * C::WIDE + e;
                out.v[e] = static_cast<T>(r * (d[k] - sum - hat[k] * along));
            }
            if (real && inside(p)) store_pack(dx + i * n + C::place(p), out);
        }
    }
#pragma unroll
    for (int p = 0; p < C::PACKS; p++) {
        if (!inside(p)) continue;
        for (int e = 0; e < C::WIDE; e++) {
            part[C::row() * 2 * n + C::place(p) + e] = dw[p * C::WIDE + e];
            part[(C::row() * 2 + 1) * n + C::place(p) + e] = db[p * C::WIDE + e];
        }
    }
}

// The same dx for rows that are not held: g and x twice. grid (rows).
template <typename T, typename C>
__global__ void __launch_bounds__(256, 2)
    layer_norm_input_grad(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ w,
                          T* __restrict__ dx, long long rows, long long n,
                          const typename Sum<T>::type* __restrict__ mean,
                          const typename Sum<T>::type* __restrict__ rstd, long long centre,
                          long long scaled) {
    static_assert(!C::HELD, "g becomes g w at each reading");
    typedef typename Sum<T>::type A;
    const long long i = C::row();
    if (i >= rows) return;
    Row<T, C> given(g + i * n, n), row(x + i * n, n);
    const A m = mean[i], r = rstd[i];
    const auto scale_by = [&](int k, long long j) {  // g becomes g w
        if (!scaled) return;
        const Pack<T, C::WIDE> scale = load_pack<C::WIDE>(w + j);
#pragma unroll
        for (int e = 0; e < C::WIDE; e++) given.v[k + e] *= static_cast<A>(scale.v[e]);
    };
    A sum = A(0), along = A(0);
    walk<C>(
        n,
        [&](int k, long long j) {
            scale_by(k, j);
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) {
                sum += given.v[k + e];
                along += given.v[k + e] * (row.v[k + e] - m) * r;
            }
        },
        given, row);
    sum = centre ? join_team<Add, C>(sum) / A(n) : A(0);
    along = join_team<Add, C>(along) / A(n);
    walk<C>(
        n,
        [&](int k, long long j) {
            Pack<T, C::WIDE> out;
            scale_by(k, j);
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) {
                const A hat = (row.v[k + e] - m) * r;
                out.v[e] = static_cast<T>(r * (given.v[k + e] - sum - hat * along));
            }
            store_pack(dx + i * n + j, out);
        },
        given, row);
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
