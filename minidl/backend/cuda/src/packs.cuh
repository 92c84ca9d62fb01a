// Neighbouring elements that are read and written at once.
#pragma once

template <typename T, int WIDE>
struct alignas(WIDE * sizeof(T)) Pack {
    T v[WIDE];
};

template <int WIDE, typename T>
__device__ Pack<T, WIDE> load_pack(const T* at) {
    return *reinterpret_cast<const Pack<T, WIDE>*>(at);
}

template <int WIDE, typename T>
__device__ void store_pack(T* at, const Pack<T, WIDE>& pack) {
    *reinterpret_cast<Pack<T, WIDE>*>(at) = pack;
}
