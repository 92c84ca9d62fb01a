"""Golden cases: losses, with every reduction and option."""

from golden.specs import c, case, f, lit, unit

REDUCTIONS = ("mean", "sum", "none")
X, LABELS = f(5, 4), lit([0, 3, 1, 3, 2], "int64")
IGNORED = lit([0, -100, 1, -100, 2], "int64")
SPATIAL = lit([[[0, 3], [1, 2]], [[1, -100], [3, 3]]], "int64")

CASES = [
    case(f"F.{name}_loss(x, y, reduction='{r}')", x=f(3, 4), y=f(3, 4))
    for name in ("mse", "l1", "smooth_l1", "huber")
    for r in REDUCTIONS
]
for r in REDUCTIONS:
    tail = f"reduction='{r}')"
    CASES += [
        case("F.cross_entropy(x, k, " + tail, x=X, k=LABELS),
        case("F.cross_entropy(x, k, weight=w, " + tail, x=X, k=LABELS, w=c(4, lo=0.2)),
        case("F.cross_entropy(x, k, " + tail, x=X, k=IGNORED),
        case("F.cross_entropy(x, k, ignore_index=3, " + tail, x=X, k=LABELS),
        case("F.cross_entropy(x, k, label_smoothing=0.1, " + tail, x=X, k=IGNORED),
        case(
            "F.cross_entropy(x, k, w, label_smoothing=0.2, " + tail, x=X, k=IGNORED, w=c(4, lo=0.2)
        ),
        case("F.cross_entropy(x, k, weight=w, " + tail, x=f(2, 4, 2, 2), k=SPATIAL, w=c(4, lo=0.2)),
        case("F.cross_entropy(x, k, label_smoothing=0.1, " + tail, x=f(2, 4, 2, 2), k=SPATIAL),
        case("F.cross_entropy(x, p, " + tail, x=X, p=unit(5, 4)),
        case(
            "F.cross_entropy(x, p, weight=w, label_smoothing=0.1, " + tail,
            x=X,
            p=unit(5, 4),
            w=c(4, lo=0.2),
        ),
        case("F.cross_entropy(x, p, " + tail, x=f(2, 4, 3), p=unit(2, 4, 3)),
        case("F.nll_loss(x, k, " + tail, x=X, k=LABELS),
        case("F.nll_loss(x, k, weight=w, ignore_index=3, " + tail, x=X, k=LABELS, w=c(4, lo=0.2)),
        case("F.nll_loss(x, k, " + tail, x=f(2, 4, 2, 2), k=SPATIAL),
        case("F.binary_cross_entropy(x, y, " + tail, x=unit(3, 4), y=unit(3, 4)),
        case(
            "F.binary_cross_entropy(x, y, weight=w, " + tail,
            x=unit(3, 4),
            y=unit(3, 4),
            w=c(4, lo=0.2),
        ),
        case("F.binary_cross_entropy_with_logits(x, y, " + tail, x=f(3, 4), y=unit(3, 4)),
        case(
            "F.binary_cross_entropy_with_logits(x, y, pos_weight=p, " + tail,
            x=f(3, 4),
            y=unit(3, 4),
            p=c(4, lo=0.2),
        ),
        case(
            "F.binary_cross_entropy_with_logits(x, y, w, " + tail,
            x=f(3, 4),
            y=unit(3, 4),
            w=c(3, 1, lo=0.2),
        ),
        case("F.kl_div(x, y, " + tail, x=f(3, 4), y=unit(3, 4)),
        case("F.kl_div(x, y, log_target=True, " + tail, x=f(3, 4), y=f(3, 4)),
        case("F.smooth_l1_loss(x, y, beta=0.5, " + tail, x=f(3, 4), y=f(3, 4)),
        case("F.huber_loss(x, y, delta=0.5, " + tail, x=f(3, 4), y=f(3, 4)),
    ]
CASES += [
    case("F.kl_div(x, y, reduction='batchmean')", x=f(3, 4), y=unit(3, 4)),
    case("F.kl_div(x, y, reduction='batchmean')", x=f(2, 2), y=lit([[0.0, 1.0], [0.5, 0.5]])),
    case("F.cross_entropy(x, k)", x=f(4), k=lit(2, "int64")),
    case("F.cross_entropy(x, k)", x=lit([[1000.0, -1000.0, 0.0]], grad=True), k=lit([1], "int64")),
    case("F.cross_entropy(x, k)", x=X, k=lit([-100] * 5, "int64")),
    case(
        "F.binary_cross_entropy_with_logits(x, y)",
        x=lit([-200.0, 0.0, 200.0], grad=True),
        y=lit([0.0, 1.0, 1.0]),
    ),
    case("F.binary_cross_entropy(x, y)", x=lit([0.0, 1.0, 0.5], grad=True), y=lit([0.0, 1.0, 1.0])),
    case("F.l1_loss(x, y)", x=lit([1.0, 2.0], grad=True), y=lit([1.0, 3.0], grad=True)),
    case("F.mse_loss(x, y)", x=f(3), y=c(3)),
]
