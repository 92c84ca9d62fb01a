"""Mixed precision: `autocast` and `GradScaler`, as in torch.amp."""

from minidl.ops.autocasting import autocast, is_autocast_enabled
from minidl.optim.scaler import GradScaler

__all__ = ["GradScaler", "autocast", "is_autocast_enabled"]
