// Pooling on channels-last arrays: a thread takes one element of the result, channels side by side;
// for the largest of windows WIDE channels, 16 bytes (1 where arrays do not allow it). Windows
// overlap at will; gradients gather, so that nothing is added in an order of chance. Sums are
// Sum<T>. Bytes: each array once, windows that overlap through the caches.
#include "divisor.cuh"
#include "packs.cuh"
#include "sums.cuh"

// x (n, h, w, c), y (n, oh, ow, c); taps (r, s), strides, paddings, dilations. `packs` are those of
// a pixel's channels.
struct Pool {
    int n, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw, packs;
    Divisor by_h, by_w, by_oh, by_ow, by_sh, by_sw, by_packs;
};

// Of the i-th pack in an array (n, height, width, packs).
struct Place {
    int image, y, x, c;
    __device__ Place(long long i, Divisor height, Divisor width, Divisor packs) {
        if (i >> 31) {
            c = i % packs.d;
            i /= packs.d;
            x = i % width.d;
            i /= width.d;
            y = i % height.d;
            image = i / height.d;
        } else {
            const int at = static_cast<int>(i), pixel = packs.of(at), row = width.of(pixel);
            c = at - pixel * packs.d;
            x = pixel - row * width.d;
            image = height.of(row);
            y = row - image * height.d;
        }
    }
};

__device__ inline long long index_of(int image, int y, int x, int c, int h, int w, int channels) {
    return ((static_cast<long long>(image) * h + y) * w + x) * channels + c;
}

__device__ inline long long element() { return blockIdx.x * 256LL + threadIdx.x; }

// take(tap, from) for every tap r S + s of y's window `at`: x's element there, -1 in the padding.
template <typename Take>
__device__ void walk_window(const Pool& v, const Place& at, Take take) {
    for (int a = 0; a < v.r; a++) {
        const int row = at.y * v.sh - v.ph + a * v.dh;
        for (int b = 0; b < v.s; b++) {
            const int column = at.x * v.sw - v.pw + b * v.dw;
            const bool inside = row >= 0 && row < v.h && column >= 0 && column < v.w;
            take(a * v.s + b, inside ? index_of(at.image, row, column, at.c, v.h, v.w, v.c) : -1LL);
        }
    }
}

// The windows along one axis that meet a place, from the last to the first: in the order of taps.
struct Span {
    int from, last, count;
    __device__ Span(int place, int taps, Divisor stride, int padding, int dilation, int out)
        : from(place + padding), last(min(stride.of(from), out - 1)) {
        const int first = from - (taps - 1) * dilation;
        count = last + 1 - (first > 0 ? stride.of(first + stride.d - 1) : 0);
    }
    // The tap by which a window does so, or -1 where it lies between two.
    __device__ int tap(int window, Divisor stride, int dilation) const {
        const int offset = from - window * stride.d;
        const int tap = dilation == 1 ? offset : offset / dilation;
        return tap * dilation == offset ? tap : -1;
    }
};

// take(tap, row, column) for every window of y that has x's element `at` as one of its taps.
template <typename Take>
__device__ void walk_windows_over(const Pool& v, const Place& at, Take take) {
    const Span rows(at.y, v.r, v.by_sh, v.ph, v.dh, v.oh);
    const Span columns(at.x, v.s, v.by_sw, v.pw, v.dw, v.ow);
    for (int row = rows.last; row > rows.last - rows.count; row--) {
        const int a = rows.tap(row, v.by_sh, v.dh);
        for (int column = columns.last; column > columns.last - columns.count; column--) {
            const int b = columns.tap(column, v.by_sw, v.dw);
            if (a >= 0 && b >= 0) take(a * v.s + b, row, column);
        }
    }
}

