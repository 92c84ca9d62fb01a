"""The tape: `@op` makes a function of raw arrays differentiable by recording its calls.

An op is a function of raw arrays that returns its result, what backward needs, and its
vector-Jacobian product: `y, saved, vjp`. `vjp(g, need, *saved)` answers for all inputs at once and
closes over no array, so that what a graph keeps alive is what it lists. Saved arrays are raw: the
node of an output never refers to the output, so there are no cycles and dropping the loss frees
everything. With `create_graph` the saved inputs and outputs come back as Tensors and the vjp, which
is written with ops, records itself; an op that saves anything else is differentiated through its
`definition`, a composition of elementary ops.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import struct
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from minidl import backend
from minidl.config import bound
from minidl.errors import DeviceError, GraphError, require
from minidl.tensor import Tensor, wrap

_number = itertools.count(0, -1).__next__  # downwards: a heap gives the latest first
_recording: ContextVar[bool] = ContextVar("recording", default=True)
observers: ContextVar[tuple[Callable, ...]] = ContextVar("observers", default=())
_inner: ContextVar[list[float] | None] = ContextVar("inner", default=None)
touched_leaves: ContextVar[dict[int, Tensor] | None] = ContextVar("touched", default=None)
registry: dict[str, Op] = {}  # every op by name
Edge = tuple[Any, int]


def _on_one_device(name: str, arrays: list, error: Exception) -> None:
    """Word the error of an op whose tensors lie on different devices."""
    where = {backend.of(a) for a in arrays if hasattr(a, "nbytes")}
    if len(where) > 1:
        names = sorted(be.__name__.rpartition(".")[2] for be in where)
        raise DeviceError(f"{name}: all tensors must be on one device; got {names}") from error


class Node:
    """One recorded call of an op; most of it is dropped once it is freed."""

    __slots__ = (
        "__weakref__", "definition_inputs", "edges", "hooks", "kwargs", "op", "order", "saved",
        "several", "sources", "versions", "vjp",
    )  # fmt: skip

    def __init__(self, op: Op, edges: Any, arrays: Any, kwargs: Any, y: Any, saved: Any,
                 vjp: Any) -> None:  # fmt: skip
        self.op, self.vjp, self.saved, self.kwargs = op, vjp, saved, kwargs
        self.edges, self.order = edges, _number()
        self.several = len(y) if type(y) is tuple else 0  # number of outputs, of a tuple
        self.definition_inputs = arrays if op.definition is not None else None
        self.sources: Any = ()
        self.versions: Any = ()
        self.hooks: dict | None = None

    name = property(lambda self: self.op.name, doc="Name of the op.")
    next_functions = property(
        lambda self: tuple([e or (None, 0) for e in self.edges]),
        doc="Where gradients go: (node, its output) or (leaf, -1).",
    )


class Op:
    """A differentiable function; calling it records a node when an input requires grad."""

    __name__: str

    def __init__(self, function: Callable, definition: Callable | None, view: bool,
                 bilinear: bool) -> None:  # fmt: skip
        self.function, self.definition, self.view = function, definition, view
        self.bilinear = bilinear
        self.name = function.__name__
        functools.update_wrapper(self, function)
        registry[self.name] = self

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.__name__  # copied and pickled as the global that it is, like a function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arrays: list[Any] = []
        edges: list[Edge | None] = []
        tensors = 0
        for x in args:
            if isinstance(x, Tensor):
                if x.parent is not None and _recording.get():
                    refresh(x)
                tensors += 1
                arrays.append(x.array)
                edges.append(edge_of(x) if x.requires else None)
            else:
                arrays.append(x)
                edges.append(None)
        track = any(edges)
        if track and tensors > 1 and len({*map(id, arrays)}) < len(arrays):  # x, x.detach()
            arrays = [x.array.view() if isinstance(x, Tensor) else x for x in args]
        try:
            if observers.get():
                call = functools.partial(self.function, *arrays, **kwargs)
                y, saved, vjp = observed(self.name, arrays, kwargs, call, True)
            else:
                y, saved, vjp = self.function(*arrays, **kwargs)
        except (AttributeError, TypeError, struct.error) as error:
            _on_one_device(self.name, arrays, error)
            raise
        if not tensors:
            return y
        node = None
        if track:
            touched = touched_leaves.get()
            if touched is not None:
                touched.update((id(x), x) for x in args if isinstance(x, Tensor) and x.requires)
            if vjp is not None and _recording.get():
                saved = self.read(saved, vjp, edges) if saved and None in edges else saved
                node = Node(self, edges, arrays, kwargs, y, saved, vjp)
        if type(y) is tuple:
            out: Any = tuple([_output(a, node, k) for k, a in enumerate(y)])
        else:
            out = _output(y, node, 0)
        if node is not None and saved:
            outputs, made = (y, out) if node.several else ((y,), (out,))
            _watch(node, [*arrays, *outputs], [*args, *made], len(arrays))
        if self.view:
            self._link(args, kwargs, out)
        return out

    def read(self, saved: Any, vjp: Any, edges: list[Edge | None]) -> Any:
        """What is saved, with None for what no gradient of an input that has an edge reads."""
        return [s if e else None for s, e in zip(saved, edges[1::-1])] if self.bilinear else saved

    def _link(self, args: Any, kwargs: Any, out: Any) -> None:
        """Tie a view, or each of several, to the tensor whose memory it shows."""
        x = args[0]
        for k, y in enumerate(out) if type(out) is tuple else ((None, out),):
            if isinstance(x, Tensor) and _owner(y.array) is _owner(x.array):
                y.cell = x.shared()
                step = functools.partial(_again, self, args[1:], kwargs, k)
                y.parent = (x, step, x.requires and not y.requires)
                y.seen = y.cell.rebased


def _output(array: Any, node: Node | None, index: int) -> Tensor:
    """A result as a Tensor; only floating ones have the node."""
    if node is None or array.dtype.kind not in "fV":
        return wrap(array, False, None, index)
    return wrap(array, True, node, index)


def _watch(node: Node, arrays: list, tensors: list, inputs: int) -> None:
    """Note which input (i) or output (-1 - k) each saved array is, and its version.

    That is told by the object: no two inputs may be the same one.
    """
    ids, sources, versions = [*map(id, arrays)], [], []
    for s in node.saved:
        i = ids.index(id(s)) if id(s) in ids else None
        sources.append(i if i is None or i < inputs else inputs - i - 1)
        if i is not None and isinstance(tensors[i], Tensor):
            versions.append((cell := tensors[i].shared(), cell.version))
    node.sources, node.versions = sources, versions


def _again(op: Op, rest: tuple, kwargs: dict, k: int | None, x: Any) -> Any:
    y = op(x, *rest, **kwargs)
    return y if k is None else y[k]


def op(function: Callable | None = None, *, definition: Callable | None = None,
       view: bool = False, bilinear: bool = False) -> Any:  # fmt: skip
    """Make a function of raw arrays that returns `y, saved, vjp` a differentiable op.

    definition: the same result composed of elementary ops, needed for second derivatives when the
    op saves more than its inputs and outputs. view: the result may share its first input's memory.
    bilinear: saves its first two inputs, each for the other's gradient alone.
    """
    make = functools.partial(Op, definition=definition, view=view, bilinear=bilinear)
    return make if function is None else make(function)


def observed(label: str, inputs: Any, kwargs: dict, call: Callable[[], Any],
             first: bool = False) -> Any:  # fmt: skip
    """Run a call and tell the observers of it; seconds leave out the observed calls inside it.

    first: the output shown is the first item of what the call returns.
    """
    inner, mine = _inner.get(), [0.0]
    start = time.perf_counter()
    try:
        with bound(_inner, mine):
            result = call()
    finally:
        seconds = time.perf_counter() - start
        if inner is not None:
            inner[0] += seconds
    for observe in observers.get():
        observe(label, inputs, kwargs, result[0] if first else result, seconds - mine[0])
    return result


def _owner(x: Any) -> Any:
    """What an array's memory belongs to: itself, or what it is a view of."""
    while (base := getattr(x, "base", None)) is not None:
        x = base
    return x


