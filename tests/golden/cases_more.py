"""Golden cases: second names, NumPy's keywords, writes in place, short functions, lazy layers."""

from golden.specs import c, case, f, i, lit, mask, pos

GAPS = lit([[1.0, float("nan"), -2.0], [0.5, 3.0, float("nan")]])
STEPS = lit([-2.0, -1.0, -1.0, 0.5, 2.0])

KEYWORDS = [
    case("x.sum(axis=0), x.sum(axis=(0, 1), keepdims=True), x.mean(axis=-1)", x=f(3, 4)),
    case("ml.sum(x, axis=1), ml.cumsum(x, axis=0), ml.softmax(x, axis=1)", x=f(3, 4)),
    case("ml.cat((x, x), axis=1), ml.stack((x, x), axis=-1)", x=f(3, 4)),
    case("x.argmax(axis=1), x.std(axis=0, keepdims=True), ml.amax(x, axis=1)", x=f(3, 4)),
    case("tuple(x.max(axis=1)), tuple(x.sort(axis=0))", x=f(3, 4)),
    case("x.unsqueeze(dim=0), x.flip(dims=(0,)), x.logsumexp(axis=1, keepdims=True)", x=f(3, 4)),
    case(
        "ml.permute(x, dims=(1, 0)), ml.reshape(x, shape=(4, 3)), ml.tile(x, dims=(2, 1))",
        x=f(3, 4),
    ),
    case("ml.zeros(size=(2, 3)), ml.ones(size=(1,)), ml.full(size=(2,), fill_value=3.0)"),
    case("x.type(ml.float64), x.type(ml.int64)", x=f(3)),
    case("ml.Tensor([[1, 2], [3, 4]]), ml.FloatTensor([1, 2]), ml.LongTensor([[1], [2]])"),
    case("ml.Tensor((2, 3)), ml.DoubleTensor([1.5]), ml.BoolTensor([1, 0]), ml.IntTensor([3])"),
    case(
        "ml.Tensor(2, 3).shape == (2, 3), ml.LongTensor(4).shape == (4,), ml.Tensor().shape == (0,)"
    ),
]

SECOND = [
    case("x.multiply(y), ml.divide(x, y), ml.subtract(x, y, alpha=2), x.true_divide(y)",
         x=f(2, 3), y=pos(3)),
    case("ml.negative(x), ml.absolute(x), ml.clip(x, -1, 1), x.clip(min=0), ml.fix(x)", x=f(5)),
    case("x.greater(y), ml.less_equal(x, y), ml.not_equal(x, y)", x=f(5), y=f(5)),
    case("ml.arctan(x), ml.arctan2(x, y), ml.ger(x, y), ml.vdot(x, y)", x=f(3), y=pos(3)),
    case("ml.swapaxes(x, 0, 1), x.swapdims(0, -1), ml.moveaxis(x, 0, 2), x.ravel()", x=f(2, 3, 4)),
    case("ml.concat((x, x)), ml.concatenate((x, x), 1), ml.row_stack((x, x))", x=f(2, 3)),
    case("ml.argwhere(x > 0)", x=c(3, 4)),
    case("ml.bitwise_and(x, y), x.bitwise_or(3), ml.bitwise_xor(x, y), ~x, ml.bitwise_not(x)",
         x=i(9, 4), y=i(9, 4)),
    case("ml.bitwise_and(x, y), ml.logical_xor(x, y), x.logical_xor(y)", x=mask(6), y=mask(6)),
]  # fmt: skip

IN_PLACE = [
    *[
        case(f"z = x * 1\nr = z.{call}\nz, r is z", x=f(3, 4), y=f(3, 4), s=f(2, 4),
             k=i(3, 2, 4), m=mask(3, 4), p=lit([0, 2], "int64"), q=pos(3, 4))
        for call in (
            "scatter_(0, k, 1.5)", "scatter_(0, k, s * 2)", "scatter_add_(0, k, s)",
            "index_fill_(0, p, 2.0)", "index_add_(0, p, s, alpha=2)", "index_put_((p,), s)",
            "tril_()", "triu_(1)", "cumsum_(1)", "cumprod_(0)", "lerp_(y, 0.3)",
            "addcmul_(x, y, value=2)", "addcdiv_(y, q, value=-1)", "clamp_min_(0.5)",
            "clamp_max_(0.5)", "clip_(-1, 1)", "expm1_()", "erf_()", "sign_()", "multiply_(y)",
            "subtract_(y)", "fill_diagonal_(2.0)", "divide_(q)", "masked_fill_(m, 3.0)",
        )
    ],
    case("z = ml.zeros(3, 4)\nz.scatter_(1, k.unsqueeze(1), 1)\nz", k=i(4, 3)),
    case("x.logical_not_(), x", x=mask(5)),
    case("z = x * 1\nr = z.unsqueeze_(0)\nz.squeeze_().t_()\nz * 1, r is z, z.transpose_(0, 1)",
         x=f(3, 4)),
    case("z = x * 1\nv = z[1]\nv.unsqueeze_(0).mul_(y)\nz, v", x=f(3, 4), y=f(4)),
]  # fmt: skip

