// Shuffles, votes, reductions, atomics and integer intrinsics, each written to memory.
#include <cuda_fp16.h>

extern "C" __global__ void shuffles(const int* x, int* out, int amount, int width) {
    const int lane = threadIdx.x, v = x[lane];
    out[lane] = __shfl_sync(~0u, v, amount, width);
    out[32 + lane] = __shfl_up_sync(~0u, v, amount, width);
    out[64 + lane] = __shfl_down_sync(~0u, v, amount, width);
    out[96 + lane] = __shfl_xor_sync(~0u, v, amount, width);
}

extern "C" __global__ void votes(const int* x, int* out) {
    const int v = x[threadIdx.x];
    int* mine = out + 9 * threadIdx.x;
    mine[0] = __ballot_sync(~0u, v > 0);
    mine[1] = __any_sync(~0u, v > 0);
    mine[2] = __all_sync(~0u, v > 0);
    mine[3] = __match_any_sync(~0u, v);
    mine[4] = __reduce_add_sync(~0u, v);
    mine[5] = __reduce_min_sync(~0u, v);
    mine[6] = __reduce_max_sync(~0u, v);
    mine[7] = __syncthreads_count(v > 0);
    mine[8] = __syncthreads_and(v > 0);
}

extern "C" __global__ void atomics(const int* x, int* ints, float* floats,
                                   unsigned long long* longs, __half2* halves) {
    const int v = x[blockIdx.x * blockDim.x + threadIdx.x];
    atomicAdd(ints, v);
    atomicMax(ints + 1, v);
    atomicMin(ints + 2, v);
    atomicAnd(ints + 3, v);
    atomicOr(ints + 4, v);
    atomicXor(ints + 5, v);
    atomicExch(ints + 6, v);
    for (int seen = 7, old; (old = atomicCAS(ints + 7, seen, seen + 1)) != seen; seen = old) {
    }
    atomicSub(ints + 8, v);
    atomicAdd(floats, (float)v);
    atomicAdd(longs, (unsigned long long)v);
    atomicAdd(halves, __floats2half2_rn(1.0f, 2.0f));
}

extern "C" __global__ void integers(const unsigned* x, unsigned* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned v = x[i];
    out[7 * i] = __popc(v);
    out[7 * i + 1] = __ffs(v);
    out[7 * i + 2] = __clz(v);
    out[7 * i + 3] = __brev(v);
    out[7 * i + 4] = __umulhi(v, 0x9e3779b9u);
    out[7 * i + 5] = __byte_perm(v, 0, 0x0123);
    out[7 * i + 6] = __funnelshift_l(v, v, 7);
}
