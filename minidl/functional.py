"""F: every function of `torch.nn.functional` that minidl has, under its name and signature."""

# fmt: off
# isort: off
from minidl.ops.attention import scaled_dot_product_attention
from minidl.ops.conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from minidl.ops.dropout import dropout, dropout2d
from minidl.ops.image import (
    adaptive_avg_pool1d, adaptive_avg_pool2d, avg_pool1d, avg_pool2d, fold, interpolate, max_pool1d,
    max_pool2d, pad, pixel_shuffle, unfold,
)
from minidl.ops.index import embedding, one_hot
from minidl.ops.linalg import linear
from minidl.ops.loss import (
    binary_cross_entropy, binary_cross_entropy_with_logits, cosine_similarity, cross_entropy,
    huber_loss, kl_div, l1_loss, mse_loss, nll_loss, smooth_l1_loss,
)
from minidl.ops.norm import batch_norm, group_norm, instance_norm, layer_norm, normalize, rms_norm
from minidl.ops.pointwise import (
    celu, elu, gelu, hardshrink, hardsigmoid, hardswish, hardtanh, leaky_relu, logsigmoid, mish,
    relu, relu6, selu, sigmoid, silu, softplus, softshrink, softsign, tanh, tanhshrink, threshold,
)
from minidl.ops.softmax import glu, log_softmax, prelu, softmax, softmin
from minidl.wide.features import (
    alpha_dropout, bilinear, embedding_bag, gumbel_softmax, pairwise_distance,
)
from minidl.wide.images import (
    adaptive_avg_pool3d, adaptive_max_pool1d, adaptive_max_pool2d, affine_grid, avg_pool3d,
    channel_shuffle, conv3d, grid_sample, local_response_norm, max_pool3d, max_unpool2d,
    pixel_unshuffle,
)
from minidl.wide.losses import (
    cosine_embedding_loss, ctc_loss, gaussian_nll_loss, hinge_embedding_loss, margin_ranking_loss,
    multi_margin_loss, multilabel_soft_margin_loss, poisson_nll_loss, soft_margin_loss,
    triplet_margin_loss,
)
