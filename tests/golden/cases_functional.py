"""Golden cases: the functions of F on images, sequences and features."""

from golden.specs import c, case, f, i, lit, mask, pos, unit


def conv(text: str, x: tuple, w: tuple, bias: int = 0, dims: str = "conv2d") -> object:
    """A convolution with the options in `text`."""
    more = {"b": f(bias)} if bias else {}
    args = "x, w, b" if bias else "x, w"
    return case(f"F.{dims}({args}{', ' if text else ''}{text})", x=f(*x), w=f(*w), **more)


CONVOLUTIONS = [
    conv("", (2, 3, 7, 6), (4, 3, 3, 3)),
    conv("", (2, 3, 7, 6), (4, 3, 3, 3), 4),
    conv("padding=1", (2, 3, 7, 6), (4, 3, 3, 3), 4),
    conv("padding=1", (1, 5, 13, 11), (3, 5, 3, 3), 3),
    conv("padding=2", (1, 2, 5, 9), (3, 2, 3, 3)),
    conv("stride=2, padding=1", (2, 3, 7, 6), (4, 3, 3, 3), 4),
    conv("stride=(2, 1), padding=(0, 2)", (1, 2, 7, 6), (3, 2, 3, 2), 3),
    conv("dilation=2", (1, 2, 7, 8), (3, 2, 3, 3)),
    conv("dilation=(1, 3), padding=(1, 3)", (1, 2, 5, 8), (3, 2, 3, 3), 3),
    conv("padding='same'", (1, 2, 5, 6), (3, 2, 3, 3), 3),
    conv("padding='same'", (1, 2, 5, 6), (3, 2, 5, 3)),
    conv("padding='same', dilation=2", (1, 2, 7, 6), (3, 2, 3, 3)),
    conv("padding='valid'", (1, 2, 5, 6), (3, 2, 3, 3)),
    conv("groups=2, padding=1", (2, 4, 5, 6), (6, 2, 3, 3), 6),
    conv("groups=4, padding=1", (2, 4, 5, 6), (4, 1, 3, 3), 4),
    conv("groups=3, padding=2, stride=2", (1, 3, 7, 6), (6, 1, 5, 5)),
    conv("groups=2, stride=2", (1, 4, 6, 5), (2, 2, 2, 2)),
    conv("", (2, 3, 4, 5), (6, 3, 1, 1), 6),
    conv("stride=2", (2, 3, 5, 5), (4, 3, 1, 1)),
    conv("stride=2", (1, 3, 8, 8), (4, 3, 2, 2), 4),
    conv("stride=4", (1, 3, 9, 10), (2, 3, 4, 4)),
    conv("padding=3, stride=2", (1, 1, 9, 9), (2, 1, 7, 7)),
    conv("padding=1", (3, 5, 6), (2, 3, 3, 3), 2),
    conv("", (0, 3, 5, 5), (2, 3, 3, 3), 2),
    conv("", (2, 3, 9), (4, 3, 3), 4, "conv1d"),
    conv("stride=2, padding=2, dilation=2", (2, 3, 9), (4, 3, 3), 0, "conv1d"),
    conv("padding='same'", (2, 3, 6), (4, 3, 4), 0, "conv1d"),
    conv("groups=3, padding=1", (2, 3, 6), (3, 1, 3), 3, "conv1d"),
    conv("", (3, 6), (2, 3, 3), 0, "conv1d"),
    conv("", (1, 3, 4, 5), (3, 2, 3, 3), 2, "conv_transpose2d"),
    conv("stride=2", (2, 3, 4, 3), (3, 2, 2, 2), 0, "conv_transpose2d"),
    conv(
        "stride=2, padding=1, output_padding=1", (1, 3, 4, 3), (3, 2, 3, 3), 2, "conv_transpose2d"
    ),
    conv("stride=(2, 3), padding=(1, 0)", (1, 3, 4, 3), (3, 2, 4, 3), 0, "conv_transpose2d"),
    conv("dilation=2, padding=1", (1, 2, 4, 3), (2, 3, 3, 3), 0, "conv_transpose2d"),
    conv("groups=2, stride=2", (1, 4, 3, 3), (4, 2, 2, 3), 4, "conv_transpose2d"),
    conv("stride=2", (2, 3, 4), (3, 2, 3), 2, "conv_transpose1d"),
    conv("padding=1", (1, 2, 4, 5, 3), (3, 2, 3, 3, 2), 3, "conv3d"),
]

