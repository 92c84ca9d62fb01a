"""The CPU backend: the functions of `minidl.backend.contract`, on NumPy arrays."""

from minidl.backend.cpu.attention import attention, attention_grad
from minidl.backend.cpu.conv import conv2d, conv2d_input_grad, conv2d_weight_grad
from minidl.backend.cpu.layout import (
    cast,
    cat,
    full_like,
    is_channels_last,
    like,
    pad,
    reshape,
)
from minidl.backend.cpu.linalg import matmul
from minidl.backend.cpu.memory import (
    contiguous,
    copy,
    empty,
    empty_cache,
    empty_like,
    empty_nchw,
    full,
    memory_stats,
    nhwc,
    zeros,
)
from minidl.backend.cpu.recurrent import gru, gru_grad, lstm, lstm_grad, rnn, rnn_grad
from minidl.backend.cpu.pointwise import plan_pointwise, pointwise, pointwise_signature, update
from minidl.backend.cpu.reduce import argextreme, argsort, cumsum, extreme, sum

__all__ = [
    "argextreme",
    "argsort",
    "attention",
    "attention_grad",
    "cast",
    "cat",
    "contiguous",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "copy",
    "cumsum",
    "empty",
    "empty_cache",
    "empty_like",
    "empty_nchw",
    "extreme",
    "full",
    "full_like",
    "gru",
    "gru_grad",
    "is_channels_last",
    "like",
    "lstm",
    "lstm_grad",
    "matmul",
    "memory_stats",
    "nhwc",
    "pad",
    "plan_pointwise",
    "pointwise",
    "pointwise_signature",
    "reshape",
    "rnn",
    "rnn_grad",
    "sum",
    "update",
    "zeros",
]
