// Asynchronous copies, which arrive only when they are waited for, and atomic operations.
#include <cstring>

#include "runtime.h"

namespace simt {

void cp_async(void* shared, const void* global, int bytes, int source_bytes, Place at) {
    Fiber* me = current();
    auto to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(global);
    if (source_bytes < 0 || source_bytes > bytes) {
        fault_at(at, kOutOfBounds, "cp.async of %d bytes with %d source bytes", bytes,
                 source_bytes);
    }
    if (!is_shared(to)) fault_at(at, kOutOfBounds, "cp.async to %#zx, not in shared memory", to);
    if (source_bytes && is_shared(from)) {
        fault_at(at, kOutOfBounds, "cp.async from shared memory, its source must be global");
    }
    if (to % unsigned(bytes) || from % unsigned(bytes)) {
        fault_at(at, kMisaligned, "cp.async of %d bytes: the %s is not aligned to its size", bytes,
                 to % unsigned(bytes) ? "destination" : "source");
    }
    if (launch->checked) {
        if (source_bytes) access(me, from, static_cast<size_t>(source_bytes), kRead, 0, at);
        access(me, to, static_cast<size_t>(bytes), kCopyIssue, 0, at);
    }
    poison(shared, static_cast<size_t>(bytes));
    me->copies.push_back({static_cast<char*>(shared), static_cast<const char*>(global), bytes,
                          source_bytes, me->group, at});
}

void store16(void* global, const void* from, Place at) {
    auto to = reinterpret_cast<uintptr_t>(global);
    if (is_shared(to)) fault_at(at, kOutOfBounds, "store16 to %#zx, in shared memory", to);
    if (to % 16) fault_at(at, kMisaligned, "store16 to %#zx, which must be a multiple of 16", to);
    if (launch->checked) access(current(), to, 16, kWrite, 0, at);
    memcpy(global, from, 16);
}

void cp_async_commit() { current()->group++; }

void cp_async_wait(int groups) {
    Fiber* me = current();
    size_t landed = 0;
    for (; landed < me->copies.size(); landed++) {
        const AsyncCopy& copy = me->copies[landed];
        if (copy.group + static_cast<uint64_t>(groups) >= me->group) break;
        memset(copy.shared, 0, static_cast<size_t>(copy.bytes));
        memcpy(copy.shared, copy.global, static_cast<size_t>(copy.source_bytes));
        if (!launch->checked) continue;
        access(me, reinterpret_cast<uintptr_t>(copy.shared), static_cast<size_t>(copy.bytes),
               kCopyLand, 0, copy.place);
    }
    me->copies.erase(me->copies.begin(), me->copies.begin() + static_cast<long>(landed));
}

// Atomic operations let others run now and then, so that a lock within a block can be passed on.
constexpr uint64_t kAtomicsBetweenYields = 64, kMaxIdle = 20000;

void atomic_load(const void* address, void* value, size_t bytes, Place at) {
    Fiber* me = current();
    auto where = reinterpret_cast<uintptr_t>(address);
    if (where % bytes) {
        fault_at(at, kMisaligned, "atomic operation on %zu bytes at a misaligned address", bytes);
    }
    if (++me->atomics % kAtomicsBetweenYields == 0) yield();
    if (me->idle > kMaxIdle) {
        fault_at(at, kDeadlock,
                 "deadlock: spins, its last %zu atomic operations changed nothing (blocks run one "
                 "by one)",
                 static_cast<size_t>(kMaxIdle));
    }
    if (launch->checked) {
        access(me, where, bytes, kAtomic, 0, at);
        if (!is_shared(where)) release(me, where);
    }
    memcpy(value, address, bytes);
}

void atomic_store(void* address, const void* value, size_t bytes) {
    Fiber* me = current();
    me->idle = memcmp(address, value, bytes) ? 0 : me->idle + 1;
    memcpy(address, value, bytes);
}

}  // namespace simt
