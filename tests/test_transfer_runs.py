"""Runs of the transfer project: result, report, exact resume, verbs, mistakes, real weights."""

import dataclasses
import json
import signal
import warnings

import numpy as np
import pytest
from transferring import NAMES, TINY, batch_of, write_folder, write_pets

import minidl as ml
from minidl import models
from minidl.errors import CheckpointError
from minidl.io import load, load_safetensors, save_safetensors
from minidl.train import RunDir
from projects.settings import UsageError
from projects.transfer import data, results, run
from projects.transfer.__main__ import cli
from projects.transfer.config import Config
from projects.transfer.data import choose, load_images
from projects.transfer.features import prepare
from projects.transfer.look import restored
from projects.transfer.methods.pruning import prune
from projects.transfer.model import Tuning, build
from projects.transfer.presets import PRESETS
from projects.transfer.results import section, write_results
from projects.transfer.tables import TABLES, lines


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


SET = ["--set", "size=16", "batch=8", "scale=own", "flip=yes", "views=3", "crop=1"]
BASE = ["--preset", "smoke", "--dataset", "folder", "--model", "resnet8", "--strategy", "last"]


def arguments(pictures, out, *more):
    return [*BASE, "--data", str(pictures), "--out", str(out), *SET, "width=0", *more]


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert cli(arguments(pictures, folder, "prune=0.5", "quantize=yes")) == 0
    return folder


def test_run_directory(finished):
    result = json.loads((finished / "result.json").read_text())
    assert 0 <= result["test_accuracy"] <= 1 and result["epochs"] == 2
    assert len(result["class_f1"]) == len(result["class_accuracy"]) == 3
    assert 0 < result["tuned_parameters"] < result["parameters"]
    assert result["pruned"]["zeros"] == pytest.approx(0.5, abs=0.01)
    assert result["quantized"]["bytes"] < 0.4 * result["quantized"]["dense_bytes"]
    page = (finished / "report.html").read_text()
    for title in ("Curves", "Confusion", "Classes", "Grad-CAM", "Embeddings", "Command"):
        assert f"<h2>{title}" in page
    assert 'src="http' not in page


def test_the_frozen_beginning_stays_as_it_was(finished, images):
    cfg, about, model = restored(finished)
    ml.manual_seed(cfg.seed)
    fresh = build(cfg, 3, 16).state_dict()
    same = {k for k, v in model.state_dict().items() if (v.numpy() == fresh[k].numpy()).all()}
    frozen = ("conv1.", "bn1.", "layer1.", "layer2.")
    assert {k for k in fresh if k.startswith(frozen)} <= same
    assert not {"layer3.0.conv2.weight", "layer3.0.bn2.running_mean", "fc.weight"} & same
    assert about["classes"] == list(NAMES)


def test_a_run_that_was_stopped_ends_the_same(pictures, finished, tmp_path, monkeypatch):
    written = RunDir.append_row

    def stop_after(self, row):
        written(self, row)
        signal.raise_signal(signal.SIGINT)

    args = arguments(pictures, tmp_path / "run", "prune=0.5", "quantize=yes")
    monkeypatch.setattr(RunDir, "append_row", stop_after)
    assert cli(args) == 130 and len(RunDir(tmp_path / "run").rows()) == 1
    monkeypatch.undo()
    assert cli(["--resume", str(tmp_path / "run")]) == 0
    ours, theirs = (folder / "checkpoint.safetensors" for folder in (tmp_path / "run", finished))
    assert ours.read_bytes() == theirs.read_bytes()


