"""Ctrl-C and SIGTERM as a flag that the training loop reads between two steps."""

import contextlib
import signal
from types import FrameType
from typing import Self


class Interrupted(BaseException):
    """The run was asked to leave; `code` is the exit status a shell expects (128 + signal).

    at_once: it was raised in the middle of something, so that nothing may be saved any more.
    """

    def __init__(self, number: int, *, at_once: bool = False) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code, self.at_once = 128 + number, at_once


class StopSignal:
    """Within `with`, SIGINT and SIGTERM set a flag; a second, or one while idle, leaves at once.

    `busy` says that there is unsaved work: only then is it worth waiting for the step to end. While
    the first kernels compile or data is read, nothing is lost by leaving immediately. A step that
    takes longer than `patience` seconds is given up: the last checkpoint stands.
    Works in the main thread only (Python's rule); elsewhere it does nothing.
    """

    patience = 4.0

    def __init__(self) -> None:
        self.busy, self.number = False, 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        alarm = [signal.SIGALRM] if hasattr(signal, "SIGALRM") else []  # not on Windows
        with contextlib.suppress(ValueError):  # not the main thread
            for number in (signal.SIGINT, signal.SIGTERM, *alarm):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        if hasattr(signal, "setitimer") and self.number:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number or not self.busy:
            self.number = self.number or number
            raise Interrupted(self.number, at_once=True)
        self.number = number
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, self.patience)

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come; for places that have nothing to save."""
        if self.number:
            raise Interrupted(self.number)
