"""The CPU backend: the functions that every backend has, with these arguments, on NumPy arrays."""

# isort: off
from minidl.backend.cpu.attention import attend, attend_grad, put_rows
from minidl.backend.cpu.conv import conv2d, conv2d_input_grad, conv2d_weight_grad
from minidl.backend.cpu.embedding import add_rows, check_indices, take_rows
from minidl.backend.cpu.layout import (
    assemble, cast, cat, full_like, is_channels_last, like, pad, reshape,
)  # fmt: skip
from minidl.backend.cpu.linalg import linear, matmul
from minidl.backend.cpu.memory import (
    contiguous, copy, empty, empty_cache, empty_like, empty_nchw, full, memory_stats, nhwc, zeros,
)  # fmt: skip
from minidl.backend.cpu.norm import (
    batch_norm, batch_norm_grad, group_norm, group_norm_grad, layer_norm, layer_norm_grad,
)  # fmt: skip
from minidl.backend.cpu.plans import plan_pointwise, update
from minidl.backend.cpu.pool import (
    avg_pool2d, avg_pool2d_grad, fold, max_pool2d, max_pool2d_grad, max_pool2d_indices, unfold,
)  # fmt: skip
from minidl.backend.cpu.recurrent import gru, gru_grad, lstm, lstm_grad, rnn, rnn_grad
from minidl.backend.cpu.reduce import argextreme, argsort, cumsum, extreme, sum
from minidl.backend.cpu.replay import record, recording
from minidl.backend.cpu.softmax import (
    cross_entropy, cross_entropy_grad, log_softmax, log_softmax_grad, softmax, softmax_grad,
)  # fmt: skip
