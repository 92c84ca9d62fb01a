// y (n) = x (n): four elements a thread as one vector, the tail one by one. Moves 8 n bytes.
#include "warpops.cuh"

extern "C" __global__ void copy(const float* __restrict__ x, float* __restrict__ y, int n) {
    const int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (i + 4 <= n) {
        const float4 four = *reinterpret_cast<const float4*>(x + i);
        store16(y + i, &four);
    } else {
        for (int j = i; j < n; j++) y[j] = x[j];
    }
}
