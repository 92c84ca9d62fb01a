// What CUDA C++ has no word for: tensor-core products, ldmatrix, asynchronous copies (sm_80), and
// stores of 16 bytes.
#pragma once

#ifdef SIMT_EMULATOR  // the kernels are being run on a CPU by tests/simt
#include "simt_tensor.h"
#else

// d (16, 8) += a (16, 16) b (16, 8), or (16, 8) (8, 8) for tf32, by one warp. Sums are float. With
// lane = 4 g + t, d[i] is row g + 8 (i >> 1), column 2 t + (i & 1), and
//   16 bits: a[i] holds row g + 8 (i & 1), columns 2 t + 8 (i >> 1) and the next one,
//            b[i] holds rows 2 t + 8 i and the next one, column g;
//   tf32:    a[i] holds row g + 8 (i & 1), column t + 4 (i >> 1),
//            b[i] holds row t + 4 i, column g.
#define MINIDL_MMA_16(name, type)                                                          \
    __device__ __forceinline__ void name(float* d, const unsigned* a, const unsigned* b) { \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                \
                     ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"          \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                      \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));  \
    }
MINIDL_MMA_16(mma_m16n8k16_f16, "f16")
MINIDL_MMA_16(mma_m16n8k16_bf16, "bf16")

__device__ __forceinline__ void mma_m16n8k8_tf32(float* d, const unsigned* a, const unsigned* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Rounds to the nearest tf32 (ties away from zero), in the bits of a float.
__device__ __forceinline__ unsigned to_tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ unsigned shared_offset(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Loads 1, 2 or 4 matrices (8, 8) of 16 bits: lane 8 i + j gives the address of row j of matrix i
// (16 bytes, aligned). r[i] is row g, columns 2 t and 2 t + 1; transposed, rows 2 t and 2 t + 1,
// column g.
#define MINIDL_LDMATRIX(name, form, outputs, address, ...)                                        \
    __device__ __forceinline__ void name(unsigned* r, const void* row) {                          \
        asm volatile("ldmatrix.sync.aligned.m8n8." form ".shared.b16 " outputs ", [" address "];" \
                     : __VA_ARGS__                                                                \
                     : "r"(shared_offset(row))                                                    \
                     : "memory");                                                                 \
    }
MINIDL_LDMATRIX(ldmatrix_x1, "x1", "{%0}", "%1", "=r"(r[0]))
MINIDL_LDMATRIX(ldmatrix_x2, "x2", "{%0,%1}", "%2", "=r"(r[0]), "=r"(r[1]))
MINIDL_LDMATRIX(ldmatrix_x4, "x4", "{%0,%1,%2,%3}", "%4", "=r"(r[0]), "=r"(r[1]), "=r"(r[2]),
                "=r"(r[3]))
MINIDL_LDMATRIX(ldmatrix_x1_trans, "x1.trans", "{%0}", "%1", "=r"(r[0]))
MINIDL_LDMATRIX(ldmatrix_x2_trans, "x2.trans", "{%0,%1}", "%2", "=r"(r[0]), "=r"(r[1]))
MINIDL_LDMATRIX(ldmatrix_x4_trans, "x4.trans", "{%0,%1,%2,%3}", "%4", "=r"(r[0]), "=r"(r[1]),
                "=r"(r[2]), "=r"(r[3]))

// Starts to copy from global to shared memory, both aligned to the size; bytes from source_bytes on
// are zero, and with source_bytes 0 nothing is read. 16 bytes go past L1.
#define MINIDL_CP_ASYNC(name, cache, bytes)                                   \
    __device__ __forceinline__ void name(void* shared, const void* global,    \
                                         int source_bytes = bytes) {          \
        asm volatile("cp.async." cache ".shared.global [%0], [%1], " #bytes   \
                     ", %2;" ::"r"(shared_offset(shared)),                    \
                     "l"(__cvta_generic_to_global(global)), "r"(source_bytes) \
                     : "memory");                                             \
    }
MINIDL_CP_ASYNC(cp_async4, "ca", 4)
MINIDL_CP_ASYNC(cp_async8, "ca", 8)
MINIDL_CP_ASYNC(cp_async16, "cg", 16)

// Writes 16 bytes to global memory, both aligned. The compiler may not join the stores of a loop
// that moves its pointer on: without this, such a loop writes 4 bytes at a time.
__device__ __forceinline__ void store16(void* global, const void* from) {
    const unsigned* w = static_cast<const unsigned*>(from);
    asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(global)),
                 "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3])
                 : "memory");
}

// Closes a group of copies, which may be empty.
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for this thread's copies but the newest `groups` groups; the other threads see them after
// the next barrier.
template <int groups>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#endif
