"""Golden cases: the wide names, of tensors, of F and of nn."""

from golden.specs import c, case, f, i, lit, mask, pos

PLACES = [[0, 2, 4], [10, 12, 14], [20, 22, 24]]
PADDED = lit([[False] * 5, [False] * 3 + [True] * 2, [False] * 5], "bool")
BAD = lit([[1.0, float("nan"), float("inf")], [float("-inf"), -2.0, 0.0]])
ZEROS = lit([[2.0, 0.0, 3.0, -1.5], [0.0, 0.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]], grad=True)

VALUES = [
    case("ml.nan_to_num(x).clamp(-1e30, 1e30)", x=BAD),
    case("x.nan_to_num(1.5, 2.0, -3.0)", x=BAD),
    case("ml.nan_to_num(x)", x=f(2, 3)),
    case("ml.nan_to_num(x)", x=i(5, 3)),
    case("ml.cumprod(x, 1)", x=ZEROS),
    case("x.cumprod(-2)", x=f(5, 3)),
    case("ml.cumprod(x, 0)", x=f(7)),
    case("ml.cumprod(x, 0)", x=f(1, 0)),
    case("ml.cumprod(x, 0)", x=i(4, 3)),
    case("ml.cumprod(x, 0, dtype=ml.float64)", x=i(4, 3)),
    case("ml.median(x)", x=f(2, 4)),
    case("tuple(ml.median(x, 1))", x=f(3, 5)),
    case("tuple(x.median(0, keepdim=True))", x=f(4, 3)),
    case("tuple(ml.median(x, 1))", x=BAD),
    case("ml.median(x)", x=BAD),
    case("ml.median(x)", x=i(9, 5)),
    case("tuple(ml.median(x, 0))", x=f()),
    case("ml.std_mean(x)", x=f(3, 4)),
    case("ml.std_mean(x, 1, correction=0, keepdim=True)", x=f(3, 4)),
    case("ml.unique(x)", x=lit([3, 1, 3, 2, 1], "int64")),
    case("ml.unique(x, return_inverse=True, return_counts=True)", x=i(4, 3, 5)),
    case("ml.unique(x, return_counts=True)", x=mask(6)),
    case("ml.unique(x, return_inverse=True)", x=i(4, 0)),
    case("ml.bincount(x)", x=lit([0, 4, 1, 4], "int64")),
    case("x.bincount(minlength=7)", x=i(5, 9)),
    case("ml.bincount(x, w)", x=lit([0, 4, 1, 4], "int64"), w=c(4)),
    case("ml.bincount(x)", x=i(5, 0)),
    case("ml.equal(x, x), ml.equal(x, y)", x=f(3), y=f(3)),
    case("ml.trace(x)", x=f(3, 4)),
]

JOINS = [
    case("ml.tile(x, (2, 3))", x=f(2, 3)),
    case("x.tile(2, 1, 3)", x=f(3)),
    case("ml.tile(x, (2,))", x=f(2, 3)),
    case("ml.roll(x, 1)", x=f(3, 4)),
    case("ml.roll(x, -2, 1)", x=f(3, 4)),
    case("x.roll((1, 5), (0, -1))", x=f(3, 4)),
    case("ml.roll(x, (1, 2), (0, 0))", x=f(4, 2)),
    case("ml.roll(x, 3, 0)", x=f(0, 2)),
    case("ml.hstack((x, y))", x=f(3), y=f(2)),
    case("ml.hstack((x, y))", x=f(2, 3), y=f(2, 1)),
    case("ml.hstack((x, y))", x=f(), y=f()),
    case("ml.vstack((x, y))", x=f(3), y=f(2, 3)),
    case("ml.vstack([x, y])", x=f(), y=f()),
    *[
        case(f"ml.meshgrid({args}, indexing='{order}')", x=f(2), y=f(3), z=f())
        for order in ("ij", "xy")
        for args in ("x, y, z", "[y, x]", "x")
    ],
    case("ml.tril_indices(3, 4, 1), ml.triu_indices(3, 4, -1)"),
    case("ml.tril_indices(2, 2), ml.triu_indices(0, 2)"),
    case("ml.take_along_dim(x, k, 0)", x=f(3, 4), k=i(3, 5, 4)),
    case("ml.take_along_dim(x, k, -2)", x=f(3, 4), k=i(3, 5, 1)),
    case("x.take_along_dim(k, 0)", x=f(3, 1), k=i(3, 2, 4)),
    case("ml.take_along_dim(x, k)", x=f(3, 4), k=i(12, 2, 3)),
    case("ml.take_along_dim(x, k - 2, 1)", x=f(3, 4), k=i(2, 3, 2)),
    case("x.index_add(0, k, y, alpha=2)", x=f(3, 4), k=lit([0, 2, 0], "int64"), y=f(3, 4)),
    case("ml.index_add(x, -1, k, y)", x=f(3, 4), k=lit([3, 3], "int64"), y=f(3, 2)),
    case("ml.index_add(x, 0, k, y)", x=f(3), k=lit([1, 1], "int64"), y=f(2)),
    *[
        case(f"x.scatter_reduce({dim}, k, s, '{how}', include_self={own})",
             x=f(3, 4), k=i(3, 2, 3), s=f(2, 3))
        for dim in (0, 1)
        for how in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
    ],
    *[
        case(f"ml.scatter_reduce(x, 0, k, y, '{how}', include_self={own})",
             x=i(9, 3, low=-9), k=i(3, 5), y=i(9, 5, low=-9))
        for how in ("sum", "mean", "amax")
        for own in (True, False)
    ],
]  # fmt: skip

