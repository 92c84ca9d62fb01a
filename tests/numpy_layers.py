"""Layers of other frameworks in plain NumPy, and what tests of their weights share."""

import itertools
from unittest import mock

import numpy as np

import minidl as ml
from minidl.io import load_weights, weights
from minidl.io.foreign import nest

RNG = np.random.default_rng(6)


def normal(*shape):
    return RNG.normal(size=shape).astype("f4")


def load(flat, model, kind="Keras", config=None, **options):
    """load_weights from arrays by path, as if a file of that kind had held them."""
    tree = nest("drawn", flat) | ({} if config is None else {"model_config": config})
    return load_tree(tree, model, kind, **options)


def load_tree(tree, model, kind, **options):
    """load_weights from what a reader made of a file of that kind."""
    readers = {kind: (lambda path: True, lambda path: tree)}
    with mock.patch.dict(weights.READERS, readers, clear=True):
        return load_weights(__file__, model, **options)


def close(model, x, expected):
    """Assert that the model makes of x what is expected, to a rounding of the largest number."""
    with ml.no_grad():
        found = model.eval()(ml.tensor(x))
    found = (found[0] if isinstance(found, tuple) else found).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6 * np.abs(expected).max())


# ---- networks in NumPy, pictures (N, H, W, C) ----------------------------------------------------


def windows(x, size, stride, same):
    """What each place of a kernel (size, size) sees: {(i, j): (N, H', W', C)}."""
    pads = [(0, 0)] * 4
    for axis in (1, 2) if same else ():
        n = x.shape[axis]
        more = max((-(-n // stride) - 1) * stride + size - n, 0)
        pads[axis] = (more // 2, more - more // 2)
    x = np.pad(x, pads)
    h, w = ((n - size) // stride + 1 for n in x.shape[1:3])
    places = itertools.product(range(size), repeat=2)
    return {(i, j): x[:, i:, j:][:, ::stride, ::stride][:, :h, :w] for i, j in places}


def conv(x, kernel, bias=0, stride=1, same=True):
    """Kernel (H, W, I, O)."""
    seen = windows(x.astype("f8"), len(kernel), stride, same)
    return sum(part @ kernel[i, j] for (i, j), part in seen.items()) + bias


def depthwise(x, kernel, bias=0, stride=1):
    """Kernel (H, W, I, M); output channels i·M + m."""
    seen = windows(x.astype("f8"), len(kernel), stride, True)
    y = sum(part[..., None] * kernel[i, j] for (i, j), part in seen.items())
    return y.reshape(*y.shape[:3], -1) + bias


def norm(x, scale, shift, mean, var, eps):
    return (x - mean) / np.sqrt(var + eps) * scale + shift


def layer_norm(x, scale, bias, eps=1e-6):
    return norm(x, scale, bias, x.mean(-1, keepdims=True), x.var(-1, keepdims=True), eps)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))
