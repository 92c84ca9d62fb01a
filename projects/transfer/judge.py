"""Verbs that judge: weights as they are, and what a finetuned network forgets."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from minidl.data import transforms
from minidl.data.dataset import check
from minidl.data.images import ImageFiles
from minidl.train import RunDir, StopSignal, evaluate
from projects.command import Parser
from projects.settings import UsageError, assignments
from projects.transfer.config import Config, Dataset, Scale
from projects.transfer.data import MEANS, Images, batches, decoded, load_images, plain, read
from projects.transfer.features import prepare
from projects.transfer.look import restored
from projects.transfer.methods.forgetting import measure_forgetting
from projects.transfer.model import Tuning, load, make
from projects.transfer.presets import preset
from projects.transfer.run import make_trainer

IMAGENET = 1000  # classes; some networks have one more in front, the background


def evaluate_weights(argv: Sequence[str], stop: StopSignal) -> int:
    """Print the test accuracy of weights with the head that they have."""
    parser = Parser("transfer evaluate")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--model", required=True, metavar="NAME")
    parser.add_argument("--dataset", default="cifar10",
                        choices=["imagenet_sample", *get_args(Dataset)])  # fmt: skip
    parser.add_argument("--data", default="", help="root of the official layouts")
    parser.add_argument("--scale", choices=[s for s in get_args(Scale) if s != "own"],
                        default="imagenet")  # fmt: skip
    text = "channels of the network's first stage (default: its own number)"
    parser.add_argument("--width", type=int, default=0, help=text)
    parser.add_argument("--padding", choices=["torch", "same"], default="torch")
    parser.add_argument("--size", type=int, default=224, help="side of what the network sees")
    parser.add_argument("--side", type=int, help="shorter side before the cut (default: --size)")
    args = parser.parse_args(argv)
    if not args.weights:
        raise UsageError("--weights must name a file or a run; got ''")
    imagenet = args.dataset == "imagenet_sample"
    cfg = Config(dataset="folder" if imagenet else args.dataset, data=args.data, size=args.size,
                 scale=args.scale, model=args.model, padding=args.padding,
                 width=args.width, weights=args.weights)  # fmt: skip
    pictures = imagenet_sample(args.data) if imagenet else read(cfg).test
    x = decoded(pictures, np.arange(len(pictures)), args.side or args.size, "")
    size = args.size if isinstance(pictures, ImageFiles) else x.shape[2]
    model = make(cfg, len(pictures.classes), size)
    load(cfg, model)
    view = transforms.Compose(
        [transforms.CenterCrop(size), transforms.Normalize(*MEANS[cfg.scale])]
    )
    said = evaluate(model, batches(x, pictures.targets, "cpu", view), check=stop.check).log_probs
    more = said.shape[1] - len(pictures.classes)
    if more != 0 and not (imagenet and more == 1):
        rule = f"{args.weights} tells {said.shape[1]} classes apart, {args.dataset} has"
        raise UsageError(f"{rule} {len(pictures.classes)}")
    best = np.argsort(-said, axis=1, kind="stable")[:, :5]
    right = best == pictures.targets[:, None] + more
    print(f"{args.dataset}: {right[:, 0].sum()} of {len(x)} test images right, top-1 "
          f"{100 * right[:, 0].mean():.2f} %, top-5 {100 * right.any(1).mean():.2f} %")  # fmt: skip
    return 0


def imagenet_sample(data: str) -> ImageFiles:
    """Pictures of ROOT/imagenet_sample, whose names begin with the four digits of their class."""
    folder = Path(data or os.environ.get("MINIDL_DATA", "")) / "imagenet_sample"
    files = sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.*"))
    check(bool(files), "imagenet_sample", f"{folder} holds no pictures named 0000_….jpg")
    names = [str(k) for k in range(IMAGENET)]
    return ImageFiles(files, np.array([int(f.name[:4]) for f in files]), names)


def forget(argv: Sequence[str], stop: StopSignal) -> int:
    """Train a run's model on another task and back: what is lost of the first, what comes back."""
    parser = Parser("transfer forget")
    parser.add_argument("--run", required=True, metavar="DIR", help="a run on the first task")
    parser.add_argument("--preset", required=True, help="the other task, and how it is learnt")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE")
    args = parser.parse_args(argv)
    first, _, model = restored(args.run)
    second = preset(args.preset)
    second = dataclasses.replace(second, **{"data": first.data} | assignments(Config, args.set))
    if (first.scale, first.size) != (second.scale, second.size):
        raise UsageError("forget: both tasks must have the same scale and size")
    images = load_images(first)
    others = load_images(second)

    def train(cfg: Config, given: Images) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tuning = Tuning(cfg, model)
            ready = prepare(cfg, model, tuning.cut, given)
            make_trainer(cfg, RunDir(folder), given, ready, tuning, None, stop).fit()

    def accuracy() -> float:
        given = batches(images.test.x, images.test.y, "cpu", plain(images))
        return evaluate(model, given, check=stop.check).accuracy

    found = measure_forgetting(
        model, len(images.classes), len(others.classes), accuracy, lambda: train(second, others),
        lambda: train(dataclasses.replace(first, strategy="head"), images),
    )  # fmt: skip
    result: dict[str, Any] = {"first": first.preset, "second": second.preset, **found._asdict()}
    RunDir(args.run).write_json("forgetting.json", result)
    print(f"accuracy on {first.dataset}: {100 * found.before:.2f} %, after {second.dataset} "
          f"{100 * found.after:.2f} %, with a new head {100 * found.recovered:.2f} %")  # fmt: skip
    return 0