POOLS = [
    *[
        case(f"F.{kind}_pool2d(x, {args})", x=f(2, 3, 7, 6))
        for kind in ("max", "avg")
        for args in (
            "2",
            "3, stride=2",
            "3, 2, 1",
            "(2, 3), stride=(1, 2)",
            "3, 2, 1, ceil_mode=True",
        )
    ],
    *[
        case(f"F.avg_pool2d(x, {args})", x=f(1, 2, 6, 7))
        for args in (
            "3, 2, 1, count_include_pad=False",
            "3, 2, 1, ceil_mode=True, count_include_pad=False",
            "2, divisor_override=3",
            "3, stride=2, ceil_mode=True",
        )
    ],
    case("F.max_pool2d(x, 2, ceil_mode=True)", x=f(1, 2, 5, 7)),
    case("F.max_pool2d(x, 3, stride=1, padding=1, dilation=2)", x=f(1, 2, 7, 7)),
    case("F.max_pool2d(x, 2, return_indices=True)", x=f(1, 2, 4, 5)),
    case("F.max_pool2d(x, 2)", x=f(3, 4, 5)),
    case("F.max_pool2d(x, 2)", x=lit([[[[1.0, 1.0], [1.0, 1.0]]]], grad=True)),
    case("F.max_pool1d(x, 3, 2)", x=f(2, 3, 8)),
    case("F.max_pool1d(x, 3, 2, 1, ceil_mode=True)", x=f(2, 3, 8)),
    case("F.avg_pool1d(x, 3, 2)", x=f(2, 3, 8)),
    case("F.avg_pool1d(x, 3, 1, 1, count_include_pad=False)", x=f(2, 3, 8)),
    case("F.adaptive_avg_pool2d(x, 1)", x=f(2, 3, 5, 6)),
    case("F.adaptive_avg_pool2d(x, (2, 3))", x=f(2, 3, 5, 7)),
    case("F.adaptive_avg_pool2d(x, (None, 2))", x=f(2, 3, 5, 7)),
    case("F.adaptive_avg_pool2d(x, 4)", x=f(1, 2, 3, 3)),
    case("F.adaptive_avg_pool1d(x, 3)", x=f(2, 3, 8)),
    case("F.unfold(x, (2, 3), padding=1, stride=2)", x=f(2, 2, 5, 6)),
    case("F.unfold(x, 3, dilation=2)", x=f(1, 2, 6, 7)),
    case("F.fold(x, (4, 5), (2, 2))", x=f(1, 8, 12)),
    case("F.fold(x, (5, 6), 3, padding=1, stride=2)", x=f(2, 9, 9)),
]

