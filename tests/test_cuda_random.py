"""Random numbers for a GPU, emulated: bit for bit the CPU's, also where they lie channels-last."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cuda_stand_in import NEEDED, gpu

import minidl as ml
import minidl.functional as F
from minidl.backend import cpu, cuda
from minidl.backend.cuda.random import _tiles
from minidl.errors import DTypeError
from minidl.random import STREAMS, Generator

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]

KEYS = [(0, 0), (2**64 - 1, 2**63 + 5), (0xA4093822299F31D0, 2**40 + 3)]
LENGTHS = [0, 1, 2, 3, 5, 1023, 1030]


def same(name, *args):
    """A function of both backends gives the same bits."""
    expected, got = getattr(cpu, name)(*args), getattr(cuda, name)(*args)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    np.testing.assert_array_equal(cuda.to_host(got), expected)
    return got


def test_the_published_answer():
    """Random123's kat_vectors: counter and key of ones (the draw takes a half of the counter)."""
    got = cuda.to_host(cuda.random_bits(4, 0, 0)).tolist()
    assert got == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("key, draw", KEYS)
def test_bits_words_uniforms_and_masks(key, draw):
    for n in LENGTHS:
        same("random_bits", n, key, draw)
        same("random_words64", n, key, draw)
        for dtype in (np.float32, np.float64):
            same("random_uniform", n, np.dtype(dtype), key, draw)
    for p in (0, 0.3, 2.0**-32, 1):
        same("random_bernoulli", 517, p, key, draw)


@pytest.mark.parametrize("key, draw", KEYS)
def test_rows_are_drawn_by_their_own_numbers(key, draw):
    rows = np.array([5, 0, 2**44 - 1, 123_456_789, 7, 7])
    for words, first in itertools.product((1, 4, 7, 70), (0, 3)):
        expected = cpu.random_rows(rows[::2], words, key, draw, first)
        there = cuda.from_host(rows)
        got = cuda.random_rows(there[::2], words, key, draw, first)
        np.testing.assert_array_equal(cuda.to_host(got), expected)
    none = cuda.random_rows(there[:0], 5, key, draw)
    assert none.shape == (0, 5)
    with pytest.raises(DTypeError, match="rows must be int64"):
        cuda.random_rows(cuda.from_host(rows.astype(np.int32)), 4, key, draw)


