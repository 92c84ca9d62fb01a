"""Definitions in NumPy and float64 that the workloads are checked against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def conv(x: Array, w: Array, g: Array, stride: int, pad: int) -> tuple[Array, Array, Array]:
    """x (N, C, H, W), w (K, C, R, S), cotangent g (N, K, P, Q) -> y, dx, dw; a product a tap."""
    n, c, h, width = x.shape
    k, _, r, s = w.shape
    p, q = (h + 2 * pad - r) // stride + 1, (width + 2 * pad - s) // stride + 1
    padded = np.pad(x.transpose(1, 0, 2, 3).astype(np.float64), ((0, 0), (0, 0), *[(pad, pad)] * 2))
    rows, weight = g.transpose(1, 0, 2, 3).reshape(k, -1).astype(np.float64), w.astype(np.float64)
    y, dx, dw = np.zeros((k, n * p * q)), np.zeros_like(padded), np.zeros(w.shape)
    for i in range(r):
        for j in range(s):
            at = (..., slice(i, i + (p - 1) * stride + 1, stride),
                  slice(j, j + (q - 1) * stride + 1, stride))  # fmt: skip
            patch = padded[at].reshape(c, -1)
            y += weight[:, :, i, j] @ patch
            dw[:, :, i, j] = rows @ patch.T
            dx[at] += (weight[:, :, i, j].T @ rows).reshape(c, n, p, q)
    dx = dx[:, :, pad : pad + h, pad : pad + width]
    return y.reshape(k, n, p, q).transpose(1, 0, 2, 3), dx.transpose(1, 0, 2, 3), dw


def depthwise(x: Array, w: Array, g: Array) -> tuple[Array, Array, Array]:
    """x (N, C, H, W), w (C, R, R), cotangent g, all of one size -> y, dx, dw."""
    h, width, r = *x.shape[2:], w.shape[-1]
    pad = r // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    y, dx, dw = np.zeros(x.shape), np.zeros_like(padded), np.zeros(w.shape)
    for i in range(r):
        for j in range(r):
            at, tap = (..., slice(i, i + h), slice(j, j + width)), w[:, i, j, None, None]
            y += padded[at] * tap
            dx[at] += g * tap
            dw[:, i, j] = (padded[at] * g).sum((0, 2, 3))
    return y, dx[:, :, pad : pad + h, pad : pad + width], dw


def normalize(
    x: Array, w: Array, b: Array, g: Array, axes: tuple[int, ...], relu: bool
) -> dict[str, Array]:
    """x normalised over axes, scaled by w and shifted by b (which broadcast), perhaps relu.

    g: cotangent. Returns y and the gradients x, weight, bias.
    """
    x, g = x.astype(np.float64), g.astype(np.float64)
    inverse = 1 / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    unit = (x - x.mean(axes, keepdims=True)) * inverse
    y = unit * w + b
    if relu:
        g, y = g * (y > 0), np.maximum(y, 0)
    scaled, others = g * w, tuple(i for i in range(x.ndim) if w.shape[i] == 1)
    mean, along = scaled.mean(axes, keepdims=True), (scaled * unit).mean(axes, keepdims=True)
    sums = {"weight": (g * unit).sum(others), "bias": g.sum(others)}
    return {"y": y, "x": inverse * (scaled - mean - unit * along), **sums}


def max_pool(x: Array, g: Array) -> tuple[Array, Array]:
    """2x2 windows of x (N, C, H, W), cotangent g -> y, dx (to the first of equal ones)."""
    n, c, h, w = x.shape
    windows = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5)
    flat = windows.reshape(n, c, h // 2, w // 2, 4)
    chosen = np.eye(4)[flat.argmax(-1)] * g[..., None]
    dx = chosen.reshape(*flat.shape[:4], 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)
    return flat.max(-1), dx


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def lstm(x: Array, weights: Sequence[Array]) -> tuple[Array, ...]:
    """One layer from zero states: x (T, B, I), weights (ih, hh, bias ih, bias hh).

    Returns all h and c (T + 1, B, H) and all gates i, f, g, o (T, B, 4 H).
    """
    w_ih, w_hh, b_ih, b_hh = (w.astype(np.float64) for w in weights)
    (steps, batch, _), size = x.shape, w_hh.shape[1]
    h, c = np.zeros((2, steps + 1, batch, size))
    gates = x.astype(np.float64) @ w_ih.T + b_ih + b_hh
    for t in range(steps):
        gates[t] += h[t] @ w_hh.T
        cell = np.tanh(gates[t, :, 2 * size : 3 * size])
        gates[t] = sigmoid(gates[t])
        gates[t, :, 2 * size : 3 * size] = cell
        i, f, a, o = np.split(gates[t], 4, 1)
        c[t + 1] = f * c[t] + i * a
        h[t + 1] = o * np.tanh(c[t + 1])
    return h, c, gates


def lstm_grads(
    x: Array, weights: Sequence[Array], g: Array, h: Array, c: Array, gates: Array
) -> tuple[Array, list[Array]]:
    """The gradients of x and the weights for a cotangent g (T, B, H) and what `lstm` returned."""
    w_ih, w_hh = (w.astype(np.float64) for w in weights[:2])
    dz, dh, dc = np.empty_like(gates), 0 * h[0], 0 * c[0]
    for t in reversed(range(len(g))):
        (i, f, a, o), bent = np.split(gates[t], 4, 1), np.tanh(c[t + 1])
        dh = dh + g[t]
        dc = dc + dh * o * (1 - bent * bent)
        parts = (dc * a * i * (1 - i), dc * c[t] * f * (1 - f), dc * i * (1 - a * a),
                 dh * bent * o * (1 - o))  # fmt: skip
        dz[t] = np.concatenate(parts, 1)
        dh, dc = dz[t] @ w_hh, dc * f
    rows = dz.reshape(-1, dz.shape[-1])
    before = h[:-1].reshape(len(rows), -1)
    bias = rows.sum(0)
    return dz @ w_ih, [rows.T @ x.reshape(len(rows), -1), rows.T @ before, bias, bias]


def attention(q: Array, k: Array, v: Array, g: Array) -> dict[str, Array]:
    """Causal attention of (B, H, T, D), cotangent g -> y and the gradients q, k, v."""
    q, k, v, g = (a.astype(np.float64) for a in (q, k, v, g))
    scale, steps = q.shape[-1] ** -0.5, q.shape[-2]
    scores = np.where(np.tri(steps, dtype=bool), q @ k.swapaxes(-1, -2) * scale, -np.inf)
    p = softmax(scores)
    dp = g @ v.swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * scale
    return {"y": p @ v, "q": ds @ k, "k": ds.swapaxes(-1, -2) @ q, "v": p.swapaxes(-1, -2) @ g}


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def erf(x: Array) -> Array:
    """Abramowitz & Stegun 7.1.26; its error of 1.5e-7 is below two roundings of float32."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    return np.sign(x) * (1 - sum(a * t ** (i + 1) for i, a in enumerate(series)) * np.exp(-x * x))


