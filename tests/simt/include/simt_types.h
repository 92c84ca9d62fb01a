// CUDA's vector types with the sizes and alignments of the CUDA C++ Programming Guide.
#pragma once

#define SIMT_VECTORS(T, base, align2, align4)                         \
    struct base##1 { T x; };                                          \
    struct alignas(align2) base##2 { T x, y; };                       \
    struct alignas(align4) base##4 { T x, y, z, w; };                 \
    static inline base##2 make_##base##2(T x, T y) { return {x, y}; } \
    static inline base##4 make_##base##4(T x, T y, T z, T w) { return {x, y, z, w}; }

#define SIMT_VECTOR3(T, base)      \
    struct base##3 { T x, y, z; }; \
    static inline base##3 make_##base##3(T x, T y, T z) { return {x, y, z}; }

SIMT_VECTORS(signed char, char, 2, 4)
SIMT_VECTORS(unsigned char, uchar, 2, 4)
SIMT_VECTORS(short, short, 4, 8)
SIMT_VECTORS(unsigned short, ushort, 4, 8)
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(unsigned, uint, 8, 16)
SIMT_VECTORS(long long, longlong, 16, 16)
SIMT_VECTORS(unsigned long long, ulonglong, 16, 16)
SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(double, double, 16, 16)
SIMT_VECTOR3(int, int)
SIMT_VECTOR3(float, float)
SIMT_VECTOR3(unsigned char, uchar)
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
