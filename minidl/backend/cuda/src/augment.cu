// Training pictures from pixels in one pass, and blends of pairs of pictures. Pictures come out
// channels-last, (N, H, W, C). A thread block takes 256 V elements of one picture, a thread V that
// lie side by side: V is 4 where a picture's elements are a multiple of 4, so that they are written
// at once, else 1. Arithmetic is in float, in double for double. Bytes: every element is written
// once, and of the pixels those that are seen are read once (of both pictures, blending).
#include "sums.cuh"

template <typename U>
struct Real {
    typedef float type;
};
template <>
struct Real<double> {
    typedef double type;
};

template <typename U, int V>
struct alignas(sizeof(U) * V) Pack {
    U of[V];
};

// A place in a picture (h, w, c), its elements counted in that order.
struct Place {
    int row, column, channel;
    __device__ Place(int e, int w, int c) {
        row = e / (w * c);
        column = e / c - row * w;
        channel = e % c;
    }
    __device__ void step(int w, int c) {
        if (++channel < c) return;
        channel = 0;
        if (++column < w) return;
        column = 0;
        row++;
    }
};

// box: first row, first column, behind the last row, behind the last column.
__device__ inline bool inside(int4 box, int row, int column) {
    return row >= box.x && row < box.z && column >= box.y && column < box.w;
}

// x[n][row][column][channel] is `sample` n + `row` row + … elements from x's first. The pictures
// made are (h, w, c), `chunks` thread blocks each.
struct Pictures {
    long long sample, row, column, channel;
    int h, w, c, chunks, head, boxes;
};

// y[i][j] = x[top + i][left + step j] scale + shift where that place is inside of the picture's
// window, else `fill`; in boxes, of which the last counts, the box's value. The table holds scale,
// shift, fill and each box's value by channel, in the arithmetic's type; from its int `head` on for
// each picture (top, left, step, -), its window and its boxes.
template <typename T, typename U, int V>
__global__ void __launch_bounds__(256) augment(const T* __restrict__ x, U* __restrict__ y,
                                               const int* __restrict__ table, const Pictures v) {
    typedef typename Real<U>::type A;
    const int n = blockIdx.x / v.chunks, size = v.h * v.w * v.c;
    const int e = (blockIdx.x % v.chunks * 256 + threadIdx.x) * V;
    if (e >= size) return;
    const A* channels = reinterpret_cast<const A*>(table);
    const int4* own =
        reinterpret_cast<const int4*>(table + v.head) + static_cast<long long>(n) * (2 + v.boxes);
    const int4 from = own[0], window = own[1];
    Place at(e, v.w, v.c);
    Pack<U, V> made;
#pragma unroll
    for (int k = 0; k < V; k++) {
        const int row = from.x + at.row, column = from.y + from.z * at.column, c = at.channel;
        A value = channels[2 * v.c + c];
        if (inside(window, row, column)) {
            const T pixel = x[n * v.sample + row * v.row + column * v.column + c * v.channel];
            value = static_cast<A>(pixel) * channels[c] + channels[v.c + c];
        }
#pragma unroll 1
        for (int b = 0; b < v.boxes; b++) {
            if (inside(own[2 + b], at.row, at.column)) value = channels[(3 + b) * v.c + c];
        }
        made.of[k] = static_cast<U>(value);
        at.step(v.w, v.c);
    }
    *reinterpret_cast<Pack<U, V>*>(y + static_cast<long long>(n) * size + e) = made;
}

// What a picture is blended with: another one, its own share outside of the box, which is the
// other's, and its own share in its label.
struct Blend {
    int partner, unused;
    float share, label;
    int4 box;
};

// y[n] = x[n] share + x[partner] (1 - share) outside of the box, x[partner] in it; x (N, h, w, c),
// `chunks` thread blocks a picture.
template <typename T, typename U, int V>
__global__ void __launch_bounds__(256)
    blend(const T* __restrict__ x, U* __restrict__ y, const int* __restrict__ table, long long h,
          long long w, long long c, long long chunks) {
    typedef typename Real<U>::type A;
    const int n = blockIdx.x / static_cast<int>(chunks), size = h * w * c;
    const int e = (blockIdx.x % static_cast<int>(chunks) * 256 + threadIdx.x) * V;
    if (e >= size) return;
    const Blend own = reinterpret_cast<const Blend*>(table)[n];
    const T* mine = x + static_cast<long long>(n) * size + e;
    const T* other = x + static_cast<long long>(own.partner) * size + e;
    Place at(e, w, c);
    Pack<U, V> made;
#pragma unroll
    for (int k = 0; k < V; k++) {
        if (inside(own.box, at.row, at.column)) {
            made.of[k] = static_cast<U>(static_cast<A>(other[k]));
        } else if (own.share == 1.0f) {
            made.of[k] = static_cast<U>(static_cast<A>(mine[k]));
        } else {
            made.of[k] = static_cast<U>(static_cast<A>(mine[k]) * A(own.share) +
                                        static_cast<A>(other[k]) * A(1.0f - own.share));
        }
        at.step(w, c);
    }
    *reinterpret_cast<Pack<U, V>*>(y + static_cast<long long>(n) * size + e) = made;
}

// y[n][k] = label where k is picture n's label, plus 1 - label where it is its partner's. A thread
// takes one element of y (N, K).
extern "C" __global__ void __launch_bounds__(256)
    blend_labels(const long long* __restrict__ labels, const int* __restrict__ table,
                 float* __restrict__ y, long long classes, long long count) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= count) return;
    const long long n = i / classes, k = i % classes;
    const Blend own = reinterpret_cast<const Blend*>(table)[n];
    const float mine = labels[n] == k ? own.label : 0.0f;
    y[i] = mine + (labels[own.partner] == k ? 1.0f - own.label : 0.0f);
}
