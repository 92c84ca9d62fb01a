// Sum of x (n) added to out (1): shuffles within warps, shared memory between them, an atomic.
// Reads 4 n bytes; sums are float, in an order that depends on the grid.
extern "C" __global__ void __launch_bounds__(256)
    block_sum(const float* __restrict__ x, float* __restrict__ out, int n) {
    __shared__ float part[8];
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        sum += x[i];
    }
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.0f;
        for (int o = 4; o > 0; o >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, o, 8);
        if (threadIdx.x == 0) atomicAdd(out, sum);
    }
}
