"""Expression graphs of pointwise maths, and the programs that the backends print from them.

A trace makes one `Graph`, in which equal expressions are one node; graphs share nothing. A
`Program` is what a backend prints: numbered registers and the steps that fill them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from minidl.errors import GraphError, require

Number = int | float
COMPARE = {"lt", "le", "gt", "ge", "eq", "ne"}
BOOLEAN = COMPARE | {"and", "or", "not"}
FOLD: dict[str, Callable] = {n: getattr(operator, n) for n in ("add", "sub", "mul", *COMPARE)}


class Graph:
    """The nodes of one trace."""

    def __init__(self) -> None:
        self.nodes: WeakValueDictionary[tuple, Node] = WeakValueDictionary()
        self.count = 0

    def node(self, op: str, *args: Any, value: Any = None) -> Node:
        """The node of `op` on args (nodes or numbers), made once."""
        given = tuple(a if isinstance(a, Node) else self.const(a) for a in args)
        key = (op, tuple([a.index for a in given]), repr(value))
        found = self.nodes.get(key)
        if found is None:
            self.count += 1
            found = self.nodes[key] = Node(self, op, given, value, self.count)
        return found

    def const(self, value: Number) -> Node:
        """A constant; anything but a number is refused."""
        rule = "only traced scalars and numbers can be combined"
        require(isinstance(value, (int, float)), "pointwise", rule, error=GraphError, got=value)
        return self.node("const", value=float(value))

    def leaf(self) -> Node:
        """A new input."""
        self.count += 1
        return Node(self, "leaf", (), None, self.count)


def _refuse(what: str) -> Callable:
    def raises(self: Node, *_: Any) -> Any:
        rule = f"{what} of a traced scalar is not known while tracing"
        raise GraphError(f"pointwise: {rule}; choose between values with where(condition, a, b)")

    return raises


def _binary(op: str, swap: bool = False) -> Callable[[Node, Any], Node]:
    return (lambda a, b: combine(op, b, a)) if swap else (lambda a, b: combine(op, a, b))


class Node:
    """A traced scalar: an operation on other nodes, a constant, or a leaf."""

    __slots__ = ("__weakref__", "args", "graph", "index", "op", "value")
    __array_ufunc__ = None  # NumPy's functions refuse it
    __hash__ = object.__hash__

    def __init__(self, graph: Graph, op: str, args: tuple[Node, ...], value: Any, index: int):
        self.graph, self.op, self.args, self.value, self.index = graph, op, args, value, index

    is_bool = property(lambda self: self.op in BOOLEAN)

    def on(self, args: tuple[Node, ...]) -> Node:
        """The same operation on other arguments."""
        return self.graph.node(self.op, *args, value=self.value) if args else self

    __add__, __radd__ = _binary("add"), _binary("add", True)
    __sub__, __rsub__ = _binary("sub"), _binary("sub", True)
    __mul__, __rmul__ = _binary("mul"), _binary("mul", True)
    __truediv__, __rtruediv__ = _binary("div"), _binary("div", True)
    __pow__, __rpow__ = _binary("pow"), _binary("pow", True)
    __lt__, __le__, __gt__, __ge__ = map(_binary, ("lt", "le", "gt", "ge"))
    __eq__, __ne__ = _binary("eq"), _binary("ne")  # type: ignore[assignment]
    __and__, __rand__ = _binary("and"), _binary("and", True)
    __or__, __ror__ = _binary("or"), _binary("or", True)
    __bool__ = _refuse("the truth")
    __float__ = __int__ = __index__ = _refuse("the number")
    __iter__ = __len__ = __getitem__ = _refuse("an element")

    def __neg__(self) -> Node:
        a = real(self)
        if a.value is not None:
            return self.graph.const(-a.value)
        return a.args[0] if a.op == "neg" else self.graph.node("neg", a)

    def __abs__(self) -> Node:
        return self.graph.node("abs", real(self))

    def __invert__(self) -> Node:
        a = truth(self)
        return a.args[0] if a.op == "not" else self.graph.node("not", a)


def real(a: Any) -> Any:
    """A bool as 0 or 1; anything else as it is."""
    return a.graph.node("real", a) if isinstance(a, Node) and a.is_bool else a


def truth(a: Any) -> Any:
    """A number as a bool."""
    if isinstance(a, Node):
        return a if a.is_bool else a.graph.node("ne", a, 0.0)
    return bool(a)


def combine(op: str, a: Any, b: Any) -> Any:
    """The node of a binary operation, after the folds that change no value."""
    graph = (a if isinstance(a, Node) else b).graph
    if op in ("and", "or"):
        for known, other in ((truth(a), truth(b)), (truth(b), truth(a))):
            if not isinstance(known, Node):  # a comparison of numbers
                return other if known == (op == "and") else known
        return graph.node(op, truth(a), truth(b))
    x, y = (v if isinstance(v, Node) else graph.const(v) for v in (real(a), real(b)))
    left, right = x.value, y.value  # None unless constants
    if op in FOLD and left is not None and right is not None:
        folded = FOLD[op](left, right)
        return folded if op in COMPARE else graph.const(folded)
    if (op in ("mul", "div") and right == 1) or (op == "sub" and right == 0):
        return x
    if op == "mul" and left == 1:
        return y
    if op == "mul" and -1 in (left, right):
        return -x if right == -1 else -y
    if op == "pow" and right in (1, 2, 3, 0.5, -1):
        return {1: lambda: x, 2: lambda: x * x, 3: lambda: x * x * x,
                0.5: lambda: graph.node("sqrt", x), -1: lambda: 1 / x}[right]()  # fmt: skip
    return graph.node(op, x, y)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b; the branch not taken has no say in the gradient."""
    c = truth(condition)
    if not isinstance(c, Node):
        return a if c else b
    if a is b:
        return a
    return c.graph.node("where", c, real(a), real(b))


