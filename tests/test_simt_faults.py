"""The SIMT emulator finds faults: kernels with one put in, beside the same ones without."""

import re

import numpy as np
import pytest

import simt
from simt.toys import kernel

pytestmark = pytest.mark.skipif(simt.available() is not None, reason=str(simt.available()))


def poisoned(*shape: int, dtype=np.float32) -> np.ndarray:
    return simt.poison(np.empty(shape, dtype))


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def run_sum(*edits, n=1000, block=128, **settings):
    out = np.zeros(1, np.float32)
    kernel("reduce.cu", *edits, **settings)((3,), (block,), (floats(n), out, np.int32(n)))


def run_matmul(*edits, m=33, n=40, k=50, **settings):
    args = floats(m, k), floats(k, n), poisoned(m, n), np.int32(m), np.int32(n), np.int32(k)
    kernel("matmul.cu", *edits, **settings)((-(-n // 16), -(-m // 16)), (16, 16), args)


def run_tensor(*edits, m=70, n=72, k=104, shared=2 * 2 * (64 * 40 + 32 * 72), **settings):
    a, b = floats(m, k).astype(np.float16), floats(k, n).astype(np.float16)
    args = a, b, poisoned(m, n), np.int32(m), np.int32(n), np.int32(k)
    run = kernel("tensor.cu", *edits, options=("-DHALF",), **settings)
    run((-(-n // 64), -(-m // 64)), (128,), args, shared_mem=shared)


def run_histogram(*edits, n=500, bins=50, **settings):
    x = np.random.default_rng(0).integers(0, bins, n, np.int32)
    args = x, np.zeros(bins, np.uint32), np.int32(n), np.int32(bins)
    kernel("histogram.cu", *edits, **settings)((2,), (96,), args, shared_mem=4 * bins)


def run_copy(*edits, n=101, offset=0, **settings):
    x, y = floats(n + offset)[offset:], poisoned(n)
    kernel("copy.cu", *edits, **settings)((1,), (64,), (x, y, np.int32(n)))


def run_softmax(*edits, rows=6, columns=50, **settings):
    args = floats(rows, columns), poisoned(rows, columns), np.int32(rows), np.int32(columns)
    kernel("softmax.cu", *edits, **settings)((-(-rows // 4),), (32, 4), args)


def run_ticket(*edits, n=100, **settings):
    args = floats(n), poisoned(7), poisoned(1), np.zeros(1, np.uint32), np.int32(n)
    kernel("ticket.cu", *edits, **settings)((7,), (64,), args)


def run_small(*edits, **settings):
    x = floats(64)
    x.flags.writeable = False
    args = x, poisoned(64), np.zeros(128, np.int32)
    kernel("small.cu", *edits, **settings)((1,), (64,), args)


def run_patterns(*edits, **settings):
    def run(name, grid, block, *args):
        kernel("patterns.cu", *edits, name=name, **settings)((grid,), (block,), args)

    x, sums = floats(96), poisoned(3)
    run("warp_tree", 3, 32, x, sums)
    np.testing.assert_allclose(sums, x.reshape(3, 32).sum(1), rtol=1e-5, atol=1e-5)
    run("groups_reverse", 1, 32, floats(32), np.float32(0.5))
    run("two_buffers", 1, 100, x := floats(100), y := poisoned(100), np.int32(100), np.int32(2))
    np.testing.assert_allclose(y, x + 2 * np.roll(x, -1) + np.roll(x, -2), rtol=1e-5, atol=1e-5)
    run("through_global", 2, 64, poisoned(2, 64), np.zeros(2, np.float32))
    total = np.zeros(1, np.float32)
    run("all_fence", 5, 64, poisoned(5, 64), total, np.zeros(1, np.uint32))
    assert total[0] == 5 * 64 * 63 / 2
    run("narrow_neighbours", 1, 64, np.zeros(64, np.uint8), np.zeros(64, np.uint16))


RUNS = {
    run.__name__.removeprefix("run_"): run
    for run in (
        run_sum, run_matmul, run_tensor, run_histogram, run_copy, run_softmax, run_ticket,
        run_small, run_patterns,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("check", [True, False], ids=["checked", "plain"])
def test_healthy_kernels_pass(name, check):
    """What the faults below are put into has none, in whatever order threads run."""
    for seed in range(5):
        RUNS[name](check=check, seed=seed)


# (what, fault, part of the message, kernel, text to replace, text with the fault)
MUTANTS = [
    # Memory
    ("reads one element too many", simt.OutOfBounds, r"read of 4 bytes at argument 0 \(x: float32",
     "sum", "i < n;", "i <= n;"),
    ("writes one element too many", simt.OutOfBounds, r"write of 4 bytes at argument 1 \(y",
     "copy", "for (int j = i; j < n; j++) y[j] = x[j];",
     "for (int j = i; j <= n && j >= 4 * (n / 4); j++) y[j] = 1.0f;"),
    ("reads before the start", simt.OutOfBounds, "byte -4",
     "softmax", "sum += __expf(x[c] - most)", "sum += __expf(x[c - 1 - columns * row] - most)"),
    ("forgets the guard", simt.OutOfBounds, r"argument 2 \(c",
     "matmul", "if (row < m && column < n) c[", "if (column < n) c["),
    ("writes what is read-only", simt.OutOfBounds, "read-only",
     "small", "y[t] = x[t];", "y[t] = x[t]; const_cast<float*>(x)[t] = 0.0f;"),
    ("writes through a null pointer", simt.OutOfBounds, "null pointer",
     "small", "y[t] = x[t];", "y[t] = x[t]; if (t == 5) *(float*)nullptr = 0.0f;"),
    ("leaves a shared array", simt.OutOfBounds, "index 64",
     "small", "tile[t] = x[t];", "tile[t + (t == 63)] = x[t];"),
    ("leaves a shared array by a pointer", simt.OutOfBounds, "shared tile, byte 256 of 256",
     "small", "tile[t] = x[t];", "float* p = tile + t; if (t == 63) p++; *p = x[t];"),
    ("leaves dynamic shared memory", simt.OutOfBounds, "dynamic memory, byte 200 of 200",
     "histogram", "b < bins; b += blockDim.x) own[b] = 0;",
     "b <= bins; b += blockDim.x) own[b] = 0;"),
    ("makes the offset overflow", simt.ArithmeticFault, "mul_overflow",
     "matmul", "a[(size_t)row * k + ka]", "a[(row + 1) * 100000 * 100000 + ka]"),
    ("divides by zero", simt.ArithmeticFault, "division by zero",
     "small", "y[t] = x[t];", "y[t] = x[t] + 1 / counts[t];"),
    ("loads a vector from x + 1", simt.Misaligned, "multiple of 16",
     "copy", "<const float4*>(x + i)", "<const float4*>(x + i + 1)"),
    ("stores a vector to y + 1", simt.Misaligned, "multiple of 16",
     "copy", "store16(y + i,", "store16(y + i + 1,"),
    ("stores a vector for global memory elsewhere", simt.OutOfBounds, "store16 .* in shared memory",
     "copy", "store16(y + i,", "__shared__ __align__(16) float own[4]; store16(own,"),
    ("stores a pair to an odd column", simt.Misaligned, "multiple of 8",
     "tensor", "(row + 8 * h) * n + column) =", "(row + 8 * h) * n + column + 1) ="),
    ("copies 16 bytes from an odd column", simt.Misaligned, "source is not aligned",
     "tensor", "a + (size_t)row * k + column : a", "a + (size_t)row * k + column + 1 : a"),
    ("loads matrices from odd rows", simt.Misaligned, "not aligned to 16",
     "tensor", "kk + lane / 16 * 8", "kk + lane / 16 * 4"),
    ("reads shared memory before it is written", simt.Uninitialised, "shared tile",
     "small", "tile[t] = x[t];", "if (t != 7) tile[t] = x[t];"),
    ("adds to an output that has no value yet", simt.Uninitialised, r"argument 2 \(c",
     "matmul", "c[(size_t)row * n + column] = sum", "c[(size_t)row * n + column] += sum"),
    ("reads a workspace nobody fills", simt.Uninitialised, r"argument 1 \(parts",
     "ticket", "parts[blockIdx.x] = sum;", ""),
    # Barriers
    ("forgets the barrier after loading", simt.Fault, "shared",
     "matmul", "0.0f;\n        __syncthreads();", "0.0f;"),
    ("forgets the barrier before loading again", simt.DataRace, "data race at shared",
     "matmul", "__syncthreads();\n    }", "}"),
    ("has half of the threads at the barrier", simt.BarrierDivergence, "by some threads only",
     "small", "y[t] = x[t];", "y[t] = x[t]; if (t < 32) __syncthreads();"),
    ("returns before the barrier", simt.BarrierDivergence, "by some threads only",
     "small", "__syncthreads();", "if (t == 63) return; __syncthreads();"),
    ("has a barrier in each branch", simt.BarrierDivergence, "by some threads only",
     "small", "__syncthreads();", "if (t < 32) {\n__syncthreads();\n} else {\n__syncthreads();\n}"),
    ("goes round the loop too rarely in some threads", simt.BarrierDivergence, "some threads only",
     "matmul", "start < k;", "start < k - (threadIdx.x == 3 ? TILE : 0);"),
    ("waits for a warp that waits at the barrier", simt.Deadlock, "__shfl_xor_sync",
     "small", "__syncthreads();",
     "if (t % 2) __syncthreads(); else counts[t] = __shfl_xor_sync(~0u, t, 1);"),
    ("spins on a flag that nobody sets", simt.Deadlock, "spins",
     "small", "y[t] = x[t];", "y[t] = x[t]; while (atomicAdd(counts + 64, 0) == 0) {}"),
    # Warps
    ("shuffles in one half of the warp", simt.WarpDivergence, "returned|returns, but",
     "small", "y[t] = x[t];", "y[t] = t < 48 ? __shfl_xor_sync(~0u, x[t], 1) : x[t];"),
    ("leaves its own lane out of the mask", simt.WarpDivergence, "its own lane",
     "softmax", "fmaxf(v, __shfl_xor_sync(0xffffffffu", "fmaxf(v, __shfl_xor_sync(0xfffffffeu"),
    ("has two masks", simt.WarpDivergence, "with mask",
     "small", "y[t] = x[t];", "y[t] = __shfl_xor_sync(t % 2 ? ~0u : 0x55555555u, x[t], 2);"),
    ("has two collectives", simt.WarpDivergence, "a vote",
     "small", "y[t] = x[t];",
     "y[t] = t % 2 ? __shfl_xor_sync(~0u, x[t], 2) : __ballot_sync(~0u, t);"),
    ("reads a lane outside the mask", simt.WarpDivergence, "does not take part",
     "small", "y[t] = x[t];", "y[t] = t < 24 ? __shfl_xor_sync(0xffffffu, x[t], 8) : 0.0f;"),
    ("shuffles after lanes have returned", simt.WarpDivergence, "has returned",
     "small", "y[t] = x[t];", "if (t > 50) return; y[t] = __shfl_xor_sync(~0u, x[t], 1);"),
    ("multiplies in half a warp", simt.WarpDivergence, "mma",
     "tensor", "mma_m16n8k16(sum[i][j], af[i], bf[j])",
     "if (lane < 16) mma_m16n8k16(sum[i][j], af[i], bf[j])"),
    # Races
    ("exchanges within a warp without __syncwarp", simt.DataRace, "no barrier",
     "small", "__syncwarp();", ""),
    ("writes the same value from all threads", simt.DataRace, "write by thread",
     "small", "y[t] = x[t];", "y[t] = x[t]; counts[64] = 7;"),
    ("writes the same value from all blocks", simt.DataRace, "write by block",
     "histogram", "if (own[b]) atomicAdd(counts + b, own[b]);", "counts[b] = 5;"),
    ("counts without atomics", simt.DataRace, "data race at shared dynamic memory",
     "histogram", "atomicAdd(&own[x[i]], 1u);", "own[x[i]]++;"),
    ("adds to global memory without atomics", simt.DataRace, "by block",
     "sum", "atomicAdd(out, sum);", "*out += sum;"),
    ("reads a count that others still raise", simt.DataRace, "atomic operation",
     "histogram", "}\n    __syncthreads();", "}"),
    ("sets to zero what others already raise", simt.DataRace, "data race",
     "small", "y[t] = x[t];",
     "y[t] = x[t]; if (t == 0) counts[64] = 0; atomicAdd(counts + 64, 1);"),
    ("publishes a sum without a fence", simt.DataRace, r"argument 1 \(parts",
     "ticket", "__threadfence();", ""),
    ("reads the flag of the last block too early", simt.Fault, "shared last",
     "ticket", "__syncthreads();", ""),
    ("adds up a tree without barriers of the warp", simt.DataRace, "shared tree",
     "patterns", "        __syncwarp();\n    }\n    if (lane == 0)", "    }\n    if (lane == 0)"),
    ("synchronises other lanes than those it reads", simt.DataRace, "shared part",
     "patterns", "0xffu << first", "(lane & 1 ? 0xaau : 0x55u) << first"),
    ("reads the buffer that is being filled", simt.Fault, "shared buffers",
     "patterns", "buffers[step % 2];", "buffers[(step + 1) % 2];"),
    ("overwrites what other groups still read", simt.DataRace, "shared shift",
     "patterns", "    __syncwarp();\n    if (lane == 31)", "    if (lane == 31)"),
    ("has no barrier between writing and reading global memory", simt.Fault, r"argument 0 \(y",
     "patterns", "row[threadIdx.x] = threadIdx.x;\n    __syncthreads();",
     "row[threadIdx.x] = threadIdx.x;"),
    ("fences in one thread only", simt.DataRace, "by block",
     "patterns", "__threadfence();", "if (threadIdx.x == 5) __threadfence();"),
    # Asynchronous copies
    ("never waits for its copies", simt.MissingWait, "cp.async has not been waited for",
     "tensor", "cp_async_wait<1>();", ""),
    ("waits for one group too few", simt.MissingWait, "cp.async has not been waited for",
     "tensor", "cp_async_wait<1>();", "cp_async_wait<2>();"),
    ("forgets to commit", simt.MissingWait, "cp.async has not been waited for",
     "tensor", "n, k, 0);\n    cp_async_commit();", "n, k, 0);"),
    ("does not wait for the others' copies", simt.Fault, "dynamic memory",
     "tensor", "__syncthreads();  // everyone's part of this stage is there", ""),
    ("fills the stage that others still read", simt.DataRace, "cp.async here",
     "tensor", "__syncthreads();  // nobody reads the stage that is filled next", ""),
    ("copies past the end", simt.OutOfBounds, r"argument 0 \(a",
     "tensor", "row < m && column < k;", "column < k;"),
    # The rest
    ("fails an assertion", simt.AssertionFault, "assertion failed: t < 63",
     "small", "y[t] = x[t];", "y[t] = x[t]; assert(t < 63);"),
    ("traps", simt.AssertionFault, "__trap",
     "small", "y[t] = x[t];", "y[t] = x[t]; if (t == 9) __trap();"),
]  # fmt: skip


@pytest.mark.parametrize(
    "what, fault, message, name, old, new", MUTANTS, ids=[m[0] for m in MUTANTS]
)
def test_faults_are_found(what, fault, message, name, old, new):
    """Each kind, in a message that names kernel, block, thread and line."""
    for seed in range(3):
        with pytest.raises(fault) as raised:
            RUNS[name]((old, new), seed=seed)
        text = str(raised.value)
        assert re.search(message, text), text
    where = "" if "no thread can go on" in text else r"block \(.*\) thread \(.*\): "
    assert re.match(rf"\w+: {where}", text) and ".cu:" in text, text