NORMS = [
    *[
        case(f"F.batch_norm(x, m, v, w, b, {t})", x=f(*s), m=c(3), v=c(3, lo=0.2), w=f(3), b=f(3))
        for t in (True, False)
        for s in [(5, 3), (2, 3, 4), (2, 3, 4, 3)]
    ],
    case(
        "y = F.batch_norm(x, m, v, training=True, momentum=0.3)\n(y, m, v)",
        x=f(4, 3, 2, 2),
        m=c(3),
        v=c(3, lo=0.2),
    ),
    case("F.batch_norm(x, None, None, w, b, training=True, eps=0.1)", x=f(4, 3), w=f(3), b=f(3)),
    case("F.batch_norm(x, m, v, eps=1e-3)", x=f(4, 3, 2), m=c(3), v=c(3, lo=0.2)),
    case("F.layer_norm(x, (5,), w, b)", x=f(3, 5), w=f(5), b=f(5)),
    case("F.layer_norm(x, (5,))", x=f(2, 3, 5)),
    case("F.layer_norm(x, (3, 5), w, b, 0.01)", x=f(2, 3, 5), w=f(3, 5), b=f(3, 5)),
    case("F.layer_norm(x, (5,), w)", x=f(3, 5), w=f(5)),
    case("F.group_norm(x, 2, w, b)", x=f(2, 4, 3, 2), w=f(4), b=f(4)),
    case("F.group_norm(x, 1)", x=f(2, 4, 3)),
    case("F.group_norm(x, 4, w, b, eps=0.1)", x=f(2, 4, 5), w=f(4), b=f(4)),
    case("F.instance_norm(x)", x=f(2, 3, 4, 3)),
    case("F.instance_norm(x, weight=w, bias=b, eps=0.01)", x=f(2, 3, 4, 3), w=f(3), b=f(3)),
    case(
        "y = F.instance_norm(x, m, v, momentum=0.2)\n(y, m, v)",
        x=f(2, 3, 5),
        m=c(3),
        v=c(3, lo=0.2),
    ),
    case("F.instance_norm(x, m, v, use_input_stats=False)", x=f(2, 3, 5), m=c(3), v=c(3, lo=0.2)),
    case("F.rms_norm(x, (5,))", x=f(3, 5)),
    case("F.rms_norm(x, (5,), w, 0.01)", x=f(2, 3, 5), w=f(5)),
    case("F.rms_norm(x, (3, 5), weight=w)", x=f(2, 3, 5), w=f(3, 5)),
    case("F.normalize(x)", x=f(3, 5)),
    case("F.normalize(x, p=1, dim=0)", x=f(3, 5)),
    case("F.normalize(x, dim=-1)", x=lit([[3.0, 4.0], [0.0, 0.0]], grad=True)),
]

RESIZE = [
    *[
        case(f"F.pad(x, {p})", x=f(2, 3, 4))
        for p in ("(1, 2)", "(1, 0, 2, 1), value=1.5", "(0, 1, 0, 0, 2, 0)")
    ],
    case("F.pad(x, (-1, 1))", x=f(2, 4)),
    case("F.pad(x, (1, 2, 2, 1), mode='reflect')", x=f(1, 2, 4, 5)),
    case("F.pad(x, (2, 3), mode='reflect')", x=f(2, 2, 5)),
    case("F.pad(x, (1, 2, 0, 1), mode='replicate')", x=f(1, 2, 3, 4)),
    case("F.pad(x, (1, 2, 2, 1), mode='circular')", x=f(1, 2, 3, 4)),
    case("F.interpolate(x, scale_factor=2)", x=f(1, 2, 3, 4)),
    case("F.interpolate(x, size=(5, 3))", x=f(1, 2, 3, 4)),
    case("F.interpolate(x, scale_factor=(2, 0.5), mode='nearest')", x=f(1, 2, 3, 4)),
    case("F.interpolate(x, size=7)", x=f(1, 2, 4)),
    case("F.interpolate(x, size=(5, 3), mode='nearest-exact')", x=f(1, 2, 3, 4)),
    case("F.interpolate(x, scale_factor=(0.6, 1.7), mode='nearest-exact')", x=f(1, 1, 7, 8)),
    case("F.interpolate(x, size=(5, 7), mode='bilinear')", x=f(1, 2, 3, 4)),
    case("F.interpolate(x, size=(5, 7), mode='bilinear', align_corners=True)", x=f(1, 2, 3, 4)),
    case("F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)", x=f(1, 2, 3, 4)),
    case("F.interpolate(x, scale_factor=1.7, mode='bilinear')", x=f(1, 2, 3, 4)),
    case("F.interpolate(x, scale_factor=0.6, mode='bilinear')", x=f(1, 1, 7, 8)),
    case("F.interpolate(x, scale_factor=2, mode='linear')", x=f(1, 2, 4)),
    case("F.interpolate(x, size=(2, 3), mode='area')", x=f(1, 2, 5, 4)),
    case("F.pixel_shuffle(x, 2)", x=f(1, 8, 2, 3)),
]