def unary(op: str) -> Callable[[Any], Any]:
    """The function of one traced scalar (or number) named `op`."""

    def function(x: Any) -> Any:
        if isinstance(x, Node):
            return x.graph.node(op, real(x))
        if isinstance(x, (int, float)) and hasattr(math, op):
            return getattr(math, op)(x)
        raise GraphError(f"pointwise: {op} here takes a traced scalar; got {type(x).__name__}")

    function.__name__ = op
    return function


exp, log, log2, log10 = map(unary, ("exp", "log", "log2", "log10"))
log1p, expm1, asinh, acosh, atanh = map(unary, ("log1p", "expm1", "asinh", "acosh", "atanh"))
sin, cos, tan, asin, acos, atan = map(unary, ("sin", "cos", "tan", "asin", "acos", "atan"))
sinh, cosh, tanh, erf, erfc = map(unary, ("sinh", "cosh", "tanh", "erf", "erfc"))
sqrt, sigmoid, softplus, relu, sign = map(unary, ("sqrt", "sigmoid", "softplus", "relu", "sign"))
floor, ceil, rint, trunc = map(unary, ("floor", "ceil", "rint", "trunc"))


def rsqrt(x: Any) -> Any:
    """1 / sqrt(x)."""
    return 1 / sqrt(x)


def node_of(op: str, *args: Any) -> Any:
    """The node of an operation of several arguments, of which at least one is traced."""
    graphs = [a.graph for a in args if isinstance(a, Node)]
    require(bool(graphs), "pointwise", f"{op} here takes a traced scalar", error=GraphError)
    return graphs[0].node(op, *map(real, args))


def binary(op: str) -> Callable[[Any, Any], Any]:
    """The function of two scalars named `op`, of which at least one is traced."""
    return lambda x, y: node_of(op, x, y)


# The larger and the smaller are NaN if either is, and a tie shares the gradient in halves; fmod is
# the remainder of x / y with the sign of x.
maximum, minimum, atan2, fmod = map(binary, ("maximum", "minimum", "atan2", "fmod"))


def clamp(x: Any, low: Any, high: Any) -> Any:
    """min(max(x, low), high); the gradient passes where low <= x <= high."""
    return node_of("clamp", x, low, high)


# Operations that the printers need not know, in terms of those they do.
LOWER: dict[str, Callable[..., Node]] = {
    "relu": lambda x: where(x <= 0, 0.0, x),
    "sign": lambda x: real(x > 0) - real(x < 0),
    "maximum": lambda a, b: where((a > b) | (a != a), a, b),
    "minimum": lambda a, b: where((a < b) | (a != a), a, b),
    "clamp": lambda x, low, high: LOWER["minimum"](LOWER["maximum"](x, low), high),
}


def reachable(outputs: Iterable[Node]) -> list[Node]:
    """The outputs and all they depend on, arguments first."""
    found: dict[int, Node] = {}
    todo = list(outputs)
    while todo:
        node = todo.pop()
        if node.index not in found:
            found[node.index] = node
            todo += node.args
    return [found[i] for i in sorted(found)]


def rewrite(outputs: Iterable[Node], change: Callable[[Node, tuple], Node]) -> list[Node]:
    """The outputs with every node replaced by change(node, its replaced arguments)."""
    new: dict[int, Node] = {}
    for node in reachable(outputs):
        new[node.index] = change(node, tuple([new[a.index] for a in node.args]))
    return [new[o.index] for o in outputs]


def substitute(outputs: Iterable[Node], table: Mapping[int, Node]) -> list[Node]:
    """The outputs with the nodes of the given indices replaced."""
    return rewrite(outputs, lambda n, args: table[n.index] if n.index in table else n.on(args))


# ---- programs ------------------------------------------------------------------------------------

Step = tuple[str, tuple[int, ...], Any]


class Program:
    """Leaves and outputs of a graph as numbered steps, the same for every printer.

    Registers 0 … len(leaves) - 1 hold the leaves, step k fills register len(leaves) + k. `steps`
    uses only what printers know; `high` keeps relu, maximum … as written. `key` identifies both.
    """

    def __init__(self, leaves: Sequence[Node], outputs: Sequence[Node]) -> None:
        self.leaves = len(leaves)
        self.high, self.high_outputs = _number(leaves, outputs)
        low = rewrite(outputs, lambda n, args: LOWER[n.op](*args) if n.op in LOWER else n.on(args))
        self.steps, self.outputs = _number(leaves, low)
        self.booleans = tuple([o.is_bool for o in outputs])
        self.key = repr((self.leaves, self.steps, self.outputs))
        read = {a for _, args, _ in self.steps for a in args} | set(self.outputs)
        self.used = tuple([i in read for i in range(self.leaves)])


def _number(leaves: Sequence[Node], outputs: Sequence[Node]) -> tuple[list[Step], tuple[int, ...]]:
    numbers = {leaf.index: i for i, leaf in enumerate(leaves)}
    steps: list[Step] = []
    for node in reachable(outputs):
        if node.index not in numbers:
            assert node.op != "leaf", "an expression reads a leaf of another trace"
            steps.append((node.op, tuple([numbers[a.index] for a in node.args]), node.value))
            numbers[node.index] = len(leaves) + len(steps) - 1
    return steps, tuple([numbers[o.index] for o in outputs])