@pytest.mark.parametrize("key, draw", KEYS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normals_agree_to_four_ulp(dtype, key, draw):
    for n in LENGTHS:
        expected = cpu.random_normal(n, np.dtype(dtype), key, draw)
        got = cuda.to_host(cuda.random_normal(n, np.dtype(dtype), key, draw))
        assert got.dtype == dtype and got.shape == (n,)
        ulp = np.spacing(np.maximum(np.abs(expected), 1e-3))  # the angle crosses zero at 0
        assert (np.abs(got - expected) <= 4 * ulp).all()


SHAPES = [
    (2, 3, 4, 4), (1, 1, 5, 5), (2, 64, 1, 1), (3, 5, 1, 7), (2, 33, 5, 5), (1, 40, 11, 23),
    (2, 7, 15, 17), (1, 2, 31, 8), (0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (1, 70, 2, 2),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_in_channels_last_memory(shape):
    """The same values as in C order, at sizes that no tile fits."""
    n = int(np.prod(shape))
    key, draw = KEYS[2]
    expected = cpu.random_bernoulli(n, 0.4, key, draw).reshape(shape)
    for backend in (cpu, cuda):
        got = backend.random_bernoulli(n, 0.4, key, draw, shape)
        assert got.shape == shape and got.transpose(0, 2, 3, 1).flags.c_contiguous
        np.testing.assert_array_equal(got if backend is cpu else cuda.to_host(got), expected)


def test_tiles_cover_what_they_must():
    """A tile's pixels lie within its Philox blocks, wherever the first is, and 32 are enough."""
    for pixels in range(1, 400):
        blocks, span, quads = _tiles(3, 65, pixels)
        assert blocks == 9 * -(-pixels // span) and span <= 124 and quads <= 32
        starts = range(0, 4, 4 if pixels % 4 == 0 else 1)
        assert max((start + span + 3) // 4 for start in starts) <= quads


def test_the_draw_number_may_lie_on_the_gpu():
    """It is read when the kernel runs; beyond 32 bits and from the middle of an array too."""
    draws = np.array([7, 2**63 + 2**33 + 9], np.uint64)
    there = cuda.from_host(draws)
    shape, rows = (2, 33, 3, 5), np.arange(3)
    for i, draw in enumerate(draws.tolist()):
        at = there[i : i + 1]
        calls = [
            ("random_bits", (9, 5)), ("random_words64", (9, 5)),
            ("random_uniform", (9, np.dtype(np.float32), 5)),
            ("random_uniform", (9, np.dtype(np.float64), 5)),
            ("random_bernoulli", (990, 0.3, 5)),
        ]  # fmt: skip
        for name, args in calls:
            got = getattr(cuda, name)(*args, at)
            np.testing.assert_array_equal(cuda.to_host(got), getattr(cpu, name)(*args, draw))
        for dtype in (np.float32, np.float64):
            given = (9, np.dtype(dtype), 5)
            got, known = cuda.random_normal(*given, at), cuda.random_normal(*given, draw)
            np.testing.assert_array_equal(cuda.to_host(got), cuda.to_host(known))
        got = cuda.random_bernoulli(990, 0.3, 5, at, shape)
        np.testing.assert_array_equal(
            cuda.to_host(got), cpu.random_bernoulli(990, 0.3, 5, draw, shape)
        )
        got = cuda.random_rows(cuda.from_host(rows), 6, 5, at)
        np.testing.assert_array_equal(cuda.to_host(got), cpu.random_rows(rows, 6, 5, draw))
    for wrong in (there, cuda.from_host(np.array([3]))):
        with pytest.raises(DTypeError, match=r"must be uint64 \(1,\)"):
            cuda.random_bits(4, 5, wrong)


def test_a_generator_draws_on_either_backend():
    """The same numbers and states; a draw on the GPU takes one number as well."""
    here, there = Generator(2**63 + 9, "dropout"), Generator(2**63 + 9, "dropout")

    def both(name, *args, **options):
        expected = getattr(here, name)(*args, **options)
        got = getattr(there, name)(*args, **options, backend=cuda)
        np.testing.assert_array_equal(cuda.to_host(got), expected)
        assert here.get_state() == there.get_state()

    both("bits", 7)
    both("uniform", (2, 3))
    both("uniform", (3, 5), np.float64)
    both("bernoulli", 0.3, (4, 5))
    both("bernoulli", 0.3, (2, 5, 3, 3), channels_last=True)
    z = cuda.to_host(there.normal((4, 6), backend=cuda))
    np.testing.assert_allclose(z, here.normal((4, 6)), rtol=1e-6, atol=1e-7)
    rows = np.arange(3)
    got = there.keyed_bits(cuda.from_host(rows), 5, 3, 4, backend=cuda)
    np.testing.assert_array_equal(cuda.to_host(got), here.keyed_bits(rows, 5, 3, 4))
    assert there.key == 2**63 + 9 ^ STREAMS["dropout"]


@pytest.mark.parametrize("layout", ["C", "channels-last", "rows"])
@pytest.mark.parametrize("drop", [F.dropout, F.dropout2d])
def test_dropout_drops_the_same_on_both_devices(layout, drop):
    """Forward and backward, with the mask in x's memory order."""
    x = np.random.default_rng(0).normal(3, 1, (2, 5, 3, 6)).astype(np.float32)
    if layout == "channels-last":
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "rows":
        x = x[0]
    results = []
    for array in (x, cuda.from_host(x)):
        ml.manual_seed(4)
        leaf = ml.autograd.wrap(array, requires_grad=True)
        y = drop(leaf, 0.4)
        y.backward(ml.autograd.wrap(array))
        assert type(y.array) is type(array) and y.array.strides == array.strides
        results.append((y.array, leaf.grad.array))
    ml.manual_seed(0)
    for expected, got in zip(*results, strict=True):
        np.testing.assert_allclose(cuda.to_host(got), expected, rtol=1e-6)
        assert (expected == 0).any() and (expected != 0).any()
