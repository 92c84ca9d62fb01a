"""Optimizers with PyTorch's names, formulas and state, and wrappers around them."""

from minidl.optim import lr_scheduler
from minidl.optim.adam import Adam, Adamax, AdamW, NAdam, RAdam
from minidl.optim.adaptive import Adadelta, Adagrad, RMSprop
from minidl.optim.layerwise import LAMB, LARS, Lion, Muon
from minidl.optim.lbfgs import LBFGS
from minidl.optim.optimizer import Optimizer
from minidl.optim.sgd import SGD
from minidl.optim.wrappers import EMA, SAM, Lookahead

__all__ = [
    "EMA",
    "LAMB",
    "LARS",
    "LBFGS",
    "SAM",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Lookahead",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "lr_scheduler",
]
