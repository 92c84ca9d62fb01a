"""Wide names beyond their golden values: functions of one's own, draws, lists, errors."""

import numpy as np
import pytest

import minidl as ml
import minidl.functional as F
from minidl import nn
from minidl.errors import DTypeError, GraphError, MinidlError, RangeError, ShapeError

Function = ml.autograd.Function


class Scaled(Function):
    """exp(k x), by its own output."""

    @staticmethod
    def forward(ctx, x, k):
        y = (x * k).exp()
        ctx.save_for_backward(y)
        ctx.k = k
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y * ctx.k, None


class Several(Function):
    """x y, x + y and the place of x's maximum, in the newer form."""

    seen = ()

    @staticmethod
    def forward(x, y):
        return x * y, x + y, x.argmax()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g, h, _):
        x, y = ctx.saved_tensors
        Several.seen = ctx.needs_input_grad, h.tolist()
        return g * y + h, g * x + h if ctx.needs_input_grad[1] else None


def leaves(*shapes):
    rng = np.random.default_rng(5)
    return [ml.tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]


@pytest.mark.parametrize("f", [
    lambda x, y: Scaled.apply(x, 1.5) + y, lambda x, y: Several.apply(x, y)[:2],
])  # fmt: skip
def test_a_function_of_ones_own_has_derivatives_of_any_order(f):
    inputs = leaves((3,), (3,))
    assert ml.gradcheck(f, inputs) and ml.gradgradcheck(f, inputs)


def test_backward_of_a_function_knows_what_is_needed_and_gets_zeros():
    x, y = leaves((3,), (3,))
    product, _, place = Several.apply(x, y.detach())
    assert place.dtype == np.int64 and not place.requires_grad
    product.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    assert Several.seen == ((True, False), [0.0, 0.0, 0.0])
    assert not Scaled.apply(y.detach(), 2.0).requires_grad
    with ml.no_grad():
        assert not Scaled.apply(x, 2.0).requires_grad


def test_a_function_may_give_its_input_and_mark_outputs():
    class Same(Function):
        @staticmethod
        def forward(ctx, x):
            fixed = x * 2
            ctx.mark_non_differentiable(fixed)
            return x, fixed

        @staticmethod
        def backward(ctx, g, h):
            return g * 3

    (x,) = leaves((2,))
    same, fixed = Same.apply(x)
    assert same.array is not x.array and not fixed.requires_grad
    same.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_mistakes_in_a_function_are_named():
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x.sin())
            return x.sin() * 2

        @staticmethod
        def backward(ctx, g):
            return g, g

    (x,) = leaves((2,))
    with pytest.raises(GraphError, match="Wrong: backward must return 1 gradients.*got returned 2"):
        Wrong.apply(x).sum().backward()
    with pytest.raises(GraphError, match="saves an array that is neither its input nor its output"):
        ml.grad(Wrong.apply(x).sum(), x, create_graph=True)
    x = ml.ones(2, requires_grad=True)
    y = Scaled.apply(x * 1, 1.0)
    y.add_(1)
    with pytest.raises(GraphError, match="changed in place"):
        y.sum().backward()


def test_gumbel_softmax_draws_the_classes_in_proportion():
    logits = ml.tensor(np.log([0.1, 0.6, 0.3]), requires_grad=True)
    many = logits.expand(20000, 3)
    ml.manual_seed(0)
    y = F.gumbel_softmax(many, hard=True)
    assert set(y.unique().tolist()) <= {0.0, 1.0} and y.sum(-1).unique().tolist() == [1.0]
    np.testing.assert_allclose(y.detach().mean(0).numpy(), [0.1, 0.6, 0.3], atol=0.02)
    soft = F.gumbel_softmax(many, tau=0.5)
    np.testing.assert_allclose(soft.detach().sum(-1).numpy(), 1, rtol=1e-12)
    (y * ml.tensor([1.0, 2.0, 3.0], dtype=ml.float64)).sum().backward()
    assert abs(logits.grad.sum().item()) < 1e-8 and logits.grad.abs().max().item() > 1


