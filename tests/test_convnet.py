"""The ConvNet project: configuration, presets, losses, schedules, a whole run, predict, compare."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import minidl as ml
import minidl.functional as F
from minidl.io import load
from minidl.train import RunDir
from projects.convnet.__main__ import PROJECT, cli
from projects.convnet.config import Config
from projects.convnet.data import Images, Split, batches, load_images, loader_for, with_wrong_labels
from projects.convnet.model import build
from projects.convnet.presets import PRESETS, preset
from projects.convnet.recipe import (
    make_optimizer,
    make_schedule,
    objective,
    share,
    supervised_contrastive,
    symmetric_cross_entropy,
)
from projects.convnet.results import HERE, write_results
from projects.convnet.run import forward_for
from projects.results import main
from projects.settings import UsageError, assignments, from_json, parse


def images_of(count=24, channels=3, classes=10, side=32):
    """Random pictures in the project's form."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8).transpose(0, 3, 1, 2)
    split = Split(x, rng.integers(0, classes, count))
    return Images(
        split, split, split, [f"c{i}" for i in range(classes)], [0.5] * channels, [0.25] * channels
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_learns_one_step(name):
    cfg = dataclasses.replace(preset(name), batch=4, width=min(preset(name).width, 16), ema=0.0)
    if cfg.model == "resnet":
        cfg = dataclasses.replace(cfg, depth=8)
    ml.manual_seed(0)
    images = images_of(12)
    model = build(cfg, images.shape, 10)
    optimizer = make_optimizer(cfg, model)
    schedule = make_schedule(cfg, optimizer, 10)
    batch = next(iter(loader_for(cfg, images)))
    loss, right = forward_for(cfg, lambda: 0)(model, batch)
    loss.backward()
    optimizer.step()
    schedule.step()
    assert np.isfinite(loss.item()) and 0 <= right.item() <= 4
    assert any(
        p.grad is not None and float(p.grad.abs().sum().item()) > 0 for p in model.parameters()
    )


def test_the_ladder_is_complete():
    rows = """
    e-baseline e-dropout e-weight-decay e-augment e-all e-adam e-adamw e-sgd e-step e-restarts
    e-warmup-cosine e-dropout-bn e-raw-input c-gap c-stride c-skip c-block4 c-augment c-erasing
    c-cutmix c-mixup c-layer-norm c-instance-norm c-group-norm a-resnet20 a-resnet56 a-resnet110
    a-cifar100-resnet20 a-se a-patchify a-mixes a-convnext a-depthwise a-width64 a-supcon
    a-supcon-ce a-noise80-sce a-noise0-ce speedrun smoke quick course vgg-bn resnet20
    """.split()
    assert set(rows) <= set(PRESETS)


def test_fields_are_typed():
    assert (
        parse(Config, "epochs", "3") == 3
        and parse(Config, "flip", "no") is False
        and parse(Config, "lr", "1e-3") == 0.001
    )
    assert assignments(Config, ["width=64", " norm = batch"]) == {"width": 64, "norm": "batch"}
    for field, text in (
        ("epochs", "3.5"),
        ("flip", "maybe"),
        ("norm", "b"),
        ("lr", "fast"),
        ("widht", "3"),
    ):
        with pytest.raises(UsageError, match=field):
            parse(Config, field, text)
    for wrong in (
        {"epochs": 0},
        {"noise": 1.0},
        {"lr": float("nan")},
        {"loss": "supcon", "pretrain": 0},
    ):
        with pytest.raises(UsageError):
            Config(**wrong)


def test_configuration_survives_json():
    args = PROJECT.parser().parse_args(
        ["--preset", "e-all", "--seed", "4", "--set", "lr=0.3", "flip=false"]
    )
    cfg = PROJECT.configuration(args)
    assert (cfg.preset, cfg.seed, cfg.lr, cfg.flip, cfg.norm) == ("e-all", 4, 0.3, False, "batch")
    saved = json.loads(json.dumps(dataclasses.asdict(cfg))) | {"command": "x"}
    assert from_json(Config, saved) == cfg
    with pytest.raises(UsageError, match="another version; fields that differ: colour"):
        from_json(Config, saved | {"colour": 1})


def test_schedules():
    base = Config(epochs=20)
    at = {name: [share(dataclasses.replace(base, schedule=name), e) for e in (0, 5, 10, 15, 20)]
          for name in ("constant", "cosine", "step", "onecycle")}  # fmt: skip
    assert at["constant"] == [1] * 5
    assert at["cosine"] == pytest.approx([1, 0.5 + 0.5 / 2**0.5, 0.5, 0.5 - 0.5 / 2**0.5, 0])
    assert at["step"] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    assert at["onecycle"] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    warm = dataclasses.replace(base, schedule="cosine", warmup=4.0)
    assert share(warm, 2) == 0.5 and share(warm, 4) == 1
    restarts = dataclasses.replace(base, schedule="restarts", epochs=15)
    peaks = [e for e in range(15) if share(restarts, e) > 0.99]
    assert peaks == [0, 1, 3, 7]
    two = dataclasses.replace(base, loss="supcon", pretrain=15, schedule="cosine")
    assert share(two, 0) == share(two, 15) == 1 and share(two, 14.999) < 1e-3


def test_symmetric_cross_entropy():
    logits = ml.tensor([[2.0, 0.0, -1.0]])
    y = ml.tensor([0])
    p = F.softmax(logits, dim=1).numpy()[0].astype(np.float64)
    expected = -0.1 * np.log(p[0]) - (p[1] + p[2]) * np.log(1e-4)
    assert symmetric_cross_entropy(logits, y).item() == pytest.approx(expected, rel=1e-5)
    soft = symmetric_cross_entropy(logits, ml.tensor([[1.0, 0.0, 0.0]])).item()
    assert soft == pytest.approx(expected, rel=1e-5)


def test_supervised_contrastive_is_equation_2_of_the_paper():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(8, 5))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    y = np.array([0, 1, 0, 2])
    labels = np.concatenate([y, y])
    total = 0.0
    for i in range(8):
        others = [a for a in range(8) if a != i]
        bottom = sum(np.exp(z[i] @ z[a] / 0.1) for a in others)
        same = [p for p in others if labels[p] == labels[i]]
        total -= sum(np.log(np.exp(z[i] @ z[p] / 0.1) / bottom) for p in same) / len(same)
    value = supervised_contrastive(ml.tensor(z.astype(np.float32)), ml.tensor(y), 0.1).item()
    assert value == pytest.approx(total / 8, rel=1e-4)


