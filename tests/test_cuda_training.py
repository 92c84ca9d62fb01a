"""Networks on a pretended GPU: training goes as on the CPU, state comes back as it went."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import EMULATED, NEEDED, gpu, stand_in  # noqa: F401
from test_convnet import images_of

import minidl as ml
import minidl.functional as F
from minidl import nn, optim
from minidl.backend import cuda
from minidl.backend.cuda import memory, runtime
from minidl.errors import DeviceError, GraphError, ShapeError
from minidl.train import RunDir, Trainer
from projects.convnet.data import loader_for
from projects.convnet.model import build
from projects.convnet.presets import preset
from projects.convnet.run import forward_for

pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.GELU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(72, 5),
    )  # fmt: skip


def train(device: str, optimizer: Callable, steps: int = 3) -> tuple[list[float], nn.Module, Any]:
    """Losses of some steps, the network and its moving average."""
    ml.manual_seed(1)
    model = convnet().to(device)
    rules = optimizer(model.parameters())
    average = optim.EMA(model, 0.9)
    rng, losses = np.random.default_rng(0), []
    for _ in range(steps):
        x = ml.tensor(rng.standard_normal((4, 3, 6, 6)).astype(np.float32), device=device)
        label = ml.tensor(rng.integers(0, 5, 4), device=device)
        loss = F.cross_entropy(model(x), label, label_smoothing=0.1)
        rules.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rules.step()
        average.update(model)
        losses.append(loss.item())
    return losses, model, (average, rules)


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adamw": lambda p: optim.AdamW(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_network_trains_as_on_the_cpu(name: str) -> None:
    """Losses, weights and running statistics of three steps, with dropout's draws."""
    ours, model, (average, _) = train("cuda", OPTIMIZERS[name])
    theirs, other, (mean, _) = train("cpu", OPTIMIZERS[name])
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)
    state, expected = model.state_dict(), other.state_dict()
    assert [*state] == [*expected]
    for key, value in state.items():
        assert value.device.type == "cuda"
        np.testing.assert_allclose(value.cpu().numpy(), expected[key].numpy(), atol=2e-3)
    with average.swapped(model), mean.swapped(other):
        pairs = zip(model.parameters(), other.parameters(), strict=True)
        for p, q in pairs:
            np.testing.assert_allclose(p.detach().cpu().numpy(), q.detach().numpy(), atol=2e-3)


def test_state_moves_between_devices(tmp_path: Any) -> None:
    """Saved on one device, loaded on the other, weights and optimizer alike."""
    _, model, (average, rules) = train("cuda", OPTIMIZERS["adamw"], 1)
    state = {"model": model.state_dict(), "rules": rules.state_dict(), "mean": average.state_dict()}
    ml.save(state, tmp_path / "state")
    for device in ("cpu", "cuda"):
        saved = ml.load(tmp_path / "state", map_location="cuda" if device == "cpu" else None)
        other = convnet().to(device)
        other.load_state_dict(saved["model"])
        again = OPTIMIZERS["adamw"](other.parameters())
        again.load_state_dict(saved["rules"])
        optim.EMA(other).load_state_dict(saved["mean"])
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert q.device.type == device
            np.testing.assert_array_equal(p.detach().cpu().numpy(), q.detach().cpu().numpy())
    assert {p.device.type for p in model.cpu().parameters()} == {"cpu"}


