"""The table of cases: for every registered op, how to call it and on what.

A case is a function of float tensors; `draw(rng)` makes its float64 inputs. `test_ops.py` runs each
case through every property; an op that no case reaches fails the suite.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl as ml
import minidl.functional as F
from minidl.fusion import Pointwise
from minidl.ops import pointwise, recurrent
from minidl.ops.norm import batch_norm_with

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One way to call an op; linear: in all its inputs taken one by one."""

    name: str
    call: Callable[..., Any]
    draw: Callable[[np.random.Generator], list[np.ndarray]]
    linear: bool = False
    second: bool = True  # whether to check second derivatives
    stochastic: bool = False

    def __str__(self) -> str:
        return self.name


def normal(*shapes: Shape, scale: float = 1.0) -> Callable:
    """Standard normal inputs of the given shapes."""
    return lambda rng: [scale * rng.standard_normal(s) for s in shapes]


def spread(*shapes: Shape, low: float = -2.0, high: float = 2.0, gap: float = 0.0) -> Callable:
    """Uniform inputs, at least `gap` away from zero, all distinct (no ties at kinks)."""

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        out = []
        for s in shapes:
            x = rng.uniform(low, high, s)
            out.append(np.where(np.abs(x) < gap, np.sign(x + 1e-9) * gap + x, x))
        return out

    return draw


def distinct(*shapes: Shape) -> Callable:
    """Shuffled, well separated values: no ties for max, sort and friends."""

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.permutation(int(np.prod(s))).reshape(s) * 0.37 - 1.0 for s in shapes]

    return draw


def case(name: str, call: Callable, draw: Callable, **flags: Any) -> Case:
    """A case of the table."""
    return Case(name, call, draw, **flags)


X4 = (2, 3, 6, 5)
K = np.array([[2, 0], [1, 1], [0, 2]])

SHAPES = [
    case("reshape", lambda x: x.reshape(3, -1), normal((2, 3, 4)), linear=True),
    case("reshape_channels_last", lambda x: (x * 2).reshape(2, -1), normal(X4), linear=True),
    case("permute", lambda x: x.permute(2, 0, 1), normal((2, 3, 4)), linear=True),
    case("expand", lambda x: x.expand(4, 3, 5), normal((3, 1)), linear=True),
    case("sum_to", lambda x: ml.broadcast_to(x, (2, 3, 4)).sum(0), normal((3, 1)), linear=True),
    case("cat", lambda x, y: ml.cat([x, y], 1), normal((2, 3), (2, 4))),
    case("stack", lambda x, y: ml.stack([x, y], -1), normal((2, 3), (2, 3))),
    case("split", lambda x: x.split([1, 3], 1)[1], normal((2, 4)), linear=True),
    case("flip", lambda x: x.flip(0, 1), normal((2, 4)), linear=True),
    case("repeat", lambda x: x.repeat(2, 1, 3), normal((2, 3)), linear=True),
    case("pad", lambda x: F.pad(x, (1, 2, -1, 0)), normal((3, 4)), linear=True),
    case("pad_reflect", lambda x: F.pad(x, (2, 1), mode="reflect"), normal((1, 2, 5)), linear=True),
    case("clone", lambda x: x.clone(), normal((2, 3)), linear=True),
    case("contiguous", lambda x: x.T.contiguous(), normal((2, 3)), linear=True),
    case("cast", lambda x: x.to(ml.float64) * 1.0, normal((2, 3)), linear=True),
    case("index", lambda x: x[1:, [0, 2, 0]], normal((3, 4)), linear=True),
    case("index_mask", lambda x: x[np.eye(3, dtype=bool)], normal((3, 3)), linear=True),
    case("setitem", lambda x, v: _set(x, v), normal((3, 4), (4,))),
    case("gather", lambda x: x.gather(1, K), normal((3, 4)), linear=True),
    case("scatter_add", lambda x, s: x.scatter_add(1, K, s), normal((3, 4), (3, 2))),
    case("scatter", lambda x, s: x.scatter(1, K[:, :1], s), normal((3, 4), (3, 2))),
    case("diag_embed", lambda x: ml.diag_embed(x, 1), normal((2, 3)), linear=True),
    case("diagonal", lambda x: x.unfold(1, 3, 2).diagonal(-1, 0, 1), normal((4, 7)), linear=True),
    case("tril", lambda x: x.tril(), normal((3, 4)), linear=True),
    case("in_place_view", lambda x: _through_view(x), normal((3, 4))),
]


