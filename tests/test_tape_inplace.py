"""Views and writes in place: gradients follow them, stale tensors are refused."""

import operator

import pytest
from leaves import leaf, same

import minidl as ml
import minidl.functional as F
from minidl import nn
from minidl.errors import DTypeError, GraphError, ShapeError


def test_views_share_memory():
    x = ml.zeros(2, 3)
    for view in (x.view(6), x.reshape(3, 2), x.t(), x[0], x.flatten(), x.unsqueeze(0), x[:, 1:]):
        before = x.numpy().sum()
        view.add_(1.0)
        assert x.numpy().sum() == before + view.numel()


@pytest.mark.parametrize("view", [
    lambda x: x.diagonal(), lambda x: ml.diagonal(x, -1, 2, 1)[1:], lambda x: x.diagonal(2).t(),
    lambda x: x.unfold(1, 2, 2), lambda x: x.mT.unfold(-1, 1, 2)[0], lambda x: x.unfold(2, 3, 3),
])  # fmt: skip
def test_diagonals_and_windows_are_views(view):
    """Regression: they were copies, and what was written to them was lost."""
    x, marked = leaf(4, 5, 3), ml.zeros(4, 5, 3, dtype=ml.float64)
    base = x * 1
    older = base[0]
    view(base).mul_(3.0)
    view(marked).fill_(1.0)
    assert marked.sum().item() == view(x).numel() > 0
    same(base, x * (1 + 2 * marked))
    same(
        ml.grad(older.sum(), x, retain_graph=True)[0],
        ml.grad(base[0].sum(), x, retain_graph=True)[0],
    )
    (base * base).sum().backward()
    same(x.grad, 2 * x * (1 + 8 * marked))


def test_windows_that_overlap_cannot_be_written():
    """Nor can others whose places are shared; a part of them without such can."""
    windows = ml.zeros(7).unfold(0, 3, 1)
    for shared in (windows, windows.t(), windows[:2], ml.zeros(1).expand(2)):
        with pytest.raises(ShapeError, match="overlapping .*tensor cannot be changed in place"):
            shared.fill_(1.0)
    windows[::3].fill_(1.0)
    assert windows[:, 0].tolist() == [1, 1, 1, 1, 1]


def test_the_gradient_of_a_leaf_is_not_a_view_of_what_was_given():
    w, x = ml.ones(3, 3), ml.zeros(3, requires_grad=True)
    x.view(3).backward(w.diagonal())
    x.grad.zero_()
    assert w.sum().item() == 9


def test_a_write_through_a_view_reaches_the_base():
    x = leaf(3, 4)
    y = x * 1
    y[1].mul_(5.0)
    (y * y).sum().backward()
    scale = ml.tensor([[1.0], [25.0], [1.0]], dtype=ml.float64)
    same(x.grad, 2 * x * scale)


def test_a_write_through_a_view_of_a_view():
    x = leaf(2, 3, 4)
    y = x * 1
    y[0].t()[1:].fill_(7.0)
    (y * y).sum().backward()
    same(x.grad[0, :, :1], 2 * x[0, :, :1])
    same(x.grad[1], 2 * x[1])
    assert not x.grad[0, :, 1:].numpy().any()


def test_an_item_of_a_view_is_changed_in_place():
    """z[0] *= 2 writes through z[0], a view of the view z, which then takes it."""
    x = leaf(4, 3)
    y = x * 1
    z = y.view(2, 6)
    z[0] *= 2.0
    z.t()[1] += x[0, :2]
    (z * z).sum().backward(retain_graph=True)
    got = x.grad
    x.grad = None
    twice = ml.where(ml.arange(12).reshape(4, 3) < 6, 2.0, 1.0).double()
    plain = x * twice
    first = ml.zeros(4, 3, dtype=ml.float64)
    first[0, 1], first[2, 1] = x[0, 0], x[0, 1]
    ((plain + first) ** 2).sum().backward()
    same(got, x.grad)
    same(z.reshape(4, 3), plain + first)
    same(y, plain + first)


