"""Grad-CAM: where in a picture the evidence for a class lies (arXiv 1610.02391)."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

import minidl as ml
import minidl.functional as F
from minidl.autograd import Tensor, no_grad
from minidl.errors import require
from minidl.models import Classifier
from minidl.nn.module import kept_modes


def gradcam(
    model: Classifier, x: Tensor, section: int | None, classes: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Maps (N, H, W) in [0, 1] of what speaks for classes[n] in picture n; the largest is 1.

    x (N, C, H, W). The features are the last (N, K, h, w) that a module of `section` gives (None:
    of all before the head), before any pooling that ends the section. Their sum over K, weighted by
    the gradients' means over the pixels and without its negative part, is scaled up linearly. A map
    is 0 where nothing speaks for the class. Computed in eval mode; the parameters' gradients stay
    as they are.
    Raises ShapeError: not a class a picture, no such section, one without pictures (tokens, means).
    """
    fits, sections = len(classes) == len(x), model.sections()
    require(fits, "gradcam", "there must be a class for each picture", classes=classes, x=x)
    here = section is None or -len(sections) <= section < len(sections)
    require(here, "gradcam", f"the model has {len(sections)} sections", section=section)
    chosen = sections[:-1] if section is None else [sections[section]]
    modules, kept = dict(model.named_modules()), []

    def cut(module: Any, args: Any, y: Tensor) -> Tensor:
        """Begin the graph anew at a module's output."""
        if y.ndim != 4:
            return y
        kept[:] = [y.detach().requires_grad_()]
        return kept[0]

    with ExitStack() as stack, kept_modes(model):
        for name in (name for s in chosen for name in s.names if name in modules):
            stack.enter_context(modules[name].register_forward_hook(cut))
        model.eval()
        logits = model(x)
        rule = "none of the section's modules gives (N, K, h, w)"
        require(bool(kept), "gradcam", rule, names=[n for s in chosen for n in s.names])
        score = logits[ml.arange(len(x)), ml.tensor(np.asarray(classes))].sum()
        (gradient,) = ml.grad(score, kept)
    with no_grad():
        features = kept[0].detach()
        weights = gradient.mean((2, 3), keepdim=True)
        maps = F.relu((weights * features).sum(1, keepdim=True))
        maps = F.interpolate(maps, x.shape[2:], mode="bilinear")[:, 0].cpu().numpy()
    most = maps.max((1, 2), keepdims=True)
    return np.divide(maps, most, out=np.zeros_like(maps), where=most > 0)