def _set(x: Any, v: Any) -> Any:
    y = x.clone()
    y[1] = v
    return y * y


def _through_view(x: Any) -> Any:
    y = x * 1.0
    row = y[1]
    row.mul_(3.0)
    return y * row


REDUCTIONS = [
    case("sum", lambda x: x.sum((0, 2), keepdim=True), normal((2, 3, 4)), linear=True),
    case("mean", lambda x: x.mean(-1), normal((2, 3, 4)), linear=True),
    case("var", lambda x: x.var(1), normal((2, 5))),
    case("std", lambda x: x.std((0, 1), unbiased=False), normal((2, 5))),
    case("prod", lambda x: x.prod(1), normal((2, 5))),
    case("amax", lambda x: x.amax(1), distinct((3, 5))),
    case("min_dim", lambda x: x.min(0).values, distinct((3, 5))),
    case("logsumexp", lambda x: x.logsumexp(1), normal((2, 5))),
    case("cumsum", lambda x: x.cumsum(1), normal((2, 5)), linear=True),
    case("sort", lambda x: x.sort(0, descending=True).values, distinct((5, 3))),
    case("topk", lambda x: x.topk(2, 1).values, distinct((3, 5))),
    case("norm", lambda x: x.norm(2, 1), normal((3, 4))),
]

PRODUCTS = [
    case("matmul", lambda x, y: x @ y, normal((2, 1, 3, 4), (3, 4, 2))),
    case("linear", lambda x, w, b: F.linear(x, w, b), normal((2, 5, 3), (4, 3), (4,))),
    case("linear_one_row", lambda x, w, b: F.linear(x, w, b), normal((1, 1, 3), (4, 3), (4,))),
    case("einsum", lambda x, y: ml.einsum("bij,bkj->bki", x, y), normal((2, 3, 4), (2, 5, 4))),
    case("cdist", lambda x, y: ml.cdist(x, y), normal((3, 4), (2, 4))),
]

CONVOLUTIONS = [
    case("conv2d", lambda x, w, b: F.conv2d(x, w, b, padding=1), normal(X4, (4, 3, 3, 3), (4,))),
    case(
        "conv2d_strided",
        lambda x, w: F.conv2d(x, w, stride=2, padding=(1, 0), dilation=(1, 2)),
        normal(X4, (4, 3, 3, 2)),
    ),
    case(
        "conv2d_groups",
        lambda x, w: F.conv2d(x, w, groups=2, padding="same"),
        normal((1, 4, 5, 4), (6, 2, 3, 2)),
    ),
    case(
        "conv2d_depthwise",
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1, groups=3),
        normal(X4, (3, 1, 3, 3), (3,)),
    ),
    case("conv2d_1x1", lambda x, w: F.conv2d(x, w), normal(X4, (4, 3, 1, 1))),
    case(
        "conv1d",
        lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1),
        normal((2, 3, 7), (4, 3, 3), (4,)),
    ),
    case(
        "conv_transpose2d",
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1),
        normal((2, 3, 4, 3), (3, 2, 3, 3), (2,)),
    ),
    case("unfold", lambda x: F.unfold(x, (2, 3), padding=1, stride=2), normal(X4), linear=True),
    case("fold", lambda x: F.fold(x, (4, 5), (2, 2)), normal((2, 8, 12)), linear=True),
    case("max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), distinct(X4)),
    case("avg_pool2d", lambda x: F.avg_pool2d(x, 2, ceil_mode=True), normal(X4), linear=True),
    case(
        "adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (4, 2)), normal(X4), linear=True
    ),
    case(
        "interpolate",
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        normal(X4),
        linear=True,
    ),
    case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), normal((2, 8, 3, 2)), linear=True),
]


