"""Ops at edges where PyTorch has a rule: sizes 0 and 1, numbers, ties, NaN, dtypes, copies."""

import numpy as np
import pytest

import minidl as ml
import minidl.functional as F
from minidl import fusion as f
from minidl.errors import DTypeError, ShapeError

NAN, INF = float("nan"), float("inf")


def gradient(function, values):
    """Of the sum of a function's result at a point, as a list."""
    x = ml.tensor(values, dtype=ml.float64, requires_grad=True)
    function(x).sum().backward()
    return x.grad.tolist()


@pytest.mark.parametrize(("function", "values", "want"), [
    (lambda x: x.std(), [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]),
    (lambda x: x.std(), [3.0, 1.0], [0.5**0.5, -(0.5**0.5)]),
    (lambda x: x.norm(0.5), [1.0, 0.0], [1.0, 0.0]),
    (lambda x: x.norm(0.5), [0.0, 0.0], [0.0, 0.0]),
    (lambda x: x.norm(), [3.0, 4.0], [0.6, 0.8]),
    (lambda x: x.max(), [1.0, NAN, 2.0], [0.0, 1.0, 0.0]),
    (lambda x: x.min(), [NAN, NAN], [0.5, 0.5]),
    (lambda x: x.amax(0), [2.0, 1.0, 2.0], [0.5, 0.0, 0.5]),
    (lambda x: x.max(0)[0], 3.0, 1.0),
    (ml.pointwise(lambda x: x**0 * x), [3.0], [1.0]), (ml.pointwise(lambda x: x**0), [3.0], [0.0]),
])  # fmt: skip
def test_gradients_at_edges_are_pytorchs(function, values, want):
    """Regression: NaN at constant inputs, at zeros under a p-norm, and everywhere beside a NaN."""
    np.testing.assert_allclose(gradient(function, values), want, rtol=1e-12)


@pytest.mark.parametrize(("shape", "function"), [
    ((1, 3), lambda x: x.repeat(4, 1)), ((3,), lambda x: x.repeat(4, 1)),
    ((2, 3), lambda x: x.repeat(1, 1)), ((2, 1), lambda x: x.repeat(1, 4)),
    ((1, 3), lambda x: x.prod(0)), ((), lambda x: x.prod()), ((), lambda x: x.cumsum(0)),
    ((), lambda x: x.max(0)[0]), ((), lambda x: x.sort()[0]), ((), lambda x: x.topk(1)[0]),
    ((), lambda x: x.gather(0, ml.tensor(0))), ((), lambda x: x.index_select(0, ml.tensor(0))),
])  # fmt: skip
def test_results_share_no_memory_with_their_input(shape, function):
    """Regression: they were views, some of which could not be written."""
    x = ml.ones(shape)
    function(x).add_(1.0)
    assert (x.numpy() == 1).all()


def test_an_expansion_to_the_same_size_can_be_written():
    """Regression: NumPy's view of it was read-only."""
    x = ml.zeros(2, 3)
    x.expand(2, 3)[0] = 1.0
    x.expand(1, 2, 3).add_(1.0)
    assert x.tolist() == [[2.0] * 3, [1.0] * 3]


@pytest.mark.parametrize(("result", "want"), [
    (lambda: ml.zeros(2, 0).logsumexp(1), [-INF, -INF]),
    (lambda: ml.tensor([[1, 0], [2, 3]]).all(dim=()), [[True, False], [True, True]]),
    (lambda: ml.tensor([[1, 0], [2, 3]]).any(dim=()), [[True, False], [True, True]]),
    (lambda: ml.zeros(1, 1).squeeze(()), [[0.0]]),
    (lambda: ml.tensor(2.0).nonzero(as_tuple=True)[0], [0]),
    (lambda: ml.tensor(2.0).movedim(0, 0), 2.0),
    (lambda: ml.tensor(2.0).index_select(0, ml.tensor([0])), 2.0),
    (lambda: ml.tensor(2.0).gather(0, ml.tensor([0, 0])), [2.0, 2.0]),
    (lambda: ml.tensor(2.0).scatter(0, ml.tensor(0), 5.0), 5.0),
    (lambda: ml.tensor(2.0).scatter_add(0, ml.tensor(0), ml.tensor(5.0)), 7.0),
    (lambda: ml.zeros(2).scatter_add(0, ml.tensor(1), ml.tensor(5.0)), [0.0, 5.0]),
    (lambda: ml.tensor(2.0).repeat_interleave(2), [2.0, 2.0]),
    (lambda: ml.tensor([2, 1, -1, 0]) ** ml.tensor([-1, -2, -3, 0]), [0, 1, -1, 1]),
    (lambda: ml.div(ml.tensor([-7, 7, -(2**53) - 1]), ml.tensor([2, -2, 1]), rounding_mode="trunc"),
     [-3, -3, -(2**53) - 1]),
    (lambda: F.pad(ml.tensor(2.0), ()), 2.0),
    (lambda: F.pad(ml.arange(5.0)[None], (3, -2), mode="circular"), [[0.0, 1.0, 2.0] * 2]),
    (lambda: F.kl_div(ml.tensor(1.0), ml.tensor(1.0), reduction="batchmean"), -1.0),
    (lambda: F.interpolate(ml.arange(4.0)[None, None], scale_factor=1.1, mode="linear"),
     [[[0.0, 1.0, 2.0, 3.0]]]),
    (lambda: ml.pointwise(lambda x: x**0)(ml.tensor([2.0, 0.0])), [1.0, 1.0]),
])  # fmt: skip
def test_values_at_edges_are_pytorchs(result, want):
    assert result().tolist() == want


