"""Golden cases: modules, with their parameters, gradients and buffers."""

from golden.specs import Case, c, case, f, i, lit


def layer(text: str, code: str = "m(x)", **inputs: object) -> Case:
    """A case on the module that `text` constructs, called `m` in the code."""
    return case(code, m=text, **inputs)


IMAGE, SEQUENCE = f(2, 3, 6, 5), f(4, 2, 3)
CASES = [
    layer("nn.Linear(4, 3)", x=f(2, 4)),
    layer("nn.Linear(4, 3, bias=False)", x=f(2, 5, 4)),
    layer("nn.Conv1d(3, 4, 3, padding=1)", x=f(2, 3, 6)),
    layer("nn.Conv2d(3, 4, 3)", x=IMAGE),
    layer("nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3, bias=False)", x=IMAGE),
    layer("nn.Conv2d(3, 4, (3, 2), padding='same', dilation=2)", x=IMAGE),
    layer("nn.Conv2d(3, 4, 3, padding=2, padding_mode='reflect')", x=IMAGE),
    layer("nn.Conv2d(3, 4, 3, padding=1, padding_mode='circular')", x=IMAGE),
    layer("nn.Conv3d(2, 3, 2)", x=f(1, 2, 3, 4, 3)),
    layer("nn.ConvTranspose1d(3, 4, 3, stride=2)", x=f(2, 3, 4)),
    layer("nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)", x=f(1, 3, 3, 4)),
    layer(
        "nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)",
        "m(x, output_size=(6, 8))",
        x=f(1, 3, 3, 4),
    ),
    layer("nn.BatchNorm1d(3)", x=f(5, 3)),
    layer("nn.BatchNorm1d(3)", x=f(2, 3, 4)),
    layer("nn.BatchNorm2d(3)", x=IMAGE),
    layer("nn.BatchNorm2d(3, momentum=None)", "m(x)\nm(2 * x)", x=IMAGE),
    layer("nn.BatchNorm2d(3)", "m(x)\nm(2 * x)\nm.eval()\nm(x)", x=IMAGE),
    layer("nn.BatchNorm2d(3, affine=False, momentum=0.3, eps=1e-3)", x=IMAGE),
    layer("nn.BatchNorm2d(3, track_running_stats=False)", "m.eval()\nm(x)", x=IMAGE),
    layer("nn.LayerNorm(5)", x=IMAGE),
    layer("nn.LayerNorm((6, 5), elementwise_affine=False)", x=IMAGE),
    layer("nn.LayerNorm(5, bias=False)", x=IMAGE),
    layer("nn.GroupNorm(2, 4)", x=f(2, 4, 3, 3)),
    layer("nn.InstanceNorm2d(3, affine=True)", x=IMAGE),
    layer("nn.InstanceNorm2d(3, track_running_stats=True)", "m(x)\nm.eval()\nm(x)", x=IMAGE),
    layer("nn.RMSNorm(5)", x=f(3, 5)),
    layer("nn.Embedding(6, 3)", x=i(6, 2, 4)),
    layer("nn.Embedding(6, 3, padding_idx=1)", x=lit([1, 0, 5, 1], "int64")),
    layer("nn.Embedding(6, 3, padding_idx=-1)", x=lit([1, 0, 5, 1], "int64")),
    layer(
        "nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), "
        "nn.Linear(48, 2))",
        x=IMAGE,
    ),
    layer("nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.LayerNorm(3))", x=f(2, 4)),
    layer("nn.PReLU(3)", x=IMAGE),
    # recurrent
    layer("nn.RNN(3, 4)", x=SEQUENCE),
    layer("nn.RNN(3, 4, nonlinearity='relu', bias=False)", x=SEQUENCE),
    layer("nn.RNN(3, 4, 2, bidirectional=True)", "m(x, h)", x=SEQUENCE, h=f(4, 2, 4)),
    layer("nn.LSTM(3, 4)", x=SEQUENCE),
    layer(
        "nn.LSTM(3, 4, 2, bidirectional=True)",
        "m(x, (h, k))",
        x=SEQUENCE,
        h=f(4, 2, 4),
        k=f(4, 2, 4),
    ),
    layer("nn.LSTM(3, 4, batch_first=True)", x=f(2, 5, 3)),
    layer("nn.LSTM(3, 4, proj_size=2)", "m(x, (h, k))", x=SEQUENCE, h=f(1, 2, 2), k=f(1, 2, 4)),
    layer("nn.LSTM(3, 4, 2, proj_size=2, bidirectional=True)", x=SEQUENCE),
    layer("nn.LSTM(3, 4, bias=False)", x=f(5, 3)),
    layer("nn.GRU(3, 4)", x=SEQUENCE),
    layer(
        "nn.GRU(3, 4, 2, bidirectional=True, batch_first=True)",
        "m(x, h)",
        x=f(2, 5, 3),
        h=f(4, 2, 4),
    ),
    layer("nn.GRU(3, 4)", "m(x, h)", x=f(5, 3), h=f(1, 4)),
    layer("nn.RNNCell(3, 4)", "m(x, h)", x=f(2, 3), h=f(2, 4)),
    layer("nn.RNNCell(3, 4)", x=f(2, 3)),
    layer("nn.LSTMCell(3, 4)", "m(x, (h, k))", x=f(2, 3), h=f(2, 4), k=f(2, 4)),
    layer("nn.GRUCell(3, 4)", "m(x, h)", x=f(2, 3), h=f(2, 4)),
    layer("nn.GRUCell(3, 4, bias=False)", x=f(3)),
    # attention
    layer("nn.MultiheadAttention(4, 2)", "m(x, x, x)", x=f(5, 2, 4)),
    layer(
        "nn.MultiheadAttention(4, 2, batch_first=True)",
        "m(x, y, y, need_weights=False)[0]",
        x=f(2, 3, 4),
        y=f(2, 5, 4),
    ),
    layer(
        "nn.MultiheadAttention(4, 2, kdim=3, vdim=5)",
        "m(x, y, z)",
        x=f(3, 2, 4),
        y=f(5, 2, 3),
        z=f(5, 2, 5),
    ),
    layer(
        "nn.MultiheadAttention(4, 2, bias=False, batch_first=True)",
        "m(x, x, x, key_padding_mask=k, average_attn_weights=False)",
        x=f(2, 3, 4),
        k=lit([[0, 0, 1], [0, 0, 0]], "bool"),
    ),
    layer("nn.MultiheadAttention(4, 2)", "m(x, x, x, attn_mask=k)", x=f(3, 2, 4), k=c(3, 3)),
    layer(
        "nn.MultiheadAttention(4, 2)",
        "m(x, x, x, attn_mask=k)",
        x=f(3, 2, 4),
        k=lit([[0, 1, 1], [0, 0, 1], [0, 0, 0]], "bool"),
    ),
    layer("nn.MultiheadAttention(4, 1)", "m(x, x, x)", x=f(3, 4)),
]
for options in ("", ", activation='gelu', norm_first=True", ", batch_first=True, bias=False"):
    CASES += [
        layer(f"nn.TransformerEncoderLayer(4, 2, 6, 0.0{options})", x=f(3, 2, 4)),
        layer(
            f"nn.TransformerDecoderLayer(4, 2, 6, 0.0{options})",
            "m(x, y)",
            x=f(3, 2, 4),
            y=f(3, 2, 4),
        ),
    ]
