// Entry points of GCC's -fsanitize=thread and =undefined: here they feed the emulator's own checks.
#include "runtime.h"

#pragma GCC diagnostic ignored "-Wbuiltin-declaration-mismatch"

namespace simt {

#define SIMT_CODE (reinterpret_cast<uint64_t>(__builtin_return_address(0)) - 1)

struct UbsanPlace {
    const char* file;
    unsigned line, column;
};

struct UbsanType {
    unsigned short kind, information;
    char name[1];
};

struct MismatchData {
    UbsanPlace place;
    const UbsanType* type;
    unsigned char log_alignment, check;
};

struct BoundsData {
    UbsanPlace place;
    const UbsanType *array, *index;
};

static Place place_of(const UbsanPlace& place) {
    return {place.file, static_cast<int>(place.line)};
}

}  // namespace simt

using namespace simt;

#define SIMT_EXPORT extern "C" __attribute__((visibility("default")))
#define SIMT_ACCESS(name, bytes, how)                                             \
    SIMT_EXPORT void __tsan_##name(void* p) {                                     \
        access(current(), reinterpret_cast<uintptr_t>(p), bytes, how, SIMT_CODE); \
    }
#define SIMT_ACCESSES(bytes)                         \
    SIMT_ACCESS(read##bytes, bytes, kRead)           \
    SIMT_ACCESS(write##bytes, bytes, kWrite)         \
    SIMT_ACCESS(unaligned_read##bytes, bytes, kRead) \
    SIMT_ACCESS(unaligned_write##bytes, bytes, kWrite)
SIMT_ACCESSES(1)
SIMT_ACCESSES(2)
SIMT_ACCESSES(4)
SIMT_ACCESSES(8)
SIMT_ACCESSES(16)

SIMT_EXPORT void __tsan_read_range(void* p, unsigned long bytes) {
    access(current(), reinterpret_cast<uintptr_t>(p), bytes, kRead, SIMT_CODE);
}
SIMT_EXPORT void __tsan_write_range(void* p, unsigned long bytes) {
    access(current(), reinterpret_cast<uintptr_t>(p), bytes, kWrite, SIMT_CODE);
}
SIMT_EXPORT void __tsan_init() {}
SIMT_EXPORT void __tsan_func_entry(void*) {}
SIMT_EXPORT void __tsan_func_exit(void*) {}

SIMT_EXPORT void __ubsan_handle_type_mismatch_v1(MismatchData* data, void* p) {
    fault_at(place_of(data->place), kMisaligned,
             "misaligned access: %s at address %#zx, which must be a multiple of %u",
             data->type->name, reinterpret_cast<uintptr_t>(p), 1u << data->log_alignment);
}
SIMT_EXPORT void __ubsan_handle_out_of_bounds(BoundsData* data, void* index) {
    fault_at(place_of(data->place), kOutOfBounds, "out of bounds: index %ld of an array %s",
             reinterpret_cast<long>(index), data->array->name);
}
SIMT_EXPORT void __ubsan_handle_divrem_overflow(UbsanPlace* place, void*, void*) {
    fault_at(place_of(*place), kArithmetic, "integer division by zero or overflow");
}

#define SIMT_OVERFLOW(name)                                                              \
    SIMT_EXPORT void __ubsan_handle_##name(UbsanPlace* place, void*, void*) {            \
        fault_at(place_of(*place), kArithmetic, "overflow of a signed integer: " #name); \
    }
SIMT_OVERFLOW(add_overflow)
SIMT_OVERFLOW(sub_overflow)
SIMT_OVERFLOW(mul_overflow)
SIMT_EXPORT void __ubsan_handle_negate_overflow(UbsanPlace* place, void*) {
    fault_at(place_of(*place), kArithmetic, "overflow of a signed integer: negation");
}
