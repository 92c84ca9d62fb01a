// CUDA's arithmetic intrinsics. Fast approximations are computed accurately, as float.
#pragma once

// Keeps a product or sum from being contracted into an FMA, as the _rn intrinsics promise.
static inline float simt_rounded(float value) {
    asm("" : "+x"(value));
    return value;
}

static inline float __fadd_rn(float a, float b) { return simt_rounded(a + b); }
static inline float __fsub_rn(float a, float b) { return simt_rounded(a - b); }
static inline float __fmul_rn(float a, float b) { return simt_rounded(a * b); }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __frsqrt_rn(float a) { return static_cast<float>(1.0 / sqrt(double(a))); }
static inline float rsqrtf(float a) { return static_cast<float>(1.0 / sqrt(double(a))); }
static inline double rsqrt(double a) { return 1.0 / sqrt(a); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
static inline float normcdff(float a) { return 0.5f * erfcf(a * -0.70710678118654752f); }

static inline double __dadd_rn(double a, double b) {
    double sum = a + b;
    asm("" : "+x"(sum));
    return sum;
}
static inline double __dmul_rn(double a, double b) {
    double product = a * b;
    asm("" : "+x"(product));
    return product;
}
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
constexpr double SIMT_PI = 3.14159265358979323846;
static inline float sinpif(float a) { return float(sin(SIMT_PI * fmod(double(a), 2.0))); }
static inline float cospif(float a) { return float(cos(SIMT_PI * fmod(double(a), 2.0))); }
static inline void sincospif(float a, float* s, float* c) {
    *s = sinpif(a);
    *c = cospif(a);
}

// glibc declares functions of these names, so they are macros here.
#define __expf(a) expf(a)
#define __exp10f(a) exp10f(a)
#define __logf(a) logf(a)
#define __log2f(a) log2f(a)
#define __log10f(a) log10f(a)
#define __sinf(a) sinf(a)
#define __cosf(a) cosf(a)
#define __tanf(a) tanf(a)
#define __powf(a, b) powf(a, b)
#define __sincosf(a, s, c) sincosf(a, s, c)

static inline int __float_as_int(float a) { return simt::bit_cast<int>(a); }
static inline unsigned __float_as_uint(float a) { return simt::bit_cast<unsigned>(a); }
static inline float __int_as_float(int a) { return simt::bit_cast<float>(a); }
static inline float __uint_as_float(unsigned a) { return simt::bit_cast<float>(a); }
static inline long long __double_as_longlong(double a) { return simt::bit_cast<long long>(a); }
static inline double __longlong_as_double(long long a) { return simt::bit_cast<double>(a); }

// Conversions to integers saturate, and NaN gives 0, as cvt does.
template <class To, class From>
static inline To simt_saturate(From value, double low, double high) {
    return value != value  ? To(0)
           : value <= low  ? static_cast<To>(low)
           : value >= high ? static_cast<To>(high)
                           : static_cast<To>(value);
}
static inline int __float2int_rn(float a) {
    return simt_saturate<int>(nearbyint(double(a)), -2147483648.0, 2147483647.0);
}
static inline int __float2int_rz(float a) {
    return simt_saturate<int>(trunc(double(a)), -2147483648.0, 2147483647.0);
}
static inline int __float2int_rd(float a) {
    return simt_saturate<int>(floor(double(a)), -2147483648.0, 2147483647.0);
}
static inline int __float2int_ru(float a) {
    return simt_saturate<int>(ceil(double(a)), -2147483648.0, 2147483647.0);
}
static inline unsigned __float2uint_rn(float a) {
    return simt_saturate<unsigned>(nearbyint(double(a)), 0.0, 4294967295.0);
}
static inline unsigned __float2uint_rz(float a) {
    return simt_saturate<unsigned>(trunc(double(a)), 0.0, 4294967295.0);
}
static inline float __int2float_rn(int a) { return static_cast<float>(a); }
static inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
static inline float __ll2float_rn(long long a) { return static_cast<float>(a); }
static inline double __int2double_rn(int a) { return a; }
static inline double __uint2double_rn(unsigned a) { return a; }
static inline float __double2float_rn(double a) { return static_cast<float>(a); }

static inline int __popc(unsigned a) { return __builtin_popcount(a); }
static inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
static inline int __ffs(int a) { return __builtin_ffs(a); }
static inline int __ffsll(long long a) { return __builtin_ffsll(a); }
static inline int __clz(int a) { return a ? __builtin_clz(a) : 32; }
static inline int __clzll(long long a) { return a ? __builtin_clzll(a) : 64; }
static inline unsigned __brev(unsigned a) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (a >> bit & 1) << (31 - bit);
    return reversed;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    unsigned long long bytes = static_cast<unsigned long long>(b) << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> 4 * i, byte = bytes >> 8 * (nibble & 7) & 0xff;
        result |= (nibble & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << 8 * i;
    }
    return result;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    return both << (shift & 31) >> 32;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    return both >> (shift & 31);
}
static inline int __mulhi(int a, int b) { return static_cast<long long>(a) * b >> 32; }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned long long>(a) * b >> 32;
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned __int128>(a) * b >> 64;
}

#define SIMT_EXTREMA(T, A, B)       \
    static inline T min(A a, B b) { \
        T x = a, y = b;             \
        return x < y ? x : y;       \
    }                               \
    static inline T max(A a, B b) { \
        T x = a, y = b;             \
        return x > y ? x : y;       \
    }
SIMT_EXTREMA(int, int, int)
SIMT_EXTREMA(unsigned, unsigned, unsigned)
SIMT_EXTREMA(unsigned, int, unsigned)
SIMT_EXTREMA(unsigned, unsigned, int)
SIMT_EXTREMA(long, long, long)
SIMT_EXTREMA(unsigned long, unsigned long, unsigned long)
SIMT_EXTREMA(long long, long long, long long)
SIMT_EXTREMA(unsigned long long, unsigned long long, unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

// Cache hints mean nothing here.
template <class T>
static inline T __ldg(const T* p) {
    return *p;
}
template <class T>
static inline T __ldcs(const T* p) {
    return *p;
}
template <class T>
static inline T __ldcg(const T* p) {
    return *p;
}
template <class T>
static inline T __ldca(const T* p) {
    return *p;
}
template <class T>
static inline T __ldcv(const T* p) {
    return *p;
}
template <class T>
static inline void __stcs(T* p, T value) {
    *p = value;
}
template <class T>
static inline void __stcg(T* p, T value) {
    *p = value;
}
template <class T>
static inline void __stwb(T* p, T value) {
    *p = value;
}
template <class T>
static inline void __stwt(T* p, T value) {
    *p = value;
}
