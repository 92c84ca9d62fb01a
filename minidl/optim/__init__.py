"""Optimizers with PyTorch's names, formulas and state, and a moving average of a model."""

from minidl.optim import lr_scheduler
from minidl.optim.ema import EMA
from minidl.optim.lbfgs import LBFGS
from minidl.optim.optimizer import Optimizer
from minidl.optim.rules import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop
from minidl.optim.wide import LAMB, LARS, SAM, Lion, Lookahead, Muon
