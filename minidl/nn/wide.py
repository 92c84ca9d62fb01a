"""Wide modules: those of minidl.wide's functions, a whole Transformer, parameters in a list."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import inf
from typing import Any

# isort: off
from minidl import dtypes
from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import GraphError, require, require_one_of
from minidl.methods import Handle
from minidl.nn import init
from minidl.nn.attention import (
    TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer,
)  # fmt: skip
from minidl.nn.containers import Holder, ModuleDict, Numbered
from minidl.nn.conv import Conv2d
from minidl.nn.fields import Fields, Layer, Size, Switch
from minidl.nn.linear import Embedding
from minidl.nn.module import Module
from minidl.nn.norm import BatchNorm2d, InstanceNorm2d, LayerNorm
from minidl.nn.parameter import Parameter, new_parameter
from minidl.nn.thin import Dropout, Dropout2d, Upsample, loss, thin
from minidl.ops.arguments import ints_of
from minidl.ops.creation import full
from minidl.wide.function import Function
# isort: on

# ---- with parameters -----------------------------------------------------------------------------


class Conv3d(Conv2d):
    """Convolve (N, C, D, H, W)."""

    _axes, _function = 3, staticmethod(F.conv3d)


class BatchNorm3d(BatchNorm2d):
    """Normalise each channel of (N, C, D, H, W) over the batch (arXiv 1502.03167)."""

    _dims = (5,)


class InstanceNorm3d(InstanceNorm2d):
    """Normalise each channel of each sample of (N, C, D, H, W) (arXiv 1607.08022)."""

    _dims = (4, 5)


class Bilinear(Layer, show="in1_features={in1_features}, in2_features={in2_features}, "
               "out_features={out_features}, bias={bias}"):  # fmt: skip
    """`F.bilinear` with weight (out, in1, in2) and bias (out,), uniform in ±1/√in1."""

    in1_features: int
    in2_features: int
    out_features: int
    bias: Switch = True

    def _build(self, *where: Any) -> None:
        sizes = (self.out_features, self.in1_features, self.in2_features)
        self.weight = new_parameter(sizes, *where)
        self.bias = new_parameter(sizes[:1], *where) if self.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.fan_in_uniform_(self.parameters(), self.in1_features)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """x1 (…, in1), x2 (…, in2) -> (…, out)."""
        return F.bilinear(x1, x2, self.weight, self.bias)


_BAG = "{num_embeddings}, {embedding_dim}, mode={mode!r}…"


class EmbeddingBag(Embedding, show=_BAG, without="padding_idx"):
    """Rows of a table, drawn from N(0, 1), reduced over each bag of indices: `F.embedding_bag`."""

    mode: str = "mean"
    include_last_offset: bool = False
    padding_idx: int | None = None

    def _build(self, *where: Any) -> None:
        require_one_of("EmbeddingBag", ("sum", "mean", "max"), mode=self.mode)
        super()._build(*where)

    def forward(self, x: Tensor, offsets: Tensor | None = None,
                per_sample_weights: Tensor | None = None) -> Tensor:  # fmt: skip
        """x (B, N), or (N,) with offsets (B,) -> (B, embedding_dim)."""
        return F.embedding_bag(x, self.weight, offsets, self.mode, per_sample_weights,
                               self.include_last_offset, self.padding_idx)  # fmt: skip


class Transformer(Module):
    """Encoder and decoder of Vaswani et al. 2017, each with a layer norm behind its layers.

    custom_encoder and custom_decoder replace them.
    """

    def __init__(self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6,
                 num_decoder_layers: int = 6, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: Any = F.relu, custom_encoder: Any = None, custom_decoder: Any = None,
                 layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False,
                 bias: bool = True, device: Any = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__()
        sizes = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
        how = (batch_first, norm_first, bias, device, dtype)
        layer: Any = LayerNorm
        norm = partial(layer, d_model, layer_norm_eps, True, bias, device, dtype)
        if custom_encoder is None:
            layer = TransformerEncoderLayer
            custom_encoder = TransformerEncoder(layer(*sizes, *how), num_encoder_layers, norm())
        if custom_decoder is None:
            layer = TransformerDecoderLayer
            custom_decoder = TransformerDecoder(layer(*sizes, *how), num_decoder_layers, norm())
        self.encoder, self.decoder = custom_encoder, custom_decoder
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    def forward(self, src: Tensor, tgt: Tensor, src_mask: Tensor | None = None,
                tgt_mask: Tensor | None = None, memory_mask: Tensor | None = None,
                src_key_padding_mask: Tensor | None = None,
                tgt_key_padding_mask: Tensor | None = None,
                memory_key_padding_mask: Tensor | None = None) -> Tensor:  # fmt: skip
        """src (S, N, E), tgt (T, N, E) -> (T, N, E); N comes first with batch_first."""
        memory = self.encoder(src, src_mask, src_key_padding_mask)
        return self.decoder(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask,
                            memory_key_padding_mask)  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None) -> Tensor:
        """A mask (sz, sz) to add to scores: -inf above the diagonal, else 0."""
        return full((sz, sz), -inf, device=device).triu(1)


class _OfParameters(Holder):
    """What holds parameters in place of modules; tensors put into it become some."""

    _kind = "_parameters"

    def _put(self, name: str, item: Any) -> None:
        super()._put(name, item if isinstance(item, Parameter) else Parameter(item))

    def _child_lines(self) -> list[str]:
        sizes = ((k, p.dtype, "x".join(map(str, p.shape))) for k, p in self._parameters.items())
        return [f"({k}): Parameter containing: [{dtype} of size {n}]" for k, dtype, n in sizes]


class DataParallel(Module):
    """The module itself, as `module`, on the one device that minidl uses."""

    def __init__(self, module: Module, device_ids: Any = None, output_device: Any = None,
                 dim: int = 0) -> None:  # fmt: skip
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


class ParameterList(_OfParameters, Numbered):
    """A list of parameters, registered under "0", "1", …; tensors put into it become parameters."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self.extend(values or ())


