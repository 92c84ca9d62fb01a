"""The transfer project: splits, kept features, what each strategy tunes, weights, presets."""

import dataclasses
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transferring import TINY, batch_of, write_folder, write_pets, write_picture

import minidl as ml
from minidl import models, nn
from minidl.errors import CheckpointError, DataError
from minidl.io import load_safetensors, save_safetensors
from projects.recipe import optimizer_of
from projects.settings import UsageError, from_json
from projects.transfer import data
from projects.transfer.__main__ import PROJECT
from projects.transfer.config import Config, Schedule
from projects.transfer.data import Source, choose, load_images
from projects.transfer.features import prepare
from projects.transfer.model import Rest, Tuning, build
from projects.transfer.presets import PRESETS, preset
from projects.transfer.recipe import aligned, forward_for, make_schedule, share


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of classes."""
    return write_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def images(pictures):
    return load_images(dataclasses.replace(TINY, data=str(pictures)))


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return write_pets(tmp_path_factory.mktemp("pets"))


# ---- data ----------------------------------------------------------------------------------------


class Labels:
    """What `choose` looks at."""

    def __init__(self, y, classes):
        self.targets, self.classes = y, [f"c{k}" for k in range(classes)]


@given(st.lists(st.integers(2, 30), min_size=2, max_size=6), st.integers(0, 20),
       st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from([0.2, 1.0]),
       st.integers(0, 5))  # fmt: skip
def test_parts_are_disjoint_and_as_large_as_asked(sizes, cap, labels, rare, seed):
    y = np.repeat(np.arange(len(sizes)), sizes)
    cap = cap if cap > 1 else 0
    cfg = Config(dataset="pets", cap=cap, labels=labels, rare=rare, seed=seed)
    kept, held, used = choose(cfg, Source(Labels(y, len(sizes)), None, y, frozenset([0])))
    assert not set(kept) & set(held) and set(used) <= set(kept)
    for k, size in enumerate(sizes):
        total = min(size, cap or size)
        out = max(1, round(total / 10))
        inside = total - out
        inside = max(1, round(rare * inside)) if k == 0 else inside
        assert (y[held] == k).sum() == out and (y[kept] == k).sum() == inside
        assert (y[used] == k).sum() == max(1, round(labels * inside))
    again = choose(cfg, Source(Labels(y, len(sizes)), None, y, frozenset([0])))
    assert all((a == b).all() for a, b in zip(again, (kept, held, used), strict=True))


def test_a_class_without_an_image_is_named():
    y = np.array([0] * 5 + [2] * 5)
    with pytest.raises(DataError, match="no training image is left of c1"):
        choose(TINY, Source(Labels(y, 3), None, y))


def test_source_and_target_shapes_share_no_class():
    source, target = (data.read(Config(dataset=name)) for name in ("shapes", "embedded"))
    assert not {*source.train.classes} & {*target.train.classes}
    for half in (source, target):
        assert half.train.classes == half.test.classes
        for pictures in (half.train, half.test):
            assert np.unique(pictures.targets).tolist() == [0, 1, 2, 3, 4]


def test_pets_are_read_as_breeds_and_as_species(pets):
    breeds = load_images(Config(dataset="pets", data=str(pets), size=16))
    assert breeds.classes == ["Abyssinian", "Beagle", "Birman"]
    assert np.bincount(breeds.train.y).tolist() == [9, 9, 9] and len(breeds.test.y) == 6
    kinds = load_images(Config(dataset="species", data=str(pets), size=16, rare=0.34))
    assert kinds.classes == ["Cat", "Dog"] and np.bincount(kinds.train.y).tolist() == [6, 9]
    few = load_images(Config(dataset="pets", data=str(pets), size=16, labels=0.0))
    assert len(few.labelled) == 3 and (few.train.y == -1).sum() == 24
    assert few.train.y[few.labelled].tolist() == [0, 1, 2]


def test_the_shorter_side_is_scaled_and_the_middle_cut(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            wide = np.zeros((20, 60, 3), np.uint8)
            wide[:, 20:40] = 200
            Image.fromarray(wide).save(tmp_path / name / f"{i}.png")
    cfg = dataclasses.replace(TINY, data=str(tmp_path), size=10)
    assert (load_images(cfg).test.x[:, :, 2:8, 2:8] == 200).all()
    assert load_images(dataclasses.replace(cfg, crop=2)).test.x.shape[2:] == (14, 14)


def test_pictures_and_features_are_remembered(pictures, tmp_path, monkeypatch):
    cfg = dataclasses.replace(TINY, data=str(pictures), cache=str(tmp_path), views=2, flip=True)

    def made(cfg):
        ml.manual_seed(0)
        images = load_images(cfg)
        ready = prepare(cfg, *cut_of(cfg, images), images)
        return images, ready, next(iter(ready.loader))

    first = made(cfg)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert len(files) == 2 + 4  # pictures to train and to test; two views, one of held-out, of test
    monkeypatch.setattr(data, "opened", None)
    again = made(cfg)
    assert sorted(p.name for p in tmp_path.iterdir()) == files
    monkeypatch.undo()
    plain = made(dataclasses.replace(cfg, cache=""))
    for other in (again, plain):
        assert (other[0].train.x == first[0].train.x).all()
        assert (other[1].test == first[1].test).all()
        assert all((a.numpy() == b.numpy()).all() for a, b in zip(other[2], first[2], strict=True))


def cut_of(cfg, images):
    model = build(cfg, len(images.classes), images.size)
    return model, Tuning(cfg, model).cut


def test_flowers_in_the_official_layout(tmp_path):
    """Labels count from 1; trnid and valid are trained on, tstid is the test; numbers from 1."""
    savemat = pytest.importorskip("scipy.io").savemat
    folder = tmp_path / "flowers-102"
    with pytest.raises(DataError, match=r"no folder .*flowers-102, and .* is not downloaded: put"):
        load_images(Config(dataset="flowers", data=str(tmp_path)))
    (folder / "jpg").mkdir(parents=True)
    y, parts = np.arange(24) % 3 + 1, {"trnid": 1, "valid": 13, "tstid": 19}
    for i in range(24):
        write_picture(folder / f"jpg/image_{i + 1:05d}.jpg", seed=i)
    savemat(folder / "imagelabels.mat", {"labels": y[None].astype(np.uint8)})
    with pytest.raises(DataError, match=r"flowers: cannot read the lists in .*flowers-102"):
        load_images(Config(dataset="flowers", data=str(tmp_path)))
    ends = [13, 19, 25]
    savemat(folder / "setid.mat", {k: np.arange(first, end)[None].astype(np.uint16)
                                   for (k, first), end in zip(parts.items(), ends)})  # fmt: skip
    source = data.read(Config(dataset="flowers", data=str(tmp_path)))
    assert [p.name for p in source.test.images] == [f"image_{i:05d}.jpg" for i in range(19, 25)]
    assert source.train.targets.tolist() == (y[:18] - 1).tolist()
    images = load_images(Config(dataset="flowers", data=str(tmp_path), size=16))
    assert images.classes == ["1", "2", "3"] and images.test.x.shape == (6, 3, 16, 16)
    savemat(folder / "setid.mat", {"trnid": np.arange(1, 13)})
    with pytest.raises(DataError, match=r"flowers: the lists in .* lack.*valid"):
        load_images(Config(dataset="flowers", data=str(tmp_path)))
    for wrong in (0, 25):
        savemat(folder / "setid.mat", {"trnid": [wrong], "valid": [1], "tstid": [2]})
        with pytest.raises(DataError, match="flowers: the lists in .* from 1 to 24"):
            load_images(Config(dataset="flowers", data=str(tmp_path)))
    for content in (b"", b"no list of MATLAB's" * 20):
        (folder / "setid.mat").write_bytes(content)
        with pytest.raises(DataError, match="flowers: cannot read the lists in .*flowers-102: "):
            load_images(Config(dataset="flowers", data=str(tmp_path)))


def test_flowers_need_scipy_or_folders(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)  # as where it is not installed
    with pytest.raises(DataError, match=r"pip install 'minidl\[flowers\]'.*--dataset folder"):
        load_images(Config(dataset="flowers", data=str(tmp_path)))


# ---- what is tuned -------------------------------------------------------------------------------

STRATEGIES = {
    "head": ["fc"], "last": ["layer3", "fc"], "full": ["conv1", "bn1", "layer1", "layer2",
    "layer3", "fc"], "gradual": ["conv1", "bn1", "layer1", "layer2", "layer3", "fc"],
}  # fmt: skip


def stepped(cfg, epoch=0, **options):
    """Names of what one step changes, parameters and buffers; the tuning; the model."""
    ml.manual_seed(0)
    model = build(cfg, 3, 16)
    tuning = Tuning(cfg, model)
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    optimizer = optimizer_of(cfg, tuning.groups())
    loss, right = forward_for(cfg, tuning, 0, lambda: epoch, None, None)(model, batch_of())
    loss.backward()
    optimizer.step()
    after = model.state_dict()
    changed = {k for k in before if (before[k] != after[k].numpy()).any()}
    assert np.isfinite(loss.item()) and 0 <= right.item() <= 6
    return changed, tuning, model


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_changes_its_sections_and_no_others(strategy):
    cfg = dataclasses.replace(TINY, strategy=strategy, lr=0.01, last=int(strategy == "last"))
    changed, tuning, model = stepped(cfg, epoch=20)
    assert {k.split(".")[0] for k in changed} == set(STRATEGIES[strategy])
    statistics = {k for k in changed if "running" in k}
    assert bool(statistics) == (strategy != "head")
    parameters = {k for k, p in model.named_parameters() if p.requires_grad}
    assert changed - parameters == {k for k in changed if "running" in k or "tracked" in k}


def test_gradual_unfreezing_moves_towards_the_image():
    cfg = dataclasses.replace(TINY, strategy="gradual", every=2, last=3, lr=0.01)
    _, tuning, _ = stepped(cfg)
    assert [tuning.start(e) for e in range(9)] == [4, 4, 3, 3, 2, 2, 1, 1, 1] and tuning.cut == 1
    assert {k.split(".")[0] for k in stepped(cfg)[0]} == {"fc"}
    assert {k.split(".")[0] for k in stepped(cfg, epoch=2)[0]} == {"layer3", "fc"}


def test_norms_are_tuned_and_updated_as_asked():
    base = dataclasses.replace(TINY, strategy="full", lr=0.01)
    for affine in (True, False):
        for statistics in (True, False):
            cfg = dataclasses.replace(base, norm_affine=affine, norm_statistics=statistics)
            changed, _, model = stepped(cfg)
            norms = {k for k, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
            touched = {k for k in changed if k.rpartition(".")[0] in norms}
            assert any(k.endswith("weight") for k in touched) == affine
            assert any(k.endswith("running_mean") for k in touched) == statistics
    changed, _, _ = stepped(dataclasses.replace(base, strategy="norms", norm_statistics=False))
    assert all("bn" in k or k.startswith("fc") for k in changed) and any("bn" in k for k in changed)


def test_lora_tunes_its_updates_and_the_head():
    cfg = dataclasses.replace(TINY, strategy="lora", pattern="layer3.*", rank=2, lr=0.01)
    changed, tuning, model = stepped(dataclasses.replace(cfg, norm_statistics=False))
    assert tuning.cut == 3
    assert all(k.startswith("fc.") or "lora" in k for k in changed)
    with pytest.raises(ValueError, match="none of the layers"):
        stepped(dataclasses.replace(cfg, pattern="fc"))  # the head is tuned whole as it is


def test_rates_fall_from_the_head_to_the_image():
    cfg = dataclasses.replace(TINY, strategy="full", lr=0.1, decay=0.5, backbone=0.4,
                              weight_decay=0.01)  # fmt: skip
    tuning = Tuning(cfg, build(cfg, 3, 16))
    groups = tuning.groups()
    tuned = [p for p in tuning.model.parameters() if p.requires_grad]
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, tuned))
    rates = [g["lr"] for g in groups[::2]]
    assert rates == pytest.approx([0.1, 0.02, 0.01, 0.005, 0.0025])
    assert all((g["weight_decay"] > 0) == (g["params"][0].ndim > 1) for g in groups)


def test_schedules():
    base = Config(epochs=20)
    at = {name: [share(base, e, name) for e in (0, 5, 10, 15, 20)] for name in get_args(Schedule)}
    assert at["constant"] == [1] * 5
    assert at["cosine"] == pytest.approx([1, 0.5 + 0.5 / 2**0.5, 0.5, 0.5 - 0.5 / 2**0.5, 0])
    assert at["linear"] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert at["step"] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    assert share(dataclasses.replace(base, warmup=4.0), 2, "cosine") == 0.5


@pytest.mark.parametrize("backbone", ["same", "constant"])
def test_the_head_and_the_rest_have_schedules_of_their_own(backbone):
    cfg = dataclasses.replace(TINY, strategy="full", lr=0.1, decay=0.5, schedule="linear",
                              backbone_schedule=backbone)  # fmt: skip
    tuning = Tuning(cfg, build(cfg, 3, 16))
    optimizer = optimizer_of(cfg, tuning.groups())
    begun = [group["lr"] for group in optimizer.param_groups]
    schedule = make_schedule(cfg, tuning, optimizer, 2)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    shares = [g["lr"] / lr for g, lr in zip(optimizer.param_groups, begun, strict=True)]
    assert shares[:2] == [0.5, 0.5] and len(shares) == 10  # weight and bias of the head
    assert set(shares[2:]) == ({0.5} if backbone == "same" else {1.0})


def test_alignment_takes_away_what_a_batch_prefers():
    logits = np.random.default_rng(0).normal(size=(8, 3)) + np.array([4.0, 0.0, -1.0])
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = shares / shares.mean(0)
    given = np.exp(aligned(ml.tensor(logits)).numpy())
    np.testing.assert_allclose(
        given / given.sum(1, keepdims=True), wanted / wanted.sum(1, keepdims=True), rtol=1e-6
    )


def test_features_give_the_outputs_of_the_whole(images):
    for strategy, last in (("head", 1), ("last", 1), ("last", 2)):
        cfg = dataclasses.replace(TINY, strategy=strategy, last=last, views=1)
        ml.manual_seed(0)
        model = build(cfg, 3, 16).eval()
        cut = Tuning(cfg, model).cut
        ready, whole = (prepare(dataclasses.replace(cfg, views=v), model, cut, images)
                        for v in (1, 0))  # fmt: skip
        assert (ready.cut, whole.cut) == (4 - (strategy == "last") * last, 0)
        for (z, y), (x, same) in zip(ready.loader, whole.loader, strict=True):
            model.eval()
            assert y.tolist() == same.tolist()
            with ml.no_grad():
                out = Rest(model, ready.cut)(z).numpy()
                np.testing.assert_allclose(out, model(x).numpy(), rtol=1e-5, atol=1e-5)


def test_oversampling_shows_every_class_equally_often(images):
    rows = np.flatnonzero(images.train.y[images.labelled] == 0)[1:]
    few = dataclasses.replace(images, labelled=np.delete(images.labelled, rows))
    cfg = dataclasses.replace(TINY, balance="oversample", draws=600)
    model = build(cfg, 3, 16)
    y = np.concatenate([y.numpy() for _, y in prepare(cfg, model, 0, few).loader])
    assert len(y) == 600 and np.bincount(y).min() > 150


# ---- weights -------------------------------------------------------------------------------------


def test_weights_bring_their_own_number_of_classes(tmp_path):
    ml.manual_seed(1)
    other = models.resnet8(7)
    file = tmp_path / "seven.safetensors"
    save_safetensors({k: v.numpy() for k, v in other.state_dict().items()}, file)
    model = build(dataclasses.replace(TINY, weights=str(file)), 3, 16)
    assert model.fc.weight.shape == (3, 64)
    stem = other.conv1.weight.detach().numpy()
    assert (model.conv1.weight.detach().numpy() == stem).all()
    kept = {k: v for k, v in load_safetensors(file).items() if not k.startswith("fc")}
    save_safetensors(kept, tmp_path / "notop.safetensors")
    cfg = dataclasses.replace(TINY, weights=str(tmp_path / "notop.safetensors"))
    assert (build(cfg, 3, 16).conv1.weight.detach().numpy() == stem).all()


def test_weights_of_another_model_are_all_listed(tmp_path):
    file = tmp_path / "other.safetensors"
    save_safetensors({k: v.numpy() for k, v in models.vgg3(3).state_dict().items()}, file)
    with pytest.raises(CheckpointError) as caught:
        build(dataclasses.replace(TINY, weights=str(file)), 3, 16)
    text = str(caught.value)
    assert "other.safetensors" in text and "layer3.0.conv2.weight" in text
    assert "blocks.0.conv1.weight" in text


# ---- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_configuration(name):
    cfg = preset(name)
    assert cfg.preset == name and from_json(Config, dataclasses.asdict(cfg)) == cfg


def test_the_ladder_is_complete():
    wanted = """
    smoke quick quick-scratch backbone course e-species e-breeds-head e-breeds-last1 e-gradual
    e-full e-decay e-step e-no-augment e-norm-affine e-norm-statistics c-norms c-erasing c-cutmix
    c-mixup e-balanced e-imbalance-plain e-imbalance-weighted e-imbalance-oversample a-labels-100
    a-labels-50 a-labels-10 a-labels-one a-labels-10-pseudo a-labels-10-fixmatch a-lora-4 a-masked
    a-distill a-prune a-sparse a-quantize a-vit a-vit-lora e-size-96
    """.split()
    assert set(wanted) <= set(PRESETS)


def test_data_and_weights_of_ones_own_are_used_whole(pictures):
    """Without --preset they do not begin from quick's few pictures and narrow network."""

    def chosen(*args):
        return PROJECT.configuration(PROJECT.parser().parse_args(args))

    folder = ["--dataset", "folder", "--data", str(pictures)]
    cfg = chosen(*folder, "--weights", "w.safetensors", "--model", "resnet18", "--strategy", "last",
                 "--set", "last=2", "size=16", "scale=imagenet")  # fmt: skip
    assert (cfg.preset, cfg.width, cfg.cap, cfg.draws, cfg.crop) == ("own", 0, 0, 0, 0)
    assert len(load_images(cfg).labelled) == 3 * (10 - 2 - 1)  # but for test and held-out ones
    assert chosen(*folder).preset == chosen("--set", "weights=w.h5").preset == "own"
    assert chosen("--dataset", "embedded").preset == chosen("--weights", "").preset == "quick"
    assert chosen().preset == "quick" and chosen("--preset", "smoke", *folder).preset == "smoke"


def test_the_main_fields_have_flags():
    args = PROJECT.parser().parse_args(
        ["--weights", "w.h5", "--model", "vgg11", "--strategy", "full", "--set", "lr=0.5"]
    )
    cfg = PROJECT.configuration(args)
    assert (cfg.weights, cfg.model, cfg.strategy, cfg.lr) == ("w.h5", "vgg11", "full", 0.5)
    for wrong in ({"views": 2, "mixup": 1.0}, {"views": 5}, {"rare": 0.5, "dataset": "cifar10"},
                  {"semi": "fixmatch", "draws": 9}, {"decay": 0.0},
                  {"views": 2, "teacher": "run"}):  # fmt: skip
        with pytest.raises(UsageError):
            Config(**wrong)
