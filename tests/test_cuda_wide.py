"""Wide names on a pretended GPU, beside the cases of ops: captured steps, functions of indices."""

import numpy as np
import pytest
from cuda_stand_in import NEEDED, gpu  # noqa: F401

import minidl as ml
import minidl.functional as F
from minidl import optim
from minidl.errors import GraphError

pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]
RULES = {
    "lion": lambda p: optim.Lion(p, 0.01, weight_decay=0.1),
    "lamb": lambda p: optim.LAMB(p, 0.01, weight_decay=0.1),
    "lars": lambda p: optim.LARS(p, weight_decay=0.1, trust_coefficient=0.1),
    "muon": lambda p: optim.Muon(p, 0.02),
}


@pytest.mark.parametrize("name", RULES)
def test_a_captured_step_trains_as_an_ordinary_one(name: str) -> None:
    """Rates and counts go on where the graph is replayed."""
    results = []
    for captured in (False, True):
        rng = np.random.default_rng(0)
        draw = [rng.standard_normal((3, 4)).astype(np.float32) for _ in range(7)]
        w = ml.tensor(draw[0], device="cuda", requires_grad=True)
        rules = RULES[name]([w])
        schedule = optim.lr_scheduler.StepLR(rules, 1, 0.5)

        def step(x: ml.Tensor) -> ml.Tensor:
            loss = ((w - x) ** 2).sum()  # noqa: B023
            rules.zero_grad()  # noqa: B023
            loss.backward()
            rules.step()  # noqa: B023
            return loss.detach()

        run = ml.capture(step, training=True) if captured else step
        losses = []
        for x in draw[1:]:
            losses.append(run(ml.tensor(x, device="cuda")).item())
            schedule.step()
        results.append((losses, w.tolist(), rules.state[w].get("step")))
    assert results[0] == results[1]


def test_lookahead_is_not_captured() -> None:
    leaf = ml.ones(2, device="cuda", requires_grad=True)
    ahead = optim.Lookahead(optim.SGD([leaf]), k=2)

    def step(x: ml.Tensor) -> None:
        (leaf * x).sum().backward()
        ahead.step()

    run = ml.capture(step, training=True)
    with pytest.raises(GraphError, match="Lookahead: the k-th step differs"):
        for _ in range(4):
            run(ml.ones(2, device="cuda"))


@pytest.mark.parametrize("work", [
    lambda x: ml.median(x, 0).values,
    lambda x: ml.unique(x.long()),
    lambda x: ml.bincount(x.abs().long(), minlength=9),
    lambda x: ml.nan_to_num(x / 0),
    lambda x: ml.nan_to_num(x.to(ml.bfloat16) / 0).float(),
    lambda x: ml.median(x[0], 0).indices,
    lambda x: x.half().scatter_reduce(0, (x > 0).long(), x.half(), "amin", include_self=False),
    lambda x: ml.take_along_dim(x, x.argsort(), 0),
    lambda x: x.index_add(0, (x > 0).long(), x * 2),
    lambda x: x.scatter_reduce(0, (x > 0).long(), x, "amax", include_self=False),
    lambda x: x.scatter_reduce(0, (x > 0).long(), x, "mean"),
    lambda x: ml.stack(ml.meshgrid(x, x[:2], indexing="xy")),
    lambda x: x.new_zeros(2) + ml.tril_indices(2, 2, device=x.device)[0, :2],
    lambda x: F.embedding_bag((x > 0).long().reshape(2, -1), x.reshape(-1, 2), mode="mean"),
    lambda x: F.adaptive_max_pool2d(x.reshape(1, 1, 2, -1), (1, 2), return_indices=True)[1],
    lambda x: F.grid_sample(x.reshape(1, 1, 2, -1), x[:4].reshape(1, 2, 1, 2), "nearest"),
    lambda x: F.cosine_embedding_loss(x, x.flip(0), (x > 0).long()[0] * 2 - 1),
    lambda x: ml.linalg.norm(x.reshape(2, -1), "nuc"),
    lambda x: x.clone().scatter_(0, (x > 0).long(), 1.5).index_fill_(0, (x[:2] > 9).long(), 2),
    lambda x: ml.searchsorted(x.sort().values, x, right=True) + ml.bucketize(x, x.sort().values),
    lambda x: ml.quantile(x, 0.3) + ml.nanmean(x, axis=0, keepdims=True),
    lambda x: ml.isin(x.long(), x[:2].long()).float() + ml.where(x > 0, x, 0.0),
    lambda x: ml.where(x > 0)[0].float() + ml.kron(x[:2], x[:1]).sum(),
    lambda x: ml.cross(x[:3], x[3:]) + ml.rot90(x.view(2, 3))[0, 0],
])  # fmt: skip
def test_wide_functions_agree_with_the_cpu(work) -> None:
    x = np.random.default_rng(4).standard_normal(6).astype(np.float32)
    ours, theirs = (work(ml.tensor(x, device=device)) for device in ("cuda", "cpu"))
    assert ours.device.type == "cuda" and ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours.cpu().numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("half", [ml.float16, ml.bfloat16])
def test_gumbel_softmax_draws_in_half_types(half) -> None:
    drawn = F.gumbel_softmax(ml.zeros(40, 5, dtype=half, device="cuda"), hard=True)
    rows = drawn.float().cpu().numpy()
    assert drawn.dtype == half and (rows.sum(1) == 1).all() and (rows.sum(0) > 0).all()


def test_scripts_ask_for_the_gpu() -> None:
    device = ml.device("cuda" if ml.cuda.is_available() else "cpu")
    x = ml.zeros(1000, device=device).bernoulli_(0.25)
    ml.cuda.synchronize()
    assert device.type == "cuda" and ml.cuda.device_count() == 1
    assert 150 < x.sum().item() < 350 and set(x.tolist()) == {0.0, 1.0}
    assert ml.cuda.memory_allocated() <= ml.cuda.memory_reserved()
    ml.cuda.empty_cache()
