"""Matrix products and what is built from them: matmul, linear, einsum, outer, cdist."""

from __future__ import annotations

from typing import Any

from minidl import backend
from minidl.autograd import op
from minidl.errors import require
from minidl.ops import pointwise as pw
from minidl.ops.index import diagonal
from minidl.ops.reduce import sum as sum_over
from minidl.ops.reduce import sum_axes
from minidl.ops.shape import (
    check_same_dtype,
    permute_axes,
    reshape,
    sum_to,
    transpose,
    unsqueeze,
)  # fmt: skip


@op
def product(x: Any, y: Any) -> Any:
    """x (…, M, K) @ y (…, K, N) -> (…, M, N), leading axes broadcast. Saves x and y."""
    sx, sy = x.shape, y.shape

    def vjp(g: Any, need: Any, x: Any, y: Any) -> Any:
        gx = sum_to(product(g, transpose(y, -1, -2)), shape=sx) if need[0] else None
        gy = sum_to(product(transpose(x, -1, -2), g), shape=sy) if need[1] else None
        return gx, gy

    return backend.of(x).matmul(x, y), (x, y), vjp


def matmul(x: Any, y: Any) -> Any:
    """Matrix product with PyTorch's rules: vectors, matrices, broadcast batches."""
    require(x.ndim > 0 and y.ndim > 0, "matmul", "operands must have at least one axis", x=x, y=y)
    check_same_dtype("matmul", x=x, y=y)
    require(
        x.shape[-1] == y.shape[-2 if y.ndim > 1 else 0], "matmul",
        "x's last axis must match y's last but one", x=x, y=y,
    )  # fmt: skip
    if x.ndim == 1 and y.ndim == 1:
        if x.dtype.kind in "iu":  # a sum would widen them
            return reshape(product(unsqueeze(x, 0), unsqueeze(y, 1)), ())
        return sum_over(pw.mul(x, y))
    if x.ndim == 1:
        z = matmul(unsqueeze(x, 0), y)
        return reshape(z, (*z.shape[:-2], z.shape[-1]))
    if y.ndim == 1:
        z = matmul(x, unsqueeze(y, 1))
        return reshape(z, tuple(z.shape[:-1]))
    lead_x, lead_y = tuple(x.shape[:-2]), tuple(y.shape[:-2])
    if y.ndim == 2 and x.ndim > 2:  # one product instead of a batch of them
        z = product(reshape(x, (-1, x.shape[-1])), y) if x.shape[-1] else product(x, y)
        return reshape(z, (*lead_x, x.shape[-2], y.shape[-1]))
    from_shapes = [a == b or 1 in (a, b) for a, b in zip(lead_x[::-1], lead_y[::-1])]
    require(all(from_shapes), "matmul", "leading axes must broadcast", x=x, y=y)
    return product(x, y)


def mm(x: Any, y: Any) -> Any:
    """The product of two matrices."""
    require(x.ndim == y.ndim == 2, "mm", "needs two matrices", x=x, y=y)
    return matmul(x, y)


def bmm(x: Any, y: Any) -> Any:
    """Products of two batches of matrices (B, M, K), (B, K, N)."""
    require(x.ndim == y.ndim == 3 and x.shape[0] == y.shape[0], "bmm", "needs (B, M, K), (B, K, N)",
            x=x, y=y)  # fmt: skip
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


