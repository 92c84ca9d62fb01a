// Checks of every access: bounds, races, reads of what was never written or has not yet arrived.
//
// Two accesses of which one writes must be ordered: by __syncthreads for threads of a block, by
// __syncwarp for lanes of a warp, by __threadfence and an atomic operation on the same address for
// blocks. Each element of an array, and each word or byte of shared memory, keeps its last write
// and what has read it since (after Flanagan and Freund, FastTrack, 2009), so a race is found in
// whatever order the threads happen to run.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <sys/mman.h>
#include <unordered_map>

#include "arrays.h"

namespace simt {

enum WriteKind : uint8_t { kPlain, kByAtomic, kInFlight };

struct Cell {
    uint32_t write_block, write_epoch, write_time, write_code;
    uint32_t read_block, read_epoch, read_time, read_code;
    uint32_t read_lanes, other_block, other_epoch;  // a read by a block before read_block
    uint16_t write_thread, read_warp, other_thread;
    WriteKind write_kind;
    bool read_by_many;  // by several warps of read_block since the barrier
};

struct Visit {
    const Fiber* me;
    uintptr_t address;
    size_t bytes;
    Access how;
    uint64_t code;
    const Place& at;
};

// What a block has made visible to others by a fence and an atomic operation: all accesses before
// `epoch`, and each thread's own up to its last fence. The latest such operation has it all.
struct Released {
    uint64_t order;
    uint32_t epoch;
    std::shared_ptr<const std::vector<uint32_t>> fenced;
};

// Shared memory is looked after word by word; a word of which one thread accesses a part has a cell
// for each byte, until it is written whole again.
struct alignas(64) Word {  // a line of the cache
    Cell whole;
    bool split;
};

static Word shared_words[kArenaBytes / 4];
static Cell shared_bytes[kArenaBytes];
static bool has_fenced;              // whether a thread of the running block has
static std::vector<Released> known;  // by block: what the running block sees of it
static std::unordered_map<uintptr_t, std::vector<Released>> released;  // by address of an atomic

// ---- Messages

static const char* describe(uintptr_t address) {
    static char text[320];
    const size_t in_slots = address - slots;
    if (slots && in_slots < kSlotBytes * launch->array_count) {
        unsigned i = in_slots / kSlotBytes;
        long long offset = static_cast<long long>(address - regions[i].begin);
        snprintf(text, sizeof text, "%s, byte %lld", launch->arrays[i].label, offset);
        return text;
    }
    for (unsigned i = 0; i < shared_variable_count; i++) {
        const SharedVariable& v = shared_variables[i];
        size_t offset = address - reinterpret_cast<uintptr_t>(v.address);
        if (offset < v.bytes + 64) {  // the red zone counts as the variable that it follows
            snprintf(text, sizeof text, "shared %s, byte %zu of %zu", v.name, offset, v.bytes);
            return text;
        }
    }
    if (is_shared(address)) return "shared memory";
    snprintf(text, sizeof text, "address %#zx", address);
    return text;
}

static const char* verb(Access how) {
    static const char* const verbs[] = {"read", "write", "atomic operation", "cp.async",
                                        "cp.async"};
    return verbs[how];
}

[[noreturn]] static void complain(const Visit& v, Fault kind, const char* what) {
    fault_of(v.me, kind, v.code, 0, v.at, "%s: %s of %zu bytes at %s", what, verb(v.how), v.bytes,
             describe(v.address));
}

[[noreturn]] static void race(const Visit& v, const char* other, uint32_t block, unsigned thread,
                              uint32_t code) {
    uint64_t image = reinterpret_cast<uint64_t>(launch->image_begin);
    const uint3 t = thread < kMaxThreads ? fibers[thread].index : uint3{};
    const char* since =
        block == block_number ? "with no barrier between" : "with nothing to order them";
    char who[96];
    if (block == block_number) {
        snprintf(who, sizeof who, "thread (%u,%u,%u)", t.x, t.y, t.z);
    } else {
        uint3 b = block_index(block - block_base - 1);
        snprintf(who, sizeof who, "block (%u,%u,%u)", b.x, b.y, b.z);
    }
    fault_of(v.me, kDataRace, v.code, code ? image + code : 0, v.at,
             "data race at %s: %s here, %s by %s, %s", describe(v.address), verb(v.how), other, who,
             since);
}

// ---- Order

static bool knows(uint32_t block, uint32_t epoch, unsigned thread) {
    if (known.empty()) return false;
    const Released& r = known[block - block_base - 1];
    return epoch < r.epoch || (r.fenced && epoch <= (*r.fenced)[thread]);
}

static bool sees(const Fiber* me, uint32_t block, uint32_t epoch, uint32_t time, unsigned thread) {
    if (block != block_number) return knows(block, epoch, thread);
    if (epoch < simt::epoch || thread == me->number) return true;
    return thread / kLanes == me->warp && warps[me->warp].seen[me->lane][thread % kLanes] >= time;
}

static void check_last_write(const Visit& v, const Cell& c) {
    if (!c.write_block || (v.how == kAtomic && c.write_kind == kByAtomic)) return;
    if (sees(v.me, c.write_block, c.write_epoch, c.write_time, c.write_thread)) return;
    race(v, c.write_kind == kByAtomic ? "atomic operation" : "write", c.write_block, c.write_thread,
         c.write_code);
}

static void check_readers(const Visit& v, const Cell& c) {
    if (c.other_block && !knows(c.other_block, c.other_epoch, c.other_thread)) {
        race(v, "read", c.other_block, kMaxThreads, c.read_code);
    }
    if (!c.read_block) return;
    if (c.read_block == block_number && c.read_epoch == epoch && c.read_by_many) {
        race(v, "read", c.read_block, c.read_warp * kLanes + __builtin_ctz(c.read_lanes),
             c.read_code);
    }
    for (unsigned lanes = c.read_lanes; lanes; lanes &= lanes - 1) {
        unsigned thread = c.read_warp * kLanes + __builtin_ctz(lanes);
        if (sees(v.me, c.read_block, c.read_epoch, c.read_time, thread)) continue;
        race(v, "read", c.read_block, thread, c.read_code);
    }
}

static uint32_t relative(uint64_t code) {
    return code ? static_cast<uint32_t>(code - reinterpret_cast<uint64_t>(launch->image_begin)) : 0;
}

static bool all_seen(const Fiber* me, const Cell& c) {
    for (unsigned lanes = c.read_lanes; lanes; lanes &= lanes - 1) {
        if (warps[me->warp].seen[me->lane][__builtin_ctz(lanes)] < c.read_time) return false;
    }
    return true;
}

static void note_read(const Visit& v, Cell& c) {
    uint32_t time = warps[v.me->warp].time, lane = 1u << v.me->lane;
    if (c.read_block == block_number && c.read_epoch == epoch) {
        if (c.read_warp != v.me->warp)
            c.read_by_many = true;
        else if (c.read_time != time && all_seen(v.me, c))
            c.read_lanes = lane;
        else
            c.read_lanes |= lane;
        c.read_time = time;
        return;
    }
    if (c.read_block && c.read_block != block_number) {
        c.other_block = c.read_block;
        c.other_epoch = c.read_epoch;
        c.other_thread = static_cast<uint16_t>(c.read_warp * kLanes + __builtin_ctz(c.read_lanes));
    }
    c.read_block = block_number;
    c.read_epoch = epoch;
    c.read_time = time;
    c.read_lanes = lane;
    c.read_warp = static_cast<uint16_t>(v.me->warp);
    c.read_by_many = false;
    c.read_code = relative(v.code);
}

static void note_write(const Visit& v, Cell& c) {
    // The plain write before an atomic operation of the same thread still needs its barrier.
    bool still_plain = v.how == kAtomic && c.write_block == block_number &&
                       c.write_epoch == epoch && c.write_kind == kPlain;
    c.write_kind = v.how == kCopyIssue                ? kInFlight
                   : v.how == kAtomic && !still_plain ? kByAtomic
                                                      : kPlain;
    c.write_block = block_number;
    c.write_epoch = epoch;
    c.write_time = warps[v.me->warp].time;
    c.write_thread = static_cast<uint16_t>(v.me->number);
    c.write_code = relative(v.code);
    c.read_block = c.other_block = 0;
    c.read_lanes = 0;
}

static inline void visit_cell(const Visit& v, Cell& c) {
    if (v.how != kCopyLand) check_last_write(v, c);
    if (v.how == kRead) return note_read(v, c);
    if (v.how != kCopyLand) check_readers(v, c);
    note_write(v, c);
}

// ---- Bounds

static void visit_array(const Visit& v) {
    unsigned i = (v.address - slots) / kSlotBytes;
    const Region& r = regions[i];
    if (i >= launch->array_count || v.address < r.begin || v.address + v.bytes > r.end) {
        complain(v, kOutOfBounds, "out of bounds");
    }
    const Array& array = launch->arrays[i];
    if (array.read_only && v.how != kRead) complain(v, kOutOfBounds, "read-only array");
    size_t first = (v.address - r.begin) >> r.shift;
    size_t last = (v.address + v.bytes - 1 - r.begin) >> r.shift;
    for (size_t c = first; c <= last; c++) visit_cell(v, r.cells[c]);
    if (!array.check_poison || (v.how != kRead && v.how != kAtomic)) return;
    for (size_t c = first; c <= last; c++) {
        const auto* p = reinterpret_cast<const uint16_t*>(r.begin + (c << r.shift));
        size_t same = 0;
        while (same < (size_t(1) << r.shift) / 2 && p[same] == kPoison) same++;
        if (same == (size_t(1) << r.shift) / 2) complain(v, kUninitialised, "never written");
    }
}

static void visit_shared_cell(const Visit& v, Cell& c) {
    if (c.read_block != block_number) c.read_block = c.read_lanes = 0;
    if (c.write_block != block_number) {
        if (v.how == kRead || v.how == kAtomic) complain(v, kUninitialised, "never written");
        c.write_block = 0;
    } else if (c.write_kind == kInFlight && v.how != kCopyLand) {
        complain(v, kMissingWait, "cp.async has not been waited for");
    }
    visit_cell(v, c);
}

static void visit_shared(const Visit& v) {
    size_t offset = v.address - reinterpret_cast<uintptr_t>(arena());
    uint8_t owner = shared_owner[offset];
    if (!owner || shared_owner[offset + v.bytes - 1] != owner) {
        complain(v, kOutOfBounds, "out of bounds");
    }
    for (size_t i = offset, end = offset + v.bytes; i < end;) {
        const size_t next = (i | 3) + 1;
        Word& word = shared_words[i / 4];
        Cell* bytes = shared_bytes + (i & ~size_t(3));
        const bool whole = i % 4 == 0 && next <= end;
        if (whole && !word.split) {
            visit_shared_cell(v, word.whole);
            i = next;
            continue;
        }
        if (!word.split) std::fill_n(bytes, 4, word.whole);
        for (word.split = true; i < next && i < end; i++) visit_shared_cell(v, shared_bytes[i]);
        if (!whole || v.how == kRead || v.how == kAtomic) continue;
        word = {bytes[0], false};
    }
}

extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start, _end;

void access(const Fiber* me, uintptr_t address, size_t bytes, Access how, uint64_t code,
            const Place& at) {
    if (!me) return;  // a table that is set up when the kernels are loaded
    Visit v{me, address, bytes, how, code, at};
    auto inside = [=](const void* begin, const void* end) {
        return address >= reinterpret_cast<uintptr_t>(begin) &&
               address < reinterpret_cast<uintptr_t>(end);
    };
    if (address - slots < kSlotBytes * kMaxArrays) return visit_array(v);
    if (address - reinterpret_cast<uintptr_t>(arena()) < kArenaBytes) return visit_shared(v);
    if (is_stack(address) || inside(&__ehdr_start, &_end) ||
        inside(launch->image_begin, launch->image_end)) {
        return;
    }
    complain(v, kOutOfBounds, address < 4096 ? "null pointer" : "out of bounds");
}

// ---- Fences and atomics

void fence() {
    Fiber* me = current();
    has_fenced = true;
    if (me->fenced == epoch) return;
    me->fenced_before = me->fenced;
    me->fenced = epoch;
}

static Released make_released(const Fiber* me) {
    static uint64_t order;
    std::vector<uint32_t> fenced(threads);
    for (unsigned i = 0; i < threads; i++) {
        const Fiber& f = fibers[i];
        fenced[i] = &f == me || f.fenced < epoch ? f.fenced : f.fenced_before;
    }
    return {++order, me->fenced, std::make_shared<const std::vector<uint32_t>>(fenced)};
}

static void raise_to(Released& a, const Released& b) {
    if (b.order > a.order) a = b;
}

void release(const Fiber* me, uintptr_t address) {
    if (!has_fenced && released.find(address) == released.end()) return;
    size_t blocks = size_t(block.grid.x) * block.grid.y * block.grid.z;
    known.resize(blocks);
    auto& there = released[address];
    there.resize(blocks);
    for (size_t b = 0; b < blocks; b++) raise_to(known[b], there[b]);
    if (!has_fenced) return;
    there = known;
    there[block_number - block_base - 1] = make_released(me);
}

void start_block_checks() {
    known.clear();
    has_fenced = false;
    for (unsigned w = 0; w * kLanes < threads; w++) {
        warps[w].time = 1;
        memset(warps[w].seen, 0, sizeof warps[w].seen);
    }
}

void start_checks() {
    released.clear();
    for (unsigned i = 0; i < launch->array_count; i++) {
        Region& r = regions[i];
        r.shift = __builtin_ctz(launch->arrays[i].element | 8);
        r.cell_count = (launch->arrays[i].bytes >> r.shift) + 1;
        r.cells =
            static_cast<Cell*>(mmap(nullptr, r.cell_count * sizeof(Cell), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (r.cells == MAP_FAILED) r.cells = nullptr;
        if (!r.cells) report_fault(kLaunchFault, "no memory to check %s", launch->arrays[i].label);
    }
}

void finish_checks() {
    for (unsigned i = 0; i < launch->array_count; i++) {
        if (regions[i].cells) munmap(regions[i].cells, regions[i].cell_count * sizeof(Cell));
    }
}

}  // namespace simt
