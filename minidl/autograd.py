"""Backward: walks the tape in reverse, and derivatives of any order.

Cotangents wait at nodes in a heap ordered by creation, so that a node is visited once, after all
that came later, without recursion. Each node is freed as it is passed, unless the graph is kept.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any

import numpy as np

# isort: off
from minidl import backend
from minidl.dtypes import is_real
from minidl.errors import GraphError, require
from minidl.tape import (
    Edge, Node, Op, edge_of, enable_grad, inference_mode, is_grad_enabled, no_grad,
    observed, observers, op, refresh, registry, set_grad_enabled, watch,
)  # fmt: skip
from minidl.tensor import Device, Tensor, arrays_in, raw, wrap
# isort: on

AFTER = -1  # of a leaf's hooks: behind the accumulation of its gradient
parts: dict[str, Callable] = {}  # ops that the walk itself needs, filled in by minidl.ops


def run_backward(
    outputs: Sequence[Tensor], cotangents: Sequence[Any], *, retain_graph: bool = False,
    create_graph: bool = False, inputs: Sequence[Tensor] | None = None, stop: bool = False,
) -> list[Any]:  # fmt: skip
    """Push cotangents back from the outputs.

    Without inputs the gradients are added to the leaves' `.grad`; with inputs they are returned
    (raw arrays, or Tensors with create_graph; None where nothing arrived), no `.grad` changes, and
    only what an input lies behind is visited and freed.
    Outputs whose cotangent is None, or that are no Tensors, are passed over.
    stop: look for no input behind another one.
    """
    starts = [(edge_of(t), g) for t, g in zip(outputs, cotangents, strict=True)
              if g is not None and isinstance(t, Tensor) and t.requires]  # fmt: skip
    walk = _Walk(create_graph, inputs)
    if inputs is not None:
        walk.limit([edge for edge, _ in starts], stop)
    for edge, g in starts:
        walk.put(edge, g)
    with set_grad_enabled(create_graph):
        while walk.heap:
            walk.visit(heappop(walk.heap)[1], retain_graph or create_graph)
    return walk.finish()


class _Walk:
    """One backward pass: cotangents waiting at nodes and leaves, the latest node first."""

    def __init__(self, create_graph: bool, inputs: Sequence[Tensor] | None) -> None:
        self.create_graph, self.inputs = create_graph, inputs
        self.observed = bool(observers.get())
        self.heap: list[tuple[int, Node]] = []
        self.pending: dict[Node, list[Any]] = {}
        self.leaves: dict[int, list[Any]] = {}  # id -> [leaf, sum of what arrived]
        self.found: dict[Edge, Any] = {edge_of(t): None for t in inputs or ()}
        self.leading: set[Node] | None = None  # nodes that an input lies behind; None: not limited

    def limit(self, starts: Sequence[Edge], stop: bool) -> None:
        """Find the nodes that an input lies behind; freed ones on the way count, and raise."""
        ends = {target for target, _ in self.found}
        reached: set[Node] = set()
        waiting = [target for target, k in starts if k >= 0]
        while waiting:
            node = waiting.pop()
            if node not in reached and not (stop and node in ends):
                reached.add(node)
                waiting += [edge[0] for edge in node.edges if edge and edge[1] >= 0]
        self.leading = leading = set()
        for node in sorted(reached, key=attrgetter("order"), reverse=True):  # the earliest first
            freed = node.vjp is None and node not in ends
            if freed or any(e in self.found or e[0] in leading for e in node.edges if e):
                leading.add(node)

    def put(self, edge: Edge, g: Any) -> None:
        """Add a cotangent to what waits at an edge."""
        target, k = edge
        if self.leading is not None and edge not in self.found and target not in self.leading:
            return
        if k < 0:
            entry = self.leaves.setdefault(id(target), [target, None])
            entry[1] = g if entry[1] is None else parts["add"](entry[1], g)
            return
        slots = self.pending.get(target)
        if slots is None:
            slots = self.pending[target] = [None] * (target.several or 1)
            heappush(self.heap, (target.order, target))
        slots[k] = g if slots[k] is None else parts["add"](slots[k], g)

    def visit(self, node: Node, retain: bool) -> None:
        """Run one node's vjp and pass its results on."""
        slots = self.pending.pop(node)
        if node.hooks:
            last = sorted(node.hooks, key=lambda key: type(key) is tuple)  # retain_grad's
            for k, hook in map(node.hooks.__getitem__, last):
                if slots[k] is not None:
                    slots[k] = self._hooked(hook, slots[k])
        if self.leading is not None:
            for k, g in enumerate(slots):
                if (node, k) in self.found:
                    self.found[node, k] = g
            if node not in self.leading:
                return
        if node.vjp is None:
            require(False, node.name, "its graph was freed by an earlier backward",
                    error=GraphError, fix="pass retain_graph=True to the first one")  # fmt: skip
        edges = node.edges
        need = tuple([edge is not None for edge in edges])
        g = tuple(slots) if node.several else slots[0]
        if node.versions or self.observed or self.create_graph:
            grads = self._grads(node, g, need)
        else:
            grads = node.vjp(g, need, *node.saved)
        for edge, x in zip(edges, grads, strict=True):
            if edge is not None and x is not None:
                self.put(edge, x)
        if not retain:
            node.vjp = node.definition_inputs = node.kwargs = None
            node.saved = node.edges = node.sources = node.versions = ()

    def _hooked(self, hook: Callable, g: Any) -> Any:
        changed = hook(g if isinstance(g, Tensor) else wrap(g))
        if changed is None:
            return g
        rule = "a hook must return a gradient of the same shape"
        require(np.shape(changed) == g.shape, "hook", rule, error=GraphError, returned=changed)
        return changed if self.create_graph else raw(changed)

    def _grads(self, node: Node, g: Any, need: tuple[bool, ...]) -> Any:
        for cell, seen in node.versions:
            if cell.version != seen:
                versions = f"(it was at version {seen}, now {cell.version})"
                rule = f"a tensor that backward needs was changed in place {versions}"
                require(False, node.name, rule, error=GraphError, fix="clone it before changing it")
        if self.create_graph:
            return _differentiably(node, g, need)
        vjp, saved = node.vjp, node.saved
        if not observers.get():
            return vjp(g, need, *saved)
        return observed(f"{node.name}_grad", [g], node.kwargs, lambda: vjp(g, need, *saved))

    def finish(self) -> list[Any]:
        """Give what was asked for, or add what arrived at the leaves to their `.grad`."""
        for entry in self.leaves.values():
            for when, hook in (entry[0].hooks or {}).values():
                if when != AFTER:
                    entry[1] = self._hooked(hook, entry[1])
        entry = []  # it would count among those that hold its gradient
        if self.inputs is not None:
            self.found |= {(leaf, -1): g for leaf, g in self.leaves.values()}
            return [self.found[edge_of(t)] for t in self.inputs]
        while self.leaves:
            _, (leaf, g) = self.leaves.popitem()
            _accumulate(leaf, g)
        return []


