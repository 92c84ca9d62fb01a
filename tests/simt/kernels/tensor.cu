// c (m, n) = a (m, k) b (k, n), row-major, 16-bit a and b, float c; k and n multiples of 8.
// A block of 4 warps makes a tile (64, 64), each warp (32, 32) of it, 32 of k at a time, from two
// stages in shared memory: cp.async fills one (zeros outside a and b) while tensor cores read the
// other. Sums are float.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "warpops.cuh"

#ifdef HALF
typedef __half scalar;
#define mma_m16n8k16 mma_m16n8k16_f16
#else
typedef __nv_bfloat16 scalar;
#define mma_m16n8k16 mma_m16n8k16_bf16
#endif

constexpr int BM = 64, BN = 64, BK = 32;
constexpr int LDA = BK + 8, LDB = BN + 8;  // rows of 80 and 144 bytes: ldmatrix without conflicts

__device__ __forceinline__ void load_stage(scalar* a_tile, scalar* b_tile, const scalar* a,
                                           const scalar* b, int m, int n, int k, int start) {
    for (int i = threadIdx.x; i < BM * BK / 8; i += 128) {
        const int r = i / (BK / 8), c = i % (BK / 8) * 8;
        const int row = blockIdx.y * BM + r, column = start + c;
        const bool inside = row < m && column < k;
        cp_async16(a_tile + r * LDA + c, inside ? a + (size_t)row * k + column : a,
                   inside ? 16 : 0);
    }
    for (int i = threadIdx.x; i < BK * BN / 8; i += 128) {
        const int r = i / (BN / 8), c = i % (BN / 8) * 8;
        const int row = start + r, column = blockIdx.x * BN + c;
        const bool inside = row < k && column < n;
        cp_async16(b_tile + r * LDB + c, inside ? b + (size_t)row * n + column : b,
                   inside ? 16 : 0);
    }
}

__device__ __forceinline__ void multiply_stage(float (&sum)[2][4][4], const scalar* a_tile,
                                               const scalar* b_tile, int warp_row, int warp_column,
                                               int lane) {
    for (int kk = 0; kk < BK; kk += 16) {
        unsigned af[2][4], bf[4][2];
        for (int i = 0; i < 2; i++) {
            ldmatrix_x4(af[i], a_tile + (warp_row + i * 16 + lane % 16) * LDA + kk + lane / 16 * 8);
        }
        for (int j = 0; j < 4; j++) {
            ldmatrix_x2_trans(bf[j], b_tile + (kk + lane % 16) * LDB + warp_column + j * 8);
        }
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < 4; j++) mma_m16n8k16(sum[i][j], af[i], bf[j]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(128)
    tensor_matmul(const scalar* __restrict__ a, const scalar* __restrict__ b, float* __restrict__ c,
                  int m, int n, int k) {
    extern __shared__ __align__(16) unsigned char memory[];
    scalar* a_tiles = (scalar*)memory;
    scalar* b_tiles = a_tiles + 2 * BM * LDA;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;
    float sum[2][4][4] = {};
    const int steps = (k + BK - 1) / BK;
    load_stage(a_tiles, b_tiles, a, b, m, n, k, 0);
    cp_async_commit();
    for (int step = 0; step < steps; step++) {
        const int next = (step + 1) % 2, now = step % 2;
        if (step + 1 < steps) {
            load_stage(a_tiles + next * BM * LDA, b_tiles + next * BK * LDB, a, b, m, n, k,
                       (step + 1) * BK);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();  // everyone's part of this stage is there
        multiply_stage(sum, a_tiles + now * BM * LDA, b_tiles + now * BK * LDB, warp_row,
                       warp_column, lane);
        __syncthreads();  // nobody reads the stage that is filled next
    }
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 4; j++) {
            const int row = blockIdx.y * BM + warp_row + i * 16 + lane / 4;
            const int column = blockIdx.x * BN + warp_column + j * 8 + lane % 4 * 2;
            for (int h = 0; h < 2; h++) {
                if (row + 8 * h < m && column < n) {
                    *(float2*)(c + (size_t)(row + 8 * h) * n + column) =
                        make_float2(sum[i][j][2 * h], sum[i][j][2 * h + 1]);
                }
            }
        }
    }
}
