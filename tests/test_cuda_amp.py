"""Mixed precision on a pretended GPU: autocast, the loss scaler, half types as such."""

from typing import Any

import numpy as np
import pytest
from cuda_stand_in import NEEDED, gpu  # noqa: F401

import minidl as ml
import minidl.functional as F
from minidl import nn, optim
from minidl.errors import DeviceError, DTypeError, GraphError

pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]
BFLOAT16 = pytest.importorskip("ml_dtypes").bfloat16
HALVES = pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4),
    )  # fmt: skip


def pictures(seed: int) -> tuple[ml.Tensor, ml.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 3, 4, 4)).astype(np.float32)
    return ml.tensor(x, device="cuda"), ml.tensor(rng.integers(0, 4, 4), device="cuda")


@HALVES
def test_autocast_chooses_dtypes_as_torch(dtype: Any) -> None:
    """Products in the half type, sums and losses in float32, gradients in the parameters' dtype."""
    x = ml.ones(2, 8, device="cuda")
    layer = nn.Linear(8, 8).cuda()
    with ml.autocast("cuda", dtype=dtype):
        y = layer(x)
        assert ml.is_autocast_enabled() and y.dtype == dtype and (x @ x.T).dtype == dtype
        assert (y + x).dtype == np.float32 and F.relu(y).dtype == dtype
        for made in (y.sum(), y.mean(), F.softmax(y, -1), F.cross_entropy(y, y.argmax(1))):
            assert made.dtype == np.float32
        with ml.autocast("cuda", enabled=False):
            assert layer(x).dtype == np.float32
        assert (x.double() @ x.double().T).dtype == np.float64
        loss = layer(x).float().square().mean()
    assert not ml.is_autocast_enabled()
    loss.backward()
    assert layer.weight.grad.dtype == layer.weight.dtype == np.float32


@HALVES
def test_checkpoint_computes_again_under_the_autocast_of_its_forward(dtype: Any) -> None:
    layer, x, seen = nn.Linear(8, 8).cuda(), ml.ones(2, 8, device="cuda"), []

    def noted(h: ml.Tensor) -> ml.Tensor:
        seen.append(layer(h))
        return seen[-1]

    with ml.autocast("cuda", dtype=dtype):
        y = ml.checkpoint(noted, x)
    y.float().sum().backward()
    with ml.autocast("cuda", dtype=dtype):  # and not under that of backward
        ml.checkpoint(noted, x).float().sum().backward()
    z = ml.checkpoint(noted, x)
    with ml.autocast("cuda", dtype=dtype):
        z.sum().backward()
    assert [y.dtype for y in seen] == [dtype] * 4 + [np.float32] * 2
    assert layer.weight.grad.dtype == np.float32 and not ml.is_autocast_enabled()


NORMS = {
    "batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    "group_norm": lambda x, w, b: F.group_norm(x, 2, w, b),
    "instance_norm": lambda x, w, b: F.instance_norm(x, None, None, w, b),
    "layer_norm": lambda x, w, b: F.layer_norm(x, (4,), w, b),
    "rms_norm": lambda x, w, b: F.rms_norm(x, (4,), w, 1e-5) + 0 * b.to(x.dtype),
}


@HALVES
@pytest.mark.parametrize("name", NORMS)
def test_norms_of_half_types_take_weights_in_float32(name: str, dtype: Any) -> None:
    """And give their gradients in it, not rounded to the half type on the way."""
    rng = np.random.default_rng(0)
    x, g = (ml.tensor(rng.standard_normal((5, 4, 3, 4)).astype(dtype)) for _ in range(2))
    w, b = (ml.tensor(rng.integers(1, 9, 4) / 4.0) for _ in range(2))  # exact in half types
    wide = [a.double().requires_grad_() for a in (x, w, b)]
    (NORMS[name](*wide) * g.double()).sum().backward()
    there = [a.detach().cuda().requires_grad_() for a in (x, w.float(), b.float())]
    y = NORMS[name](*there)
    y.backward(g.cuda())
    assert y.dtype == dtype and [a.grad.dtype for a in there[1:]] == [np.float32] * 2
    kept = there[1:] if name != "rms_norm" else there[1:2]
    for a, exact in zip(kept, wide[1:]):
        np.testing.assert_allclose(a.grad.cpu().numpy(), exact.grad.numpy(), rtol=1e-4, atol=1e-4)
    rounding = 2e-2 if dtype == np.float16 else 1e-1
    np.testing.assert_allclose(
        there[0].grad.float().cpu().numpy(), wide[0].grad.numpy(), rtol=rounding, atol=rounding
    )


@HALVES
def test_rms_norm_of_half_types_has_the_epsilon_of_float32(dtype: Any) -> None:
    """As in torch: float16's is far above small squares, and there was none of bfloat16."""
    x = ml.tensor((np.random.default_rng(0).standard_normal((3, 8)) * 1e-3).astype(dtype))
    want = F.rms_norm(x.float(), 8).numpy()
    assert np.abs(want).max() > 1
    y = F.rms_norm(x.cuda(), 8)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.float().cpu().numpy(), want, rtol=1e-2)


