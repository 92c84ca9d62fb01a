"""minidl: a deep-learning framework small enough to read in a day.

    import minidl as ml, minidl.nn as nn, minidl.functional as F, minidl.optim as optim

The names are PyTorch's. `nn`, `optim`, `data`, `io`, `models`, `train` and `tools` load when used.
"""

import importlib
import sys
from typing import Any

from numpy import dtype, e, finfo, iinfo, inf, nan, pi

# isort: off
from minidl import autograd, functional, methods
from minidl.autograd import Device as device
from minidl.autograd import (
    Tensor, enable_grad, grad, inference_mode, is_grad_enabled, no_grad, set_detect_anomaly,
    set_grad_enabled,
)  # fmt: skip
from minidl.capturing import capture
from minidl.config import (
    get_float32_matmul_precision, set_float32_matmul_precision, set_num_threads,
    use_deterministic_algorithms,
)  # fmt: skip
from minidl.config import threads as get_num_threads
from minidl.derivatives import checkpoint, jvp, vjp
from minidl.dtypes import (
    bool_, float16, float32, float64, int8, int16, int32, int64, promote_types, result_type, uint8,
)  # fmt: skip
from minidl.fusion import pointwise
from minidl.ops.autocasting import autocast, is_autocast_enabled
from minidl.ops.creation import empty_cache, memory_stats
from minidl.random import Generator, get_state, manual_seed, set_state
from minidl.random import get_state as get_rng_state
from minidl.random import set_state as set_rng_state
from minidl.tensor import Size
from minidl.wide import cuda, distributions, func, jacobians, linalg
from minidl.wide.cuda import accelerator, backends
from minidl.wide.function import Function, Variable

__version__ = "0.1.0"

float, double, half = float32, float64, float16
bool, long, int, short = bool_, int64, int32, int16
autograd.Function, autograd.Variable = Function, Variable  # type: ignore[attr-defined]
autograd.detect_anomaly = set_detect_anomaly  # type: ignore[attr-defined]
autograd.functional = jacobians  # type: ignore[attr-defined]
globals().update(methods.TABLE | methods.FUNCTIONS | methods.names.FORMATS)
_MODULES: dict[str, Any] = {"cuda": cuda, "distributions": distributions, "func": func}
_MODULES |= {"linalg": linalg, "autograd.functional": jacobians, "backends": backends}
_MODULES["backends.cudnn"] = backends.cudnn
_FAMILIES = "normal uniform bernoulli categorical multivariate_normal independent kl".split()
_MODULES |= {f"distributions.{family}": distributions for family in _FAMILIES}
sys.modules.update({f"{__name__}.{name}": m for name, m in _MODULES.items()})  # for their imports

_ALSO = """
    alpha_dropout avg_pool1d bilinear celu channel_shuffle conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d cosine_similarity dropout group_norm hardshrink layer_norm max_pool1d
    max_pool2d max_pool3d pairwise_distance pixel_shuffle pixel_unshuffle prelu rms_norm selu
    threshold""".split()  # functions of F that PyTorch has here too, with the same arguments
globals().update({name: getattr(functional, name) for name in _ALSO})

_TOOLS = "gradcheck gradgradcheck summary profile plot_graph lr_find".split()
_LAZY = dict.fromkeys(_TOOLS, "tools") | {"bfloat16": "dtypes", "save": "io", "load": "io"}
_ROOMS = ("amp", "data", "io", "models", "nn", "optim", "tools", "train")


def _of_cuda(name: str) -> Any:
    if name == "amp":
        return importlib.import_module("minidl.amp")
    raise AttributeError(f"module 'minidl.cuda' has no attribute {name!r}")


vars(cuda).update(__getattr__=_of_cuda, __path__=__path__)  # for minidl.cuda.amp, which is amp.py


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"minidl.{_LAZY[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"minidl.{name}")
    raise AttributeError(f"module 'minidl' has no attribute {name!r}")
