"""minidl.nn: modules with PyTorch's names, arguments, parameter names and reprs."""

# fmt: off
# isort: off
import sys

from minidl import functional
from minidl.nn import init, utils
from minidl.nn.attention import (
    MultiheadAttention, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder,
    TransformerEncoderLayer,
)
from minidl.nn.containers import ModuleDict, ModuleList, Sequential
from minidl.nn.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from minidl.nn.lazy import (
    LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d, LazyConv1d, LazyConv2d, LazyConv3d,
    LazyConvTranspose1d, LazyConvTranspose2d, LazyLinear,
)
from minidl.nn.linear import Embedding, Linear, PReLU
from minidl.nn.module import Module
from minidl.nn.norm import (
    BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm1d, InstanceNorm2d, LayerNorm, RMSNorm,
)
from minidl.nn.parameter import Parameter
from minidl.nn.recurrent import GRU, GRUCell, LSTM, LSTMCell, RNN, RNNCell
from minidl.nn.thin import (
    AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d, AvgPool1d, AvgPool2d, AvgPool3d,
    BCELoss, BCEWithLogitsLoss, CELU, CircularPad1d, CircularPad2d, ConstantPad1d, ConstantPad2d,
    CosineSimilarity, CrossEntropyLoss, Dropout, Dropout2d, ELU, Flatten, Fold, GELU, GLU,
    Hardshrink, Hardsigmoid, Hardswish, Hardtanh, HuberLoss, Identity, KLDivLoss, L1Loss, LeakyReLU,
    LogSigmoid, LogSoftmax, MaxPool1d, MaxPool2d, MaxPool3d, Mish, MSELoss, NLLLoss, PixelShuffle,
    ReflectionPad1d, ReflectionPad2d, ReLU, ReLU6, ReplicationPad1d, ReplicationPad2d, SELU,
    Sigmoid, SiLU, SmoothL1Loss, Softmax, Softmin, Softplus, Softshrink, Softsign, Tanh, Tanhshrink,
    Threshold, Unfold, Upsample, ZeroPad1d, ZeroPad2d,
)
from minidl.nn.wide import (
    AdaptiveMaxPool1d, AdaptiveMaxPool2d, AlphaDropout, BatchNorm3d, Bilinear, ChannelShuffle,
    Conv3d, CosineEmbeddingLoss, CTCLoss, DataParallel, Dropout1d, Dropout3d, EmbeddingBag,
    GaussianNLLLoss,
    HingeEmbeddingLoss, InstanceNorm3d, LocalResponseNorm, MarginRankingLoss, MaxUnpool2d,
    MultiLabelSoftMarginLoss, MultiMarginLoss, PairwiseDistance, ParameterDict, ParameterList,
    PixelUnshuffle, PoissonNLLLoss, SoftMarginLoss, Softmax2d, Transformer, TripletMarginLoss,
    Unflatten, UpsamplingBilinear2d, UpsamplingNearest2d,
)

sys.modules[f"{__name__}.functional"] = functional  # for `import minidl.nn.functional as F`