FEATURES = [
    case("F.linear(x, w)", x=f(3, 4), w=f(5, 4)),
    case("F.linear(x, w, b)", x=f(2, 3, 4), w=f(5, 4), b=f(5)),
    case("F.linear(x, w, b)", x=f(4), w=f(5, 4), b=f(5)),
    case("F.linear(x, w, b)", x=f(0, 4), w=f(5, 4), b=f(5)),
    case("F.embedding(k, w)", k=i(6, 2, 3), w=f(6, 4)),
    case("F.embedding(k, w, padding_idx=1)", k=lit([0, 1, 1, 3], "int64"), w=f(6, 4)),
    case("F.embedding(k, w)", k=lit(2, "int64"), w=f(6, 4)),
    case("F.one_hot(k, 5)", k=i(5, 2, 3)),
    case("F.one_hot(k)", k=lit([0, 2, 1], "int64")),
    case("F.cosine_similarity(x, y)", x=f(3, 4), y=f(3, 4)),
    case("F.cosine_similarity(x, y, dim=-1, eps=1e-6)", x=f(2, 1, 4), y=f(3, 4)),
    case("F.dropout(x, 0.0)", x=f(3, 4)),
    case("F.dropout(x, 0.5, training=False)", x=f(3, 4)),
    case("F.dropout(x, 1.0)", x=f(3, 4)),
    case("F.dropout2d(x, 0.5, training=False)", x=f(1, 2, 3, 4)),
]

Q, K, V = f(2, 2, 5, 4), f(2, 2, 6, 4), f(2, 2, 6, 3)
ATTENTION = [
    case("F.scaled_dot_product_attention(q, k, v)", q=Q, k=K, v=V),
    case("F.scaled_dot_product_attention(q, k, v)", q=f(3, 5, 4), k=f(3, 5, 4), v=f(3, 5, 4)),
    case("F.scaled_dot_product_attention(q, k, v, scale=0.3)", q=Q, k=K, v=V),
    case(
        "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        q=Q,
        k=f(2, 2, 5, 4),
        v=f(2, 2, 5, 3),
    ),
    case("F.scaled_dot_product_attention(q, k, v, is_causal=True)", q=Q, k=K, v=V),
    case("F.scaled_dot_product_attention(q, k, v, attn_mask=m)", q=Q, k=K, v=V, m=f(5, 6)),
    case("F.scaled_dot_product_attention(q, k, v, attn_mask=m)", q=Q, k=K, v=V, m=c(2, 1, 5, 6)),
    case(
        "F.scaled_dot_product_attention(q, k, v, m, 0.0, False, scale=1.0)",
        q=Q,
        k=K,
        v=V,
        m=lit([[1, 1, 0, 1, 0, 1]] * 5, "bool"),
    ),
    case(
        "F.scaled_dot_product_attention(q, k, v, attn_mask=m)",
        q=Q,
        k=K,
        v=V,
        m=lit([[[[1, 0, 0, 1, 0, 1]]], [[[0, 1, 1, 1, 1, 1]]]], "bool"),
    ),
]
CASES = CONVOLUTIONS + POOLS + NORMS + RESIZE + FEATURES + ATTENTION
CASES += [
    case("x.sigmoid().log()", x=unit(3)),
]
CASES += [
    case("F.conv2d(x, w).relu().mean((2, 3)) @ v", x=f(2, 3, 5, 5), w=f(4, 3, 3, 3), v=pos(4, 2))
]
CASES += [case("F.softmax(x.masked_fill(~m, -1e9), dim=-1)", x=f(3, 4), m=mask(3, 4))]
