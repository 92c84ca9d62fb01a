"""Copying loaded state into a module's tensors, with one error that names everything wrong."""

from typing import NamedTuple

from minidl.autograd import Tensor, no_grad
from minidl.errors import CheckpointError, require


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` could not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def fit(
    model: str, own: dict[str, Tensor], state: dict[str, Tensor], optional: set[str], strict: bool
) -> IncompatibleKeys:
    """Copy state into own tensors of the same names; changes nothing where it raises.

    model: the name for the message. optional: names that the state may lack.
    """
    missing = [k for k in own if k not in state and k not in optional]
    unexpected = [k for k in state if k not in own]
    wrong = [k for k, v in state.items() if k in own and v.shape != own[k].shape]
    groups = (
        ("missing", [f"{k} {own[k].shape}" for k in missing if strict]),
        ("unexpected", [f"{k} {state[k].shape}" for k in unexpected if strict]),
        ("wrong shape", [f"{k} {state[k].shape}, the model has {own[k].shape}" for k in wrong]),
    )
    listed = "".join(f"\n  {kind}: " + "; ".join(names) for kind, names in groups if names)
    rule = f"the state does not fit {model}{listed}"
    require(not listed, "load_state_dict", rule, error=CheckpointError)
    with no_grad():
        for name, value in state.items():
            if name in own:
                own[name].copy_(value)
    return IncompatibleKeys(missing, unexpected)
