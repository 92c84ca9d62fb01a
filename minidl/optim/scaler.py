"""`GradScaler`: scales the loss so that float16 gradients do not vanish."""

from typing import Any

from minidl import backend
from minidl.autograd import Tensor, no_grad, raw
from minidl.errors import GraphError, require
from minidl.fusion import update
from minidl.ops import pointwise as pw
from minidl.ops.creation import full
from minidl.optim.optimizer import Optimizer


@update(inplace=("g",))
def _divided(g, *, scale):
    return g / scale


class GradScaler:
    """The scale of a loss in mixed precision, found as PyTorch's does (Micikevicius et al. 2018).

        scaler.scale(loss).backward()
        scaler.step(optimizer)  # divides the gradients; no step where one is not finite
        scaler.update()

    The scale is halved after such a step and doubled after growth_interval steps without one. All
    of it lies on the device, so that a step can be captured.
    """

    def __init__(self, device: str = "cuda", init_scale: float = 2.0**16,
                 growth_factor: float = 2.0, backoff_factor: float = 0.5,
                 growth_interval: int = 2000, enabled: bool = True) -> None:  # fmt: skip
        fits = init_scale > 0 and growth_factor > 1 > backoff_factor > 0 and growth_interval > 0
        rule = "init_scale and growth_interval must be positive, growth_factor above 1, "
        require(fits, "GradScaler", rule + "backoff_factor in (0, 1)", init_scale=init_scale)
        self.enabled, self.growth, self.backoff = enabled, growth_factor, backoff_factor
        self.interval = growth_interval
        if enabled:
            self._scale = full((1,), float(init_scale), device=device)
            self._good, self._found = full((1,), 0.0, device=device), full((1,), 0.0, device=device)
        self._unscaled: list[Optimizer] = []

    def scale(self, outputs: Tensor) -> Tensor:
        """outputs times the scale."""
        return pw.mul(outputs, self._scale.reshape(())) if self.enabled else outputs

    @no_grad()
    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the optimizer's gradients by the scale, in place, e.g. to clip them."""
        if not self.enabled:
            return
        rule = "the gradients are unscaled already; call update() once a step"
        require(optimizer not in self._unscaled, "unscale_", rule, error=GraphError)
        self._unscaled.append(optimizer)
        grads = [p.grad.array for p in optimizer._all() if p.grad is not None]
        if grads:
            _divided.apply_([(g,) for g in grads], scale=raw(self._scale))
            total = Tensor(backend.of(grads[0]).square_sum(grads))
            bad = pw.logical_not(pw.isfinite(total)).float()
            self._found.copy_(pw.maximum(self._found, bad))

    def step(self, optimizer: Optimizer) -> None:
        """Take the optimizer's step unless a gradient is infinite or NaN."""
        if not self.enabled:
            optimizer.step()
            return
        if optimizer not in self._unscaled:
            self.unscale_(optimizer)
        if backend.of(self._found.array).recording():
            optimizer.skip = self._found.array
            optimizer.step()
            optimizer.skip = None
        elif not self._found.item():
            optimizer.step()

    @no_grad()
    def update(self) -> None:
        """Choose the next step's scale."""
        if not self.enabled:
            return
        bad = pw.ne(self._found, 0)
        grown = pw.eq(self._good, self.interval - 1)
        factor = pw.where(bad, self.backoff, pw.where(grown, self.growth, 1.0))
        self._scale.mul_(factor)
        self._good.copy_(pw.where(pw.logical_or(bad, grown), 0.0, pw.add(self._good, 1)))
        self._found.zero_()
        self._unscaled.clear()

    def get_scale(self) -> float:
        """The scale, read from the device."""
        return self._scale.item() if self.enabled else 1.0

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's: scale, factors, interval and how many steps went well since it changed."""
        if not self.enabled:
            return {}
        return {"scale": self.get_scale(), "growth_factor": self.growth,
                "backoff_factor": self.backoff, "growth_interval": self.interval,
                "_growth_tracker": int(self._good.item())}  # fmt: skip

    @no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state_dict."""
        if self.enabled:
            self.growth, self.backoff = state_dict["growth_factor"], state_dict["backoff_factor"]
            self.interval = state_dict["growth_interval"]
            self._scale.fill_(float(state_dict["scale"]))
            self._good.fill_(float(state_dict["_growth_tracker"]))