FUNCTIONS = [
    case("x.exp2(), y.log10(), ml.arcsinh(x)", x=f(5), y=pos(5)),
    case("ml.clamp_min(x, 0.5), x.clamp_max(0.5), ml.addcdiv(x, x, y, value=2)", x=f(5), y=pos(5)),
    case("ml.where(x > 0), ml.where(m), ml.where(m, x, 0.0), x.where(m, x * 2)", x=c(3, 4),
         m=mask(3, 4)),
    case("ml.isin(x, y), ml.isin(x, y, invert=True)", x=i(5, 2, 3), y=i(5, 2)),
    case("ml.nansum(x), ml.nansum(x, 1), x.nanmean(), ml.nanmean(x, 0, keepdim=True)", x=GAPS),
    case("ml.diff(x), ml.diff(x, 2, 0), x.diff(dim=0), ml.diff(x, 5)", x=f(3, 4)),
    case("ml.diff(x)", x=mask(6)),
    case("ml.diff(x, prepend=y, append=y), x.diff(2, 0, x[:1])", x=f(3, 4), y=f(3, 1)),
    case("ml.round(x, decimals=1), x.round(decimals=-1), x.round()", x=f(5)),
    case("ml.std_mean(x, False), ml.std_mean(x, 1, unbiased=False)", x=f(3, 4)),
    case("x.var(0), x.std(1), ml.var_mean(x, 0)",
         x=lit([[1e4 + 0.5, 1e4 - 1.0], [1e4, 1e4 + 3.0]])),
    case("ml.bincount(x, w)", x=i(4, 6), w=i(9, 6)),
    case("ml.arange(0.1, 3.9, dtype=ml.int64), ml.arange(2.5, -3.2, -1.0, dtype=ml.int64)"),
    case("F.relu6(x), F.hardtanh(x, -2, 3), F.threshold(x, 1, 7)", x=i(9, 6, low=-9)),
    case("ml.zeros_like(x, device='cpu'), ml.ones_like(x, dtype=ml.int64)", x=f(3)),
    *[
        case(f"ml.quantile(x, q, 0, interpolation='{how}')", x=f(4, 5),
             q=lit([0.0, 0.2, 0.45, 1.0]))
        for how in ("lower", "higher", "midpoint", "nearest")
    ],
    case("ml.dist(x, y), x.dist(y, 1.0)", x=f(3, 4), y=f(4)),
    case("ml.cartesian_prod(x, y), ml.cartesian_prod(x)", x=f(2), y=f(3)),
    *[
        case(f"ml.unique(x, return_inverse=True, return_counts=True, dim={dim})", x=i(2, 4, 2, 3))
        for dim in (0, 1, -1)
    ],
    case("ml.unique(x, dim=0), x.unique(dim=1)", x=i(2, 6, 2)),
    case("ml.ones(k.max(), 2).shape, x.view(k[0], -1), x.stride(0), x.stride()",
         x=f(3, 4), k=lit([3, 4], "int64")),
    case("ml.repeat_interleave(x, k, 0, output_size=7)", x=f(2, 3), k=lit([3, 4], "int64")),
    case("tuple(ml.kthvalue(x, 2)), tuple(x.kthvalue(1, 0, keepdim=True))", x=f(3, 4)),
    case("tuple(ml.mode(x)), tuple(x.mode(0, True)), ml.mode(x, 1).values", x=i(4, 5, 7)),
    case("tuple(x.mode()), tuple(x.mode(0))", x=lit([[1.0, 2, 2, 1], [3, 3, 0, 0], [1, 0, 2, 4]])),
    case("ml.quantile(x, 0.3), ml.quantile(x, q), x.quantile(0.5, 1), x.quantile(q, 0)",
         x=f(4, 5), q=lit([0.0, 0.25, 1.0])),
    case("ml.quantile(x, q, -1, True), ml.quantile(x, 0.4, keepdim=True)", x=f(2, 3, 4),
         q=lit([0.1, 0.9])),
    case("ml.quantile(x, 0.5, 1)", x=GAPS),
    case("ml.quantile(x, 0.5, 0, True), ml.quantile(x, q, keepdim=True)", x=f(), q=lit([0.2, 0.5])),
    *[
        case(f"ml.searchsorted(a, x{more}), ml.bucketize(x, a{more})", a=STEPS,
             x=lit([[-3.0, -2.0, -1.0], [0.0, 2.0, 5.0]]))
        for more in ("", ", right=True", ", right=True, out_int32=True")
    ],
    case("ml.searchsorted(a.sort(1).values, x), ml.searchsorted(a[0].sort().values, 0.5)",
         a=c(3, 5), x=c(3, 2)),
    case("ml.searchsorted(x, x), ml.searchsorted(x[:0], x)", x=lit([1, 3, 3, 8], "int64")),
    case("ml.select(x, 1, -2), x.select(0, 1), ml.take(x, k), ml.numel(x)", x=f(3, 4),
         k=i(12, 2, 2)),
    case("ml.index_fill(x, 1, k, 2.5)", x=f(3, 4), k=lit([0, 3], "int64")),
    case("ml.flipud(x), ml.fliplr(x)", x=f(3, 4)),
    case("ml.rot90(x), x.rot90(2), ml.rot90(x, -1, (1, 2)), ml.rot90(x, 4)", x=f(2, 3, 4)),
    case("ml.column_stack((x, y)), ml.dstack((x, x)), ml.dstack((y, y))", x=f(3), y=f(3, 2)),
    case("ml.broadcast_tensors(x, y)", x=f(3, 1), y=f(4)),
    case("ml.cross(x, y, dim=0), x.cross(y, dim=-1)", x=f(3, 3), y=f(3, 3)),
    case("ml.kron(x, y), ml.kron(y, x)", x=f(2, 3), y=f(2)),
    case("ml.logspace(-1, 2, 4), ml.logspace(0, 3, 2, 2.0)"),
    case("ml.rand_like(x).shape == x.shape, ml.randint_like(x, 3).dtype == x.dtype", x=f(3)),
]  # fmt: skip

