// The emulator's state: fibers, warps, arrays and the report of a fault. One launch at a time.
#pragma once
#include <cstring>
#include <vector>

#include "../include/simt_api.h"

namespace simt {

constexpr unsigned kMaxThreads = 1024, kLanes = 32, kMaxArrays = 1024;
constexpr size_t kStackBytes = 256 << 10;                           // of a fiber, with a guard page
constexpr size_t kStaticBytes = 64 << 10, kArenaBytes = 384 << 10;  // of shared memory
constexpr size_t kSlotBytes = size_t(1) << 30;                      // address space of an array
constexpr uint16_t kPoison = 0x7ff5;  // repeated, it is NaN in every floating-point format

// Numbered as in faults.py.
enum Fault : int {
    kNoFault,
    kLaunchFault,
    kOutOfBounds,
    kMisaligned,
    kBarrierDivergence,
    kWarpDivergence,
    kDeadlock,
    kDataRace,
    kUninitialised,
    kMissingWait,
    kArithmetic,
    kAssertion,
};

struct Report {
    int fault;
    unsigned has_thread;
    uint3 block, thread;
    uint64_t code, other_code;  // program counters of the access and of the one it conflicts with
    char place[256], message[1024];
};

// An array argument: host memory that is copied to a slot of its own for the launch.
struct Array {
    void* host;
    size_t bytes, phase;    // phase: its address modulo 512 on a GPU
    unsigned element;       // bytes of an element, the unit in which races are looked for
    unsigned check_poison;  // reading poisoned elements is a fault
    unsigned read_only;
    const char* label;
};

struct Launch {
    unsigned grid[3], block[3];
    uint64_t shared_bytes, seed;
    void (*invoke)(void* const*);
    void* const* arguments;
    const void *image_begin, *image_end;
    const Array* arrays;
    unsigned array_count, checked, flush_denormals, seconds;
};

enum Wait : uint8_t { kRunning, kAtBarrier, kInWarp, kReturned };

struct AsyncCopy {
    char* shared;
    const char* global;
    int bytes, source_bytes;
    uint64_t group;
    Place place;
};

struct Fiber : Thread {
    void* stack_pointer;
    unsigned number, warp;
    Wait wait;
    Place place;            // where it waits
    const char* operation;  // the warp collective it waits in
    unsigned mask;
    uint32_t fenced, fenced_before;  // epochs of its last __threadfence and of the one before
    uint64_t atomics, idle;          // atomic operations; the last ones that changed nothing
    uint64_t group;                  // number of committed groups of asynchronous copies
    std::vector<AsyncCopy> copies;
};

struct Warp {
    unsigned arrived, present, returned;  // masks of lanes
    uint32_t time;                        // 1 + number of __syncwarp
    uint32_t seen[kLanes][kLanes];        // [a][b]: lane a sees what lane b did up to this time
    alignas(16) unsigned char in[kLanes][64];
};

extern Fiber fibers[kMaxThreads];
extern Warp warps[kMaxThreads / kLanes];
extern unsigned threads;       // of the block
extern uint32_t epoch;         // barriers that the block has passed, plus 1
extern uint32_t block_base;    // number of blocks of all earlier launches
extern uint32_t block_number;  // block_base + 1 + place in the order of blockIdx
extern const Launch* launch;
extern uint64_t launches;

inline bool same_text(const char* a, const char* b) { return a == b || !strcmp(a, b); }

inline Fiber* current() { return static_cast<Fiber*>(self); }

// scheduler.cpp
void make_ready(unsigned fiber);
void run_others();
void yield();
[[noreturn]] void fault(Fault kind, const char* format, ...) __attribute__((format(printf, 2, 3)));
[[noreturn]] void fault_at(Place at, Fault kind, const char* format, ...)
    __attribute__((format(printf, 3, 4)));
[[noreturn]] void fault_of(const Fiber* thread, Fault kind, uint64_t code, uint64_t other_code,
                           Place at, const char* format, ...) __attribute__((format(printf, 6, 7)));
void report_fault(Fault kind, const char* format, ...) __attribute__((format(printf, 2, 3)));
extern Report report;
uint3 block_index(uint32_t place);
bool is_stack(uintptr_t address);

// arrays.cpp
char* arena();
bool is_shared(uintptr_t address);
bool start_arrays();
void finish_arrays();
void start_shared();
void poison(void* memory, size_t bytes);

// memory.cpp
enum Access { kRead, kWrite, kAtomic, kCopyIssue, kCopyLand };
inline constexpr Place kNowhere{};
void access(const Fiber* me, uintptr_t address, size_t bytes, Access how, uint64_t code,
            const Place& at = kNowhere);
void start_checks();
void finish_checks();
void start_block_checks();
void release(const Fiber* me, uintptr_t address);

// warp.cpp
void leave_warp(Fiber* fiber);
void start_warps();

}  // namespace simt
