"""What `python -m minidl convert` and `inspect` do with files of weights."""

import difflib
import inspect as inspecting
import os
from typing import Any

import numpy as np

from minidl import models
from minidl.errors import CheckpointError, reworded
from minidl.io import load_weights, save_safetensors
from minidl.io.naming import flatten
from minidl.io.safetensors import check
from minidl.io.weights import kind_of


def inspect(path: str) -> str:
    """The kind of a file of weights, and name, shape and dtype of each of its arrays, a line each.

    Raises CheckpointError as load_weights does.
    """
    kind, flat = kind_of(path), _flat(path)
    shown = {name if name.isprintable() else ascii(name): a for name, a in flat.items()}
    width = max(map(len, shown), default=0)
    lines = [f"{name:<{width}}  {a.dtype!s:<8}  {a.shape}" for name, a in shown.items()]
    count, size = sum(a.size for a in flat.values()), sum(a.nbytes for a in flat.values())
    lines.append(f"{kind}: {len(flat):,} arrays, {count:,} numbers, {size / 1e6:,.1f} MB")
    return "\n".join(lines)


def convert(path: str, out: str, model: str | None = None, classes: int | None = None) -> int:
    """Write the weights in a file as safetensors, with a model's names if one is named -> how many.

    model: a name in minidl.models; classes: how many its head tells apart, if not the model's own
    number. Without a model the names are paths in the file. `out` is written whole or not at all.
    Raises CheckpointError as load_weights does, for an unknown model, and for writing to `path`.
    """
    rule = "classes needs a model, and must be positive"
    check(classes is None or (model is not None and classes > 0), "convert", rule, classes=classes)
    if model is None:
        arrays = _flat(path)
    else:
        network = named(model)(**({} if classes is None else {"num_classes": classes}))
        load_weights(path, network)
        arrays = {name: np.asarray(value) for name, value in network.state_dict().items()}
    same = os.path.exists(out) and os.path.samefile(path, out)
    check(not same, "convert", "OUT must be another file than IN", out=out)
    save_safetensors(arrays, out)
    return len(arrays)


def _flat(path: str) -> dict[str, np.ndarray]:
    """The arrays in a file by the path to them."""
    with reworded(CheckpointError, f"load_weights: {path}", CheckpointError):
        return flatten(load_weights(path))


def named(name: str) -> Any:
    """The function or class of minidl.models called so, which makes an image model.

    It can be called with num_classes alone. Raises CheckpointError, with the names most alike.
    """
    makers = {}
    for key, made in vars(models).items():
        takes = inspecting.signature(made).parameters if callable(made) else {}
        needed = [p for p in takes.values() if p.default is p.empty and p.kind != p.VAR_KEYWORD]
        if "num_classes" in takes and not needed:
            makers[key] = made
    near = difflib.get_close_matches(name, makers, 5, 0.0)
    rule = f"there is no such image model in minidl.models; alike are {', '.join(near)}"
    check(name in makers, "convert", rule, model=name)
    return makers[name]
