"""The CUDA backend: functions of backend.cpu, with its arguments, on CuPy's arrays."""

# isort: off
from minidl.backend.cuda.attention import attend, attend_grad, put_rows
from minidl.backend.cuda.augment import augment_pictures, blend_pictures
from minidl.backend.cuda.batch_norm import (
    batch_norm, batch_norm_grad, group_norm, group_norm_grad,
)  # fmt: skip
from minidl.backend.cuda.conv import conv2d, conv2d_grads, conv2d_input_grad, conv2d_weight_grad
from minidl.backend.cuda.embedding import add_rows, check_indices, take_rows
from minidl.backend.cuda.indexing import add_at, pick, pick_grad, put
from minidl.backend.cuda.graph import record, warm_ups
from minidl.backend.cuda.linalg import lapack, linear, matmul
from minidl.backend.cuda.memory import (
    adopted, assemble, broadcast_to, cast, cat, constant, contiguous, copy, empty_cache, empty_like,
    from_host, full, full_like, is_channels_last, memory_stats, nhwc, pad,
    reshape, sole_owner, to_host, view_as, zeros,
)  # fmt: skip
from minidl.backend.cuda.norm import layer_norm, layer_norm_grad
from minidl.backend.cuda.order import argsort, cumsum
from minidl.backend.cuda.plans import plan_pointwise, update
from minidl.backend.cuda.pool import (
    avg_pool2d, avg_pool2d_grad, fold, max_pool2d, max_pool2d_grad, max_pool2d_indices, unfold,
)  # fmt: skip
from minidl.backend.cuda.random import (
    random_bernoulli, random_bits, random_normal, random_rows, random_uniform, random_words64,
)  # fmt: skip
from minidl.backend.cuda.recurrent import gru, gru_grad, lstm, lstm_grad, rnn, rnn_grad
from minidl.backend.cuda.reduce import argextreme, check_probabilities, extreme, square_sum, sum
from minidl.backend.cuda.runtime import empty, recording, require_device, seen
from minidl.backend.cuda.softmax import (
    cross_entropy, cross_entropy_grad, log_softmax, log_softmax_grad, softmax, softmax_grad,
)  # fmt: skip
from minidl.backend.cuda.transfer import uploads

FLOATS = frozenset(("float16", "bfloat16", "float32", "float64"))  # as in backend.cpu
