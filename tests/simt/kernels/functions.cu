// Every arithmetic function that the emulator has, once: NVRTC must know the same names.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

extern "C" __global__ void float_functions(const float* x, float* out, int n) {
    const int i = threadIdx.x;
    const float v = x[i];
    float *o = out + i, s, c;
    int row = 0;
#define PUT(expression) o[n * row++] = expression
    PUT(__expf(v));
    PUT(__logf(v));
    PUT(__log2f(v));
    PUT(__log10f(v));
    PUT(__sinf(v));
    PUT(__cosf(v));
    PUT(__powf(v, 1.5f));
    PUT(__fdividef(1.0f, v));
    PUT(__frcp_rn(v));
    PUT(__fsqrt_rn(v));
    PUT(__frsqrt_rn(v));
    PUT(rsqrtf(v));
    PUT(__saturatef(v - 1.0f));
    PUT(normcdff(v));
    PUT(__fadd_rn(v, 1.0f));
    PUT(__fsub_rn(v, 1.0f));
    PUT(__fmul_rn(v, v));
    PUT(__fdiv_rn(v, 3.0f));
    PUT(__fmaf_rn(v, v, 1.0f));
    PUT(fmaf(v, v, 1.0f));
    PUT(exp2f(v));
    PUT(expm1f(v));
    PUT(log1pf(v));
    PUT(tanhf(v));
    PUT(erff(v));
    PUT(sinpif(v));
    PUT(cospif(v));
    sincospif(v, &s, &c);
    PUT(s + c);
    __sincosf(v, &s, &c);
    PUT(s + c);
    PUT(fmaxf(v, 1.0f));
    PUT(fminf(v, 1.0f));
    PUT(max(v, 1.0f));
    PUT(min(v, 1.0f));
    PUT(isnan(v) || isinf(v) ? 0.0f : fabsf(v));
    PUT(copysignf(v, -1.0f));
    PUT(exp(v));
    PUT(sqrt(v));
    PUT(abs(-v));
}

extern "C" __global__ void other_functions(const float* x, long long* out, int n) {
    const int i = threadIdx.x;
    const float v = x[i];
    long long* o = out + i;
    int row = 0;
    PUT(__float_as_int(v));
    PUT(__float_as_uint(v));
    PUT(__float_as_int(__int_as_float(7)));
    PUT(__float_as_uint(__uint_as_float(9u)));
    PUT(__double_as_longlong((double)v));
    PUT(__longlong_as_double(__double_as_longlong(5.0)) == 5.0);
    PUT(__float2int_rn(v));
    PUT(__float2int_rz(v));
    PUT(__float2int_rd(v));
    PUT(__float2int_ru(v));
    PUT(__float2uint_rn(v));
    PUT(__float2uint_rz(v));
    PUT(__int2float_rn(i) == __uint2float_rn(i));
    PUT(__ll2float_rn(i) == __double2float_rn(__int2double_rn(i)));
    PUT(__uint2double_rn(i) == __dadd_rn(i, 0.0));
    PUT(__fma_rn(2.0, 3.0, 1.0) == __dmul_rn(7.0, 1.0));
    PUT(rsqrt(4.0) == 0.5);
    PUT(__popcll(5ll) + __ffsll(8ll) + __clzll(1ll));
    PUT(__mulhi(1 << 30, 8) + __umul64hi(1ull << 63, 4ull));
    PUT(__funnelshift_r(0x80000000u, 1u, 31));
    PUT(max(i, 3) + min(3u, (unsigned)i) + max(1ll, 2ll) + min(1ull, 2ull));
    PUT(__ldg(x) + __ldcs(x) + __ldcg(x) + __ldca(x) + __ldcv(x) > 0.0f);
}

template <typename T, typename T2>
__device__ int narrow_functions(T a, T b, T2 p, T2 q) {
    float sum = (float)__hadd(a, b) + (float)__hsub(a, b) + (float)__hmul(a, b);
    sum += (float)__hdiv(a, b) + (float)__hneg(a) + (float)__habs(a) + (float)__hfma(a, b, a);
    sum += (float)__hmax(a, b) + (float)__hmin(a, b);
    sum += __hlt(a, b) + __hgt(a, b) + __heq(a, b) + __hisnan(a);
    const T2 r = __hfma2(__hadd2(p, q), __hsub2(p, q), __hmax2(__hmul2(p, q), p));
    return (int)(sum + __low2float(r) + __high2float(r));
}

extern "C" __global__ void narrow(int* out) {
    __half2 h = __floats2half2_rn(1.0f, 2.0f);
    __nv_bfloat162 w = __floats2bfloat162_rn(1.0f, 2.0f);
    out[0] = narrow_functions(__float2half_rn(3.0f), __float2half(2.0f), h, __float2half2_rn(2.0f));
    out[1] = narrow_functions(__float2bfloat16_rn(3.0f), __float2bfloat16(2.0f), w,
                              __float2bfloat162_rn(2.0f));
    h = __halves2half2(__low2half(h), __high2half(h));
    const float2 f = __half22float2(__float22half2_rn(make_float2(3.0f, 4.0f)));
    const float2 g = __bfloat1622float2(__float22bfloat162_rn(make_float2(5.0f, 6.0f)));
    out[2] = __half_as_ushort(__ushort_as_half(7)) + __bfloat16_as_ushort(__ushort_as_bfloat16(8));
    out[3] = f.x + f.y + g.x + g.y + __low2float(h) + __high2float(__half2half2(h.x));
}

extern "C" __global__ void stores(float* out) {
    __stcs(out, 1.0f);
    __stcg(out + 1, 2.0f);
    __stwb(out + 2, 3.0f);
    __stwt(out + 3, 4.0f);
}