STATISTICS = [
    case("ml.trapezoid(x), ml.trapz(x, dx=0.5), ml.trapezoid(x, y, dim=1), ml.trapezoid(x, dim=0)",
         x=f(3, 4), y=f(4)),
    case("ml.trapezoid(x, y, dim=0)", x=f(3, 4), y=f(3, 4)),
    case("ml.cov(x), ml.cov(x[0]), x.cov(correction=0), ml.corrcoef(x), x[0].corrcoef()",
         x=f(3, 5)),
    case("tuple(ml.aminmax(x, dim=1)), tuple(x.aminmax()), tuple(x.aminmax(dim=0, keepdim=True)), "
         "ml.aminmax(x).min, x.aminmax().max", x=f(3, 4)),
    case("ml.histc(x, 5, -1, 1), ml.histc(x, bins=4), x.histc(3, 0, 0.5)", x=c(4, 5)),
    case("ml.histc(x, 3), ml.histc(x, 2, 1, 3)", x=lit([2.0, 2.0])),
    case("ml.frac(x * 3), ml.deg2rad(x), x.rad2deg()", x=f(5)),
    case("ml.inner(x, y), ml.inner(x[0], y[0]), x.inner(x[0, 0])", x=f(3, 4), y=f(2, 4)),
    case("ml.atleast_1d(x[0, 0]), ml.atleast_2d(x[0]), ml.atleast_3d(x), ml.atleast_3d(x[0])",
         x=f(3, 4)),
    case("ml.block_diag(x, y, x[0], y[0, 0])", x=f(2, 3), y=f(1, 2)),
    *[
        case(f"ml.tensor_split(x, {how}), x.tensor_split({how})", x=f(5, 7))
        for how in ("3, 1", "2", "(1, 3), -1", "(4, 2)", "(-2,)", "(9,), 1", "8")
    ],
    case("ml.get_default_dtype() == ml.float32"),
    case("z = (x * 2).sigmoid()\nz.detach_() is z, z.requires_grad, z", x=f(3)),
    case("x.short(), x.char(), (x * x).byte(), x.is_cuda", x=c(4, lo=0.0, hi=9.0)),
]  # fmt: skip