def test_a_parameter_list_behaves_as_a_list():
    made = nn.ParameterList([ml.zeros(2), nn.Parameter(ml.ones(3))])
    kept = made[1]
    made.append(ml.ones(4))
    made.insert(0, ml.ones(5))
    assert [p.shape for p in made] == [(5,), (2,), (3,), (4,)] and made[2] is kept
    assert list(made.state_dict()) == ["0", "1", "2", "3"] and len(list(made.parameters())) == 4
    made[-1] = ml.ones(1)
    del made[0]
    assert [p.shape for p in made[1:]] == [(3,), (1,)] and made[1] is kept
    assert repr(made).splitlines()[1] == "  (0): Parameter containing: [float32 of size 2]"
    assert all(p.requires_grad for p in made)


def test_new_tensors_take_after_the_one_they_are_made_from():
    x = ml.ones(2, 3, dtype=ml.float64)
    for made in (x.new_zeros(2), x.new_ones((2, 1)), x.new_full((2,), 7), x.new_empty(3, 1)):
        assert made.dtype == ml.float64 and not made.requires_grad
    assert (
        x.new_tensor([1, 2]).dtype == ml.float64 and x.new_zeros(2, dtype=ml.int64).dtype == "int64"
    )
    assert x.new_full((2,), 7).tolist() == [7, 7]
    assert x.view_as(ml.ones(3, 2)).shape == (3, 2) and ml.ones(2).type_as(x).dtype == ml.float64
    assert x.element_size() == 8 and ml.is_tensor(x) and not ml.is_floating_point(x.long())


def test_transformers_of_ones_own_parts():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1)
    model = nn.Transformer(8, 2, 3, 1, 16, custom_encoder=encoder)
    assert model.encoder is encoder and len(model.decoder.layers) == 1
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    assert mask.tolist() == [[0, -np.inf, -np.inf], [0, 0, -np.inf], [0, 0, 0]]
    x, y = ml.randn(4, 2, 8), ml.randn(3, 2, 8)
    model.eval()
    late = ml.cat((y[:2], ml.randn(1, 2, 8)))
    seen, other = (model(x, t, tgt_mask=mask).detach().numpy() for t in (y, late))
    np.testing.assert_allclose(seen[:2], other[:2], atol=1e-5)
    assert np.abs(seen[2] - other[2]).max() > 1e-3


def test_one_shift_or_dim_may_be_in_a_list():
    """Regression: `roll` took an int beside a list for an error, and a list without dims."""
    x = ml.arange(12).reshape(3, 4)
    assert x.roll(1, (0,)).tolist() == x.roll((1,), 0).tolist() == x.roll(1, 0).tolist()
    assert x.roll((1,)).tolist() == x.roll(1).tolist()


