// Convolution as a product, without a copy of its windows: forward, input and weight gradient.
// Arrays are channels-last, x (N, H, W, C), y (N, OH, OW, K), weights (K, R, S, C). The channels of
// what is read are a multiple of a chunk (16 bytes), so that a chunk lies within one pixel. Bytes:
// y once, x R S times through the caches.
#include "divisor.cuh"
#include "gemm.cuh"

// What is walked: windows of `in` (n, h, w, c) at the pixels of (n, oh, ow). Row y of a window's
// top is oh sh - ph + r dh, r < 127 and s < 127. Pixels of the result lie yn, yh and yw apart.
struct Windows {
    int n, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw;
    int ld;  // from one pixel to the next, more than c in a group
    int yn, yh, yw;
    Divisor by_ow, by_oh, by_c, by_s, by_dh, by_dw;

    __device__ bool within(int y, int x) const {
        return (static_cast<unsigned>(y) < static_cast<unsigned>(h)) &
               (static_cast<unsigned>(x) < static_cast<unsigned>(w));
    }
};

// A thread's chunk of K, for row tiles: a tap and a channel.
template <typename T, typename Tile>
struct Taps {
    const Windows& v;
    int k;
    unsigned met;  // r, -r, s and -s in four bytes, to be added
    int place;     // of the chunk in `in`, from the window's first pixel on
    bool inside;   // whether K has it

    __device__ explicit Taps(const Windows& v) : v(v), k(Share<T, Tile, Tile::M, false>::start()) {
        locate();
    }
    __device__ void locate() {
        const int tap = v.by_c.of(k), r = v.by_s.of(tap), s = tap - r * v.s;
        inside = r < v.r;
        met = static_cast<unsigned>(r) * 0xffffff01u + static_cast<unsigned>(s) * 0xff010000u;
        place = (r * v.dh * v.w + s * v.dw) * v.ld + k - tap * v.c;
    }
    __device__ void next() {
        k += Chunk<T>::DEEP;
        locate();
    }
};

// The first and the last tap t, up to 126, with 0 <= start + t apart < size, as the two bytes 128 -
// first and 128 + last: bit 7 of both remains set where (t, -t) is added to them, if t is between.
__device__ inline unsigned met_by(int start, Divisor apart, int size) {
    const int first = start < 0 ? apart.of(apart.d - 1 - start) : 0;
    const int last = start < size ? apart.of(size - 1 - start) : -1;
    return 128 - min(first, 127) + ((128 + min(last, 126)) << 8);
}

// The windows as a matrix (pixels of the result, R S C): Tile::M rows from `first` on.
template <typename T, typename Tile>
struct WindowRows {
    typedef Share<T, Tile, Tile::M, false> S;
    Taps<T, Tile>& taps;
    const T* in;               // where the first row's window begins,
    int at[S::SLOTS];          // and how far from there each one does: conv.py sees that it fits
    unsigned meets[S::SLOTS];  // met_by of its rows, and of its columns

    // Where the window of a pixel of the result begins: image, row, column, and pixel of x.
    struct Corner {
        int image, top, left, pixel;
        __device__ Corner(const Windows& v, int of) {
            const int line = v.by_ow.of(of);
            image = v.by_oh.of(line);
            top = (line - image * v.oh) * v.sh - v.ph;
            left = (of - line * v.ow) * v.sw - v.pw;
            pixel = (image * v.h + top) * v.w + left;
        }
    };

    __device__ WindowRows(const T* x, Taps<T, Tile>& taps, int first) : taps(taps) {
        const Windows& v = taps.v;
        const Corner origin(v, first);
        in = x + static_cast<long long>(origin.pixel) * v.ld;
#pragma unroll
        for (int slot = 0; slot < S::SLOTS; slot++) {
            const Corner own(v, first + S::row() + slot * S::STEP);
            at[slot] = (own.pixel - origin.pixel) * v.ld;
            meets[slot] = met_by(own.top, v.by_dh, own.image < v.n ? v.h : own.top) +
                          (met_by(own.left, v.by_dw, v.w) << 16);
        }
    }
    __device__ bool there(int slot) const {
        return taps.inside & ((~(meets[slot] + taps.met) & 0x80808080u) == 0);
    }
    __device__ const T* chunk(int slot) const { return in + (at[slot] + taps.place); }
    __device__ void next() { taps.next(); }
};

