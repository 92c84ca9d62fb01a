"""Linear, LazyLinear, Bilinear, PReLU, and tables of vectors: Embedding, EmbeddingBag."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn import init
from minidl.nn.fields import Layer, Switch
from minidl.nn.parameter import assign, new_parameter


class _Affine(Layer):
    """weight (out, *in) and bias (out,), uniform in ±1/√(the first in)."""

    def _build(self, *where: Any) -> None:
        sizes = tuple(getattr(self, n) for n in self._fields if n.endswith("_features"))
        self.weight = new_parameter((sizes[-1], *sizes[:-1]), *where)
        self.bias: Any = new_parameter(sizes[-1:], *where) if self.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.fan_in_uniform_(self.parameters(), self.weight.shape[1])


class Linear(_Affine, show="in_features={in_features}, out_features={out_features}, bias={bias}"):
    """y = x Wᵀ + b. weight (out, in) and bias (out,) start uniform in ±1/√in."""

    in_features: int
    out_features: int
    bias: Switch = True

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) -> (…, out)."""
        return F.linear(x, self.weight, self.bias)


class LazyLinear(Linear):
    """A Linear that takes in_features from its first input (or from loaded state)."""

    def __init__(
        self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(0, out_features, bias, device, dtype)  # type: ignore[call-arg]

    def _materialise(self, in_features: int) -> None:
        """Become a Linear; the parameters stay the same objects, so optimizers keep them."""
        self.in_features, old = in_features, self.weight
        assign(old, new_parameter((self.out_features, in_features), old.device, old.dtype))
        self.__class__ = Linear  # type: ignore[assignment]
        self.reset_parameters()

    def _before_load(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if len(shapes.get("weight", ())) == 2:
            self._materialise(shapes["weight"][1])

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) -> (…, out)."""
        self._materialise(x.shape[-1])
        return self.forward(x)


class Bilinear(
    _Affine,
    show="in1_features={in1_features}, in2_features={in2_features}, "
    "out_features={out_features}, bias={bias}",
):
    """y_k = aᵀ W_k b + bias_k; weight (out, in1, in2), uniform in ±1/√in1 at first."""

    in1_features: int
    in2_features: int
    out_features: int
    bias: Switch = True

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a (…, in1), b (…, in2) -> (…, out)."""
        return F.bilinear(a, b, self.weight, self.bias)


class _Table(Layer):
    """Rows drawn from N(0, 1); the row padding_idx starts at zero and gets no gradient."""

    def _build(self, *where: Any) -> None:
        n, i = self.num_embeddings, self.padding_idx
        ok = i is None or -n <= i < n
        require(ok, type(self).__name__, f"padding_idx must be a row of {n}", padding_idx=i)
        self.padding_idx: Any = None if i is None else i % n
        self.weight = new_parameter((n, self.embedding_dim), *where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.weight)
        if self.padding_idx is not None:
            init.zeros_(self.weight.detach()[self.padding_idx])


class Embedding(_Table, show="{num_embeddings}, {embedding_dim}…"):
    """Rows of a table by index."""

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (…) integers -> (…, embedding_dim)."""
        return F.embedding(x, self.weight, self.padding_idx)


class EmbeddingBag(_Table, show="{num_embeddings}, {embedding_dim}, mode={mode!r}"):
    """The mean, sum or max of the rows of each bag of indices."""

    padding_idx = None
    num_embeddings: int
    embedding_dim: int
    mode: str = "mean"

    def forward(self, x: Tensor) -> Tensor:
        """x (bags, n) integers -> (bags, embedding_dim)."""
        return F.embedding_bag(x, self.weight, mode=self.mode)


class PReLU(Layer, show="num_parameters={num_parameters}"):
    """`F.prelu` with a slope, one for all or one a channel (axis 1), that is learnt."""

    num_parameters: int = 1
    init: float = 0.25

    def _build(self, *where: Any) -> None:
        self.weight = new_parameter((self.num_parameters,), *where)
        init.constant_(self.weight, self.init)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, …) -> the same shape."""
        return F.prelu(x, self.weight)