def test_tensors_come_and_go() -> None:
    """Creation on a device, moves with gradients, reprs, reading values."""
    x = ml.arange(6, device="cuda").reshape(2, 3)
    assert str(x.device) == "cuda:0" and x.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert "device='cuda:0'" in repr(x) and x.sum().item() == 15 and bool((x > -1).all())
    leaf = ml.ones(2, 2, requires_grad=True)
    (leaf.cuda() * 3).sum().backward()
    assert leaf.grad.device.type == "cpu" and leaf.grad.tolist() == [[3, 3], [3, 3]]
    assert ml.as_tensor(x) is x and ml.tensor(x).device == x.device
    assert ml.tensor(x, device="cpu").device.type == "cpu"
    y = ml.zeros(3, device="cuda")
    y[1:] = 2
    y.copy_(y.cpu() + 1)
    y += 1
    assert y.tolist() == [2, 4, 4]
    np.testing.assert_array_equal(np.asarray(y), [2, 4, 4])
    for made in (
        ml.rand(3, device="cuda"),
        ml.randn_like(y),
        ml.bernoulli(y * 0),
        ml.eye(2).cuda(),
    ):
        assert made.device.type == "cuda"
    assert ((x & 1) | (x ^ 2)).tolist() == ((x.cpu() & 1) | (x.cpu() ^ 2)).tolist()
    assert (x // 2).tolist() == [[0, 0, 1], [1, 2, 2]] and (~x).tolist() == [
        [-1, -2, -3],
        [-4, -5, -6],
    ]


def test_views_and_memory() -> None:
    """A view shares memory where strides allow it; the pool can be looked at and emptied."""
    x = ml.arange(12, device="cuda").reshape(3, 4)
    seen = x[:, :2].view(3, 2, 1)
    x[0, 0] = 7
    assert seen[0, 0].item() == 7
    with pytest.raises(ShapeError, match="view: size .* does not fit"):
        x.T.view(12)
    assert set(ml.memory_stats("cuda")) == {"allocated", "idle"}
    ml.empty_cache("cuda")


def test_devices_do_not_mix() -> None:
    """Every kind of op names itself, or the device; numbers alone are brought along."""
    here, there = ml.ones(2, 2), ml.ones(2, 2, device="cuda")
    for mixed in (
        lambda: here + there, lambda: here @ there, lambda: there @ here,
        lambda: F.cross_entropy(there, ml.tensor([0, 1])), lambda: ml.cat([there, here]),
        lambda: F.embedding(ml.tensor([0]), there), lambda: nn.Linear(2, 2).cuda()(here),
        lambda: nn.Conv2d(2, 2, 1).cuda()(ml.ones(1, 2, 2, 2)), lambda: nn.LSTM(2, 2).cuda()(here),
        lambda: nn.LayerNorm(2).cuda()(here), lambda: nn.BatchNorm1d(2).cuda()(here),
    ):  # fmt: skip
        with pytest.raises(DeviceError, match="one device"):
            mixed()
    assert (there * ml.tensor(2.0)).tolist() == [[2, 2], [2, 2]]
    with pytest.raises(DeviceError, match="the GPU in use is number 0.*CUDA_VISIBLE_DEVICES=3"):
        ml.ones(2, device="cuda:3")


