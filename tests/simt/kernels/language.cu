// What CUDA C++ allows in kernels beyond the plain case: shared memory in templates and functions,
// several variables in one declaration, tables, structs as arguments, kernels from macros.
#include <cuda_fp16.h>

constexpr int WARPS = 4;
extern __shared__ __align__(16) unsigned char arena[];

__constant__ float weights[3] = {0.25f, 0.5f, 0.25f};
__device__ int calls = 0;

struct Scale {
    float factor, offset;
};

template <typename T, int N>
__device__ T block_max(T value) {
    __shared__ T part[N];  // N of T
    for (int o = 16; o > 0; o /= 2) value = max(value, __shfl_xor_sync(0xffffffffu, value, o));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    value = part[0];
    for (int w = 1; w < N; w++) value = max(value, part[w]);
    __syncthreads();
    return value;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
    two_maxima(const float* x, const int* k, float* x_max, int* k_max) {
    const float a = block_max<float, WARPS>(x[threadIdx.x]);
    const int b = block_max<int, WARPS>(k[threadIdx.x]);
    if (threadIdx.x == 0) {
        *x_max = a;
        *k_max = b;
        calls++;
    }
}

// y = x smoothed by weights, the ends repeated, then scaled.
extern "C" __global__ void smooth(const __half* x, __half* y, Scale scale, bool twice) {
    __shared__ float rows[2][64], first, last;
    __shared__ union {
        float f[64];
        int i[64];
    } both;
    float* const dynamic = reinterpret_cast<float*>(arena);
    const int t = threadIdx.x;
    rows[0][t] = __half2float(x[t]);
    both.f[t] = 0.0f;
    if (t == 0) first = __half2float(x[0]);
    if (t == 63) last = __half2float(x[63]);
    __syncthreads();
    for (int pass = 0; pass < 1 + twice; pass++) {
        const float* from = rows[pass];
        const float left = t > 0 ? from[t - 1] : first, right = t < 63 ? from[t + 1] : last;
        const float v = weights[0] * left + weights[1] * from[t] + weights[2] * right;
        if (pass == 0) rows[1][t] = v;
        dynamic[t] = v;
        __syncthreads();
    }
    y[t] = __float2half_rn(dynamic[t] * scale.factor + scale.offset + both.f[t]);
}

template <typename T>
__global__ void fill(T* x, T value, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = value;
}

#define UNARY(name, T, expression)                                      \
    extern "C" __global__ void name(const T* x, T* y, size_t n) {       \
        const size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; \
        if (i >= n) return;                                             \
        const T v = x[i];                                               \
        y[i] = expression;                                              \
    }
UNARY(square_float, float, v* v)
UNARY(square_double, double, v* v)

// Where each thread of each block is: its place in the order of the grid, at that place.
extern "C" __global__ void places(unsigned* out) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned size = blockDim.x * blockDim.y * blockDim.z;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[block * size + thread] = block * size + thread;
}

// The order in which threads get their ticket.
extern "C" __global__ void arrivals(unsigned* counter, unsigned* order) {
    order[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1u);
}

// Adds to every tensor of a table, one a block: multi-tensor kernels work so.
struct Row {
    float* data;
    long long n;
    double amount;
};

extern "C" __global__ void add_to_all(const Row* rows) {
    const Row row = rows[blockIdx.x];
    for (long long i = threadIdx.x; i < row.n; i += blockDim.x) row.data[i] += row.amount;
}

extern "C" __global__ void add_through_pointers(float* const* tensors, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) tensors[blockIdx.x][i] += 1.0f;
}
