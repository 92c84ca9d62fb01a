"""The SIMT emulator: launches like CuPy's, their limits, the language, the plain build's guards."""

import contextlib
import threading

import numpy as np
import pytest

import simt
from simt import build, source
from simt.toys import kernel, load

pytestmark = pytest.mark.skipif(simt.available() is not None, reason=str(simt.available()))


def function(name: str, **settings) -> simt.Kernel:
    return load("language.cu", **settings).get_function(name)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# ---- The language


@pytest.mark.parametrize("check", [True, False], ids=["checked", "plain"])
def test_shared_memory_in_template_functions(check):
    """One __shared__ declaration, two instances of different types."""
    x, k = floats(128), np.random.default_rng(1).integers(-99, 99, 128, np.int32)
    x_max, k_max = simt.poison(np.empty(1, np.float32)), simt.poison(np.empty(1, np.int32))
    function("two_maxima", check=check)((1,), (128,), (x, k, x_max, k_max))
    assert x_max[0] == x.max() and k_max[0] == k.max()


@pytest.mark.parametrize("twice", [False, True])
def test_structs_tables_and_several_shared_variables(twice):
    x = floats(64).astype(np.float16)
    y = np.empty_like(x)
    scale = np.array([(2.0, 1.0)], [("factor", np.float32), ("offset", np.float32)])
    function("smooth")((1,), (64,), (x, y, scale, twice), shared_mem=256)
    wide = np.pad(x.astype(np.float32), 1, "edge")
    rows = np.convolve(wide, [0.25, 0.5, 0.25], "valid")
    if twice:
        wide[1:-1] = rows
        rows = np.convolve(wide, [0.25, 0.5, 0.25], "valid")
    assert np.allclose(y.astype(np.float32), 2 * rows + 1, atol=2e-3)


def test_templates_by_name_expressions():
    module = simt.Module(
        simt.toys.text_of("language.cu"), name_expressions=["fill<float>", "fill<short>"]
    )
    for kind, value in ((np.float32, np.float32(1.5)), (np.int16, np.int16(-3))):
        x = np.zeros(10, kind)
        name = "fill<float>" if kind is np.float32 else "fill<short>"
        module.get_function(name)((1,), (32,), (x, value, np.int32(7)))
        assert np.array_equal(x, np.where(np.arange(10) < 7, value, 0))


def test_kernels_from_macros_and_python_numbers():
    """A Python int goes as int64, as in CuPy."""
    for kind in (np.float32, np.float64):
        x, y = floats(50).astype(kind), np.zeros(50, kind)
        name = "square_float" if kind is np.float32 else "square_double"
        function(name)((2,), (32,), (x, y, 50))
        assert np.array_equal(y, x * x)


def test_indices_in_three_dimensions():
    grid, block = (3, 2, 2), (4, 3, 5)
    out = simt.poison(np.empty(12 * 60, np.uint32))
    function("places")(grid, block, (out,))
    assert np.array_equal(out, np.arange(out.size))


def test_text_that_does_not_compile():
    with pytest.raises(simt.BuildError, match="bad.cu:2"):
        simt.Module('extern "C" __global__ void f(int* x) {\n  x[0] = y;\n}', name="bad.cu")
    with pytest.raises(simt.BuildError, match="no kernel"):
        simt.Module("__device__ void f(int* x) {}")
    with pytest.raises(simt.BuildError, match="unknown to the emulator"):
        simt.Module("", options=("--frobnicate",))
    with pytest.raises(KeyError, match="square_float"):
        function("cube")


def test_shared_declarations_are_rewritten_in_place():
    """Attributes before and after, lists, line numbers."""
    text = "\n__shared__ alignas(16) float a[2][3],\n    b;\nextern __shared__ float4 c[];\nint d;"
    after = source.rewrite_shared(text)
    assert after.count("\n") == text.count("\n") and after.splitlines()[-1] == "int d;"
    assert after.count("alignas(16) float") == 2 and "float4* c = (float4*)" in after


# ---- The order of threads and blocks


