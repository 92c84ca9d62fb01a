// The meeting of a warp's lanes, on which all collectives are built.
#pragma once
#include "runtime.h"

namespace simt {

// The lanes that have arrived at the collective that a thread arrives at, and its own.
unsigned partners(const Fiber* me, const Warp& warp);

template <class Do>
inline void for_lanes(unsigned mask, Do act) {
    for (; mask; mask &= mask - 1) act(static_cast<unsigned>(__builtin_ctz(mask)));
}

inline Fiber& lane_of(const Fiber* me, unsigned lane) { return fibers[me->warp * kLanes + lane]; }

template <class T>
inline T& slot_of(Warp& warp, unsigned lane) {
    static_assert(sizeof(T) <= sizeof warp.in[0], "an operand is larger than its slot");
    return *reinterpret_cast<T*>(warp.in[lane]);
}

// Waits for all lanes of the mask, which have left their operands in the warp's slots. The last one
// runs combine(warp, lanes), which writes each lane's result over its operand, and wakes the
// others.
template <class Combine>
inline void collect(const char* operation, unsigned mask, Place at, Combine combine) {
    Fiber* me = current();
    Warp& warp = warps[me->warp];
    me->operation = operation;
    me->mask = mask;
    me->place = at;
    mask &= warp.present;
    const unsigned there = partners(me, warp);
    warp.arrived |= 1u << me->lane;
    if (there != mask) {
        me->wait = kInWarp;
        run_others();
        return;
    }
    combine(warp, mask);
    warp.arrived &= ~mask;
    for_lanes(mask & ~(1u << me->lane), [&](unsigned lane) {
        Fiber& other = lane_of(me, lane);
        other.wait = kRunning;
        make_ready(other.number);
    });
}

}  // namespace simt