PRODUCTS = [
    case("ml.addmm(b, x, y)", b=f(4), x=f(3, 5), y=f(5, 4)),
    case("b.addmm(x, y, beta=0.5, alpha=2)", b=f(3, 4), x=f(3, 5), y=f(5, 4)),
    case("ml.addmm(b, x, y, beta=0)", b=lit(float("nan")), x=f(3, 5), y=f(5, 4)),
    case("ml.baddbmm(b, x, y, alpha=-1)", b=f(2, 1, 4), x=f(2, 3, 5), y=f(2, 5, 4)),
    case("ml.tensordot(x, y)", x=f(2, 3, 4), y=f(3, 4, 2)),
    case("ml.tensordot(x, y, 1)", x=f(2, 3), y=f(3, 4)),
    case("ml.tensordot(x, y, 0)", x=f(2), y=f(3)),
    case("ml.tensordot(x, y, ([0, -1], [2, 0]))", x=f(2, 3, 4), y=f(4, 5, 2)),
]

BAGS = [
    *[
        case(f"F.embedding_bag(k, w, mode='{mode}', padding_idx={pad})", k=i(5, 3, 4), w=f(5, 2))
        for mode in ("sum", "mean", "max")
        for pad in (None, 1, -1)
    ],
    *[
        case(f"F.embedding_bag(k, w, o, mode='{mode}', padding_idx=0)", k=i(5, 7), w=f(5, 2),
             o=lit([0, 3, 3, 6], "int64"))
        for mode in ("sum", "mean", "max")
    ],
    case("F.embedding_bag(k, w, o, mode='max', include_last_offset=True)", k=i(5, 7), w=f(5, 2),
         o=lit([0, 2, 7], "int64")),
    case("F.embedding_bag(k, w, mode='sum', per_sample_weights=p)", k=i(5, 3, 4), w=f(5, 2),
         p=f(3, 4)),
    case("F.embedding_bag(k, w, o)", k=i(5, 0), w=f(5, 2), o=lit([0, 0], "int64")),
]  # fmt: skip

FEATURES = [
    case("F.bilinear(x, y, w, b)", x=f(2, 5, 3), y=f(2, 5, 4), w=f(6, 3, 4), b=f(6)),
    case("F.bilinear(x, y, w)", x=f(3), y=f(4), w=f(2, 3, 4)),
    *[
        case(f"F.pairwise_distance(x, y, p={p})", x=f(3, 4), y=f(3, 4))
        for p in ("1.0", "2.0", "3.0")
    ],
    case("F.pairwise_distance(x, y, keepdim=True)", x=f(4), y=f(3, 4)),
]

