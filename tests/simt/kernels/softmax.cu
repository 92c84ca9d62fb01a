// y (rows, columns) = softmax of x over its columns, one warp a row and four rows a block.
// Reads x three times, writes y once; sums are float.
__device__ __forceinline__ float warp_max(float v) {
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

__device__ __forceinline__ float warp_sum(float v) {
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

extern "C" __global__ void __launch_bounds__(32 * 4)
    softmax(const float* __restrict__ x, float* __restrict__ y, int rows, int columns) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (row >= rows) return;
    x += (size_t)row * columns;
    y += (size_t)row * columns;
    float most = __int_as_float(0xff800000), sum = 0.0f;
    for (int c = lane; c < columns; c += 32) most = fmaxf(most, x[c]);
    most = warp_max(most);
    for (int c = lane; c < columns; c += 32) sum += __expf(x[c] - most);
    const float scale = __frcp_rn(warp_sum(sum));
    for (int c = lane; c < columns; c += 32) y[c] = __expf(x[c] - most) * scale;
}
