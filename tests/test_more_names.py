"""Second names and short functions beyond their golden values: draws, drawn inputs, errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.figure import Figure

import minidl as ml
import minidl.functional as F
from minidl.errors import DeviceError, DTypeError, GraphError, MinidlError, ShapeError
from minidl.tensor import printing

FLOATS = st.floats(-5, 5, width=32)


def test_draws_in_place_have_their_distributions():
    ml.manual_seed(0)
    x = ml.empty(20000)
    assert x.bernoulli_(0.3) is x
    assert abs(x.mean().item() - 0.3) < 0.02 and set(x.unique().tolist()) == {0.0, 1.0}
    chances = ml.tensor([0.0, 1.0, 0.5]).expand(5000, 3)
    drawn = ml.empty(5000, 3, dtype=ml.int64).bernoulli_(chances).double().mean(0).tolist()
    assert drawn[:2] == [0.0, 1.0] and abs(drawn[2] - 0.5) < 0.03
    x.exponential_(2.0)
    assert x.min().item() >= 0 and abs(x.mean().item() - 0.5) < 0.02
    assert abs((x > 0.5).float().mean().item() - np.exp(-1)) < 0.02
    k = ml.empty(5000, dtype=ml.int64).random_(3)
    assert set(k.tolist()) == {0, 1, 2} and set(k.random_(-2, 0).tolist()) == {-2, -1}
    assert set(ml.randint_like(x, 2, 4).tolist()) == {2.0, 3.0}
    u = ml.rand_like(ml.zeros(2000, dtype=ml.float64))
    assert u.dtype == np.float64 and 0 <= u.min().item() and abs(u.mean().item() - 0.5) < 0.05


def test_draws_follow_their_generator():
    for draw in ("bernoulli_", "exponential_", "uniform_"):
        first, second = (getattr(ml.empty(9), draw)(generator=ml.Generator(3)) for _ in range(2))
        assert first.tolist() == second.tolist(), draw


@given(arrays(np.float32, st.integers(0, 12), elements=FLOATS),
       arrays(np.float32, (3, 4), elements=FLOATS), st.booleans())  # fmt: skip
def test_searchsorted_is_numpys(rows, x, right):
    rows = np.sort(rows)
    want = np.searchsorted(rows, x, "right" if right else "left")
    got = ml.searchsorted(ml.tensor(rows), ml.tensor(x), right=right)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got.numpy(), want)


@given(arrays(np.float64, (5, 3), elements=FLOATS), st.floats(0, 1), st.integers(-2, 1))
def test_quantile_is_numpys(x, q, dim):
    want = np.quantile(x, q, axis=dim)
    np.testing.assert_allclose(ml.quantile(ml.tensor(x), q, dim).numpy(), want, atol=1e-9)


def test_writes_in_place_have_gradients():
    x = ml.tensor([[1.0, 2.0, 3.0]] * 2, requires_grad=True)
    k = ml.tensor([[0], [2]])
    hot = ml.zeros(2, 3).scatter_(1, k, 1)
    assert hot.tolist() == [[1, 0, 0], [0, 0, 1]]
    y = (x * 1).scatter_(1, k, 0.0).scatter_add_(1, k, x[:, 1:2] * 3)
    y.sum().backward()
    assert x.grad.tolist() == [[0, 4, 1], [1, 4, 0]]
    with pytest.raises(GraphError, match="scatter_: a leaf that requires grad"):
        x.scatter_(1, k, 0.0)


def test_detach_in_place_ends_a_graph():
    """Truncated backpropagation: what came before counts for nothing, a leaf's own graph stays."""
    x = ml.tensor([2.0], requires_grad=True)
    h = x * 3
    y = h * 2
    h.detach_()
    assert h.is_leaf and not h.requires_grad
    (y + h * x).sum().backward()
    assert x.grad.tolist() == [12.0]


def test_alpha_dropout_keeps_mean_and_variance():
    ml.manual_seed(0)
    y = F.alpha_dropout(ml.randn(200, 1000), 0.3, True)
    assert abs(y.mean().item()) < 0.01 and abs(y.std().item() - 1) < 0.01
    low = -1.0507009873554805 * 1.6732632423543772
    dropped = 0.7 * low / (0.7 * (1 + 0.3 * low * low)) ** 0.5
    share = ((y - dropped).abs() < 1e-5).float().mean().item()
    assert abs(share - 0.3) < 0.01


