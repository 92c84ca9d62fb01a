// Convolution as a product, without a copy of its windows: forward, input and weight gradient.
// Arrays are channels-last, x (N, H, W, C), y (N, OH, OW, K), weights (K, R, S, C). The channels of
// what is read are a multiple of a chunk (16 bytes), so that a chunk lies within one pixel. Bytes:
// y once, x R S times through the caches.
#include "gemm.cuh"

// What is walked: windows of `in` (n, h, w, c) at the pixels of (n, oh, ow). Row y of a window's
// top is oh sh - ph + r dh. Pixels of the result lie yn, yh and yw apart.
struct Windows {
    int n, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw;
    int ld;  // from one pixel to the next, more than c in a group
    int yn, yh, yw;
    Divisor by_ow, by_oh, by_c, by_s;

    __device__ bool within(int y, int x) const {
        return (static_cast<unsigned>(y) < static_cast<unsigned>(h)) &
               (static_cast<unsigned>(x) < static_cast<unsigned>(w));
    }
};

constexpr int NOWHERE = -(1 << 30);  // a row above every image, whatever the tap

// The windows as a matrix (pixels of the result, R S C): SIDE rows from `first` on, for row tiles.
template <typename T, int SIDE>
struct WindowRows {
    typedef Share<T, SIDE, false> S;
    const T* in;
    const Windows& v;
    int at[S::SLOTS];  // the pixel where a window begins
    int top[S::SLOTS], left[S::SLOTS];
    int k, channel, down, right;  // of the chunk in hand
    bool inside;                  // whether k is

    __device__ WindowRows(const T* in, const Windows& v, int first) : in(in), v(v), k(S::start()) {
#pragma unroll
        for (int slot = 0; slot < S::SLOTS; slot++) {
            const int pixel = first + S::row() + slot * S::STEP;
            const int line = v.by_ow.of(pixel), image = v.by_oh.of(line);
            top[slot] = (line - image * v.oh) * v.sh - v.ph;
            left[slot] = (pixel - line * v.ow) * v.sw - v.pw;
            at[slot] = (image * v.h + top[slot]) * v.w + left[slot];
            if (image >= v.n) top[slot] = NOWHERE;
        }
        locate();
    }
    __device__ void locate() {
        const int taps = v.by_c.of(k), r = v.by_s.of(taps);
        channel = k - taps * v.c, inside = r < v.r;
        down = r * v.dh, right = (taps - r * v.s) * v.dw;
    }
    __device__ bool there(int slot) const {
        return inside & v.within(top[slot] + down, left[slot] + right);
    }
    __device__ const T* chunk(int slot) const {
        const long long pixel = at[slot] + down * v.w + right;
        return in + pixel * v.ld + channel;
    }
    __device__ void next() {
        k += Chunk<T>::DEEP;
        locate();
    }
};

// Its transpose, for KMAJOR tiles: SIDE of R S C from `first` on, and pixels from k to `last` as K.
template <typename T, int SIDE>
struct WindowColumns {
    typedef Share<T, SIDE, true> S;
    const T* in;
    const Windows& v;
    int pixel, last, channel, down, right;  // of this thread's first chunk
    bool inside;

    __device__ WindowColumns(const T* in, const Windows& v, int first, int k, int last)
        : in(in), v(v), pixel(k + S::row()), last(last) {
        const int at = first + S::start(), taps = v.by_c.of(at), r = v.by_s.of(taps);
        channel = at - taps * v.c, inside = r < v.r;
        down = r * v.dh - v.ph, right = (taps - r * v.s) * v.dw - v.pw;
    }
    // The image, row and column that the tap meets.
    __device__ void locate(int slot, int& image, int& y, int& x) const {
        const int at = pixel + slot * S::STEP, line = v.by_ow.of(at);
        image = v.by_oh.of(line);
        y = (line - image * v.oh) * v.sh + down, x = (at - line * v.ow) * v.sw + right;
    }
    __device__ bool there(int slot) const {
        int image, y, x;
        locate(slot, image, y, x);
        return inside & (pixel + slot * S::STEP < last) & v.within(y, x);
    }
    __device__ const T* chunk(int slot) const {
        int image, y, x;
        locate(slot, image, y, x);
        const long long place = (image * v.h + y) * v.w + x;
        return in + place * v.ld + channel;
    }
    __device__ void next() { pixel += Chunk<T>::DEEP; }
};

// A result: a row of Matrix is a pixel of Windows.
template <typename T>
struct Pixels : Matrix<T, AddBias<T>> {
    const Windows& v;
    __device__ Pixels(const Matrix<T, AddBias<T>>& whole, const Windows& v)
        : Matrix<T, AddBias<T>>(whole), v(v) {}
    __device__ T* line(int i) const {
        const int pixel = this->row + i, line = v.by_ow.of(pixel), image = v.by_oh.of(line);
        if (pixel >= this->rows) return nullptr;
        const long long y = (line - image * v.oh) * v.yh + (pixel - line * v.ow) * v.yw;
        return this->out + static_cast<long long>(image) * v.yn + y + this->column;
    }
};

// y (pixels, K) = windows of x (pixels, R S C) times w (K, R S C) + bias. grid (pixels, K) by Tile.
template <typename T, typename Tile>
__global__ void __launch_bounds__(256, RESIDENT<T, Tile>)
    convolve(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias,
             T* __restrict__ y, const Windows v, long long pixels, long long k, long long biased) {
    const int row = blockIdx.x * Tile::M, column = blockIdx.y * Tile::N, deep = v.r * v.s * v.c;
    const int rows = static_cast<int>(pixels), columns = static_cast<int>(k);
    WindowRows<T, Tile::M> a(x, v, row);
    Lines<T, Tile::N, false> b(w, column, columns, 0, deep, deep);
    const AddBias<T> epilogue{biased ? bias : nullptr};
    const Pixels<T> result({y, epilogue, row, column, rows, columns, 0}, v);
    multiply<T, Tile, false>(a, b, result, deep);
}

// part (splits, K, R S C) = g (pixels, K), transposed, times windows of x (pixels, R S C), over
// some of the pixels each. grid (K, R S C) by Tile, then splits.
template <typename T, typename Tile>
__global__ void __launch_bounds__(256, RESIDENT<T, Tile>)
    convolve_weight_grad(const T* __restrict__ g, const T* __restrict__ x,
                         typename Sum<T>::type* __restrict__ part, const Windows v,
                         long long pixels, long long k, long long ld, long long span) {
    const int row = blockIdx.x * Tile::M, column = blockIdx.y * Tile::N, deep = v.r * v.s * v.c;
    const int rows = static_cast<int>(k), all = static_cast<int>(pixels);
    const int first = static_cast<int>(blockIdx.z * span);
    const int last = min(first + static_cast<int>(span), all);
    Lines<T, Tile::M, true> a(g, row, rows, first, last, ld);
    WindowColumns<T, Tile::N> b(x, v, column, first, last);
    typename Sum<T>::type* own = part + blockIdx.z * k * deep;
    const Matrix<typename Sum<T>::type, Bare> result{own, {}, row, column, rows, deep, deep};
    multiply<T, Tile, true>(a, b, result, last - first);
}
