// Atomic operations on global and shared memory.
#pragma once

namespace simt {

template <class T>
struct Same {
    using type = T;
};
template <class T>
using Plain = typename Same<T>::type;  // a parameter from which T is not deduced

template <class T, class Update>
inline T atomic(T* address, Place at, Update update) {
    T old;
    atomic_load(address, &old, sizeof old, at);
    T next = update(old);
    atomic_store(address, &next, sizeof next);
    return old;
}

}  // namespace simt

#define SIMT_ATOMIC(name, expression)                                                    \
    template <class T>                                                                   \
    static inline T name(T* address, simt::Plain<T> value, simt::Place at = SIMT_HERE) { \
        return simt::atomic(address, at, [=](T old) -> T { return expression; });        \
    }
SIMT_ATOMIC(atomicExch, value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicMin, value < old ? value : old)
SIMT_ATOMIC(atomicMax, value > old ? value : old)
SIMT_ATOMIC(atomicAnd, old& value)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicXor, old ^ value)
SIMT_ATOMIC(atomicInc, old >= value ? T(0) : T(old + 1))
SIMT_ATOMIC(atomicDec, old == 0 || old > value ? value : T(old - 1))

template <class T>
static inline T simt_sum(T a, T b) {
    return a + b;
}
static inline __half2 simt_sum(__half2 a, __half2 b) { return __hadd2(a, b); }
static inline __nv_bfloat162 simt_sum(__nv_bfloat162 a, __nv_bfloat162 b) { return __hadd2(a, b); }
static inline float2 simt_sum(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }
static inline float4 simt_sum(float4 a, float4 b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
SIMT_ATOMIC(atomicAdd, simt_sum(old, value))

template <class T>
static inline T atomicCAS(T* address, simt::Plain<T> compare, simt::Plain<T> value,
                          simt::Place at = SIMT_HERE) {
    return simt::atomic(address, at, [=](T old) -> T { return old == compare ? value : old; });
}
