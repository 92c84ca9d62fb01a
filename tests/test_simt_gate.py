"""The texts that the SIMT emulator runs are CUDA C++: NVRTC compiles them for real GPUs."""

import functools
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minidl.backend.cuda import attention, choice, runtime
from minidl.backend.cuda.rows import Cut
from simt import gate
from simt.toys import KERNELS, SOURCES, text_of

pytestmark = pytest.mark.skipif(gate.available() is not None, reason=str(gate.available()))

ARCHITECTURES = pytest.mark.parametrize("architecture", gate.ARCHITECTURES)
# Of tensor_matmul and the kernels of mma.cu, the instructions they are written for.
TENSOR = {
    "mma_f16": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "mma_bf16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "mma_tf32": "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
    "copy_4": "cp.async.ca.shared.global",
    "copy_8": "cp.async.ca.shared.global",
    "copy_16": "cp.async.cg.shared.global",
    "store_16": "st.global.v4",
    **{f"load_x{n}": f"ldmatrix.sync.aligned.m8n8.x{n}.shared.b16" for n in (1, 2, 4)},
    **{f"load_x{n}_trans": f"ldmatrix.sync.aligned.m8n8.x{n}.trans.shared" for n in (1, 2, 4)},
}


def compiled(file: str, architecture: str, *options: str) -> gate.Compiled:
    return gate.compile_for(
        text_of(file), architecture, options=options, include_dirs=[SOURCES], name=file
    )


@ARCHITECTURES
@pytest.mark.parametrize("file", sorted(p.name for p in KERNELS.glob("*.cu")))
def test_every_kernel_of_the_emulators_tests_compiles(file, architecture):
    """Within a GPU's registers and shared memory, without spills."""
    result = compiled(file, architecture)
    assert result.usage
    for name in result.usage:
        result.require(name, threads=256, registers=128)


@ARCHITECTURES
def test_wrappers_become_their_instructions(architecture):
    """Each function of warpops.cuh is the one instruction that the emulator gives a meaning."""
    result = compiled("mma.cu", architecture)
    for name, instruction in TENSOR.items():
        result.require_instructions(name, instruction)
    for option in ("-DHALF", "-UHALF"):
        product = compiled("tensor.cu", architecture, option)
        kind = "f16" if option == "-DHALF" else "bf16"
        product.require_instructions(
            "tensor_matmul", TENSOR[f"mma_{kind}"], "ldmatrix", "cp.async.wait_group 1", "bar.sync"
        )
        product.require("tensor_matmul", threads=128, shared=2 * 2 * (64 * 40 + 32 * 72))


def test_what_does_not_compile_is_reported():
    """With the compiler's words, and limits with the kernel's name."""
    with pytest.raises(RuntimeError, match="undefined"):
        gate.compile_for('extern "C" __global__ void f() { undefined(); }', "sm_80")
    result = compiled("reduce.cu", "sm_80")
    with pytest.raises(AssertionError, match="block_sum for sm_80 uses"):
        result.require("block_sum", threads=256, registers=4)
    with pytest.raises(AssertionError, match=re.escape("has no mma.sync")):
        result.require_instructions("block_sum", "mma.sync")


# ---- the CUDA backend's own kernels --------------------------------------------------------------

