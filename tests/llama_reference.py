"""A Llama in plain NumPy, float32 with a KV cache: the reference for minidl's values and speed.

It shares no code with minidl. Its file format is the one that llama2.c's README calls version 0.
"""

import struct

import numpy as np

PIECES = "embedding attention_norm q k v o mlp_norm gate down up norm".split()


def read(path):
    """The weights of a llama2.c file by name, stacked over the layers, with its sizes.

    Seven int32 come first; after them float32 weights to the end of the file: the PIECES, two
    tables of rotations that are computed here instead, and the classifier, if it is separate.
    """
    with open(path, "rb") as file:
        dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("<7i", file.read(28))
        numbers = np.frombuffer(file.read(), "<f4").copy()
    d = dim // heads
    shapes = {"embedding": (abs(vocab), dim), "norm": (dim,)}
    shapes["attention_norm"] = shapes["mlp_norm"] = (layers, dim)
    shapes["q"] = shapes["o"] = (layers, dim, dim)
    shapes["k"] = shapes["v"] = (layers, kv_heads * d, dim)
    shapes["gate"] = shapes["up"] = (layers, hidden, dim)
    shapes["down"] = (layers, dim, hidden)
    weights = {"heads": heads, "kv_heads": kv_heads, "length": length}
    for name in PIECES:
        size = int(np.prod(shapes[name]))
        weights[name], numbers = numbers[:size].reshape(shapes[name]), numbers[size:]
    tables, rest = length * d, weights["embedding"].size if vocab < 0 else 0
    assert numbers.size == tables + rest
    weights["head"] = numbers[tables:].reshape(-1, dim) if rest else weights["embedding"]
    angles = np.outer(np.arange(length), 10000.0 ** (-np.arange(0, d, 2) / d))
    weights["turns"] = np.exp(1j * angles).astype(np.complex64)  # (length, d / 2)
    return weights


def new_cache(weights):
    """Room for the keys and values of every layer, (2, layers, kv_heads, length, d)."""
    layers, narrow, _ = weights["k"].shape
    kv_heads = weights["kv_heads"]
    return np.zeros((2, layers, kv_heads, weights["length"], narrow // kv_heads), np.float32)


def normed(x, weight):
    """x (dim,) over its root mean square, times weight."""
    return x / np.sqrt(np.mean(x * x) + np.float32(1e-5)) * weight


def turned(x, turn):
    """x (heads, d): each pair (2i, 2i + 1) is a complex number, turned by turn (d / 2,)."""
    return (np.ascontiguousarray(x).view(np.complex64) * turn).view(np.float32)


def step(weights, cache, token, place):
    """Logits (vocab,) after `token` at `place`; its keys and values are put into the cache."""
    w, x, turn = weights, weights["embedding"][token], weights["turns"][place]
    kv_heads, d = w["kv_heads"], cache.shape[-1]
    for layer in range(len(w["q"])):
        keys, values = cache[:, layer]
        y = normed(x, w["attention_norm"][layer])
        q = turned((w["q"][layer] @ y).reshape(-1, d), turn).reshape(kv_heads, -1, d)
        keys[:, place] = turned((w["k"][layer] @ y).reshape(-1, d), turn)
        values[:, place] = (w["v"][layer] @ y).reshape(-1, d)
        scores = q @ keys[:, : place + 1].transpose(0, 2, 1) / np.float32(d**0.5)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + w["o"][layer] @ (shares @ values[:, : place + 1]).reshape(-1)
        y = normed(x, w["mlp_norm"][layer])
        gate = w["gate"][layer] @ y
        x = x + w["down"][layer] @ (gate / (1 + np.exp(-gate)) * (w["up"][layer] @ y))
    return w["head"] @ normed(x, w["norm"])


def all_logits(weights, tokens):
    """Logits (T, vocab) after each of the tokens."""
    cache = new_cache(weights)
    return np.stack([step(weights, cache, token, place) for place, token in enumerate(tokens)])


def generate(weights, tokens, n):
    """The n likeliest tokens that follow `tokens`, one after another."""
    cache, text = new_cache(weights), list(tokens)
    for place in range(len(tokens) + n - 1):
        logits = step(weights, cache, text[place], place)
        if place + 1 == len(text):
            text.append(int(logits.argmax()))
    return text[len(tokens) :]
