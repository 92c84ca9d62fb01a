// c (m, n) = a (m, k) b (k, n), row-major, any sizes: one thread an element, square tiles of 16 in
// shared memory, bytes read 4 m n k / 8. Sums are float, in the order of k.
constexpr int TILE = 16;

extern "C" __global__ void matmul(const float* __restrict__ a, const float* __restrict__ b,
                                  float* __restrict__ c, int m, int n, int k) {
    __shared__ float a_tile[TILE][TILE], b_tile[TILE][TILE + 1];
    const int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
    float sum = 0.0f;
    for (int start = 0; start < k; start += TILE) {
        const int ka = start + threadIdx.x, kb = start + threadIdx.y;
        a_tile[threadIdx.y][threadIdx.x] = row < m && ka < k ? a[(size_t)row * k + ka] : 0.0f;
        b_tile[threadIdx.y][threadIdx.x] = kb < k && column < n ? b[(size_t)kb * n + column] : 0.0f;
        __syncthreads();
        for (int i = 0; i < TILE; i++) sum += a_tile[threadIdx.y][i] * b_tile[i][threadIdx.x];
        __syncthreads();
    }
    if (row < m && column < n) c[(size_t)row * n + column] = sum;
}