REAL = ("float", "double", "__half", "__nv_bfloat16")
ROWS = ("softmax", "softmax_grad", "log_softmax", "log_softmax_grad", "cross_entropy")
WIDE = ("float", "double", "float", "float", "long long", "long long")
KEYS = [
    *((t, "unsigned") for t in ("float", "__half", "__nv_bfloat16", "signed char", "bool")),
    *((t, "unsigned long long") for t in ("double", "long long", "unsigned long long")),
]
FILLS = "Bits Words64 UniformFloat UniformDouble NormalFloat NormalDouble Bernoulli".split()
DRAWS = ("unsigned long long", "const unsigned long long*")
BYTE = "unsigned char"
MADE = [*((t, t) for t in (BYTE, *REAL)), *((BYTE, t) for t in REAL)]
MIXED = [*((t, t) for t in (BYTE, *REAL)), *((t, "float") for t in (BYTE, *REAL[2:]))]
PACKS = [("float", 4), ("double", 2), ("__half", 4), ("__nv_bfloat16", 4), ("float", 1)]
PRODUCTS = [  # every tile for bfloat16, those that take most registers for the others
    f"{t}, Tile<{m}, {n}, {stages}, {tf32}>"
    for t, tf32, tiles in (
        ("__nv_bfloat16", "false", choice.TILES), ("__half", "false", choice.TILES[:1]),
        ("float", "false", choice.tiles_of("float32")[:1]),
        ("float", "true", choice.tiles_of("tf32")),
        ("double", "false", choice.tiles_of("float64")[:1]),
    )
    for m, n, stages in tiles
]  # fmt: skip
CUTS = [f"{t}, {w}, {1 << 14}" for t in REAL for w in (64, 128, 256)]
SMALL_CUTS = [f"{t}, {w}, {1 << 13}" for t, w in (  # where a block has 99 KiB, as on a GeForce
    ("float", 128), ("float", 256), ("double", 64), ("double", 128), ("__half", 128),
    ("__half", 256), ("__nv_bfloat16", 128), ("__nv_bfloat16", 256),
)]  # fmt: skip
WIDTHS = [
    ("float", 4), ("double", 2), ("__half", 8), ("__nv_bfloat16", 8), ("float", 1), ("double", 1),
]  # fmt: skip
ROW_CUTS = [f"{t}, {c}" for t, c in (  # those that take most registers
    ("float", Cut(4, 32, 32, True)), ("float", Cut(1, 16, 256, False)),
    ("double", Cut(1, 16, 32, True)), ("double", Cut(1, 8, 256, False)),
    ("__half", Cut(8, 32, 32, True)), ("__half", Cut(1, 16, 256, True)),
    ("__nv_bfloat16", Cut(8, 16, 256, False)), ("__nv_bfloat16", Cut(1, 16, 32, True)),
)]  # fmt: skip
GRAD_CUTS = [f"{t}, {c}" for t, c in (
    ("float", Cut(4, 8, 32, True)), ("float", Cut(1, 16, 256, True)),
    ("double", Cut(1, 8, 256, True)), ("__half", Cut(8, 16, 256, True)),
    ("__nv_bfloat16", Cut(8, 8, 128, True)),
)]  # fmt: skip
INSTANCES = {
    "attention.cu": [
        *(f"attend<{c}>" for c in CUTS),
        *(f"{k}<{t}>" for k in ("combine", "put_rows") for t in REAL),
    ],
    "attention_grad.cu": [
        *(f"{k}<{c}>" for k in ("query_grad", "key_grad") for c in CUTS + SMALL_CUTS),
        *(f"row_dots<{t}>" for t in REAL),
    ],
    "reduce.cu": [
        *(f"{k}>" for t in (*REAL, "int", "bool")
          for k in (f"row_sums<{t}, 32", f"row_sums<{t}, 256", f"row_extremes<{t}")),
        *(f"column_sums<{t}, {w}>" for t, w in (*WIDTHS, ("int", 4), ("bool", 8), ("bool", 1))),
    ],
    "softmax.cu": [
        *(f"{k}<{c}>" for k in (*ROWS, "cross_entropy_grad") for c in ROW_CUTS),
        *(f"weighted_mean<{t}>" for t in REAL),
    ],
    "layer_norm.cu": [
        *(f"layer_norm<{c}>" for c in ROW_CUTS),
        *(f"layer_norm_input_grad<{c}>" for c in ROW_CUTS if "false" in c),
        *(f"layer_norm_grad<{c}>" for c in GRAD_CUTS),
        *(f"layer_norm_weight_grad<{t}>" for t in REAL),
    ],
    "batch_norm.cu": [
        *(f"{k}<{t}, {w}>" for k in ("moments", "normalise") for t, w in WIDTHS),
        *(f"{k}<{t}, {w}, {gate}>" for k in ("gradient_sums", "input_gradient")
          for t, w in WIDTHS for gate in (0, 1, 2)),
        *(f"weigh_sums<{t}>" for t in REAL),
        *(f"{k}<{t}>" for k in ("combine_moments", "combine_sums") for t in REAL[:2]),
    ],
    "pool.cu": [
        *(f"max_pool<{t}, {i}, {w}, {k}>" for t, w in WIDTHS for i in ("unsigned char", "int")
          for k in ("2, 2", "1, 3")),
        *(f"{k}<{t}, {i}, {w}>" for k in ("max_pool_grad", "max_pool_grad_apart")
          for t, w in WIDTHS for i in ("unsigned char", "int")),
        *(f"{k}<{t}>" for k in ("mean_pool", "mean_pool_grad", "unfold", "fold") for t in REAL),
        *(f"max_positions<{i}>" for i in ("unsigned char", "int")),
    ],
    "embedding.cu": [
        *(f"take_rows<{t}, {w}>" for t, w in WIDTHS), *(f"add_rows<{t}>" for t in REAL),
    ],
    "indexing.cu": [
        *(f"{k}<{t}>" for k in ("pick", "put") for t in (*REAL, "int", "bool")),
        *(f"add_runs<{t}, {t}, true, 1>" for t in (*REAL, "int", "bool")),
        *(f"add_runs<{t}, {w}, false, 1>" for t, w in zip((*REAL, "int", "bool"), WIDE)),
        *(f"add_runs<{t}, {t}, true, {w}>" for t, w in WIDTHS[:4]),
        *(f"add_runs<{t}, {s}, false, {w}>" for (t, w), s in zip(WIDTHS[:4], WIDE)),
    ],
    "order.cu": [
        *(f"sort_runs<{t}, {k}, long long>" for t, k in KEYS),
        "sort_runs<float, unsigned, Item<unsigned>>",
        "sort_runs<double, unsigned long long, Item<unsigned long long>>",
        *(f"merge_runs<{k}, {to}>" for k in ("unsigned", "unsigned long long")
          for to in (f"Item<{k}>", "long long")),
        *(f"piece_sums<{t}>" for t in (*REAL, "int", "bool")),
        *(f"running_sums<{t}, {t}>" for t in REAL), "running_sums<int, long long>",
        "running_sums<bool, long long>",
    ],
    "depthwise.cu": [
        *(f"correlate<{t}, {p}, {cut}>" for t, p in PACKS
          for cut in ("8, 3, 1, 1, 2", "4, 7, 1, 1, 1")),
        *(f"weight_grad<{t}, {p}, 4, 3, 3, 4, 1>" for t, p in PACKS),
    ],
    "conv.cu": [
        *(f"{k}<{p}>" for k in ("convolve", "convolve_weight_grad") for p in PRODUCTS),
        *(f"join_weight_grad<{t}>" for t in REAL),
    ],
    "linear.cu": [
        *(f"{k}<{p}>" for k in ("linear", "linear_parts") for p in PRODUCTS),
        *(f"add_parts<{t}>" for t in REAL),
    ],
    "random.cu": [
        *(f"fill<{k}, {d}>" for k in FILLS for d in DRAWS),
        *(f"{k}<{d}>" for k in ("fill_rows", "bernoulli_last") for d in DRAWS),
    ],
    "augment.cu": [
        f"{k}<{t}, {u}, {v}>" for v in (1, 4) for k, kinds in (("augment", MADE), ("blend", MIXED))
        for t, u in kinds
    ],
    "recurrent.cu": [
        f"{k}_step{g}<{t}>" for k in ("lstm", "gru", "rnn") for g in ("", "_grad") for t in REAL
    ],
}  # fmt: skip
POOL = ThreadPoolExecutor(2)
MULTIPLIED = max(t.shared for t in choice.TILES)
ATTENDED = max(attention.cut_of(np.dtype(t), w, *arrays).shared for t in ("f2", "f4", "f8")
               for w in (64, 128, 256) for arrays in ((1, 1), (2, 1), (1, 2)))  # fmt: skip
