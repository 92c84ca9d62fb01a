"""Networks made smaller after training: pruning, int8, distillation."""

import copy
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transfer_models import arrays, fill, noise, outputs, resnet, seasoned, softmax

import minidl as ml
import minidl.functional as F
from minidl import models, nn, optim
from minidl.errors import CheckpointError, DataError, GraphError, ShapeError
from minidl.io import load_safetensors, save_safetensors
from minidl.models.blocks import ConvNorm, FeatureNet, InvertedResidual
from projects.transfer.methods import quantize
from projects.transfer.methods.distil import distillation_loss
from projects.transfer.methods.lora import add_lora
from projects.transfer.methods.pruning import prune, sparse_bytes

# ---- pruning -------------------------------------------------------------------------------------


@given(share=st.floats(0, 1))
def test_the_smallest_weights_of_all_layers_go(share):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5))
    names = arrays(model).keys()
    signs = np.random.default_rng(0).permutation(np.r_[1:93]) * (-1.0) ** np.r_[1:93]
    fill(model[0].weight, signs[:72].reshape(4, 2, 3, 3))
    fill(model[2].weight, signs[72:].reshape(5, 4))
    weights = {n: a for n, a in arrays(model).items() if a.ndim > 1}
    every = np.concatenate([w.ravel() for w in weights.values()])
    found = prune(model, share)
    count = round(share * every.size)
    assert found["zeros"] == pytest.approx(count / every.size)
    bound = np.sort(np.abs(every))[count - 1] if count else -1.0
    after = arrays(model)
    assert after.keys() == names
    for name, w in weights.items():
        np.testing.assert_array_equal(after[name], np.where(np.abs(w) <= bound, 0, w))
    assert found["dense_bytes"] == sum(a.nbytes for a in after.values())


def test_sizes_of_sparse_states():
    few = np.zeros(100, np.float32)
    few[[3, 50, 99]] = 1
    state = {"few": ml.tensor(few), "full": ml.ones(100), "count": ml.tensor(np.zeros((), int))}
    assert sparse_bytes(state) == (3 * 4 + 13) + 400 + 1
    model = resnet()
    head = model.fc.weight.detach().numpy().copy()
    found = prune(model, 0.9, keep=["fc"])
    assert (model.fc.weight.detach().numpy() == head).all()
    assert found["sparse_bytes"] < 0.25 * found["dense_bytes"]
    with pytest.raises(ShapeError, match="share must lie"):
        prune(model, 1.5)
    with pytest.raises(ShapeError, match="must be a Linear or Conv2d"):
        prune(nn.ReLU(), 0.5)


# ---- int8 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: resnet(shortcut="A", squeeze_excite=True), models.resnet8,
    lambda: models.mobilenet_v2(5, width_mult=0.25, padding="same"),
])  # fmt: skip
def test_folding_norms_leaves_outputs(make):
    ml.manual_seed(0)
    model, x = seasoned(make()), noise(2, 3, 16, 16)
    before = outputs(model, x)
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(quantize.fold_norms(model, x)) == sorted(norms)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    np.testing.assert_allclose(outputs(model, x), before, rtol=1e-3,
                               atol=1e-4 * np.abs(before).max())  # fmt: skip


def test_a_norm_that_shares_its_input_is_refused():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            fill(self.norm.running_mean, np.ones(4))

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    with pytest.raises(GraphError, match="to its batch norm alone"):
        quantize.fold_norms(Both(), noise(2, 3, 4, 4))


def test_norms_elsewhere_stay():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
    assert quantize.fold_norms(model, noise(2, 3, 6, 6)) == []
    small = quantize.quantized(model, [noise(2, 3, 6, 6)])
    assert isinstance(small[3], nn.BatchNorm2d)


@given(rows=st.integers(1, 5), columns=st.integers(1, 9), seed=st.integers(0, 999),
       size=st.floats(1e-3, 1e3))  # fmt: skip
