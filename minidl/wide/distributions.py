"""`minidl.distributions`: random variables with draws, densities, entropies and divergences.

Names, arguments and formulas are those of `torch.distributions`. Parameters are tensors or numbers
and are broadcast; draws follow `manual_seed`. Where there is an `rsample`, gradients go through its
draws to the parameters (Kingma & Welling 2014).
"""

import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, no_grad
from minidl.errors import require
from minidl.ops import creation, pointwise
from minidl.ops.softmax import log_softmax
from minidl.wide import linalg
from minidl.wide.features import gumbel
from minidl.wide.names import broadcast_tensors

Shape = tuple[int, ...]
_LOG_TAU = math.log(2 * math.pi)


class Distribution:
    """A random variable of each place of `batch_shape`, with values of `event_shape`.

    A subclass gives `log_prob` and `rsample` or `sample`, and what it knows of the rest.
    """

    batch_shape: Shape = ()
    event_shape: Shape = ()
    has_rsample = True
    mean: Any
    variance: Any
    _kl: Any = None  # its divergence from another of its kind

    def _hold(self, positive: str = "", **params: Any) -> None:
        """Keep parameters, broadcast together; those that are `positive` must be."""
        like = next((v for v in params.values() if isinstance(v, Tensor)), None)
        how = {} if like is None else {"dtype": like.dtype, "device": like.device}
        given = [v if isinstance(v, Tensor) else creation.tensor(float(v), **how)
                 for v in params.values()]  # fmt: skip
        self._names = tuple(params)
        for name, value in zip(params, broadcast_tensors(*given), strict=True):
            setattr(self, name, value)
            self.batch_shape = value.shape
            ok = name not in positive.split() or _all(value, lambda v: v > 0)
            require(ok, type(self).__name__, f"{name} must be positive", **{name: params[name]})

    def _shape(self, sample_shape: Any) -> Shape:
        return (*sample_shape, *self.batch_shape, *self.event_shape)

    def _noise(self, draw: Callable, sample_shape: Any, like: Tensor) -> Tensor:
        return draw(self._shape(sample_shape), dtype=like.dtype, device=like.device)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *batch_shape, *event_shape) that have no gradient."""
        with no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws through which gradients reach the parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no rsample")

    def log_prob(self, value: Any) -> Tensor:
        """The logarithm of the probability, or of its density, at a value."""
        raise NotImplementedError(f"{type(self).__name__} has no log_prob")

    def entropy(self) -> Tensor:
        """The expected -log_prob, (*batch_shape,)."""
        raise NotImplementedError(f"{type(self).__name__} has no entropy")

    @property
    def stddev(self) -> Tensor:
        """The square root of the variance."""
        return self.variance.sqrt()

    def __repr__(self) -> str:
        pairs = ((name, getattr(self, name)) for name in self._names)
        shown = [f"{n}: {v.item() if v.numel() == 1 else tuple(v.shape)}" for n, v in pairs]
        return f"{type(self).__name__}({', '.join(shown)})"


def _all(x: Tensor, holds: Callable[[Tensor], Any]) -> bool:
    """Whether something holds everywhere; of what is on a GPU, or recorded, nothing is read."""
    be = backend.of(x.array)
    return be is not backend.cpu or be.recording() or bool(holds(x.detach()).all())


# ---- real numbers --------------------------------------------------------------------------------


class Normal(Distribution):
    """Normal with mean loc and standard deviation scale."""

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self._hold("scale", loc=loc, scale=scale)

    mean = property(lambda self: self.loc)
    variance = property(lambda self: self.scale**2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.scale * self._noise(creation.randn, sample_shape, self.loc)

    def log_prob(self, value: Any) -> Tensor:
        return -0.5 * ((value - self.loc) / self.scale) ** 2 - self.scale.log() - 0.5 * _LOG_TAU

    def entropy(self) -> Tensor:
        return self.scale.log() + 0.5 * (1 + _LOG_TAU)

    def cdf(self, value: Any) -> Tensor:
        """The probability of less than a value."""
        return 0.5 * (1 + pointwise.erf((value - self.loc) / (self.scale * math.sqrt(2))))

    def _kl(self, q: Self) -> Tensor:
        ratio, apart = (self.scale / q.scale) ** 2, ((self.loc - q.loc) / q.scale) ** 2
        return 0.5 * (ratio + apart - 1 - ratio.log())


class Uniform(Distribution):
    """Uniform in [low, high)."""

    low: Tensor
    high: Tensor

    def __init__(self, low: Any, high: Any, validate_args: bool | None = None) -> None:
        self._hold(low=low, high=high)
        fits = _all(self.high - self.low, lambda v: v > 0)
        require(fits, "Uniform", "high must be above low", low=low, high=high)

    mean = property(lambda self: (self.low + self.high) / 2)
    variance = property(lambda self: (self.high - self.low) ** 2 / 12)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = self._noise(creation.rand, sample_shape, self.low)
        return self.low + u * (self.high - self.low)

    def log_prob(self, value: Any) -> Tensor:
        inside = (value >= self.low) & (value < self.high)
        return pointwise.where(inside, 0.0, -math.inf) - self.entropy()

    def entropy(self) -> Tensor:
        return (self.high - self.low).log()

    def _kl(self, q: Self) -> Tensor:
        inside = (q.low <= self.low) & (self.high <= q.high)
        return pointwise.where(inside, ((q.high - q.low) / (self.high - self.low)).log(), math.inf)


class MultivariateNormal(Distribution):
    """Normal vectors (…, N) with mean loc and a covariance, its inverse, or its Cholesky factor."""

    def __init__(self, loc: Tensor, covariance_matrix: Any = None, precision_matrix: Any = None,
                 scale_tril: Any = None, validate_args: bool | None = None) -> None:  # fmt: skip
        given = (covariance_matrix, precision_matrix, scale_tril)
        rule = "give one of covariance_matrix, precision_matrix and scale_tril"
        require(sum(g is not None for g in given) == 1, "MultivariateNormal", rule)
        if precision_matrix is not None:
            covariance_matrix = linalg.inv(precision_matrix)
        factor = linalg.cholesky(covariance_matrix) if scale_tril is None else scale_tril
        n = factor.shape[-1]
        fits = loc.shape[-1:] == (n,)
        require(fits, "MultivariateNormal", "loc must be (…, N)", loc=loc, matrix=factor)
        vector, _ = broadcast_tensors(loc, factor[..., 0])
        self.loc, self.scale_tril = vector, factor.expand(*vector.shape[:-1], n, n)
        self.batch_shape, self.event_shape = vector.shape[:-1], (n,)
        self._names = ("loc", "scale_tril")

    mean = property(lambda self: self.loc)
    covariance_matrix = property(lambda self: self.scale_tril @ self.scale_tril.mT)
    precision_matrix = property(lambda self: linalg.inv(self.covariance_matrix))
    variance = property(lambda self: (self.scale_tril**2).sum(-1))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = self._noise(creation.randn, sample_shape, self.loc)
        return self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)

    def _half_log_det(self) -> Tensor:
        return self.scale_tril.diagonal(0, -2, -1).log().sum(-1)

    def log_prob(self, value: Any) -> Tensor:
        apart = linalg.solve(self.scale_tril, (value - self.loc).unsqueeze(-1)).squeeze(-1)
        return -0.5 * (self.event_shape[0] * _LOG_TAU + (apart**2).sum(-1)) - self._half_log_det()

    def entropy(self) -> Tensor:
        return 0.5 * self.event_shape[0] * (1 + _LOG_TAU) + self._half_log_det()

    def _kl(self, q: Self) -> Tensor:
        both = linalg.solve(q.scale_tril, self.scale_tril)
        apart = linalg.solve(q.scale_tril, (q.loc - self.loc).unsqueeze(-1))
        squares = (both**2).sum((-2, -1)) + (apart**2).sum((-2, -1)) - self.event_shape[0]
        return q._half_log_det() - self._half_log_det() + 0.5 * squares


# ---- choices -------------------------------------------------------------------------------------


class _Choice(Distribution):
    """What is told by probabilities or by logits, and drawn without a gradient."""

    has_rsample = False

    def _given(self, probs: Any, logits: Any) -> Tensor:
        """What was given of the two, in float32 at least."""
        name, rule = type(self).__name__, "give either probs or logits"
        require((probs is None) != (logits is None), name, rule, probs=probs, logits=logits)
        self._names = ("probs",) if logits is None else ("logits",)
        given = probs if logits is None else logits
        given = given if isinstance(given, Tensor) else creation.tensor(given, dtype=np.float32)
        given = given if given.dtype == np.float64 else given.float()
        ok = logits is not None or _all(given, lambda v: v >= 0)
        require(ok, name, "probs must not be negative", probs=probs)
        return given


class Bernoulli(_Choice):
    """1 with probability probs, or 1 / (1 + exp(-logits)), else 0."""

    def __init__(
        self, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        given = self._given(probs, logits)
        if logits is None:
            fits = _all(given, lambda v: v <= 1)
            require(fits, "Bernoulli", "probs must not be above 1", probs=probs)
            eps = float(np.finfo(given.dtype).eps)
            self.probs, self.logits = given, pointwise.logit(given, eps)
        else:
            self.probs, self.logits = given.sigmoid(), given
        self.batch_shape = given.shape

    mean = property(lambda self: self.probs)
    variance = property(lambda self: self.probs * (1 - self.probs))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with no_grad():
            u = self._noise(creation.rand, sample_shape, self.probs)
            return (u < self.probs).to(u.dtype)

    def log_prob(self, value: Any) -> Tensor:
        return value * self.logits - pointwise.softplus(self.logits)

    def entropy(self) -> Tensor:
        return pointwise.softplus(self.logits) - self.probs * self.logits

    def _kl(self, q: Self) -> Tensor:
        off = pointwise.softplus(q.logits) - pointwise.softplus(self.logits)
        return self.probs * (self.logits - q.logits) + off


class Categorical(_Choice):
    """The index of one of K classes: probs (…, K), which need not sum to 1, or logits (…, K)."""

    def __init__(
        self, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        given = self._given(probs, logits)
        require(given.ndim > 0, "Categorical", "needs at least one axis, of classes", given=given)
        if logits is None:
            eps = float(np.finfo(given.dtype).eps)
            self.probs = given / given.sum(-1, True)
            self.logits = self.probs.clamp(eps, 1 - eps).log()
        else:
            self.logits = log_softmax(given, -1)
            self.probs = self.logits.exp()
        self.batch_shape = given.shape[:-1]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Indices (*sample_shape, *batch_shape), by the largest of logits and Gumbel noise."""
        with no_grad():
            logits, shape = self.probs.log(), (*self._shape(sample_shape), self.probs.shape[-1])
            return (logits + gumbel(shape, logits)).argmax(-1)

    def log_prob(self, value: Any) -> Tensor:
        value, logits = broadcast_tensors(value.long().unsqueeze(-1), self.logits)
        return logits.gather(-1, value[..., :1]).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits.clamp(min=float(np.finfo(self.logits.dtype).min))).sum(-1)

    def _kl(self, q: Self) -> Tensor:
        each = self.probs * (self.logits - q.logits)
        each = pointwise.where((q.probs == 0) & (self.probs != 0), math.inf, each)
        return pointwise.where(self.probs == 0, 0.0, each).sum(-1)