def edge_of(x: Tensor) -> Edge:
    return (x, -1) if x.node is None else (x.node, x.index)


def noted(y: Any, *tensors: Any) -> Any:
    """y, whose backward refuses from now on that any of the tensors has been changed."""
    if getattr(y, "node", None) is not None:
        cells = [t.shared() for t in tensors if isinstance(t, Tensor)]
        y.node.versions = [*y.node.versions, *[(cell, cell.version) for cell in cells]]
    return y


def views_to(x: Any) -> list[Any]:
    """The tensor whose memory x shows, a view of it, a view of that, …, x."""
    views = [x]
    while getattr(views[0], "parent", None) is not None:
        views.insert(0, views[0].parent[0])
    return views


def refresh(x: Tensor) -> None:
    """Give a view whose base was written through another tensor its new place in the graph.

    GraphError if the view was made under no_grad, or a tensor took another shape in place since.
    """
    if x.parent is not None and x.seen != x.shared().rebased:
        base, step, outside = x.parent
        rule = "this view's base was changed in place through another tensor; take the view again"
        known = not outside and x.seen >= x.shared().reshaped
        require(known, "autograd", rule, error=GraphError, view=x)
        with enable_grad():  # the step refreshes the base
            take_place(x, step(base))


def take_place(x: Tensor, made: Tensor) -> None:
    """Give x the place of `made` in the graph."""
    hooks = x.node.hooks if x.node is not None else None
    retained = hooks and hooks.pop(("retain_grad", x.index), None)
    x.node, x.index, x.requires = made.node, made.index, made.requires
    x.seen = x.shared().rebased
    if retained:  # it goes with the tensor; other hooks stay with the old values
        x.node.hooks = {("retain_grad", x.index): (x.index, retained[1])}