class ParameterDict(_OfParameters, ModuleDict):
    """Parameters by name, with a dict's methods; tensors put into it become parameters."""

    def __init__(self, parameters: Mapping[str, Any] | None = None) -> None:
        super().__init__(parameters)


class AlphaDropout(Dropout):
    """`F.alpha_dropout` while training."""

    _function = staticmethod(F.alpha_dropout)


# ---- without -------------------------------------------------------------------------------------


class Unflatten(Fields, show="dim={dim}, unflattened_size={unflattened_size}"):
    """Split the axis dim into several."""

    dim: int
    unflattened_size: Any

    def forward(self, x: Tensor) -> Tensor:
        """x (…, n, …) -> (…, *unflattened_size, …)."""
        return x.unflatten(self.dim, self.unflattened_size)


class MaxUnpool2d(Fields, show="kernel_size={kernel_size}, stride={stride}, padding={padding}"):
    """`F.max_unpool2d` as a module."""

    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0

    def _build(self) -> None:
        self.stride = self.kernel_size if self.stride is None else self.stride
        for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
            setattr(self, name, ints_of("MaxUnpool2d", name, getattr(self, name), 2, least))

    def forward(self, x: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        """x, indices (N, C, H, W) -> (N, C, *larger)."""
        return F.max_unpool2d(x, indices, self.kernel_size, self.stride, self.padding, output_size)


class Softmax2d(Fields, show=""):
    """Softmax over the channels of (N, C, H, W) or (C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """x -> the same shape."""
        return F.softmax(x, -3)


class UpsamplingNearest2d(Upsample):
    """`F.interpolate` to a size or by a factor, each new pixel the nearest old one."""

    def __init__(self, size: Size | None = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """`F.interpolate` to a size or by a factor, bilinear, with the corners' pixels in place."""

    def __init__(self, size: Size | None = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)


class _ByName(Fields):
    _keyword_only = ("full", "eps", "reduction")


_size = partial(thin, show="output_size={output_size}")
AdaptiveMaxPool1d, AdaptiveMaxPool2d = map(_size, ("AdaptiveMaxPool1d", "AdaptiveMaxPool2d"))
LocalResponseNorm = thin("LocalResponseNorm", show="{size}, alpha={alpha}, beta={beta}, k={k}")
PixelUnshuffle, ChannelShuffle = map(thin, ("PixelUnshuffle", "ChannelShuffle"))
Dropout1d, Dropout3d = (
    type(name, (Dropout2d,), {"__module__": __name__}) for name in ("Dropout1d", "Dropout3d")
)
SoftMarginLoss, HingeEmbeddingLoss = map(loss, ("SoftMarginLoss", "HingeEmbeddingLoss"))
MultiMarginLoss = loss("MultiMarginLoss")
MultiLabelSoftMarginLoss = loss("MultiLabelSoftMarginLoss", F.multilabel_soft_margin_loss)
PairwiseDistance, PoissonNLLLoss = map(loss, ("PairwiseDistance", "PoissonNLLLoss"))
GaussianNLLLoss = loss("GaussianNLLLoss", F.gaussian_nll_loss, inputs=3, base=_ByName)
CosineEmbeddingLoss = loss("CosineEmbeddingLoss", inputs=3)
TripletMarginLoss, MarginRankingLoss = (
    loss(name, inputs=3) for name in ("TripletMarginLoss", "MarginRankingLoss")
)
CTCLoss = loss("CTCLoss", F.ctc_loss, inputs=4)


# ---- hooks of backward, and dtypes of a GPU ------------------------------------------------------


class _Seen(Function):
    """Tensors as they are; in backward, what see(gradients) returns is passed on."""

    @staticmethod
    def forward(ctx: Any, see: Callable, *tensors: Tensor) -> tuple:
        ctx.see = see
        ctx.set_materialize_grads(False)
        return tensors

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple:
        return None, *ctx.see(grads)


def _seen(values: tuple, see: Callable) -> tuple:
    """The values, with the tensors that require grad seen in backward; others' gradient is None."""
    places = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires]

    def spread(grads: tuple) -> Any:
        known = dict(zip(places, grads))
        shown = see(tuple([known.get(i) for i in range(len(values))]))
        return [shown[i] for i in places]

    made = _Seen.apply(spread, *[values[i] for i in places]) if places else ()
    known = dict(zip(places, made))
    return tuple([known.get(i, v) for i, v in enumerate(values)])