@HALVES
def test_nan_of_half_types_is_seen_as_such(dtype: Any) -> None:
    """That of bfloat16 was none to anomaly mode, and made a replay unlike what it recorded."""
    x = ml.tensor(np.array([1.0, -1.0]).astype(dtype), device="cuda")
    with ml.set_detect_anomaly(True), pytest.raises(GraphError, match="log: made the first NaN"):
        ml.log(x)
    log = ml.capture(ml.log)
    for k in range(1, 6):
        np.testing.assert_array_equal(log(x * k).float().cpu().isnan().numpy(), [False, True])


@HALVES
def test_probabilities_of_half_types_are_targets(dtype: Any) -> None:
    """Those in bfloat16 were taken for labels, which have another shape."""
    rng = np.random.default_rng(1)
    x, p = (ml.tensor(rng.random((3, 5)).astype(dtype)) for _ in range(2))
    want = F.cross_entropy(x.float(), p.float(), label_smoothing=0.1).item()
    loss = F.cross_entropy(x.cuda(), p.cuda(), label_smoothing=0.1)
    assert loss.dtype == dtype and abs(loss.item() - want) <= 2e-2 * want


@HALVES
def test_training_under_autocast_follows_float32(dtype: Any) -> None:
    """To the half type's rounding, for three steps with the scaler."""
    curves = []
    for enabled in (False, True):
        ml.manual_seed(0)
        model = network().cuda()
        rules, scaler = optim.SGD(model.parameters(), 0.05, 0.9), ml.amp.GradScaler(enabled=enabled)
        losses = []
        for k in range(3):
            x, label = pictures(k)
            with ml.autocast("cuda", dtype=dtype, enabled=enabled):
                loss = F.cross_entropy(model(x), label)
            rules.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(rules)
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            scaler.step(rules)
            scaler.update()
            losses.append(loss.item())
        curves.append(losses)
    rounding = 2e-2 if dtype == np.float16 else 8e-2
    np.testing.assert_allclose(*curves, rtol=rounding)


@pytest.mark.parametrize("captured", [False, True])
def test_the_scaler_skips_bad_steps(captured: bool) -> None:
    """An infinite gradient changes nothing but the scale; good steps double it in the end."""
    w = ml.tensor([1.0, 2.0], device="cuda", requires_grad=True)
    rules = optim.SGD([w], 0.5, momentum=0.9)
    scaler = ml.amp.GradScaler(init_scale=4.0, growth_interval=2)

    def step(factor: ml.Tensor) -> ml.Tensor:
        rules.zero_grad()
        loss = (w * factor).sum()
        scaler.scale(loss).backward()
        scaler.step(rules)
        scaler.update()
        return loss.detach()

    run = ml.capture(step, training=True) if captured else step
    scales, weights = [], []
    for factor in (0.0, 0.0, 1.0, np.inf, 1.0, 1.0, 0.0):
        run(ml.full((2,), factor, device="cuda"))
        scales.append(scaler.get_scale())
        weights.append(w.detach().cpu().numpy()[0])
    assert scales == [4, 8, 8, 4, 4, 8, 8]
    np.testing.assert_allclose(weights, [1, 1, 0.5, 0.5, -0.45, -1.805, -3.0245], rtol=1e-5)
    again = ml.amp.GradScaler()
    again.load_state_dict(scaler.state_dict())
    assert again.state_dict() == scaler.state_dict() and again.get_scale() == 8


@HALVES
def test_batch_norm_gives_the_same_dtype_in_training_and_after(dtype: Any) -> None:
    norm, x = nn.BatchNorm2d(3).cuda(), ml.ones(2, 3, 4, 4, device="cuda", dtype=dtype)
    for training in (True, False):
        assert norm.train(training)(x).dtype == dtype


def test_graphs_and_conversions_kept_by_autocast() -> None:
    """Half weights of the calls before were replayed; after a captured step, old ones were used."""
    layer, x = nn.Linear(4, 3).cuda(), ml.ones(2, 4, device="cuda")
    rules = optim.SGD(layer.parameters(), 0.5)

    def train(x: ml.Tensor) -> ml.Tensor:
        loss = layer(x).float().square().mean()
        rules.zero_grad()
        loss.backward()
        rules.step()
        return loss.detach()

    run = ml.capture(layer)
    for _ in range(3):
        assert run(x).dtype == np.float32  # recorded without autocast, and not replayed in it
    with ml.autocast("cuda", dtype=np.float16):
        step = ml.capture(train, training=True)
        for k in range(6):
            step(x)
            with ml.no_grad():
                layer.bias.add_(0.25) if k % 2 else None
                with ml.autocast("cuda", dtype=np.float16):  # has nothing kept yet
                    fresh = layer(x).tolist()
                assert run(x).tolist() == layer(x).tolist() == fresh


