"""The CPU backend: the functions that every backend has, with these arguments, on NumPy arrays."""

# isort: off
from minidl.backend.cpu.attention import attend, attend_grad, put_rows
from minidl.backend.cpu.conv import conv2d, conv2d_grads, conv2d_input_grad, conv2d_weight_grad
from minidl.backend.cpu.embedding import add_rows, check_indices, take_rows
from minidl.backend.cpu.indexing import add_at, pick, pick_grad, put
from minidl.backend.cpu.layout import (
    assemble, broadcast_to, cast, cat, copy, full_like, is_channels_last, pad, reshape, view_as,
)  # fmt: skip
from minidl.backend.cpu.linalg import lapack, linear, matmul
from minidl.backend.cpu.memory import (
    constant, contiguous, empty, empty_cache, empty_like, from_host, full,
    memory_stats, nhwc, seen, sole_owner, to_host, uploads, zeros,
)  # fmt: skip
from minidl.backend.cpu.norm import (
    batch_norm, batch_norm_grad, group_norm, group_norm_grad, layer_norm, layer_norm_grad,
)  # fmt: skip
from minidl.backend.cpu.plans import plan_pointwise, update
from minidl.backend.cpu.pool import (
    avg_pool2d, avg_pool2d_grad, fold, max_pool2d, max_pool2d_grad, max_pool2d_indices, unfold,
)  # fmt: skip
from minidl.backend.cpu.random import (
    random_bernoulli, random_bits, random_normal, random_rows, random_uniform, random_words64,
)  # fmt: skip
from minidl.backend.cpu.recurrent import gru, gru_grad, lstm, lstm_grad, rnn, rnn_grad
from minidl.backend.cpu.reduce import (
    argextreme, argsort, check_probabilities, cumsum, extreme, square_sum, sum,
)  # fmt: skip
from minidl.backend.cpu.replay import record, recording, warm_ups
from minidl.backend.cpu.softmax import (
    cross_entropy, cross_entropy_grad, log_softmax, log_softmax_grad, softmax, softmax_grad,
)  # fmt: skip

FLOATS = frozenset(("float32", "float64"))  # what attention and recurrent layers take
