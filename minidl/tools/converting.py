"""What `python -m minidl convert` and `inspect` do with files of weights."""

import os
from typing import Any

import numpy as np

from minidl import models
from minidl.errors import CheckpointError, require
from minidl.io import load_weights, save_safetensors
from minidl.io.naming import flatten
from minidl.io.weights import kind_of


def inspect(path: str) -> str:
    """The kind of a file of weights, and name, shape and dtype of each of its arrays, a line each.

    Raises CheckpointError as load_weights does.
    """
    kind, flat = kind_of(path), flatten(load_weights(path))
    width = max(map(len, flat), default=0)
    lines = [f"{name:<{width}}  {a.dtype!s:<8}  {a.shape}" for name, a in flat.items()]
    count, size = sum(a.size for a in flat.values()), sum(a.nbytes for a in flat.values())
    lines.append(f"{kind}: {len(flat):,} arrays, {count:,} numbers, {size / 1e6:,.1f} MB")
    return "\n".join(lines)


def convert(path: str, out: str, model: str | None = None, classes: int | None = None) -> int:
    """Write the weights in a file as safetensors, with a model's names if one is named -> how many.

    model: a name in minidl.models; classes: how many its head tells apart, if not the model's own
    number. Without a model the names are paths in the file. `out` is written whole or not at all.
    Raises CheckpointError as load_weights does, for an unknown model, and for writing to `path`.
    """
    same = os.path.exists(out) and os.path.samefile(path, out)
    require(not same, "convert", "OUT must be another file than IN", error=CheckpointError, out=out)
    if model is None:
        arrays = flatten(load_weights(path))
    else:
        network = named(model)(**({} if classes is None else {"num_classes": classes}))
        load_weights(path, network)
        arrays = {name: np.asarray(value) for name, value in network.state_dict().items()}
    save_safetensors(arrays, out)
    return len(arrays)


def named(name: str) -> Any:
    """The function or class of minidl.models called so."""
    known = [n for n in dir(models) if callable(getattr(models, n)) and not n.startswith("_")]
    rule = f"the model must be one of {', '.join(known)}"
    require(name in known, "convert", rule, error=CheckpointError, model=name)
    return getattr(models, name)
