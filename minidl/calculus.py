"""Derivatives of pointwise expressions: a rule for each operation, and the reverse sweep.

The rules are written with the same operations, so that their results differentiate again.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

# isort: off
from minidl.backend.expression import (
    Node, cos, cosh, exp, log, reachable, sigmoid, sign, sin, sinh, sqrt, trunc, where,
)  # fmt: skip


def _power(e: Node, g: Node) -> tuple:
    x, y = e.args
    dx = where(y == 0, 0.0, g * (y * x ** (y - 1)))
    return dx, where((x == 0) & (y >= 0), 0.0, g * (e * log(x)))


def _extreme(wins: Callable) -> Callable:
    def rule(e: Node, g: Node) -> tuple:
        a, b = e.args
        half = where(a == b, g * 0.5, g)
        return where(wins(b, a), 0.0, half), where(wins(a, b), 0.0, half)

    return rule


def _clamp(e: Node, g: Node) -> tuple:
    x, low, high = e.args
    inside = (x >= low) & (x <= high)
    below, above = (x < low) & (low < high), (x > high) | (high < low)
    return where(inside, g, 0.0), where(below, g, 0.0), where(above, g, 0.0)


def _atan2(e: Node, g: Node) -> tuple:
    y, x = e.args
    r, origin = x * x + y * y, (x == 0) & (y == 0)
    return where(origin, 0.0, g * (x / r)), where(origin, 0.0, -(g * (y / r)))


TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)
# Cotangents of the arguments of a node e from that of its result, g.
DERIVATIVE: dict[str, Callable[[Node, Node], tuple]] = {
    "add": lambda e, g: (g, g),
    "sub": lambda e, g: (g, -g),
    "mul": lambda e, g: (g * e.args[1], g * e.args[0]),
    "div": lambda e, g: (g / e.args[1], -(g * (e / e.args[1]))),
    "neg": lambda e, g: (-g,),
    "abs": lambda e, g: (g * sign(e.args[0]),),
    "sqrt": lambda e, g: (g / (e * 2),),
    "exp": lambda e, g: (g * e,),
    "log": lambda e, g: (g / e.args[0],),
    "log2": lambda e, g: (g / (e.args[0] * math.log(2)),),
    "log10": lambda e, g: (g / (e.args[0] * math.log(10)),),
    "log1p": lambda e, g: (g / (e.args[0] + 1),),
    "expm1": lambda e, g: (g * (e + 1),),
    "sin": lambda e, g: (g * cos(e.args[0]),),
    "cos": lambda e, g: (-(g * sin(e.args[0])),),
    "tan": lambda e, g: (g * (e * e + 1),),
    "asin": lambda e, g: (g / sqrt(1 - e.args[0] * e.args[0]),),
    "acos": lambda e, g: (-(g / sqrt(1 - e.args[0] * e.args[0])),),
    "atan": lambda e, g: (g / (e.args[0] * e.args[0] + 1),),
    "sinh": lambda e, g: (g * cosh(e.args[0]),),
    "cosh": lambda e, g: (g * sinh(e.args[0]),),
    "asinh": lambda e, g: (g / sqrt(e.args[0] * e.args[0] + 1),),
    "acosh": lambda e, g: (g / sqrt(e.args[0] * e.args[0] - 1),),
    "atanh": lambda e, g: (g / (1 - e.args[0] * e.args[0]),),
    "tanh": lambda e, g: (g * (1 - e * e),),
    "erf": lambda e, g: (g * (TWO_OVER_ROOT_PI * exp(-(e.args[0] * e.args[0]))),),
    "erfc": lambda e, g: (g * (-TWO_OVER_ROOT_PI * exp(-(e.args[0] * e.args[0]))),),
    "sigmoid": lambda e, g: (g * (e * (1 - e)),),
    "softplus": lambda e, g: (g * sigmoid(e.args[0]),),
    "relu": lambda e, g: (where(e <= 0, 0.0, g),),
    "fmod": lambda e, g: (g, -(g * trunc(e.args[0] / e.args[1]))),
    "pow": _power,
    "maximum": _extreme(lambda a, b: a > b),
    "minimum": _extreme(lambda a, b: a < b),
    "clamp": _clamp,
    "atan2": _atan2,
}


# ---- gradients -----------------------------------------------------------------------------------

Guard = tuple[tuple[int, bool], ...]  # conditions (by index) that a cotangent holds under
Terms = dict[Guard, Node]


def _merge(terms: Terms, conditions: dict[int, Node]) -> Terms:
    """Join the cotangents of a condition and of its opposite into one `where`."""
    for guard in sorted(terms, key=len, reverse=True):
        if not guard or guard not in terms:
            continue
        (index, holds), before = guard[-1], guard[:-1]
        other = (*before, (index, not holds))
        if other in terms:
            v, w = terms.pop(guard), terms.pop(other)
            joined = where(conditions[index], v, w) if holds else where(conditions[index], w, v)
            terms[before] = terms[before] + joined if before in terms else joined
            return _merge(terms, conditions)
    return terms


def _total(terms: Terms, conditions: dict[int, Node]) -> Node:
    total: Any = None
    for guard, v in _merge(terms, conditions).items():
        for index, holds in reversed(guard):
            v = where(conditions[index], v, 0.0) if holds else where(conditions[index], 0.0, v)
        total = v if total is None else total + v
    return total


def gradients(outputs: Sequence[tuple[Node, Node]], inputs: Sequence[Node]) -> list[Node]:
    """Cotangents of the inputs, given (output, its cotangent) pairs; 0 where nothing arrives.

    A branch of `where` is differentiated under its condition, which is applied last: a factor that
    is infinite or NaN where the branch is not taken never meets the zero it would spoil.
    """
    nodes = reachable([o for o, _ in outputs])
    moving = {i.index for i in inputs}
    for node in nodes:
        if any(a.index in moving for a in node.args) and not node.is_bool:
            moving.add(node.index)
    waiting: dict[int, Terms] = {}
    conditions: dict[int, Node] = {}

    def put(node: Node, guard: Guard, g: Any) -> None:
        if node.index in moving and isinstance(g, Node):  # a rule may find that it is plain 0
            terms = waiting.setdefault(node.index, {})
            terms[guard] = terms[guard] + g if guard in terms else g

    for output, g in outputs:
        put(output, (), g)
    wanted = {i.index for i in inputs}
    for node in reversed(nodes):
        if node.index in wanted or node.index not in waiting:
            continue
        for guard, g in _merge(waiting.pop(node.index), conditions).items():
            if node.op == "where":
                index = node.args[0].index
                conditions[index] = node.args[0]
                put(node.args[1], (*guard, (index, True)), g)
                put(node.args[2], (*guard, (index, False)), g)
            elif node.op in DERIVATIVE:  # else a step function: no gradient
                for a, d in zip(node.args, DERIVATIVE[node.op](node, g), strict=True):
                    put(a, guard, d)
    arrived = [(i.graph, waiting.get(i.index)) for i in inputs]
    return [_total(terms, conditions) if terms else graph.const(0.0) for graph, terms in arrived]
