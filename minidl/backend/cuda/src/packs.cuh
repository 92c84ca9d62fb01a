// Neighbouring elements that are read and written at once.
#pragma once
#include "warpops.cuh"

template <typename T, int WIDE>
struct alignas(WIDE * sizeof(T)) Pack {
    T v[WIDE];
};

template <int WIDE, typename T>
__device__ Pack<T, WIDE> load_pack(const T* at) {
    return *reinterpret_cast<const Pack<T, WIDE>*>(at);
}

// A pack as it is on its way. An element of 16 bits has a register of its own, so that where paths
// meet, behind a condition or at the end of a loop, the compiler takes a pack apart and waits for
// it; words of 32 bits stay as they come.
template <typename T, bool NARROW>
struct Word {
    typedef T type;
};
template <typename T>
struct Word<T, true> {
    typedef unsigned type;
};

template <typename T, int WIDE>
struct alignas(WIDE * sizeof(T)) Words {
    static constexpr int BYTES = WIDE * sizeof(T);
    typedef typename Word<T, sizeof(T) < 4 && BYTES % 4 == 0>::type W;
    W v[BYTES / sizeof(W)];
    __device__ Pack<T, WIDE> pack() const { return *reinterpret_cast<const Pack<T, WIDE>*>(this); }
};

template <int WIDE, typename T>
__device__ Words<T, WIDE> load_words(const T* at) {
    return *reinterpret_cast<const Words<T, WIDE>*>(at);
}

template <int WIDE, typename T>
__device__ void store_pack(T* at, const Pack<T, WIDE>& pack) {
    if constexpr (sizeof(pack) % 16) {
        *reinterpret_cast<Pack<T, WIDE>*>(at) = pack;
    } else {
#pragma unroll
        for (int i = 0; i < WIDE; i += 16 / sizeof(T)) store16(at + i, pack.v + i);
    }
}