class _Handles(Handle):
    """Several handles as one."""

    def __init__(self, *handles: Handle) -> None:
        self.handles = handles

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def register_full_backward_hook(self: Module, hook: Callable[..., Any]) -> Handle:
    """Call `hook(module, grad_input, grad_output)` once the inputs' gradients are known.

    Both are tuples, over the positional inputs and over the outputs, with None where nothing
    arrives; the tuple that the hook returns, if any, replaces grad_input. GraphError where it has
    another length, or where a gradient goes round the outputs.
    """
    calls: dict[str, Any] = {}  # of the call between the two hooks

    def before(module: Module, args: tuple) -> tuple:
        last: dict[str, tuple] = {}
        calls["args"], calls["last"] = args, last

        def see(grads: tuple) -> tuple:
            rule = "a gradient came to its inputs, but not through its outputs"
            require("grads" in last, type(module).__name__, rule, error=GraphError)
            found = hook(module, grads, last["grads"])
            found = found if isinstance(found, tuple) else (found,) if found is not None else grads
            rule = f"a backward hook must return {len(grads)} gradients, one for each input"
            require(len(found) == len(grads), type(module).__name__, rule, error=GraphError)
            return found

        return _seen(args, see)

    def after(module: Module, args: tuple, output: Any) -> Any:
        given, last = calls.pop("args"), calls.pop("last")
        alone = not any(isinstance(a, Tensor) and a.requires for a in given)

        def see(grads: tuple) -> tuple:
            last["grads"] = grads
            if alone:
                hook(module, (None,) * len(given), grads)
            return grads

        several = isinstance(output, tuple)
        made = _seen(output if several else (output,), see)
        return made if several else made[0]

    return _Handles(self.register_forward_pre_hook(before), self.register_forward_hook(after))


Module.register_full_backward_hook = register_full_backward_hook  # type: ignore[attr-defined]
Module.half = lambda self: self.to(dtypes.float16)  # type: ignore[attr-defined]
Module.bfloat16 = lambda self: self.to(dtypes.bfloat16)  # type: ignore[attr-defined]