def test_label_smoothing_reaches_the_loss():
    logits, y = ml.tensor([[3.0, 0.0]]), ml.tensor([0])
    plain, smooth = (objective(Config(smoothing=s))(logits, y).item() for s in (0.0, 0.2))
    assert smooth == pytest.approx(plain + 0.1 * 3.0, rel=1e-5)


def test_wrong_labels_are_wrong_and_as_many_as_asked():
    y = np.arange(5000) % 10
    noisy = with_wrong_labels(y, 0.4, 10, seed=1)
    assert abs((noisy != y).mean() - 0.4) < 0.03 and noisy.min() == 0 and noisy.max() == 9
    assert (noisy == with_wrong_labels(y, 0.4, 10, seed=1)).all()
    assert (noisy != with_wrong_labels(y, 0.4, 10, seed=2)).any()


def test_evaluation_batches_are_normalised():
    images = images_of()
    x, y = next(iter(batches(images.test, images, "cpu")))
    np.testing.assert_allclose(x.numpy(), (images.test.x / 255 - 0.5) / 0.25, atol=1e-5)
    assert y.tolist() == images.test.y.tolist()


def test_held_out_images_are_the_last_training_images(real_data):
    images = load_images(Config(data=str(real_data)))
    assert images.heldout.x.shape == (5000, 3, 32, 32) and images.train.x.shape == (
        45000,
        3,
        32,
        32,
    )
    import pickle

    last = pickle.loads(
        (real_data / "cifar-10-batches-py/data_batch_5").read_bytes(), encoding="bytes"
    )
    assert (images.heldout.x.reshape(5000, -1) == last[b"data"][5000:]).all()
    assert images.heldout.y.tolist() == last[b"labels"][5000:]
    assert len(images.test.y) == 1000


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of a finished smoke run."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    assert cli(["--preset", "smoke", "--out", str(folder)]) == 0
    return folder


