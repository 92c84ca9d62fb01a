"""Linear, PReLU, and a table of vectors: Embedding."""

from typing import Any, Self

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn import init
from minidl.nn.fields import Layer, Switch
from minidl.nn.parameter import Parameter, new_parameter


class Linear(Layer, show="in_features={in_features}, out_features={out_features}, bias={bias}"):
    """y = x Wᵀ + b. weight (out, in) and bias (out,) start uniform in ±1/√in."""

    in_features: int
    out_features: int
    bias: Switch = True

    def _build(self, *where: Any) -> None:
        self.weight = new_parameter((self.out_features, self.in_features), *where)
        self.bias = new_parameter((self.out_features,), *where) if self.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.fan_in_uniform_(self.parameters(), self.weight.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) -> (…, out)."""
        return F.linear(x, self.weight, self.bias)


class Embedding(Layer, show="{num_embeddings}, {embedding_dim}…"):
    """Rows of a table by index, drawn from N(0, 1).

    The row padding_idx starts at zero and gets no gradient. sparse is taken for the sake of
    PyTorch's scripts: the gradient is a whole table all the same.
    """

    _keyword_only = ("sparse",)
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None = None
    sparse: bool = False

    def _build(self, *where: Any) -> None:
        n, i = self.num_embeddings, self.padding_idx
        ok = i is None or -n <= i < n
        require(ok, "Embedding", f"padding_idx must be a row of {n}", padding_idx=i)
        self.padding_idx = None if i is None else i % n
        self.weight = new_parameter((n, self.embedding_dim), *where)
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, **options: Any) -> Self:
        """A layer of the rows embeddings (V, D), which are not copied; freeze: nor trained."""
        rule = "embeddings must have 2 axes (V, D)"
        require(embeddings.ndim == 2, cls.__name__, rule, embeddings=embeddings)
        made = cls(*embeddings.shape, **options)
        made.weight = Parameter(embeddings, not freeze)
        return made

    def reset_parameters(self) -> None:
        init.normal_(self.weight)
        if self.padding_idx is not None:
            init.zeros_(self.weight.detach()[self.padding_idx])

    def forward(self, x: Tensor) -> Tensor:
        """x (…) integers -> (…, embedding_dim)."""
        return F.embedding(x, self.weight, self.padding_idx)


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