LABELS = ml.tensor([[1, 2]])
ROWS, PICTURES = ml.ones(3, 4), ml.ones(1, 1, 4, 4)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: ml.bincount(ml.tensor([-1])), RangeError, r"must lie in \[-?\d+, 0\]|-1"),
    (lambda: ml.bincount(ml.ones(2)), MinidlError, "bincount: needs a vector of ints"),
    (lambda: ml.median(ml.ones(0)), ShapeError, "median: cannot reduce an axis of size 0"),
    (lambda: ml.trace(ml.ones(2)), ShapeError, "trace: x must be a matrix"),
    (lambda: ml.meshgrid(ROWS[0], indexing="ba"), ShapeError, "indexing must be one of"),
    (lambda: ml.roll(ROWS, 1, 2), ShapeError, "roll: dim must be in"),
    (lambda: ml.roll(ROWS, (1, 2), (0,)), ShapeError, "roll: needs a shift for each of dims"),
    (lambda: ml.hstack([]), ShapeError, "cat: needs at least one tensor"),
    (lambda: ROWS.index_add(0, ml.tensor([0]), ROWS), ShapeError, r"source must be \(1, 4\)"),
    (lambda: ROWS.scatter_reduce(0, LABELS, ROWS, "max"), ShapeError, "reduce must be one of"),
    (lambda: ml.tensordot(ROWS, ROWS, 1), ShapeError, "summed over must have equal sizes"),
    (lambda: F.embedding_bag(LABELS, ROWS, mode="min"), ShapeError, "mode must be one of"),
    (lambda: F.embedding_bag(LABELS[0], ROWS), ShapeError, r"needs input \(B, N\)"),
    (lambda: F.embedding_bag(LABELS[0], ROWS, ml.tensor([1])), ShapeError, "offsets must begin"),
    (lambda: F.embedding_bag(LABELS[0], ROWS, ml.tensor([0, 3])), ShapeError, "offsets must"),
    (lambda: F.embedding_bag(LABELS, ROWS, per_sample_weights=LABELS), ShapeError, "for sums"),
    (lambda: F.embedding_bag(ml.tensor([[3]]), ROWS), RangeError, "embedding"),
    (lambda: F.conv3d(ROWS, PICTURES), ShapeError, "conv3d: weight must have 5 axes"),
    (lambda: F.conv3d(ml.ones(1, 1, 2, 4, 4), ml.ones(1, 1, 3, 1, 1)), ShapeError, "larger than"),
    (lambda: F.conv3d(PICTURES, ml.ones(1, 1, 1, 1, 1), padding="big"), MinidlError, "padding"),
    (lambda: F.adaptive_max_pool2d(PICTURES, 0), ShapeError, "output_size"),
    (lambda: F.max_unpool2d(PICTURES, LABELS, 2), ShapeError, "indices must have input's shape"),
    (lambda: F.max_unpool2d(PICTURES, PICTURES.long() * 99, 2), RangeError, "99"),
    (lambda: F.pixel_unshuffle(PICTURES, 3), ShapeError, "must be divisible by r"),
    (lambda: F.affine_grid(ROWS, (1, 1, 2, 2)), ShapeError, r"theta must be \(1, 2, 3\)"),
    (lambda: F.grid_sample(PICTURES, PICTURES), ShapeError, "grid_sample: needs images"),
    (lambda: F.grid_sample(PICTURES, ml.ones(1, 2, 2, 2), "cubic"), ShapeError, "mode must be"),
    (lambda: F.gaussian_nll_loss(ROWS, ROWS, ml.ones(5)), ShapeError, "var must fit input"),
    (lambda: F.ctc_loss(ROWS, LABELS[0], 4, 2), ShapeError, "a length of input and target"),
    (lambda: F.ctc_loss(ROWS, LABELS[0], 3, 1), ShapeError, "must have the sum of their lengths"),
    (lambda: F.ctc_loss(ROWS, LABELS[0] + 9, 3, 2), ShapeError, r"in \[0, 4\)"),
    (lambda: nn.EmbeddingBag(3, 2, mode="mid"), ShapeError, "mode must be one of"),
    (lambda: nn.BatchNorm3d(1)(PICTURES), ShapeError, "BatchNorm3d"),
    (lambda: F.triplet_margin_loss(ROWS, ROWS, ROWS, reduction="x"), ShapeError, "reduction"),
])  # fmt: skip
def test_bad_calls_are_refused_with_words(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_factorizations_multiply_to_the_matrix():
    """Of any shape, full or not; vectors solve too."""
    rng = np.random.default_rng(0)
    for shape in ((3, 3), (2, 4, 3), (3, 5), (1, 2, 2), (0, 3, 3), (2, 3, 1)):
        x = rng.standard_normal(shape)
        for full in (True, False):
            u, s, vh = (t.numpy() for t in ml.linalg.svd(ml.tensor(x), full))
            m, n = shape[-2:]
            assert u.shape[-2:] == ((m, m) if full else (m, min(m, n)))
            k = s.shape[-1]
            np.testing.assert_allclose(
                (u[..., :k] * s[..., None, :]) @ vh[..., :k, :], x, atol=1e-12
            )
        if m >= n:
            q, r = (t.numpy() for t in ml.linalg.qr(ml.tensor(x)))
            np.testing.assert_allclose(q @ r, x, atol=1e-12)
    a, b = ml.tensor(rng.standard_normal((4, 3, 3))), ml.tensor(rng.standard_normal(3))
    found = ml.linalg.solve(a, b).numpy()
    np.testing.assert_allclose((a.numpy() @ found[..., None])[..., 0], np.tile(b.numpy(), (4, 1)))
    assert ml.linalg.solve(a, ml.ones(3, 2, dtype=ml.float64)).shape == (4, 3, 2)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (5,)])
