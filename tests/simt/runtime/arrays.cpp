// Memory of a launch: every array in a slot of address space of its own, and shared memory.
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#include "arrays.h"

namespace simt {

Region regions[kMaxArrays];
SharedVariable shared_variables[kMaxShared];
unsigned shared_variable_count;
uint8_t shared_owner[kArenaBytes];
uintptr_t slots;
static size_t static_bytes;

// Far from where the system maps libraries: a terabyte among them would keep the sections of code
// that is compiled later more than 2 GiB apart, further than its relocations reach.
static char* reserve(size_t bytes, int protection) {
    void* hint = reinterpret_cast<void*>(uintptr_t(1) << 44);
    void* memory =
        mmap(hint, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    return static_cast<char*>(memory);
}

char* arena() {
    static char* memory = reserve(kArenaBytes, PROT_READ | PROT_WRITE);
    return memory;
}

bool is_shared(uintptr_t address) {
    return address - reinterpret_cast<uintptr_t>(arena()) < kArenaBytes;
}

void* dynamic_shared() { return arena() + kStaticBytes; }

void poison(void* memory, size_t bytes) {
    char* p = static_cast<char*>(memory);
    for (size_t i = 0; i < bytes; i++) {
        p[i] = reinterpret_cast<uintptr_t>(p + i) & 1 ? char(kPoison >> 8) : char(kPoison & 0xff);
    }
}

static uintptr_t slot(unsigned i) {
    if (!slots) {
        slots = reinterpret_cast<uintptr_t>(reserve(kSlotBytes * kMaxArrays, PROT_NONE));
    }
    return slots + kSlotBytes * i;
}

// ---- Arrays

bool start_arrays() {
    for (unsigned i = 0; i < launch->array_count; i++) {
        const Array& array = launch->arrays[i];
        if (i >= kMaxArrays || array.bytes >= kSlotBytes / 2) {
            report_fault(kLaunchFault, "%s is too large, or one of too many", array.label);
            return false;
        }
        Region& r = regions[i];
        r.begin = slot(i) + kSlotBytes / 2 + array.phase;
        r.end = r.begin + array.bytes;
        r.pages = r.begin & ~uintptr_t(4095);
        r.page_bytes = ((r.end - r.pages) | 4095) + 1;
        r.cells = nullptr;
        char* pages = reinterpret_cast<char*>(r.pages);
        if (mprotect(pages, r.page_bytes, PROT_READ | PROT_WRITE)) {
            r.pages = 0;
            report_fault(kLaunchFault, "no memory for %s", array.label);
            return false;
        }
        poison(pages, r.begin - r.pages);
        poison(reinterpret_cast<char*>(r.end), r.pages + r.page_bytes - r.end);
        memcpy(reinterpret_cast<char*>(r.begin), array.host, array.bytes);
    }
    return true;
}

// Whether the bytes around the array, which hold poison, are untouched.
static bool intact(const char* from, const char* to) {
    for (; from < to; from++) {
        bool odd = reinterpret_cast<uintptr_t>(from) & 1;
        if (*from != (odd ? char(kPoison >> 8) : char(kPoison & 0xff))) return false;
    }
    return true;
}

void finish_arrays() {
    for (unsigned i = 0; i < launch->array_count && i < kMaxArrays; i++) {
        const Array& array = launch->arrays[i];
        Region& r = regions[i];
        if (!r.pages) break;
        char *pages = reinterpret_cast<char*>(r.pages), *data = reinterpret_cast<char*>(r.begin);
        if (!report.fault &&
            !(intact(pages, data) && intact(data + array.bytes, pages + r.page_bytes))) {
            report_fault(kOutOfBounds, "a write just outside %s", array.label);
        }
        if (!report.fault && array.read_only && memcmp(array.host, data, array.bytes)) {
            report_fault(kOutOfBounds, "a write to %s, which is read-only", array.label);
        }
        if (!array.read_only) memcpy(array.host, data, array.bytes);
        madvise(pages, r.page_bytes, MADV_DONTNEED);
        mprotect(pages, r.page_bytes, PROT_NONE);
        r = {};
    }
}

// ---- Shared memory: static variables, then the dynamic part

static void add_shared(const char* name, char* address, size_t bytes) {
    if (shared_variable_count == kMaxShared) fault(kLaunchFault, "too many __shared__ variables");
    poison(address, bytes);
    shared_variables[shared_variable_count++] = {name, address, bytes};
    memset(shared_owner + (address - arena()), static_cast<int>(shared_variable_count), bytes);
}

void* shared_address(SharedSite* site, const char* name, size_t bytes, size_t padded,
                     size_t align) {
    if (site->launch == launches) return site->address;
    size_t offset = (static_bytes + align - 1) / align * align;
    static_bytes = offset + padded;
    size_t used = 0;
    for (unsigned i = 0; i < shared_variable_count; i++) used += shared_variables[i].bytes;
    if (used + bytes > 227 << 10 || used - launch->shared_bytes + bytes > 48 << 10 ||
        static_bytes > kStaticBytes) {
        fault(kLaunchFault,
              "__shared__ variables of more than 48 KiB, or 227 KiB with the dynamic part");
    }
    site->launch = launches;
    site->address = arena() + offset;
    add_shared(name, arena() + offset, bytes);
    return site->address;
}

void start_shared() {
    static uint64_t prepared;
    if (prepared != launches) {
        prepared = launches;
        static_bytes = shared_variable_count = 0;
        memset(shared_owner, 0, sizeof shared_owner);
        add_shared("dynamic memory", static_cast<char*>(dynamic_shared()), launch->shared_bytes);
    }
    for (unsigned i = 0; i < shared_variable_count; i++) {
        poison(shared_variables[i].address, shared_variables[i].bytes);
    }
}

}  // namespace simt

// The device address of array i of a launch, whose address is `phase` modulo 512.
extern "C" __attribute__((visibility("default"))) uint64_t simt_address(unsigned i,
                                                                        uint64_t phase) {
    return simt::slot(i) + simt::kSlotBytes / 2 + phase;
}