// The largest of each window, and its place r S + s in it; the first of equals, the last NaN.
// Padding is never chosen: -inf and 0 where there is nothing else. LINES, which divide r, x TAPS of
// a window are asked for at once: loads are not conditional, what is no tap is read elsewhere.
template <typename T, typename I, int WIDE, int LINES, int TAPS>
__global__ void __launch_bounds__(256, 4)
    max_pool(const T* __restrict__ x, T* __restrict__ y, I* __restrict__ place, const Pool v,
             long long count) {
    typedef typename Sum<T>::type A;
    const long long i = element();
    if (i >= count) return;
    const Place at(i, v.by_oh, v.by_ow, v.by_packs);
    x += index_of(at.image, 0, 0, at.c * WIDE, v.h, v.w, v.c);
    const int top = at.y * v.sh - v.ph, left = at.x * v.sw - v.pw;
    A best[WIDE];
    int chosen[WIDE], start = -1;  // the first tap that is not padding
    Pack<T, WIDE> smallest;
#pragma unroll
    for (int e = 0; e < WIDE; e++) {
        best[e] = static_cast<A>(__int_as_float(0xff800000));
        smallest.v[e] = static_cast<T>(best[e]);
        chosen[e] = -1;
    }
    const Words<T, WIDE> lowest = load_words<WIDE>(smallest.v);
    for (int a = 0; a < v.r; a += LINES) {
        for (int b = 0; b < v.s; b += TAPS) {
            Words<T, WIDE> taps[LINES * TAPS];
            bool inside[LINES * TAPS];
#pragma unroll
            for (int k = 0; k < LINES * TAPS; k++) {
                const int r = a + k / TAPS, s = b + k % TAPS;
                const int row = top + r * v.dh, column = left + s * v.dw;
                const int near = max(0, min(row, v.h - 1)), by = max(0, min(column, v.w - 1));
                inside[k] = s < v.s && near == row && by == column;
                const T* line = x + static_cast<long long>(near) * (v.w * v.c);
                taps[k] = load_words<WIDE>(line + by * v.c);
            }
#pragma unroll
            for (int k = 0; k < LINES * TAPS; k++) {
                const int tap = (a + k / TAPS) * v.s + b + k % TAPS;
                const Pack<T, WIDE> pack = (inside[k] ? taps[k] : lowest).pack();
                if (inside[k] && start < 0) start = tap;
#pragma unroll
                for (int e = 0; e < WIDE; e++) {
                    const A value = static_cast<A>(pack.v[e]);
                    const bool beats = value > best[e] || value != value;
                    best[e] = beats ? value : best[e];
                    chosen[e] = beats ? tap : chosen[e];
                }
            }
        }
    }
    Pack<T, WIDE> largest;
    Pack<I, WIDE> where;
#pragma unroll
    for (int e = 0; e < WIDE; e++) {
        largest.v[e] = static_cast<T>(best[e]);
        where.v[e] = static_cast<I>(chosen[e] < 0 ? max(start, 0) : chosen[e]);
    }
    store_pack(y + i * WIDE, largest);
    store_pack(place + i * WIDE, where);
}

// dx = the gradients of the windows that chose this place.
template <typename T, typename I, int WIDE>
__global__ void __launch_bounds__(256, 2)
    max_pool_grad(const T* __restrict__ g, const I* __restrict__ place, T* __restrict__ dx,
                  const Pool v, long long count) {
    typedef typename Sum<T>::type A;
    const long long i = element();
    if (i >= count) return;
    const Place at(i, v.by_h, v.by_w, v.by_packs);
    const long long first = index_of(at.image, 0, 0, at.c * WIDE, v.oh, v.ow, v.c);
    A sum[WIDE] = {};
    walk_windows_over(v, at, [&](int tap, int row, int column) {
        const long long from = first + index_of(0, row, column, 0, v.oh, v.ow, v.c);
        const Pack<I, WIDE> chosen = load_pack<WIDE>(place + from);
        const Pack<T, WIDE> given = load_pack<WIDE>(g + from);
#pragma unroll
        for (int e = 0; e < WIDE; e++) {
            const A d = static_cast<A>(given.v[e]);
            sum[e] += static_cast<int>(chosen.v[e]) == tap ? d : A(0);
        }
    });
    Pack<T, WIDE> out;
#pragma unroll
    for (int e = 0; e < WIDE; e++) out.v[e] = static_cast<T>(sum[e]);
    store_pack(dx + i * WIDE, out);
}

// The same where windows share out x without gaps: a thread takes one window.
template <typename T, typename I, int WIDE>
__global__ void __launch_bounds__(256)
    max_pool_grad_apart(const T* __restrict__ g, const I* __restrict__ place, T* __restrict__ dx,
                        const Pool v, long long count) {
    const long long i = element();
    if (i >= count) return;
    const Place at(i, v.by_oh, v.by_ow, v.by_packs);
    const Pack<I, WIDE> chosen = load_pack<WIDE>(place + i * WIDE);
    const Pack<T, WIDE> given = load_pack<WIDE>(g + i * WIDE);
    dx += index_of(at.image, at.y * v.r, at.x * v.s, at.c * WIDE, v.h, v.w, v.c);
    for (int a = 0; a < v.r; a++) {
        for (int b = 0; b < v.s; b++) {
            Pack<T, WIDE> out;
#pragma unroll
            for (int e = 0; e < WIDE; e++) {
                const bool here = static_cast<int>(chosen.v[e]) == a * v.s + b;
                out.v[e] = here ? given.v[e] : static_cast<T>(0);
            }
            store_pack(dx + index_of(0, a, b, 0, v.h, v.w, v.c), out);
        }
    }
}

