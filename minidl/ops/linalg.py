"""Matrix products and what is built from them: matmul, linear, einsum, outer."""

import math
from typing import Any

from minidl import backend
from minidl.autograd import op, raw
from minidl.errors import require
from minidl.ops import pointwise as pw
from minidl.ops.arguments import broadcast_shapes, check_same_dtype
from minidl.ops.autocasting import lowered
from minidl.ops.index import diagonal
from minidl.ops.reduce import sum_axes
from minidl.ops.shape import expand, permute_axes, reshape, squeeze, sum_to, transpose, unsqueeze
from minidl.tape import settled


@op(bilinear=True)
def product(x: Any, y: Any) -> Any:
    """x (…, M, K) @ y (…, K, N) -> (…, M, N), leading axes broadcast. Saves x and y."""
    sx, sy = x.shape, y.shape

    def vjp(g: Any, need: Any, x: Any, y: Any) -> Any:
        gx = sum_to(product(g, transpose(y, -1, -2)), shape=sx) if need[0] else None
        return gx, sum_to(product(transpose(x, -1, -2), g), shape=sy) if need[1] else None

    return backend.of(x).matmul(x, y), (x, y), vjp


def matmul(x: Any, y: Any) -> Any:
    """Matrix product with PyTorch's rules: vectors, matrices, broadcast batches."""
    x, y = lowered(x, y)
    require(x.ndim > 0 and y.ndim > 0, "matmul", "operands must have at least one axis", x=x, y=y)
    check_same_dtype("matmul", x=x, y=y)
    fits = x.shape[-1] == y.shape[-2 if y.ndim > 1 else 0]
    require(fits, "matmul", "x's last axis must match y's last but one", x=x, y=y)
    if y.ndim == 1:
        return squeeze(matmul(x, unsqueeze(y, 1)), -1)
    if x.ndim == 1:
        return squeeze(matmul(unsqueeze(x, 0), y), -2)
    if y.ndim == 2 and x.ndim > 2 and x.shape[-1]:  # one product instead of a batch of them
        return reshape(product(reshape(x, (-1, x.shape[-1])), y), (*x.shape[:-1], y.shape[-1]))
    broadcast_shapes(tuple(x.shape[:-2]), tuple(y.shape[:-2]), name="matmul")
    return product(x, y)


def mm(x: Any, y: Any) -> Any:
    """The product of two matrices."""
    require(x.ndim == y.ndim == 2, "mm", "needs two matrices", x=x, y=y)
    return matmul(x, y)


def bmm(x: Any, y: Any) -> Any:
    """Products of two batches of matrices (B, M, K), (B, K, N)."""
    fits = x.ndim == y.ndim == 3 and x.shape[0] == y.shape[0]
    require(fits, "bmm", "needs (B, M, K), (B, K, N)", x=x, y=y)
    return matmul(x, y)


def mv(x: Any, v: Any) -> Any:
    """A matrix times a vector."""
    require(x.ndim == 2 and v.ndim == 1, "mv", "needs a matrix and a vector", x=x, v=v)
    return matmul(x, v)


def dot(x: Any, y: Any) -> Any:
    """The sum of products of two vectors."""
    require(x.ndim == y.ndim == 1, "dot", "needs two vectors", x=x, y=y)
    return matmul(x, y)


def outer(x: Any, y: Any) -> Any:
    """All products of two vectors' elements (N, M)."""
    require(x.ndim == y.ndim == 1, "outer", "needs two vectors", x=x, y=y)
    return pw.mul(unsqueeze(x, 1), unsqueeze(y, 0))


@op(bilinear=True)
def affine(x: Any, w: Any, b: Any) -> Any:
    """x (…, K) times w (N, K) transposed, plus b (N,) or None -> (…, N). Saves x and w."""
    (n, k), given = w.shape, x.shape
    fits = given != () and given[-1] == k
    require(fits, "linear", "input's last axis must match weight's", input=x, weight=w)
    check_same_dtype("linear", input=x, weight=w, bias=b)
    require(b is None or b.shape == (n,), "linear", "bias must be (O,)", bias=b, weight=w)
    be = backend.of(x)

    def vjp(g: Any, need: Any, x: Any, w: Any) -> Any:
        own = be.matmul, be.reshape, be.sum
        times, shaped, total = own if raw(g) is g else (product, reshape, sum_axes)
        if len(given) != 2:
            rows = math.prod(given[:-1])
            g, x = shaped(g, (rows, n)), x if x is None else shaped(x, (rows, k))
        dx = times(g, w).reshape(given) if need[0] else None
        dw = times(g.T, x) if need[1] else None
        return dx, dw, total(g, axes=(0,)) if need[2] else None

    return be.linear(x, w, b), (x, w), vjp


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """input (…, I) @ weight (O, I)^T + bias (O,) -> (…, O)."""
    input, weight, bias = lowered(input, weight, bias)
    if weight.ndim == 2:
        return affine(input, weight, bias)
    require(weight.ndim == 1, "linear", "weight must be (O, I) or (I,)", weight=weight)
    y = squeeze(affine(input, unsqueeze(weight, 0), None), -1)
    return y if bias is None else pw.add(y, bias)


