// Ways of sharing memory that are right and must not be taken for races.

// sums (blocks): a tree in shared memory within one warp, by barriers of the warp alone.
extern "C" __global__ void warp_tree(const float* x, float* sums) {
    __shared__ float tree[32];
    const int lane = threadIdx.x;
    tree[lane] = x[blockIdx.x * 32 + lane];
    __syncwarp();
    for (int o = 16; o > 0; o /= 2) {
        if (lane < o) tree[lane] += tree[lane + o];
        __syncwarp();
    }
    if (lane == 0) sums[blockIdx.x] = tree[0];
}

// Each group of 8 lanes reverses its part of x, several times, at its own barriers; all read bias.
extern "C" __global__ void groups_reverse(float* x, float bias) {
    __shared__ float part[32], shift[2];
    const int lane = threadIdx.x, first = lane / 8 * 8;
    const unsigned group = 0xffu << first;
    if (lane == 0) shift[0] = bias;
    float v = x[lane];
    __syncwarp();
    for (int pass = 0; pass < 3 + lane / 8; pass++) {
        part[lane] = v;
        __syncwarp(group);
        v = part[first + 7 - lane % 8] + shift[0];
        __syncwarp(group);
    }
    __syncwarp();
    if (lane == 31) shift[0] = 0.0f;
    x[lane] = v;
}

// y (n) = sums of x's neighbours, `steps` times: two buffers, one barrier a step.
extern "C" __global__ void two_buffers(const float* x, float* y, int n, int steps) {
    __shared__ float buffers[2][128];
    const int t = threadIdx.x;
    buffers[0][t] = x[t];
    for (int step = 0; step < steps; step++) {
        __syncthreads();
        const float* from = buffers[step % 2];
        buffers[(step + 1) % 2][t] = from[t] + from[(t + 1) % n];
    }
    y[t] = buffers[steps % 2][t];
}

// y (blocks, n) rows: written by one half of a block, then read by the other, in global memory.
extern "C" __global__ void through_global(float* y, float* sums) {
    float* row = y + blockIdx.x * blockDim.x;
    row[threadIdx.x] = threadIdx.x;
    __syncthreads();
    atomicAdd(sums + blockIdx.x, row[blockDim.x - 1 - threadIdx.x]);
    __syncthreads();
    row[threadIdx.x] = sums[blockIdx.x];
}

// All threads write and fence, one takes the ticket: the last block sees what all have written.
extern "C" __global__ void all_fence(float* y, float* total, unsigned* counter) {
    __shared__ bool last;
    y[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(counter, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < gridDim.x * blockDim.x; i += blockDim.x) sum += y[i];
    atomicAdd(total, sum);
}

// Threads of a block write neighbouring bytes and halves of words.
extern "C" __global__ void narrow_neighbours(unsigned char* bytes, unsigned short* halves) {
    __shared__ unsigned char shared_bytes[64];
    shared_bytes[threadIdx.x] = threadIdx.x;
    bytes[threadIdx.x] = threadIdx.x;
    halves[threadIdx.x] = threadIdx.x;
    __syncthreads();
    bytes[threadIdx.x] += shared_bytes[63 - threadIdx.x];
}
