"""A moving average of a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minidl import backend
from minidl.autograd import Tensor
from minidl.dtypes import is_real
from minidl.errors import CheckpointError, require, reworded
from minidl.fusion import update


@update(inplace=("a",))
def blend(a, x, *, rate):
    return a + rate * (x - a)


class EMA:
    """A moving average of a model's parameters and floating-point buffers, for evaluation.

    average = decay average + (1 - decay) value at each `update`; the first update copies, as
    PyTorch's AveragedModel does. `with ema.swapped(model):` puts the averages into the model and
    afterwards the very same values back. A model is what has `named_parameters` and
    `named_buffers`.
    """

    def __init__(self, model: Any, decay: float = 0.999) -> None:
        require(0 <= decay <= 1, "EMA", "decay must lie in [0, 1]", decay=decay)
        self.decay, self.updates = decay, 0
        self.average = _copies(model)

    def update(self, model: Any) -> None:
        """Take one more look at the model's values; call it after the optimizer's step."""
        rows = [(self.average[name], t.array) for name, t in _floats(model).items()]
        blend.apply_(rows, again=self._rate, rate=self._rate()["rate"])

    def _rate(self) -> dict[str, float]:
        """How far this update moves the averages; counts it."""
        self.updates += 1
        return {"rate": 1 - self.decay if self.updates > 1 else 1.0}

    @contextmanager
    def swapped(self, model: Any) -> Iterator[None]:
        """Inside the `with`, the model holds the averages."""
        kept = _copies(model)
        try:
            _write(model, self.average)
            yield
        finally:
            _write(model, kept)

    def state_dict(self) -> dict[str, Any]:
        """{"decay", "updates", "average": {name: array}}; the arrays are not copied."""
        return {"decay": self.decay, "updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved average; CheckpointError unless names and shapes are this model's."""
        with reworded(CheckpointError, "EMA: the saved state lacks", KeyError):
            saved, *counts = [state_dict[name] for name in ("average", "decay", "updates")]
        shapes = [{(name, x.shape) for name, x in part.items()} for part in (saved, self.average)]
        wrong = sorted({name for name, _ in shapes[0] ^ shapes[1]})
        rule = "the saved average belongs to another model"
        require(not wrong, "EMA", rule, error=CheckpointError, differing=wrong)
        for name, array in self.average.items():
            backend.of(array).put(array, (...,), backend.beside(saved[name], array))
        self.decay, self.updates = counts


def _floats(model: Any) -> dict[str, Tensor]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: t for name, t in tensors.items() if is_real(t.dtype)}


def _copies(model: Any) -> dict[str, Any]:
    return {name: backend.of(t.array).copy(t.array) for name, t in _floats(model).items()}


def _write(model: Any, values: dict[str, Any]) -> None:
    for name, t in _floats(model).items():
        backend.of(t.array).put(t.array, (...,), values[name])
        t.bump()
