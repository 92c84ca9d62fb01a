// Convolution as a product, without a copy of its windows: forward, input and weight gradient.
// Arrays are channels-last, x (N, H, W, C), y (N, OH, OW, K), weights (K, R, S, C) or, for the
// input's gradient, turned round, (C, R, S, K). The channels of what is read are a multiple of a
// chunk (16 bytes), so that a chunk lies within one pixel. Bytes: y once, x R S times through the
// caches.
#include "gemm.cuh"

// What is walked: windows of `in` (n, h, w, c) at the pixels of (n, oh, ow). Row y of a window's
// top is oh sh - ph + r dh; with up > 1 the input is spread out by it: only multiples exist.
struct Windows {
    int n, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw, uph, upw;
    int ld;  // from one pixel to the next, more than c in a group
    Divisor by_ow, by_oh, by_c, by_s, by_uph, by_upw;
};

// The windows as a matrix (pixels of the result, R S C): row tiles walk along R S C.
template <typename T>
struct WindowRows {
    const T* in;
    const Windows& v;
    int first;        // pixel of the tile's first row
    int place[2][3];  // of the pixels of the two rows that this thread copies: image, top, left

    __device__ WindowRows(const T* in, const Windows& v, int first) : in(in), v(v), first(first) {
        for (int slot = 0; slot < 2; slot++)
            locate(first + threadIdx.x / 4 + slot * 64, place[slot]);
    }
    __device__ void locate(int pixel, int* at) const {
        const int line = v.by_ow.of(pixel), image = v.by_oh.of(line);
        at[0] = image < v.n ? image : -1;
        at[1] = (line - image * v.oh) * v.sh - v.ph;
        at[2] = (pixel - line * v.ow) * v.sw - v.pw;
    }
    __device__ const T* any() const { return in; }
    __device__ const T* chunk(int slot, int row, int k) const { return window(place[slot], k); }

    // The chunk of channels at k = (r S + s) C + c of a window.
    __device__ const T* window(const int* at, int k) const {
        const int tap = v.by_c.of(k), r = v.by_s.of(tap);
        const int top = at[1] + r * v.dh, left = at[2] + (tap - r * v.s) * v.dw;
        if (at[0] < 0 || r >= v.r || top < 0 || left < 0) return nullptr;
        const int y = v.by_uph.of(top), x = v.by_upw.of(left);
        if (y >= v.h || x >= v.w || y * v.uph != top || x * v.upw != left) return nullptr;
        const long long pixel = (static_cast<long long>(at[0]) * v.h + y) * v.w + x;
        return in + pixel * v.ld + (k - tap * v.c);
    }
};

// The same matrix with its pixels along K (KMAJOR): `row` counts R S C from `first` on.
template <typename T>
struct WindowColumns : WindowRows<T> {
    int columns;
    __device__ WindowColumns(const T* in, const Windows& v, int first)
        : WindowRows<T>(in, v, 0), columns(first) {}
    __device__ const T* chunk(int slot, int row, int k) const {
        int at[3];
        this->locate(k, at);
        return this->window(at, columns + row);
    }
};

// A matrix (rows, k) whose rows are contiguous and ld apart; zeros beyond its edges.
template <typename T>
struct Rows {
    const T* in;
    int first, rows, deep;
    long long ld;
    __device__ const T* any() const { return in; }
    __device__ const T* chunk(int slot, int row, int k) const {
        return first + row < rows && k < deep ? in + (first + row) * ld + k : nullptr;
    }
};

// A matrix (k, rows), KMAJOR.
template <typename T>
struct Columns {
    const T* in;
    int first, rows, deep;
    long long ld;
    __device__ const T* any() const { return in; }
    __device__ const T* chunk(int slot, int row, int k) const {
        return first + row < rows && k < deep ? in + k * ld + first + row : nullptr;
    }
};

// Results (rows, columns), ld apart, plus the bias.
template <typename T, typename To>
struct Plain {
    To* out;
    const T* bias;  // or null
    int row, column, rows, columns;
    long long ld;
    template <typename A>
    __device__ void put(int i, int j, A first, A second) const {
        if (row + i >= rows) return;
        To* to = out + (row + i) * ld + column + j;
        if (column + j < columns) to[0] = static_cast<To>(first + added<A>(j));
        if (column + j + 1 < columns) to[1] = static_cast<To>(second + added<A>(j + 1));
    }
    template <typename A>
    __device__ A added(int j) const {
        return bias ? static_cast<A>(bias[column + j]) : A(0);
    }
};

// y (pixels, K) = windows of x (pixels, R S C) times w (K, R S C) + bias. grid (pixels, K) by 128.
template <typename T>
__global__ void __launch_bounds__(256)
    convolve(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias,
             T* __restrict__ y, const Windows v, long long pixels, long long k, long long ld,
             long long biased) {
    const int row = blockIdx.x * SIDE, column = blockIdx.y * SIDE, deep = v.r * v.s * v.c;
    WindowRows<T> a(x, v, row);
    Rows<T> b{w, column, static_cast<int>(k), deep, deep};
    const Plain<T, T> result{
        y, biased ? bias : nullptr, row, column, static_cast<int>(pixels), static_cast<int>(k), ld};
    multiply<false, T>(a, b, result, 0, deep);
}

// part (splits, K, R S C) = g (pixels, K), transposed, times windows of x (pixels, R S C), over
// some of the pixels each. grid (K, R S C) by 128, then splits.
template <typename T>
__global__ void __launch_bounds__(256)
    convolve_weight_grad(const T* __restrict__ g, const T* __restrict__ x,
                         typename Sum<T>::type* __restrict__ part, const Windows v,
                         long long pixels, long long k, long long ld, long long span) {
    const int row = blockIdx.x * SIDE, column = blockIdx.y * SIDE, deep = v.r * v.s * v.c;
    const int first = blockIdx.z * span;
    const int last = first + span < pixels ? first + span : pixels;
    Columns<T> a{g, row, static_cast<int>(k), static_cast<int>(pixels), ld};
    WindowColumns<T> b(x, v, column);
    const Plain<T, typename Sum<T>::type> result{part + blockIdx.z * k * deep, nullptr, row, column,
                                                 static_cast<int>(k),          deep,    deep};
    multiply<true, T>(a, b, result, first, last);
}