def test_orders_depend_on_the_seed_alone():
    """Fibers and blocks run in another order for another seed, in the same for the same."""
    run, orders = function("arrivals"), []
    for seed in (1, 2, 1):
        counter, order = np.zeros(1, np.uint32), np.empty(4 * 64, np.uint32)
        run.module.seed = seed
        run((4,), (64,), (counter, order))
        orders.append(order)
    assert np.array_equal(np.sort(orders[0]), np.arange(256))
    assert np.array_equal(orders[0], orders[2]) and not np.array_equal(orders[0], orders[1])
    blocks = [np.argsort(order.reshape(4, 64).min(1)) for order in orders]
    assert any(not np.array_equal(b, np.arange(4)) for b in blocks)


# ---- Limits and arguments


@pytest.mark.parametrize(
    "grid, block, shared",
    [
        ((0,), (32,), 0),
        ((1, 65536), (32,), 0),
        ((1, 1, 65536), (32,), 0),
        ((2**31,), (32,), 0),
        ((1,), (0,), 0),
        ((1,), (1025,), 0),
        ((1,), (32, 33), 0),
        ((1,), (1, 1, 65), 0),
        ((1,), (32,), (48 << 10) + 1),
        ((1, 1, 1, 1), (32,), 0),
        (1, (32,), 0),
    ],
)
def test_launches_beyond_the_limits(grid, block, shared):
    with pytest.raises(simt.LaunchFault, match="places"):
        function("places")(grid, block, (np.zeros(9, np.uint32),), shared_mem=shared)


def test_launch_bounds_and_large_shared_memory():
    """A block above __launch_bounds__; more than 48 KiB only on request, never above 227."""
    args = floats(160), np.zeros(160, np.int32), np.zeros(1, np.float32), np.zeros(1, np.int32)
    with pytest.raises(simt.LaunchFault, match="160 threads, above 128"):
        function("two_maxima")((1,), (160,), args)
    run, counts = kernel("histogram.cu"), np.zeros(50000, np.uint32)
    args = np.zeros(5, np.int32), counts, np.int32(5), np.int32(counts.size)
    with pytest.raises(simt.LaunchFault, match="max_dynamic_shared_size_bytes"):
        run((1,), (64,), args, shared_mem=200000)
    run.max_dynamic_shared_size_bytes = 200000
    run((1,), (64,), args, shared_mem=200000)
    assert counts[0] == 5 and counts.sum() == 5
    run.max_dynamic_shared_size_bytes = 300000
    with pytest.raises(simt.LaunchFault, match="above 232448"):
        run((1,), (64,), args, shared_mem=240000)


def test_too_much_static_shared_memory():
    text = 'extern "C" __global__ void f(int* x) { __shared__ int a[12289]; a[0] = x[0]; }'
    with pytest.raises(simt.LaunchFault, match="48 KiB"):
        simt.Module(text).get_function("f")((1,), (1,), (np.zeros(1, np.int32),))


X, N = np.zeros(8, np.float32), np.int32(8)


@pytest.mark.parametrize(
    "args, message",
    [
        ((X, X), "takes 3 arguments; got 2"),
        ((X, X, N, N), "takes 3 arguments; got 4"),
        ((X, X, 8), r"argument 2 \(n\).*use np.int32"),
        ((X, X, 8.0), r"argument 2 \(n\).*float"),
        ((X, X, np.float32(8)), "float32"),
        ((X, X, np.int64(8)), "int64"),
        ((X, X, X), "float32 array"),
        ((X.astype(np.float64), X, N), r"argument 0 \(x\).*float64 array"),
        ((X.astype(np.int32), X, N), "int32 array"),
        ((8, X, N), "NumPy array or None; got int"),
        ((X, [1.0], N), "NumPy array or None; got list"),
    ],
)
def test_arguments_that_do_not_fit(args, message):
    """CuPy would pass them all."""
    with pytest.raises(simt.ArgumentFault, match=message):
        kernel("copy.cu")((1,), (64,), args)


