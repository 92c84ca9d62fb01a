"""From a configuration to a network with its weights, and to what of it is tuned, and how."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minidl as ml
from minidl import models, nn
from minidl.errors import CheckpointError, reworded
from minidl.io import tflite
from minidl.io.naming import State, state_for
from minidl.io.weights import READERS, kind_of
from minidl.models import Classifier, Section
from minidl.models.blocks import NORMS
from minidl.train import RunDir
from projects.recipe import groups_of
from projects.settings import UsageError
from projects.transfer.config import Config
from projects.transfer.methods.lora import add_lora, lora_parameters
from projects.transfer.methods.norms import set_norms
from projects.transfer.methods.unfreezing import layer_rates, tune_last, tuned_sections
from projects.transfer.presets import EARLIER

BACKBONE = Path(__file__).with_name("backbone.safetensors")


# ---- the network and its weights -----------------------------------------------------------------


def build(cfg: Config, classes: int, size: int) -> Classifier:
    """The network of `cfg` for images of size x size, with weights but for a fresh head.

    Raises UsageError for a model that does not exist, CheckpointError for weights that cannot be
    read or are another model's: every tensor that does not fit is listed.
    """
    model = make(cfg, classes, size)
    if cfg.weights:
        load(cfg, model)
        model.replace_head(classes)
    return model


def make(cfg: Config, classes: int, size: int) -> Classifier:
    """The network of `cfg`, from scratch."""
    maker = getattr(models, cfg.model, None)
    known = [name for name in dir(models) if name[0].islower() and callable(getattr(models, name))]
    if cfg.model not in known:
        raise UsageError(f"model must be one of {', '.join(known)}; got {cfg.model!r}")
    taken = inspect.signature(maker).parameters
    options = {"image_size": size} if "image_size" in taken else {}
    for name, value in {"width": cfg.width, "padding": cfg.padding}.items():
        if value not in (0, "torch"):
            if name not in taken:
                raise UsageError(f"{cfg.model} takes no {name}; got {name}={value}")
            options[name] = value
    model = maker(num_classes=classes, **options)
    if not isinstance(model, Classifier):
        raise UsageError(f"model must classify images; got {cfg.model!r}")
    return model


def weights_file(cfg: Config) -> Path | None:
    """Where the weights lie that the run begins with; DATA/weights is looked into too.

    A run's folder stands for its checkpoint. Raises CheckpointError where there is nothing.
    """
    if cfg.weights in ("", "embedded"):
        return BACKBONE if cfg.weights else None
    roots = filter(None, (cfg.data, os.environ.get("MINIDL_DATA")))
    beside = [Path(root) / "weights" / cfg.weights for root in roots]
    there = [path for path in (Path(cfg.weights), *beside) if path.exists()]
    if not there:
        check_earlier(cfg.weights)
        nor = " nor ".join(map(str, beside)) or "weights/ to look into without --data"
        rule = f"weights: cannot read {cfg.weights}: there is no such file, nor {nor}"
        raise CheckpointError(rule)
    return RunDir(there[0]).checkpoint if there[0].is_dir() else there[0]


def check_earlier(name: str) -> None:
    """CheckpointError where a run is not there that presets of a table begin from or learn from."""
    if name in EARLIER and not Path(name).exists():
        fix = f"`python -m projects.transfer table {EARLIER[name]} --out DIR` trains it first"
        raise CheckpointError(f"there is no run {name} here; {fix}")


def load(cfg: Config, model: Classifier) -> None:
    """The weights of `cfg`, their head too, which gets as many classes as it has in the file.

    A file without the head's layer leaves the model's own.
    """
    path = weights_file(cfg)
    assert path is not None
    kind = kind_of(path)
    graph = tflite.read_tflite_graph(path) if kind == "TensorFlow Lite" else None
    with reworded(CheckpointError, f"load_weights: {path}", CheckpointError):
        state: State = state_for(kind, READERS[kind][1](path), model, graph)
        head = f"{model.head_name}.weight"
        if head in state and state[head].ndim > 1:
            model.replace_head(len(state[head]))
        else:
            own = model.state_dict()
            state = {k: own[k] for k in own if k.startswith(f"{model.head_name}.")} | state
        model.load_state_dict(state)


# ---- what is tuned -------------------------------------------------------------------------------


def modules_of(model: nn.Module, section: Section) -> Iterator[nn.Module]:
    """The modules of a section and all below them."""
    for name in section.names:
        part = model.get_submodule(name)
        if isinstance(part, nn.Module):
            yield from part.modules()


class Tuning:
    """The part of a model that a strategy tunes: which parameters, from which section on.

    Sections before `cut` never change: what they make of an image can be kept. Gradual unfreezing
    moves the first tuned section from the head towards the image. Whatever lies before it runs in
    eval mode and outside of the graph.
    """

    def __init__(self, cfg: Config, model: Classifier) -> None:
        self.cfg, self.model = cfg, model
        set_norms(model, True, cfg.norm_statistics)
        choose_parameters(cfg, model)
        self.sections = model.sections()
        self.head = len(self.sections) - 1
        self.cut = next(i for i, s in enumerate(self.sections) if self._tuned(s))
        self._modules = [list(modules_of(model, s)) for s in self.sections]

    def _tuned(self, section: Section) -> list[nn.Parameter]:
        return [p for p in self.model.parameters_of(section).values() if p.requires_grad]

    def start(self, epoch: int) -> int:
        """The first section that is tuned in an epoch."""
        if self.cfg.strategy != "gradual":
            return self.cut
        count = tuned_sections(epoch, self.head + 1, every=self.cfg.every)
        return max(self.cut, self.head + 1 - count)

    def run(self, x: ml.Tensor, first: int, epoch: int) -> ml.Tensor:
        """What section `first` is given -> logits (N, K), as training wants them."""
        start = max(self.start(epoch), first)
        for i, modules in enumerate(self._modules):
            for module in modules:
                module.training = i >= start
        with ml.no_grad():
            x = self.model.run(x, first, start)
        return self.model.run(x, start)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups, from the head down: each section has its own learning rate."""
        cfg, groups = self.cfg, list[dict[str, Any]]()
        rates = layer_rates(cfg.lr, len(self.sections), factor=1 / cfg.decay)
        for i in range(self.head, -1, -1):
            rate = rates[i] * (1.0 if i == self.head else cfg.backbone)
            groups += groups_of(self._tuned(self.sections[i]), cfg.weight_decay, lr=rate)
        return groups

    def tuned_parameters(self) -> int:
        """How many numbers are tuned."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def choose_parameters(cfg: Config, model: Classifier) -> None:
    """Let the parameters that the strategy tunes at some time require gradients, and no others."""
    every = len(model.sections())
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters()}
    head = {id(p) for p in model.parameters_of(model.sections()[-1]).values()}
    if cfg.strategy == "lora":
        name = re.escape(model.head_name)
        add_lora(model, f"(?!{name}$)(?:{cfg.pattern})", cfg.rank, cfg.alpha, seed=cfg.seed)
        wanted = head | {id(p) for p in lora_parameters(model)}
        for p in model.parameters():
            p.requires_grad_(id(p) in wanted)
        return
    last = {"head": 1, "last": cfg.last + 1, "gradual": cfg.last + 1 if cfg.last else every}
    tune_last(model, min(last.get(cfg.strategy, every), every))
    for p in model.parameters():
        if cfg.strategy == "norms" and id(p) not in norms | head:
            p.requires_grad_(False)
        if not cfg.norm_affine and id(p) in norms:
            p.requires_grad_(False)


class Rest(nn.Module):
    """The sections of a model from `first` on, as a module of its own."""

    def __init__(self, model: Classifier, first: int) -> None:
        super().__init__()
        self.model, self.first = model, first

    def forward(self, x: ml.Tensor) -> ml.Tensor:
        """What section `first` is given -> logits (N, K)."""
        return self.model.run(x, self.first)
