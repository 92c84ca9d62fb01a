"""Built on backward: vector-Jacobian and Jacobian-vector products, and recomputed segments."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from minidl import backend, random
from minidl.autograd import Tensor, enable_grad, grad, no_grad, op, parts, run_backward, wrap
from minidl.config import bound, casting
from minidl.errors import GraphError, require
from minidl.tape import is_grad_enabled, touched_leaves
from minidl.tensor import arrays_in

# Whether a checkpointed function is run again: running statistics are not moved then.
recomputing: ContextVar[bool] = ContextVar("recomputing", default=False)


def own_leaves(inputs: Any, create_graph: bool) -> list[Tensor]:
    """The inputs as leaves of a graph of their own, or tied to what made them."""
    with enable_grad():
        taken = [parts["alias"](t) if create_graph else t.detach() for t in several(inputs)]
    return [t if t.requires else t.requires_grad_() for t in taken]


def _full(t: Tensor, value: float) -> Tensor:
    return wrap(backend.of(t.array).full_like(t.array, value))


def several(y: Any) -> tuple:
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def _like(y: Any, items: tuple, attached: bool) -> Any:
    """The items, detached unless attached: alone if y is a tensor."""
    items = items if attached else tuple(t.detach() for t in items)
    return items[0] if isinstance(y, Tensor) else items


def _pulled(ys: tuple, taken: list[Tensor], v: Any, create_graph: bool) -> Any:
    """Gradients of those outputs that depend on something, None where nothing arrives."""
    given = v if isinstance(v, (tuple, list)) else (v,) * len(ys)
    pairs = [(y, g) for y, g in zip(ys, given, strict=True) if y.requires]
    outputs, cotangents = [y for y, _ in pairs], [g for _, g in pairs]
    return grad(outputs, taken, cotangents, create_graph=create_graph, allow_unused=True)


def vjp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False) -> tuple:
    """(func(*inputs), gradient of its product with v), as torch.autograd.functional.vjp."""
    taken = own_leaves(inputs, create_graph)
    with enable_grad():
        y = func(*taken)
        grads = _pulled(several(y), taken, v, create_graph)
    filled = tuple(_full(t, 0) if g is None else g for g, t in zip(grads, taken))
    return _like(y, several(y), create_graph), _like(inputs, filled, True)


def jvp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False) -> tuple:
    """(func(*inputs), its derivative along v), by differentiating the vjp in its cotangent."""
    taken = own_leaves(inputs, create_graph)
    along = [v] * len(taken) if v is None or isinstance(inputs, Tensor) else list(v)
    with enable_grad():
        y = func(*taken)
        duals = [_full(t, 0).requires_grad_() for t in several(y)]
        pulled = _pulled(several(y), taken, duals, True)
        used = [(g, d) for g, d in zip(pulled, along, strict=True) if g is not None and g.requires]
        ones = [_full(g, 1) if d is None else d for g, d in used]
        found = grad([g for g, _ in used], duals, ones, None, create_graph, allow_unused=True)
    pushed = tuple(d.detach() if g is None else g for g, d in zip(found, duals))
    return _like(y, several(y), create_graph), _like(y, pushed, True)


def checkpoint(function: Callable, *args: Any, use_reentrant: bool | None = None,
               preserve_rng_state: bool = True, **kwargs: Any) -> Any:  # fmt: skip
    """Run `function(*args)` without keeping its graph; backward runs it again (PyTorch's).

    The whole segment is one node. The second time random draws and `autocast` are as they were, and
    running statistics are left alone. Tensors that the function reaches by closure (a module's
    parameters) get their gradients. use_reentrant and preserve_rng_state change nothing.
    """
    if not is_grad_enabled():
        return function(*args, **kwargs)
    state, cast = random.get_state(), casting.get()
    touched: dict[int, Tensor] = {}
    tensors = [a for a in args if isinstance(a, Tensor)]
    versions = [t.version for t in tensors]
    with bound(touched_leaves, touched), no_grad():
        y = function(*args, **kwargs)
    rule = "the function runs twice, so it must not change its arguments in place"
    require(versions == [t.version for t in tensors], "checkpoint", rule, error=GraphError)
    reached = [t for t in touched.values() if all(t is not a for a in tensors)]
    items = several(y)
    outputs = [t.array for t in items if isinstance(t, Tensor)]
    rule = "the function must give tensors, alone or in one tuple or list"
    require(len(outputs) == len(arrays_in(y)), "checkpoint", rule, error=GraphError)

    def rerun() -> tuple[list[Tensor], list[Any]]:
        """The inputs, detached from what made them, and the outputs with a graph between."""
        with enable_grad():
            fresh = {id(t): parts["alias"](t) if t.requires else t for t in tensors}
        again = [fresh.get(id(a), a) if isinstance(a, Tensor) else a for a in args]
        before = random.get_state()
        random.set_state(state)
        try:
            with bound(recomputing, True), cast or bound(casting, None), enable_grad():
                y = function(*again, **kwargs)
        finally:
            random.set_state(before)
        given = [t for t in several(y) if isinstance(t, Tensor)]
        return [fresh[id(t)] for t in tensors] + reached, given

    made = iter(_segment(*tensors, *reached, rerun=rerun, outputs=outputs))
    out = [next(made) if isinstance(t, Tensor) else t for t in items]
    return out if isinstance(y, list) else tuple(out) if isinstance(y, tuple) else out[0]


@op
def _segment(*inputs: Any, rerun: Callable, outputs: list[Any]) -> Any:
    """One node for a checkpointed function; saves its inputs and how to run it again."""

    def vjp(g: Any, need: list[bool], *saved: Any) -> Any:
        taken, y = rerun()
        wanted = [t for t, n in zip(taken, need, strict=True) if n]
        found = iter(run_backward(y, g, create_graph=is_grad_enabled(), inputs=wanted, stop=True))
        return tuple(next(found) if n else None for n in need)

    return tuple(outputs), inputs, vjp