def gelu(x: Array) -> tuple[Array, Array]:
    """x Φ(x) and its derivative."""
    phi = 0.5 * (1 + erf(x / np.sqrt(2)))
    return x * phi, phi + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


def resnet50(state: dict[str, Array], x: Array) -> Array:
    """torchvision's ResNet-50 in eval mode: x (N, 3, H, W) -> features (N, 2048)."""

    def unit(x: Array, conv: str, norm: str, stride: int = 1) -> Array:
        w = state[f"{conv}.weight"].astype(np.float64)
        r, n = w.shape[-1], len(x)
        padded = np.pad(x, ((0, 0), (0, 0), *[(r // 2, r // 2)] * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (r, r), (2, 3))
        windows = windows[:, :, ::stride, ::stride].transpose(1, 4, 5, 0, 2, 3)
        y = w.reshape(len(w), -1) @ windows.reshape(w[0].size, -1)
        y = y.reshape(len(w), n, *windows.shape[-2:]).transpose(1, 0, 2, 3)
        mean, var, scale, shift = (
            state[f"{norm}.{key}"].astype(np.float64)[:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / np.sqrt(var + 1e-5) * scale + shift

    x = np.maximum(unit(x.astype(np.float64), "conv1", "bn1", 2), 0)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    x = windows[:, :, ::2, ::2].max((-1, -2))
    for layer, blocks in enumerate((3, 4, 6, 3)):
        for i in range(blocks):
            at, stride = f"layer{layer + 1}.{i}.", 2 if layer and not i else 1
            y = np.maximum(unit(x, at + "conv1", at + "bn1"), 0)
            y = np.maximum(unit(y, at + "conv2", at + "bn2", stride), 0)
            y = unit(y, at + "conv3", at + "bn3")
            down = at + "downsample."
            x = np.maximum(y + (x if i else unit(x, down + "0", down + "1", stride)), 0)
    return x.mean((2, 3))
