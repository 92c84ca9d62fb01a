"""Finds a BLAS for the kernels: NumPy's own OpenBLAS, one named by MINIDL_BLAS, or our plain GEMM.

BLAS always runs one thread here: the thread team calls it from inside its chunks, and two pools
beside each other cost 3-8x. `ml_gemm_f32` and `ml_gemm_f64` are the kernels' only way to it.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import DeviceError, require

_ROW_MAJOR, _NO_TRANS = 101, 111


@functools.cache
def _library() -> tuple[Any, str, str, str] | None:
    """The loaded library, its names' prefix and suffix, and its path; None: there is none."""
    given = os.environ.get("MINIDL_BLAS")
    folder = Path(np.__file__).parent
    found = [Path(given)] if given else []
    if given is None:
        for place in (folder.parent / "numpy.libs", folder / ".dylibs"):
            found += sorted(place.glob("*openblas*"))
    for path in found:
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
            if hasattr(library, f"{prefix}cblas_sgemm{suffix}"):
                _one_thread(library, prefix, suffix)
                return library, prefix, suffix, str(path)
    require(
        not given,
        "MINIDL_BLAS",
        "must name a library with cblas_sgemm (empty: minidl's own GEMM)",
        error=DeviceError,
        value=given,
    )
    return None


def _one_thread(library: Any, prefix: str, suffix: str) -> None:
    name = f"{prefix}openblas_set_num_threads{suffix}"
    if hasattr(library, name):
        getattr(library, name)(1)


def kind() -> str:
    """Which calling convention is in use, part of every kernel's cache key."""
    library = _library()
    return f"cblas{library[2]}" if library else "own"


def describe() -> str:
    """One line for `python -m minidl info`."""
    library = _library()
    if library is None:
        return "minidl's own GEMM (no OpenBLAS found beside NumPy; MINIDL_BLAS can name one)"
    handle, prefix, suffix, path = library
    name = f"{prefix}openblas_get_config{suffix}"
    if not hasattr(handle, name):
        return path
    get = getattr(handle, name)
    get.restype = ctypes.c_char_p
    return f"{get().decode()} ({Path(path).name}), one thread per chunk of work"


def symbols() -> dict[str, int]:
    """Addresses of the functions that the wrappers call."""
    library = _library()
    if library is None:
        return {}
    handle, prefix, suffix, _ = library
    return {
        f"minidl_cblas_{t}gemm": address(getattr(handle, f"{prefix}cblas_{t}gemm{suffix}"))
        for t in "sd"
    }


def address(function: Any) -> int:
    """Address of a ctypes function."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def wrappers() -> str:
    """LLVM IR of ml_gemm_f32 and ml_gemm_f64, whichever BLAS there is."""
    library = _library()
    one = _own if library is None else (_cblas64 if library[2] == "64_" else _cblas32)
    return one("float", "s", 32) + one("double", "d", 64)


def _head(t: str, bits: int) -> str:
    return (
        f"define internal void @ml_gemm_f{bits}(i64 %ta, i64 %tb, i64 %m, i64 %n, i64 %k, "
        f"{t} %alpha, ptr %a, i64 %lda, ptr %b, i64 %ldb, {t} %beta, ptr %c, i64 %ldc)"
    )


def _cblas64(t: str, letter: str, bits: int) -> str:
    return f"""
declare void @minidl_cblas_{letter}gemm(i32, i32, i32, i64, i64, i64,
  {t}, ptr, i64, ptr, i64, {t}, ptr, i64)
{_head(t, bits)} alwaysinline {{
 %ta32 = trunc i64 %ta to i32
 %tb32 = trunc i64 %tb to i32
 %opa = add i32 %ta32, {_NO_TRANS}
 %opb = add i32 %tb32, {_NO_TRANS}
 call void @minidl_cblas_{letter}gemm(i32 {_ROW_MAJOR}, i32 %opa, i32 %opb, i64 %m, i64 %n, i64 %k,
  {t} %alpha, ptr %a, i64 %lda, ptr %b, i64 %ldb, {t} %beta, ptr %c, i64 %ldc)
 ret void
}}
"""


def _cblas32(t: str, letter: str, bits: int) -> str:
    sizes = ("ta", "tb", "m", "n", "k", "lda", "ldb", "ldc")
    narrow = "\n".join(f" %{s}32 = trunc i64 %{s} to i32" for s in sizes)
    return f"""
