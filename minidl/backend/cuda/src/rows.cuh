// Rows of n elements in the registers of teams of threads: a team, a warp or a block, takes one row
// in packs of 16 bytes, neighbouring threads neighbouring packs, and asks for all of them before it
// uses the first. Kernels are bound to two blocks a multiprocessor, without which the compiler
// spills registers for the sake of more blocks.
#pragma once
#include "packs.cuh"
#include "sums.cuh"

// Packs of WIDE elements (1 where rows do not start at multiples of 16 bytes), EACH elements a
// thread at a time, TEAM threads a row. HELD: a team has the whole row at once, and reads it once;
// else it reads part by part, again in each walk over the row.
template <int WIDE_, int EACH_, int TEAM_, bool HELD_>
struct Cut {
    static constexpr int WIDE = WIDE_, EACH = EACH_, TEAM = TEAM_, PACKS = EACH / WIDE;
    static constexpr bool HELD = HELD_;
    // The row that this thread's team takes; where its p-th pack of a part starts.
    __device__ static long long row() { return blockIdx.x * (256LL / TEAM) + threadIdx.x / TEAM; }
    __device__ static int place(int p) {
        return (p * TEAM + static_cast<int>(threadIdx.x) % TEAM) * WIDE;
    }
};

// The elements of a row, or of a part of it, that one thread has.
template <typename T, typename C>
struct Row {
    typedef typename Sum<T>::type A;
    const T* at;
    A v[C::EACH];
    __device__ Row(const T* row, long long n) : at(row) {
        if (C::HELD) load(0, n);
    }
    __device__ void load(long long start, long long n) {
        Pack<T, C::WIDE> packs[C::PACKS];
#pragma unroll
        for (int p = 0; p < C::PACKS; p++) {
            if (start + C::place(p) < n) packs[p] = load_pack<C::WIDE>(at + start + C::place(p));
        }
#pragma unroll
        for (int k = 0; k < C::EACH; k++) v[k] = static_cast<A>(packs[k / C::WIDE].v[k % C::WIDE]);
    }
};

// take(k, j) for every pack of rows of n elements that this thread has: elements j, j + 1, … are
// v[k], v[k + 1], … of each row.
template <typename C, typename Take, typename... Rows>
__device__ void walk(long long n, Take take, Rows&... rows) {
    for (long long start = 0; start < (C::HELD ? 1 : n); start += C::TEAM * C::EACH) {
        if (!C::HELD) (rows.load(start, n), ...);
#pragma unroll
        for (int p = 0; p < C::PACKS; p++) {
            if (start + C::place(p) < n) take(p * C::WIDE, start + C::place(p));
        }
    }
}

// y[j] = value(k) for every element j of a row of y that this thread has: v[k] of each other row.
template <typename C, typename T, typename Value, typename... Rows>
__device__ void write_row(T* y, long long n, Value value, Rows&... rows) {
    walk<C>(
        n,
        [&](int k, long long j) {
            Pack<T, C::WIDE> out;
#pragma unroll
            for (int e = 0; e < C::WIDE; e++) out.v[e] = static_cast<T>(value(k + e));
            store_pack(y + j, out);
        },
        rows...);
}

// The value of all threads of the team joined, in every one of them.
template <typename Join, typename C, typename A>
__device__ A join_team(A value) {
    if constexpr (C::TEAM == 32) {
        return join_warp<Join>(value);
    } else {
        return join_block<Join, 256>(value);
    }
}
