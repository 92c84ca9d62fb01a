"""The training loop, its metrics, run directories with exact resume, and the report."""

from minidl.train.loop import Trainer, TrainingError
from minidl.train.metrics import Evaluation, evaluate
from minidl.train.report import Report
from minidl.train.rundir import RunDir, fingerprint
from minidl.train.signals import Interrupted, StopSignal
