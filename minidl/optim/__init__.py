"""Optimizers with PyTorch's names, formulas and state, and a moving average of a model."""

from minidl.optim import lr_scheduler
from minidl.optim.adam import Adam, Adamax, AdamW, NAdam, RAdam
from minidl.optim.ema import EMA
from minidl.optim.optimizer import Optimizer
from minidl.optim.sgd import SGD, Adadelta, Adagrad, RMSprop