def _vector(like: Any, value: float) -> Any:
    return ml.full_like(like.detach(), value)


NORMS = [
    case(
        "batch_norm",
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        normal(X4, (3,), (3,)),
    ),
    case(
        "batch_norm_relu",
        lambda x, w, b, r: batch_norm_with(r, "relu", x, None, None, w, b, True, 0.1, 1e-5),
        normal(X4, (3,), (3,), X4),
    ),
    case("batch_norm_2d", lambda x: F.batch_norm(x, None, None, training=True), normal((7, 3))),
    case(
        "batch_norm_eval",
        lambda x, w, b: F.batch_norm(x, _vector(w, 0.3), _vector(w, 2.0), w, b),
        normal(X4, (3,), (3,)),
    ),
    case("layer_norm", lambda x, w, b: F.layer_norm(x, (4,), w, b), normal((2, 3, 4), (4,), (4,))),
    case("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), normal((2, 4, 3, 3), (4,), (4,))),
    case("instance_norm", lambda x: F.instance_norm(x), normal(X4)),
    case("rms_norm", lambda x, w: F.rms_norm(x, (4,), w), normal((2, 3, 4), (4,))),
    case("normalize", lambda x: F.normalize(x, dim=1), normal((3, 4))),
]


def _labels(x: Any) -> Any:
    return ml.tensor([2, 0, 1, 2], device=x.device)


LOSSES = [
    case("softmax", lambda x: F.softmax(x, 1), normal((2, 5, 3))),
    case("log_softmax", lambda x: F.log_softmax(x, -1), normal((3, 5))),
    case(
        "cross_entropy",
        lambda x: F.cross_entropy(x, _labels(x), label_smoothing=0.1),
        normal((4, 3)),
    ),
    case("cross_entropy_plain", lambda x: F.cross_entropy(x, _labels(x)), normal((4, 3))),
    case(
        "cross_entropy_probabilities",
        lambda x, p: F.cross_entropy(x, p.softmax(1)),
        normal((4, 3), (4, 3)),
    ),
    case("nll_loss", lambda x: F.nll_loss(x, _labels(x)), normal((4, 3)), linear=True),
    case(
        "bce_logits",
        lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid()),
        normal((4,), (4,)),
    ),
    case("mse_loss", lambda x, y: F.mse_loss(x, y), normal((4,), (4,))),
    case("smooth_l1", lambda x, y: F.smooth_l1_loss(x, y), spread((6,), (6,))),
    case("huber", lambda x, y: F.huber_loss(x, y, delta=0.7), spread((6,), (6,))),
    case("kl_div", lambda x, y: F.kl_div(x, y.exp(), reduction="sum"), normal((4, 3), (4, 3))),
    case(
        "embedding",
        lambda w: F.embedding(ml.tensor([[1, 0], [2, 1]], device=w.device), w),
        normal((4, 3)),
        linear=True,
    ),
    case("bce", lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), normal((4,), (4,))),
    case("cube", lambda x: x**3, normal((4,))),
    case("power", lambda x: x.exp() ** 0.75, normal((4,))),
    case("masked_fill", lambda x: x.masked_fill(x.detach() > 0, 0.5), spread((4,))),
    case("cast", lambda x: x * (x.detach() > 0).to(x.dtype), spread((4,))),
    case("round", lambda x: x.round() + x, spread((4,))),
    case("div_trunc", lambda x: ml.div(x, 0.7, rounding_mode="trunc") + x, spread((4,))),
    case("dropout", lambda x: F.dropout(x, 0.4), normal((5, 6)), stochastic=True),
    case("prelu", lambda x, w: F.prelu(x, w), spread((2, 3, 4), (3,), gap=0.1)),
    case("glu", lambda x: F.glu(x, 1), normal((2, 6))),
    case("checkpoint", lambda x: ml.checkpoint(lambda t: (t * t).tanh(), x), normal((2, 3))),
]

T, B, I, H = 3, 2, 3, 4


def _weights(gates: int) -> tuple[Shape, ...]:
    return (gates * H, I), (gates * H, H), (gates * H,), (gates * H,)