// Its transpose, for KMAJOR tiles: Tile::N of R S C from `first` on; K are pixels from k to `last`.
template <typename T, typename Tile>
struct WindowColumns {
    typedef Share<T, Tile, Tile::N, true> S;
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
        const long long y = static_cast<long long>(line - image * v.oh) * v.yh +
                            static_cast<long long>(pixel - line * v.ow) * v.yw;
        return this->out + static_cast<long long>(image) * v.yn + y + this->column;
    }
};

// y (pixels, K) = windows of x (pixels, R S C) times w (K, R S C) + bias. grid (pixels K) by Tile,
// those of a pixel side by side, so that its window is read while it is in L2.
template <typename T, typename Tile>
__global__ void __launch_bounds__(THREADS<T, Tile>, RESIDENT<T, Tile>)
    convolve(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias,
             T* __restrict__ y, const Windows v, long long pixels, long long k, long long biased) {
    const int rows = static_cast<int>(pixels), columns = static_cast<int>(k);
    const int deep = v.r * v.s * v.c;
    const int across = (columns + Tile::N - 1) / Tile::N, block = static_cast<int>(blockIdx.x);
    const int row = block / across * Tile::M, column = block % across * Tile::N;
    Taps<T, Tile> taps(v);
    WindowRows<T, Tile> a(x, taps, row);
    Lines<T, Tile, Tile::N, false> b(w, column, columns, 0, deep, deep);
    const AddBias<T> epilogue{biased ? bias : nullptr};
    const Pixels<T> result({y, epilogue, row, column, rows, columns, 0}, v);
    multiply<T, Tile, false>(a, b, result, deep);
}

// dw (K, C, R S) = the sum of part (splits, rows, R S channels) in order, rows and channels that
// are padding left out. A thread makes one of `count`.
template <typename T>
__global__ void __launch_bounds__(256)
    join_weight_grad(const typename Sum<T>::type* __restrict__ part, T* __restrict__ dw,
                     long long c, long long taps, long long channels, long long rows,
                     long long splits, long long count) {
    const long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
    if (i >= count) return;
    const unsigned at = static_cast<unsigned>(i), tap = at % static_cast<unsigned>(taps);
    const unsigned line = at / static_cast<unsigned>(taps), k = line / static_cast<unsigned>(c);
    part += (k * taps + tap) * channels + (line - k * static_cast<unsigned>(c));
    typename Sum<T>::type sum = 0;
    for (long long s = 0; s < splits; s++) sum += part[s * rows * taps * channels];
    dw[i] = static_cast<T>(sum);
}

// part (splits, K, R S C) = g (pixels, K), transposed, times windows of x (pixels, R S C), over
// some of the pixels each. grid (K, R S C) by Tile, then splits.
template <typename T, typename Tile>
__global__ void __launch_bounds__(THREADS<T, Tile>, RESIDENT<T, Tile>)
    convolve_weight_grad(const T* __restrict__ g, const T* __restrict__ x,
                         typename Sum<T>::type* __restrict__ part, const Windows v,
                         long long pixels, long long k, long long ld, long long span) {
    const int row = blockIdx.x * Tile::M, column = blockIdx.y * Tile::N, deep = v.r * v.s * v.c;
    const int rows = static_cast<int>(k), all = static_cast<int>(pixels);
    const int first = static_cast<int>(blockIdx.z * span);
    const int last = min(first + static_cast<int>(span), all);
    Lines<T, Tile, Tile::M, true> a(g, row, rows, first, last, ld);
    WindowColumns<T, Tile> b(x, v, column, first, last);
    typename Sum<T>::type* own = part + blockIdx.z * k * deep;
    const Matrix<typename Sum<T>::type, Bare> result{own, {}, row, column, rows, deep, deep};
    multiply<T, Tile, true>(a, b, result, last - first);
}