def addmm(c: Any, x: Any, y: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta·c + alpha·x @ y."""
    return pw.add(pw.mul(c, beta), pw.mul(mm(x, y), alpha))


def baddbmm(c: Any, x: Any, y: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta·c + alpha·bmm(x, y)."""
    return pw.add(pw.mul(c, beta), pw.mul(bmm(x, y), alpha))


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """input (…, I) @ weight (O, I)^T + bias (O,) -> (…, O)."""
    require(
        weight.ndim in (1, 2) and input.ndim > 0 and input.shape[-1] == weight.shape[-1], "linear",
        "input's last axis must match weight's", input=input, weight=weight,
    )  # fmt: skip
    check_same_dtype("linear", input=input, weight=weight, bias=bias)
    y = matmul(input, transpose(weight, 0, 1) if weight.ndim == 2 else weight)
    if bias is None:
        return y
    require(tuple(bias.shape) == tuple(weight.shape[:-1]), "linear", "bias must be (O,)", bias=bias,
            weight=weight)  # fmt: skip
    return pw.add(y, bias)


def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """y[o] = input1^T weight[o] input2 + bias[o]."""
    y = einsum("...i,oij,...j->...o", input1, weight, input2)
    return y if bias is None else pw.add(y, bias)


def tensordot(x: Any, y: Any, dims: Any = 2) -> Any:
    """Sum over the last dims axes of x and the first of y, or over the axes listed."""
    if isinstance(dims, int):
        a, b = list(range(x.ndim - dims, x.ndim)), list(range(dims))
    else:
        a, b = ([d % t.ndim for d in ([k] if isinstance(k, int) else k)]
                for k, t in zip(dims, (x, y)))  # fmt: skip
    left = [i for i in range(x.ndim) if i not in a]
    right = [i for i in range(y.ndim) if i not in b]
    shape = [x.shape[i] for i in left] + [y.shape[i] for i in right]
    n = 1
    for i in a:
        n *= x.shape[i]
    xs = reshape(permute_axes(x, axes=tuple(left + a)), (-1, n))
    ys = reshape(permute_axes(y, axes=tuple(b + right)), (n, -1))
    return reshape(matmul(xs, ys), tuple(shape))


def cdist(x1: Any, x2: Any, p: float = 2.0) -> Any:
    """Distances between the rows of x1 (…, N, D) and x2 (…, M, D) -> (…, N, M)."""
    from minidl.ops.reduce import norm

    return norm(pw.sub(unsqueeze(x1, -2), unsqueeze(x2, -3)), p, -1)


# ---- einsum --------------------------------------------------------------------------------------


def einsum(equation: str, *operands: Any) -> Any:
    """Sums of products in Einstein's notation, pairs from left to right as batched products."""
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    terms, result = _parse(equation, operands)
    x, labels = _trace(operands[0], terms[0])
    for k, (other, names) in enumerate(zip(operands[1:], terms[1:]), 1):
        y, second = _trace(other, names)
        wanted = set(result).union(*terms[k + 1 :])
        x, labels = _contract(x, labels, y, second, wanted)
    axes = tuple(i for i, a in enumerate(labels) if a not in result)
    x = sum_axes(x, axes=axes) if axes else x
    labels = [a for a in labels if a in result]
    return permute_axes(x, axes=tuple(labels.index(a) for a in result))


def _parse(equation: str, operands: tuple) -> tuple[list[list[str]], list[str]]:
    """The labels of every operand and of the result; … becomes labels "0", "1", … from behind."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    require(len(texts) == len(operands), "einsum", "needs one operand for every term",
            equation=equation, operands=len(operands))  # fmt: skip
    extra, terms = 0, []
    for text, x in zip(texts, operands):
        n = x.ndim - len(text.replace("...", ""))
        require(n == 0 or ("..." in text and n > 0), "einsum", f"term {text!r} does not fit", x=x)
        extra = max(extra, n)
        head, dots, tail = text.partition("...")
        terms.append([*head, *(str(n - 1 - i) for i in range(n if dots else 0)), *tail])
    dotted = [str(extra - 1 - i) for i in range(extra)]
    if arrow:
        head, dots, tail = right.partition("...")
        result = [*head, *(dotted if dots else []), *tail]
    else:
        seen = [a for term in terms for a in term if a.isalpha()]
        result = dotted + sorted(a for a in set(seen) if seen.count(a) == 1)
    known = {a for term in terms for a in term}
    require(
        set(result) <= known and len(set(result)) == len(result), "einsum",
        "every output label must be an input's and appear once", equation=equation,
    )  # fmt: skip
    return terms, result


def _trace(x: Any, labels: list[str]) -> tuple[Any, list[str]]:
    """x with repeated labels replaced by their diagonal."""
    labels = list(labels)
    for a in sorted(set(labels)):
        while labels.count(a) > 1:
            i = labels.index(a)
            j = labels.index(a, i + 1)
            x = diagonal(x, 0, i, j)
            labels = [b for k, b in enumerate(labels) if k not in (i, j)] + [a]
    return x, labels


def _contract(x: Any, a: list[str], y: Any, b: list[str], wanted: set) -> tuple[Any, list[str]]:
    """One product of two operands: shared labels are batch (if wanted later) or summed."""
    for t, labels, other in ((x, a, b), (y, b, a)):
        gone = tuple(i for i, k in enumerate(labels) if k not in other and k not in wanted)
        if gone:
            kept = [k for i, k in enumerate(labels) if i not in gone]
            if t is x:
                x, a = sum_axes(x, axes=gone), kept
            else:
                y, b = sum_axes(y, axes=gone), kept
    size = dict(zip(b, y.shape))
    for k, n in zip(a, x.shape):
        require(size.get(k, n) in (1, n) or n == 1, "einsum", f"sizes of {k!r} differ", x=x, y=y)
        size[k] = max(size.get(k, n), n)
    shared = [k for k in a if k in b]
    batch = [k for k in shared if k in wanted]
    summed = [k for k in shared if k not in wanted]
    left, right = [k for k in a if k not in b], [k for k in b if k not in a]

    def arranged(t: Any, labels: list[str], groups: tuple) -> Any:
        order = tuple(labels.index(k) for group in groups for k in group)
        t = permute_axes(t, axes=order)
        full = tuple(size[k] if k in summed else t.shape[i]
                     for i, k in enumerate(k for g in groups for k in g))  # fmt: skip
        if full != tuple(t.shape):
            from minidl.ops.shape import broadcast_to

            t = broadcast_to(t, full)
        lead = tuple(t.shape[: len(batch)])
        sizes = []
        at = len(batch)
        for group in groups[1:]:
            n = 1
            for k in range(at, at + len(group)):
                n *= t.shape[k]
            sizes.append(n)
            at += len(group)
        return reshape(t, (*lead, *sizes))

    z = matmul(arranged(x, a, (batch, left, summed)), arranged(y, b, (batch, summed, right)))
    shape = tuple(z.shape[: len(batch)]) + tuple(size[k] for k in left + right)
    return reshape(z, shape), batch + left + right
