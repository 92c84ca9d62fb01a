// Tensor cores and ldmatrix: what warpops.cuh does, for the lanes of a warp at once.
#include <cmath>
#include <cstring>

#include "collect.h"
#include "../include/simt_types.h"
#include "../include/simt_half.h"

namespace simt {

struct MmaOperand {
    unsigned a[4], b[2];
    float d[4];
};

static float tf32_value(unsigned bits) { return bit_cast<float>(bits & 0xffffe000u); }

static float narrow_value(Operand operand, unsigned pair, unsigned which) {
    auto bits = static_cast<unsigned short>(pair >> 16 * which);
    return operand == kHalf ? half_value(bits) : bfloat16_value(bits);
}

// Puts lane's fragments at their places in a (16, 16), b (16, 8) and d (16, 8).
static void place_fragments(Operand operand, unsigned lane, const MmaOperand& in, float (*a)[16],
                            float (*b)[8], double (*d)[8]) {
    unsigned g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; i++) d[g + 8 * (i >> 1)][2 * t + (i & 1)] = in.d[i];
    if (operand == kTf32) {
        for (unsigned i = 0; i < 4; i++) a[g + 8 * (i & 1)][t + 4 * (i >> 1)] = tf32_value(in.a[i]);
        for (unsigned i = 0; i < 2; i++) b[t + 4 * i][g] = tf32_value(in.b[i]);
        return;
    }
    for (unsigned half = 0; half < 2; half++) {
        for (unsigned i = 0; i < 4; i++) {
            a[g + 8 * (i & 1)][2 * t + 8 * (i >> 1) + half] = narrow_value(operand, in.a[i], half);
        }
        for (unsigned i = 0; i < 2; i++) {
            b[2 * t + 8 * i + half][g] = narrow_value(operand, in.b[i], half);
        }
    }
}

// The sum is taken in double, in the order of k, and rounded to float once; a GPU's own order and
// rounding are not documented.
static void multiply(Operand operand, Warp& warp) {
    float a[16][16], b[16][8];
    double d[16][8];
    for (unsigned lane = 0; lane < kLanes; lane++) {
        place_fragments(operand, lane, slot_of<MmaOperand>(warp, lane), a, b, d);
    }
    for (unsigned k = 0; k < (operand == kTf32 ? 8 : 16); k++) {
        for (unsigned row = 0; row < 16; row++) {
            for (unsigned column = 0; column < 8; column++) {
                d[row][column] += double(a[row][k]) * double(b[k][column]);
            }
        }
    }
    for (unsigned lane = 0; lane < kLanes; lane++) {
        float* out = slot_of<MmaOperand>(warp, lane).d;
        for (unsigned i = 0; i < 4; i++) {
            out[i] = static_cast<float>(d[lane / 4 + 8 * (i >> 1)][2 * (lane % 4) + (i & 1)]);
        }
    }
}

// All 32 lanes must be there: these instructions are .aligned.
static void need_whole_warp(const char* name, unsigned lanes, Place at) {
    if (lanes != ~0u) fault_at(at, kWarpDivergence, "%s in a warp of fewer than 32 threads", name);
}

void mma(Operand operand, float* d, const unsigned* a, const unsigned* b, Place at) {
    static const char* const names[] = {"mma_m16n8k16_f16", "mma_m16n8k16_bf16",
                                        "mma_m16n8k8_tf32"};
    Fiber* me = current();
    Warp& warp = warps[me->warp];
    auto& mine = slot_of<MmaOperand>(warp, me->lane);
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    memcpy(mine.d, d, sizeof mine.d);
    collect(names[operand], ~0u, at, [=](Warp& w, unsigned lanes) {
        need_whole_warp(names[operand], lanes, at);
        multiply(operand, w);
    });
    memcpy(d, slot_of<MmaOperand>(warp, me->lane).d, sizeof mine.d);
}

// The lane that gives a row's address counts as its reader.
static void load_matrices(int count, bool transposed, Warp& warp, const Fiber* first, Place at) {
    uint16_t matrix[4][8][8];
    for (int lane = 0; lane < 8 * count; lane++) {
        const Fiber* me = first + lane;
        const void* row = slot_of<const void*>(warp, static_cast<unsigned>(lane));
        auto address = reinterpret_cast<uintptr_t>(row);
        if (!is_shared(address)) {
            fault_of(me, kOutOfBounds, 0, 0, at, "ldmatrix from %#zx, not in shared memory",
                     address);
        }
        if (address % 16) {
            fault_of(me, kMisaligned, 0, 0, at, "ldmatrix from an address not aligned to 16 bytes");
        }
        if (launch->checked) access(me, address, 16, kRead, 0, at);
        memcpy(matrix[lane / 8][lane % 8], row, 16);
    }
    for (unsigned lane = 0; lane < kLanes; lane++) {
        unsigned g = lane / 4, t = 2 * (lane % 4);
        for (int i = 0; i < count; i++) {
            unsigned low = transposed ? matrix[i][t][g] : matrix[i][g][t];
            unsigned high = transposed ? matrix[i][t + 1][g] : matrix[i][g][t + 1];
            (&slot_of<unsigned>(warp, lane))[i] = low | high << 16;
        }
    }
}

void ldmatrix(int count, bool transposed, unsigned* registers, const void* row, Place at) {
    Fiber* me = current();
    Warp& warp = warps[me->warp];
    slot_of<const void*>(warp, me->lane) = row;
    collect("ldmatrix", ~0u, at, [=](Warp& w, unsigned lanes) {
        need_whole_warp("ldmatrix", lanes, at);
        load_matrices(count, transposed, w, &fibers[me->warp * kLanes], at);
    });
    memcpy(registers, warp.in[me->lane], 4 * static_cast<size_t>(count));
}

}  // namespace simt