def test_rounding_is_bounded_by_half_a_step(rows, columns, seed, size):
    rng = np.random.default_rng(seed)
    layer = nn.Sequential(nn.Linear(columns, rows))
    w = (size * rng.standard_normal((rows, columns))).astype(np.float32)
    w[rng.integers(rows)] = 0
    fill(layer[0].weight, w)
    x = (size * rng.standard_normal((7, columns)) + rng.normal()).astype(np.float32)
    small = quantize.quantized(layer, [ml.tensor(x[:4]), ml.tensor(x[4:])])
    made = small[0]
    assert (
        made.weight_int8.dtype == np.int8
        and np.abs(made.weight_int8.numpy().astype(int)).max() <= 127
    )
    step_w = np.abs(w).max(1, keepdims=True) / 127
    dw = np.abs(made.weight.numpy() - w)
    assert (dw <= 0.5 * step_w + 1e-6 * np.abs(w)).all()
    step_x = (max(x.max(), 0) - min(x.min(), 0)) / 255
    (seen,) = quantize._round_input(made, (ml.tensor(x),))
    dx = np.abs(seen.numpy() - x)
    assert dx.max() <= step_x * 1.001  # half a step, and half of one where zero was rounded
    zero = quantize._round_input(made, (ml.zeros(1, columns),))[0]
    assert (zero.numpy() == 0).all()
    bound = dx @ np.abs(w).T + np.abs(x) @ dw.T + dx @ dw.T
    apart = np.abs(outputs(small, ml.tensor(x)) - outputs(layer, ml.tensor(x)))
    assert (apart <= bound + 1e-5 * (1 + np.abs(x) @ np.abs(w).T)).all()


def test_int8_networks_say_the_same_and_are_a_quarter(tmp_path):
    model, x = resnet(), noise(40, 3, 16, 16)
    model.requires_grad_(False)
    before, kept = outputs(model, x), arrays(model)
    small = quantize.quantized(model, [x[:20], x[20:]])
    assert all((kept[n] == a).all() for n, a in arrays(model).items())  # a copy
    after = outputs(small, x)
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()
    assert 0 < np.abs(after - before).max()
    assert (after.argmax(1) == before.argmax(1)).mean() >= 0.9
    state = small.state_dict()
    whole = sum(t.nbytes for n, t in state.items() if n.endswith("weight_int8"))
    assert whole == sum(a.size for a in kept.values() if a.ndim > 1)
    assert quantize.state_bytes(small) < 0.35 * quantize.state_bytes(model)
    save_safetensors(state, tmp_path / "int8.safetensors")
    again = quantize.load_quantized(tmp_path / "int8.safetensors", resnet(seed=5))
    np.testing.assert_array_equal(outputs(again, x), after)
    assert load_safetensors(tmp_path / "int8.safetensors")["fc.weight_int8"].dtype == np.int8


def test_percentiles_cut_off_what_is_rare():
    layer = nn.Sequential(nn.Linear(1, 1))
    x = np.linspace(-1, 1, 1001, dtype=np.float32)[:, None]
    x[500] = 100.0
    wide = quantize.quantized(layer, [ml.tensor(x)])[0].input_scale.item()
    narrow = quantize.quantized(layer, [ml.tensor(x)], percentile=99.0)[0].input_scale.item()
    assert wide == pytest.approx(101 / 255) and narrow == pytest.approx(1.96 / 255, rel=0.01)


def test_quantisation_says_what_is_wrong(tmp_path):
    model, x = resnet(), noise(2, 3, 8, 8)
    with pytest.raises(DataError, match="there must be a batch"):
        quantize.quantized(model, [])
    with pytest.raises(ShapeError, match="percentile must lie"):
        quantize.quantized(model, [x], percentile=50)
    plain, int8 = tmp_path / "plain.safetensors", tmp_path / "int8.safetensors"
    save_safetensors(model.state_dict(), plain)
    with pytest.raises(CheckpointError, match="plain.safetensors holds no int8 weights"):
        quantize.load_quantized(plain, model)
    save_safetensors(quantize.quantized(model, [x]).state_dict(), int8)
    for other in (models.cifar_resnet(8, 5, width=8), models.cifar_resnet(14, 4, width=8)):
        with pytest.raises(CheckpointError, match=r"load_quantized: .*int8.safetensors"):
            quantize.load_quantized(int8, other)
    add_lora(model, "fc", 1, 1.0)
    with pytest.raises(ShapeError, match="no parameter of that name"):
        quantize.quantized(model, [x])


# ---- MobileNetV2's blocks, trained ---------------------------------------------------------------


