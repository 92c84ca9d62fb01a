"""Wide statistics: sums without NaN, quantiles, covariances, histograms, integrals."""

import math
from collections import namedtuple
from typing import Any

from minidl.errors import require, require_one_of
from minidl.ops import creation, pointwise
from minidl.ops.arguments import axis_of, length_of
from minidl.ops.reduce import Values
from minidl.wide.names import diff

Extremes = namedtuple("Extremes", ["min", "max"])


def nansum(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Sum of what is not NaN."""
    return pointwise.where(x.isnan(), 0, x).sum(dim, keepdim)


def nanmean(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Mean of what is not NaN."""
    return nansum(x, dim, keepdim) / (x == x).sum(dim, keepdim)


def kthvalue(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th smallest value (from 1) along dim, and its index."""
    n = (x.shape or (1,))[axis_of(dim, x.ndim, "kthvalue")]
    require(1 <= k <= n, "kthvalue", f"k must lie in [1, {n}]", k=k)
    found = [y.narrow(dim, k - 1, 1) if x.ndim else y for y in x.sort(dim)]
    return Values(*(y if keepdim else y.squeeze(dim) for y in found))


def mode(x: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """The most frequent value along dim (of several the least), and the index of its last place."""
    i = axis_of(dim, x.ndim, "mode")
    if not x.ndim:
        return Values(x, x.argmax())
    values, order = (y.movedim(i, -1) for y in x.sort(i))
    count = (values.unsqueeze(-1) == values.unsqueeze(-2)).sum(-1)
    last = count.argmax(-1, keepdim=True)
    last = last + count.gather(-1, last) - 1  # the end of the run
    found = [y.gather(-1, last).movedim(-1, i) for y in (values, order)]
    return Values(*(y if keepdim else y.squeeze(i) for y in found))


def quantile(x: Any, q: Any, dim: int | None = None, keepdim: bool = False, *,
             interpolation: str = "linear") -> Any:  # fmt: skip
    """The q-quantiles (of one q, or of a vector: these come first).

    Between two neighbours by interpolation: linear, lower, higher, midpoint or nearest.
    """
    shares = {"linear": lambda s: s, "lower": lambda s: s * 0, "nearest": lambda s: s.round(),
              "higher": lambda s: s.ceil(), "midpoint": lambda s: s.ceil() / 2}  # fmt: skip
    require_one_of("quantile", shares, interpolation=interpolation)
    if dim is None or x.ndim == 0:
        y = quantile(x.reshape(-1), q, 0, interpolation=interpolation)
        return y.reshape(y.shape + (1,) * x.ndim) if keepdim else y
    axis, levels = axis_of(dim, x.ndim, "quantile"), creation.as_tensor(q, x.dtype, x.device)
    require(x.shape[axis] > 0, "quantile", "cannot reduce an axis of size 0", x=x, dim=dim)
    values, last = x.sort(axis).values.movedim(axis, 0), x.shape[axis] - 1
    at = levels.reshape((-1,) + (1,) * (x.ndim - 1)) * last
    low, high = (values[k.reshape(-1).long()] for k in (at.floor(), at.ceil()))
    y = low + (high - low) * shares[interpolation](at - at.floor())
    y = pointwise.where(values[last].isnan(), math.nan, y)
    y = y.unsqueeze(axis + 1) if keepdim else y
    return y if levels.ndim else y.squeeze(0)


def trapezoid(y: Any, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    """The integral of y along dim by trapezoids, at places x or dx apart."""
    n = length_of(dim, y, "trapezoid")[1] - 1
    sums = y.narrow(dim, 0, n) + y.narrow(dim, 1, n)
    return (sums * (dx if x is None else diff(x, dim=dim if x.ndim > 1 else -1)) / 2).sum(dim)


def cov(x: Any, *, correction: int = 1) -> Any:
    """Covariances (D, D) of D variables in the rows of x (D, N); of one, (N,), its variance."""
    x = x.reshape(-1, x.shape[-1]) * 1.0
    apart = x - x.mean(-1, keepdim=True)
    return (apart @ apart.T / (x.shape[-1] - correction)).squeeze()


def corrcoef(x: Any) -> Any:
    """Correlations (D, D) of D variables in the rows of x (D, N)."""
    found = cov(x)
    scale = (found.diagonal() if found.ndim else found).sqrt()
    return (found / scale / scale.unsqueeze(-1)).clamp(-1, 1).reshape(found.shape)


def aminmax(x: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(smallest, largest)."""
    return Extremes(x.amin(dim, keepdim), x.amax(dim, keepdim))


def histc(x: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """How many elements lie in each of equal bins from min to max (equal: those of x's values)."""
    low, high = (x.amin().item(), x.amax().item()) if min == max and x.numel() else (min, max)
    low, high = (low - 1, high + 1) if low == high else (low, high)
    x = x.reshape(-1)
    counts = creation.zeros(bins, dtype=x.dtype, device=x.device)
    place = ((x - low) * (bins / (high - low))).clamp(0, bins - 1).long()
    return counts.scatter_add(0, place, ((x >= low) & (x <= high)).to(x.dtype))