LINALG = [
    case("tuple(ml.slogdet(x)), tuple(ml.linalg.slogdet(x[0]))", x=f(2, 3, 3)),
    case("ml.logdet(x @ x.mT + ml.eye(3)), ml.det(x), x[0].det()", x=f(2, 3, 3)),
    case("ml.inverse(x), x.pinverse(), ml.linalg.pinv(y), ml.linalg.pinv(y.mT)", x=f(3, 3),
         y=f(2, 4, 3)),
    *[case(f"ml.matrix_power(x, {n}), x[0].matrix_power({n})", x=f(2, 3, 3))
      for n in (0, 1, 2, 5, -1, -3)],
    case("ml.linalg.eigvalsh(x + x.mT), ml.linalg.svdvals(y)", x=f(3, 3), y=f(2, 3)),
    case("ml.linalg.matrix_rank(x), ml.linalg.matrix_rank(y), ml.linalg.matrix_rank(x, rtol=2.0)",
         x=c(2, 3, 4), y=lit([[1.0, 2.0], [2.0, 4.0]])),
    case("ml.linalg.matrix_rank(x, atol=1.0), ml.linalg.matrix_rank(y, atol=1.0, rtol=0.1, "
         "hermitian=True), ml.linalg.pinv(y, atol=0.1)", x=c(2, 3, 4),
         y=lit([[1.0, 0.5], [0.5, 4.0]], grad=True)),
    case("ml.linalg.qr(x).R.abs(), (ml.linalg.qr(x).Q ** 2)[..., :1]", x=f(2, 3, 5)),
    case("ml.linalg.eigvalsh(x, 'U'), ml.linalg.eigh(x, UPLO='L').eigenvalues", x=f(3, 3)),
    case("ml.linalg.lstsq(x, y).solution, ml.linalg.lstsq(x, y).rank", x=f(6, 3), y=f(6, 2)),
    case("ml.linalg.vector_norm(x), ml.linalg.vector_norm(x, 1, 0), "
         "ml.linalg.vector_norm(x, 3.0, (0, 1), True)", x=f(3, 4)),
    case("ml.linalg.matrix_norm(x), ml.linalg.matrix_norm(x, 1), ml.linalg.matrix_norm(x, 'nuc')",
         x=f(2, 3, 4)),
]  # fmt: skip

D = "ml.distributions."
NORMALS = {"m": f(2, 3), "s": pos(3), "n": f(3), "t": pos(2, 3), "v": c(4, 2, 3)}
JOINT = {"m": f(2, 3), "a": f(3, 3), "n": f(3), "b": f(2, 3, 3), "v": c(4, 2, 3)}
FULL = "a = a @ a.mT + ml.eye(3)\nb = b @ b.mT + ml.eye(3)\n"
DISTRIBUTIONS = [
    case(f"p = {D}Normal(m, s)\np.log_prob(v), p.entropy(), p.mean, p.variance, p.stddev, p.cdf(v)",
         **NORMALS),
    case(f"{D}kl_divergence({D}Normal(m, s), {D}Normal(n, t)), {D}Normal(m, 2).log_prob(v)",
         **NORMALS),
    case(f"p = {D}Uniform(n - 2, n + t, False)\np.log_prob(n), p.entropy(), p.mean, p.variance, "
         f"p.log_prob(n + 9), {D}kl_divergence(p, {D}Uniform(-9.0, 9.0))", **NORMALS),
    case(f"{D}kl_divergence({D}Uniform(n, n + t), {D}Uniform(n + 0.1, n + t))", **NORMALS),
    case(f"p = {D}Bernoulli(logits=m)\np.log_prob((v > 0).to(v.dtype)), p.entropy(), p.mean, "
         f"p.variance, {D}kl_divergence(p, {D}Bernoulli(t.sigmoid()))", **NORMALS),
    case(f"p = {D}Bernoulli(m.sigmoid())\np.log_prob((v > 0).to(v.dtype)), p.entropy(), p.stddev, "
         f"{D}kl_divergence(p, {D}Bernoulli(logits=t))", **NORMALS),
    case(f"p = {D}Categorical(logits=m)\np.log_prob(k), p.log_prob(k[0, 1]), p.entropy(), p.probs, "
         f"{D}kl_divergence(p, {D}Categorical(t))", k=i(3, 4, 2), **NORMALS),
    case(f"p = {D}Categorical(t)\np.log_prob(k), p.entropy(), p.probs, p.logits, "
         f"{D}kl_divergence(p, {D}Categorical(logits=m))", k=i(3, 4, 2), **NORMALS),
    case(f"p = {D}Categorical(x)\np.entropy(), {D}kl_divergence(p, {D}Categorical(x.flip(0)))",
         x=lit([[0.0, 1.0, 3.0], [0.5, 0.5, 0.0]])),
    case(FULL + f"p = {D}MultivariateNormal(m, a)\np.log_prob(v), p.entropy(), p.mean, p.variance, "
         f"p.covariance_matrix, {D}kl_divergence(p, {D}MultivariateNormal(n, b))", **JOINT),
    case(FULL + f"p = {D}MultivariateNormal(n, precision_matrix=b)\np.log_prob(v), p.entropy(), "
         f"{D}MultivariateNormal(m, scale_tril=a.tril()).log_prob(v)", **JOINT),
    case(f"p = {D}Independent({D}Normal(m, s), 1)\np.log_prob(v), p.entropy(), p.mean, "
         f"{D}kl_divergence(p, {D}Independent({D}Normal(n, t), 1)), p.batch_shape == (2,), "
         "p.event_shape == (3,)", **NORMALS),
]  # fmt: skip