declare void @minidl_cblas_{letter}gemm(i32, i32, i32, i32, i32, i32,
  {t}, ptr, i32, ptr, i32, {t}, ptr, i32)
{_head(t, bits)} alwaysinline {{
{narrow}
 %opa = add i32 %ta32, {_NO_TRANS}
 %opb = add i32 %tb32, {_NO_TRANS}
 call void @minidl_cblas_{letter}gemm(i32 {_ROW_MAJOR}, i32 %opa, i32 %opb, i32 %m32, i32 %n32,
  i32 %k32, {t} %alpha, ptr %a, i32 %lda32, ptr %b, i32 %ldb32, {t} %beta, ptr %c, i32 %ldc32)
 ret void
}}
"""


def _own(t: str, letter: str, bits: int) -> str:
    """c = alpha op(a) op(b) + beta c as row updates c[i] += a[i, p] b[p], which vectorise."""
    return f"""
{_head(t, bits)} noinline {{
entry:
 %a1 = icmp eq i64 %ta, 0
 %as = select i1 %a1, i64 %lda, i64 1
 %ak = select i1 %a1, i64 1, i64 %lda
 %b1 = icmp eq i64 %tb, 0
 %bk = select i1 %b1, i64 %ldb, i64 1
 %bs = select i1 %b1, i64 1, i64 %ldb
 %clear = fcmp oeq {t} %beta, 0.0
 %any = icmp sgt i64 %m, 0
 br i1 %any, label %row, label %out
row:
 %i = phi i64 [ 0, %entry ], [ %i1, %rowend ]
 %ci = mul i64 %i, %ldc
 %cr = getelementptr {t}, ptr %c, i64 %ci
 %ai = mul i64 %i, %as
 %ar = getelementptr {t}, ptr %a, i64 %ai
 %hasn = icmp sgt i64 %n, 0
 br i1 %hasn, label %scale, label %rowend
scale:
 %j = phi i64 [ 0, %row ], [ %j1, %scale ]
 %cp = getelementptr {t}, ptr %cr, i64 %j
 %c0 = load {t}, ptr %cp
 %cb = fmul {t} %c0, %beta
 %cv = select i1 %clear, {t} 0.0, {t} %cb
 store {t} %cv, ptr %cp
 %j1 = add i64 %j, 1
 %jm = icmp slt i64 %j1, %n
 br i1 %jm, label %scale, label %depth
depth:
 %hask = icmp sgt i64 %k, 0
 br i1 %hask, label %term, label %rowend
term:
 %p = phi i64 [ 0, %depth ], [ %p1, %termend ]
 %ao = mul i64 %p, %ak
 %ap = getelementptr {t}, ptr %ar, i64 %ao
 %av = load {t}, ptr %ap
 %aa = fmul {t} %av, %alpha
 %bo = mul i64 %p, %bk
 %br = getelementptr {t}, ptr %b, i64 %bo
 br label %inner
inner:
 %q = phi i64 [ 0, %term ], [ %q1, %inner ]
 %bq = mul i64 %q, %bs
 %bp = getelementptr {t}, ptr %br, i64 %bq
 %bv = load {t}, ptr %bp
 %cq = getelementptr {t}, ptr %cr, i64 %q
 %co = load {t}, ptr %cq
 %pr = fmul contract {t} %aa, %bv
 %cn = fadd contract {t} %co, %pr
 store {t} %cn, ptr %cq
 %q1 = add i64 %q, 1
 %qm = icmp slt i64 %q1, %n
 br i1 %qm, label %inner, label %termend
termend:
 %p1 = add i64 %p, 1
 %pm = icmp slt i64 %p1, %k
 br i1 %pm, label %term, label %rowend
rowend:
 %i1 = add i64 %i, 1
 %im = icmp slt i64 %i1, %m
 br i1 %im, label %row, label %out
out:
 ret void
}}
"""