def _accumulate(leaf: Tensor, g: Any) -> None:
    """Add a gradient to `leaf.grad`; take the array itself when nobody else holds it."""
    if g.dtype != leaf.dtype:
        g = parts["to_dtype"](g, leaf.dtype)
    recorded = isinstance(g, Tensor)  # create_graph
    held = leaf.leaf_grad if recorded else raw(leaf.leaf_grad)
    if held is not None:
        g = parts["add"](held, g)
    elif not recorded and not backend.of(g).sole_owner(g, 4):
        # references: the caller's name, ours, the argument, getrefcount's
        g = backend.of(g).copy(g)
    leaf.leaf_grad = g if recorded else wrap(g)
    for when, hook in (leaf.hooks or {}).values():
        if when == AFTER:
            hook(leaf)


def _differentiably(node: Node, g: Any, need: tuple[bool, ...]) -> Any:
    """A node's vjp with everything it touches as Tensors, so that it records itself."""
    if node.op.definition is not None:
        return _through_definition(node, g)
    saved = []
    for s, where in zip(node.saved, node.sources, strict=True):
        if where is None:
            lost = hasattr(s, "dtype") and is_real(s.dtype) and s.ndim
            rule = "saves an array that is neither its input nor its output and has no definition"
            fix = "it cannot be differentiated twice"
            require(not lost, node.name, rule, error=GraphError, fix=fix)
            saved.append(s)
        elif where < 0:
            saved.append(wrap(s, True, node, -1 - where))
        else:
            saved.append(_tensor_of(s, node.edges[where]))
    return node.vjp(g, need, *saved)


def _tensor_of(array: Any, edge: Edge | None) -> Any:
    if edge is None:
        return array
    target, k = edge
    return target if k < 0 else wrap(array, True, target, k)


def _through_definition(node: Node, g: Any) -> list[Any]:
    """Differentiate the op's definition at its inputs, on the graph that made them."""
    assert node.op.definition is not None and node.definition_inputs is not None
    pairs = zip(node.definition_inputs, node.edges, strict=True)
    places = [_tensor_of(array, edge) for array, edge in pairs]
    aliases = [parts["alias"](t) if isinstance(t, Tensor) else t for t in places]
    y = node.op.definition(*aliases, **node.kwargs)
    inputs = [t for t in aliases if isinstance(t, Tensor)]
    outputs, cotangents = (y, g) if node.several else ((y,), (g,))
    given = [h if h is None or isinstance(h, Tensor) else wrap(h) for h in cotangents]
    found = iter(run_backward(outputs, given, create_graph=True, inputs=inputs, stop=True))
    return [next(found) if isinstance(t, Tensor) else None for t in aliases]


