"""Every op on a pretended GPU: forward and backward as on the CPU, without a silent copy."""

import numpy as np
import pytest
from cases import CASES, Case
from cuda_stand_in import NEEDED, gpu  # noqa: F401

import minidl as ml

pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]


def run(case: Case, arrays: list[np.ndarray], device: str) -> list[np.ndarray]:
    """The case's result on a device, and its gradients for a fixed cotangent."""
    ml.manual_seed(3)
    inputs = [ml.tensor(a, device=device, requires_grad=True) for a in arrays]
    y = case.call(*inputs)
    assert y.device.type == device
    if not y.requires_grad:
        return [y.cpu().numpy()]
    g = np.random.default_rng(7).standard_normal(y.shape).astype(y.dtype)
    y.backward(ml.tensor(g, device=device))
    return [t.detach().cpu().numpy() for t in (y, *(x.grad for x in inputs if x.grad is not None))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_op_agrees_with_the_cpu(case: Case) -> None:
    arrays = [a.astype(np.float32) for a in case.draw(np.random.default_rng(0))]
    for ours, theirs in zip(run(case, arrays, "cuda"), run(case, arrays, "cpu"), strict=True):
        scale = np.abs(theirs).max(initial=1e-6)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5 * scale)
