"""Golden cases: reductions, order, shapes, indexing, linear algebra and creation."""

from golden.specs import c, case, f, i, lit, mask

TIES = [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]

REDUCTIONS = [
    *[case(f"ml.{name}(x)", x=f(2, 3, 4)) for name in "sum mean prod amax amin max min".split()],
    *[case(f"ml.{name}(x, 1)", x=f(2, 3, 4)) for name in "sum mean prod max min".split()],
    *[case(f"x.{name}(dim=-1, keepdim=True)", x=f(3, 4)) for name in "sum mean max min".split()],
    *[case(f"x.{name}((0, 2))", x=f(2, 3, 4)) for name in "sum mean amax amin".split()],
    *[case(f"x.{name}(dim=(-1, 0), keepdim=True)", x=f(2, 3, 4)) for name in "sum mean".split()],
    *[case(f"ml.{name}(x)", x=f(3, 4)) for name in "argmax argmin std var".split()],
    *[case(f"x.{name}(dim=1)", x=f(3, 4)) for name in "argmax argmin std var".split()],
    *[case(f"x.{name}(1, keepdim=True)", x=f(3, 4)) for name in "argmax argmin std var".split()],
    *[case(f"ml.{name}(x)", x=mask(3, 4)) for name in "all any sum".split()],
    *[case(f"x.{name}(dim=1)", x=mask(3, 4)) for name in "all any sum".split()],
    *[case(f"x.{name}()", x=i(9, 3, 4)) for name in "sum prod max min argmax all any".split()],
    case("x.all()", x=f(3)),
    case("x.sum(dtype=ml.float64)", x=c(3)),
    case("x.sum(dtype=ml.float32)", x=i(5, 3)),
    case("ml.sum(x)", x=f(0)),
    case("x.sum(0)", x=f(0, 3)),
    case("x.prod(1)", x=f(3, 0)),
    case("x.mean()", x=f()),
    case("x.sum(0)", x=f()),
    case("ml.prod(x)", x=lit([2.0, 0.0, 3.0], grad=True)),
    case("ml.prod(x)", x=lit([2.0, 0.0, 0.0], grad=True)),
    case("ml.prod(x, 1, keepdim=True)", x=lit([[2.0, 0.0], [3.0, 4.0]], grad=True)),
    case("ml.var(x, dim=(0, 2), correction=0)", x=f(2, 3, 4)),
    case("ml.var(x, 1, unbiased=False)", x=f(3, 4)),
    case("ml.std(x, dim=1, correction=2, keepdim=True)", x=f(3, 5)),
    case("ml.std(x, unbiased=False)", x=f(3, 4)),
    case("ml.var_mean(x, dim=1)", x=f(3, 4)),
    case("ml.amax(x)", x=lit(TIES, grad=True)),
    case("ml.amax(x, dim=1)", x=lit(TIES, grad=True)),
    case("ml.max(x, dim=1)", x=lit(TIES, grad=True)),
    case("ml.max(x)", x=lit(TIES, grad=True)),
    case("x.max(1).values + x.min(1)[0]", x=f(3, 4)),
    case("x.max(0, keepdim=True).indices", x=f(3, 4)),
    case("x.argmax(1)", x=lit(TIES)),
    case("ml.amax(x, dim=(0, 1), keepdim=True)", x=lit(TIES, grad=True)),
    case("ml.max(x)", x=lit([1.0, float("nan"), 3.0])),
    case("ml.logsumexp(x, 1)", x=f(3, 4)),
    case("ml.logsumexp(x, (0, 2), keepdim=True)", x=f(2, 3, 4)),
    case("x.logsumexp(-1)", x=lit([[1000.0, 1000.0], [-1000.0, 0.0]], grad=True)),
    case("ml.cumsum(x, 1)", x=f(3, 4)),
    case("x.cumsum(dim=0)", x=i(5, 4, 2)),
    case("x.cumsum(-1)", x=mask(6)),
    case("ml.sort(x)", x=f(3, 5)),
    case("ml.sort(x, dim=0, descending=True)", x=f(4, 3)),
    case("ml.sort(x, stable=True)", x=lit([2, 1, 2, 1, 0], "int64")),
    case("x.argsort(dim=1, descending=True)", x=f(3, 5)),
    case("ml.topk(x, 2)", x=f(3, 5)),
    case("x.topk(3, dim=0, largest=False)", x=f(5, 2)),
    case("x.topk(1, 0).values", x=f(5)),
    case("ml.count_nonzero(x)", x=lit([0, 3, 0, 1], "int64")),
    case("ml.norm(x)", x=f(3, 4)),
    case("x.norm(p=1, dim=1)", x=f(3, 4)),
    case("x.norm(p=3, dim=0, keepdim=True)", x=f(3, 4)),
    case("ml.nonzero(x)", x=lit([[0, 3], [2, 0]], "int64")),
]