def settled(y: Any) -> Any:
    """y, a view of a result that nobody else has, as a tensor of its own."""
    if isinstance(y, Tensor):
        y.parent = None
    return y


# ---- modes ---------------------------------------------------------------------------------------


class no_grad(bound):
    """Record nothing inside: a context manager and a decorator."""

    mode = False

    def __init__(self) -> None:
        super().__init__(_recording, self.mode)

    def _recreate_cm(self) -> no_grad:
        return type(self)()  # of a decorated function, for each call: threads

    def __call__(self, function: Any) -> Any:
        if not inspect.isgeneratorfunction(function):
            return super().__call__(function)
        within = super().__call__

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Any:  # each within the mode, not what is between
            step, sent = within(function(*args, **kwargs).send), None
            try:
                while True:
                    sent = yield step(sent)
            except StopIteration as end:
                return end.value

        return steps


class enable_grad(no_grad):
    """Record inside, even within `no_grad`."""

    mode = True


class set_grad_enabled(bound):
    """Turn recording on or off, at once: a function, a context manager and a decorator."""

    def __init__(self, mode: bool) -> None:
        super().__init__(_recording, mode)
        self.__enter__()

    def __exit__(self, *exc: object) -> None:
        super().__exit__()
        if len(self.tokens) == 1:  # behind a `with` block, as before it was made
            super().__exit__()

    def __call__(self, function: Any) -> Any:
        super().__exit__()
        return (enable_grad if self.value else no_grad)()(function)


inference_mode = no_grad


def is_grad_enabled() -> bool:
    """Whether operations are recorded here."""
    return _recording.get()


def watch(observe: Callable) -> bound:
    """Call `observe(op name, inputs, kwargs, output, seconds)` for every op run inside.

    Backward calls come as `NAME_grad`, with the cotangent as the input.
    """
    return bound(observers, (*observers.get(), observe))
