"""Training pictures on the GPU: moved, normalised, erased in one pass; blended (src/augment.cu).

What to do with each picture is drawn on the host and sent there in one array.
"""

import numpy as np

from minidl.backend.cuda.memory import cast, contiguous, empty_nchw, from_host, nhwc
from minidl.backend.cuda.runtime import THREADS, Array, empty, kernel, launch
from minidl.errors import require

_PICTURES = np.dtype([*((k, "i8") for k in "sample row column channel".split()),
                      *((k, "i4") for k in "h w c chunks head boxes".split())])  # fmt: skip
_BLEND = np.dtype([("partner", "i4"), ("unused", "i4"), ("share", "f4"), ("label", "f4"),
                   ("box", "i4", 4)])  # fmt: skip


def augment_pictures(x: Array, size: tuple[int, int], channels: np.ndarray, samples: np.ndarray,
                     dtype: np.dtype) -> Array:  # fmt: skip
    """x (N, C, H, W) moved, scaled, shifted and overwritten: (N, C, *size), channels-last.

    channels (3 + K, C): scale and shift of pixels; the value of what lies outside; of K boxes.
    samples (N, 2 + K, 4) of integers, for each picture: (top, left, step, 0), by which its element
    (i, j) is x's at (top + i, left + step j); the window of x that may be seen, and K boxes of the
    result, the last of which counts: first row and column, and those behind the last.
    """
    n, c = x.shape[:2]
    y = empty_nchw(n, c, *size, dtype=dtype)
    if not y.size:
        return y
    x = x if x.size else empty((n, c, 1, 1), x.dtype)  # no pixel is seen
    real = np.float64 if dtype == np.float64 else np.float32
    head = np.frombuffer(channels.astype(real).tobytes(), np.int32)
    head = np.pad(head, (0, -len(head) % 4))
    table = np.concatenate([head, samples.astype(np.int32).reshape(-1)])
    wide, chunks = _chunks(y)
    v = np.zeros(1, _PICTURES)
    v["sample"], v["channel"], v["row"], v["column"] = (s // x.itemsize for s in x.strides)
    v["h"], v["w"], v["c"], v["chunks"] = *size, c, chunks
    v["head"], v["boxes"] = len(head), samples.shape[1] - 2
    given = (x, nhwc(y), from_host(table), v.view(f"V{_PICTURES.itemsize}"))
    launch(kernel("augment.cu", "augment", x.dtype, y.dtype, wide), n * chunks, *given)
    return y


def blend_pictures(x: Array, partner: np.ndarray, share: np.ndarray, boxes: np.ndarray,
                   label: np.ndarray, labels: Array, classes: int,
                   dtype: np.dtype) -> tuple[Array, Array]:  # fmt: skip
    """Pictures x (N, C, H, W) and labels (N,) blended with those at `partner` (N,).

    A picture is x share + x[partner] (1 - share), in its box (N, 4: top, left, height, width) the
    partner; its label has `label` of its own class and the rest of its partner's. Gives pictures of
    dtype, channels-last, and soft labels (N, classes) float32.
    """
    n, c, h, w = x.shape
    y, soft = empty_nchw(n, c, h, w, dtype=dtype), empty((n, classes), np.float32)
    table = np.zeros(n, _BLEND)
    table["partner"], table["share"], table["label"] = partner, share, label
    table["box"] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    there = from_host(np.frombuffer(table.tobytes(), np.int32))
    if y.size:
        wide, chunks = _chunks(y)
        run = kernel("augment.cu", "blend", x.dtype, dtype, wide)
        launch(run, n * chunks, nhwc(x), nhwc(y), there, h, w, c, chunks)
    given = (contiguous(cast(labels, np.dtype(np.int64))), there, soft, classes, soft.size)
    launch(kernel("augment.cu", "blend_labels"), -(-soft.size // THREADS), *given)
    return y, soft


def _chunks(y: Array) -> tuple[int, int]:
    """Elements that a thread takes of pictures y (N, ...), and thread blocks a picture."""
    elements = y.size // len(y)
    require(elements < 2**31 - 1024, "augment", "a picture must have below 2**31 elements",
            pictures=y)  # fmt: skip
    wide = 1 if elements % 4 else 4
    return wide, -(-elements // (wide * THREADS))
