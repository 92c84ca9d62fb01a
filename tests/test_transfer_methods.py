"""Methods of finetuning: LoRA, masks, batch norms, forgetting, unfreezing."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_models import arrays, fill, noise, outputs, resnet

import minidl as ml
import minidl.functional as F
from minidl import nn, optim
from minidl.errors import CheckpointError, DataError, GraphError, ShapeError
from minidl.io import load_safetensors, save_safetensors
from projects.transfer.methods import masking
from projects.transfer.methods.forgetting import measure_forgetting
from projects.transfer.methods.lora import (
    add_lora,
    load_lora,
    lora_parameters,
    lora_state,
    merge_lora,
)
from projects.transfer.methods.norms import FixedBatchNorm2d, set_norms, unfold_norms
from projects.transfer.methods.unfreezing import layer_rates, tune_last, tuned_sections

# ---- LoRA ----------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(
    groups=st.sampled_from([1, 2, 4]), kernel=st.sampled_from([1, 3]), rank=st.integers(1, 5),
    alpha=st.floats(0.5, 16), seed=st.integers(0, 99),
)  # fmt: skip
def test_an_update_is_alpha_over_rank_b_a(groups, kernel, rank, alpha, seed):
    net = nn.Sequential(nn.Conv2d(4, 8, kernel, groups=groups), nn.Flatten(), nn.LazyLinear(3))
    x = noise(2, 4, 4, 4, seed=seed)
    before = outputs(net, x)
    plain = arrays(net)
    assert add_lora(net, ".*", rank, alpha, seed=seed) == ["0", "2"]
    np.testing.assert_array_equal(outputs(net, x), before)
    rng = np.random.default_rng(seed)
    with ml.no_grad():
        for p in lora_parameters(net):
            p.copy_(ml.tensor(rng.standard_normal(p.shape).astype(np.float32)))
    changed = outputs(net, x)
    expected = {}
    for i in "02":
        low = net[int(i)].lora_b.detach().numpy() @ net[int(i)].lora_a.detach().numpy()
        w = plain[f"{i}.weight"]
        expected[f"{i}.weight"] = w + alpha / rank * low.reshape(w.shape)
    assert merge_lora(net) == ["0", "2"]
    assert arrays(net).keys() == plain.keys()
    assert not lora_parameters(net) and not net[0].has_hooks
    for name, w in expected.items():
        np.testing.assert_allclose(arrays(net)[name], w, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs(net, x), changed, rtol=1e-5, atol=1e-5)


def test_only_the_updates_are_trained_and_their_gradients_are_those_of_the_matrix():
    model, x = resnet(), noise(3, 3, 8, 8)
    plain = copy.deepcopy(model)
    names = add_lora(model, r"layer[23]\..*conv\d|fc", 2, 6.0)
    assert names[-1] == "fc" and len(names) == 5
    layer, changed = model.layer2[0].conv1, plain.layer2[0].conv1.weight
    a, b = layer.lora_a, layer.lora_b
    fill(b, np.random.default_rng(1).standard_normal(b.shape))
    low = b.detach().numpy() @ a.detach().numpy()
    fill(changed, changed.detach().numpy() + 3.0 * low.reshape(changed.shape))
    for m in (model, plain):
        m(x).square().sum().backward()
    full = changed.grad.numpy().reshape(16, -1)
    close = {"rtol": 1e-3, "atol": 1e-3 * np.abs(full).max()}
    np.testing.assert_allclose(a.grad.numpy(), 3.0 * b.detach().numpy().T @ full, **close)
    np.testing.assert_allclose(b.grad.numpy(), 3.0 * full @ a.detach().numpy().T, **close)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{n}.{part}" for n in names for part in ("lora_a", "lora_b")}
    assert {id(p) for p in lora_parameters(model)} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    before = arrays(model)
    optimizer = optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    optimizer.step()
    after = arrays(model)
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and moved <= trained
    expected = outputs(model, x)
    merge_lora(model)
    np.testing.assert_allclose(outputs(model, x), expected, rtol=1e-5, atol=1e-5)


def test_merging_right_after_a_step_uses_the_new_update():
    layer = nn.Sequential(nn.Linear(3, 2))
    add_lora(layer, "0", 1, 1.0)
    weight = layer[0].weight_orig.numpy().copy()
    layer(noise(1, 3)).sum().backward()
    optim.SGD(lora_parameters(layer), lr=1.0).step()
    low = (layer[0].lora_b.detach() @ layer[0].lora_a.detach()).numpy()
    assert np.abs(low).max() > 0
    merge_lora(layer)
    np.testing.assert_allclose(layer[0].weight.detach().numpy(), weight + low, atol=1e-6)
    assert layer[0].weight.requires_grad


def test_the_updates_alone_are_a_file(tmp_path):
    model, other = resnet(), resnet()
    for m, seed in ((model, 1), (other, 2)):
        add_lora(m, r"layer3\..*", 2, 2.0, seed=seed)
    fill(model.layer3[0].conv2.lora_b, np.ones((32, 2)))
    save_safetensors(lora_state(model), tmp_path / "lora.safetensors")
    state = load_safetensors(tmp_path / "lora.safetensors")
    assert len(state) == 6 and sum(a.size for a in state.values()) < 0.1 * sum(
        p.numel() for p in model.parameters()
    )
    load_lora(other, state)
    x = noise(2, 3, 8, 8)
    np.testing.assert_array_equal(outputs(other, x), outputs(model, x))
    kept = arrays(other)
    less = dict(state)
    less["no.lora_a"] = less.pop("layer3.0.conv2.lora_a")
    with pytest.raises(CheckpointError, match=r"load_lora: .*layer3.0.conv2.lora_a.*no.lora_a"):
        load_lora(other, less)
    with pytest.raises(CheckpointError, match="wrong shape"):
        load_lora(other, state | {"layer3.0.conv2.lora_b": np.zeros((32, 3), np.float32)})
    assert all((kept[name] == a).all() for name, a in arrays(other).items())


def test_lora_says_what_is_wrong():
    model = resnet()
    for pattern, rank, words in (
        ("layer9.*", 2, "none of the layers matches"),
        ("fc(", 2, "is no regular expression"),
        ("fc", 0, "rank must be at least 1"),
    ):
        with pytest.raises(ShapeError, match=words):
            add_lora(model, pattern, rank, 1.0)
    assert all(p.requires_grad for p in model.parameters())
    add_lora(model, "fc", 1, 1.0)
    with pytest.raises(ShapeError, match=r"plain parameters.*fc"):
        add_lora(model, ".*", 1, 1.0)
    assert len(lora_parameters(model)) == 2


# ---- masks ---------------------------------------------------------------------------------------


def test_masks_are_the_top_gradients_of_each_row():
    layer = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1))
    target = np.array([[0.1, -3.0, 2.0, 0.0], [5.0, 0.0, -1.0, 4.0]], np.float32)
    losses = [(layer[0].weight * ml.tensor(target * part)).sum() for part in (0.25, 0.75)]
    masks = masking.select_masks(layer, iter(losses), 0.5, whole=["1."])
    assert masks["0.weight"].tolist() == [[False, True, True, False], [True, False, False, True]]
    assert not masks["0.bias"].any() and masks["1.weight"].all() and masks["1.bias"].all()
    assert all(p.grad is None for p in layer.parameters())
    assert masking.tuned_share(masks, layer) == (4 + 3) / 13
    one = masking.select_masks(layer, [(layer[0].weight * 1.0).sum()], 0.01)
    assert one["0.weight"].tolist() == [[True, False, False, False]] * 2  # at least one; the first


@pytest.mark.parametrize("kind", [
    lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.5),
    lambda p: optim.RMSprop(p, lr=0.1, weight_decay=0.1),
])  # fmt: skip
def test_what_is_not_selected_stays_bit_for_bit(kind):
    model, x, y = resnet().train(), noise(6, 3, 8, 8), ml.tensor(np.arange(6) % 4)

    def loss():
        return F.cross_entropy(model(x), y)

    masks = masking.select_masks(model, (loss() for _ in range(2)), 0.1, whole=["fc."])
    before = arrays(model)
    optimizer = masking.MaskedUpdate(kind(model.parameters()), model, masks)
    schedule = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(3):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 8)
    for name, p in model.named_parameters():
        now, was = p.detach().numpy(), before[name]
        assert now[~masks[name]].tobytes() == was[~masks[name]].tobytes(), name
        if masks[name].any():
            assert (now[masks[name]] != was[masks[name]]).mean() > 0.5, name


def test_clipping_counts_what_is_tuned():
    layer = nn.Linear(2, 1, bias=False)
    masking.MaskedUpdate(optim.SGD(layer.parameters(), lr=1.0), layer,
                         {"weight": np.array([[True, False]])})  # fmt: skip
    layer(ml.tensor([[3.0, 4.0]])).sum().backward()
    assert layer.weight.grad.tolist() == [[3.0, 0.0]]


def test_masking_says_what_is_wrong():
    model = nn.Linear(2, 2)
    with pytest.raises(ShapeError, match="share must lie"):
        masking.select_masks(model, [], 0.0)
    with pytest.raises(GraphError, match="no loss depends"):
        masking.select_masks(model, [noise(1).requires_grad_().sum()], 0.5)
    for masks in ({"weight": np.ones((2, 3), bool)}, {"w": np.ones((2, 2), bool)}):
        with pytest.raises(ShapeError, match="names and shapes of parameters"):
            masking.MaskedUpdate(optim.SGD(model.parameters(), lr=1), model, masks)


# ---- norms ---------------------------------------------------------------------------------------


def folded(seed=0):
    """A network whose norms hold folded weights, as converters leave them."""
    model = resnet(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            fill(module.running_mean, np.zeros(n))
            fill(module.running_var, np.full(n, 1 - module.eps))
            fill(module.weight, np.ones(n))
            fill(module.bias, np.random.default_rng(n).standard_normal(n))
    return model


def test_unfolded_norms_keep_outputs_and_hold_exact_statistics():
    model, x = folded(), noise(10, 3, 12, 12)
    before = outputs(model, x)
    model.train()
    names = unfold_norms(model, [x[:3], x[3:4], x[4:]])
    assert model.training and len(names) == 9
    model.eval()
    np.testing.assert_allclose(outputs(model, x), before, rtol=1e-5,
                               atol=1e-5 * np.abs(before).max())  # fmt: skip
    inputs = {}
    for name in names:
        norm = dict(model.named_modules())[name]
        norm.register_forward_pre_hook(lambda m, args, n=name: inputs.__setitem__(n, args[0]))
    outputs(model, x)
    for name in names:
        norm, seen = dict(model.named_modules())[name], inputs[name].numpy().astype(np.float64)
        np.testing.assert_allclose(norm.running_mean.numpy(), seen.mean((0, 2, 3)), atol=1e-5)
        np.testing.assert_allclose(norm.running_var.numpy(), seen.var((0, 2, 3)), rtol=1e-4)
    # training mode on all images now computes what evaluation does
    np.testing.assert_allclose(outputs(model.train(), x), before, rtol=1e-3,
                               atol=1e-3 * np.abs(before).max())  # fmt: skip


def test_norms_with_statistics_are_left_alone():
    model = resnet()
    before = arrays(model)
    assert unfold_norms(model, [noise(2, 3, 8, 8)]) == []
    assert all((before[n] == a).all() for n, a in arrays(model).items())
    with pytest.raises(DataError, match=r"every folded norm.*bn1"):
        unfold_norms(folded(), [])
    bare = nn.Sequential(nn.BatchNorm2d(3, affine=False))
    with pytest.raises(ShapeError, match="scale and shift"):
        unfold_norms(bare, [noise(2, 3, 4, 4)])


@pytest.mark.parametrize("affine", [True, False])
def test_what_of_norms_adapts(affine):
    model, x = resnet(), noise(8, 3, 8, 8)
    still = outputs(model, x)
    set_norms(model, affine, False)
    model.train()
    before = arrays(model)
    np.testing.assert_array_equal(outputs(model, x), still)
    assert all((before[n] == a).all() for n, a in arrays(model).items())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(type(m) is FixedBatchNorm2d for m in norms)
    assert all(p.requires_grad is affine for m in norms for p in m.parameters())
    assert model.conv1.weight.requires_grad
    set_norms(model, affine, True)
    moving = outputs(model.train(), x)
    assert np.abs(moving - still).max() > 1e-3
    assert (arrays(model)["bn1.running_mean"] != before["bn1.running_mean"]).any()
    assert all(type(m) is nn.BatchNorm2d and m.training for m in norms)


# ---- forgetting, unfreezing ----------------------------------------------------------------------


def test_forgetting_changes_heads():
    model, seen = resnet(), []
    old, classes = model.fc, iter([0.9, 0.4, 0.8])

    def test_a():
        seen.append(("test", model.fc))
        return next(classes)

    def train(name):
        return lambda: seen.append((name, model.fc))

    found = measure_forgetting(model, 4, 7, test_a, train("b"), train("head"))
    assert found == (0.9, 0.4, 0.8) and found.forgotten == pytest.approx(0.5)
    assert [name for name, _ in seen] == ["test", "b", "test", "head", "test"]
    heads = [head for _, head in seen]
    assert heads[0] is heads[2] is old and heads[3] is heads[4] is model.fc is not old
    assert heads[1].out_features == 7 and model.fc.out_features == 4


def test_sections_are_unfrozen_from_the_head():
    assert [tuned_sections(e, 4) for e in range(6)] == [1, 2, 3, 4, 4, 4]
    assert [tuned_sections(e, 3, every=2) for e in range(6)] == [1, 1, 2, 2, 3, 3]
    assert tuned_sections(0, 5, start=5) == 5
    for bad in ({"epoch": -1}, {"every": 0}, {"start": 0}, {"start": 9}):
        with pytest.raises(ShapeError, match="tuned_sections"):
            tuned_sections(**{"epoch": 0, "sections": 4} | bad)
    model = resnet()
    sections = model.sections()
    for count in (0, 1, 3, len(sections)):
        tune_last(model, count)
        tuned = {name for name, p in model.named_parameters() if p.requires_grad}
        last = sections[len(sections) - count :]
        assert tuned == {name for s in last for name in model.parameters_of(s)}
        assert bool(count) is ("fc.weight" in tuned)
    assert tuned == {name for name, _ in model.named_parameters()}
    with pytest.raises(ShapeError, match="tune_last"):
        tune_last(model, len(sections) + 1)


def test_layers_have_rates_of_their_own():
    assert layer_rates(1.0, 3) == pytest.approx([1 / 6.76, 1 / 2.6, 1])
    with pytest.raises(ShapeError, match="layer_rates"):
        layer_rates(0.1, 0)
