"""Wide optimizers: their papers' formulas, wrappers, L-BFGS."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
from minidl import optim
from minidl.amp import GradScaler
from minidl.errors import CheckpointError, ShapeError
from minidl.optim.lbfgs import FLATTER, LOWER


def lion(p, grads, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1):
    (b1, b2), m = betas, 0 * p
    for g in grads:
        p = p - lr * (np.sign(b1 * m + (1 - b1) * g) + weight_decay * p)
        m = b2 * m + (1 - b2) * g
    return p


def lamb(p, grads, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, eps=1e-6):
    (b1, b2), m, v = betas, 0 * p, 0 * p
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        r = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + weight_decay * p
        p = p - lr * np.linalg.norm(p) / np.linalg.norm(r) * r
    return p


def lars(p, grads, lr=0.1, momentum=0.9, weight_decay=0.1, trust_coefficient=0.02):
    moving = None
    for g in grads:
        d = g + weight_decay * p
        if p.ndim > 1:
            size, slope = np.linalg.norm(p), np.linalg.norm(g)
            d = d * trust_coefficient * size / (slope + weight_decay * size)
        moving = d if moving is None else momentum * moving + d
        p = p - lr * moving
    return p


def muon(p, grads, lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True):
    m = 0 * p
    for g in grads:
        m = m + (1 - momentum) * (g - m)
        x = g + momentum * (m - g) if nesterov else m
        x = x.T if len(p) > len(p.T) else x
        x = x / np.linalg.norm(x)
        for _ in range(5):
            s = x @ x.T
            x = 3.4445 * x + (-4.775 * s + 2.0315 * s @ s) @ x
        x = x.T if len(p) > len(p.T) else x
        p = p - lr * weight_decay * p - lr * max(1, len(p) / len(p.T)) ** 0.5 * x
    return p


RULES = [(optim.Lion, lion), (optim.LAMB, lamb), (optim.LARS, lars), (optim.Muon, muon)]


@pytest.mark.parametrize(("kind", "rule"), RULES)
@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.booleans(), st.integers(0, 99))
def test_steps_follow_the_paper(kind, rule, shape, uphill, seed):
    """Over four steps, from random places and gradients."""
    rng = np.random.default_rng(seed)
    start, grads = rng.standard_normal(shape), rng.standard_normal((4, *shape))
    keys = rule.__code__.co_varnames[2 : rule.__code__.co_argcount]
    options = dict(zip(keys, rule.__defaults__, strict=True))
    uphill = uphill and kind is not optim.Muon
    p = ml.tensor(start, requires_grad=True)
    optimizer = kind([p], **options, **({"maximize": True} if uphill else {}))
    for g in grads:
        p.grad = ml.tensor(-g if uphill else g)
        before = p.grad
        optimizer.step()
        assert p.grad is before
    np.testing.assert_allclose(p.detach().numpy(), rule(start, grads), rtol=1e-9, atol=1e-9)
    assert "direction" not in optimizer.state[p]


def test_a_vector_steps_by_plain_momentum_in_lars():
    start, grads = np.ones(3), np.random.default_rng(0).standard_normal((3, 3))
    p = ml.tensor(start, requires_grad=True)
    optimizer = optim.LARS([p], lr=0.1, weight_decay=0.1, trust_coefficient=0.02)
    for g in grads:
        p.grad = ml.tensor(g)
        optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), lars(start, grads), rtol=1e-12)


@pytest.mark.parametrize("kind", [optim.Lion, optim.LAMB, optim.LARS, optim.Muon])
def test_a_parameter_or_gradient_of_zeros_gives_no_nan(kind):
    p, q = (ml.tensor(np.full((2, 2), v), requires_grad=True) for v in (0.0, 1.0))
    p.grad, q.grad = ml.ones(2, 2, dtype=ml.float64), ml.zeros(2, 2, dtype=ml.float64)
    kind([p, q], lr=0.1).step()
    assert np.isfinite(p.detach().numpy()).all() and np.isfinite(q.detach().numpy()).all()


@pytest.mark.parametrize("kind", [optim.LAMB, optim.Muon, optim.Lion])
def test_a_scaler_leaves_out_steps_whose_gradients_are_not_finite(kind):
    p = ml.ones(2, 2, requires_grad=True)
    optimizer, scaler = kind([p], lr=0.1), GradScaler("cpu", init_scale=2.0)
    for value, moves in ((np.inf, False), (1.0, True)):
        before = p.detach().numpy().copy()
        p.grad = ml.full((2, 2), value)
        scaler.step(optimizer)
        scaler.update()
        assert np.isfinite(p.detach().numpy()).all()
        assert (p.detach().numpy() != before).all() == moves


# ---- wrappers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("by_hand", [False, True])
def test_sam_steps_by_the_gradient_uphill(adaptive, by_hand):
    start = np.array([1.0, -2.0])
    p = ml.tensor(start, requires_grad=True)
    optimizer = optim.SAM([p], optim.SGD, 0.1, adaptive, lr=0.05, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        loss = (p**4).sum()
        loss.backward()
        return loss

    x, m = start, None
    for _ in range(3):
        if by_hand:
            closure()
            optimizer.first_step()
            closure()
            optimizer.second_step()
        else:
            assert optimizer.step(closure).item() == pytest.approx((x**4).sum())
        g, s = 4 * x**3, np.abs(x) if adaptive else 1.0
        g = 4 * (x + 0.1 * s * s * g / np.linalg.norm(g * s)) ** 3
        m = g if m is None else 0.9 * m + g
        x = x - 0.05 * m
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-10)
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    with pytest.raises(ShapeError, match="step needs a closure"):
        optimizer.step()


def lookahead(p):
    return optim.Lookahead(optim.Adam([p], lr=0.1), k=3, alpha=0.4)


def test_lookahead_goes_part_of_the_way_and_on_from_its_state():
    grads = np.random.default_rng(2).standard_normal((8, 3))

    def run(p, optimizer, grads):
        for g in grads:
            p.grad = ml.tensor(g)
            optimizer.step()

    p, q, slow = (ml.tensor([1.0, 2.0, 3.0], dtype=ml.float64, requires_grad=True) for _ in "pqs")
    whole, plain = lookahead(p), optim.Adam([q], lr=0.1)
    want = slow.detach().numpy().copy()
    for k, g in enumerate(grads, 1):
        q.grad = ml.tensor(g)
        plain.step()
        if k % 3 == 0:
            want = want + 0.4 * (q.detach().numpy() - want)
            with ml.no_grad():
                q.copy_(ml.tensor(want))
    run(p, whole, grads)
    np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-12)
    schedule = optim.lr_scheduler.StepLR(whole, 1, 0.5)
    schedule.step()
    assert whole.base_optimizer.param_groups[0]["lr"] == 0.05

    first, second = (ml.tensor([1.0, 2.0, 3.0], dtype=ml.float64, requires_grad=True) for _ in "ab")
    half = lookahead(first)
    run(first, half, grads[:4])
    saved = copy.deepcopy(half.state_dict())
    other = lookahead(second)
    with ml.no_grad():
        second.copy_(first)
    other.load_state_dict(saved)
    run(second, other, grads[4:])
    np.testing.assert_array_equal(second.detach().numpy(), p.detach().numpy())
    with pytest.raises(CheckpointError, match="Lookahead: the saved state lacks.*count"):
        other.load_state_dict(plain.state_dict())


# ---- L-BFGS --------------------------------------------------------------------------------------


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def closure_of(optimizer, x, f, seen):
    def closure():
        optimizer.zero_grad()
        loss = f(x)
        loss.backward()
        seen.append((x.detach().numpy().copy(), loss.item(), x.grad.numpy().copy()))
        return loss

    return closure


def test_a_line_search_meets_the_conditions_of_wolfe():
    """Each accepted place lowers the loss and the slope enough; the minimum is found."""
    x = ml.tensor([-1.2, 1.0, -0.5, 0.8], dtype=ml.float64, requires_grad=True)
    optimizer = optim.LBFGS([x], max_iter=1, max_eval=25, line_search_fn="strong_wolfe")
    lowest = np.inf
    for _ in range(60):
        seen = []
        at, before = x.detach().numpy().copy(), rosenbrock(x).item()
        optimizer.step(closure_of(optimizer, x, rosenbrock, seen))
        d, slope = optimizer.state[x].get("d"), None
        g, end = seen[0][2], x.detach().numpy()
        slope, (_, loss, there) = g @ d, min(seen, key=lambda s: np.abs(s[0] - end).max())
        if before > 1e-10:
            t = optimizer.state[x]["t"]
            np.testing.assert_allclose(end, at + t * d, rtol=1e-12, atol=1e-12)
            assert loss <= before + LOWER * t * slope and abs(there @ d) <= FLATTER * abs(slope)
        lowest = min(lowest, loss)
    assert lowest < 1e-9
    np.testing.assert_allclose(x.detach().numpy(), 1, atol=1e-5)


@given(st.integers(1, 6), st.sampled_from([None, "strong_wolfe"]), st.integers(0, 50))
def test_a_quadratic_is_solved(n, search, seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    a = a @ a.T + np.eye(n)
    b = rng.standard_normal(n)
    parts = [ml.tensor(rng.standard_normal(1), requires_grad=True) for _ in range(n)]
    optimizer = optim.LBFGS(parts, max_iter=200, max_eval=800, tolerance_change=0.0,
                            line_search_fn=search)  # fmt: skip

    def closure():
        optimizer.zero_grad()
        x = ml.cat(parts)
        loss = 0.5 * x @ (ml.tensor(a) @ x) - ml.tensor(b) @ x
        loss.backward()
        return loss

    optimizer.step(closure)
    found = np.concatenate([p.detach().numpy() for p in parts])
    np.testing.assert_allclose(found, np.linalg.solve(a, b), rtol=1e-4, atol=1e-5)


def test_lbfgs_goes_on_from_its_state():
    def made(start):
        x = ml.tensor(start, requires_grad=True)
        return x, optim.LBFGS([x], max_iter=4, line_search_fn="strong_wolfe")

    x, whole = made(np.array([-1.2, 1.0, 0.3]))
    y, half = made(np.array([-1.2, 1.0, 0.3]))
    for _ in range(4):
        whole.step(closure_of(whole, x, rosenbrock, []))
    for _ in range(2):
        half.step(closure_of(half, y, rosenbrock, []))
    z, other = made(y.detach().numpy())
    other.load_state_dict(copy.deepcopy(half.state_dict()))
    for _ in range(2):
        other.step(closure_of(other, z, rosenbrock, []))
    np.testing.assert_array_equal(z.detach().numpy(), x.detach().numpy())


def test_a_loss_that_is_not_a_number_ends_the_search():
    x = ml.tensor([0.5], dtype=ml.float64, requires_grad=True)
    optimizer = optim.LBFGS([x], lr=5.0, line_search_fn="strong_wolfe")
    optimizer.step(closure_of(optimizer, x, lambda x: (1 - x).log().neg().sum() - 3 * x.sum(), []))
    assert np.isfinite(x.item()) and x.item() == pytest.approx(2 / 3, abs=1e-4)


@pytest.mark.parametrize(("call", "message"), [
    (lambda p: optim.LBFGS([p]).step(), "LBFGS: step needs a closure"),
    (lambda p: optim.LBFGS([{"params": p}, {"params": ml.ones(1)}]), "takes one group"),
    (lambda p: optim.LBFGS([p], line_search_fn="armijo"), "line_search_fn must be one of"),
    (lambda p: optim.Muon([p]), "Muon: every parameter must be a matrix"),
    (lambda p: optim.Muon([p], adjust_lr_fn="x"), "adjust_lr_fn must be one of"),
    (lambda p: optim.Lookahead(optim.SGD([p]), k=0), "needs k >= 1"),
    (lambda p: optim.Lookahead(p), "needs an optimizer to hold"),
    (lambda p: optim.SAM([p], optim.SGD, rho=-1), "rho must not be negative"),
    (lambda p: optim.Lion([p], betas=(1.0, 0.9)), "betas must be two numbers"),
])  # fmt: skip
def test_bad_options_are_refused_with_words(call, message):
    with pytest.raises(ShapeError, match=message):
        call(ml.ones(2, requires_grad=True))