RECURRENT = [
    case(
        "lstm",
        lambda x, h, c, *w: recurrent.lstm(x, h, c, *w, None)[0],
        normal((T, B, I), (B, H), (B, H), *_weights(4), scale=0.5),
    ),
    case(
        "lstm_state",
        lambda x, h, c, *w: recurrent.lstm(x, h, c, *w, None)[2],
        normal((T, B, I), (B, H), (B, H), *_weights(4), scale=0.5),
    ),
    case(
        "gru",
        lambda x, h, *w: recurrent.gru(x, h, *w)[0],
        normal((T, B, I), (B, H), *_weights(3), scale=0.5),
    ),
    case(
        "gru_of_a_table",
        lambda x, h, *w: recurrent.gru(
            x, h, *w, tokens=ml.tensor([[1, 0], [2, 1], [1, 4]], device=x.device)
        )[0],
        normal((5, I), (B, H), *_weights(3), scale=0.5),
    ),
    case(
        "rnn",
        lambda x, h, *w: recurrent.rnn(x, h, *w, nonlinearity="tanh")[0],
        normal((T, B, I), (B, H), *_weights(1), scale=0.5),
    ),
    case(
        "sdpa",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        normal((2, 5, 4), (2, 5, 4), (2, 5, 4)),
    ),
    case(
        "sdpa_mask",
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        normal((2, 5, 4), (2, 3, 4), (2, 3, 4), (5, 3)),
    ),
]

# Compositions, and the one op that calls what a user wrote.


class _Cube(ml.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x**3 * y, x - y

    @staticmethod
    def backward(ctx, g, h):
        x, y = ctx.saved_tensors
        return 3 * g * x**2 * y + h, g * x**3 - h


def _positive(x: Any) -> Any:
    return x @ x.mT + ml.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _signless(values: Any, vectors: Any) -> Any:
    """What does not depend on the vectors' signs."""
    return ml.cat((values.unsqueeze(-1), vectors**2, vectors @ vectors.mT), -1)


def _signless_svd(u: Any, s: Any, vh: Any) -> Any:
    weighted = u @ (s.unsqueeze(-1) ** 2 * vh)
    return ml.cat((weighted.flatten(), s.flatten(), (u**2).flatten(), (vh**2).flatten()))


WIDE = [
    case("custom_function", lambda x, y: _Cube.apply(x, y)[0] + 2, normal((3,), (3,))),
    case("cumprod", lambda x: ml.cumprod(x, 1), normal((2, 5))),
    case("median", lambda x: ml.median(x, 0).values, distinct((5, 3)), linear=False),
    case("roll", lambda x: ml.roll(x, (1, 2), (0, 1)), normal((3, 4)), linear=True),
    case("scatter_reduce", lambda x, y: x.scatter_reduce(
        0, ml.tensor([0, 0, 2], device=x.device), y, "prod"), normal((4,), (3,))),
    case("solution", lambda a, b: ml.linalg.solve(_positive(a), b), normal((2, 3, 3), (2, 3, 2))),
    case("inverse", lambda x: ml.linalg.inv(_positive(x)), normal((2, 3, 3))),
    case("determinant", ml.linalg.det, normal((2, 3, 3))),
    case("log_determinant", lambda x: ml.linalg.slogdet(x)[1], normal((2, 3, 3))),
    case("cholesky_factor", lambda x: ml.linalg.cholesky(_positive(x)), normal((2, 3, 3))),
    case("symmetric_eigen", lambda x: _signless(*ml.linalg.eigh(_positive(x))), normal((2, 3, 3))),
    case("singular_values", lambda x: _signless_svd(*ml.linalg.svd(x, False)), normal((2, 3, 4))),
    case("orthogonal_triangular", lambda x: ml.cat(ml.linalg.qr(x), -2), normal((2, 4, 3))),
    case("tensordot", lambda x, y: ml.tensordot(x, y, 1), normal((2, 3), (3, 4))),
    case("bilinear", F.bilinear, normal((4, 3), (4, 2), (5, 3, 2), (5,))),
    case("embedding_bag", lambda w: F.embedding_bag(
        ml.tensor(K, device=w.device), w, mode="max", padding_idx=1), distinct((3, 4))),
    case("conv3d", lambda x, w, b: F.conv3d(x, w, b, padding=(1, 0, 1), stride=(1, 1, 2)),
         normal((2, 2, 3, 4, 3), (3, 2, 2, 2, 2), (3,))),
    case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, (2, 3)), distinct((2, 1, 5, 4))),
    case("max_unpool2d", lambda x: F.max_unpool2d(
        *F.max_pool2d(x, 2, return_indices=True), 2), distinct((1, 2, 4, 6))),
    case("local_response_norm", lambda x: F.local_response_norm(x, 3, 0.5), normal((2, 4, 3))),
    case("grid_sample", lambda x, t: F.grid_sample(
        x, F.affine_grid(t, (2, 1, 3, 4)), padding_mode="reflection"),
        normal((2, 2, 5, 4), (2, 2, 3)), second=False),
    case("triplet_margin_loss", F.triplet_margin_loss, normal((4, 3), (4, 3), (4, 3))),
    case("gaussian_nll_loss", lambda x, y, v: F.gaussian_nll_loss(x, y, v.exp()),
         normal((4, 3), (4, 3), (4, 1))),
    case("ctc_loss", lambda x: F.ctc_loss(
        x.log_softmax(-1), ml.tensor([[1, 1], [2, 3]]), (5, 4), (2, 1)), normal((5, 2, 4))),
]  # fmt: skip