def test_assigning_gives_the_value_its_gradient():
    x, v = leaf(3, 4), leaf(4)
    y = x * 2
    y[1] = v * 2
    (y * 3).sum().backward()
    same(v.grad, ml.full((4,), 6.0))
    want = ml.full((3, 4), 6.0)
    want[1] = 0.0
    same(x.grad, want)


def test_assigning_into_a_plain_tensor_makes_it_require_grad():
    v = leaf(2)
    y = ml.zeros(4, dtype=ml.float64)
    y[1:3] = v
    assert y.requires_grad
    (y * y).sum().backward()
    same(v.grad, 2 * v)


def test_a_leaf_that_requires_grad_cannot_be_written():
    x = leaf(3)
    with pytest.raises(RuntimeError):
        x.add_(1.0)
    with pytest.raises(RuntimeError):
        x[0] = 1.0
    with pytest.raises(RuntimeError):
        x[1:].mul_(2.0)
    with ml.no_grad():
        x.add_(1.0)
        x[0] = 1.0
    assert x.is_leaf and x.requires_grad and x[0].item() == 1.0


def test_backward_over_a_changed_saved_tensor_raises():
    x = leaf(3)
    y = x * 1
    z = y * y
    y.add_(1.0)
    with pytest.raises(RuntimeError, match="in place|inplace"):
        z.sum().backward()


def test_backward_over_a_changed_result_raises():
    x = leaf(3)
    y = x.exp()  # saves its result
    y.add_(1.0)
    with pytest.raises(RuntimeError, match="in place|inplace"):
        y.sum().backward()


def test_backward_over_a_saved_tensor_changed_through_a_view_or_detached():
    for change in (lambda y: y[0].zero_(), lambda y: y.detach().mul_(2.0)):
        x = leaf(3)
        y = x * 1
        z = (y * y).sum()
        change(y)
        with pytest.raises(RuntimeError, match="in place|inplace"):
            z.backward()


def test_an_in_place_write_that_backward_does_not_need_is_fine():
    x = leaf(3)
    y = x + 1
    z = y + 2
    y.mul_(3.0)
    (z.sum() + y.sum()).backward()
    same(x.grad, ml.full((3,), 4.0))


def test_an_optimizer_step_between_forward_and_backward_is_noticed():
    w = leaf(3)
    y = (w * w).sum()
    optimizer = ml.optim.SGD([w], lr=0.1)
    w.grad = ml.ones(3, dtype=ml.float64)
    optimizer.step()
    with pytest.raises(RuntimeError, match="in place|inplace"):
        y.backward()


@pytest.mark.parametrize("written", [slice(None), slice(1, None)], ids=["base", "sibling"])
def test_a_view_older_than_a_write_shows_the_new_values_and_their_gradient(written):
    """It was refused once; PyTorch gives it a node of the new values, too."""
    x = leaf(4)
    y = x * 1
    older = y[:2]
    oldest = older[1]
    y[written].mul_(3.0) if written.start else y.mul_(3.0)
    with ml.no_grad():
        assert older.sum().item() == pytest.approx(y[:2].sum().item())
    (older.sum() + 5 * oldest).backward()
    first = 1.0 if written.start else 3.0
    same(x.grad, ml.tensor([first, 18.0, 0.0, 0.0], dtype=ml.float64))


def test_a_view_made_under_no_grad_is_not_brought_into_the_graph():
    """A write that is recorded makes it unclear whether it counts: it is refused, as in PyTorch."""
    y = leaf(4) * 1
    with ml.no_grad():
        older = y[:2]
    assert not (older * 2).requires_grad
    y.mul_(3.0)
    with pytest.raises(GraphError, match="take the view again"):
        older * 2


def test_view_refuses_what_would_need_a_copy():
    x = ml.zeros(2, 3)
    with pytest.raises((RuntimeError, ValueError)):
        x.t().view(6)
    assert x.t().reshape(6).shape == (6,)


ATTENTION = nn.MultiheadAttention(8, 2)


