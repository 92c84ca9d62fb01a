// Warp collectives: lanes leave their operands, the last one to arrive computes for all of them.
#include <cstdlib>
#include <cstring>

#include "collect.h"

namespace simt {

void start_warps() {
    for (unsigned w = 0; w * kLanes < threads; w++) {
        unsigned lanes = threads - w * kLanes;
        warps[w].arrived = warps[w].returned = 0;
        warps[w].present = lanes >= kLanes ? ~0u : (1u << lanes) - 1;
    }
}

// Whether two lanes wait for each other in the same collective. If each waits for the other in a
// different one, neither can go on. If only one does, the other may come to it later.
static bool agree(const Fiber* me, const Fiber& other) {
    if (!(me->mask >> other.lane & 1) || !(other.mask >> me->lane & 1)) return false;
    if (me->mask == other.mask && same_text(me->operation, other.operation)) return true;
    fault_at(me->place, kWarpDivergence,
             "%s with mask %#010x, but lane %u of the warp is in %s at %s:%d with mask %#010x",
             me->operation, me->mask, other.lane, other.operation, other.place.file,
             other.place.line, other.mask);
}

unsigned partners(const Fiber* me, const Warp& warp) {
    if (!(me->mask >> me->lane & 1)) {
        fault_at(me->place, kWarpDivergence,
                 "%s with mask %#010x, in which its own lane %u is missing", me->operation,
                 me->mask, me->lane);
    }
    unsigned gone = me->mask & warp.returned;
    if (gone) {
        fault_at(me->place, kWarpDivergence, "%s with mask %#010x, of which lane %d has returned",
                 me->operation, me->mask, __builtin_ctz(gone));
    }
    unsigned found = 1u << me->lane;
    for_lanes(warp.arrived, [&](unsigned lane) {
        if (agree(me, lane_of(me, lane))) found |= 1u << lane;
    });
    return found;
}

void leave_warp(Fiber* me) {
    Warp& warp = warps[me->warp];
    warp.returned |= 1u << me->lane;
    for_lanes(warp.arrived, [&](unsigned lane) {
        const Fiber& other = lane_of(me, lane);
        if (!(other.mask >> me->lane & 1)) return;
        fault_at(other.place, kWarpDivergence,
                 "returns, but lane %u of its warp waits for it in %s with mask %#010x", lane,
                 other.operation, other.mask);
    });
}

// ---- Shuffles and votes

struct ShuffleOperand {
    unsigned char value[8];
    int lane;
};

// The lane that a shuffle reads, by the definition of shfl.sync in the PTX ISA.
static unsigned source_lane(Shuffle mode, int lane, int operand, int width) {
    int first = lane & ~(width - 1), last = first + width - 1, from = lane;
    if (mode == kIndex) from = first | (operand & (width - 1));
    if (mode == kUp) from = lane - operand >= first ? lane - operand : lane;
    if (mode == kDown) from = lane + operand <= last ? lane + operand : lane;
    if (mode == kXor) from = (lane ^ operand) <= last ? lane ^ operand : lane;
    return static_cast<unsigned>(from) & 31;
}

void shuffle(Shuffle mode, unsigned mask, void* value, size_t bytes, int lane, int width,
             Place at) {
    static const char* const names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                        "__shfl_xor_sync"};
    Fiber* me = current();
    Warp& warp = warps[me->warp];
    if (width < 1 || width > 32 || (width & (width - 1))) {
        fault_at(at, kWarpDivergence, "%s with width %d, not a power of two up to 32", names[mode],
                 width);
    }
    auto& mine = slot_of<ShuffleOperand>(warp, me->lane);
    memcpy(mine.value, value, bytes);
    mine.lane = lane;
    collect(names[mode], mask, at, [&](Warp& w, unsigned lanes) {
        unsigned char results[kLanes][8];
        for_lanes(lanes, [&](unsigned l) {
            unsigned from =
                source_lane(mode, static_cast<int>(l), slot_of<ShuffleOperand>(w, l).lane, width);
            if (!(lanes >> from & 1)) {
                fault_of(&lane_of(me, l), kWarpDivergence, 0, 0, at,
                         "%s with mask %#010x reads lane %u, which does not take part", names[mode],
                         mask, from);
            }
            memcpy(results[l], slot_of<ShuffleOperand>(w, from).value, 8);
        });
        for_lanes(lanes, [&](unsigned l) { memcpy(w.in[l], results[l], 8); });
    });
    memcpy(value, warp.in[me->lane], bytes);
}