@given(arrays(np.float64, (5, 3), elements=st.floats(-5, 5)), st.integers(1, 7))
def test_histograms_and_pseudoinverses_are_numpys(x, bins):
    counts = ml.histc(ml.tensor(x), bins, -2, 3).numpy()
    np.testing.assert_array_equal(counts.sum(), ((x >= -2) & (x <= 3)).sum())
    rank = ml.linalg.matrix_rank(ml.tensor(x)).item()
    assert rank == np.linalg.matrix_rank(x)
    found = ml.linalg.pinv(ml.tensor(x)).numpy()
    np.testing.assert_allclose(x @ found @ x, x, atol=1e-9)
    np.testing.assert_allclose(found @ x, (found @ x).T, atol=1e-6)


def test_a_value_is_in_a_tensor():
    x = ml.tensor([[1.0, 2.0]])
    assert 2 in x and 3.0 not in x and ml.tensor(1.0) in x


def test_memory_formats_are_taken():
    x = ml.randn(2, 3, 4, 5)
    y = x.contiguous(memory_format=ml.channels_last)
    assert y.stride() == (60, 1, 15, 3) and ml.equal(x, y)
    assert y.contiguous(memory_format=ml.contiguous_format).stride() == x.stride()
    assert x.to(memory_format=ml.channels_last, dtype=ml.float64).dtype == ml.float64


def test_numpys_keywords_are_pytorchs():
    x = ml.arange(6.0).reshape(2, 3)
    assert x.sum(axis=1, keepdims=True).tolist() == x.sum(dim=1, keepdim=True).tolist()
    assert ml.zeros(size=(2, 1)).shape == (2, 1) and x.permute(dims=(1, 0)).shape == (3, 2)
    with pytest.raises(TypeError, match="multiple values"):
        x.sum(1, axis=1)
    with pytest.raises(TypeError, match="axes"):
        x.sum(axes=1)


def test_numpy_and_matplotlib_take_tensors():
    """They ask whether a number can be walked through, and call methods with axis and out."""
    x = ml.arange(6.0).reshape(2, 3)
    assert np.mean(x) == 2.5 and np.sum(x) == 15 and np.max(x).item() == 5
    with pytest.raises(TypeError, match="0-d tensor"):
        iter(x[0, 0])
    axes = Figure().subplots()
    counts, *_ = axes.hist(x[0], bins=3)
    axes.imshow(ml.rand(3, 4, 5).permute(1, 2, 0))
    assert counts.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda x: ml.quantile(x[:0], 0.5, 0), ShapeError, "quantile: cannot reduce an axis of size 0"),
    (lambda x: ml.kthvalue(x, 5), ShapeError, r"kthvalue: k must lie in \[1, 4\]"),
    (lambda x: ml.cross(x, x), ShapeError, "cross: both need 3 numbers along dim"),
    (lambda x: ml.cross(x, x, dim=2), ShapeError, "cross: dim must be in"),
    (lambda x: x.diff(dim=2), ShapeError, "diff: dim must be in"),
    (lambda x: x.rot90(1, (0,)), ShapeError, "rot90: dims must be two axes"),
    (lambda x: x.select(2, 0), ShapeError, "select: dim must be in"),
    (lambda x: x.index_fill(5, ml.tensor([0]), 1), ShapeError, "index_fill: dim must be in"),
    (lambda x: x[0, 0].index_fill(0, ml.tensor([0]), 1), ShapeError, "index_fill: x must have"),
    (lambda x: x[0, 0].roll(1, 0), ShapeError, "roll: x must have an axis"),
    (lambda x: x[0, 0].tensor_split(2), ShapeError, "tensor_split: x must have an axis"),
    (lambda x: ml.trapezoid(x, dim=2), ShapeError, "trapezoid: dim must be in"),
    (lambda x: ml.broadcast_tensors(x, x[:, :3]), ShapeError, "broadcast_tensors"),
    (lambda x: ml.concat([x, x[:, :2]]), ShapeError, "cat"),
    (lambda x: ml.bitwise_and(x, x), DTypeError, "and: needs bools or integers"),
    (lambda x: x.exponential_(-1), ShapeError, "lambd must be positive"),
    (lambda x: x.random_(0), MinidlError, "high must be above low"),
    (lambda x: x[0].detach_(), GraphError, "detach_: a view cannot be detached"),
    (lambda x: F.max_pool3d(x, 2, return_indices=True), ShapeError, "max_pool3d: gives no indices"),
    (lambda x: F.avg_pool3d(x, 2), ShapeError, "avg_pool3d: x must have 5 axes, or 4 without N"),
    (lambda x: F.alpha_dropout(x, 2, True), ShapeError, "alpha_dropout: p must be between 0 and 1"),
    (lambda x: ml.set_default_dtype(ml.float64), DTypeError, "the default is float32"),
    (lambda x: ml.linalg.lstsq(x, x[:2]), ShapeError, "linalg.lstsq: B must be"),
    (lambda x: ml.where(x > 0, 300, x.byte()), DTypeError, "where: the number must fit into uint8"),
    (lambda x: x.det(), ShapeError, "linalg.det: needs square matrices"),
])  # fmt: skip
def test_bad_calls_are_refused_with_words(call, error, message):
    with pytest.raises(error, match=message):
        call(ml.ones(3, 4))


