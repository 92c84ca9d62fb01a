"""Global magnitude pruning after training (Han et al. 2015, arXiv 1506.02626), and sparse sizes."""

from collections.abc import Mapping, Sequence

import numpy as np

from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn.utils import prune as masks


def prune(model: nn.Module, share: float, *, keep: Sequence[str] = ()) -> dict[str, float]:
    """Set the `share` of the Linear and Conv2d weights of least magnitude to zero, all compared.

    keep: names of layers to leave alone. -> {"zeros": their share of those weights, "dense_bytes",
    "sparse_bytes": of the model's state}. Weights are plain parameters again afterwards; zeros
    survive further training by `masking.MaskedUpdate` with masks of `weights != 0`.
    Raises ShapeError: share outside [0, 1], no layers.
    """
    require(0 <= share <= 1, "prune", "share must lie in [0, 1]", share=share)
    layers = [
        m
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and name not in keep
    ]
    require(bool(layers), "prune", "there must be a Linear or Conv2d to prune")
    masks.global_unstructured([(m, "weight") for m in layers], amount=float(share))
    for layer in layers:
        masks.remove(layer, "weight")
    weights = [layer.weight.detach().cpu().numpy() for layer in layers]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.size for w in weights)
    state = model.state_dict()
    dense = sum(tensor.nbytes for tensor in state.values())
    return {"zeros": zeros, "dense_bytes": dense, "sparse_bytes": sparse_bytes(state)}


def sparse_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of a state in which every tensor is stored as a bitmap and its values other than zero.

    A bit an element, then the values; or as it is where that is smaller.
    """
    total = 0
    for tensor in state.values():
        array = tensor.cpu().numpy()
        filled = int(np.count_nonzero(array)) * array.itemsize
        total += min(array.nbytes, filled + -(-array.size // 8))
    return total
