// half and bfloat16: storage, conversions that round to nearest even, arithmetic through float.
#pragma once

namespace simt {

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast between types of different size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline unsigned short half_bits(float value) {
    unsigned u = bit_cast<unsigned>(value), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) return 0x7fff;  // the canonical NaN of cvt.rn.f16.f32
    if (u >= 0x47800000) return sign | 0x7c00;
    if (u < 0x38800000) {  // subnormal: adding 0.5 aligns its last bit with that of a float
        return sign | (bit_cast<unsigned>(bit_cast<float>(u) + 0.5f) - 0x3f000000);
    }
    u += 0xfff + (u >> 13 & 1);
    return sign | (u - 0x38000000) >> 13;
}

inline float half_value(unsigned short bits) {
    unsigned sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fff;
    if (magnitude >= 0x7c00) return bit_cast<float>(sign | 0x7f800000 | magnitude << 13);
    float value =
        magnitude < 0x400 ? magnitude * 0x1p-24f : bit_cast<float>((magnitude << 13) + 0x38000000);
    return bit_cast<float>(bit_cast<unsigned>(value) | sign);
}

inline unsigned short bfloat16_bits(float value) {
    unsigned u = bit_cast<unsigned>(value);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;  // as cvt.rn.bf16.f32
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

inline float bfloat16_value(unsigned short bits) {
    return bit_cast<float>(static_cast<unsigned>(bits) << 16);
}

}  // namespace simt

#define SIMT_NARROW_FLOAT(Type, Pair, to_bits, to_value)                                        \
    struct Type {                                                                               \
        unsigned short __x;                                                                     \
        Type() = default;                                                                       \
        Type(float value) : __x(to_bits(value)) {}                                              \
        Type(double value) : __x(to_bits(static_cast<float>(value))) {}                         \
        Type(int value) : __x(to_bits(static_cast<float>(value))) {}                            \
        operator float() const { return to_value(__x); }                                        \
    };                                                                                          \
    struct alignas(4) Pair {                                                                    \
        Type x, y;                                                                              \
        Pair() = default;                                                                       \
        Pair(Type x_, Type y_) : x(x_), y(y_) {}                                                \
    };                                                                                          \
    static inline Type operator+(Type a, Type b) { return float(a) + float(b); }                \
    static inline Type operator-(Type a, Type b) { return float(a) - float(b); }                \
    static inline Type operator*(Type a, Type b) { return float(a) * float(b); }                \
    static inline Type operator/(Type a, Type b) { return float(a) / float(b); }                \
    static inline Type operator-(Type a) { return -float(a); }                                  \
    static inline Type& operator+=(Type& a, Type b) { return a = a + b; }                       \
    static inline Type __hadd(Type a, Type b) { return a + b; }                                 \
    static inline Type __hsub(Type a, Type b) { return a - b; }                                 \
    static inline Type __hmul(Type a, Type b) { return a * b; }                                 \
    static inline Type __hdiv(Type a, Type b) { return a / b; }                                 \
    static inline Type __hneg(Type a) { return -a; }                                            \
    static inline Type __habs(Type a) { return fabsf(a); }                                      \
    static inline Type __hfma(Type a, Type b, Type c) { return fmaf(a, b, c); }                 \
    static inline Type __hmax(Type a, Type b) { return fmaxf(a, b); }                           \
    static inline Type __hmin(Type a, Type b) { return fminf(a, b); }                           \
    static inline bool __hlt(Type a, Type b) { return float(a) < float(b); }                    \
    static inline bool __hgt(Type a, Type b) { return float(a) > float(b); }                    \
    static inline bool __heq(Type a, Type b) { return float(a) == float(b); }                   \
    static inline bool __hisnan(Type a) { return float(a) != float(a); }                        \
    static inline Pair __hadd2(Pair a, Pair b) { return {a.x + b.x, a.y + b.y}; }               \
    static inline Pair __hsub2(Pair a, Pair b) { return {a.x - b.x, a.y - b.y}; }               \
    static inline Pair __hmul2(Pair a, Pair b) { return {a.x * b.x, a.y * b.y}; }               \
    static inline Pair __hmax2(Pair a, Pair b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; } \
    static inline Pair __hfma2(Pair a, Pair b, Pair c) {                                        \
        return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                                  \
    }                                                                                           \
    static inline float __low2float(Pair a) { return a.x; }                                     \
    static inline float __high2float(Pair a) { return a.y; }

SIMT_NARROW_FLOAT(__half, __half2, simt::half_bits, simt::half_value)
SIMT_NARROW_FLOAT(__nv_bfloat16, __nv_bfloat162, simt::bfloat16_bits, simt::bfloat16_value)
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline float __half2float(__half a) { return a; }
static inline __half __float2half(float a) { return a; }
static inline __half __float2half_rn(float a) { return a; }
static inline unsigned short __half_as_ushort(__half a) { return a.__x; }
static inline __half __ushort_as_half(unsigned short a) { return simt::bit_cast<__half>(a); }
static inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
static inline __half2 __float2half2_rn(float x) { return {x, x}; }
static inline __half2 __half2half2(__half x) { return {x, x}; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 make_half2(__half x, __half y) { return {x, y}; }
static inline float2 __half22float2(__half2 a) { return {a.x, a.y}; }
static inline __half2 __float22half2_rn(float2 a) { return {a.x, a.y}; }
static inline __half __low2half(__half2 a) { return a.x; }
static inline __half __high2half(__half2 a) { return a.y; }

static inline float __bfloat162float(__nv_bfloat16 a) { return a; }
static inline __nv_bfloat16 __float2bfloat16(float a) { return a; }
static inline __nv_bfloat16 __float2bfloat16_rn(float a) { return a; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return a.__x; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short a) {
    return simt::bit_cast<__nv_bfloat16>(a);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
static inline __nv_bfloat162 __float2bfloat162_rn(float x) { return {x, x}; }
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 a) { return {a.x, a.y}; }
static inline __nv_bfloat162 __float22bfloat162_rn(float2 a) { return {a.x, a.y}; }
