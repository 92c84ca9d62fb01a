"""After all CUDA tests, in however many processes: every kernel and every launcher ran in one.

Hooks of pytest, for conftest.py. A worker of pytest-xdist hands its names to the process that
started it; a run of only some of the tests is not judged.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest

BOUNDS = r"__launch_bounds__\((?:[^()]|\([^()]*\))*\)"
KERNEL = re.compile(rf"__global__ void\s+(?:{BOUNDS}\s*)?(\w+)\(")
MACRO = re.compile(r"#define \w+\((?:.|\\\n)*?(?<!\\)\n")
ran: set[str] = set()  # kernels and launchers, over all processes
expected: set[str] = set()  # empty where no judgement is possible


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what should run, if each file of CUDA tests was asked for and can run here."""
    files = {Path(str(item.path)).name for item in session.items}
    every = {path.name for path in Path(__file__).parent.glob("test_cuda*.py")}
    if not every <= files:
        return
    import cuda_stand_in

    from minidl.backend import cuda

    if cuda_stand_in.REAL or cuda_stand_in.missing:
        return
    expected.update(f"{name}()" for name, f in vars(cuda).items() if inspect.isfunction(f))
    for path in cuda_stand_in.runtime.SOURCES.glob("*.cu"):
        found = KERNEL.findall(MACRO.sub("", path.read_text()))
        assert found, f"{path} has no kernel"
        expected.update(f"kernel {name}" for name in found)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the names that a worker hands over at its end."""
    given = getattr(node, "workeroutput", {})
    ran.update(given.get("cuda_ran", ()))
    expected.update(given.get("cuda_expected", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the names over, or fail the run for those that are missing."""
    if "cuda_stand_in" in sys.modules:
        here = sys.modules["cuda_stand_in"]
        ran.update(f"{name}()" for name in here.ran)
        ran.update(f"kernel {name}" for name in here.stand_in.launched)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput.update(cuda_ran=[*ran], cuda_expected=[*expected])
    elif expected - ran and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what no test ran."""
    missing = sorted(expected - ran)
    if missing:
        terminalreporter.section("of the CUDA backend no test ran")
        terminalreporter.line(", ".join(missing), red=True)
    elif expected:
        terminalreporter.line(f"all {len(expected)} CUDA kernels and launchers ran")