@pytest.mark.parametrize("made", [
    lambda x: F.relu(F.conv2d(x, ml.ones(4, 3, 3, 3))), lambda x: F.max_pool2d(x.cos(), 2)[1],
    lambda x: F.adaptive_avg_pool2d(x, (3, 2)), lambda x: F.interpolate(x, scale_factor=2)[:, 1:],
    lambda x: F.pad(x, (1, 1, 2, 0), mode="reflect"), lambda x: F.softmax(x, 1),
    lambda x: x.topk(2)[1], lambda x: ml.einsum("nchw,c->whn", x, ml.ones(3)),
    lambda x: ATTENTION(x[0], x[0], x[0])[0],
])  # fmt: skip
def test_a_result_in_an_order_of_our_own_can_be_viewed_as_pytorchs(made):
    """`x.view(len(x), -1)` after a convolution, whose result is in C order in PyTorch."""
    x = ml.randn(2, 3, 6, 8).contiguous()
    channels_last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).clone()
    for given in (x, channels_last):
        y = made(given.requires_grad_())
        flat = y.view(len(y), -1)
        assert (flat == y.reshape(len(y), -1)).all().item()
        if y.requires_grad:
            (flat * 2).sum().backward()
            y_again = made(given)
            (want,) = ml.grad((y_again * 2).sum(), given)
            same(given.grad, want)
            given.grad = None


def test_in_place_keeps_dtype_and_shape():
    x = ml.tensor([1, 2])
    with pytest.raises((RuntimeError, ValueError)):
        x.add_(1.5)
    with pytest.raises((RuntimeError, ValueError)):
        ml.zeros(2).add_(ml.zeros(3, 2))
    y = ml.zeros(2)
    assert y.add_(ml.ones(2, dtype=ml.float64)) is y and y.dtype == ml.float32


def test_chains_of_writes():
    x = leaf(5)
    y = x * 1
    for k in range(5):
        y[k] = y[k] * (k + 1)
        y += 0.5
    y.sum().backward()
    same(x.grad, ml.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))


def test_everything_that_writes_is_noticed():
    """By a backward pass that needs what was there: parameters, gradients, running statistics."""
    layer = ml.nn.Sequential(ml.nn.Linear(2, 2), ml.nn.BatchNorm1d(2))
    linear, norm = layer
    layer(ml.randn(3, 2)).square().sum().backward()
    optimizer, ema = ml.optim.SGD(layer.parameters(), 0.1), ml.optim.EMA(layer)
    state = {name: value.clone() for name, value in layer.state_dict().items()}

    def swap():
        with ema.swapped(layer):
            pass

    weight, grad = linear.weight, linear.weight.grad
    for tensor, change in (
        (grad, lambda: ml.nn.utils.clip_grad_norm_(weight, 0.1)),
        (norm.running_mean, lambda: layer(ml.randn(3, 2))),
        (norm.running_var, lambda: layer(ml.randn(3, 2))),
        (norm.running_var, lambda: norm.running_var.__setitem__(0, 2.0)),
        (weight, optimizer.step),
        (weight, swap),
        (weight, lambda: layer.load_state_dict(state)),
        (weight, lambda: ml.nn.init.uniform_(weight)),
    ):
        y = tensor * leaf(2)
        change()
        with pytest.raises(GraphError, match="changed in place"):
            y.sum().backward()


def test_a_recurrence_written_into_a_buffer():
    x = leaf(4)
    out = ml.zeros(4, dtype=ml.float64)
    state = ml.zeros((), dtype=ml.float64)
    for k in range(4):
        state = 0.5 * state + x[k]
        out[k] = state
    out.sum().backward()
    same(x.grad, ml.tensor([1.875, 1.75, 1.5, 1.0]))


def test_copying_a_leaf_gives_it_its_gradient():
    """Regression: the copy of a leaf became a leaf of its own."""
    w, y = leaf(3), ml.zeros(3, dtype=ml.float64)
    y.copy_(w)
    (y * y).sum().backward()
    same(w.grad, 2 * w)


