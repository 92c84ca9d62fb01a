"""Make nn_names.json and nn_packed.npz: PyTorch's reprs, parameter names, packed runs.

Run once with PyTorch 2.13 installed: `python tests/golden/make_nn_names.py`. The tests read only
the files, never PyTorch.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent

REPRS = """
ReLU() | ReLU(inplace=True) | LeakyReLU(0.2) | ELU() | SELU() | GELU() | GELU("tanh") | SiLU()
Mish() | Hardswish() | Hardtanh() | Hardtanh(-2.0, 2.0) | ReLU6() | Softplus() | LogSigmoid()
Softmax(dim=1) | LogSoftmax(dim=-1) | GLU() | PReLU() | PReLU(4) | Sigmoid() | Tanh() | CELU()
Hardsigmoid() | Softsign() | Softshrink() | Hardshrink(0.3) | Tanhshrink() | Threshold(0.1, 20.0)
Softmin(dim=1) | CrossEntropyLoss(label_smoothing=0.1) | NLLLoss() | BCELoss()
BCEWithLogitsLoss() | MSELoss() | L1Loss(reduction="sum") | SmoothL1Loss() | HuberLoss()
KLDivLoss(reduction="batchmean")
MaxPool1d(2) | MaxPool2d(2) | MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
MaxPool2d((2, 3), (1, 2)) | AvgPool1d(2) | AvgPool2d(2) | AvgPool2d(3, 2, 1)
AdaptiveAvgPool1d(4) | AdaptiveAvgPool2d(1) | AdaptiveAvgPool2d((2, None))
ZeroPad1d(1) | ZeroPad2d(1) | ConstantPad1d(2, 3.5) | ConstantPad2d((1, 2, 3, 4), 0.5)
ReflectionPad1d(2) | ReflectionPad2d((1, 1, 2, 0)) | ReplicationPad1d(1) | ReplicationPad2d(1)
CircularPad1d(1) | CircularPad2d(1) | Upsample(scale_factor=2)
Upsample(size=(8, 8), mode="bilinear")
PixelShuffle(2) | Unfold(3, padding=1) | Fold((4, 4), 2) | CosineSimilarity()
Dropout() | Dropout(0.2, inplace=True) | Dropout1d()
MaxPool3d(2) | AvgPool3d(2, 1, 1) | AdaptiveAvgPool3d((2, None, 3)) | InstanceNorm3d(4)
Dropout3d(0.2) | AlphaDropout() | SoftMarginLoss() | HingeEmbeddingLoss(0.5) | MultiMarginLoss()
MultiLabelSoftMarginLoss(reduction="sum") | PoissonNLLLoss() | CTCLoss() | TripletMarginLoss(2.0)
PixelUnshuffle(2) | AdaptiveMaxPool2d(3) | GaussianNLLLoss() | Softmax2d()
UpsamplingNearest2d(scale_factor=2) | UpsamplingBilinear2d((3, 4))
Dropout2d(0.3) | Flatten() | Flatten(0) | Unflatten(1, (2, 3)) | Identity()
Embedding(10, 3) | Embedding(10, 3, padding_idx=0) | Embedding(10, 3, sparse=True) | Linear(3, 4)
Linear(3, 4, bias=False) | LazyLinear(4)
Conv1d(2, 4, 3) | Conv2d(3, 8, 3, padding=1)
Conv2d(4, 8, (3, 5), stride=2, dilation=2, groups=2, bias=False)
Conv2d(3, 8, 3, padding="same", padding_mode="reflect") | Conv3d(1, 2, 3)
ConvTranspose1d(2, 4, 3) | ConvTranspose2d(3, 8, 4, stride=2, padding=1, output_padding=1)
BatchNorm1d(4) | BatchNorm2d(4, eps=1e-3, momentum=None) | BatchNorm2d(4, affine=False)
BatchNorm2d(4, track_running_stats=False) | LayerNorm(8) | LayerNorm((3, 4), bias=False)
LayerNorm(4, elementwise_affine=False) | GroupNorm(2, 4) | GroupNorm(2, 4, affine=False)
InstanceNorm1d(4) | InstanceNorm2d(4, affine=True, track_running_stats=True) | RMSNorm(8)
RNN(3, 5) | RNN(3, 5, nonlinearity="relu", bias=False) | GRU(3, 5, num_layers=2, dropout=0.5)
LSTM(3, 5, batch_first=True, bidirectional=True) | LSTM(3, 5, 2, proj_size=2, bidirectional=True)
RNNCell(3, 5) | RNNCell(3, 5, nonlinearity="relu") | LSTMCell(3, 5, bias=False) | GRUCell(3, 5)
MultiheadAttention(8, 2) | MultiheadAttention(8, 2, bias=False, kdim=4, vdim=6)
MultiheadAttention(8, 2, add_bias_kv=True)
TransformerEncoderLayer(8, 2, 16)
TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True)
TransformerDecoderLayer(8, 2, 16, bias=False)
TransformerEncoder(TransformerEncoderLayer(8, 2, 16), 2, norm=LayerNorm(8))
TransformerDecoder(TransformerDecoderLayer(8, 2, 16), 2)
Sequential(Linear(2, 3), ReLU(), Sequential(Dropout(0.1), Linear(3, 1)))
Sequential() | ModuleList([Linear(2, 2), Linear(2, 2), ReLU()]) | ModuleList()
ModuleDict({"a": Linear(1, 2), "b": Flatten()})
""".replace("\n", "|")


def shapes(module: nn.Module) -> dict[str, list[int]]:
    """The names and shapes of a module's state (empty where a lazy one has none yet)."""
    lazy = torch.nn.parameter.is_lazy
    return {k: list(v.shape) for k, v in module.state_dict().items() if not lazy(v)}


