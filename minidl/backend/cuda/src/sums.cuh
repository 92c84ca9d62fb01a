// Sums and maxima over a warp or a block, and the type that sums of T are kept in.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T>
struct Sum {
    typedef long long type;
};
template <>
struct Sum<float> {
    typedef float type;
};
template <>
struct Sum<__half> {
    typedef float type;
};
template <>
struct Sum<__nv_bfloat16> {
    typedef float type;
};
template <>
struct Sum<double> {
    typedef double type;
};

struct Add {
    template <typename A>
    __device__ static A of(A a, A b) {
        return a + b;
    }
};

struct Max {  // NaN wins
    template <typename A>
    __device__ static A of(A a, A b) {
        return a > b || a != a ? a : b;
    }
};

// The value of all lanes joined, in every lane: in pairs, the same way in each of them.
template <typename Join, typename A>
__device__ A join_warp(A value) {
    for (int apart = 16; apart; apart /= 2) {
        value = Join::of(value, __shfl_xor_sync(0xffffffff, value, apart));
    }
    return value;
}

// The value of all threads of a block of THREADS joined, in every thread. Ends with a barrier
// behind it, so that it can be called again.
template <typename Join, int THREADS, typename A>
__device__ A join_block(A value) {
    __shared__ A warps[THREADS / 32];
    value = join_warp<Join>(value);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = warps[0];
    for (int w = 1; w < THREADS / 32; w++) value = Join::of(value, warps[w]);
    __syncthreads();
    return value;
}