@pytest.mark.parametrize(("result", "want"), [
    (lambda: ml.ones(2).sum(dtype=ml.int32), ml.int32),
    (lambda: ml.tensor([1, 2]).cumsum(0, dtype=ml.int32), ml.int32),
    (lambda: ml.tensor(True).cumsum(0), ml.int64),
    (lambda: ml.zeros(0).prod(dtype=ml.int32), ml.int32),
    (lambda: ml.cat([ml.ones(2), ml.zeros(0, dtype=ml.float64)]), ml.float64),
    (lambda: ml.tensor([True]) ** 2, ml.int64), (lambda: ml.tensor([3]) ** 2.0, ml.float32),
])  # fmt: skip
def test_dtypes_at_edges_are_pytorchs(result, want):
    assert result().dtype == want


def test_tensors_compare_with_none_by_identity():
    """Regression: `x == None` and `None in [x]` raised."""
    x = ml.tensor(2.0)
    assert (x == None) is False and (x != None) is True  # noqa: E711
    assert None not in [x] and (x == 2).item()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_running_sums_are_added_up_in_double(dtype):
    """Regression: each was rounded to the dtype before the next; those of bfloat16 stood at 256."""
    x = ml.full((70_000,), 0.1).to(getattr(ml, dtype))
    want = np.cumsum(x.double().numpy()).astype(x.dtype)
    np.testing.assert_array_equal(x.cumsum(0).double(), want.astype(np.float64))


@pytest.mark.parametrize("divide", [
    lambda x: x // 0, lambda x: x % 0, lambda x: 1 // (x - 1), lambda x: x.bool() // 0,
    lambda x: ml.div(x, 0, rounding_mode="trunc"),
])  # fmt: skip
def test_integers_cannot_be_divided_by_zero(divide):
    """Regression: the result was 0."""
    with pytest.raises(ShapeError, match="integers cannot be divided by zero"):
        divide(ml.tensor([1, 2]))


@pytest.mark.parametrize("array", [
    np.ones(3, np.dtype("f4").newbyteorder()), np.array(["a"]), np.array([1], object),
])  # fmt: skip
@pytest.mark.parametrize("make", [ml.tensor, ml.as_tensor, ml.from_numpy])
def test_arrays_that_kernels_cannot_read_are_refused(make, array):
    """Regression: kernels read the bytes of big-endian numbers as if they were little-endian."""
    with pytest.raises(DTypeError, match="data must be real numbers or bools"):
        make(array)


@pytest.mark.parametrize("value", [NAN, [1e20], [2.0, INF], 3e9])
def test_floats_that_no_integer_holds_are_refused(value):
    """Regression: they became the least integer."""
    with pytest.raises(DTypeError, match="numbers must fit into int32"):
        ml.tensor(value, dtype=ml.int32)
    assert ml.tensor([1.7, -1.7], dtype=ml.int32).tolist() == [1, -1]


@pytest.mark.parametrize("p", [0, 1, 2, 3, INF])
def test_norms_of_integers_are_refused(p):
    """Regression: the squares of bytes wrapped around."""
    x = ml.full((2, 3), 100, dtype=ml.uint8)
    with pytest.raises(DTypeError, match="norm: x must be floating point"):
        x.norm(p)
    with pytest.raises(DTypeError, match="norm: x must be floating point"):
        ml.cdist(x, x, p)


@pytest.mark.parametrize("use", [
    lambda x: x.narrow(0, 0, 1), lambda x: x.split(1), lambda x: x.chunk(2), lambda x: x.unbind(),
    lambda x: x.unfold(0, 1, 1), lambda x: x.unflatten(0, (1, 1)), lambda x: x.diag_embed(),
    lambda x: x.size(0),
])  # fmt: skip
def test_what_needs_an_axis_says_so(use):
    """Regression: an IndexError about tuples."""
    with pytest.raises(ShapeError, match="x must have an axis"):
        use(ml.tensor(1.0))


