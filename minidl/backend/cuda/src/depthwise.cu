// Depthwise convolution on channels-last arrays: y (n, oh, ow, k) = windows of x (n, h, w, c) times
// a weight for each tap and channel, w (r, s, c or k), plus a bias; and the gradient of w. A thread
// has PACK neighbouring channels, which are read at once, of TILE neighbouring columns. It reads x
// about once for each row of taps, GROUP of which meet it in registers; rows meet in L1: a block's
// threads are `lanes` packs by `across` tiles by `down` rows. Sums are Sum<T>. Bytes: x, w and y
// once, but for the edges where blocks meet.
#include "packs.cuh"
#include "sums.cuh"

// With several outputs a channel, `share`, k = share c; with several inputs an output, `fan`, c =
// fan k: the adjoint of the former. Row y's window begins at oh sh - ph of x spread out by `up`:
// only multiples of it exist. The horizontal stride, dilation and `up` are SW, DW and UP.
struct Depthwise {
    int n, h, w, c, oh, ow, k, r, s, sh, ph, pw, dh, up, share, fan, lanes, across, down;
};

template <int N, typename T>
__device__ Pack<T, N> pack_at(const T* from, bool there) {
    Words<T, N> words = {};
    if (there) words = load_words<N>(from);
    return words.pack();
}

// take(j, e, pack) for the packs of a row that TILE outputs meet with GROUP taps: output j and tap
// e at left + j SW + e DW of a row of `width` packs, spread out by UP, `apart` elements from one to
// the next. Each is read once.
template <int PACK, int TILE, int GROUP, int SW, int DW, int UP, typename T, typename Take>
__device__ void walk_row(const T* row, int left, int width, int apart, Take take) {
#pragma unroll
    for (int u = 0; u <= (TILE - 1) * SW + (GROUP - 1) * DW; u++) {
        bool met = false;
#pragma unroll
        for (int e = 0; e < GROUP; e++)
            met |= u >= e * DW && (u - e * DW) % SW == 0 && (u - e * DW) / SW < TILE;
        if (!met) continue;  // known to the compiler
        const int column = left + u, at = column / UP;
        const bool there = column >= 0 && at * UP == column && at < width;
        const Pack<T, PACK> pack = pack_at<PACK>(row + static_cast<long long>(at) * apart, there);
#pragma unroll
        for (int e = 0; e < GROUP; e++) {
            const int j = u - e * DW;
            if (j >= 0 && j % SW == 0 && j / SW < TILE) take(j / SW, e, pack);
        }
    }
}

// grid (rows, columns, channels), the last fastest, in one axis.
template <typename T, int PACK, int TILE, int GROUP, int SW, int DW, int UP>
__global__ void __launch_bounds__(256, 2)
    correlate(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias,
              T* __restrict__ y, const Depthwise v, long long channel_blocks, long long tile_blocks,
              long long biased) {
    typedef typename Sum<T>::type A;
    const long long lines = static_cast<long long>(v.n) * v.oh;
    const int tile = threadIdx.x / v.lanes % v.across, level = threadIdx.x / v.lanes / v.across;
    const long long line = blockIdx.x / channel_blocks / tile_blocks * v.down + level;
    const int k = (blockIdx.x % channel_blocks * v.lanes + threadIdx.x % v.lanes) * PACK;
    const int first = (blockIdx.x / channel_blocks % tile_blocks * v.across + tile) * TILE;
    if (line >= lines || k >= v.k || first >= v.ow) return;
    const int image = line / v.oh, row = line % v.oh;
    const long long weights = static_cast<long long>(v.share) * v.c;  // of a tap
    A sums[TILE][PACK];
#pragma unroll
    for (int p = 0; p < PACK; p++) {
        const A start = biased ? static_cast<A>(bias[k + p]) : A(0);
#pragma unroll
        for (int j = 0; j < TILE; j++) sums[j][p] = start;
    }
    for (int of = k * v.fan; of < (k + 1) * v.fan; of++) {
        for (int a = 0; a < v.r; a++) {
            const int top = row * v.sh - v.ph + a * v.dh, at = top / v.up;
            if (top < 0 || at * v.up != top || at >= v.h) continue;
            const T* from = x + (static_cast<long long>(image) * v.h + at) * v.w * v.c;
            for (int b = 0; b < v.s; b += GROUP) {
                const T* place = w + (a * v.s + b) * weights + of;
                Pack<T, PACK> taps[GROUP];
#pragma unroll
                for (int e = 0; e < GROUP; e++) taps[e] = pack_at<PACK>(place + e * weights, true);
                walk_row<PACK, TILE, GROUP, SW, DW, UP>(
                    from + of / v.share, first * SW - v.pw + b * DW, v.w, v.c,
                    [&](int j, int e, const Pack<T, PACK>& pack) {
#pragma unroll
                        for (int p = 0; p < PACK; p++)
                            sums[j][p] += static_cast<A>(taps[e].v[p]) * static_cast<A>(pack.v[p]);
                    });
            }
        }
    }
#pragma unroll
    for (int j = 0; j < TILE; j++) {
        if (first + j >= v.ow) break;
        Pack<T, PACK> result;
#pragma unroll
        for (int p = 0; p < PACK; p++) result.v[p] = static_cast<T>(sums[j][p]);
        store_pack(y + (line * v.ow + first + j) * v.k + k, result);
    }
}

