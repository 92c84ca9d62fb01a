"""The last of the CUDA tests: every kernel and every launcher ran in one of those before."""

import inspect
import re
from pathlib import Path

import cuda_stand_in
import pytest

from minidl.backend import cuda
from minidl.backend.cuda import runtime
from simt import cupy as stand_in

KERNEL = re.compile(r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(")
MACRO = re.compile(r"#define \w+\((?:.|\\\n)*?(?<!\\)\n")


@cuda_stand_in.NEEDED
@cuda_stand_in.EMULATED
def test_every_kernel_and_launcher_ran(request: pytest.FixtureRequest) -> None:
    files = {Path(str(item.path)).name for item in request.session.items}
    every = {path.name for path in Path(__file__).parent.glob("test_cuda*.py")}
    if not every <= files:
        pytest.skip("only some of the CUDA tests were asked for")
    kernels: set[str] = set()
    for path in runtime.SOURCES.glob("*.cu"):
        found = KERNEL.findall(MACRO.sub("", path.read_text()))
        assert found, f"{path} has no kernel"
        kernels |= {*found}
    assert sorted(kernels - stand_in.launched) == [], "kernels that no test has run"
    launchers = {name for name, f in vars(cuda).items() if inspect.isfunction(f)}
    assert sorted(launchers - cuda_stand_in.ran) == [], "functions that no test has called"
