"""`GradScaler`: scales the loss so that float16 gradients do not vanish."""

from typing import Any

from minidl import backend
from minidl.autograd import Tensor, no_grad, raw
from minidl.dtypes import float16
from minidl.errors import CheckpointError, DTypeError, GraphError, require, reworded
from minidl.fusion import update
from minidl.nn.utils.grads import gradients, whole_norm
from minidl.ops import pointwise as pw
from minidl.ops.creation import full
from minidl.optim.optimizer import Optimizer

_STATE = "scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"


@update(inplace=("g",))
def _divided(g, *, scale):
    return g / scale


class GradScaler:
    """The scale of a loss in mixed precision, found as PyTorch's does (Micikevicius et al. 2018).

        scaler.scale(loss).backward()
        scaler.step(optimizer)  # divides the gradients; no step where one is not finite
        scaler.update()

    The scale is halved after such a step and doubled after growth_interval steps without one, as
    long as it stays finite. All of it lies on the device, so that a step can be captured. Gradients
    whose squares' sum overflows (in float32: of a norm above 1e19) count as not finite. Those in
    float16 are refused, as in PyTorch: keep such parameters in float32.
    """

    def __init__(self, device: str = "cuda", init_scale: float = 2.0**16,
                 growth_factor: float = 2.0, backoff_factor: float = 0.5,
                 growth_interval: int = 2000, enabled: bool = True) -> None:  # fmt: skip
        fits = init_scale > 0 and growth_factor > 1 > backoff_factor > 0 and growth_interval > 0
        rule = "init_scale and growth_interval must be positive, growth_factor above 1, "
        require(fits, "GradScaler", rule + "backoff_factor in (0, 1)", init_scale=init_scale)
        self.enabled, self._fixed = enabled, [growth_factor, backoff_factor, growth_interval]
        if enabled:
            self._scale = full((1,), float(init_scale), device=device)
            self._good, self._found = full((1,), 0.0, device=device), full((1,), 0.0, device=device)
        self._bad: dict[Optimizer, Any] = {}  # (1,), 1 where not finite; None: stepped

    def scale(self, outputs: Tensor) -> Tensor:
        """outputs times the scale."""
        return pw.mul(outputs, self._scale.reshape(())) if self.enabled else outputs

    @no_grad()
    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the optimizer's gradients by the scale, in place, e.g. to clip them."""
        if not self.enabled:
            return
        rule = "the gradients are unscaled already; call update() once a step"
        require(optimizer not in self._bad, "unscale_", rule, error=GraphError)
        grads = gradients(optimizer._all())
        rule = "float16 gradients lose what the scale has saved; keep the parameters in float32"
        require(all(g.dtype != float16 for g in grads), "unscale_", rule, error=DTypeError)
        _divided.apply_([(g.array,) for g in grads], scale=raw(self._scale))
        norm = whole_norm(grads, 2.0) if grads else self._scale
        self._bad[optimizer] = bad = pw.logical_not(pw.isfinite(norm)).float().reshape(1)
        self._found.copy_(pw.maximum(self._found, bad))

    def step(self, optimizer: Optimizer) -> None:
        """Take the optimizer's step unless a gradient is infinite or NaN."""
        if not self.enabled:
            optimizer.step()
            return
        if optimizer not in self._bad:
            self.unscale_(optimizer)
        bad, self._bad[optimizer] = self._bad[optimizer], None
        rule = "the optimizer has taken its step already; call update() once a step"
        require(bad is not None, "GradScaler", rule, error=GraphError)
        if backend.of(bad.array).recording():
            optimizer.skip = bad.array
            optimizer.step()
            optimizer.skip = None
        elif not bad.item():
            optimizer.step()

    @no_grad()
    def update(self) -> None:
        """Choose the next step's scale."""
        if not self.enabled:
            return
        growth, backoff, interval = self._fixed
        bad, grown = pw.ne(self._found, 0), pw.eq(self._good, interval - 1)
        scale = pw.mul(self._scale, pw.where(bad, backoff, pw.where(grown, growth, 1.0)))
        self._scale.copy_(pw.where(pw.isfinite(scale), scale, self._scale))
        self._good.copy_(pw.where(pw.logical_or(bad, grown), 0.0, pw.add(self._good, 1)))
        self._found.zero_()
        self._bad.clear()

    def get_scale(self) -> float:
        """The scale, read from the device."""
        return self._scale.item() if self.enabled else 1.0

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's: scale, factors, interval and how many steps went well since it changed."""
        if not self.enabled:
            return {}
        values = self.get_scale(), *self._fixed, int(self._good.item())
        return dict(zip(_STATE, values, strict=True))

    @no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state_dict; CheckpointError where it lacks something."""
        if self.enabled:
            with reworded(CheckpointError, "GradScaler: the saved state lacks", KeyError):
                scale, *self._fixed, good = [state_dict[name] for name in _STATE]
            self._scale.fill_(float(scale))
            self._good.fill_(float(good))
