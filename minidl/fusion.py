"""Pointwise maths written once: a small Python function of scalars becomes one differentiable op.

`@pointwise` traces the function into an expression graph; a backend prints one kernel from it. The
gradient is derived symbolically and is a pointwise op again, so derivatives of any order are fused
too. Inside such a function use the functions below (`exp`, `where`, …) or other pointwise ops.
"""

from __future__ import annotations

import functools
import inspect
from builtins import abs
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

# isort: off
from minidl import backend
from minidl.autograd import parts
from minidl.backend.expression import (
    Graph, Node, Program, acos, acosh, asin, asinh, atan, atan2, atanh, ceil, clamp, cos, cosh, erf,
    erfc, exp, expm1, floor, fmod, log, log10, log1p, log2, maximum, minimum, reachable, relu, rint,
    rsqrt, sigmoid, sign, sin, sinh, softplus, sqrt, substitute, tan, tanh, trunc, where,
)  # fmt: skip
from minidl.backend.cpu.replay import made
from minidl.backend.live import live
from minidl.calculus import gradients
from minidl.dtypes import is_real, real, result_type
from minidl.errors import DeviceError, DTypeError, GraphError, ShapeError, require
from minidl.tape import Op
# isort: on

RECORDS = 4096  # signatures an op remembers


class Trace:
    """An expression graph with its leaves and outputs, and the gradients derived from it."""

    def __init__(self, graph: Graph, leaves: Sequence[Node], outputs: Sequence[Node],
                 several: bool) -> None:  # fmt: skip
        self.graph, self.leaves, self.outputs, self.several = graph, leaves, outputs, several
        self.program = Program(leaves, outputs)
        self.derived: dict[tuple, Derived] = {}

    def derive(self, name: str, wanted: tuple, present: tuple, save_output: bool) -> Derived:
        """The gradient of the wanted leaves from the cotangents present, made once."""
        key = (wanted, present)
        if key not in self.derived:
            self.derived[key] = Derived(self, name, wanted, present, save_output)
        return self.derived[key]


def trace(function: Callable, names: Sequence[str], static: dict[str, Any]) -> Trace:
    """Run the function on fresh leaves for `names`; parameters in `static` get their values.

    None among its results is left out.
    """
    graph = Graph()
    leaves = [graph.leaf() for _ in names]
    values = dict(zip(names, leaves, strict=True)) | static
    call = inspect.BoundArguments(inspect.signature(function), values)
    result = function(*call.args, **call.kwargs)
    several = isinstance(result, tuple)
    results = result if several else (result,)
    outputs = [y if isinstance(y, Node) else graph.const(y) for y in results if y is not None]
    return Trace(graph, leaves, outputs, several)


class Derived:
    """A gradient: which saved values it reads, the op that computes it, where each result is.

    `leaves` and `outputs` number the inputs and outputs of the forward op that it reads. `places`
    says where the gradient of a leaf is among the cotangents and, behind them, the results of `op`.
    """

    def __init__(self, of: Trace, name: str, wanted: tuple, present: tuple, save_output: bool):
        graph = of.graph
        cotangents = {j: graph.leaf() for j, here in enumerate(present) if here}
        pairs = [(of.outputs[j], c) for j, c in cotangents.items()]
        found = gradients(pairs, [of.leaves[i] for i in wanted])
        kept = {}
        if save_output:
            kept = {j: graph.leaf() for j, o in enumerate(of.outputs) if o.args}
            found = substitute(found, {of.outputs[j].index: leaf for j, leaf in kept.items()})
        number = {c.index: n for n, c in enumerate(cotangents.values())}
        later, rest = count(len(number)), [g for g in found if g.index not in number]
        places = [number[g.index] if g.index in number else next(later) for g in found]
        self.places = dict(zip(wanted, places, strict=True))
        read = {n.index for n in reachable(rest)}
        self.leaves = [i for i, leaf in enumerate(of.leaves) if leaf.index in read]
        self.outputs = [j for j, leaf in kept.items() if leaf.index in read]
        inputs = [*(of.leaves[i] for i in self.leaves), *(kept[j] for j in self.outputs)]
        made = Trace(graph, [*inputs, *cotangents.values()], rest, len(rest) > 1)
        self.op = Pointwise(made, name=f"{name}_grad") if rest else None


