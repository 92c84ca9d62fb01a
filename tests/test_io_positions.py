"""Positions of Vision Transformers that were trained on pictures of another size."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy_layers import load_tree, normal

from minidl.errors import CheckpointError
from minidl.io import load_weights, save_safetensors
from minidl.io.positions import resampled
from minidl.models import VisionTransformer, ViT

GOLDEN = np.load(Path(__file__).parent / "golden" / "positions.npz")


@pytest.mark.parametrize("case", sorted({name.partition("/")[0] for name in GOLDEN}))
def test_as_timm_scales_them(case):
    """float32 sums of at most 49 terms of order 1, there and here."""
    table, wanted = GOLDEN[f"{case}/from"], GOLDEN[f"{case}/to"]
    found = resampled(table, wanted.shape)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@given(n=st.integers(1, 9), m=st.integers(1, 9))
def test_what_is_level_or_of_that_size_stays(n, m):
    table = normal(1, 1 + n * n, 3)
    assert resampled(table, table.shape) is table
    table[0, 1:] = table[0, 1]
    moved = resampled(table, (1, 1 + m * m, 3))
    np.testing.assert_array_equal(moved[0, 0], table[0, 0])
    np.testing.assert_allclose(moved[0, 1:], np.tile(table[0, 1], (m * m, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [
    (1, 6, 3), (1, 5, 4), (2, 5, 3), (5, 3), (1, 1, 3), (1, 0, 3), (), (1, 18, 3),
])  # fmt: skip
def test_what_is_no_grid_stays(shape):
    """The last: with DeiT's token of distillation, 4 x 4 patches and two more."""
    table = np.zeros(shape, np.float32)
    assert resampled(table, (1, 10, 3)) is table
    grid = np.zeros((1, 10, 3), np.float32)
    assert resampled(grid, shape) is grid


def sized(kind, image):
    """A small network for pictures of some size."""
    if kind is ViT:
        return ViT(3, image_size=image, patch_size=4, dim=8, depth=1, heads=2)
    return VisionTransformer(4, 8, 1, 2, 3, image_size=image)


@pytest.mark.parametrize("kind, name", [
    (ViT, "pos_embed"), (VisionTransformer, "encoder.pos_embedding"),
])  # fmt: skip
def test_weights_go_into_a_network_for_larger_pictures(kind, name, tmp_path):
    state = {k: normal(*v.shape) for k, v in sized(kind, 16).state_dict().items()}
    save_safetensors({f"module.{k}": v for k, v in state.items()}, tmp_path / "x")
    model = sized(kind, 24)
    assert load_weights(tmp_path / "x", model) == ([], [])
    state[name] = resampled(state[name], (1, 37, 8))
    assert all(np.array_equal(v.numpy(), state[k]) for k, v in model.state_dict().items())
    state[name] = normal(1, 18, 8)
    with pytest.raises(CheckpointError, match=rf"{name} \(1, 18, 8\), the model has \(1, 37, 8\)"):
        load_tree(state, model, "PyTorch")
