// Pooling on channels-last arrays: a thread takes one element of the result, channels side by side.
// Windows overlap at will; gradients gather, so that nothing is added in an order of chance.
#include "sums.cuh"

// x (n, h, w, c), y (n, oh, ow, c); taps (r, s), strides, paddings, dilations.
struct Pool {
    int n, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw;
};

struct Place {
    int image, y, x, c;
    __device__ Place(long long i, int height, int width, int channels) {
        c = i % channels;
        x = i / channels % width;
        y = i / channels / width % height;
        image = i / channels / width / height;
    }
};

__device__ inline long long index_of(int image, int y, int x, int c, int h, int w, int channels) {
    return ((static_cast<long long>(image) * h + y) * w + x) * channels + c;
}

// The largest of each window, and its place r s + s in it; the first of equals, NaN wins. Padding
// is never chosen.
template <typename T, typename I>
__global__ void __launch_bounds__(256)
    max_pool(const T* __restrict__ x, T* __restrict__ y, I* __restrict__ place, const Pool v,
             long long count) {
    typedef typename Sum<T>::type A;
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= count) return;
    const Place at(i, v.oh, v.ow, v.c);
    A best = A(0);
    int chosen = -1;
    for (int a = 0; a < v.r; a++) {
        const int row = at.y * v.sh - v.ph + a * v.dh;
        for (int b = 0; b < v.s && row >= 0 && row < v.h; b++) {
            const int column = at.x * v.sw - v.pw + b * v.dw;
            if (column < 0 || column >= v.w) continue;
            const A value = static_cast<A>(x[index_of(at.image, row, column, at.c, v.h, v.w, v.c)]);
            if (chosen < 0 || value > best || (value != value && best == best)) {
                best = value;
                chosen = a * v.s + b;
            }
        }
    }
    y[i] = static_cast<T>(best);
    place[i] = static_cast<I>(chosen);
}

// The window that has tap `a` at a place, along one axis; -1 if there is none.
__device__ inline int window_of(int place, int a, int stride, int padding, int dilation, int out) {
    const int start = place + padding - a * dilation;
    return start >= 0 && start % stride == 0 && start / stride < out ? start / stride : -1;
}

// dx = the gradients of the windows that chose this place.
template <typename T, typename I>
__global__ void __launch_bounds__(256)
    max_pool_grad(const T* __restrict__ g, const I* __restrict__ place, T* __restrict__ dx,
                  const Pool v, long long count) {
    typedef typename Sum<T>::type A;
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= count) return;
    const Place at(i, v.h, v.w, v.c);
    A sum = A(0);
    for (int a = 0; a < v.r; a++) {
        const int row = window_of(at.y, a, v.sh, v.ph, v.dh, v.oh);
        for (int b = 0; b < v.s && row >= 0; b++) {
            const int column = window_of(at.x, b, v.sw, v.pw, v.dw, v.ow);
            if (column < 0) continue;
            const long long from = index_of(at.image, row, column, at.c, v.oh, v.ow, v.c);
            if (static_cast<int>(place[from]) == a * v.s + b) sum += static_cast<A>(g[from]);
        }
    }
    dx[i] = static_cast<T>(sum);
}

// What the sum of a window is divided by, along one axis: its elements, with the padding or
// without.
__device__ inline int extent(int window, int taps, int stride, int padding, int size, int padded) {
    const int start = window * stride - padding, last = padded ? size + padding : size;
    const int stop = start + taps < last ? start + taps : last;
    return stop - (padded || start > 0 ? start : 0);
}

template <typename T>
__global__ void __launch_bounds__(256)
    mean_pool(const T* __restrict__ x, T* __restrict__ y, const Pool v, long long padded,
              long long divisor, long long count) {
    typedef typename Sum<T>::type A;
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= count) return;
    const Place at(i, v.oh, v.ow, v.c);
    A sum = A(0);
    for (int a = 0; a < v.r; a++) {
        const int row = at.y * v.sh - v.ph + a;
        for (int b = 0; b < v.s && row >= 0 && row < v.h; b++) {
            const int column = at.x * v.sw - v.pw + b;
            if (column < 0 || column >= v.w) continue;
            sum += static_cast<A>(x[index_of(at.image, row, column, at.c, v.h, v.w, v.c)]);
        }
    }
    const int whole =
        extent(at.y, v.r, v.sh, v.ph, v.h, padded) * extent(at.x, v.s, v.sw, v.pw, v.w, padded);
    y[i] = static_cast<T>(sum / A(divisor ? divisor : whole > 1 ? whole : 1));
}

template <typename T>
__global__ void __launch_bounds__(256)
    mean_pool_grad(const T* __restrict__ g, T* __restrict__ dx, const Pool v, long long padded,
                   long long divisor, long long count) {
    typedef typename Sum<T>::type A;
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= count) return;
    const Place at(i, v.h, v.w, v.c);
    A sum = A(0);
    for (int a = 0; a < v.r; a++) {
        const int row = window_of(at.y, a, v.sh, v.ph, 1, v.oh);
        for (int b = 0; b < v.s && row >= 0; b++) {
            const int column = window_of(at.x, b, v.sw, v.pw, 1, v.ow);
            if (column < 0) continue;
            const int whole = extent(row, v.r, v.sh, v.ph, v.h, padded) *
                              extent(column, v.s, v.sw, v.pw, v.w, padded);
            const A d = static_cast<A>(g[index_of(at.image, row, column, at.c, v.oh, v.ow, v.c)]);
            sum += d / A(divisor ? divisor : whole > 1 ? whole : 1);
        }
    }
    dx[i] = static_cast<T>(sum);
}