def test_views_share_their_memory():
    """Two views of one array are seen as one memory, at their offsets, and at its alignment."""
    whole = np.arange(40, dtype=np.float32)
    kernel("copy.cu")((1,), (64,), (whole[:20], whole[20:], np.int32(20)))
    assert np.array_equal(whole[20:], whole[:20])
    with pytest.raises(simt.Misaligned):
        kernel("copy.cu")((1,), (64,), (whole[1:21], np.empty(20, np.float32), np.int32(20)))
    with pytest.raises(simt.DataRace):  # each thread reads what its neighbour writes
        kernel("copy.cu")((1,), (64,), (whole[0:20], whole[4:24], np.int32(20)))


def test_tables_of_addresses():
    """Resident arrays are reached through structs and through pointers, within their bounds."""
    tensors = [floats(n) for n in (5, 40, 1)]
    before = [t.copy() for t in tensors]
    row = np.dtype([("data", np.uint64), ("n", np.int64), ("amount", np.float64)])
    rows = np.array([(t.ctypes.data, t.size, i + 1.0) for i, t in enumerate(tensors)], row)
    table, addresses = rows.copy(), np.array([t.ctypes.data for t in tensors], np.uint64)
    with simt.resident(*tensors):
        function("add_to_all")((3,), (32,), (rows,))
        function("add_through_pointers")((3,), (32,), (addresses, np.int32(1)))
    for i, (t, b) in enumerate(zip(tensors, before)):
        assert t[0] == b[0] + np.float32(i + 1) + 1 and np.array_equal(t[1:], b[1:] + (i + 1))
    assert np.array_equal(rows, table)
    with simt.resident(*tensors), pytest.raises(simt.OutOfBounds, match="resident array 2"):
        function("add_through_pointers")((3,), (32,), (addresses, np.int32(5)))
    with pytest.raises(simt.OutOfBounds, match="address"):
        function("add_to_all")((3,), (32,), (rows,))


def test_poison():
    """NaN in all floating-point formats, and found wherever nothing has been written."""
    for kind in (np.float16, np.float32, np.float64):
        assert np.isnan(simt.poison(np.empty((2, 3), kind))).all()
    assert (simt.poison(np.empty(3, np.int32)) > 2**30).all()
    x = floats(12)
    simt.poison(x[5:6])
    with pytest.raises(simt.Uninitialised, match="never written"):
        kernel("copy.cu")((1,), (64,), (x, np.empty_like(x), np.int32(12)))
    counts = simt.poison(np.empty(4, np.uint32))
    with pytest.raises(simt.Uninitialised, match="atomic operation"):
        args = np.zeros(5, np.int32), counts, np.int32(5), np.int32(4)
        kernel("histogram.cu")((1,), (64,), args, shared_mem=16)
    stored = simt.poison(np.empty(2**16, np.uint16))  # bfloat16 to the kernel
    with pytest.raises(simt.Uninitialised, match="argument 1"):
        args = np.zeros(2**16, np.float16), stored, *np.empty((2, 2**16), np.float32)
        kernel("narrow.cu", name="widen")((256,), (256,), args)


def test_empty_arrays_and_absent_ones():
    nothing = np.empty(0, np.float32)
    kernel("copy.cu")((1,), (64,), (nothing, None, np.int32(0)))
    with pytest.raises(simt.OutOfBounds, match="argument 0"):
        kernel("copy.cu")((1,), (64,), (nothing, X.copy(), np.int32(1)))
    with pytest.raises(simt.OutOfBounds, match="null pointer"):
        kernel("copy.cu")((1,), (64,), (X, None, np.int32(1)))


START = "if (!i) word[0] = 0; __syncthreads();"


