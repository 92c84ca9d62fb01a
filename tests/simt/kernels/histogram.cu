// Counts of the values of x (n), each below bins, added to counts (bins): a histogram of each block
// in shared memory, then one atomic operation a bin. Reads 4 n bytes.
extern "C" __global__ void histogram(const int* __restrict__ x, unsigned* __restrict__ counts,
                                     int n, int bins) {
    extern __shared__ unsigned own[];
    for (int b = threadIdx.x; b < bins; b += blockDim.x) own[b] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&own[x[i]], 1u);
    }
    __syncthreads();
    for (int b = threadIdx.x; b < bins; b += blockDim.x) {
        if (own[b]) atomicAdd(counts + b, own[b]);
    }
}
