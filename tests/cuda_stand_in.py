"""A pretended GPU for tests: CuPy's stand-in put in its place, and both backends compared.

With MINIDL_TEST_DEVICE=cuda in the environment the same tests run on the machine's own GPU.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import simt
from minidl.backend import cpu, cuda
from minidl.backend.cuda import blas, memory, plans, runtime
from simt import cupy as stand_in
from simt.device import REAL

missing = None if REAL else simt.available()
NEEDED = pytest.mark.skipif(missing is not None, reason=str(missing))
EMULATED = pytest.mark.skipif(REAL, reason="looks into the stand-in for CuPy")
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
EPS = {np.float16: 2e-3, np.float32: 1e-5, np.float64: 1e-12}


def product(
    ta: int, tb: int, sizes: tuple[int, int, int], a: Any, lda: int, b: Any, ldb: int, c: Any,
    count: int = 1, apart: tuple[int, int, int] = (0, 0, 0),
) -> None:  # fmt: skip
    """What cuBLAS does."""
    (m, n, k), (sa, sb, sc) = sizes, apart

    def seen(x: Any, rows: int, columns: int, ld: int, turned: int, step: int) -> np.ndarray:
        strides = (step, 1, ld) if turned else (step, ld, 1)
        strides = tuple(s * x.itemsize for s in strides)
        return np.lib.stride_tricks.as_strided(x.host, (count, rows, columns), strides)

    def multiply() -> None:
        wide = [seen(a, m, k, lda, ta, sa), seen(b, k, n, ldb, tb, sb)]
        seen(c, m, n, n, 0, sc)[...] = np.matmul(*(x.astype(np.float64) for x in wide))

    stand_in.cuda.get_current_stream().do(multiply)


def forget() -> None:
    """Drop the kernels made so far, which belong to one CuPy."""
    for cached in (runtime.cupy, runtime.kernel, plans.compiled, plans._update):
        cached.cache_clear()
    memory.flags.clear()
    memory._words.cache_clear()
    memory._constant.cache_clear()
    memory._large.cache_clear()


@pytest.fixture(scope="module")
def gpu() -> Iterator[None]:
    """Within it, the CUDA backend runs on the emulator, or on a GPU."""
    if REAL:
        yield
        return
    forget()
    with stand_in.installed(), pytest.MonkeyPatch.context() as patch:
        for name, function in vars(cuda).items():
            if inspect.isfunction(function):
                patch.setattr(cuda, name, _noted(function))
        patch.setattr(blas, "gemm", product)
        yield
    forget()


ran: set[str] = set()  # functions of the CUDA backend that a test has called


def _noted(function: Callable) -> Callable:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        ran.add(function.__name__)
        return function(*args, **options)

    return call


def there(x: Any) -> Any:
    """Arrays on the pretended GPU, anything else as it is."""
    return cuda.from_host(x) if isinstance(x, np.ndarray) else x


def agree(name: str, dtype: Any, *args: Any, **options: Any) -> list[np.ndarray]:
    """A function of both backends: on the GPU in dtype, on the CPU in float64 of the same numbers.

    float64 arrays become arrays of dtype; others, like a kept mean, are passed as they are.
    """
    given = [a.astype(dtype) if getattr(a, "dtype", None) == np.float64 else a for a in args]
    wide = [a.astype(np.float64) if getattr(a, "dtype", int) in [*EPS] else a for a in given]
    theirs = getattr(cpu, name)(*wide, **options)
    ours = getattr(cuda, name)(*map(there, given), **options)
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    ours = [cuda.to_host(y) for y in (ours if isinstance(ours, tuple) else (ours,))]
    for y, expected in zip(ours, theirs, strict=True):
        assert y.shape == expected.shape
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
        np.testing.assert_allclose(
            y.astype(np.float64), expected, rtol=EPS[dtype], atol=EPS[dtype] * scale
        )
    return ours


def layouts(x: np.ndarray) -> list[np.ndarray]:
    """The same values in C order, transposed memory and, of four axes, channels-last."""
    found = [x, np.asarray(x.T, order="C").T]
    if x.ndim == 4:
        found.append(np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    return found