@pytest.mark.parametrize(("body", "fault"), [
    ("half[i] = i + 1; __syncthreads(); x[i] = word[0]; __syncthreads(); if (!i) word[0] = 7;"
     "__syncthreads(); x[i] += half[i]; __syncthreads(); byte[i] = 9; __syncthreads();"
     "if (i) word[0] = byte[0]; __syncthreads(); x[i] += word[0];", None),
    (START + "if (i) half[1] = 1; else x[0] = half[0];", None),
    ("if (!i) half[0] = 1; __syncthreads(); x[i] = word[0];", simt.Uninitialised),
    ("if (!i) word[0] = 1; __syncthreads(); x[i] = half[2];", simt.Uninitialised),
    (START + "half[i] = 1; x[i] = word[0];", simt.DataRace),
    (START + "if (i) byte[2] = 1; else x[0] = word[0];", simt.DataRace),
    (START + "if (i) x[0] = byte[3]; else word[0] = 1;", simt.DataRace),
    ("half[i] = i; __syncthreads(); if (i) half[1] = 2; else word[0] = 1;", simt.DataRace),
    ("half[i] = i; __syncthreads();" + START + "if (i) x[0] = byte[3]; else word[0] = 3;",
     simt.DataRace),
    (START + "if (i) { half[1] = 1; x[1] = word[0]; } else x[0] = half[1];", simt.DataRace),
    (START + "if (i) half[1] = 1; atomicAdd(word, 1);", simt.DataRace),
    (START + "if (i) x[0] = half[1]; else atomicAdd(word, 1);", simt.DataRace),
])  # fmt: skip
def test_words_of_shared_memory_and_their_parts(body, fault):
    """A word is one place until a part of it is accessed, and again once it is written."""
    head = "(unsigned* x) { __shared__ unsigned word[4]; const unsigned i = threadIdx.x;"
    head += "auto* half = (unsigned short*)word; auto* byte = (unsigned char*)word;"
    text, x = f'extern "C" __global__ void f{head} {body} }}', np.zeros(2, np.uint32)
    for seed in range(4):
        run = simt.Module(text, seed=seed).get_function("f")
        with pytest.raises(fault, match="shared word") if fault else contextlib.nullcontext():
            run((1,), (2,), (x,))


# ---- The plain build


def plain(text: str, *args: object, threads: int = 32) -> None:
    module = simt.Module(f'extern "C" __global__ void f{text}', check=False)
    module.get_function("f")((1,), (threads,), args)


def test_plain_build_finds_wild_accesses():
    """It does not crash, and the array is left out of bounds without harm to others."""
    x = np.zeros(1000, np.float32)
    with pytest.raises(simt.OutOfBounds, match="memory fault"):
        plain("(float* x) { x[threadIdx.x * 100000] = 1; }", x)
    with pytest.raises(simt.OutOfBounds, match="just outside argument 0"):
        plain("(float* x) { x[1000] = 1; }", x, threads=1)
    with pytest.raises(simt.OutOfBounds, match="stack overflow"):
        plain("(float* x) { float y[99999]; for (int i = 0; i < 99999; i++) y[i] = x[i % 9]; "
              "x[0] = y[int(x[1])]; }", x)  # fmt: skip
    with pytest.raises(simt.ArithmeticFault, match="division by zero"):
        plain("(int* x) { x[1] = 5 / x[0]; }", np.zeros(2, np.int32), threads=1)


def test_plain_build_ends_endless_loops(monkeypatch):
    monkeypatch.setattr(simt.module, "SECONDS", 1)
    with pytest.raises(simt.Deadlock, match="endless loop"):
        plain("(volatile int* x) { while (x[0] == 0) {} }", np.zeros(1, np.int32), threads=1)


def test_shared_memory_of_the_plain_build_starts_as_poison():
    x = np.zeros(32, np.float32)
    plain("(float* x) { __shared__ float s[32]; x[threadIdx.x] = s[threadIdx.x]; }", x)
    assert np.isnan(x).all()


def test_launches_from_several_threads_wait_for_each_other():
    results: list[bool] = []

    def run() -> None:
        x, y = floats(1000), np.zeros(1000, np.float32)
        kernel("copy.cu", check=False)((4,), (64,), (x, y, np.int32(1000)))
        results.append(np.array_equal(x, y))

    workers = [threading.Thread(target=run) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert results == [True] * 4


def test_compiled_kernels_are_stored(tmp_path, monkeypatch):
    """The second module of a text is the stored one; another flag makes another."""
    monkeypatch.setenv("MINIDL_SIMT_CACHE", str(tmp_path))
    text = 'extern "C" __global__ void f(int* x) { x[0] = VALUE; }'
    for value in (1, 1, 2):
        x = np.zeros(1, np.int32)
        module = simt.Module(text, options=(f"-DVALUE={value}",), check=False)
        module.get_function("f")((1,), (1,), (x,))
        assert x[0] == value
    assert len(list(build.cache_folder().glob("*-plain.so"))) == 2