def test_shapes_that_depend_on_values_read_the_host() -> None:
    x = ml.tensor([0.0, 2.0, -1.0], device="cuda")
    assert x.nonzero().tolist() == [[1], [2]] and x[x > 0].tolist() == [2]
    assert ml.masked_select(x, x < 0).tolist() == [-1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_captured_step_trains_as_an_ordinary_one(name: str) -> None:
    """Learning rates, counts, dropout's draws and averages go on where the graph is replayed."""
    results = []
    for captured in (False, True):
        ml.manual_seed(1)
        model = convnet().to("cuda")
        rules, average = OPTIMIZERS[name](model.parameters()), optim.EMA(model, 0.9)
        schedule = optim.lr_scheduler.StepLR(rules, 1, 0.5)

        def step(x: ml.Tensor, label: ml.Tensor) -> ml.Tensor:
            loss = F.cross_entropy(model(x), label)  # noqa: B023
            rules.zero_grad()  # noqa: B023
            loss.backward()
            rules.step()  # noqa: B023
            average.update(model)  # noqa: B023
            return loss.detach()

        run = ml.capture(step, training=True) if captured else step
        rng, losses = np.random.default_rng(0), []
        for _ in range(6):
            x = ml.tensor(rng.standard_normal((4, 3, 6, 6)).astype(np.float32), device="cuda")
            losses.append(run(x, ml.tensor(rng.integers(0, 5, 4), device="cuda")).item())
            schedule.step()
        kept = [*model.state_dict().values(), *average.average.values()]
        results.append((losses, [np.asarray(ml.as_tensor(a)) for a in kept], rules.state_dict()))
    (losses, arrays, state), (others, same, again) = results
    assert losses == others
    for a, b in zip(arrays, same, strict=True):
        np.testing.assert_array_equal(a, b)
    steps = [{i: s.get("step") for i, s in d["state"].items()} for d in (state, again)]
    assert steps[0] == steps[1]


RULES = {**OPTIMIZERS, "nadam": lambda p: optim.NAdam(p, 0.01)}


@pytest.mark.parametrize("name", RULES)
def test_a_captured_step_goes_on_from_loaded_state(name: str) -> None:
    """It updated the arrays from before load_state_dict; NAdam counted for one parameter alone."""
    leaves = [ml.ones(2, device="cuda", requires_grad=True) for _ in range(2)]
    rules = RULES[name](leaves)

    def step(x: ml.Tensor) -> ml.Tensor:
        loss = sum(((w - x) ** 2).sum() for w in leaves)
        rules.zero_grad()
        loss.backward()
        rules.step()
        return loss.detach()

    def now() -> tuple[list, dict]:
        kept = rules.state_dict()
        state = {i: {k: np.array(ml.as_tensor(v).cpu()) if hasattr(v, "dtype") else v
                     for k, v in s.items()} for i, s in kept["state"].items()}  # fmt: skip
        return [w.tolist() for w in leaves], kept | {"state": state}

    run, x = ml.capture(step, training=True), ml.zeros(2, device="cuda")
    for _ in range(4):
        run(x)
    values, saved = now()
    run(x), run(x)
    expected = now()
    with ml.no_grad():
        for w, value in zip(leaves, values):
            w.copy_(ml.tensor(value))
    rules.load_state_dict(saved)
    run(x), run(x)
    np.testing.assert_equal(now(), expected)
    numbers = [{k: v for k, v in s.items() if type(v) is float} for s in now()[1]["state"].values()]
    assert numbers[0] == numbers[1]


def test_a_trainer_replays_its_steps(tmp_path) -> None:
    """The same rows, weights and averages with a captured step, whose last batch is smaller."""
    kept = []
    for captured in (False, True):
        ml.manual_seed(1)
        rng, model = np.random.default_rng(0), convnet().to("cuda")
        data = ml.data.TensorDataset(
            ml.tensor(rng.standard_normal((14, 3, 6, 6)).astype(np.float32)),
            ml.tensor(rng.integers(0, 5, 14)),
        )
        loader = ml.data.DataLoader(data, 4, shuffle=True, device="cuda")
        rules = OPTIMIZERS["sgd"](model.parameters())

        def forward(model: nn.Module, batch: Any) -> tuple[ml.Tensor, ml.Tensor]:
            logits, label = model(batch[0]), batch[1]
            return F.cross_entropy(logits, label), (logits.detach().argmax(1) == label).sum()

        run = RunDir(tmp_path / str(captured))
        run.path.mkdir()
        trainer = Trainer(
            run, model, rules, loader, forward, dict, epochs=4, identity={}, clip=1.0,
            scheduler=optim.lr_scheduler.StepLR(rules, 3, 0.5), ema=optim.EMA(model, 0.9),
            read_every=5, captured=captured,
        )  # fmt: skip
        trainer.fit()
        rows = [{k: v for k, v in row.items() if "second" not in k} for row in run.rows()]
        kept.append((rows, [np.asarray(a.cpu()) for a in model.state_dict().values()]))
    assert kept[0][0] == kept[1][0]
    for a, b in zip(kept[0][1], kept[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_captures_refuse_what_a_graph_cannot_hold() -> None:
    """Reading values, copying from the host; but a constant of 90 KB is copied before."""
    x = ml.ones(3, device="cuda")
    for work in (
        lambda t: t * t.sum().item(), lambda t: t + ml.tensor([1.0, 2.0, 3.0], device="cuda"),
        lambda t: t[t > 0], lambda t: t * float(t[0]),
    ):  # fmt: skip
        run = ml.capture(work)
        run(x), run(x)
        with pytest.raises(GraphError, match="captured"):
            run(x)
    double = ml.capture(lambda t: t * 2 + ml.tril(ml.ones(300, 300, device="cuda"))[-1].max())
    for k in range(5):
        assert double(x * k).tolist() == [2.0 * k + 1] * 3


def test_the_loader_copies_ahead() -> None:
    """Host data arrives in order, with its layout; the position counts what was given out."""
    pictures = np.arange(7 * 2 * 3 * 4, dtype=np.uint8).reshape(7, 2, 3, 4)
    data = ml.data.ImageArrays(pictures, [0, 1, 2, 0, 1, 2, 0], "abc")
    loader = ml.data.DataLoader(data, 2, device="cuda", num_workers=1)
    expected = list(ml.data.DataLoader(data, 2))
    kept = []
    for k, (x, y) in enumerate(loader):
        assert loader.batch_index == k + 1 and x.device.type == y.device.type == "cuda"
        assert x.array.strides == expected[k][0].array.strides
        kept.append((x, y))
    for got, own in zip(kept, expected, strict=True):
        for a, b in zip(got, own, strict=True):
            np.testing.assert_array_equal(a.cpu().numpy(), b.numpy())
    data.to("cuda")
    for got, own in zip(ml.data.DataLoader(data, 2), expected, strict=True):
        np.testing.assert_array_equal(got[0].cpu().numpy(), own[0].numpy())
        assert got[0].device.type == got[1].device.type == "cuda"


@EMULATED
def test_a_loader_left_early_waits_for_its_copies(monkeypatch) -> None:
    """The next batch was still on its way to memory that was given back."""
    made = [stand_in.Stream()]
    monkeypatch.setattr(stand_in.cuda, "Stream", lambda **_: made[0])
    data = ml.data.ImageArrays(np.ones((6, 2, 3, 4), np.uint8), [0, 1, 2, 0, 1, 2], "abc")
    batches = iter(ml.data.DataLoader(data, 2, device="cuda"))
    next(batches)
    assert any(made[0].late)
    del batches
    assert not any(made[0].late)


def test_small_pictures_there_are_made_several_batches_at_once() -> None:
    """The same batches as one by one, from the middle of an epoch too: views of one array."""
    transforms = ml.data.transforms
    rng, steps = np.random.default_rng(0), [transforms.RandomCrop((4, 4), padding=1)]
    steps += [transforms.RandomHorizontalFlip(), transforms.Normalize([0.5] * 3, [0.2] * 3)]
    pixels = rng.integers(0, 256, (23, 4, 4, 3), dtype=np.uint8)
    data = ml.data.ImageArrays(pixels, [*range(10)] * 2 + [3, 4, 5], "0123456789",
                               transforms.Compose(steps))  # fmt: skip
    expected = [(x.numpy(), y.numpy()) for x, y in ml.data.DataLoader(data, 4, shuffle=True)]
    data.to("cuda")
    assert data.together == (1 << 22) // 48
    for first in (0, 2):
        loader = ml.data.DataLoader(data, 4, shuffle=True)
        loader.load_state_dict(loader.state_dict() | {"batch": first})
        seen = []
        for k, (x, y) in enumerate(loader, first):
            assert loader.batch_index == k + 1 and x.device.type == y.device.type == "cuda"
            seen.append((x.cpu().numpy(), y.cpu().numpy()))
        for got, own in zip(seen, expected[first:], strict=True):
            np.testing.assert_array_equal(got[1], own[1])
            np.testing.assert_allclose(got[0], own[0], rtol=1e-6, atol=1e-6)
    assert len({x.array.base.data.ptr for x, _ in ml.data.DataLoader(data, 4)}) == 1
    data.to("cpu")
    assert data.together == 0


@pytest.mark.parametrize("name", ["e-all", "a-mixes", "speedrun"])
def test_the_convnet_project_learns_there(name: str) -> None:
    """Pictures, augmentation, loss and gradients of a first batch are the CPU's."""
    losses, norms = [], []
    for device in ("cpu", "cuda"):
        cfg = preset(name)
        depth = 8 if cfg.model == "resnet" else cfg.depth
        cfg = replace(cfg, batch=2, width=8, depth=depth, ema=0.0, device=device)
        ml.manual_seed(0)
        images = images_of(6, side=32)
        model = build(cfg, images.shape, 10).to(device)
        batch = next(iter(loader_for(cfg, images)))
        loss, right = forward_for(cfg, lambda: 0)(model, batch)
        loss.backward()
        losses.append(loss.item())
        norms.append([p.grad.norm().item() for p in model.parameters() if p.grad is not None])
        assert loss.device.type == right.device.type == device
    np.testing.assert_allclose(*losses, rtol=1e-4)
    np.testing.assert_allclose(*norms, rtol=5e-3, atol=1e-5)


def language_models() -> dict[str, Any]:
    ml.manual_seed(2)
    gpt = ml.models.GPT(11, block_size=8, n_layer=1, n_head=2, n_embd=16)
    return {"gpt": gpt, "rnn": ml.models.CharRNN(11, hidden_size=8)}


@pytest.mark.parametrize("name", ["gpt", "rnn"])
def test_language_models_write_the_same_text(name: str) -> None:
    """Greedily, past the block, by captured single steps; the loss has the same gradients."""
    texts, norms = [], []
    tokens = np.random.default_rng(3).integers(0, 11, (2, 4))
    for device in ("cpu", "cuda"):
        model = language_models()[name].to(device).eval()
        x = ml.tensor(tokens, device=device)
        texts.append(model.generate(x, 9, temperature=0).cpu().tolist())
        out = model(x)
        out = out[0] if isinstance(out, tuple) else out
        F.cross_entropy(out[:, :-1].reshape(-1, 11), x[:, 1:].reshape(-1)).backward()
        norms.append([p.grad.norm().item() for p in model.parameters()])
    assert texts[0] == texts[1]
    np.testing.assert_allclose(*norms, rtol=2e-4, atol=1e-6)


def test_gradients_are_proven_there() -> None:
    """gradcheck runs the function where its inputs lie."""
    x = ml.randn(3, 4, dtype=ml.float64, device="cuda").requires_grad_()
    seen = []

    def function(t: ml.Tensor) -> ml.Tensor:
        seen.append(t.device.type)
        return F.softmax(t * t, -1)

    assert ml.gradcheck(function, (x,)) and {*seen} == {"cuda"}
    assert ml.gradgradcheck(function, (x,))


def test_a_gradient_with_axes_in_another_order_is_not_copied() -> None:
    """A leaf keeps the very array that a kernel made, though that is a view of its memory."""
    x = ml.randn(2, 8, 4, 4, device="cuda").requires_grad_()
    backward, places = cuda.max_pool2d_grad, []

    def noted(*args: Any, **window: Any) -> Any:
        dx = backward(*args, **window)
        places.append(dx.data.ptr)
        return dx

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "max_pool2d_grad", noted)
        patch.setattr(cuda, "sole_owner", memory.sole_owner)  # itself: it counts references
        F.max_pool2d(x, 2).sum().backward()
    assert places == [x.grad.array.data.ptr] and cuda.is_channels_last(x.grad.array)


def test_a_count_goes_up_by_two_launches() -> None:
    """What every batch norm does in a step: integers need no copy for the graph."""
    count, seen, launch = ml.zeros((), dtype=ml.int64, device="cuda"), [], runtime.launch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "launch", lambda *a, **o: seen.append(a[0]) or launch(*a, **o))
        count.add_(1)
    assert count.item() == 1 and len(seen) == 2
