"""Function: an op of one's own in PyTorch's form, as `ml.autograd.Function`."""

from typing import Any

from minidl import backend
from minidl.autograd import Tensor, no_grad, op, raw, wrap
from minidl.errors import GraphError, require
from minidl.ops.shape import each


class Context:
    """What forward leaves for backward: saved tensors, and any attributes."""

    needs_input_grad: tuple[bool, ...] = ()
    saved_tensors: tuple[Any, ...] = ()
    _fixed: tuple[Any, ...] = ()
    _zeros = True

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors (or None); a second derivative needs them to be inputs or outputs."""
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *outputs: Any) -> None:
        """Say which outputs have no gradient."""
        self._fixed = outputs

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros for outputs that no gradient arrived at, or None."""
        self._zeros = value


class Function:
    """A subclass gives static methods `forward(ctx, *args)` and `backward(ctx, *gradients)`.

    backward returns a gradient, or None, for each argument of forward. In place of the first,
    `forward(*args)` and `setup_context(ctx, inputs, output)` may be given. Call it by `apply`.
    Backward written with tensors' functions can be differentiated again.
    """

    forward: Any
    backward: Any
    setup_context: Any = None

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """The outputs of forward, tied to the graph."""
        ctx = Context()
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires for a in args)
        tensors = tuple(isinstance(a, Tensor) for a in args)
        y = custom_function(*args, of=cls, ctx=ctx, tensors=tensors)
        fixed = [raw(t) for t in ctx._fixed]
        return each(y, lambda t: t.detach() if any(t.array is a for a in fixed) else t)


@op
def custom_function(*args: Any, of: Any, ctx: Context, tensors: tuple[bool, ...]) -> Any:
    """of.forward of args, those that are `tensors` given as Tensors. Saves what ctx was given."""
    given = [wrap(a) if wrapped else a for a, wrapped in zip(args, tensors)]
    with no_grad():
        if of.setup_context is None:
            made = of.forward(ctx, *given)
        else:
            made = of.forward(*given)
            of.setup_context(ctx, tuple(given), made)
    several = isinstance(made, (tuple, list))
    ys = [raw(t) for t in (made if several else (made,))]
    ys = [backend.of(y).copy(y) if any(y is a for a in args) else y for y in ys]
    saved, ctx.saved_tensors = [raw(t) for t in ctx.saved_tensors], ()
    metas = [(backend.of(y), y.shape, y.dtype) for y in ys]

    def vjp(g: Any, need: Any, *saved: Any) -> Any:
        ctx.saved_tensors = tuple([wrap(s) if _bare(s) else s for s in saved])
        gs = list(g) if several else [g]
        for i, (be, shape, dtype) in enumerate(metas):
            gs[i] = be.zeros(shape, dtype) if gs[i] is None and ctx._zeros else gs[i]
        again = any(isinstance(h, Tensor) for h in gs)
        grads = of.backward(ctx, *[wrap(h) if _bare(h) else h for h in gs])
        grads = tuple(grads) if isinstance(grads, (tuple, list)) else (grads,)
        # None may stand behind them for arguments that were not given
        grads = grads[: len(need)] if {*grads[len(need) :]} <= {None} else grads
        rule = f"backward must return {len(need)} gradients, one for each argument of forward"
        require(len(grads) == len(need), of.__name__, rule, error=GraphError, returned=len(grads))
        return [h if h is None or again else raw(h) for h in grads]

    return tuple(ys) if several else ys[0], saved, vjp


def Variable(data: Any, requires_grad: bool = False) -> Tensor:
    """A tensor over the same memory outside the graph (what PyTorch's were called before 0.4)."""
    return data.detach().requires_grad_(requires_grad)


def _bare(x: Any) -> bool:
    return hasattr(x, "dtype") and not isinstance(x, Tensor)