# ---- einsum --------------------------------------------------------------------------------------

Labels = list[str]  # of an operand's axes, in their order


def einsum(equation: str, *operands: Any) -> Any:
    """Sums of products in Einstein's notation, pairs from left to right as batched products."""
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    terms, result = _parse(equation, operands)
    x, labels = _trace(operands[0], terms[0])
    for k, (other, names) in enumerate(zip(operands[1:], terms[1:]), 1):
        y, second = _trace(other, names)
        x, labels = _contract(x, labels, y, second, set(result).union(*terms[k + 1 :]))
    x, labels = _summed(x, labels, {*result})
    y = permute_axes(x, axes=tuple(labels.index(a) for a in result))
    return settled(y) if len(operands) > 1 else y


def _parse(equation: str, operands: tuple) -> tuple[list[Labels], Labels]:
    """The labels of every operand and of the result; … becomes labels "0", "1", … from behind."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    fits, rule = len(texts) == len(operands), "needs one operand for every term"
    require(fits, "einsum", rule, equation=equation, operands=len(operands))
    extra, terms = 0, []
    for text, x in zip(texts, operands):
        n = x.ndim - len(text.replace("...", ""))
        require(n == 0 or ("..." in text and n > 0), "einsum", f"term {text!r} does not fit", x=x)
        extra = max(extra, n)
        terms.append(_labels(text, n))
    if not arrow:
        seen = [a for text in texts for a in text if a.isalpha()]
        right = "".join(["...", *sorted(a for a in set(seen) if seen.count(a) == 1)])
    result = _labels(right, extra)
    fits = {*result} <= {a for term in terms for a in term} and len({*result}) == len(result)
    rule = "every output label must be an input's and appear once"
    require(fits, "einsum", rule, equation=equation)
    return terms, result


def _labels(text: str, n: int) -> Labels:
    """The labels of a term whose … stands for n axes: labels "n-1", …, "0"."""
    head, dots, tail = text.partition("...")
    return [*head, *(str(n - 1 - i) for i in range(n if dots else 0)), *tail]


def _trace(x: Any, labels: Labels) -> tuple[Any, Labels]:
    """x with repeated labels replaced by their diagonal."""
    for a in sorted({*labels}):
        while labels.count(a) > 1:
            i = labels.index(a)
            j = labels.index(a, i + 1)
            require(x.shape[i] == x.shape[j], "einsum", f"sizes of {a!r} differ", x=x)
            x = diagonal(x, 0, i, j)
            labels = [b for k, b in enumerate(labels) if k not in (i, j)] + [a]
    return x, labels


def _summed(x: Any, labels: Labels, keep: set[str]) -> tuple[Any, Labels]:
    """x summed over the axes whose labels are not to keep."""
    axes = tuple(i for i, a in enumerate(labels) if a not in keep)
    return sum_axes(x, axes=axes) if axes else x, [a for a in labels if a in keep]


def _contract(x: Any, a: Labels, y: Any, b: Labels, wanted: set[str]) -> tuple[Any, Labels]:
    """One product of two operands: shared labels are batch (if wanted later) or summed."""
    x, a = _summed(x, a, wanted | {*b})
    y, b = _summed(y, b, wanted | {*a})
    size: dict[str, int] = {}
    for k, n in [*zip(a, x.shape), *zip(b, y.shape)]:
        fits = 1 in (n, size.get(k, 1)) or size[k] == n
        require(fits, "einsum", f"sizes of {k!r} differ", x=x, y=y)
        size[k] = n if size.get(k, 1) == 1 else size[k]
    batch, summed = ([k for k in a if k in b and (k in wanted) == w] for w in (True, False))
    left, right = [k for k in a if k not in b], [k for k in b if k not in a]

    def matrices(t: Any, labels: Labels, rows: Labels, columns: Labels) -> Any:
        order = [*batch, *rows, *columns]
        t = permute_axes(t, axes=tuple(labels.index(k) for k in order))
        full = tuple(size[k] if k in summed else n for k, n in zip(order, t.shape))
        t = t if full == tuple(t.shape) else expand(t, shape=full)
        sides = [math.prod(size[k] for k in group) for group in (rows, columns)]
        return reshape(t, (*t.shape[: len(batch)], *sides))

    z = matmul(matrices(x, a, left, summed), matrices(y, b, summed, right))
    return reshape(z, tuple(size[k] for k in batch + left + right)), batch + left + right