def test_switches_of_scripts_are_taken():
    """compile, and the lines with which seeds are set and devices chosen."""

    @ml.compile
    def double(x):
        return x * 2

    @ml.compile(mode="max-autotune")
    def triple(x):
        return x * 3

    layer = ml.nn.Linear(1, 1)
    assert ml.compile(layer, fullgraph=True) is layer
    assert double(2) + triple(2) == 10 and not ml.backends.mps.is_available()
    ml.backends.cudnn.deterministic, ml.backends.cudnn.benchmark = True, False
    try:
        ml.backends.cuda.matmul.allow_tf32 = True
        assert ml.get_float32_matmul_precision() == "high" and ml.backends.cuda.matmul.allow_tf32
    finally:
        ml.set_float32_matmul_precision("highest")
    assert not ml.backends.cuda.matmul.allow_tf32


def test_how_tensors_are_shown():
    x, many = ml.tensor([1 / 3, 1e-7]), ml.arange(2000)
    before = dict(printing)
    try:
        assert repr(x) == "tensor([3.3333e-01, 1.0000e-07])" and "..." in repr(many)
        ml.set_printoptions(precision=2, sci_mode=False, linewidth=200)
        assert repr(x) == "tensor([0.33, 0.00])"
        ml.set_printoptions(profile="full")
        assert "..." not in repr(many)
        ml.set_printoptions(profile="short", edgeitems=1)
        assert repr(many) == "tensor([   0, ..., 1999])"
        with pytest.raises(ShapeError, match="profile must be one of"):
            ml.set_printoptions(profile="long")
    finally:
        printing.clear()
        printing.update(before)


def test_a_tensor_that_others_show_changes_its_shape():
    """The memory stays; views made before refuse to be recorded, leaves keep their shape."""
    w = ml.ones(2, 3, requires_grad=True)
    y, place = w * 1, ml.zeros(2)
    row = y[0]
    assert y.unsqueeze_(1).shape == (2, 1, 3) and row.data_ptr() == y.data_ptr()
    with pytest.raises(GraphError, match="take the view again"):
        row * 2
    (y[:, 0, 1] * 2).sum().backward()
    assert w.grad.tolist() == [[0, 2, 0]] * 2
    assert place.unsqueeze_(0).shape == (1, 2) and place.squeeze_().shape == (2,)
    z = w * 3
    with ml.no_grad():
        z.t_()
    z[2].sum().backward()  # it has not lost its place in the graph
    assert w.grad.tolist() == [[0, 2, 3]] * 2
    with pytest.raises(GraphError, match="squeeze_: a leaf that requires grad keeps its shape"):
        w.squeeze_()


def test_names_of_dtypes_and_memory():
    x = ml.ones(2, 3)
    assert x.view(6).data_ptr() == x.data_ptr() == x[1:].data_ptr() - 12 != x.clone().data_ptr()
    assert x.bfloat16().dtype == ml.bfloat16 and x.half().dtype == ml.float16
    assert ml.nn.Linear(2, 2).half().weight.dtype == ml.float16
    assert ml.nn.Linear(2, 2).bfloat16().weight.dtype == ml.bfloat16
    with ml.autograd.detect_anomaly(), pytest.raises(GraphError, match="first NaN"):
        (x - 2).log()


@pytest.mark.skipif(ml.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_none():
    assert not ml.cuda.is_available() and ml.cuda.device_count() == 0
    with pytest.raises(DeviceError, match="cuda"):
        ml.cuda.synchronize()
