"""nn.utils: clipping, flattening, reparametrised weights, pruning, sequences of unequal length."""

# fmt: off
# isort: off
from minidl.nn.utils import prune, rnn
from minidl.nn.utils.grads import (
    clip_grad_norm_, clip_grad_value_, parameters_to_vector, vector_to_parameters,
)
from minidl.nn.utils.reparametrize import (
    remove_spectral_norm, remove_weight_norm, spectral_norm, weight_norm,
)