def test_norms_are_those_of_numpy(shape):
    x = np.random.default_rng(1).standard_normal(shape)
    orders = ["fro", "nuc", 2, -2, 1, -1, np.inf, -np.inf] if len(shape) > 1 else [2, 1, 3, np.inf]
    for order in orders:
        axes = (0, 1) if len(shape) > 1 else None
        for keep in (False, True):
            got = ml.linalg.norm(ml.tensor(x), order, axes, keep).numpy()
            np.testing.assert_allclose(got, np.linalg.norm(x, order, axes, keep), rtol=1e-12)
    np.testing.assert_allclose(ml.linalg.norm(ml.tensor(x)).item(), np.linalg.norm(x))
    np.testing.assert_allclose(ml.linalg.norm(ml.tensor(x), 3, -1).numpy(),
                               np.linalg.norm(x, 3, -1))  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: ml.linalg.inv(ml.zeros(2, 2)), RangeError, "linalg.inv: Singular matrix"),
    (lambda: ml.linalg.cholesky(-ml.eye(2)), RangeError, "linalg.cholesky: Matrix is not positive"),
    (lambda: ml.linalg.inv(ROWS), ShapeError, "linalg.inv: needs square matrices"),
    (lambda: ml.linalg.det(ml.eye(2).long()), DTypeError, "needs float32 or float64"),
    (lambda: ml.linalg.solve(ml.eye(2), ROWS), ShapeError, "linalg.solve: B must be"),
    (lambda: ml.linalg.solve(ml.ones(2, 2, 2), ml.ones(5, 2, 1)), ShapeError, "solve: shapes"),
    (lambda: ml.linalg.qr(ROWS.T, "complete"), ShapeError, "mode must be one of"),
    (lambda: ml.linalg.norm(ROWS, "nuc", (0, 0)), ShapeError, "every dim may appear once"),
    (lambda: ml.linalg.norm(ml.ones(2, 2, 2), 1), ShapeError, "vectors or matrices"),
    (lambda: ml.linalg.norm(ROWS, "max"), ShapeError, "ord must be one of"),
    (lambda: ml.capture(ml.linalg.inv)(ml.eye(2)), GraphError, "cannot be captured"),
])  # fmt: skip
def test_matrices_that_do_not_fit_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_integers_are_no_parameters():
    with pytest.raises((DTypeError, GraphError)):
        nn.ParameterList([ml.tensor([1, 2])])


def test_an_unreachable_target_of_ctc_costs_infinity_or_nothing():
    x = ml.randn(3, 2, 4, dtype=ml.float64, requires_grad=True)
    labels = ml.tensor([[1, 1, 1], [1, 2, 3]])
    loss = F.ctc_loss(x.log_softmax(-1), labels, (3, 3), (3, 3), reduction="none")
    assert loss[0].item() == np.inf and np.isfinite(loss[1].item())
    F.ctc_loss(x.log_softmax(-1), labels, (3, 3), (3, 3), zero_infinity=True).backward()
    assert not x.grad[:, 0].numpy().any() and x.grad[:, 1].abs().min().item() > 0


def test_ctc_is_the_sum_over_all_ways():
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(3), 4)  # 4 steps, classes 1, 2 and the blank 0
    for target in ([1], [1, 2], [1, 1], []):
        total = 0.0
        for way in np.ndindex(3, 3, 3, 3):
            merged = [k for i, k in enumerate(way) if i == 0 or k != way[i - 1]]
            if [k for k in merged if k] == target:
                total += np.prod([p[t, k] for t, k in enumerate(way)])
        labels = ml.tensor(np.array(target, np.int64))
        loss = F.ctc_loss(ml.tensor(np.log(p)), labels, 4, len(target), reduction="sum")
        np.testing.assert_allclose(loss.item(), -np.log(total), rtol=1e-12)


def test_norm_of_a_number_along_its_dim():
    """Regression: with an order, it was refused as one of neither vectors nor matrices."""
    x = ml.tensor(-3.0)
    assert [ml.linalg.norm(x, p, 0).item() for p in (1, 2, float("inf"))] == [3.0, 3.0, 3.0]