IMAGES = [
    case("F.local_response_norm(x, 3, 0.1, 0.7, 2.0)", x=f(2, 5, 3, 2)),
    case("F.local_response_norm(x, 2)", x=f(2, 5, 4)),
    case("F.local_response_norm(x, 5, 1.0)", x=f(1, 3, 2, 2, 2)),
    *[
        case(f"F.conv3d(x, w, b{more})", x=f(2, 4, 5, 6, 4), w=f(2, 4, 3, 2, 3), b=f(2))
        for more in (
            "", ", stride=2", ", padding=1", ", padding=(1, 0, 2), stride=(1, 2, 1)",
            ", dilation=(2, 1, 1), padding=2", ", padding='valid'",
        )
    ],
    case("F.conv3d(x, w, padding='same')", x=f(1, 2, 4, 5, 3), w=f(2, 2, 2, 3, 3)),
    case("F.conv3d(x, w, padding='same', dilation=2)", x=f(1, 2, 4, 5, 6), w=f(2, 2, 3, 3, 3)),
    case("F.conv3d(x, w, groups=2)", x=f(4, 2, 3, 3), w=f(2, 2, 2, 2, 2)),
    case("F.conv3d(x, w)", x=f(0, 2, 4, 4, 4), w=f(2, 2, 2, 2, 2)),
    *[
        case(f"F.adaptive_max_pool2d(x, {size}, return_indices=True)", x=f(2, 2, 7, 6))
        for size in ("3", "(2, 5)", "(None, 3)", "1", "(9, 8)")
    ],
    case("F.adaptive_max_pool2d(x, 2)", x=f(2, 5, 4)),
    case("F.adaptive_max_pool1d(x, 3, return_indices=True)", x=f(2, 3, 7)),
    case("F.adaptive_max_pool1d(x, 2)", x=f(3, 5)),
    *[
        case(f"y, k = F.max_pool2d(x, {window}, return_indices=True)\n"
             f"F.max_unpool2d(y, k, {window}{size})", x=f(2, 2, 7, 9))
        for window, size in (("(1, 3)", ""), ("2, 2, 0", ", output_size=(7, 9)"), ("3, 2, 1", ""))
    ],
    *[
        case(f"F.interpolate(x, {how}, mode='bicubic', align_corners={a})", x=f(2, 2, 4, 5))
        for how in ("(7, 3)", "scale_factor=(2.5, 1.3)", "(1, 5)", "(4, 9)")
        for a in (True, False)
    ],
    case("F.pixel_unshuffle(x, 2)", x=f(2, 3, 4, 6)),
    case("F.pixel_unshuffle(x, 3)", x=f(2, 6, 3)),
    case("F.channel_shuffle(x, 3)", x=f(2, 6, 2, 2)),
    *[
        case(f"F.affine_grid(t, {size}, align_corners={a})", t=f(2, 2, 3))
        for size in ((2, 3, 4, 5), (2, 1, 1, 3))
        for a in (True, False)
    ],
    *[
        case(f"F.grid_sample(x, g, '{mode}', '{pad}', {a})", x=f(2, 2, *size),
             g=f(2, 3, 4, 2, lo=-1.9, hi=1.9))
        for mode in ("bilinear", "nearest")
        for pad in ("zeros", "border", "reflection")
        for a in (True, False)
        for size in ((4, 5), (1, 3))
    ],
]  # fmt: skip

LOSSES = [
    *[
        case(f"F.gaussian_nll_loss(x, y, v{more})", x=f(3, 4), y=f(3, 4), v=pos(*size))
        for more in ("", ", True, reduction='sum'", ", eps=0.5, reduction='none'")
        for size in ((3, 4), (3, 1), (3,), (1, 4))
    ],
    *[
        case(f"F.poisson_nll_loss(x, y{more})", x=pos(3, 4), y=pos(3, 4))
        for more in ("", ", False", ", full=True, reduction='none'", ", False, reduction='sum'")
    ],
    *[
        case(f"F.cosine_embedding_loss(x, y, t, margin=0.1, reduction='{r}')",
             x=f(4, 5), y=f(4, 5), t=lit([1, -1, 1, -1], "int64"))
        for r in ("mean", "sum", "none")
    ],
    case("F.cosine_embedding_loss(x, y, t)", x=f(5), y=f(5), t=lit(-1, "int64")),
    *[
        case(f"F.triplet_margin_loss(x, y, z{more})", x=f(4, 5), y=f(4, 5), z=f(4, 5))
        for more in ("", ", 2.0, 1.0", ", swap=True, reduction='none'", ", reduction='sum'")
    ],
    case("F.margin_ranking_loss(x, y, t, 0.2)", x=f(4), y=f(4), t=lit([1.0, -1.0, 1.0, -1.0])),
    case("F.margin_ranking_loss(x, y, t, reduction='none')", x=f(4), y=f(4),
         t=lit([1.0, -1.0, -1.0, 1.0])),
    *[
        case(f"F.ctc_loss(x.log_softmax(-1), k, (7, 6, 7), (3, 2, 0), {blank}, '{r}')",
             x=f(7, 3, 5), k=lit(rows, "int64"))
        for blank, rows in ((0, [[1, 1, 2], [3, 4, 1], [1, 1, 1]]), (4, [0, 0, 2, 3, 1]))
        for r in ("mean", "sum", "none")
    ],
    case("F.ctc_loss(x.log_softmax(-1), k, (3, 3), (2, 3), reduction='none', zero_infinity=True)",
         x=f(3, 2, 4), k=lit([[1, 2, 0], [1, 1, 2]], "int64")),
    case("F.ctc_loss(x.log_softmax(-1), k, n, m)", x=f(5, 4), k=lit([1, 3], "int64"),
         n=lit(5, "int64"), m=lit(2, "int64")),
]  # fmt: skip