// Joins what the lanes of the mask see: afterwards each sees what any of them saw or did.
static void join_lanes(Warp& warp, unsigned mask) {
    uint32_t seen[kLanes] = {};
    for_lanes(mask, [&](unsigned lane) {
        for (unsigned other = 0; other < kLanes; other++) {
            if (warp.seen[lane][other] > seen[other]) seen[other] = warp.seen[lane][other];
        }
    });
    for_lanes(mask, [&](unsigned lane) { seen[lane] = warp.time; });
    for_lanes(mask, [&](unsigned lane) { memcpy(warp.seen[lane], seen, sizeof seen); });
    warp.time++;
}

void sync_warp(unsigned mask, Place at) {
    collect("__syncwarp", mask, at, [](Warp& warp, unsigned lanes) {
        if (launch->checked) join_lanes(warp, lanes);
    });
}

unsigned ballot(unsigned mask, int predicate, Place at) {
    Fiber* me = current();
    slot_of<unsigned>(warps[me->warp], me->lane) = predicate != 0;
    collect("a vote", mask, at, [](Warp& w, unsigned lanes) {
        unsigned result = 0;
        for_lanes(lanes, [&](unsigned l) { result |= slot_of<unsigned>(w, l) << l; });
        for_lanes(lanes, [&](unsigned l) { slot_of<unsigned>(w, l) = result; });
    });
    return slot_of<unsigned>(warps[me->warp], me->lane);
}

unsigned match_any(unsigned mask, uint64_t value, Place at) {
    Fiber* me = current();
    slot_of<uint64_t>(warps[me->warp], me->lane) = value;
    collect("__match_any_sync", mask, at, [](Warp& w, unsigned lanes) {
        unsigned equal[kLanes] = {};
        for_lanes(lanes, [&](unsigned a) {
            for_lanes(lanes, [&](unsigned b) {
                equal[a] |= (slot_of<uint64_t>(w, a) == slot_of<uint64_t>(w, b) ? 1u : 0u) << b;
            });
        });
        for_lanes(lanes, [&](unsigned l) { slot_of<unsigned>(w, l) = equal[l]; });
    });
    return slot_of<unsigned>(warps[me->warp], me->lane);
}

static unsigned reduce_two(Reduction how, unsigned a, unsigned b) {
    switch (how) {
        case kSum:
            return a + b;
        case kMin:
            return static_cast<int>(a) < static_cast<int>(b) ? a : b;
        case kMax:
            return static_cast<int>(a) > static_cast<int>(b) ? a : b;
        case kMinUnsigned:
            return a < b ? a : b;
        case kMaxUnsigned:
            return a > b ? a : b;
        case kAnd:
            return a & b;
        case kOr:
            return a | b;
        case kExclusiveOr:
            return a ^ b;
    }
    abort();
}

unsigned reduce(Reduction how, unsigned mask, unsigned value, Place at) {
    Fiber* me = current();
    slot_of<unsigned>(warps[me->warp], me->lane) = value;
    collect("__reduce_sync", mask, at, [=](Warp& w, unsigned lanes) {
        unsigned result = slot_of<unsigned>(w, __builtin_ctz(lanes));
        for_lanes(lanes & (lanes - 1),
                  [&](unsigned l) { result = reduce_two(how, result, slot_of<unsigned>(w, l)); });
        for_lanes(lanes, [&](unsigned l) { slot_of<unsigned>(w, l) = result; });
    });
    return slot_of<unsigned>(warps[me->warp], me->lane);
}

unsigned active_mask() {
    const Warp& warp = warps[current()->warp];
    return warp.present & ~warp.returned;
}

}  // namespace simt
