"""Other programs' weights as minidl's GPT: llama2.c's files and Hugging Face's GPT-2."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import CheckpointError, reworded
from minidl.io import load_safetensors
from minidl.io.safetensors import check
from minidl.models.gpt import GPT

Arrays = dict[str, np.ndarray]

# ---- llama2.c ------------------------------------------------------------------------------------

SIZES = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
NEWER = 0x616B3432  # the first four bytes of the later versions 1 and 2


def read_llama2c(path: str | os.PathLike[str]) -> tuple[dict[str, int], Arrays]:
    """Read a llama2.c file (version 0): its seven SIZES, and float32 arrays by llama2.c's names.

    Matrices are (out, in), stacked over the layers. vocab_size comes positive; an own classifier
    (negative vocab_size in the file) is the array "wcls". The tables of rotations in the file are
    left out: llama2.c computes them anew, from base 10000. Raises CheckpointError naming the file
    when it is unreadable, of impossible sizes, or shorter or longer than they say.
    Format: https://github.com/karpathy/llama2.c (run.c, memory_map_weights).
    """
    with reworded(CheckpointError, f"read_llama2c: cannot read {path}", OSError):
        head = np.fromfile(path, "<i4", len(SIZES)).tolist()
        size = os.path.getsize(path)
    rule = f"{path} is no llama2.c file: it must start with seven int32 sizes"
    check(len(head) == len(SIZES), "read_llama2c", rule, bytes=size)
    rule = f"{path} is of a later version of llama2.c's format than 0, the one that is read"
    check(head[0] != NEWER, "read_llama2c", rule, fix="export it with --version 0", version=head[1])
    config: dict[str, Any] = dict(zip(SIZES, head))
    shared, config["vocab_size"] = config["vocab_size"] > 0, abs(config["vocab_size"])
    _check_sizes(path, config)
    shapes = _llama_shapes(config, shared)
    starts = np.cumsum([0, *map(math.prod, shapes.values())], dtype=object)
    wanted = 4 * (len(SIZES) + int(starts[-1]))
    rule = f"{path} must be {wanted} bytes long by its sizes"
    check(size == wanted, "read_llama2c", rule, bytes=size, **config)
    numbers = np.fromfile(path, "<f4", offset=4 * len(SIZES))
    parts = zip(shapes.items(), starts)
    arrays = {k: numbers[i : i + math.prod(s)].reshape(s) for (k, s), i in parts}
    return config, {name: array for name, array in arrays.items() if name != "rotations"}


def _check_sizes(path: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """CheckpointError unless a transformer of these sizes can exist."""
    start = f"{path} is no llama2.c file: "
    check(min(config.values()) > 0, "read_llama2c", start + "sizes must not be 0 or less", **config)
    heads, rule = config["n_heads"], "dim must be n_heads times an even number"
    check(config["dim"] % (2 * heads) == 0, "read_llama2c", start + rule, **config)
    rule = "n_kv_heads must divide n_heads"
    check(heads % config["n_kv_heads"] == 0, "read_llama2c", start + rule, **config)


def _llama_shapes(config: dict[str, int], shared: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of what a llama2.c file holds, in its order."""
    dim, wide, layers, heads, kv_heads, vocab, length = config.values()
    narrow = dim // heads * kv_heads
    shapes = {
        "token_embedding_table": (vocab, dim), "rms_att_weight": (layers, dim),
        "wq": (layers, dim, dim), "wk": (layers, narrow, dim), "wv": (layers, narrow, dim),
        "wo": (layers, dim, dim), "rms_ffn_weight": (layers, dim), "w1": (layers, wide, dim),
        "w2": (layers, dim, wide), "w3": (layers, wide, dim), "rms_final_weight": (dim,),
        "rotations": (2, length, dim // heads // 2),
    }  # fmt: skip
    return shapes if shared else shapes | {"wcls": (vocab, dim)}


# ---- GPT-2 ---------------------------------------------------------------------------------------

TRANSPOSED = re.compile(r".*\.(c_attn|c_proj|c_fc)\.weight")  # GPT-2 keeps these (in, out)
UNUSED = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # the causal mask
FIXED = {  # what else config.json may say; GPT-2's own values come first
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
}  # fmt: skip


def read_gpt2(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Arrays]:
    """Read a safetensors file of Hugging Face's GPT-2 -> arguments of GPT, its float32 state.

    Keys may start with "transformer."; the linear layers' weights are transposed to (out, in). The
    number of heads is read from config.json in the same folder; where there is none every head has
    64 features, as in all published sizes. Raises CheckpointError naming the file when it is
    unreadable, lists whatever is missing, unexpected or of a wrong shape, and says what in
    config.json minidl's GPT cannot do.
    """
    found = {k.removeprefix("transformer."): v for k, v in load_safetensors(path).items()}
    found = {name: array for name, array in found.items() if not UNUSED.fullmatch(name)}
    tables = [found.get(name, np.empty(0)) for name in ("wte.weight", "wpe.weight")]
    rule = f"{path} is no GPT-2: wte.weight and wpe.weight must be there, with two axes"
    check(all(t.ndim == 2 for t in tables), "read_gpt2", rule, names=sorted(found)[:5])
    layers = {name.split(".")[1] for name in found if name.startswith("h.")}
    (vocab, dim), length = tables[0].shape, len(tables[1])
    config: dict[str, Any] = {
        "vocab_size": vocab, "block_size": length, "n_layer": max(len(layers), 1),
        "n_head": _head_count(path, dim), "n_embd": dim,
    }  # fmt: skip
    head = found.setdefault("lm_head.weight", tables[0])
    _check_arrays(path, found, _gpt2_shapes(config))
    config["tie"] = np.array_equal(head, tables[0])
    state = {}
    for name, array in found.items():
        turned = array.T if TRANSPOSED.fullmatch(name) else array
        key = name if name.startswith("lm_head.") else f"transformer.{name}"
        state[key] = np.ascontiguousarray(turned, np.float32)
    return config, state


def _head_count(path: str | os.PathLike[str], dim: int) -> int:
    """The heads of the GPT-2 in `path`, by the config.json beside it."""
    beside = Path(path).with_name("config.json")
    if not beside.exists():
        rule = f"{path} has no config.json beside it, and heads of 64 features do not fit it"
        check(dim % 64 == 0, "read_gpt2", rule, n_embd=dim)
        return dim // 64
    kinds = (OSError, ValueError, RecursionError)
    with reworded(CheckpointError, f"read_gpt2: cannot read {beside}", *kinds):
        settings = json.loads(beside.read_text("utf-8"))
    rule = f"{beside} must be a JSON object"
    check(isinstance(settings, dict), "read_gpt2", rule, type=type(settings))
    for name, values in FIXED.items():
        value, rule = settings.get(name, values[0]), f"{beside}: {name} must be in {[*values]}"
        check(value in values, "read_gpt2", rule, value=value)
    heads, rule = settings.get("n_head"), f"{beside}: n_head must divide n_embd"
    ok = type(heads) is int and heads > 0 and dim % heads == 0
    check(ok, "read_gpt2", rule, n_head=heads, n_embd=dim)
    return heads


def _gpt2_shapes(config: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of GPT-2's arrays by Hugging Face's names, linear layers as (in, out)."""
    vocab, length, layers, _, dim = config.values()
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (vocab, dim), "wpe.weight": (length, dim), "lm_head.weight": (vocab, dim),
        "ln_f.weight": (dim,), "ln_f.bias": (dim,),
    }  # fmt: skip
    linear = {"attn.c_attn": (dim, 3 * dim), "attn.c_proj": (dim, dim),
              "mlp.c_fc": (dim, 4 * dim), "mlp.c_proj": (4 * dim, dim)}  # fmt: skip
    for layer in range(layers):
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{layer}.{name}.{kind}": (dim,) for kind in ("weight", "bias")}
        for name, shape in linear.items():
            shapes |= {f"h.{layer}.{name}.weight": shape, f"h.{layer}.{name}.bias": shape[1:]}
    return shapes


def _check_arrays(path: Any, found: Arrays, shapes: dict[str, tuple[int, ...]]) -> None:
    """CheckpointError listing what is missing, unexpected, of a wrong shape or not floating."""
    both = found.keys() & shapes.keys()
    wrong = {k for k in both if found[k].shape != shapes[k]}
    groups = {
        "missing": shapes.keys() - both,
        "unexpected": found.keys() - both,
        "wrong shape": {f"{k} {found[k].shape}, not {shapes[k]}" for k in wrong},
        "not floating": {k for k in both if found[k].dtype.kind in "biuc"},
    }
    listed = "".join(f"\n  {kind}: {'; '.join(sorted(n))}" for kind, n in groups.items() if n)
    check(not listed, "read_gpt2", f"{path} is no whole GPT-2{listed}")


# ---- models --------------------------------------------------------------------------------------


def load_model(path: str | os.PathLike[str]) -> GPT:
    """The GPT, in evaluation mode, whose weights are in `path`: llama2.c's format or GPT-2's.

    Raises CheckpointError as read_llama2c and read_gpt2 do.
    """
    with reworded(CheckpointError, f"load_model: cannot read {path}", OSError):
        with open(path, "rb") as file:
            start = file.read(9)
    if start[8:] == b"{":  # of a safetensors header; llama2.c: the lowest byte of n_layers = 123
        config, state = read_gpt2(path)
        model = GPT(**config, mlp="gelu_tanh")
    else:
        sizes, arrays = read_llama2c(path)
        model = _empty_llama(sizes, tie="wcls" not in arrays)
        state = _llama_state(sizes["n_layers"], arrays)
    model.load_state_dict(state)
    return model.eval()


def _empty_llama(sizes: dict[str, int], tie: bool) -> GPT:
    """The GPT that has a Llama's sizes."""
    return GPT(
        sizes["vocab_size"], block_size=sizes["seq_len"], n_layer=sizes["n_layers"],
        n_head=sizes["n_heads"], n_embd=sizes["dim"], n_kv_head=sizes["n_kv_heads"],
        hidden=sizes["hidden_dim"], bias=False, positions="rotary", norm="rms", eps=1e-5,
        mlp="swiglu", tie=tie,
    )  # fmt: skip


def _llama_state(layers: int, arrays: Arrays) -> Arrays:
    """llama2.c's arrays by GPT's names."""
    table = arrays["token_embedding_table"]
    state = {"transformer.wte.weight": table, "lm_head.weight": arrays.get("wcls", table),
             "transformer.ln_f.weight": arrays["rms_final_weight"]}  # fmt: skip
    joined = np.concatenate([arrays[name] for name in ("wq", "wk", "wv")], axis=1)
    stacked = {
        "ln_1": arrays["rms_att_weight"], "attn.c_attn": joined, "attn.c_proj": arrays["wo"],
        "ln_2": arrays["rms_ffn_weight"], **{f"mlp.{k}": arrays[k] for k in ("w1", "w2", "w3")},
    }  # fmt: skip
    for layer in range(layers):
        state |= {f"transformer.h.{layer}.{k}.weight": v[layer] for k, v in stacked.items()}
    return state