# Elementwise ops: where they are smooth. Binary ones get a broadcast second operand.
_POSITIVE = {"low": 0.3, "high": 2.5}
_UNIT = {"low": -0.9, "high": 0.9, "gap": 0.05}
_DOMAINS = {
    **dict.fromkeys("log log2 log10 sqrt rsqrt log1p reciprocal pow".split(), _POSITIVE),
    **dict.fromkeys("asin acos atan atanh".split(), _UNIT),
    "logit": {"low": 0.1, "high": 0.9}, "acosh": {"low": 1.2, "high": 3.0},
    "tan": {"low": -1.2, "high": 1.2},
}  # fmt: skip


def _mask(x: Any) -> Any:
    return ml.tensor([True, False, True], device=x.device)


_ARGUMENTS = {
    "clamp": lambda x: ml.clamp(x, -1.05, 1.15),
    "where": lambda x, y: ml.where(_mask(x), x, y),
    "masked_fill": lambda x: x.masked_fill(_mask(x), 0.5),
    "lerp": lambda x, y, w: ml.lerp(x, y, w),
    "addcmul": lambda x, y, z: ml.addcmul(x, y, z, value=0.5),
    "threshold": lambda x: F.threshold(x, 0.31, 0.2),
}
# Ops without a gradient, and the NumPy function that each must equal.
_TRUTHS = "logical_and logical_or logical_not isnan isinf isfinite isclose".split()
FLAT = {
    "eq": np.equal, "ne": np.not_equal, "gt": np.greater, "ge": np.greater_equal, "lt": np.less,
    "le": np.less_equal, **{name: getattr(np, name) for name in _TRUTHS},
}  # fmt: skip


def _elementwise() -> list[Case]:
    out = []
    for name, op in sorted(vars(pointwise).items()):
        if not isinstance(op, Pointwise) or name.startswith("_") or name in FLAT:
            continue
        call = _ARGUMENTS.get(name, op)
        takes = inspect.signature(call) if name in _ARGUMENTS else op.signature
        count = sum(p.default is p.empty for p in takes.parameters.values())
        shapes = [(4, 3), (3,), (4, 1)][:count]
        domain = {"gap": 0.12, **_DOMAINS.get(name, {})}
        out.append(case(name, call, spread(*shapes, **domain)))
    return out


CASES = [
    *SHAPES, *REDUCTIONS, *PRODUCTS, *CONVOLUTIONS, *NORMS, *LOSSES, *RECURRENT, *WIDE,
    *_elementwise(),
]  # fmt: skip
