"""The projects' command lines on a pretended GPU: whole runs, as on the CPU, in every precision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import NEEDED, gpu
from PIL import Image

from projects.convnet.__main__ import cli as convnet
from projects.settings import device_name
from projects.textgen.__main__ import cli as textgen
from projects.transfer.__main__ import cli as transfer

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]

LOWER = ["tf32", "bfloat16", "float16"]
PICTURES = ["--preset", "smoke", "--dataset", "folder", "--epochs", "2", "--data"]
VGG = ["size=8", "width=4", "dense=8", "batch=4", "train_images=0", "norm=batch", "dropout=0.2",
       "flip=true", "crop=1", "clip=1"]  # fmt: skip
TEXT = ["every=4", "hidden=8", "layers=1", "batch=2", "context=6", "written=8", "heads=2"]
SMALL = ["size=8", "batch=4", "last=2"]
WAYS = [
    ["strategy=last", "flip=true"],
    ["strategy=head", "flip=true", "views=2"],
    ["strategy=gradual", "precision=bfloat16"],
    ["strategy=last", "semi=fixmatch", "labels=0.6", "threshold=0.1", "batch=2", "ratio=2"],
    ["strategy=masked", "precision=float16"],
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Eight small pictures of each of two colours."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for k, name in enumerate(("blue", "red")):
        (root / name).mkdir()
        for i in range(8):
            x = rng.integers(0, 128, (16, 16, 3), dtype=np.uint8)
            x[..., 2 - 2 * k] += 100
            Image.fromarray(x).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> str:
    """Two corpora by turns."""
    root = tmp_path_factory.mktemp("texts")
    for name in ("cat", "dog"):
        (root / name).write_text(f"the {name} sat on the mat. " * 30)
    return f"{root / 'cat'}+{root / 'dog'}"


def run(cli: Any, out: Path, args: list[str], *fields: str) -> dict[str, Any]:
    """The result of a run."""
    assert cli([*args, "--out", str(out), "--set", *fields]) == 0
    assert (out / "report.html").exists()
    return json.loads((out / "result.json").read_text())


def last_row(out: Path) -> dict[str, Any]:
    """What a run's last epoch left."""
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])


def alike(ours: dict, theirs: dict, key: str, tolerance: float) -> None:
    """Equal but for the device, times, and how sums are rounded."""
    assert ours["device"] == device_name("cuda") and theirs["device"] == device_name("cpu")
    np.testing.assert_allclose(ours[key], theirs[key], rtol=tolerance)
    assert ours["parameters"] == theirs["parameters"]


def test_convnet(pictures: Path, tmp_path: Path) -> None:
    args = [*PICTURES, str(pictures)]
    theirs = run(convnet, tmp_path / "cpu", args, *VGG)
    ours = run(convnet, tmp_path / "cuda", [*args, "--device", "cuda"], *VGG)
    alike(ours, theirs, "test_loss", 2e-3)
    assert ours["flops"] == theirs["flops"]
    for kind in LOWER:
        fields = [*VGG, f"precision={kind}"]
        half = run(convnet, tmp_path / kind, [*args, "--device", "cuda"], *fields)
        assert half["test_loss"] != ours["test_loss"]
        alike(half, theirs, "test_loss", 0.1)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_textgen(model: str, texts: str, tmp_path: Path) -> None:
    """Carried states of two texts by turns, in steps that are captured."""
    args = ["--preset", "smoke", "--dataset", texts, "--steps", "8"]
    fields = [*TEXT, f"model={model}"]
    theirs = run(textgen, tmp_path / "cpu", args, *fields)
    ours = run(textgen, tmp_path / "cuda", [*args, "--device", "cuda"], *fields)
    alike(ours, theirs, "test_loss", 1e-4)
    for kind in LOWER:
        more = [*fields, f"precision={kind}"]
        half = run(textgen, tmp_path / kind, [*args, "--device", "cuda"], *more)
        assert half["test_loss"] != ours["test_loss"]
        alike(half, theirs, "test_loss", 1e-2)


def test_a_run_is_resumed_in_a_captured_step(texts: str, tmp_path: Path, monkeypatch: Any) -> None:
    """States and the scale of the loss come back: the same weights, bit by bit."""
    from minidl.train import Interrupted, Trainer

    args = ["--preset", "smoke", "--dataset", texts, "--steps", "12", "--device", "cuda"]
    fields = [*TEXT, "model=lstm", "precision=float16"]
    run(textgen, tmp_path / "whole", args, *fields)
    advance = Trainer._advance

    def stopping(self: Trainer) -> None:
        advance(self)
        if self.steps == 7:
            self.save()
            raise Interrupted(15)

    monkeypatch.setattr(Trainer, "_advance", stopping)
    assert textgen([*args, "--out", str(tmp_path / "cut"), "--set", *fields]) == 143
    monkeypatch.setattr(Trainer, "_advance", advance)
    assert textgen(["--resume", str(tmp_path / "cut")]) == 0
    both = [(tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("whole", "cut")]
    assert both[0] == both[1]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_transfer(way: list[str], pictures: Path, tmp_path: Path) -> None:
    """Sections that are tuned, kept features, unlabelled pictures, masks."""
    args = [*PICTURES, str(pictures)]
    plain = [field for field in way if not field.startswith("precision")]
    theirs = run(transfer, tmp_path / "cpu", args, *SMALL, *plain)
    ours = run(transfer, tmp_path / "cuda", [*args, "--device", "cuda"], *SMALL, *way)
    alike(ours, theirs, "parameters", 0)
    losses = [last_row(tmp_path / device)["heldout_loss"] for device in ("cpu", "cuda")]
    np.testing.assert_allclose(*losses, rtol=2e-3 if plain == way else 0.1)


@pytest.mark.parametrize("cli", [convnet, textgen, transfer])
def test_lower_precision_needs_a_gpu(cli: Any, capsys: Any) -> None:
    assert cli(["--preset", "smoke", "--set", "precision=bfloat16"]) == 2
    assert "precision=bfloat16 needs device=cuda; got device=cpu" in capsys.readouterr().err