class Independent(Distribution):
    """A distribution whose last batch axes, so many, count as one event."""

    def __init__(self, base_distribution: Distribution, reinterpreted_batch_ndims: int,
                 validate_args: bool | None = None) -> None:  # fmt: skip
        base, n = base_distribution, reinterpreted_batch_ndims
        rule = f"the distribution has {len(base.batch_shape)} batch axes"
        require(0 <= n <= len(base.batch_shape), "Independent", rule, reinterpreted_batch_ndims=n)
        self.base_dist, self.reinterpreted_batch_ndims = base, n
        cut = len(base.batch_shape) - n
        self.batch_shape = base.batch_shape[:cut]
        self.event_shape = base.batch_shape[cut:] + base.event_shape
        self.has_rsample = base.has_rsample

    mean = property(lambda self: self.base_dist.mean)
    variance = property(lambda self: self.base_dist.variance)

    def _joint(self, each: Tensor) -> Tensor:
        n = self.reinterpreted_batch_ndims
        return each.sum([*range(-n, 0)]) if n else each

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.base_dist.rsample(sample_shape)

    def log_prob(self, value: Any) -> Tensor:
        return self._joint(self.base_dist.log_prob(value))

    def entropy(self) -> Tensor:
        return self._joint(self.base_dist.entropy())

    def _kl(self, q: Self) -> Tensor:
        same = self.reinterpreted_batch_ndims == q.reinterpreted_batch_ndims
        require(same, "kl_divergence", "both must have as many axes in an event", p=self, q=q)
        return self._joint(kl_divergence(self.base_dist, q.base_dist))

    def __repr__(self) -> str:
        return f"Independent({self.base_dist}, {self.reinterpreted_batch_ndims})"


# ---- two of them ---------------------------------------------------------------------------------


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """The expectation under p of log p - log q, for two of one kind: (*batch_shape,)."""
    known = type(p) is type(q) and getattr(p, "_kl", None) is not None
    rule = "is known for two distributions of one kind"
    require(known, "kl_divergence", rule, error=NotImplementedError, p=p, q=q)
    return p._kl(q)
