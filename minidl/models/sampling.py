"""How language models choose the next token."""

import math
from typing import Any

import minidl.functional as F
from minidl.autograd import Tensor
from minidl.ops.creation import multinomial


def sample(logits: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """logits (B, V) -> tokens (B, 1), the likeliest at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    scaled: Any = logits if temperature == 1 else logits / temperature
    if top_k is not None:
        least = scaled.topk(min(top_k, scaled.shape[-1]))[0][:, -1:]
        scaled = scaled.masked_fill(scaled < least, -math.inf)
    return multinomial(F.softmax(scaled, -1), 1)