def describe() -> dict[str, dict]:
    """What nn_names.json holds: expression -> repr and state."""
    table = {}
    for text in filter(None, (part.strip() for part in REPRS.split("|"))):
        module = eval(text, vars(nn))
        table[text] = {"repr": repr(module), "state": shapes(module)}
    return table


RECURRENT = {
    "lstm_stack": "LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)",
    "lstm_proj": "LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)",
    "gru_stack": "GRU(3, 4, num_layers=2, bidirectional=True, bias=False)",
    "rnn_relu": "RNN(3, 4, nonlinearity='relu')",
}


def run_packed() -> dict[str, np.ndarray]:
    """Outputs, last states and gradients of recurrent layers on packed sequences."""
    out: dict[str, np.ndarray] = {}
    for name, text in RECURRENT.items():
        layer = eval(text, vars(nn)).double()
        for param in layer.parameters():
            param.data = param.data.float().double()  # saved in float32
        x = torch.randn(5, 4, 3).transpose(0, int(layer.batch_first)).contiguous().double()
        x.requires_grad_()
        lengths = torch.tensor([2, 5, 5, 3])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, layer.batch_first, False)
        y, state = layer(packed)
        y, _ = nn.utils.rnn.pad_packed_sequence(y, layer.batch_first, -1.0)
        h = state[0] if isinstance(state, tuple) else state
        (y.sin().sum() + h.cos().sum()).backward()
        save = {"x": x.float(), "y": y, "h": h, "gx": x.grad}
        save |= {f"p.{k}": v.float() for k, v in layer.named_parameters()}
        save |= {f"g.{k}": v.grad for k, v in layer.named_parameters()}
        out |= {f"{name}/{k}": v.detach().numpy() for k, v in save.items()}
    return out


def main() -> None:
    torch.manual_seed(0)
    (HERE / "nn_names.json").write_text(json.dumps(describe(), indent=1) + "\n")
    np.savez_compressed(HERE / "nn_packed.npz", **run_packed())


if __name__ == "__main__":
    main()