@pytest.mark.parametrize(("write", "want"), [
    (lambda y: y.copy_(ml.tensor([1.7, -1.7, 2.0])), [1, -1, 2]),
    (lambda y: y.fill_(-2.9), [-2, -2, -2]),
    (lambda y: y.fill_(ml.tensor(2.9)), [2, 2, 2]),
    (lambda y: y.__setitem__(1, 5.5), [0, 5, 0]),
])  # fmt: skip
def test_what_is_copied_takes_the_tensors_dtype(write, want):
    """As in PyTorch: cut off towards zero, where the result of an operation is refused."""
    y = ml.zeros(2, 3, dtype=ml.int64)
    for row in (y[0], y[1]):
        write(row)
    assert y.dtype == ml.int64 and y.tolist() == [want, want]
    with pytest.raises(DTypeError, match="add_: the result's dtype cannot be cast"):
        y.add_(0.5)


@pytest.mark.parametrize("cut", [lambda x: x.unbind(1), lambda x: x.split([1, 2, 3], 2)])
def test_pieces_are_views(cut):
    """A write to a piece reaches its base, the gradient and the other pieces."""
    x, factors = leaf(2, 3, 6), ml.ones(2, 3, 6, dtype=ml.float64)
    base = x * 1
    first, second = cut(base)[:2]
    cut(factors)[1].mul_(3.0)
    second.mul_(3.0)
    same(base, x * factors)
    assert ml.grad(first.sum(), first)[0].sum().item() == first.numel()
    (base.sum() + 0 * first.sum()).backward()
    same(x.grad, factors)


@pytest.mark.parametrize(("change", "want"), [
    (lambda v: v.mul_(2.0), [6.0, 6.0, 3.0]), (lambda v: v.__setitem__(0, 0.0), [0.0, 3.0, 3.0]),
])  # fmt: skip
def test_a_view_older_than_a_write_can_be_written(change, want):
    """Regression: the write took the place of the base's and lost its gradient."""
    x = leaf(3)
    y = x * 1
    v = y[:2]
    y.mul_(3.0)
    change(v)
    y.sum().backward()
    same(x.grad, ml.tensor(want, dtype=ml.float64))


@pytest.mark.parametrize("use", [lambda v: v * 2, lambda v: v.mul_(2.0), lambda v: (v + v).sum()])
def test_a_view_older_than_its_bases_gradient_has_it_too(use):
    """Regression: a view taken before its base required grad lost the gradient silently."""
    y, x = ml.zeros(2, 3, dtype=ml.float64), leaf(3)
    v = y[0]
    y.add_(x)
    use(v).sum().backward()
    same(x.grad, ml.full((3,), 2.0, dtype=ml.float64))


@pytest.mark.parametrize("use", [
    lambda v, x: v.backward() or x.grad, lambda v, x: ml.grad(v, x)[0],
    lambda v, x: ml.grad(v * 1, x)[0], lambda v, x: ml.no_grad()(v.backward)() or x.grad,
])  # fmt: skip
def test_the_gradient_of_a_view_older_than_a_write(use):
    """Regression: backward from the view itself gave the gradient of its old values."""
    x = leaf(3)
    y = x * 1
    v = y[0]
    y.mul_(3.0)
    same(use(v, x), ml.tensor([3.0, 0.0, 0.0], dtype=ml.float64))


@pytest.mark.parametrize(("assign", "x", "other", "want"), [
    (operator.iand, [True, True], [True, False], [True, False]),
    (operator.ior, [True, False], [False, False], [True, False]),
    (operator.ixor, [3, 5], 1, [2, 4]),
    (operator.ifloordiv, [7, -7], 2, [3, -4]),
    (operator.imod, [7.0, -7.0], 3, [1.0, 2.0]),
    (operator.ipow, [2.0, 3.0], 2, [4.0, 9.0]),
])  # fmt: skip
def test_operators_with_assignment_write_in_place(assign, x, other, want):
    """Regression: these made new tensors, so that other names of the tensor kept its old values."""
    y = view = ml.tensor(x)
    y = assign(y, ml.tensor(other))
    assert y is view and view.tolist() == want


def test_rounding_in_place_takes_decimals():
    """Regression: `round_` had no `decimals`, which `round` has."""
    x = ml.tensor([12.5, 12.25], dtype=ml.float64)
    assert x.round_(decimals=1).tolist() == [12.5, 12.2] and x.round_().tolist() == [12.0, 12.0]
