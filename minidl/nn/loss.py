"""Losses as modules."""

from __future__ import annotations

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.nn.fields import Fields


class CrossEntropyLoss(Fields, of=F.cross_entropy, show=""):
    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: str = "mean"
    label_smoothing: float = 0.0


class NLLLoss(Fields, of=F.nll_loss, show=""):
    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: str = "mean"


class BCELoss(Fields, of=F.binary_cross_entropy, show=""):
    weight: Tensor | None = None
    reduction: str = "mean"


class BCEWithLogitsLoss(Fields, of=F.binary_cross_entropy_with_logits, show=""):
    weight: Tensor | None = None
    reduction: str = "mean"
    pos_weight: Tensor | None = None


class MSELoss(Fields, of=F.mse_loss, show=""):
    reduction: str = "mean"


class L1Loss(Fields, of=F.l1_loss, show=""):
    reduction: str = "mean"


class SmoothL1Loss(Fields, of=F.smooth_l1_loss, show=""):
    reduction: str = "mean"
    beta: float = 1.0


class HuberLoss(Fields, of=F.huber_loss, show=""):
    reduction: str = "mean"
    delta: float = 1.0


class KLDivLoss(Fields, of=F.kl_div, show=""):
    reduction: str = "mean"
    log_target: bool = False


class GaussianNLLLoss(Fields, of=F.gaussian_nll_loss, show=""):
    _keyword_only = ("full", "eps", "reduction")
    full: bool = False
    eps: float = 1e-6
    reduction: str = "mean"


class PoissonNLLLoss(Fields, of=F.poisson_nll_loss, show=""):
    log_input: bool = True
    full: bool = False
    eps: float = 1e-8
    reduction: str = "mean"


class CosineEmbeddingLoss(Fields, of=F.cosine_embedding_loss, show=""):
    margin: float = 0.0
    reduction: str = "mean"


class MarginRankingLoss(Fields, of=F.margin_ranking_loss, show=""):
    margin: float = 0.0
    reduction: str = "mean"


class TripletMarginLoss(Fields, of=F.triplet_margin_loss, show=""):
    margin: float = 1.0
    p: float = 2.0
    eps: float = 1e-6
    swap: bool = False
    reduction: str = "mean"