VOLUMES = [
    *[case(f"F.max_pool3d(x, {how}), nn.MaxPool3d({how})(x[0])", x=f(2, 3, 5, 6, 7))
      for how in ("2", "(1, 2, 3)", "3, 2, 1", "2, ceil_mode=True", "2, 1, dilation=2",
                  "(2, 3, 2), stride=(1, 2, 3), padding=(0, 1, 1)")],
    *[case(f"F.avg_pool3d(x, {how}), nn.AvgPool3d({how})(x[0])", x=f(2, 3, 5, 6, 7))
      for how in ("2", "3, 2, 1", "3, 2, 1, count_include_pad=False", "2, ceil_mode=True",
                  "(1, 2, 3), divisor_override=5", "3, 2, 1, True, False")],
    case("F.adaptive_avg_pool3d(x, 2), nn.AdaptiveAvgPool3d((1, None, 3))(x)", x=f(2, 3, 5, 6, 7)),
    case("nn.UpsamplingNearest2d(scale_factor=2)(x), nn.UpsamplingBilinear2d((5, 7))(x), "
         "nn.Softmax2d()(x), nn.Softmax2d()(x[0])", x=f(2, 3, 4, 5)),
    case("nn.InstanceNorm3d(3)(x), nn.InstanceNorm3d(3)(x[0])", x=f(2, 3, 2, 3, 2)),
    case("nn.Dropout3d(0.5).eval()(x), nn.Dropout1d(1.0)(x), nn.AlphaDropout(1.0)(x)",
         x=f(2, 3, 4)),
    case("nn.AlphaDropout(0.0)(x), nn.AlphaDropout(0.5).eval()(x)", x=f(2, 3)),
    case("ml.cosine_similarity(x, y), ml.layer_norm(x, (4,)), ml.pairwise_distance(x, y), "
         "ml.selu(x), ml.dropout(x, 0.5, False)", x=f(3, 4), y=f(3, 4)),
]  # fmt: skip

SIGNS, PLUS = lit([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]]), lit([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
LOSSES = [
    case(f"{call}, reduction='{r}')", x=f(2, 3), s=SIGNS, t=PLUS, k=lit([2, 0], "int64"),
         w=c(3, lo=0.2))
    for r in ("mean", "sum", "none")
    for call in ("F.soft_margin_loss(x, s", "nn.SoftMarginLoss()(x, s), F.soft_margin_loss(x, s",
                 "F.hinge_embedding_loss(x, s, 0.5", "F.multi_margin_loss(x, k",
                 "F.multi_margin_loss(x, k, 2, 0.7, w", "F.multilabel_soft_margin_loss(x, t",
                 "F.multilabel_soft_margin_loss(x, t, w")
]  # fmt: skip
LOSSES += [
    case("nn.HingeEmbeddingLoss(0.3)(x, s), nn.MultiMarginLoss()(x, k)", x=f(2, 3), s=SIGNS,
         k=lit([2, 0], "int64")),
    case("nn.MultiLabelSoftMarginLoss()(x, t), F.multi_margin_loss(x[0], k)", x=f(2, 3), t=PLUS,
         k=lit(1, "int64")),
]  # fmt: skip


CASES = [
    *KEYWORDS,
    *SECOND,
    *IN_PLACE,
    *FUNCTIONS,
    *STATISTICS,
    *LINALG,
    *DISTRIBUTIONS,
    *VOLUMES,
    *LOSSES,
]
