"""Settings shared by all tests: Hypothesis profiles, real data, a guard against leaked state."""

import gc
import os
import sys
from pathlib import Path

# Before NumPy loads its BLAS: the framework runs its own team of threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest
from cuda_gaps import (  # noqa: F401
    pytest_collection_finish,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)

SETTINGS = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("dev", max_examples=15, **SETTINGS)
hypothesis.settings.register_profile("ci", max_examples=25, derandomize=True, **SETTINGS)
hypothesis.settings.register_profile("night", max_examples=1000, **SETTINGS)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems() -> None:
    """Leave thousands of collected tests out of every later search for cycles."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets in their official layouts; a visible skip without one."""
    folder = os.environ.get("MINIDL_DATA")
    if not folder:
        pytest.skip("MINIDL_DATA is not set: no real data here")
    return Path(folder)


@pytest.fixture(autouse=True)
def no_leaked_state():
    """Fail a test that leaves the recording of gradients switched off behind it."""
    yield
    if "minidl.autograd" in sys.modules:
        ml = sys.modules["minidl"]
        x = ml.tensor(1.0, requires_grad=True)
        assert (x + x).requires_grad, "the test left gradients switched off"