def test_mixed_precision_says_what_is_wrong() -> None:
    with pytest.raises(DeviceError, match="autocast: only a GPU multiplies in half types"):
        ml.autocast("cpu")
    with pytest.raises(DTypeError, match="autocast: dtype must be float16 or bfloat16"):
        ml.autocast("cuda", dtype=np.float32)
    w = ml.ones(2, device="cuda", requires_grad=True)
    rules, scaler = optim.SGD([w], 0.1), ml.amp.GradScaler()
    w.sum().backward()
    scaler.unscale_(rules)
    with pytest.raises(GraphError, match="unscaled already"):
        scaler.unscale_(rules)


def weights(*dtypes: Any) -> list[ml.Tensor]:
    """One leaf of a dtype each, on the GPU."""
    return [ml.ones(2, device="cuda", dtype=d).requires_grad_() for d in dtypes]


@pytest.mark.parametrize("captured", [False, True])
def test_a_bad_gradient_stops_only_its_own_optimizer(captured: bool) -> None:
    """All optimizers of a scaler shared one flag: the second skipped its step as well."""
    a, b = weights(np.float32, np.float32)
    rules, scaler = [optim.SGD([w], 0.5) for w in (a, b)], ml.amp.GradScaler(init_scale=4.0)

    def step(factor: ml.Tensor) -> ml.Tensor:
        loss = (a * factor + b).sum()
        scaler.scale(loss).backward()
        for rule in rules:
            scaler.step(rule)
            rule.zero_grad()
        scaler.update()
        return loss.detach()

    run = ml.capture(step, training=True) if captured else step
    for factor in (1.0, 1.0, 1.0, np.inf):
        run(ml.full((2,), factor, device="cuda"))
    assert a.tolist() == [-0.5, -0.5] and b.tolist() == [-1.0, -1.0]
    assert scaler.get_scale() == 2


@pytest.mark.parametrize("bad", [None, 0, 1])
def test_gradients_of_several_dtypes_are_all_looked_at(bad: int | None) -> None:
    """Their squares were summed as if all had the first one's dtype: a read out of bounds."""
    leaves = weights(np.float64, BFLOAT16, np.float32)
    scaler, rules = ml.amp.GradScaler(init_scale=2.0), optim.SGD(leaves, 0.5)
    for k, w in enumerate(leaves):
        w.grad = ml.full((2,), np.nan if k == bad else 2.0, device="cuda", dtype=w.dtype)
    scaler.step(rules)
    assert [w.float().tolist() for w in leaves] == [[0.5 if bad is None else 1.0] * 2] * 3


def test_a_scaler_refuses_float16_gradients_and_a_second_step() -> None:
    """A norm above 256 counted as infinite; a second step was taken without a word."""
    (half,), (w,) = weights(np.float16), weights(np.float32)
    scaler = ml.amp.GradScaler(init_scale=1.0)
    half.grad, w.grad = ml.ones(2, device="cuda", dtype=np.float16), ml.ones(2, device="cuda")
    with pytest.raises(DTypeError, match="unscale_: float16 gradients lose"):
        scaler.step(optim.SGD([half], 0.5))
    rules = optim.SGD([w], 0.5)
    scaler.step(rules)
    with pytest.raises(GraphError, match="has taken its step already; call update"):
        scaler.step(rules)
    scaler.update()
    scaler.step(rules)
    assert w.tolist() == [0.0, 0.0]


def test_the_scale_stays_finite() -> None:
    """It grew to infinity, from where nothing brought it back."""
    scaler = ml.amp.GradScaler(init_scale=2.0**127, growth_interval=1)
    for _ in range(2):
        scaler.update()
    assert scaler.get_scale() == 2.0**127


@HALVES
def test_half_tensors_are_ordinary(dtype: Any) -> None:
    """Created, converted, computed with, promoted, reduced and printed."""
    assert ml.bfloat16 == BFLOAT16
    x = ml.arange(6, device="cuda").to(dtype).reshape(2, 3).requires_grad_()
    y = ((x * 2 + 1).exp().log() @ x.T).sum()
    assert y.dtype == dtype and "dtype=" in repr(x)
    y.backward()
    assert x.grad.dtype == dtype
    np.testing.assert_allclose(
        x.grad.float().cpu().numpy().sum(), 2 * 36 + 6 + 2 * 15 * 2 + 6, rtol=2
    )
    assert (x + x.float()).dtype == np.float32 and (x + 1.5).dtype == dtype
    other = np.float16 if dtype is BFLOAT16 else BFLOAT16
    assert ml.promote_types(np.dtype(dtype), np.dtype(other)) == np.float32
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).to("cuda", dtype)
    assert model(x.detach()).dtype == dtype
