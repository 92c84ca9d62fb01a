"""Distillation: a network learns from another's probabilities (Hinton et al. 2015, 1503.02531)."""

import minidl.functional as F
from minidl.autograd import Tensor
from minidl.errors import require


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, y: Tensor, temperature: float, alpha: float
) -> Tensor:
    """alpha T² KL(teacher ‖ student), both softened by T, + (1 - alpha) cross-entropy; nats, 0-d.

    logits, teacher_logits (N, K); y (N,) class indices or (N, K) probabilities. No gradient goes to
    the teacher. T² keeps the first term's gradient of the same size at every temperature; KL is the
    paper's cross-entropy of soft targets less the teacher's entropy, whose gradient is none.
    Raises ShapeError: shapes differ, temperature not positive, alpha outside [0, 1].
    """
    same, name = logits.shape == teacher_logits.shape, "distillation_loss"
    require(same, name, "logits must have the teacher's shape", x=logits, teacher=teacher_logits)
    require(temperature > 0, name, "temperature must be positive", temperature=temperature)
    require(0 <= alpha <= 1, name, "alpha must lie in [0, 1]", alpha=alpha)
    soft = F.softmax(teacher_logits.detach() / temperature, dim=1)
    said = F.log_softmax(logits / temperature, dim=1)
    far = F.kl_div(said, soft, reduction="batchmean") * temperature**2
    return alpha * far + (1 - alpha) * F.cross_entropy(logits, y)
