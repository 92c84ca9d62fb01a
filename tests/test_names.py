"""The public names are PyTorch's, with its parameters in its order and its defaults."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from minidl.fusion import Pointwise

NAMES = json.loads((Path(__file__).parent / "golden" / "names.json").read_text())
# Parameters that PyTorch deprecates, or that choose between implementations minidl does not have.
IGNORED = set(
    """size_average reduce _stacklevel device dtype foreach differentiable fused capturable out
    max_norm norm_type scale_grad_by_freq sparse _weight _freeze generator enable_gqa antialias
    recompute_scale_factor timeout worker_init_fn multiprocessing_context prefetch_factor in_order
    warn_only orig_func persistent_workers pin_memory_device enable_nested_tensor mask_check
    min_value max_value
    pickle_module pickle_protocol map_location weights_only mmap""".split()
)
# Newer than what students write, or meaningless here.
ABSENT = {
    "mse_loss": {"weight"},
    "l1_loss": {"weight"},
    "huber_loss": {"weight"},
    "inference_mode": {"mode"},
}
# minidl's own signature says more, or says it otherwise, and takes PyTorch's calls by position.
DIFFER = "split norm backward use_deterministic_algorithms".split()
HERE = """minidl: tensor as_tensor grad gradcheck gradgradcheck checkpoint set_detect_anomaly
memory_stats empty_cache vjp jvp manual_seed save load set_num_threads use_deterministic_algorithms
pointwise capture summary profile plot_graph lr_find Tensor float32 float64 float16 int8 int16 int32
int64 uint8 bool is_grad_enabled set_grad_enabled inf nan pi e finfo iinfo dtype Size
get_rng_state set_rng_state
minidl.autograd: grad
minidl.nn.utils: weight_norm spectral_norm prune
minidl.optim: EMA
minidl.data: ImageFolder CIFAR10 CIFAR100 MNIST FashionMNIST"""


def find(owner: str) -> object:
    """The module, or the class Tensor, that holds an owner's names."""
    owner = owner.removesuffix(" wide")
    if owner == "minidl.Tensor":
        return importlib.import_module("minidl").Tensor
    return importlib.import_module(owner)


@pytest.mark.parametrize("owner", NAMES)
def test_pytorch_names_exist(owner):
    """Everything listed is there, under the same owner."""
    missing = [name for name in NAMES[owner] if not hasattr(find(owner), name)]
    assert not missing, f"{owner} lacks {' '.join(missing)}"


@pytest.mark.parametrize("line", HERE.replace("\n", " ").replace(" minidl", "\nminidl").split("\n"))
def test_own_names_exist(line):
    """What minidl has beyond PyTorch's module of that name."""
    owner, names = line.split(":")
    missing = [name for name in names.split() if not hasattr(find(owner), name)]
    assert not missing, f"{owner} lacks {' '.join(missing)}"


@pytest.mark.parametrize(
    "name", ["nn.functional", "cuda", "distributions", "linalg", "optim.lr_scheduler"]
)
def test_a_module_can_be_imported_by_pytorchs_path(name):
    """As scripts begin: import torch.nn.functional as F."""
    code = f"import minidl.{name} as m; import minidl; assert m is minidl.{name}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def written(text: str) -> list[tuple[str, bool, str | None]]:
    """(name, keyword-only, default) of each parameter of a written signature."""
    args = ast.parse(f"def f({text}): pass").body[0].args
    plain = [None] * (len(args.args) - len(args.defaults)) + args.defaults
    found = [(a.arg, False, d) for a, d in zip(args.args, plain, strict=True)]
    found += [(a.arg, True, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return [
        (n, k, None if d is None else ast.unparse(d))
        for n, k, d in found
        if n not in IGNORED and not n.startswith("_")
    ]


SIGNATURES = [
    pytest.param(owner, name, text, id=f"{owner.removesuffix(' wide')}.{name}")
    for owner, table in NAMES.items()
    for name, text in table.items()
    if text is not None and not name.startswith("__") and name not in DIFFER
]


@pytest.mark.parametrize("owner, name, text", SIGNATURES)
def test_signature(owner, name, text):
    """PyTorch's parameters by position, name and default; anything more is keyword-only.

    The first operand of an elementwise function, and of a function of `ml`, may go by its letter.
    Wide functions may have fewer options.
    """
    thing = getattr(find(owner), name)
    theirs = [p for p in written(text) if p[0] not in ABSENT.get(name, ())]
    ours = [p for p in inspect.signature(thing).parameters.values() if p.name not in IGNORED]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in ours):
        return
    by_position = [p.name for p in ours if p.kind != p.KEYWORD_ONLY]
    positional = [n for n, keyword, _ in theirs if not keyword]
    if isinstance(thing, Pointwise) or owner.startswith(("minidl.Tensor", "minidl wide")):
        by_position, positional, theirs = by_position[1:], positional[1:], theirs[1:]
    missing = {n for n, _, _ in theirs} - {p.name for p in ours}
    assert not missing or "wide" in owner, f"lacks {missing}"
    positional = [n for n in positional if n not in missing]
    assert by_position == positional[: len(by_position)]
    defaults = {p.name: p.default for p in ours}
    for n, _, default in theirs:
        if n in missing:
            continue
        value = defaults[n]
        if default is None:
            assert value is inspect.Parameter.empty, n
        elif default != "...":
            assert value == ast.literal_eval(default), n
