"""Make names.json: where PyTorch has each public name, and the signatures it shows.

    python tests/golden/make_names.py      # needs torch; the tests do not

The names are those that minidl carries; an entry is a signature as it is written in Python, null
where PyTorch's own is in C++ and not of interest.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import torch

ML = """
abs add sub mul div neg pow exp log log1p sqrt rsqrt square reciprocal sin cos tanh sigmoid erf sign
floor ceil clamp maximum minimum max min where masked_fill eq ne gt ge lt le logical_and logical_or
logical_not isnan sum mean var std prod amax amin argmax argmin all any logsumexp cumsum sort
argsort topk reshape view permute transpose t flatten squeeze unsqueeze expand broadcast_to repeat
flip cat stack chunk split unbind narrow clone contiguous gather scatter scatter_add index_select
matmul mm bmm mv dot outer einsum diagonal diag tril triu arange linspace zeros ones full eye
zeros_like ones_like full_like rand randn randint randperm bernoulli normal multinomial empty tensor
as_tensor no_grad enable_grad inference_mode manual_seed save load set_num_threads
use_deterministic_algorithms softmax log_softmax relu
"""
ML_WIDE = """
log2 expm1 tan asin acos atan atan2 sinh cosh logit logaddexp erfc round trunc remainder fmod
floor_divide lerp addcmul isinf isfinite isclose allclose var_mean count_nonzero norm nonzero
repeat_interleave movedim meshgrid index_put masked_select expand_as split_with_sizes cdist
diag_embed nan_to_num cumprod median std_mean unique bincount equal trace tile roll hstack vstack
take_along_dim index_add scatter_reduce addmm baddbmm tensordot tril_indices triu_indices type_as
view_as reshape_as new_zeros new_ones new_full new_empty new_tensor element_size is_floating_point
is_tensor
absolute negative subtract multiply divide true_divide clip greater greater_equal less less_equal
not_equal arcsin arccos arctan arctan2 swapaxes swapdims moveaxis ravel ger vdot argwhere concat
concatenate row_stack clamp_min clamp_max addcdiv logical_xor isin nansum nanmean diff kthvalue
quantile searchsorted bucketize numel select take index_fill flipud fliplr rot90 column_stack dstack
broadcast_tensors cross kron dist cartesian_prod rand_like randint_like logspace bitwise_and
bitwise_or bitwise_xor bitwise_not FloatTensor DoubleTensor HalfTensor LongTensor IntTensor
ByteTensor BoolTensor
exp2 log10 asinh acosh atanh arcsinh arccosh arctanh frac deg2rad rad2deg trapezoid cov corrcoef
aminmax histc atleast_1d atleast_2d atleast_3d block_diag tensor_split inner get_default_dtype
set_default_dtype inverse pinverse det logdet slogdet matrix_power cholesky qr compile mode
set_printoptions
"""
TENSOR = """
shape dtype device ndim grad requires_grad is_leaf T mT backward numpy item tolist detach clone
contiguous to cpu cuda float double half long int bool size numel dim retain_grad requires_grad_
zero_ add_ mul_ fill_ copy_ clamp_ normal_ uniform_ register_hook
register_post_accumulate_grad_hook __len__ __iter__ __getitem__ __setitem__ __array__ __dlpack__
__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
__matmul__ __rmatmul__ __neg__ __abs__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __and__ __or__
__xor__ __invert__ __iadd__ __isub__ __imul__ __itruediv__ __mod__ __floordiv__
"""
TENSOR_WIDE = """
type scatter_ scatter_add_ index_add_ index_fill_ index_put_ masked_fill_ bernoulli_ random_
exponential_ tril_ triu_ lerp_ addcmul_ addcdiv_ clamp_min_ clamp_max_ detach_ pin_memory is_cuda
short char byte bfloat16 data_ptr squeeze_ unsqueeze_ transpose_ t_
"""
F = """
linear conv1d conv2d conv_transpose2d embedding batch_norm layer_norm group_norm instance_norm
rms_norm normalize max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool2d unfold fold pad
interpolate pixel_shuffle dropout dropout2d scaled_dot_product_attention one_hot cosine_similarity
relu leaky_relu elu selu gelu silu mish hardswish hardtanh relu6 softplus logsigmoid softmax
log_softmax glu prelu cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits
mse_loss l1_loss smooth_l1_loss huber_loss kl_div
"""
F_WIDE = """
conv3d conv_transpose1d adaptive_avg_pool1d celu hardsigmoid softsign softshrink hardshrink
tanhshrink threshold softmin bilinear embedding_bag local_response_norm adaptive_max_pool1d
adaptive_max_pool2d max_unpool2d pixel_unshuffle channel_shuffle pairwise_distance gumbel_softmax
affine_grid grid_sample gaussian_nll_loss poisson_nll_loss cosine_embedding_loss triplet_margin_loss
margin_ranking_loss ctc_loss max_pool3d avg_pool3d adaptive_avg_pool3d alpha_dropout
soft_margin_loss hinge_embedding_loss multi_margin_loss multilabel_soft_margin_loss
"""
NN = """
Module Parameter Sequential ModuleList ModuleDict Identity Flatten Linear LazyLinear Conv1d Conv2d
ConvTranspose2d BatchNorm1d BatchNorm2d LayerNorm GroupNorm InstanceNorm2d RMSNorm Embedding RNN
LSTM GRU RNNCell LSTMCell GRUCell MultiheadAttention TransformerEncoderLayer TransformerDecoderLayer
TransformerEncoder TransformerDecoder Dropout Dropout2d Upsample PixelShuffle MaxPool1d MaxPool2d
AvgPool1d AvgPool2d AdaptiveAvgPool2d Unfold Fold ZeroPad2d ConstantPad2d ReflectionPad2d
CosineSimilarity ReLU LeakyReLU ELU SELU GELU SiLU Mish Hardswish Hardtanh ReLU6 Softplus LogSigmoid
Softmax LogSoftmax GLU PReLU Sigmoid Tanh CrossEntropyLoss NLLLoss BCELoss BCEWithLogitsLoss MSELoss
L1Loss SmoothL1Loss HuberLoss KLDivLoss
"""
NN_WIDE = """
Conv3d ConvTranspose1d AdaptiveAvgPool1d CELU Hardsigmoid Softsign Softshrink Hardshrink Tanhshrink
Threshold Softmin ReplicationPad2d CircularPad2d AdaptiveMaxPool1d AdaptiveMaxPool2d BatchNorm3d
Bilinear ChannelShuffle CosineEmbeddingLoss CTCLoss EmbeddingBag GaussianNLLLoss LocalResponseNorm
MarginRankingLoss MaxUnpool2d PairwiseDistance ParameterList PixelUnshuffle PoissonNLLLoss
Transformer TripletMarginLoss Unflatten LazyConv1d LazyConv2d LazyConv3d LazyConvTranspose1d
LazyConvTranspose2d LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d MaxPool3d AvgPool3d
AdaptiveAvgPool3d InstanceNorm3d Dropout1d Dropout3d AlphaDropout SoftMarginLoss HingeEmbeddingLoss
MultiMarginLoss MultiLabelSoftMarginLoss ParameterDict Softmax2d UpsamplingNearest2d
UpsamplingBilinear2d
"""
DISTRIBUTIONS = """
Distribution Normal Uniform MultivariateNormal Bernoulli Categorical Independent kl_divergence
"""
CUDA = """
is_available device_count synchronize memory_allocated memory_reserved empty_cache manual_seed
manual_seed_all
"""
INIT = """
kaiming_uniform_ kaiming_normal_ xavier_uniform_ xavier_normal_ normal_ uniform_ orthogonal_
trunc_normal_ constant_ zeros_ ones_
"""
UTILS = "clip_grad_norm_ clip_grad_value_ parameters_to_vector vector_to_parameters"
OPTIM = "SGD Adam AdamW RMSprop Adagrad Adadelta Adamax NAdam RAdam LBFGS Muon"
SCHEDULERS = """
StepLR MultiStepLR ExponentialLR CosineAnnealingLR CosineAnnealingWarmRestarts OneCycleLR LinearLR
CyclicLR
ConstantLR LambdaLR PolynomialLR SequentialLR ChainedScheduler ReduceLROnPlateau
"""
DATA = """
Dataset TensorDataset Subset random_split ConcatDataset DataLoader WeightedRandomSampler Sampler
SequentialSampler RandomSampler SubsetRandomSampler BatchSampler IterableDataset get_worker_info
default_convert
"""

CONV = "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1"
TRANSPOSED = "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1"
POOL = "input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True"
MAX_POOL = "input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False"
DOCUMENTED = {
    "linear": "input, weight, bias=None",
    "conv1d": CONV,
    "conv2d": CONV,
    "conv3d": CONV,
    "conv_transpose1d": TRANSPOSED,
    "conv_transpose2d": TRANSPOSED,
    "avg_pool1d": POOL,
    "avg_pool2d": POOL + ", divisor_override=None",
    "max_pool1d": MAX_POOL + ", return_indices=False",
    "max_pool2d": MAX_POOL + ", return_indices=False",
    "pixel_shuffle": "input, upscale_factor",
    "prelu": "input, weight",
    "one_hot": "tensor, num_classes=-1",
    "cosine_similarity": "x1, x2, dim=1, eps=1e-8",
    "gelu": "input, approximate='none'",
    "softplus": "input, beta=1, threshold=20",
    "logsigmoid": "input",
    "hardshrink": "input, lambd=0.5",
    "softshrink": "input, lambd=0.5",
    "scaled_dot_product_attention": "query, key, value, attn_mask=None, dropout_p=0.0, "
    "is_causal=False, scale=None, enable_gqa=False",
}


def signature(thing: object) -> str | None:
    """Parameters as they would be written, None where none can be read.

    A default that is no literal is written as `...`: only its presence counts.
    """
    try:
        found = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found):
        return None
    shown, keyword_only = [], False
    for p in found:
        if p.kind == p.KEYWORD_ONLY and not keyword_only:
            shown.append("*")
            keyword_only = True
        simple = isinstance(p.default, (int, float, str, tuple, type(None)))
        default = repr(p.default) if simple else "..."
        shown.append(p.name if p.default is p.empty else f"{p.name}={default}")
    return ", ".join(shown)


def table(owner: object, names: str) -> dict[str, str | None]:
    """Each name that the owner has, with its signature, the documented one where it is in C++."""
    documented = DOCUMENTED if owner is torch.nn.functional else {}
    return {
        name: signature(getattr(owner, name)) or documented.get(name)
        for name in names.split()
        if hasattr(owner, name)
    }


NAMES = {
    "minidl": table(torch, ML),
    "minidl wide": table(torch, ML_WIDE),
    "minidl.Tensor": table(torch.Tensor, ML + TENSOR),
    "minidl.Tensor wide": table(torch.Tensor, ML_WIDE + TENSOR_WIDE),
    "minidl.cuda wide": table(torch.cuda, CUDA),
    "minidl.distributions wide": table(torch.distributions, DISTRIBUTIONS),
    "minidl.functional": table(torch.nn.functional, F),
    "minidl.functional wide": table(torch.nn.functional, F_WIDE),
    "minidl.nn": table(torch.nn, NN),
    "minidl.nn wide": table(torch.nn, NN_WIDE),
    "minidl.nn.init": table(torch.nn.init, INIT),
    "minidl.nn.utils": table(torch.nn.utils, UTILS),
    "minidl.optim": table(torch.optim, OPTIM),
    "minidl.optim.lr_scheduler": table(torch.optim.lr_scheduler, SCHEDULERS),
    "minidl.data": table(torch.utils.data, DATA),
}

if __name__ == "__main__":
    lines = [
        f"{json.dumps(owner)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items())
        + "\n}"
        for owner, found in NAMES.items()
    ]
    path = Path(__file__).with_name("names.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
