// Each function of warpops.cuh alone, on fragments and addresses from memory.
#include "warpops.cuh"

#define MMA(name, product, a_count, b_count)                                          \
    extern "C" __global__ void name(const unsigned* a, const unsigned* b, float* d) { \
        float sum[4];                                                                 \
        for (int i = 0; i < 4; i++) sum[i] = d[4 * threadIdx.x + i];                  \
        product(sum, a + a_count * threadIdx.x, b + b_count * threadIdx.x);           \
        for (int i = 0; i < 4; i++) d[4 * threadIdx.x + i] = sum[i];                  \
    }
MMA(mma_f16, mma_m16n8k16_f16, 4, 2)
MMA(mma_bf16, mma_m16n8k16_bf16, 4, 2)
MMA(mma_tf32, mma_m16n8k8_tf32, 4, 2)

// memory (64, 8) in 16 bits goes to shared memory; lane l points at its row rows[l].
#define LOAD(name, load, count)                                                        \
    extern "C" __global__ void name(const unsigned short* memory, const int* rows,     \
                                    unsigned* out) {                                   \
        __shared__ __align__(16) unsigned short tile[64][8];                           \
        for (int i = threadIdx.x; i < 64 * 8; i += 32) tile[i / 8][i % 8] = memory[i]; \
        __syncthreads();                                                               \
        unsigned r[count];                                                             \
        load(r, tile[rows[threadIdx.x]]);                                              \
        for (int i = 0; i < count; i++) out[count * threadIdx.x + i] = r[i];           \
    }
LOAD(load_x1, ldmatrix_x1, 1)
LOAD(load_x2, ldmatrix_x2, 2)
LOAD(load_x4, ldmatrix_x4, 4)
LOAD(load_x1_trans, ldmatrix_x1_trans, 1)
LOAD(load_x2_trans, ldmatrix_x2_trans, 2)
LOAD(load_x4_trans, ldmatrix_x4_trans, 4)

// Thread i copies i bytes of its `bytes`.
#define COPY(name, copy, bytes)                                                 \
    extern "C" __global__ void name(const unsigned char* x, unsigned char* y) { \
        __shared__ __align__(16) unsigned char tile[(bytes + 1) * bytes];       \
        copy(tile + bytes * threadIdx.x, x + bytes * threadIdx.x, threadIdx.x); \
        cp_async_commit();                                                      \
        cp_async_wait<0>();                                                     \
        for (int i = 0; i < bytes; i++) {                                       \
            y[bytes * threadIdx.x + i] = tile[bytes * threadIdx.x + i];         \
        }                                                                       \
    }
COPY(copy_4, cp_async4, 4)
COPY(copy_8, cp_async8, 8)
COPY(copy_16, cp_async16, 16)

// Thread i stores words 4 i to 4 i + 3.
extern "C" __global__ void store_16(const unsigned* x, unsigned* y) {
    unsigned own[4];
    for (int i = 0; i < 4; i++) own[i] = x[4 * threadIdx.x + i];
    store16(y + 4 * threadIdx.x, own);
}
