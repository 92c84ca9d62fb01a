"""Modules run on other tensors than their own."""

from collections.abc import Mapping
from typing import Any

from minidl.derivatives import several
from minidl.errors import require


def functional_call(module: Any, parameter_and_buffer_dicts: Any, args: Any = (),
                    kwargs: Mapping[str, Any] | None = None) -> Any:  # fmt: skip
    """module(*args, **kwargs) with other tensors for the parameters and buffers of these names.

    One dict by dotted names, or several; args: a tuple, or one argument. The module keeps its own.
    """
    before: list[tuple[dict, str, Any]] = []
    try:
        for named in several(parameter_and_buffer_dicts):
            for path, value in named.items():
                prefix, _, name = path.rpartition(".")
                owner = module.get_submodule(prefix)
                places = [d for d in (owner._parameters, owner._buffers) if name in d]
                rule = "the module has no parameter or buffer of that name"
                require(bool(places), "functional_call", rule, name=path)
                before.append((places[0], name, places[0][name]))
                places[0][name] = value
        return module(*(args if isinstance(args, tuple) else (args,)), **(kwargs or {}))
    finally:
        for place, name, value in reversed(before):
            place[name] = value