// part (pieces, r, s, k) = sums of g x over pieces of g's tiles (n, oh, columns / TILE). A thread
// has DEEP x GROUP taps; a block `lanes` packs of channels by `across` such groups of taps by
// `down` slices of its piece, whose sums are joined in order. grid (channels, pieces, taps).
template <typename T, int PACK, int TILE, int DEEP, int GROUP, int SW, int DW>
__global__ void __launch_bounds__(256, 2)
    weight_grad(const T* __restrict__ g, const T* __restrict__ x,
                typename Sum<T>::type* __restrict__ part, const Depthwise v, long long piece) {
    typedef typename Sum<T>::type A;
    __shared__ A shared[256][PACK];
    const int apart = v.lanes * v.across, slice = threadIdx.x / apart;
    const int k = (blockIdx.x * v.lanes + threadIdx.x % v.lanes) * PACK;
    const int group = blockIdx.z * v.across + threadIdx.x / v.lanes % v.across;
    const int a = group / (v.s / GROUP) * DEEP, b = group % (v.s / GROUP) * GROUP;
    const bool inside = k < v.k && a < v.r;
    const int tiles = (v.ow + TILE - 1) / TILE;
    const long long all = static_cast<long long>(v.n) * v.oh * tiles, start = blockIdx.y * piece;
    const long long stop = !inside ? 0 : start + piece < all ? start + piece : all;
    A sums[DEEP][GROUP][PACK] = {};
    for (long long i = start + slice; i < stop; i += v.down) {
        const long long line = i / tiles;
        const int first = i % tiles * TILE, image = line / v.oh, row = line % v.oh;
        Pack<T, PACK> given[TILE];
        walk_row<PACK, TILE, 1, 1, 1, 1>(
            g + line * v.ow * v.k + k, first, v.ow, v.k,
            [&](int j, int, const Pack<T, PACK>& pack) { given[j] = pack; });
#pragma unroll
        for (int d = 0; d < DEEP; d++) {
            const int at = row * v.sh - v.ph + (a + d) * v.dh;
            if (at < 0 || at >= v.h) continue;
            const T* from = x + (static_cast<long long>(image) * v.h + at) * v.w * v.c;
            walk_row<PACK, TILE, GROUP, SW, DW, 1>(
                from + k / v.share, first * SW - v.pw + b * DW, v.w, v.c,
                [&](int j, int e, const Pack<T, PACK>& pack) {
#pragma unroll
                    for (int p = 0; p < PACK; p++)
                        sums[d][e][p] += static_cast<A>(given[j].v[p]) * static_cast<A>(pack.v[p]);
                });
        }
    }
#pragma unroll
    for (int d = 0; d < DEEP; d++) {
#pragma unroll
        for (int e = 0; e < GROUP; e++) {
#pragma unroll
            for (int p = 0; p < PACK; p++) shared[threadIdx.x][p] = sums[d][e][p];
            __syncthreads();
            if (slice == 0 && inside) {
                const long long tap =
                    (static_cast<long long>(blockIdx.y) * v.r + a + d) * v.s + b + e;
#pragma unroll
                for (int p = 0; p < PACK; p++) {
                    A sum = sums[d][e][p];
                    for (int q = 1; q < v.down; q++) sum += shared[q * apart + threadIdx.x][p];
                    part[tap * v.k + k + p] = sum;
                }
            }
            __syncthreads();
        }
    }
}
