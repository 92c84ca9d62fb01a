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

// The windows as a matrix (pixels of the result, R S C), a chunk of it at a time.
template <typename T>
struct WindowMatrix {
    const T* in;
    const Windows& v;

    __device__ const T* any() const { return in; }
    __device__ void locate(int pixel, int* at) const {  // image (or -1), top, left
        const int line = v.by_ow.of(pixel), image = v.by_oh.of(line);
        at[0] = image < v.n ? image : -1;
        at[1] = (line - image * v.oh) * v.sh - v.ph;
        at[2] = (pixel - line * v.ow) * v.sw - v.pw;
    }
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

// Its SIDE rows from `first` on, for row tiles: those that this thread copies are located once.
template <typename T, int SIDE>
struct WindowRows : WindowMatrix<T> {
    int place[SIDE / 64][3];

    __device__ WindowRows(const T* in, const Windows& v, int first) : WindowMatrix<T>{in, v} {
        for (int slot = 0; slot < SIDE / 64; slot++) {
            this->locate(first + threadIdx.x / 4 + slot * 64, place[slot]);
        }
    }
    __device__ const T* chunk(int slot, int row, int k) const {
        return this->window(place[slot], k);
    }
};

// Its transpose, for KMAJOR tiles: `row` counts R S C from `first` on, k counts pixels.
template <typename T>
struct WindowColumns : WindowMatrix<T> {
    int first;
    __device__ WindowColumns(const T* in, const Windows& v, int first)
        : WindowMatrix<T>{in, v}, first(first) {}
    __device__ const T* chunk(int slot, int row, int k) const {
        int at[3];
        this->locate(k, at);
        return this->window(at, first + row);
    }
};

// y (pixels, K) = windows of x (pixels, R S C) times w (K, R S C) + bias. grid (pixels, K) by Tile.
template <typename T, typename Tile>
__global__ void __launch_bounds__(256, RESIDENT<T, Tile>)
    convolve(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias,
             T* __restrict__ y, const Windows v, long long pixels, long long k, long long ld,
             long long biased) {
    const int row = blockIdx.x * Tile::M, column = blockIdx.y * Tile::N, deep = v.r * v.s * v.c;
    const int rows = static_cast<int>(pixels), columns = static_cast<int>(k);
    WindowRows<T, Tile::M> a(x, v, row);
    Rows<T> b{w, column, columns, deep, deep};
    const AddBias<T> epilogue{biased ? bias : nullptr};
    const Matrix<T, AddBias<T>> result{y, epilogue, row, column, rows, columns, ld};
    multiply<T, Tile, false>(a, b, result, 0, deep);
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
    const long long first = blockIdx.z * span, last = first + span < all ? first + span : all;
    Columns<T> a{g, row, rows, all, ld};
    WindowColumns<T> b(x, v, column);
    typename Sum<T>::type* own = part + blockIdx.z * k * deep;
    const Matrix<typename Sum<T>::type, Bare> result{own, {}, row, column, rows, deep, deep};
    multiply<T, Tile, true>(a, b, result, static_cast<int>(first), static_cast<int>(last));
}
