"""Wide names on a pretended GPU, beside the cases of ops: captured steps, distributions, …"""

import numpy as np
import pytest
from cuda_stand_in import NEEDED, gpu  # noqa: F401

import minidl as ml
import minidl.functional as F
from minidl import distributions as D
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


X = np.random.default_rng(3).standard_normal((4, 3)).astype(np.float32)
MATRICES = {
    "normal": lambda x: D.Normal(x, 2.0).log_prob(x * 2),
    "uniform": lambda x: D.Uniform(x, x + 1).log_prob(x + 0.5),
    "bernoulli": lambda x: D.Bernoulli(logits=x).entropy(),
    "categorical": lambda x: D.Categorical(logits=x).log_prob(ml.tensor([0, 2, 1, 1]).to(x.device)),
    "multivariate": lambda x: D.MultivariateNormal(x, x.T @ x).log_prob(x * 2),
    "divergence": lambda x: D.kl_divergence(D.Categorical(x.exp()), D.Categorical(logits=-x)),
    "histc": lambda x: ml.histc(x, 5), "cov": ml.cov, "corrcoef": ml.corrcoef,
    "trapezoid": ml.trapezoid, "block_diag": lambda x: ml.block_diag(x, x[0]),
    "tensor_split": lambda x: ml.cat(ml.tensor_split(x, 3)), "aminmax": lambda x: x.aminmax()[1],
    "pinv": ml.linalg.pinv, "lstsq": lambda x: ml.linalg.lstsq(x, x[:, :1] * 2).solution,
    "power": lambda x: ml.matrix_power(x.T @ x, 3), "rank": ml.linalg.matrix_rank,
    "losses": lambda x: F.multi_margin_loss(x, ml.tensor([0, 2, 1, 1]).to(x.device)),
    "volumes": lambda x: F.max_pool3d(x.reshape(1, 1, 3, 2, 2), 2) + F.avg_pool3d(
        x.reshape(1, 1, 3, 2, 2), 2) + F.adaptive_avg_pool3d(x.reshape(1, 1, 3, 2, 2), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_functions_of_matrices_agree_with_the_cpu(name: str) -> None:
    there, here = MATRICES[name](ml.tensor(X, device="cuda")), MATRICES[name](ml.tensor(X))
    assert there.device.type == "cuda" and there.dtype == here.dtype
    np.testing.assert_allclose(there.cpu().numpy(), here.numpy(), rtol=2e-4, atol=2e-4)


def test_distributions_draw_on_the_gpu_what_they_draw_on_the_cpu() -> None:
    draws = []
    for device in ("cpu", "cuda"):
        ml.manual_seed(5)
        x = ml.tensor(X, device=device)
        chosen = D.Bernoulli(logits=x), D.Categorical(logits=x)
        found = [p.sample((2,)) for p in (D.Normal(x, 1.0), D.Uniform(x, x + 1), *chosen)]
        assert {y.device.type for y in found} == {device}
        draws.append([y.cpu().numpy() for y in found])
    for y, expected in zip(*draws, strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    with ml.no_grad():
        assert D.Normal(ml.zeros(2, device="cuda"), -1.0).scale.tolist() == [-1.0] * 2  # not read
