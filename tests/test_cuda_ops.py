"""Every op on a pretended GPU: forward and backward as on the CPU, without a silent copy."""

import numpy as np
import pytest
from cases import CASES, Case
from cuda_stand_in import NEEDED, gpu  # noqa: F401

import minidl as ml
from minidl import nn

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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_reductions_of_half_types_do_not_overflow(device):
    """They were rounded to float16 before they were divided, rooted or taken the logarithm of."""
    ones = ml.ones(70000, dtype=ml.float16, device=device)
    far = ml.tensor(np.tile(np.float16([0, 60]), 35000), device=device)
    large = ml.tensor(np.full(3, 300, np.float16), device=device)
    found = [ones.mean(), far.var(), far.std(False), large.norm(), ml.logsumexp(ones - 1, 0)]
    want = [1, 900, 30, 300 * 3**0.5, np.log(70000)]
    for y, value in zip(found, want, strict=True):
        assert y.dtype == np.float16 and abs(y.item() - value) <= 1e-3 * value
    x = ones.detach().requires_grad_()
    (x.mean() * 64).backward()
    assert x.grad.dtype == np.float16 and abs(x.grad[0].item() - 64 / 70000) < 1e-6
    if device == "cpu":  # half types are there to be stored
        return
    big = [ml.full((100,), 200.0, dtype=ml.float16, device=device).requires_grad_()]
    big[0].grad = big[0].detach()
    assert abs(nn.utils.clip_grad_norm_(big, 20.0).item() - 2000) < 2
    assert abs(big[0].grad[0].item() - 2) < 0.01