class Backward:
    """The vjp of one signature of an op. Saves what the gradient of all its real inputs reads."""

    def __init__(self, name: str, of: Trace, moving: dict[int, int], metas: Sequence[Any],
                 save_output: bool) -> None:  # fmt: skip
        self.name, self.of, self.moving, self.metas = name, of, moving, metas
        self.save_output = save_output
        self.present = tuple([not b for b in of.program.booleans])
        whole = of.derive(name, tuple(moving.values()), self.present, save_output)
        self.leaves, self.outputs = whole.leaves, whole.outputs
        self.plan = functools.cache(self._plan)

    def __call__(self, g: Any, need: tuple[bool, ...], *saved: Any) -> list[Any]:
        """Gradients for the positional arguments; `moving` maps their numbers to leaves."""
        cotangents, present = [g], self.present
        if self.of.several:
            cotangents = [h for h in g if h is not None]
            present = tuple([h is not None for h in g])
        op, read, places = self.plan(need, present)
        if op is not None:
            found = op(*[saved[k] for k in read], *cotangents)
            cotangents += found if op.several else (found,)
        grads: list[Any] = [None] * len(need)
        for i, k, shape, dtype in places:
            h = cotangents[k]
            if h.shape != shape:
                h = parts["sum_to"](h, shape=shape)
            grads[i] = h if h.dtype == dtype else parts["to_dtype"](h, dtype)
        return grads

    def read(self, saved: list, edges: list) -> list:
        """What is saved, with None for what no gradient of an input that has an edge reads."""
        if len(edges) - edges.count(None) == len(self.moving):
            return saved
        need = tuple([edge is not None for edge in edges])
        read = self.plan(need, self.present)[1]
        return [s if k in read else None for k, s in enumerate(saved)]

    def _plan(self, need: tuple[bool, ...], present: tuple) -> tuple:
        """The op to call, the saved values it reads, and each gradient's place behind them."""
        wanted = {i: leaf for i, leaf in self.moving.items() if need[i]}
        d = self.of.derive(self.name, tuple(wanted.values()), present, self.save_output)
        read = [self.leaves.index(i) for i in d.leaves]
        read += [len(self.leaves) + self.outputs.index(j) for j in d.outputs]
        return d.op, read, [(i, d.places[leaf], *self.metas[i]) for i, leaf in wanted.items()]