// positions (n, c, oh, ow) = h W + w in x of the places (n, oh, ow, c) that max_pool chose.
template <typename I>
__global__ void __launch_bounds__(256)
    max_positions(const I* __restrict__ place, long long* __restrict__ positions, const Pool v,
                  long long count) {
    const long long i = element();
    if (i >= count) return;
    const Place at(i, v.by_oh, v.by_ow, v.by_packs);  // its image is a plane, of an image's c
    const int tap = place[index_of(at.image / v.c, at.y, at.x, at.image % v.c, v.oh, v.ow, v.c)];
    const int row = at.y * v.sh - v.ph + tap / v.s * v.dh;
    positions[i] = static_cast<long long>(row) * v.w + at.x * v.sw - v.pw + tap % v.s * v.dw;
}

// The elements of a window along one axis, with the padding or without.
__device__ inline int extent(int window, int taps, int stride, int padding, int size, int padded) {
    const int start = window * stride - padding, last = padded ? size + padding : size;
    const int stop = start + taps < last ? start + taps : last;
    return stop - (padded || start > 0 ? start : 0);
}

// What the sum of a window is divided by: its elements, unless a divisor is given.
__device__ inline int share(const Pool& v, int row, int column, int padded, int divisor) {
    if (divisor) return divisor;
    const int whole =
        extent(row, v.r, v.sh, v.ph, v.h, padded) * extent(column, v.s, v.sw, v.pw, v.w, padded);
    return whole > 1 ? whole : 1;
}

template <typename T>
__global__ void __launch_bounds__(256)
    mean_pool(const T* __restrict__ x, T* __restrict__ y, const Pool v, long long padded,
              long long divisor, long long count) {
    typedef typename Sum<T>::type A;
    const long long i = element();
    if (i >= count) return;
    const Place at(i, v.by_oh, v.by_ow, v.by_packs);
    A sum = A(0);
    walk_window(v, at, [&](int, long long from) {
        if (from >= 0) sum += static_cast<A>(x[from]);
    });
    y[i] = static_cast<T>(sum / A(share(v, at.y, at.x, padded, divisor)));
}

// Without the bound of two blocks, registers are spilled.
template <typename T>
__global__ void __launch_bounds__(256, 2)
    mean_pool_grad(const T* __restrict__ g, T* __restrict__ dx, const Pool v, long long padded,
                   long long divisor, long long count) {
    typedef typename Sum<T>::type A;
    const long long i = element();
    if (i >= count) return;
    const Place at(i, v.by_h, v.by_w, v.by_packs);
    A sum = A(0);
    walk_windows_over(v, at, [&](int, int row, int column) {
        const A d = static_cast<A>(g[index_of(at.image, row, column, at.c, v.oh, v.ow, v.c)]);
        sum += d / A(share(v, row, column, padded, divisor));
    });
    dx[i] = static_cast<T>(sum);
}

// columns (n, r, s, oh, ow) = the windows of planes x (n, h, w), zero in the padding. A thread
// takes one window, whose taps lie oh ow apart.
template <typename T>
__global__ void __launch_bounds__(256)
    unfold(const T* __restrict__ x, T* __restrict__ columns, const Pool v, long long count) {
    const long long i = element(), apart = static_cast<long long>(v.oh) * v.ow;
    if (i >= count) return;
    const Place at(i, v.by_oh, v.by_ow, v.by_packs);
    T* to = columns + (at.image * (v.r * v.s - 1LL)) * apart + i;
    walk_window(v, at, [&](int tap, long long from) {
        to[tap * apart] = from < 0 ? static_cast<T>(0) : x[from];
    });
}

// y (n, h, w) = each element's taps in columns (n, r, s, oh, ow), added up.
template <typename T>
__global__ void __launch_bounds__(256, 4)
    fold(const T* __restrict__ columns, T* __restrict__ y, const Pool v, long long count) {
    typedef typename Sum<T>::type A;
    const long long i = element();
    if (i >= count) return;
    const Place at(i, v.by_h, v.by_w, v.by_packs);
    A sum = A(0);
    walk_windows_over(v, at, [&](int tap, int row, int column) {
        const long long plane = static_cast<long long>(at.image) * v.r * v.s + tap;
        sum += static_cast<A>(columns[(plane * v.oh + row) * v.ow + column]);
    });
    y[i] = static_cast<T>(sum);
}
