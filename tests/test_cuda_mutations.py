"""Faults put into the backend's own kernels: each is caught by the emulator or changes a result."""

import numpy as np
import pytest
from cuda_stand_in import EMULATED, NEEDED, agree, forget, gpu  # noqa: F401

from minidl.backend.cuda import runtime
from simt.faults import Fault

pytestmark = [NEEDED, EMULATED, pytest.mark.usefixtures("gpu")]
BARRIER = "cp_async_wait<STAGES - 2>();\n        __syncthreads();"
FAULTS = {  # the function, its arguments, the file, what is there and what is put in its place
    "product without its wait": ("linear", "gemm.cuh", "cp_async_wait<STAGES - 2>();", ""),
    "product without its barrier": ("linear", "gemm.cuh", BARRIER, "cp_async_wait<STAGES - 2>();"),
    "sum without its barrier": ("softmax", "sums.cuh", "[threadIdx.x / 32] = value;\n"
                                "    __syncthreads();", "[threadIdx.x / 32] = value;"),
    "rows without their mask": ("take_rows", "embedding.cu", "row >= 0 && row < rows", "true"),
}  # fmt: skip


def call(name: str) -> None:
    """A function of the backend against the CPU's."""
    rng = np.random.default_rng(0)
    if name == "linear":
        agree(name, np.float16, *(rng.standard_normal(s) for s in ((70, 136), (72, 136), (72,))))
    elif name == "softmax":
        agree(name, np.float32, rng.standard_normal((3, 1500)), 1)
    else:
        index = np.array([4, 9, 0])  # one of them is no row
        table = rng.standard_normal((5, 6)).astype(np.float32)
        from minidl.backend import cuda

        y = cuda.to_host(cuda.take_rows(cuda.from_host(table), cuda.from_host(index)))
        np.testing.assert_array_equal(y, [table[4], np.zeros(6), table[0]])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, file, old, new = FAULTS[fault]
    call(name)
    path = runtime.SOURCES / file
    text = path.read_text()
    assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
    read = type(path).read_text
    monkeypatch.setattr(
        type(path), "read_text",
        lambda self, *a, **k: text.replace(old, new) if self == path else read(self, *a, **k),
    )  # fmt: skip
    runtime.text_of.cache_clear()
    forget()
    try:
        with pytest.raises((Fault, AssertionError)):
            call(name)
    finally:
        monkeypatch.undo()
        runtime.text_of.cache_clear()
        forget()