def test_run_directory(smoke):
    names = {path.name for path in smoke.iterdir()}
    assert {
        "config.json",
        "metrics.jsonl",
        "result.json",
        "checkpoint.safetensors",
        "report.html",
    } <= names
    result = json.loads((smoke / "result.json").read_text())
    wanted = """
    test_accuracy heldout_accuracy test_loss epochs seconds images_per_second parameters flops
    device commit
    """.split()
    assert set(wanted) <= set(result)
    assert 0 <= result["test_accuracy"] <= 1 and result["epochs"] == 2 and result["seconds"] > 0
    rows = [json.loads(line) for line in (smoke / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["heldout_accuracy"] == result["heldout_accuracy"] and rows[-1]["epoch"] == 2
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    page = (smoke / "report.html").read_text()
    for title in (
        "Curves",
        "Confusion",
        "Most confident mistakes",
        "First layer",
        "Time per epoch",
        "Command",
    ):
        assert f"<h2>{title}" in page
    assert f"--out {smoke}" in page and 'src="http' not in page


def test_finished_run_resumes_to_the_same_result(smoke, capsys):
    before = (
        (smoke / "checkpoint.safetensors").read_bytes(),
        json.loads((smoke / "result.json").read_text()),
    )
    assert cli(["--resume", str(smoke)]) == 0
    after = json.loads((smoke / "result.json").read_text())
    assert (smoke / "checkpoint.safetensors").read_bytes() == before[0]
    assert {k: v for k, v in after.items() if k != "device"} == {
        k: v for k, v in before[1].items() if k != "device"
    }


def test_predict_prints_the_top_classes(smoke, tmp_path, capsys):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8)).save(tmp_path / "b.jpg")
    assert (
        cli(
            [
                "predict",
                "--run",
                str(smoke),
                "--top",
                "2",
                str(tmp_path / "a.png"),
                str(tmp_path / "b.jpg"),
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    classes = load(smoke / "checkpoint.safetensors")["about"]["classes"]
    assert len(lines) == 2 and all(line.count("%") == 2 for line in lines)
    assert any(name in lines[0] for name in classes)


def test_predict_turns_a_picture_as_its_exif_says(smoke, tmp_path, capsys):
    """It looked at photos of cameras held upright from the side."""
    pixels = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: a quarter turn clockwise shows it upright
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "b.png", exif=exif)
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert cli(["predict", "--run", str(smoke), *files]) == 0
    first, second = (line.partition(": ")[2] for line in capsys.readouterr().out.splitlines())
    assert first == second


def test_compare_and_results(smoke, tmp_path, capsys):
    out = tmp_path / "both.html"
    assert cli(["compare", str(smoke), str(smoke), "--out", str(out)]) == 0
    assert "smoke" in capsys.readouterr().out and "<svg" in out.read_text()
    write_results([str(smoke)], tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| smoke | embedded | 2 |" in text and (tmp_path / "results.svg").exists()


def test_results_do_not_depend_on_the_order_of_folders(smoke, tmp_path, monkeypatch, capsys):
    folders, texts = [str(smoke), str(tmp_path / "other")], []
    shutil.copytree(smoke, folders[1])
    for name in ("config.json", "result.json"):
        saved = RunDir(folders[1]).read_json(name)
        RunDir(folders[1]).write_json(name, saved | {"preset": "quick"})
    for order in (folders, folders[::-1]):
        write_results(order, tmp_path)
        texts.append([(tmp_path / name).read_bytes() for name in ("RESULTS.md", "results.svg")])
    assert texts[0] == texts[1]
    text = texts[0][0].decode()
    assert text.index("| smoke |") < text.index("| quick |")
    assert f"`python -m projects.convnet.results {' '.join(sorted(folders))}`" in text
    monkeypatch.setattr(sys, "argv", ["results", str(tmp_path)])
    assert main("convnet", write_results) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "is not a run directory" in error


def test_the_committed_results_are_of_the_committed_runs(tmp_path):
    write_results([], tmp_path)
    assert (HERE / "RESULTS.md").read_text().startswith((tmp_path / "RESULTS.md").read_text())


def test_list_names_presets_and_fields(capsys):
    assert cli(["--list"]) == 0
    out = capsys.readouterr().out
    assert "vgg-bn" in out and "smoothing = 0.0" in out
