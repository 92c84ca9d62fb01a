"""The table that gives Tensor its operators and methods: each is a function of minidl.ops."""

import functools
import inspect
import itertools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from minidl.autograd import AFTER, Tensor
from minidl.errors import DTypeError, GraphError, require
from minidl.ops import creation, index, inplace, join, linalg, pointwise, reduce, shape, softmax
from minidl.ops.arguments import length_of
from minidl.wide import linalg as matrices
from minidl.wide import names, statistics, tensors

_NUMPY = {"axis": "dim", "keepdims": "keepdim"}
_OTHERS = "other", "exponent", "mat2", "vec2", "vec"  # what PyTorch calls a second operand


def _functions(names: dict[Any, str]) -> dict[str, Callable]:
    """Each module's functions of these names, by name."""
    return {n: _lenient(getattr(m, n)) for m, listed in names.items() for n in listed.split()}


def _lenient(function: Callable) -> Callable:
    """As PyTorch's do, it takes input=, other=, out=, NumPy's axis= and keepdims=, and dims=…"""
    own = inspect.signature(function).parameters
    spread = next((name for name, p in own.items() if p.kind is p.VAR_POSITIONAL), "")
    places = [name for name, p in own.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    first, second, *_ = [*places, "", ""] if places[:1] != ["condition"] else places[1:]
    known = {**_NUMPY, "input": first, **dict.fromkeys(_OTHERS, second)}
    known = {name: ours for name, ours in known.items() if name not in own}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            return function(*args)
        out = kwargs.pop("out", None)  # NumPy's functions call methods with out=None
        kwargs = {known.get(k, k): v for k, v in kwargs.items()}
        if spread in kwargs:
            args = (*args, kwargs.pop(spread))
        while len(args) < len(places) and places[len(args)] in kwargs:  # an op's tensors have none
            args = (*args, kwargs.pop(places[len(args)]))
        made = function(*args, **kwargs)
        return made if out is None else out.copy_(made)

    return call


TABLE = _functions({
    pointwise: """
        abs add sub mul div neg pow exp log log1p sqrt rsqrt square reciprocal sin cos tanh sigmoid
        erf sign floor ceil clamp maximum minimum masked_fill eq ne gt ge lt le logical_and
        logical_or logical_not isnan log2 expm1 tan asin acos atan atan2 sinh cosh logit logaddexp
        erfc trunc remainder fmod floor_divide lerp addcmul isinf isfinite isclose allclose
        relu exp2 log10 asinh acosh atanh""",
    reduce: """
        sum mean var std prod amax amin max min argmax argmin all any logsumexp cumsum sort argsort
        topk var_mean count_nonzero norm""",
    shape: """
        reshape view permute transpose t flatten unflatten squeeze unsqueeze broadcast_to movedim
        clone contiguous""",
    join: "repeat flip chunk split unbind narrow",
    index: """
        gather scatter scatter_add index_select nonzero diagonal diag diag_embed tril triu""",
    linalg: "matmul mm bmm mv dot outer",
    softmax: "softmax log_softmax",
    tensors: """
        nan_to_num cumprod median is_floating_point unique bincount equal trace tile roll
        take_along_dim index_add index_put masked_select scatter_reduce addmm baddbmm
        repeat_interleave""",
    names: """
        clamp_min clamp_max addcdiv where round logical_xor isin diff select take index_fill flipud
        fliplr rot90 cross kron dist frac deg2rad rad2deg tensor_split inner""",
    statistics: """
        nansum nanmean kthvalue mode quantile trapezoid cov corrcoef aminmax histc""",
    matrices: "cholesky det logdet matrix_power qr slogdet",
    creation: "bernoulli multinomial",
})  # fmt: skip
TABLE |= {"inverse": matrices.inv, "pinverse": matrices.pinv, "trapz": statistics.trapezoid}
TABLE |= {second: TABLE[first] for second, first in names.SECOND.items()}
FUNCTIONS = _functions({  # of `minidl` alone
    creation: """
        arange as_tensor empty empty_like eye from_numpy full full_like linspace normal ones
        ones_like rand randint randn randn_like randperm tensor zeros zeros_like""",
    join: "cat stack",
    linalg: "einsum",
    tensors: """
        cdist std_mean is_tensor meshgrid tril_indices triu_indices tensordot set_printoptions""",
    names: """
        searchsorted bucketize numel hstack vstack column_stack dstack broadcast_tensors
        cartesian_prod rand_like randint_like logspace atleast_1d atleast_2d atleast_3d block_diag
        compile get_default_dtype set_default_dtype FloatTensor DoubleTensor HalfTensor LongTensor
        IntTensor ByteTensor BoolTensor""",
})  # fmt: skip
FUNCTIONS |= {second: FUNCTIONS[first] for second, first in names.SECOND_JOINS.items()}
IN_PLACE = """
    add sub mul div pow floor_divide remainder neg abs square reciprocal sqrt rsqrt exp expm1 log
    log1p log2 sin cos tanh sigmoid relu erf sign round floor ceil clamp clamp_min clamp_max clip
    masked_fill nan_to_num lerp addcmul addcdiv addmm baddbmm scatter scatter_add scatter_reduce
    index_add index_put index_fill tril triu cumsum cumprod logical_not logical_and logical_or
    logical_xor multiply divide subtract""".split()
COMPARISONS = "neg abs gt ge lt le".split()  # and signs: the operators of the same name
ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "div": "truediv", "pow": "pow"}
ARITHMETIC |= {"floor_divide": "floordiv", "remainder": "mod"}
DTYPES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64"}
DTYPES |= {"int": "int32", "bool": "bool", "short": "int16", "char": "int8", "byte": "uint8"}