class Pointwise(Op):
    """A differentiable op from a function of scalars: call it on tensors, arrays and numbers.

    Broadcasts as NumPy, promotes dtypes as PyTorch, keeps channels-last memory order. Parameters
    given as numbers travel beside the kernel, so that new values compile nothing; None, strings and
    keyword bools choose another trace.

    integer: NumPy's function for integer and bool tensors, where these keep their dtype; without
    it they are converted to float32. save_output: the gradient is written in terms of the output,
    which is kept in place of what it was computed from.
    """

    def __init__(self, function: Callable | Trace, *, name: str = "",
                 integer: Callable | None = None, save_output: bool = False) -> None:  # fmt: skip
        self.function, self.definition, self.view = self._forward, None, False
        self.integer, self.save_output = integer, save_output
        self._records: dict[tuple, Callable] = {}
        self._traces: dict[tuple, Trace] = {}
        if isinstance(function, Trace):
            self.name = self.__name__ = name
            self.traced = None
            self._traces[()] = function
            self.several = function.several
            return
        functools.update_wrapper(self, function)
        self.name, self.traced = name or function.__name__, function
        self.signature = inspect.signature(function)
        for p in self.signature.parameters.values():
            require(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD),
                    self.name, "a pointwise function has named parameters only",
                    error=GraphError, parameter=p.name)  # fmt: skip

    def _forward(self, *args: Any, **kwargs: Any) -> tuple:
        """(y, saved, vjp), as every op."""
        signature: list[Any] = []
        for a in args:
            if type(a) is np.ndarray:
                signature += a.dtype, a.shape, a.strides
            else:
                signature.append(float if type(a) is float else _kind(a))
        for k, v in kwargs.items():
            signature += k, v if isinstance(v, bool) else _kind(v)
        key = tuple(signature)
        record = self._records.get(key)
        if record is None:
            if len(self._records) >= RECORDS:
                self._records.clear()
            record = self._records[key] = self._prepare(args, kwargs)
        return record(args, kwargs)

    def read(self, saved: Any, vjp: Any, edges: list) -> Any:
        return vjp.read(saved, edges)

    def _prepare(self, args: tuple, kwargs: dict) -> Callable:
        """What to do for this signature: a function of (args, kwargs)."""
        if any(isinstance(a, Node) for a in (*args, *kwargs.values())):  # inside another trace
            function: Any = self.traced
            return lambda args, kwargs: (function(*args, **kwargs), (), None)
        if any(isinstance(a, np.generic) for a in args):
            return lambda args, kwargs: self._forward(
                *[np.asarray(a) if isinstance(a, np.generic) else a for a in args], **kwargs
            )
        arrays = [a for a in args if hasattr(a, "dtype")]
        there = [a for a in arrays if type(a) is not np.ndarray]
        if there and len(there) < len(arrays):
            return self._brought(backend.of(there[0]))
        names, fetch, static, values = self._bind(args, kwargs)
        if not arrays:
            require(bool(args) and _is_number(args[0]), self.name, "needs a tensor",
                    error=DTypeError, got=args[0] if args else None)  # fmt: skip
            first = result_type(*filter(_is_number, args))
            return lambda args, kw: self._forward(np.asarray(args[0], first), *args[1:], **kw)
        self._check_shapes(names, values)
        dtype = result_type(*[a for a in args if hasattr(a, "dtype") or _is_number(a)])
        whole = self.integer is not None and not is_real(dtype)
        if whole and not there:
            return lambda args, kwargs: (made(self._whole, dtype, args, kwargs), (), None)
        if whole:  # for NumPy's complaint, and its dtype
            ones = self._whole(dtype, (np.ones((), dtype),) * len(args), kwargs)
            dtype = np.promote_types(dtype, ones.dtype)
        traced = self._trace(names, static)
        be = backend.of(arrays[0])
        plan = be.plan_pointwise(traced.program, values, dtype if whole else real(dtype))
        vjp = self._backward(traced, args, names)
        several, leaves = traced.several, vjp.leaves if vjp else ()
        outputs = vjp.outputs if vjp else ()

        def run(args: tuple, kwargs: dict) -> tuple:
            operands = args if fetch is None else fetch(args, kwargs)
            y = plan(operands)
            saved = [*[operands[i] for i in leaves], *[y[j] for j in outputs]]
            return (y if several else y[0]), saved, vjp

        if several or leaves or outputs or fetch is not None:
            return run
        return lambda args, kwargs: (plan(args)[0], (), vjp)

    def _brought(self, be: Any) -> Callable:
        """What to do where numbers of the host's, as 0-d arrays, meet arrays of a GPU."""

        def here(a: Any) -> Any:
            if type(a) is not np.ndarray:
                return a
            rule = "all tensors must be on one device (only numbers are brought there)"
            require(not a.ndim, self.name, rule, error=DeviceError, host=a)
            return be.constant(a)

        return lambda args, kwargs: self._forward(*map(here, args), **kwargs)

    def _bind(self, args: tuple, kwargs: dict) -> tuple:
        """Names of the leaves, how to fetch them from a call, the static values, the leaves."""
        if self.traced is None:
            return [f"input {i}" for i in range(len(args))], None, {}, args
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        names, static, values, sources = [], {}, [], []
        for i, (name, value) in enumerate(bound.arguments.items()):
            given = i < len(args)
            number = _is_number(value) and (given or type(value) is not bool)
            if number or hasattr(value, "dtype"):
                require(given or number, self.name, "pass tensors by position",
                        error=DTypeError, **{name: value})  # fmt: skip
                names.append(name)
                values.append(value)
                sources.append((i, name, None if hasattr(value, "dtype") else value))
            else:
                require(value is None or isinstance(value, (str, bool)), self.name,
                        "takes tensors and numbers", error=DTypeError, **{name: value})  # fmt: skip
                static[name] = value
        if [i for i, _, _ in sources] == list(range(len(args))):
            return names, None, static, values

        def fetch(args: tuple, kwargs: dict) -> list:
            n = len(args)
            return [args[i] if i < n else kwargs.get(name, value) for i, name, value in sources]

        return names, fetch, static, values

    def _check_shapes(self, names: Sequence[str], values: Sequence[Any]) -> None:
        shapes = [a.shape for a in values if hasattr(a, "dtype")]
        width = max(map(len, shapes))
        for sizes in zip(*[(1,) * (width - len(s)) + tuple(s) for s in shapes], strict=True):
            require(len({*sizes} - {1}) < 2, self.name, "shapes must broadcast",
                    **dict(zip(names, values, strict=True)))  # fmt: skip

    def _trace(self, names: Sequence[str], static: dict[str, Any]) -> Trace:
        key = tuple(static.items())
        if key not in self._traces:
            assert self.traced is not None
            self._traces[key] = trace(self.traced, names, static)
        return self._traces[key]

    def _backward(self, traced: Trace, args: tuple, names: Sequence[str]) -> Backward | None:
        """The vjp for the real arrays among the positional arguments; None if there are none."""
        order = {name: leaf for leaf, name in enumerate(names)}
        given = names if self.traced is None else list(self.signature.parameters)
        moving = {i: order[given[i]] for i, a in enumerate(args)
                  if hasattr(a, "dtype") and is_real(a.dtype)}  # fmt: skip
        if not moving or all(traced.program.booleans):
            return None
        metas = [(a.shape, a.dtype) if hasattr(a, "dtype") else None for a in args]
        return Backward(self.name, traced, moving, metas, self.save_output)

    def _whole(self, dtype: np.dtype, args: tuple, kwargs: dict) -> np.ndarray:
        """Integers and bools keep their dtype: NumPy's function does them."""
        assert self.integer is not None
        given = [a if a is None else np.asarray(a).astype(dtype, copy=False) for a in args]
        try:
            with np.errstate(all="ignore", divide="raise"):
                return np.asarray(self.integer(*given, **kwargs))
        except TypeError:
            raise DTypeError(f"{self.name}: not defined for {dtype} tensors") from None
        except FloatingPointError:
            raise ShapeError(f"{self.name}: integers cannot be divided by zero") from None