CAUSAL_MASK = lit([[0, 1, 1], [0, 0, 1], [0, 0, 0]], "bool")
CASES += [
    layer(
        "nn.TransformerEncoderLayer(4, 2, 6, 0.0)", "m(x, src_mask=k)", x=f(3, 2, 4), k=CAUSAL_MASK
    ),
    layer(
        "nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True), 2, "
        "nn.LayerNorm(4))",
        "m(x, src_key_padding_mask=k)",
        x=f(2, 3, 4),
        k=lit([[0, 0, 1], [0, 0, 0]], "bool"),
    ),
    layer(
        "nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 6, 0.0), 2)",
        "m(x, y, tgt_mask=k)",
        x=f(3, 2, 4),
        y=f(5, 2, 4),
        k=CAUSAL_MASK,
    ),
]
# Modules without parameters: each is its function.
CASES += [
    case(f"nn.{text}(x)", x=IMAGE)
    for text in (
        "ReLU() LeakyReLU(0.1) ELU() SELU() GELU() GELU('tanh') SiLU() Mish() Hardswish() "
        "Hardtanh() ReLU6() Softplus() LogSigmoid() Sigmoid() Tanh() Softmax(1) "
        "LogSoftmax(dim=1) GLU(-2) Identity() Flatten() MaxPool2d(2) AvgPool2d(3,2,1) "
        "AdaptiveAvgPool2d(1) Dropout(0.0) Dropout2d(0.0) Upsample(scale_factor=2) "
        "ZeroPad2d(1) ReflectionPad2d(2) ReplicationPad2d((1,0,2,1)) ConstantPad2d(1,0.5) "
        "Unfold(2) Softsign() Upsample(size=(7,8),mode='bilinear') CELU() "
        "Softshrink() Tanhshrink() Hardshrink() "
    ).split()
]
CASES += [
    case("nn.PixelShuffle(2)(x)", x=f(1, 4, 2, 3)),
    case("nn.Fold((4, 5), 2)(x)", x=f(1, 8, 12)),
    case("nn.MaxPool1d(2)(x)", x=f(2, 3, 6)),
    case("nn.AvgPool1d(2)(x)", x=f(2, 3, 6)),
    case("nn.CosineSimilarity()(x, y)", x=f(3, 4), y=f(3, 4)),
    case("nn.CrossEntropyLoss(label_smoothing=0.1)(x, k)", x=f(3, 4), k=i(4, 3)),
    case("nn.CrossEntropyLoss(ignore_index=1, reduction='sum')(x, k)", x=f(3, 4), k=i(4, 3)),
    case("nn.NLLLoss()(x, k)", x=f(3, 4), k=i(4, 3)),
    case("nn.MSELoss()(x, y)", x=f(3), y=f(3)),
    case("nn.L1Loss(reduction='none')(x, y)", x=f(3), y=f(3)),
    case("nn.SmoothL1Loss(beta=0.5)(x, y)", x=f(3), y=f(3)),
    case("nn.HuberLoss(delta=0.5)(x, y)", x=f(3), y=f(3)),
    case("nn.BCELoss()(x.sigmoid(), y)", x=f(3), y=lit([0.0, 1.0, 1.0])),
    case("nn.BCEWithLogitsLoss()(x, y)", x=f(3), y=lit([0.0, 1.0, 1.0])),
    case("nn.KLDivLoss(reduction='batchmean')(x, y)", x=f(3, 2), y=lit([[0.5, 0.5]] * 3)),
]