def striped(count, seed):
    """Noisy pictures of stripes in four directions, and which."""
    rng = np.random.default_rng(seed)
    y, (i, j) = np.arange(count) % 4, np.mgrid[:16, :16]
    waves = np.sin(0.8 * np.stack([i, j, i + j, i - j])[y] + rng.uniform(0, 6, (count, 1, 1)))
    x = waves[:, None] + 0.5 * rng.standard_normal((count, 3, 16, 16))
    return ml.tensor(x.astype(np.float32)), ml.tensor(y)


@pytest.fixture(scope="module")
def mobile():
    """A network of inverted residuals and ReLU6 that tells all stripes apart."""
    ml.manual_seed(0)
    unit = partial(ConvNorm, act=nn.ReLU6)
    shapes = ((16, 8, 1, 1), (8, 16, 2, 6), (16, 16, 1, 6))
    blocks = (InvertedResidual(*shape, unit) for shape in shapes)
    model = FeatureNet([unit(3, 16, 3, 2), *blocks, unit(16, 32, 1)], 32, 4, 0.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for step in range(40):
        x, y = striped(32, step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert accuracy(model.eval()) == 1
    return model


def accuracy(model):
    """On stripes that were not trained on."""
    x, y = striped(80, 99)
    return (outputs(model, x).argmax(1) == y.numpy()).mean()


def test_int8_inverted_residuals(mobile):
    """Narrow depthwise kernels, each with a scale of its own, and ReLU6: no answer changes."""
    small = quantize.quantized(mobile, [striped(20, 98)[0], striped(20, 97)[0]])
    layers = [m for m in mobile.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert sum(hasattr(m, "weight_int8") for m in small.modules()) == len(layers) == 11
    assert not any(isinstance(m, nn.BatchNorm2d) for m in small.modules())
    assert quantize.state_bytes(small) < 0.5 * quantize.state_bytes(mobile)  # 8 to 96 channels
    x = striped(80, 99)[0]
    before, after = outputs(mobile, x), outputs(small, x)
    assert 0 < np.abs(after - before).max() < 0.05 * before.std()
    assert accuracy(small) == 1


def test_pruned_inverted_residuals(mobile):
    """A third goes unnoticed; of a half it matters that depthwise kernels, all needed, are kept."""
    some, half = copy.deepcopy(mobile), copy.deepcopy(mobile)
    assert prune(some, 0.3)["zeros"] == pytest.approx(0.3, abs=1e-3) and accuracy(some) >= 0.95
    convolutions = [(n, m) for n, m in half.named_modules() if isinstance(m, nn.Conv2d)]
    deep = [name for name, m in convolutions if m.groups > 1]
    assert len(deep) == 3
    found = prune(half, 0.5, keep=deep)
    assert found["sparse_bytes"] < 0.8 * found["dense_bytes"] and accuracy(half) >= 0.9
    assert all((m.weight.detach().numpy() != 0).all() for n, m in convolutions if n in deep)


# ---- losses --------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), temperature=st.floats(0.5, 8), alpha=st.floats(0, 1))
def test_distillation(seed, temperature, alpha):
    rng = np.random.default_rng(seed)
    s, t, y = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)), rng.integers(0, 4, 3)
    student = ml.tensor(s, requires_grad=True)
    teacher = ml.tensor(t, requires_grad=True)
    loss = distillation_loss(student, teacher, ml.tensor(y), temperature, alpha)
    p, q = softmax(t / temperature), softmax(s / temperature)
    far = (p * (np.log(p) - np.log(q))).sum(1).mean()
    hard = -np.log(softmax(s)[np.arange(3), y]).mean()
    expected = alpha * temperature**2 * far + (1 - alpha) * hard
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    slope = alpha * temperature * (q - p) + (1 - alpha) * (softmax(s) - np.eye(4)[y])
    np.testing.assert_allclose(student.grad.numpy(), slope / 3, atol=1e-9)
    assert teacher.grad is None


def test_distillation_says_what_is_wrong():
    z, y = noise(2, 3), ml.tensor([0, 1])
    for args in ((noise(2, 4), y, 1.0, 0.5), (z, y, 0.0, 0.5), (z, y, 1.0, 1.5)):
        with pytest.raises(ShapeError, match="distillation_loss"):
            distillation_loss(z, *args)