SHARED = {"conv.cu": MULTIPLIED, "linear.cu": MULTIPLIED, "attention.cu": ATTENDED,
          "attention_grad.cu": ATTENDED}  # fmt: skip
# Two blocks a multiprocessor, as launch bounds of packed rows have it; but layer_norm_grad, which
# keeps weights and both their gradients beside rows, may take it alone: 176 * 256 of 65,536.
REGISTERS = {"layer_norm.cu": 176, **{f"{name}.cu": 128 for name in (
    "batch_norm", "depthwise", "indexing", "pool", "softmax")}}  # fmt: skip


@functools.cache
def jobs(file):
    """The compilations of a file for all architectures, which go on side by side."""
    text, names = runtime.text_of(file), INSTANCES[file]
    return {a: POOL.submit(gate.compile_for, text, a, instances=names, name=file)
            for a in gate.ARCHITECTURES}  # fmt: skip


@ARCHITECTURES
@pytest.mark.parametrize("file", INSTANCES)
def test_every_kernel_of_the_backend_compiles(file, architecture):
    """Each for all its types, within a GPU's registers and shared memory, without spills."""
    names, result = INSTANCES[file], jobs(file)[architecture].result()
    assert len(result.usage) >= len(names)
    shared = SHARED.get(file, 0)
    most = 255 if shared else REGISTERS.get(file, 64)
    for name in result.usage:
        result.require(name, threads=256, registers=most, shared=shared)
    if shared:
        tf32 = [] if file.startswith("attention") else ["k8.row.col.f32.tf32"]
        for kind in ("k16.row.col.f32.f16", "k16.row.col.f32.bf16", *tf32):
            assert f"mma.sync.aligned.m16n8{kind}" in result.ptx
        assert "ldmatrix.sync.aligned" in result.ptx and "cp.async.cg.shared" in result.ptx