MODULES = [
    case("m(x, y)", m="nn.Bilinear(3, 4, 5)", x=f(2, 3), y=f(2, 4)),
    case("m(x, y)", m="nn.Bilinear(3, 4, 5, bias=False)", x=f(2, 3), y=f(2, 4)),
    case("m(k)", m="nn.EmbeddingBag(6, 3)", k=i(6, 2, 4)),
    case("m(k, o)", m="nn.EmbeddingBag(6, 3, mode='sum', padding_idx=-1)", k=i(6, 7),
         o=lit([0, 3], "int64")),
    case("m(x)", m="nn.Conv3d(2, 4, 3, padding=1)", x=f(1, 2, 4, 5, 3)),
    case("m(x)", m="nn.Conv3d(2, 2, (1, 2, 3), stride=(1, 2, 1), bias=False)", x=f(2, 4, 5, 6)),
    case("m(x)", m="nn.Conv3d(2, 2, 3, padding=1, padding_mode='circular')", x=f(1, 2, 3, 4, 3)),
    case("m(x)", m="nn.BatchNorm3d(3)", x=f(2, 3, 2, 2, 3)),
    case("m(x)", m="nn.Unflatten(1, (2, 3))", x=f(2, 6)),
    case("m(x, k)", m="nn.MaxUnpool2d(3, 2, 1)", x=f(1, 1, 3, 3), k=lit([[PLACES]], "int64")),
    case("m(x)", m="nn.AdaptiveMaxPool2d((3, 2))", x=f(1, 2, 7, 5)),
    case("m(x)", m="nn.LocalResponseNorm(3)", x=f(1, 5, 2, 2)),
    case("m(x)", m="nn.PixelUnshuffle(2)", x=f(1, 2, 4, 4)),
    case("m(x)", m="nn.ChannelShuffle(2)", x=f(1, 4, 2, 2)),
    case("m(x, y)", m="nn.PairwiseDistance(1.0)", x=f(3, 4), y=f(3, 4)),
    case("m(x, y, v)", m="nn.GaussianNLLLoss(full=True)", x=f(3, 4), y=f(3, 4), v=pos(3, 4)),
    case("m(x, y)", m="nn.PoissonNLLLoss(log_input=False)", x=pos(3, 4), y=pos(3, 4)),
    case("m(x, y, z)", m="nn.TripletMarginLoss(swap=True)", x=f(3, 4), y=f(3, 4), z=f(3, 4)),
    case("m(x, y, t)", m="nn.MarginRankingLoss(0.1)", x=f(3), y=f(3), t=lit([1.0, -1.0, 1.0])),
    case("m(x.log_softmax(-1), k, (6, 5), (2, 1))", m="nn.CTCLoss(zero_infinity=True)",
         x=f(6, 2, 4), k=lit([[1, 1], [2, 3]], "int64")),
    *[
        case(f"m.eval()\nm(x, y{masks})", x=f(5, 3, 8), y=f(4, 3, 8), p=PADDED,
             m=f"nn.Transformer(8, 2, 2, 1, 16{more})")
        for more in ("", ", norm_first=True, activation='gelu', bias=False")
        for masks in ("", ", src_key_padding_mask=p, memory_key_padding_mask=p, "
                      "tgt_mask=m.generate_square_subsequent_mask(4).to(x.dtype)")
    ],
]  # fmt: skip

CLOSURE = """
def closure():
    o.zero_grad()
    loss = (a * (x - b) ** 2).sum() + (x[1:] * x[:-1]).sum() ** 2 / 9
    loss.backward()
    return loss
for _ in range(3):
    losses.append(o.step(closure).detach())
"""
OPTIMIZERS = [
    case(f"losses = []\no = optim.LBFGS([x]{more}){CLOSURE}losses, x.detach()",
         x=f(5), a=pos(5), b=c(5))
    for more in ("", ", lr=0.1, max_iter=4", ", history_size=2, max_iter=3", ", max_eval=5",
                 ", max_iter=3, line_search_fn='strong_wolfe'")
]  # fmt: skip

CASES = [*VALUES, *JOINS, *PRODUCTS, *BAGS, *FEATURES, *IMAGES, *LOSSES, *MODULES, *OPTIMIZERS]
