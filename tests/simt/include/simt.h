// CUDA C++ for g++: included before every emulated kernel, it gives the language's words a meaning.
#pragma once
#include <cstddef>
// Their many templates would be made again in every kernel's compilation, and none is a kernel's.
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#include <math.h>
#include <stdlib.h>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

#include "simt_api.h"

#undef INFINITY  // NVRTC has neither
#undef NAN

#define __global__ __attribute__((noinline, visibility("hidden")))
#define __device__
#define __host__
#define __constant__ static
#define __managed__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __builtin_assume(condition)
#undef assert
#define assert(condition) \
    ((condition) ? (void)0 : simt::fail(SIMT_HERE, "assertion failed: " #condition))

#define threadIdx (simt::self->index)
#define blockIdx (simt::block.index)
#define blockDim (simt::block.size)
#define gridDim (simt::block.grid)
static constexpr int warpSize = 32;

#include "simt_types.h"
#include "simt_half.h"
#include "simt_maths.h"
#include "simt_warp.h"
#include "simt_atomic.h"
#include "simt_entry.h"