SHAPES = [
    case("x.reshape(4, 3)", x=f(3, 4)),
    case("ml.reshape(x, (2, -1))", x=f(3, 4)),
    case("x.reshape(-1)", x=f(2, 3, 2)),
    case("x.view(2, 6)", x=f(3, 4)),
    case("x.t().reshape(2, 6)", x=f(3, 4)),
    case("x.view(3, 2, -1).transpose(0, 1)", x=f(3, 4)),
    case("x.permute(2, 0, 1)", x=f(2, 3, 4)),
    case("ml.permute(x, (1, 0, -1))", x=f(2, 3, 4)),
    case("x.transpose(-1, 0)", x=f(2, 3, 4)),
    case("x.t()", x=f(2, 3)),
    case("x.T", x=f(2, 3)),
    case("x.mT", x=f(2, 3, 4)),
    case("x.flatten()", x=f(2, 3, 4)),
    case("ml.flatten(x, 1)", x=f(2, 3, 4)),
    case("x.flatten(0, 1)", x=f(2, 3, 4)),
    case("x.flatten()", x=f()),
    case("x.squeeze()", x=f(1, 3, 1)),
    case("ml.squeeze(x, 0)", x=f(1, 3, 1)),
    case("x.squeeze((0, 2))", x=f(1, 3, 1)),
    case("x.squeeze(1)", x=f(1, 3, 1)),
    case("x.unsqueeze(-1)", x=f(2, 3)),
    case("ml.unsqueeze(x, 1)", x=f(2, 3)),
    case("x.expand(4, 3)", x=f(3)),
    case("x.expand(2, -1, 4)", x=f(3, 1)),
    case("ml.broadcast_to(x, (2, 3))", x=f(2, 1)),
    case("x.expand_as(y)", x=f(3, 1), y=c(2, 3, 4)),
    case("x.repeat(2, 3)", x=f(3)),
    case("x.repeat(2, 1, 2)", x=f(3, 2)),
    case("ml.repeat_interleave(x, 2, dim=0)", x=f(3, 2)),
    case("ml.flip(x, (0, 2))", x=f(2, 3, 4)),
    case("x.flip(-1)", x=f(2, 3)),
    case("ml.movedim(x, 0, -1)", x=f(2, 3, 4)),
    case("ml.cat([x, y], 1)", x=f(2, 3), y=f(2, 2)),
    case("ml.cat((x, y, x))", x=f(2, 3), y=f(1, 3)),
    case("ml.cat([x, y], dim=-1)", x=f(2, 0), y=f(2, 2)),
    case("ml.stack([x, y])", x=f(2, 3), y=f(2, 3)),
    case("ml.stack([x, y], dim=-1)", x=f(2, 3), y=f(2, 3)),
    case("ml.chunk(x, 3)", x=f(7, 2)),
    case("x.chunk(2, dim=1)", x=f(2, 6)),
    case("ml.split(x, 2)", x=f(5, 2)),
    case("x.split([1, 3], dim=1)", x=f(2, 4)),
    case("x.split(2, -1)[1] * x.split(2, -1)[0]", x=f(3, 4)),
    case("ml.unbind(x, 1)", x=f(2, 3)),
    case("x.narrow(1, 1, 2)", x=f(2, 4)),
    case("x.clone()", x=f(2, 3)),
    case("x.t().contiguous()", x=f(2, 3)),
    case("x.gather(1, k)", x=f(3, 4), k=i(4, 3, 2)),
    case("ml.gather(x, 0, k)", x=f(3, 4), k=i(3, 2, 4)),
    case("ml.gather(x, -1, k)", x=f(2, 3, 4), k=i(4, 2, 2, 5)),
    case("ml.scatter(x, 1, k, y)", x=f(3, 4), k=lit([[0, 2], [1, 3], [3, 0]], "int64"), y=f(3, 2)),
    case("x.scatter(0, k, 1.5)", x=f(3, 4), k=i(3, 1, 4)),
    case("x.scatter_add(1, k, y)", x=f(3, 4), k=i(4, 3, 5), y=f(3, 5)),
    case("ml.scatter_add(x, 0, k, y)", x=f(3, 4), k=i(3, 2, 4), y=f(2, 4)),
    case("ml.index_select(x, 1, k)", x=f(3, 4), k=lit([2, 0, 2], "int64")),
    case("x.index_select(0, k)", x=f(3, 4), k=lit([1], "int64")),
    case("ml.masked_select(x, m)", x=f(3, 4), m=mask(3, 4)),
    case("x.unfold(0, 3, 2)", x=f(7)),
    case("ml.meshgrid(x, y, indexing='ij')", x=f(2), y=f(3)),
    case("x.size(), x.size(1), x.numel(), x.dim(), len(x)", x=f(3, 4)),
    case("x.item()", x=f(1, 1)),
    case("x.tolist()", x=lit([[1, 2], [3, 4]], "int64")),
    case("[row * 2 for row in x]", x=f(2, 3)),
]