@pytest.mark.parametrize("size", [(-3, -1), (-2, -3, -1)])
def test_sizes_below_minus_one_are_refused(size):
    """Regression: they were left to NumPy to complain of."""
    with pytest.raises(ShapeError, match="one size may be -1"):
        ml.zeros(6).reshape(size)


def test_an_empty_axis_is_cut_into_as_many_chunks():
    """Regression: into one."""
    assert [x.shape for x in ml.zeros(2, 0).chunk(3, 1)] == [(2, 0)] * 3


@pytest.mark.parametrize("change", [lambda x: x.mul_(2.0), lambda x: x.__setitem__(0, 1.0)])
def test_a_piece_of_an_expanded_tensor_cannot_be_changed(change):
    """Regression: a ValueError of NumPy's."""
    with pytest.raises(ShapeError, match="read-only tensor cannot be changed"):
        change(ml.zeros(3).expand(2, 3)[0])


def test_an_integer_of_numpy_is_an_index_of_embedding():
    """Regression: memory beside it was read."""
    w = ml.arange(6.0).reshape(3, 2)
    for index in (np.int64(1), np.int32(1), 1):
        assert F.embedding(index, w).tolist() == [2.0, 3.0]


def test_cosine_similarity_broadcasts_before_it_sums():
    x, y = np.arange(6.0).reshape(2, 3), np.arange(2.0).reshape(2, 1)
    got = F.cosine_similarity(ml.tensor(x), ml.tensor(y), 1).numpy()
    wide = np.broadcast_to(y, x.shape)
    norms = [np.maximum(np.linalg.norm(a, axis=1), 1e-8) for a in (x, wide)]
    np.testing.assert_allclose(got, (x * wide).sum(1) / norms[0] / norms[1])


def test_shared_heads_take_an_empty_batch():
    q, k = ml.ones(0, 4, 3, 2), ml.ones(0, 2, 3, 2)
    assert F.scaled_dot_product_attention(q, k, k, enable_gqa=True).shape == (0, 4, 3, 2)


@pytest.mark.parametrize("write", [
    lambda x, v: x.masked_fill(x == x, v), lambda x, v: x.clone().masked_fill_(x == x, v),
    lambda x, v: x.clone().fill_(v), lambda x, v: ml.full((2,), v, dtype=x.dtype), ml.full_like,
    lambda x, v: [y := x.clone(), y.__setitem__(slice(None), v)][0],
])  # fmt: skip
def test_a_number_is_cut_off_or_refused(write):
    """Regression: some ops refused 1.5, some wrapped 300 round, some raised NumPy's errors."""
    numbers = (("uint8", -1, 255), ("int8", -1.5, -1), ("int64", 1.5, 1), ("bool", 300, True))
    for dtype, value, want in (*numbers, ("bool", float("nan"), True)):
        y = write(ml.ones(2).to(dtype), value)
        assert y.dtype == dtype and y.tolist() == [want] * 2
    for dtype, value in (("uint8", 256), ("int8", -129), ("int64", float("inf")), ("uint8", -0.5)):
        with pytest.raises(DTypeError, match=rf"[a-z_]+: the number must fit into {dtype}; got"):
            write(ml.ones(2).to(dtype), value)


def test_the_bounds_of_integers_are_integers_of_their_dtype():
    """Regression: clamp(max=300) of bytes was clamp(max=44)."""
    x = ml.tensor([0, 100, 255], dtype=ml.uint8)
    assert x.clamp(1, 200).tolist() == [1, 100, 200] and x.clamp(max=0.5).dtype == ml.float32
    with pytest.raises(DTypeError, match="clamp: the number must fit into uint8; got value 300"):
        x.clamp(max=300)
    assert x.masked_fill(x > 1, ml.tensor(2.5)).tolist() == [0, 2, 2]


@pytest.mark.parametrize("base", [2.0, 0.5])
def test_a_number_to_the_power_of_a_traced_scalar(base):
    """Its gradient asks whether the number is 0, which is known while it is traced."""
    large = base > 1

    @ml.pointwise
    def grown(x):
        taken = f.where((x > 0) & large, base**x, x)
        return taken + f.where(large | (x > 0), 10.0, 20.0)

    x = ml.tensor([-2.0, 3.0], dtype=ml.float64, requires_grad=True)
    assert grown(x).tolist() == ([8.0, 18.0] if large else [18.0, 13.0])
    assert ml.gradcheck(grown, (x,)) and ml.gradgradcheck(grown, (x,))
