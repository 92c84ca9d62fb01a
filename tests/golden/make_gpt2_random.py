"""Makes a small random GPT-2 in the files of Hugging Face's, by NumPy and the format's description.

Run it as `python tests/golden/make_gpt2_random.py FOLDER`; the tests call `write`. A safetensors
file is the length of its header (uint64), the header (JSON: dtype, shape, bytes of each tensor),
the tensors (https://github.com/huggingface/safetensors#format).
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

VOCAB, LENGTH, DIM, HEADS, LAYERS = 97, 32, 24, 3, 2


def random_arrays(seed):
    """GPT-2's arrays by Hugging Face's names; weights large enough for every part to matter."""
    rng = np.random.default_rng(seed)
    shapes = {"wte.weight": (VOCAB, DIM), "wpe.weight": (LENGTH, DIM), "ln_f.weight": (DIM,),
              "ln_f.bias": (DIM,)}  # fmt: skip
    for layer in range(LAYERS):
        block = {
            "ln_1": (DIM,), "attn.c_attn": (DIM, 3 * DIM), "attn.c_proj": (DIM, DIM),
            "ln_2": (DIM,), "mlp.c_fc": (DIM, 4 * DIM), "mlp.c_proj": (4 * DIM, DIM),
        }  # fmt: skip
        for name, shape in block.items():
            shapes[f"h.{layer}.{name}.weight"] = shape
            shapes[f"h.{layer}.{name}.bias"] = shape[-1:]
    arrays = {name: rng.normal(0, 0.3, shape).astype("f4") for name, shape in shapes.items()}
    for name, array in arrays.items():
        if "ln_" in name and name.endswith("weight"):
            array += 1
    return arrays


def safetensors_bytes(arrays):
    """The bytes of a safetensors file of float32 arrays."""
    header, start = {}, 0
    for name, array in arrays.items():
        span = [start, start + array.nbytes]
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": span}
        start = span[1]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in arrays.values())


def write(folder, *, seed=0, prefix="", masks=False):
    """Write model.safetensors and config.json into `folder` -> the arrays by plain names.

    With `masks` every layer also has the buffers of older versions.
    """
    arrays = random_arrays(seed)
    named = {prefix + name: array for name, array in arrays.items()}
    if masks:
        for layer in range(LAYERS):
            mask = np.tril(np.ones((1, 1, LENGTH, LENGTH), "f4"))
            named[f"{prefix}h.{layer}.attn.bias"] = mask
            named[f"{prefix}h.{layer}.attn.masked_bias"] = np.array(-1e4, "f4")
    folder = Path(folder)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(named))
    about = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "model_type": "gpt2",
             "n_ctx": LENGTH, "n_embd": DIM, "n_head": HEADS, "n_layer": LAYERS,
             "n_positions": LENGTH, "vocab_size": VOCAB}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about, indent=2))
    return arrays


if __name__ == "__main__":
    write(sys.argv[1])