INDEX = [
    *[
        case(code, x=f(4, 5, 6))
        for code in ("x[1]", "x[-1, 2]", "x[1, 2, 3]", "x[1:3]", "x[::2, 1:]")
    ],
    *[case(code, x=f(4, 5, 6)) for code in ("x[..., 0]", "x[None, 1, ..., None]", "x[:, None]")],
    *[
        case(code, x=f(4, 5, 6))
        for code in ("x[[0, 2, 2]]", "x[..., [1, 1, 0]]", "x[2:2]", "x[()]")
    ],
    case("x[1:, 2] * x[:3, 2]", x=f(4, 5)),
    case("x[k]", x=f(4, 3), k=lit([3, 0, 3, -1], "int64")),
    case("x[k]", x=f(4, 3), k=i(4, 2, 2)),
    case("x[k, j]", x=f(4, 5), k=lit([0, 3, 0], "int64"), j=lit([1, 4, 1], "int64")),
    case("x[k, j]", x=f(4, 5), k=lit([[0], [3]], "int64"), j=lit([1, 4, 0], "int64")),
    case("x[:, k]", x=f(4, 5), k=lit([1, 1, 4], "int64")),
    case("x[k, :, j]", x=f(4, 5, 6), k=lit([1, 3], "int64"), j=lit([0, 2], "int64")),
    case("x[k, 1:3]", x=f(4, 5), k=lit([1, 3], "int64")),
    case("x[:, k, j]", x=f(4, 5, 6), k=lit([1, 3], "int64"), j=lit([0, 2], "int64")),
    case("x[k, None, 2]", x=f(4, 5, 6), k=lit([1, 3], "int64")),
    case("x[m]", x=f(4, 5), m=mask(4, 5)),
    case("x[m]", x=f(4, 5), m=lit([1, 0, 1, 0], "bool")),
    case("x[m, 1]", x=f(4, 5), m=lit([1, 0, 1, 0], "bool")),
    case("x[:, m]", x=f(4, 3), m=lit([1, 0, 1], "bool")),
    case("x[x > 0]", x=f(4, 5)),
    case("x[ml.arange(3), k]", x=f(3, 5), k=i(5, 3)),
]

