// One block of 64 threads goes through what faults are put into: shared memory, a barrier, an
// exchange within each warp, atomics.
extern "C" __global__ void small(const float* x, float* y, int* counts) {
    __shared__ float tile[64], other[64];
    const int t = threadIdx.x;
    other[t] = 0.0f;
    tile[t] = x[t];
    __syncthreads();
    other[t] = tile[63 - t];
    __syncwarp();
    counts[t] = other[t ^ 1] > 0.0f;
    y[t] = x[t];
}