def _reflected(function: Callable) -> Callable:
    return lambda self, other: function(other, self)


def _comparison(function: Callable) -> Callable:
    """== or !=, of which Python asks identity where the other is None."""
    return lambda self, other: NotImplemented if other is None else function(self, other)


def _bitwise(name: str, function: Callable) -> Callable:
    def method(self: Tensor, *others: Any) -> Tensor:
        for x in (self, *others):
            whole = x.dtype.kind in "biu" if hasattr(x, "dtype") else isinstance(x, int)
            require(whole, name, "needs bools or integers", error=DTypeError, operand=x)
        return function(self, *others)

    method.__doc__ = f"Bitwise {name}."
    return method


def to(self: Tensor, *args: Any, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
    """In another dtype or on another device: to(dtype), to(device), to(other tensor)."""
    for a in args:
        if isinstance(a, Tensor):
            dtype, device = a.dtype, a.device
        elif isinstance(a, str) and a.partition(":")[0] in ("cpu", "cuda"):
            device = a
        elif a is not None and not isinstance(a, bool):
            dtype = a
    moved = self if device is None else creation.moved(self, device)
    return moved if dtype is None else shape.to_dtype(moved, creation.dtype_of(dtype))


def _to(name: str) -> Callable:
    def method(self: Tensor) -> Tensor:
        return shape.to_dtype(self, name)

    method.__doc__ = f"In dtype {name}."
    return method


def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or one of its sizes."""
    return self.shape if dim is None else length_of(dim, self, "size")[1]


def stride(self: Tensor, dim: int | None = None) -> Any:
    """How many elements lie from one place to the next, along every axis or one."""
    steps = tuple(s // self.array.itemsize for s in self.array.strides)
    return steps if dim is None else steps[dim]


def retain_grad(self: Tensor) -> None:
    """Keep the gradient of a tensor that is not a leaf in its `.grad`."""
    require(self.requires, "retain_grad", "the tensor does not require grad", error=GraphError)
    if self.node is not None:
        me = weakref.ref(self)

        def keep(g: Tensor) -> None:
            if (t := me()) is not None:
                t.leaf_grad = g if t.leaf_grad is None else pointwise.add(t.leaf_grad, g)

        _hooks_of(self.node)["retain_grad", self.index] = (self.index, keep)  # but once


class Handle(AbstractContextManager):
    """What registering a hook returns: takes the hook away by `remove()` or after a `with` block.

    Keys come from one counter and are never used again, so removing twice hurts no later hook.
    """

    counter = itertools.count()

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self.hooks, self.key = hooks, next(Handle.counter)
        hooks[self.key] = hook

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        self.hooks.pop(self.key, None)

    def __exit__(self, *exc: object) -> None:
        self.remove()


def _hooks_of(owner: Any) -> dict:
    """The hooks of a leaf or of a node: (number of the output or AFTER, hook) by key."""
    if owner.hooks is None:
        owner.hooks = {}
    return owner.hooks


def register_hook(self: Tensor, hook: Callable) -> Handle:
    """Call hook(gradient) in backward; a Tensor that it returns replaces the gradient."""
    require(self.requires, "register_hook", "the tensor does not require grad", error=GraphError)
    return Handle(_hooks_of(self if self.node is None else self.node), (self.index, hook))


def register_post_accumulate_grad_hook(self: Tensor, hook: Callable) -> Handle:
    """Call hook(leaf) after a backward has added to the leaf's gradient."""
    require(self.is_leaf, "hook", "only leaves accumulate gradients", error=GraphError)
    return Handle(_hooks_of(self), (AFTER, hook))


def is_contiguous(self: Tensor, memory_format: Any = None) -> bool:
    """Whether the memory is in C order."""
    return self.array.flags.c_contiguous


TABLE |= {f"bitwise_{n}": _bitwise(n, f) for n, f in pointwise.BITWISE.items()}
TABLE["bitwise_not"] = _bitwise("not", lambda x: pointwise.logical_not(x) if x.dtype.kind == "b"
                                else pointwise.sub(-1, x))  # fmt: skip
EXTRA: dict[str, Any] = {
    "__pos__": lambda self: self,
    "T": property(lambda x: shape.permute(x, *range(x.ndim)[::-1]), doc="The axes reversed."),
    "mT": property(lambda x: shape.transpose(x, -2, -1), doc="The last two axes exchanged."),
    "nbytes": property(lambda x: x.array.nbytes),
    **{f.__name__: f for f in (to, size, stride, is_contiguous, retain_grad, register_hook)},
    "cpu": lambda self: to(self, device="cpu"),
    "cuda": lambda self, device=None: to(self, device=f"cuda:{device or 0}"),
    **{name: _to(dtype) for name, dtype in DTYPES.items()},
    **dict.fromkeys(("numel", "nelement"), lambda self: self.array.size),
    **dict.fromkeys(("dim", "ndimension"), lambda self: self.array.ndim),
    "__contains__": lambda self, value: bool(pointwise.eq(self, value).any().item()),
    "expand": shape.expand_to,
    "expand_as": lambda self, other: shape.broadcast_to(self, other.shape),
    **tensors.METHODS,
    **names.METHODS,
    **inplace.METHODS,
    **{f"{name}_": inplace.method(name, TABLE[name]) for name in IN_PLACE},
    "register_post_accumulate_grad_hook": register_post_accumulate_grad_hook,
    "__getitem__": index.getitem,
    "__setitem__": inplace.setitem,
    "__invert__": TABLE["bitwise_not"],
    "where": lambda self, condition, other: pointwise.where(condition, self, other),
    # operators take no keywords
    **{f"__{n}__": getattr(pointwise, n) for n in COMPARISONS},
    **{f"__{n}__": _comparison(getattr(pointwise, n)) for n in ("eq", "ne")},
    **{f"__{python}__": getattr(pointwise, n) for n, python in ARITHMETIC.items()},
    **{f"__r{python}__": _reflected(getattr(pointwise, n)) for n, python in ARITHMETIC.items()},
    "__matmul__": linalg.matmul,
    "__rmatmul__": _reflected(linalg.matmul),
    **{f"__{r}{n}__": TABLE[f"bitwise_{n}"] for n in pointwise.BITWISE for r in ("", "r")},
    **{f"__i{ARITHMETIC[n]}__": inplace.method(n, TABLE[n]) for n in ARITHMETIC},
    **{f"__i{n}__": inplace.method(n, TABLE[f"bitwise_{n}"]) for n in pointwise.BITWISE},
}


def _bound(function: Callable) -> Callable:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__doc__ = function.__doc__
    return method


for _name, _function in {**TABLE, **EXTRA}.items():
    # an Op is an object, and only a function becomes a method
    setattr(Tensor, _name, _function if hasattr(_function, "__get__") else _bound(_function))