LINEAR_ALGEBRA = [
    case("x @ y", x=f(3, 4), y=f(4, 5)),
    case("ml.matmul(x, y)", x=f(4), y=f(4)),
    case("ml.matmul(x, y)", x=f(4), y=f(4, 3)),
    case("ml.matmul(x, y)", x=f(3, 4), y=f(4)),
    case("ml.matmul(x, y)", x=f(2, 3, 4), y=f(4)),
    case("ml.matmul(x, y)", x=f(4), y=f(2, 4, 3)),
    case("ml.matmul(x, y)", x=f(2, 3, 4), y=f(4, 2)),
    case("ml.matmul(x, y)", x=f(3, 4), y=f(2, 4, 2)),
    case("ml.matmul(x, y)", x=f(2, 1, 3, 4), y=f(3, 4, 2)),
    case("x.t() @ y.mT", x=f(4, 3), y=f(5, 4)),
    case("ml.matmul(x, y)", x=i(5, 2, 3), y=i(5, 3, 2)),
    case("ml.matmul(x, y)", x=f(3, 0), y=f(0, 2)),
    case("ml.mm(x, y)", x=f(3, 4), y=f(4, 2)),
    case("ml.bmm(x, y)", x=f(2, 3, 4), y=f(2, 4, 5)),
    case("ml.mv(x, y)", x=f(3, 4), y=f(4)),
    case("ml.dot(x, y)", x=f(5), y=f(5)),
    case("ml.outer(x, y)", x=f(3), y=f(4)),
    case("ml.cdist(x, y)", x=f(3, 4), y=f(2, 4)),
    case("ml.cdist(x, y, 1.0, 'donot_use_mm_for_euclid_dist')", x=f(3, 4), y=f(2, 4)),
    *[
        case(f"ml.einsum('{text}', x, y)", x=f(2, 3, 4), y=f(*shape))
        for text, shape in [
            ("bij,bjk->bik", (2, 4, 3)),
            ("bij,jk", (4, 5)),
            ("bij,bij->", (2, 3, 4)),
            ("bij,bij->b", (2, 3, 4)),
            ("bij,b->ji", (2,)),
            ("...ij,...jk->...ik", (4, 2)),
            ("bij,kj->bik", (5, 4)),
            ("bij,k->kjib", (2,)),
        ]
    ],
    case("ml.einsum('ii->i', x)", x=f(4, 4)),
    case("ml.einsum('ii', x)", x=f(4, 4)),
    case("ml.einsum('ij->ji', x)", x=f(3, 4)),
    case("ml.einsum('i,j,k->kij', x, y, z)", x=f(2), y=f(3), z=f(4)),
    case(
        "ml.einsum('bhid,bhjd,bhjc->bhic', x, y, z)",
        x=f(1, 2, 3, 2),
        y=f(1, 2, 4, 2),
        z=f(1, 2, 4, 3),
    ),
    case("ml.diagonal(x)", x=f(3, 4)),
    case("x.diagonal(1, 0, 2)", x=f(3, 2, 4)),
    case("x.diagonal(offset=-1, dim1=-2, dim2=-1)", x=f(2, 3, 4)),
    case("ml.diag(x)", x=f(3)),
    case("ml.diag(x, -1)", x=f(3)),
    case("ml.diag(x, 1)", x=f(3, 4)),
    case("ml.diag_embed(x)", x=f(2, 3)),
    case("ml.tril(x)", x=f(2, 3, 4)),
    case("x.tril(-1)", x=f(3, 4)),
    case("ml.triu(x, diagonal=1)", x=f(4, 3)),
    case("ml.linalg.inv(x)", x=lit([[2.0, 0.5], [-1.0, 3.0]], grad=True)),
    case("ml.linalg.solve(x, y)", x=lit([[2.0, 0.5], [-1.0, 3.0]], grad=True), y=f(2, 3)),
    case("ml.linalg.det(x)", x=lit([[2.0, 0.5], [-1.0, 3.0]], grad=True)),
    case("ml.linalg.cholesky(x)", x=lit([[2.0, 0.5], [0.5, 3.0]], grad=True)),
    case("ml.linalg.cholesky(x, upper=True)", x=lit([[2.0, 0.5], [0.5, 3.0]], grad=True)),
    case("ml.linalg.norm(x)", x=f(3, 2)),
    case("ml.linalg.eigh(x)[0]", x=lit([[2.0, 0.5], [0.5, 3.0]], grad=True)),
    case("ml.linalg.svd(x, full_matrices=False)[1]", x=f(3, 2)),
]

CREATION = [
    case(code.strip())
    for code in """
    ml.arange(5)|ml.arange(1, 7, 2)|ml.arange(0, 1, 0.25)|ml.arange(5, 1, -2)|ml.arange(3.0)
    ml.arange(4, dtype=ml.float64)|ml.linspace(0, 1, 5)|ml.linspace(-1, 2, steps=4)
    ml.linspace(0, 1, 1)|ml.zeros(2, 3)|ml.zeros((2, 3))|ml.zeros(2, dtype=ml.int64)|ml.ones(3)
    ml.ones((2, 1), dtype=ml.float64)|ml.full((2, 2), 1.5)|ml.full((2,), 7)|ml.full((2,), True)
    ml.eye(3)|ml.eye(2, 4)|ml.zeros(0, 3)|ml.zeros(())|ml.tensor([[1, 2], [3, 4]])
    ml.tensor([1, 2.5])|ml.tensor(True)|ml.tensor(3)|ml.tensor([1.0], dtype=ml.float64)
    ml.tensor([])|ml.tensor([0, 2], dtype=ml.bool)|ml.zeros_like(ml.ones(2, 3))
    ml.ones_like(ml.arange(3))|ml.full_like(ml.ones(2), 3.5)|ml.empty(2, 3).shape
    ml.tensor([1.5, -1.5]).long()|ml.tensor([1.5, 0.0]).bool()|ml.tensor([300]).to(ml.uint8)
    ml.ones(2).double()|ml.tensor([1, 2]).float()|ml.tensor([1.7]).int()
    """.strip()
    .replace("\n", "|")
    .split("|")
]
CASES = REDUCTIONS + SHAPES + INDEX + LINEAR_ALGEBRA + CREATION
CASES += [case("ml.zeros_like(x)", x=c(2, 3)), case("ml.ones_like(x, dtype=ml.int64)", x=c(2))]
CASES += [case("x.double().float().to(ml.float64)", x=f(3))]
