// What emulated kernels and the emulator's runtime share: threads, blocks and the calls between
// them.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#pragma GCC visibility push(default)
namespace simt {

// A place in a kernel's source. As a default argument, SIMT_HERE is the place of the call.
struct Place {
    const char* file;
    int line;
    static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};
#define SIMT_HERE simt::Place::here()

struct Thread {
    uint3 index;
    unsigned lane;
};

struct Block {
    uint3 index;
    dim3 size, grid;
};

extern Thread* self;  // the CUDA thread that is running
extern Block block;   // the block that it is in

// Where a __shared__ variable of a kernel lies; filled again at the first use in every launch.
struct SharedSite {
    uint64_t launch;
    void* address;
};

void* shared_address(SharedSite* site, const char* name, size_t bytes, size_t padded, size_t align);
void* dynamic_shared();

int barrier(Place at, int predicate);
void fence();
void fail(Place at, const char* message);

enum Shuffle { kIndex, kUp, kDown, kXor };
void shuffle(Shuffle mode, unsigned mask, void* value, size_t bytes, int lane, int width, Place at);
void sync_warp(unsigned mask, Place at);
unsigned ballot(unsigned mask, int predicate, Place at);
unsigned match_any(unsigned mask, uint64_t value, Place at);
unsigned active_mask();

enum Reduction { kSum, kMin, kMax, kMinUnsigned, kMaxUnsigned, kAnd, kOr, kExclusiveOr };
unsigned reduce(Reduction how, unsigned mask, unsigned value, Place at);

// An atomic operation is a load and a store with nothing in between: only one thread runs at a
// time.
void atomic_load(const void* address, void* value, size_t bytes, Place at);
void atomic_store(void* address, const void* value, size_t bytes);

enum Operand { kHalf, kBfloat16, kTf32 };
void mma(Operand operand, float* d, const unsigned* a, const unsigned* b, Place at);
void ldmatrix(int count, bool transposed, unsigned* registers, const void* row, Place at);
void cp_async(void* shared, const void* global, int bytes, int source_bytes, Place at);
void cp_async_commit();
void cp_async_wait(int groups);
void store16(void* global, const void* from, Place at);

}  // namespace simt
#pragma GCC visibility pop