def _is_number(a: Any) -> bool:
    return isinstance(a, (int, float)) and not isinstance(a, np.generic)


def _kind(a: Any) -> Any:
    """What a call's signature keeps of an argument that is not a NumPy array."""
    if type(a) in (float, int):
        return type(a)
    if hasattr(a, "dtype"):
        return type(a), a.dtype, a.shape, getattr(a, "strides", None)
    return a if a is None or isinstance(a, str) else type(a)


def pointwise(function: Callable, *, name: str = "") -> Any:
    """Make a function of scalars a differentiable op on tensors (a decorator).

    Integer and bool tensors are converted to float32.
    """
    return Pointwise(function, name=name)


def numbers(scalars: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """The values of these names: floats, and arrays of one as they are."""
    return [v if hasattr(v, "dtype") else float(v) for v in map(scalars.__getitem__, names)]


class Update:
    """An update of arrays in place, e.g. an optimizer's step, over many rows in one launch."""

    def __init__(self, function: Callable, inplace: Sequence[str]) -> None:
        self.name, self.function = function.__name__, function
        self.__doc__ = function.__doc__
        parameters = inspect.signature(function).parameters.values()
        self.arrays = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.scalars = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.inplace = inplace
        self._plans: dict[tuple, tuple[Program, list[int], list[str]]] = {}

    def apply_(self, rows: Sequence[Sequence[Any]], absent: tuple = (), again: Any = None,
               skip: Any = None, **scalars: Any) -> None:  # fmt: skip
        """Update every row (raw arrays, one for each positional parameter) in place.

        All keyword parameters must be given: numbers (or arrays of one) may change freely, None,
        bools and strings choose another kernel. One launch for each dtype, float32 or float64.
        absent: names of positional parameters that rows lack; the function gets None and returns
        None for them.
        again: gives the keywords anew where the call is captured and replayed. skip: an array (1,)
        on the rows' device; where it is not 0, nothing changes.
        """
        kinds = [v if v is None or isinstance(v, (bool, str)) else float for v in scalars.values()]
        key = (absent, skip is None, *scalars, *kinds)
        if key not in self._plans:
            self._plans[key] = self._plan(absent, scalars, skip is not None)
        program, inplace, names = self._plans[key]
        values = live(numbers(scalars, names), again and (lambda: numbers(again(), names)),
                      np.float64)  # fmt: skip
        values += [] if skip is None else [skip]
        for dtype in {row[0].dtype for row in rows}:
            alike = [row for row in rows if row[0].dtype == dtype]
            backend.of(alike[0][0]).update(program, alike, values, inplace)

    def _plan(self, absent: tuple, scalars: dict[str, Any],
              skips: bool) -> tuple[Program, list[int], list[str]]:  # fmt: skip
        """The program of a call, which arrays it replaces, and the names of its numbers."""
        require(sorted(scalars) == sorted(self.scalars), self.name, "needs exactly its keywords",
                error=DTypeError, given=sorted(scalars), keywords=sorted(self.scalars))  # fmt: skip
        names = [n for n in self.scalars if not isinstance(scalars[n], bool | str | None)]
        static = {n: scalars.get(n) for n in (*absent, *self.scalars) if n not in names}
        arrays = [n for n in self.arrays if n not in absent]
        made = trace(self.function, [*arrays, *names], static)
        inplace = [arrays.index(n) for n in self.inplace if n in arrays]
        require(len(made.outputs) == len(inplace), self.name,
                "must return one result for each array updated in place",
                error=GraphError, results=len(made.outputs))  # fmt: skip
        if not skips:
            return made.program, inplace, names
        skip, pairs = made.graph.leaf(), zip(inplace, made.outputs, strict=True)
        kept = [where(skip != 0, made.leaves[k], y) for k, y in pairs]
        return Program([*made.leaves, skip], kept), inplace, names


def update(*, inplace: Sequence[str]) -> Callable[[Callable], Update]:
    """Make a function of scalars an `Update`; its i-th result replaces the i-th name of inplace."""
    return lambda function: Update(function, inplace)
