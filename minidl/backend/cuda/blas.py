"""cuBLAS through a handle and a workspace of our own, legal while a graph is captured."""

import ctypes
import functools
from typing import Any

import numpy as np

from minidl.backend.cuda import runtime
from minidl.backend.cuda.choice import kind_of
from minidl.backend.cuda.runtime import Array
from minidl.errors import DeviceError, require

_TYPES = {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}  # cudaDataType
# CUBLAS_COMPUTE_32F, _64F and _32F_FAST_TF32
_COMPUTE = {"float16": 68, "bfloat16": 68, "float32": 68, "float64": 70, "tf32": 77}
_DEFAULT = -1  # CUBLAS_GEMM_DEFAULT
_WORKSPACE = 32 << 20  # bytes


@functools.cache
def _library() -> ctypes.CDLL:
    runtime.load_cublas()
    for name in ("libcublas.so.13", "libcublas.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    rule = "libcublas.so is not found; pip install 'minidl[gpu-wheels]'"
    raise DeviceError(f"cuda: {rule}")


def _call(name: str, *args: Any) -> None:
    status = getattr(_library(), name)(*args)
    if status:
        raise DeviceError(f"cuda: {name} failed with status {status}")


@functools.cache
def _handle() -> tuple[ctypes.c_void_p, Array]:
    handle = ctypes.c_void_p()
    _call("cublasCreate_v2", ctypes.byref(handle))
    return handle, runtime.empty((_WORKSPACE,), np.uint8)


def gemm(ta: int, tb: int, sizes: tuple[int, int, int], a: Array, lda: int, b: Array, ldb: int,
         c: Array, count: int = 1, apart: tuple[int, int, int] = (0, 0, 0)) -> None:  # fmt: skip
    """c (count, M, N) = op(a) op(b), row after row, for sizes M, N, K.

    op transposes where ta or tb is set; lda and ldb are the distances of rows, `apart` those of a
    batch's matrices. Sums are float32, or float64 for float64; float32 is multiplied in tf32 where
    `set_float32_matmul_precision` allows it.
    """
    (m, n, k), (sa, sb, sc) = sizes, apart
    require(max(*sizes, lda, ldb) < 1 << 31, "matmul", "cuBLAS takes sizes below 2**31", MNK=sizes)
    handle, workspace = _handle()
    stream = runtime.cupy().cuda.get_current_stream().ptr
    _call("cublasSetStream_v2", handle, ctypes.c_void_p(stream))
    size = ctypes.c_size_t(_WORKSPACE)
    _call("cublasSetWorkspace_v2", handle, ctypes.c_void_p(workspace.data.ptr), size)
    kind, double = _TYPES[c.dtype.name], c.dtype == np.float64
    one, zero = ((ctypes.c_double if double else ctypes.c_float)(v) for v in (1, 0))
    # cuBLAS counts columns first: to it, the transposed result is op(b) transposed times op(a)'s.
    given = [(b, ldb, sb), (a, lda, sa)]
    operands = [
        [ctypes.c_void_p(x.data.ptr), kind, ld, ctypes.c_longlong(step)] for x, ld, step in given
    ]
    result = [ctypes.c_void_p(c.data.ptr), kind, n, ctypes.c_longlong(sc)]
    first, second = operands
    _call("cublasGemmStridedBatchedEx", handle, tb, ta, n, m, k, ctypes.byref(one), *first, *second,
          ctypes.byref(zero), *result, count, _COMPUTE[kind_of(c.dtype)], _DEFAULT)  # fmt: skip