def test_weights_of_a_run(finished, images, tmp_path):
    """Its folder or its checkpoint; what lies beside the model in that is left out."""
    cfg, _, model = restored(finished)
    for weights in (finished, finished / "checkpoint.safetensors"):
        built = build(dataclasses.replace(cfg, weights=str(weights)), 5, 16).state_dict()
        same = {k for k, v in model.state_dict().items()
                if v.shape == built[k].shape and (v.numpy() == built[k].numpy()).all()}  # fmt: skip
        assert model.state_dict().keys() - same == {"fc.weight", "fc.bias"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty/checkpoint.safetensors"):
        build(dataclasses.replace(cfg, weights=str(tmp_path / "empty")), 3, 16)


@pytest.mark.parametrize("strategy", ["last", "full"])
def test_pruned_before_training(pictures, tmp_path, strategy):
    """The zeros stay through all of it, those of tuned sections too; the head has none."""
    folder = tmp_path / "run"
    args = arguments(pictures, folder, "sparse=0.6", "weight_decay=0.1")
    assert cli([*args, "--strategy", strategy]) == 0
    cfg, _, model = restored(folder)
    ml.manual_seed(cfg.seed)
    fresh, trained = build(cfg, 3, 16), dict(model.named_parameters())
    prune(fresh, 0.6, keep=["fc"])
    for name, p in fresh.named_parameters():
        if p.ndim > 1 and name != "fc.weight":
            zeros = p.detach().numpy() == 0
            assert zeros.any() and ((trained[name].detach().numpy() == 0) == zeros).all()
    assert (trained["fc.weight"].detach().numpy() != 0).all()
    with pytest.raises(UsageError, match="sparse"):
        Config(sparse=0.1, strategy="lora")


def test_predict_compare_and_export(finished, pictures, tmp_path, capsys):
    file = str(pictures / "bee/3.png")
    assert cli(["predict", "--run", str(finished), "--top", "2", file]) == 0
    line = capsys.readouterr().out
    assert line.count("%") == 2 and file in line and any(name in line for name in NAMES)
    assert cli(["compare", str(finished), "--out", str(tmp_path / "c.html")]) == 0
    out = tmp_path / "w.safetensors"
    assert cli(["export", "--run", str(finished), str(out)]) == 0
    state = load(finished / "checkpoint.safetensors")["model"]
    arrays = load_safetensors(out)
    assert arrays.keys() == state.keys()
    assert (arrays["fc.weight"] == np.asarray(state["fc.weight"])).all()


def test_table_trains_reads_and_writes(pictures, tmp_path, capsys):
    out = tmp_path / "made"
    args = ["table", "smaller", "--data", str(pictures), "--out", str(out), "--set", *SET[1:],
            "dataset=folder", "model=resnet8", "weights=", "padding=torch", "epochs=1", "last=1",
            "warmup=0"]  # fmt: skip
    assert cli(args) == 0
    saved = (out / "table.json").read_bytes()
    about = json.loads(saved)
    names = ["a-prune", "a-sparse", "a-sparse-full", "a-quantize"]
    assert [r["preset"] for r in about["results"]] == names
    assert about["results"][0]["pruned"] and "Pruned" in (out / "table.html").read_text()
    assert cli(args) == 0 and (out / "table.json").read_bytes() == saved  # nothing trained again
    assert cli([*args, "epochs=2"]) == 2 and "holds another run" in capsys.readouterr().err
    (tmp_path / "results").mkdir()
    (tmp_path / "results/smaller.json").write_bytes(saved)
    write_results(tmp_path)
    assert "| a-prune |" in (tmp_path / "RESULTS.md").read_text()


def test_runs_of_a_table_build_on_others(pictures, tmp_path):
    """A teacher, or weights, can be another preset of the table: its run with the same seed."""
    out = tmp_path / "made"
    args = ["table", "distilled", "--data", str(pictures), "--out", str(out), "--seeds", "2",
            "--set", *SET[1:], "dataset=folder", "model=resnet8", "width=0", "views=0", "draws=0",
            "epochs=1"]  # fmt: skip
    assert cli([*args, "weights=", "--only", "quick"]) == 0
    assert cli([*args, "weights=quick", "--only", "distill"]) == 0
    for seed in (0, 1):
        saved = RunDir(out / f"a-distill-{seed}").read_json("config.json")
        assert saved["teacher"] == saved["weights"] == str(out / f"quick-{seed}")


@pytest.mark.parametrize(("args", "said"), [
    (["none"], "unknown table 'none'"), (["norms", "--only", "xyz"], "in no preset's name"),
    (["norms", "--seeds", "0"], "--seeds must be at least 1"),
])  # fmt: skip
def test_mistakes_about_tables(args, said, tmp_path, capsys):
    assert cli(["table", *args, "--out", str(tmp_path / "made")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "made").exists()


def test_tables_are_made_of_presets():
    for name, table in TABLES.items():
        assert table.presets and table.seeds >= 1, name
        assert {*table.presets} <= {*PRESETS}, name


def test_sections_name_commits_in_order_and_all_counts_of_test_images():
    """Commits stand as they come first, whatever the hashes of texts."""
    found = [{"preset": name, "seed": k, "test_images": n, "device": "cpu", "commit": commit}
             for name, k, n, commit in (("quick", 0, 997, "b" * 40), ("quick", 1, 997, "c" * 40),
                                        ("backbone", 0, 1003, "a" * 40))]  # fmt: skip
    for r in found:
        shares = ("heldout_accuracy", "test_accuracy", "macro_f1", "seconds", "preparation_seconds")
        r |= dict.fromkeys(shares, 0.5) | {"tuned_parameters": 1}
    about = {"title": "T", "table": "t", "command": "c", "results": found}
    assert "997 (quick) and 1,003 (backbone) test images" in section(about)
    assert "; ".join(f"cpu, commit {letter * 10}" for letter in "bca") in section(about)
    assert "; 997 test images" in section(about | {"results": found[:2]})


def test_lines_of_a_table_give_mean_and_spread():
    made = {"preset": "smoke", "macro_f1": 0.5, "tuned_parameters": 1000, "seconds": 2.0,
            "preparation_seconds": 3.0, "heldout_accuracy": 0.25}  # fmt: skip
    (line,) = lines([made | {"test_accuracy": x} for x in (0.5, 0.6, 0.7)])
    assert line[2:6] == ("3", "25.00 ± 0.00", "60.00 ± 10.00", "50.00 ± 0.00")
    assert line[6:] == ("-", "1,000", "2 s", "3 s")


@pytest.mark.parametrize("more", [
    {"strategy": "masked", "sparsity": 0.9}, {"strategy": "lora", "pattern": "layer3.*"},
    {"semi": "pseudo", "threshold": 0.0, "batch": 4, "ratio": 2, "views": 2, "flip": True},
    {"semi": "fixmatch", "threshold": 0.0, "batch": 4, "ratio": 2, "views": 2, "flip": True},
    {"semi": "fixmatch", "batch": 4, "ratio": 2, "labels": 0.0}, {"balance": "weighted"},
    {"unfold": True, "strategy": "full"}, {"cutmix": 1.0, "mixup": 0.2, "erasing": 0.5},
], ids=lambda more: "-".join(map(str, more.values())))  # fmt: skip
def test_methods_train_and_come_back(images, tmp_path, more):
    cfg = dataclasses.replace(TINY, epochs=1, **more)
    ml.manual_seed(0)
    few = images
    if cfg.labels < 1:
        rows = [int(np.flatnonzero(images.train.y == k)[0]) for k in range(3)]
        y = np.full_like(images.train.y, -1)
        y[rows] = images.train.y[rows]
        few = dataclasses.replace(images, train=data.Split(images.train.x, y),
                                  labelled=np.sort(rows))  # fmt: skip
    tuning = Tuning(cfg, run.begin(cfg, few))
    before = {k: v.numpy().copy() for k, v in tuning.model.state_dict().items()}
    ready = prepare(cfg, tuning.model, tuning.cut, few)
    folder = RunDir(tmp_path)
    folder.write_json("config.json", dataclasses.asdict(cfg) | {"command": "by a test"})
    trainer = run.make_trainer(cfg, folder, few, ready, tuning, None, run.StopSignal())
    trainer.fit()
    assert np.isfinite(folder.rows()[0]["train_loss"])
    if cfg.strategy == "masked":
        moved = before["conv1.weight"] != tuning.model.conv1.weight.detach().numpy()
        assert 0 < moved.mean() < 0.2
    x = batch_of()[0]
    back = restored(tmp_path)[2]
    with ml.no_grad():
        tuning.model.eval()
        np.testing.assert_allclose(back(x).numpy(), tuning.model(x).numpy(), atol=1e-4)


def test_predict_sees_a_picture_as_the_test_did(finished, pictures, capsys):
    """Of the margin that shifts need (crop=1) it leaves as much out."""
    cfg, _, model = restored(finished)
    source, images = data.read(cfg), load_images(cfg)
    for i in (0, 5):
        assert cli(["predict", "--run", str(finished), str(source.test.images[i])]) == 0
        with ml.no_grad():
            logits = model(ml.as_tensor(data.plain(images)(images.test.x[i : i + 1])))
        shares = ml.softmax(logits, 1).numpy()[0]
        order = np.argsort(-shares, kind="stable")
        said = ", ".join(f"{NAMES[k]} {100 * shares[k]:.1f} %" for k in order)
        assert capsys.readouterr().out.endswith(f": {said}\n")


def test_a_run_that_diverged_has_a_report(tmp_path, capsys):
    """Without the map of embeddings that are no numbers, and it can be resumed."""
    folder = str(tmp_path / "run")
    args = ["--preset", "smoke", "--epochs", "1", "--out", folder, "--set", "lr=1e6"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy, about sums of NaN
        assert cli(args) == cli(["--resume", folder]) == 0
    assert "Left out: training diverged" in (tmp_path / "run/report.html").read_text()


def test_a_run_learns_from_a_teacher(finished, pictures, tmp_path):
    more = ["views=0", "epochs=1", f"teacher={finished}", "soften=1.0"]
    assert cli([*arguments(pictures, tmp_path / "run", *more), "--strategy", "full"]) == 0
    assert np.isfinite(RunDir(tmp_path / "run").rows()[0]["train_loss"])


def test_a_teacher_must_have_seen_such_images(finished, pictures):
    cfg = dataclasses.replace(TINY, teacher=str(finished), crop=1, data=str(pictures))
    images = load_images(cfg)
    assert isinstance(run.teacher_of(cfg, images), models.Classifier)
    with pytest.raises(UsageError, match="has another size"):
        run.teacher_of(cfg, dataclasses.replace(images, size=12))


def test_forgetting(finished, pictures, capsys):
    args = ["forget", "--run", str(finished), "--preset", "smoke", "--set", "dataset=folder",
            "model=resnet8", "width=0", "size=16", "scale=own", "epochs=1"]  # fmt: skip
    assert cli(args) == 0
    found = json.loads((finished / "forgetting.json").read_text())
    result = json.loads((finished / "result.json").read_text())
    assert found["before"] == pytest.approx(result["test_accuracy"])
    assert "with a new head" in capsys.readouterr().out


def test_the_own_backbone_knows_shapes_it_never_saw(tmp_path):
    """50 labels, head only: from scratch this is a fifth."""
    assert cli(["--preset", "quick-head", "--epochs", "6", "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["labelled_images"] == 50 and result["test_accuracy"] > 0.5


# ---- mistakes ------------------------------------------------------------------------------------


def said(capsys, args, code):
    """The one line that the command line leaves behind."""
    assert cli([str(a) for a in args]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "Traceback" not in err, err
    return err[7:-1]


@pytest.mark.parametrize("more, code, message", [
    (["--weights", "gone.h5"], 1, "cannot read gone.h5: there is no such file, nor "),
    (["--weights", "a-vit-backbone"], 1, "`python -m projects.transfer table transformers --out"),
    (["--set", "views=0", "teacher=quick"], 1, "`python -m projects.transfer table distilled"),
    (["--set", "model=resnet9"], 2, "model must be one of"),
    (["--set", "model=gpt"], 2, "model must be one of"),
    (["--set", "model=vgg11", "padding=same"], 2, "vgg11 takes no padding"),
    (["--strategy", "tail"], 2, "strategy must be one of head, last"),
    (["--data", "/nowhere"], 1, "/nowhere"),
    (["--set", "views=0", "teacher=/nowhere"], 1, "/nowhere"),
    (["--set", "teacher=/nowhere"], 2, "cutmix, mixup and a teacher need the pictures"),
])  # fmt: skip
def test_mistakes(capsys, pictures, tmp_path, more, code, message):
    args = arguments(pictures, tmp_path / "run")
    assert message in said(capsys, [*args, *more], code)
    assert not (tmp_path / "run").exists()


def test_weights_without_a_name_are_refused(capsys):
    """They ended in an assertion."""
    line = said(capsys, ["evaluate", "--weights", "", "--model", "resnet8"], 2)
    assert "--weights must name a file or a run; got ''" in line


def test_results_takes_no_arguments(capsys, tmp_path):
    """It wrote the project's own page whatever it was given."""
    assert results.cli(["runs/quick-1"]) == 2
    assert "unrecognized arguments: runs/quick-1" in capsys.readouterr().err
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "labels.json").write_text("{}")
    with pytest.raises(CheckpointError, match="labels.json is damaged: 'results'"):
        write_results(tmp_path)


def test_only_a_student_without_its_teacher(capsys, tmp_path):
    """It spoke of a folder that is no run."""
    args = ["table", "distilled", "--only", "distill", "--out", tmp_path]
    line = said(capsys, args, 2)
    assert f"a-distill needs the run {tmp_path}/quick-0, which --only 'distill' leaves out" in line


def test_weights_of_a_narrower_network(capsys, tmp_path):
    """There was no way to say their width."""
    state = models.cifar_resnet(num_classes=5, width=4).state_dict()
    save_safetensors(state, tmp_path / "narrow.safetensors")
    args = ["evaluate", "--weights", str(tmp_path / "narrow.safetensors"), "--model",
            "cifar_resnet", "--dataset", "embedded", "--width", "4"]  # fmt: skip
    assert cli(args) == 0
    assert "test images right" in capsys.readouterr().out


def test_a_broken_picture_is_named(capsys, pets):
    file = pets / "oxford-iiit-pet/images/beagle_3.jpg"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    try:
        args = ["--preset", "smoke", "--dataset", "pets", "--data", pets, "--set", "size=16"]
        assert "beagle_3.jpg" in said(capsys, args, 1)
    finally:
        file.write_bytes(content)


def test_a_folder_without_classes(capsys, tmp_path):
    args = ["--preset", "smoke", "--dataset", "folder", "--data", tmp_path]
    assert "has no class folders" in said(capsys, args, 1)


# ---- real data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, file, scale, right", [
    ("cifar_resnet20", "cifar10_resnet20.th", "imagenet", 915),
    ("resnet8", "cifar10_resnet8_keras.h5", "raw", 881),
])  # fmt: skip
def test_published_weights_classify_as_they_should(real_data, capsys, name, file, scale, right):
    if file.endswith("h5"):
        pytest.importorskip("h5py")
    args = ["evaluate", "--weights", str(real_data / "weights" / file), "--model", name,
            "--scale", scale, "--data", str(real_data)]  # fmt: skip
    assert cli(args) == 0
    out = capsys.readouterr().out
    assert abs(int(out.split(":")[1].split()[0]) - right) <= 1, out


def test_pets_in_the_official_layout(real_data):
    source = data.read(Config(data=str(real_data)))
    assert len(source.train.classes) == 37 and len(source.thin) == 12
    kept, held, _ = choose(Config(cap=30), source)
    counts = np.bincount(source.train.targets[kept])
    assert counts.max() == 27 and len(held) >= 37
