// Where the arrays and the shared memory of a launch lie, for the checks of accesses.
#pragma once
#include "runtime.h"

namespace simt {

struct Cell;

struct Region {
    uintptr_t begin, end, pages;
    size_t page_bytes;
    Cell* cells;
    size_t cell_count;
    unsigned shift;  // an element that races are looked for in is 1 << shift bytes
};

struct SharedVariable {
    const char* name;
    char* address;
    size_t bytes;
};

constexpr unsigned kMaxShared = 128;
extern Region regions[kMaxArrays];
extern SharedVariable shared_variables[kMaxShared];
extern unsigned shared_variable_count;
extern uint8_t shared_owner[kArenaBytes];  // 1 + number of the variable that a byte belongs to
extern uintptr_t slots;

}  // namespace simt