def backward(tensors: Tensor | Iterable[Tensor], gradient: Any = None,
             retain_graph: bool | None = None, create_graph: bool = False,
             inputs: Tensor | Iterable[Tensor] | None = None) -> None:  # fmt: skip
    """Add the gradients of tensors (scalars, or weighted by `gradient`) to the leaves' grad.

    As a method, of one tensor. inputs: the only ones whose grad is added to.
    """
    ins = None if inputs is None else _several(inputs)
    require(ins != (), "backward", "inputs must not be empty", error=GraphError)
    starts = _starts("backward", tensors, gradient, create_graph, ins or ())
    found = run_backward(*starts, retain_graph=bool(retain_graph), create_graph=create_graph,
                         inputs=ins)  # fmt: skip
    for t, g in zip(ins or (), found, strict=True):
        if g is not None:
            _accumulate(t, g)


def _several(given: Any) -> tuple:
    single = hasattr(given, "shape") or not isinstance(given, Iterable)
    return (given,) if single else tuple(given)


def _starts(name: str, outputs: Any, given: Any, create_graph: bool, inputs: tuple) -> Any:
    """The outputs that a walk begins at, and their cotangents."""
    outs = _several(outputs)
    weights = (None,) * len(outs) if given is None else _several(given)
    require(len(weights) == len(outs), name, "needs a cotangent for each output", error=GraphError)
    for t in (*outs, *inputs):
        refresh(t)
        require(t.requires, name, "the tensor does not require grad", error=GraphError, tensor=t)
    return outs, [_cotangent(t, g, create_graph) for t, g in zip(outs, weights, strict=True)]


def _cotangent(t: Tensor, given: Any, create_graph: bool) -> Any:
    if given is None:
        require(t.array.size == 1, "backward", "only a scalar has a gradient of its own; pass one",
                error=GraphError, tensor=t)  # fmt: skip
        array = backend.of(t.array).full_like(t.array, 1)
    else:
        require(np.shape(given) == t.shape, "backward", "gradient must have the tensor's shape",
                error=GraphError, gradient=given, tensor=t)  # fmt: skip
        array = raw(given)
        if not hasattr(array, "dtype") or array.dtype != t.dtype:
            array = backend.of(t.array).cast(backend.beside(array, t.array), t.dtype)
    if create_graph:
        return given if isinstance(given, Tensor) else wrap(array)
    return array


def grad(outputs: Tensor | Iterable[Tensor], inputs: Tensor | Iterable[Tensor],
         grad_outputs: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
         only_inputs: bool = True, allow_unused: bool = False) -> tuple:  # fmt: skip
    """Gradients of the outputs' sum (weighted by grad_outputs) with respect to the inputs.

    With allow_unused None for an input that they do not depend on. only_inputs is always so.
    """
    ins = _several(inputs)
    starts = _starts("grad", outputs, grad_outputs, create_graph, ins)
    keep = create_graph if retain_graph is None else retain_graph
    found = run_backward(*starts, retain_graph=keep, create_graph=create_graph, inputs=ins)
    rule, fix = "an input was not used to compute the outputs", "pass allow_unused=True"
    for t, g in zip(ins, found, strict=True):
        require(g is not None or allow_unused, "grad", rule, error=GraphError, fix=fix, input=t)
    return tuple(g if g is None or isinstance(g, Tensor) else wrap(g) for g in found)


class set_detect_anomaly(AbstractContextManager):
    """Make the op that first yields a NaN, forward or backward, raise and name itself.

    A function (on until called with False) and a context manager. Reads every result: slow.
    """

    def __init__(self, mode: bool = True) -> None:
        self.before = observers.get()
        kept = tuple(o for o in self.before if o is not _refuse_nan)
        observers.set((*kept, _refuse_nan) if mode else kept)

    def __exit__(self, *exc: object) -> None:
        observers.set(self.before)


def _refuse_nan(name: str, inputs: Any, kwargs: dict, output: Any, seconds: float) -> None:
    if _any_nan(output) and not _any_nan(inputs):
        raise GraphError(f"{name}: made the first NaN (its inputs have none)")


def _any_nan(nest: Any) -> bool:
    real = (a for a in arrays_in(nest) if is_real(a.dtype))
    return any(np.isnan(backend.of(a).to_host(a)).any() for a in real)


Tensor.backward = backward  # type: ignore[attr-defined]
