"""Learning-rate schedules: PyTorch's rates, state that goes through a file, clear errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from minidl import optim
from minidl.autograd import wrap
from minidl.errors import DTypeError, ShapeError
from minidl.io import load, save
from minidl.optim import lr_scheduler as L

HERE = Path(__file__).parent / "golden"
SCHEDULES = json.loads((HERE / "optim_runs.json").read_text())["schedules"]
GOLDEN = np.load(HERE / "optim_runs.npz")


def optimizer():
    params = [wrap(np.zeros(2), True) for _ in range(2)]
    groups = [{"params": [params[0]], "lr": 0.3}, {"params": [params[1]]}]
    return optim.SGD(groups, lr=0.1, momentum=0.9)


def rates(o, s, steps):
    rows = []
    for _ in range(steps):
        rows.append([(g["lr"], g["momentum"]) for g in o.param_groups])
        assert s.get_last_lr() == [g["lr"] for g in o.param_groups]
        s.step()
    return np.array(rows).reshape(steps, 2, 2)


@pytest.mark.parametrize("index", range(len(SCHEDULES)))
def test_thirty_steps_give_the_golden_rates_also_through_a_file(index, tmp_path):
    for cut in (0, 3, 11):
        o = optimizer()
        s = eval(f"L.{SCHEDULES[index]}", {"L": L, "o": o})
        first = rates(o, s, cut)
        save({"s": s.state_dict(), "o": o.state_dict()}, tmp_path / "x")
        saved = load(tmp_path / "x")
        o = optimizer()
        s = eval(f"L.{SCHEDULES[index]}", {"L": L, "o": o})
        s.load_state_dict(saved["s"])
        o.load_state_dict(saved["o"])
        found = np.concatenate([first, rates(o, s, 30 - cut)])
        np.testing.assert_allclose(found, GOLDEN[f"rates{index}"], 1e-7, 1e-12)


def test_a_rate_set_by_hand_is_carried_on():
    o = optimizer()
    s = L.ExponentialLR(o, 0.5)
    s.step()
    o.param_groups[0]["lr"] = 8.0
    s.step()
    assert o.param_groups[0]["lr"] == 4.0 and o.param_groups[1]["lr"] == 0.025


def test_going_on_at_a_given_epoch():
    o = optimizer()
    with pytest.raises(ShapeError, match=r"each group needs an 'initial_lr'; got last_epoch 3"):
        L.StepLR(o, 2, last_epoch=3)
    first = L.StepLR(o, 2, 0.5)
    expected = [(first.step(), o.param_groups[0]["lr"])[1] for _ in range(6)]
    o = optimizer()
    second = L.StepLR(o, 2, 0.5)
    for _ in range(3):
        second.step()
    third = L.StepLR(o, 2, 0.5, last_epoch=second.last_epoch)
    assert third.last_epoch == 4 and o.param_groups[0]["lr"] == expected[3]


SMOOTH = [
    lambda o, **k: L.ExponentialLR(o, 0.8, **k), lambda o, **k: L.PolynomialLR(o, 9, 2.0, **k),
    lambda o, **k: L.LinearLR(o, 0.2, total_iters=6, **k),
    lambda o, **k: L.CosineAnnealingLR(o, 7, 0.01, **k),
]  # fmt: skip


@pytest.mark.parametrize("make", SMOOTH)
@pytest.mark.parametrize("done", [1, 4])
def test_smooth_schedules_go_on_from_the_rates_of_a_loaded_optimizer(make, done):
    """Made with last_epoch they once took a step too many; the rates are PyTorch's."""
    o = optimizer()
    s = make(o)
    rates(o, s, done)
    saved = o.state_dict()
    expected = rates(o, s, 4)
    o = optimizer()
    o.load_state_dict(saved)
    found = rates(o, make(o, last_epoch=done - 1), 4)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_lambda_functions_are_not_saved_and_the_rest_is():
    s = L.LambdaLR(optimizer(), [lambda t: 1 / (t + 1), lambda t: 0.5**t])
    s.step()
    assert s.get_last_lr() == [0.15, 0.05]
    assert set(s.state_dict()) == {"base_lrs", "last_epoch", "_last_lr"}


@pytest.mark.parametrize(
    ("make", "theirs", "rates"),
    [
        (lambda o: L.ConstantLR(o, 0.5, 3), {"factor": 0.5}, [0.5, 1, 1]),
        (lambda o: L.MultiStepLR(o, [9, 3, 3]), {"milestones": {3: 2, 9: 1}}, [1, 0.01, 0.01]),
        (lambda o: L.LambdaLR(o, lambda t: 0.5**t), {"lr_lambdas": [None]}, [0.25, 0.125, 0.0625]),
    ],
)
def test_states_of_pytorch_load(make, theirs, rates):
    """What PyTorch keeps under a method's name, in place of a function or as counts was taken."""
    o = optim.SGD([wrap(np.zeros(1), True)], lr=1.0)
    s = make(o)
    s.load_state_dict({"last_epoch": 2, "base_lrs": [1.0], "_step_count": 3, **theirs})
    o.param_groups[0]["lr"] = rates[0]
    got = []
    for _ in range(3):
        got.append(o.param_groups[0]["lr"])
        s.step()
    assert got == pytest.approx(rates)


def test_betas_are_cycled_where_there_is_no_momentum():
    p = wrap(np.zeros(2), True)
    o = optim.AdamW([p], betas=(0.9, 0.99))
    s = L.OneCycleLR(o, 1.0, total_steps=10)
    assert o.param_groups[0]["betas"] == (0.95, 0.99)
    for _ in range(2):
        s.step()
    assert o.param_groups[0]["betas"] == pytest.approx((0.85, 0.99))
    for _ in range(8):
        s.step()
    with pytest.raises(ShapeError, match="OneCycleLR: all 10 steps were taken"):
        s.step()


def test_a_cycle_refuses_what_it_cannot_do():
    o = optim.Adagrad([wrap(np.zeros(2), True)])
    with pytest.raises(ShapeError, match="CyclicLR: the optimizer has neither momentum nor betas"):
        L.CyclicLR(o, 0.1, 0.5)
    for options, words in (
        ({"step_size_up": 0}, "must be positive"), ({"mode": "square"}, "mode must be one of"),
        ({"base_lr": [0.1] * 3}, "one value for each of 1 groups"),
    ):  # fmt: skip
        given = {"base_lr": 0.1, "max_lr": 0.5, "cycle_momentum": False} | options
        with pytest.raises(ShapeError, match=words):
            L.CyclicLR(o, **given)


def test_a_part_begins_from_the_rates_that_it_was_made_with():
    """Not from those that a later OneCycleLR wrote over them."""
    o = optim.SGD([wrap(np.zeros(1), True)], lr=0.1, momentum=0.9)
    after = L.CosineAnnealingLR(o, 10)
    s = L.SequentialLR(o, [L.OneCycleLR(o, 0.5, total_steps=12), after], [3])
    found = []
    for _ in range(6):
        found.append(o.param_groups[0]["lr"])
        s.step()
    cosine = [0.05 * (1 + np.cos(np.pi * t / 10)) for t in range(3)]
    np.testing.assert_allclose(found[0], 0.02)
    np.testing.assert_allclose(found[3:], cosine)


def test_warm_restarts_go_to_parts_of_an_epoch():
    """As in PyTorch: scheduler.step(epoch + batch / batches)."""
    o = optim.SGD([wrap(np.zeros(1), True)], lr=0.1)
    s = L.CosineAnnealingWarmRestarts(o, 2, 2)
    for at, t, length in ((0.5, 0.5, 2), (1.75, 1.75, 2), (2.0, 0.0, 4), (4.5, 2.5, 4)):
        s.step(at)
        want = 0.05 * (1 + np.cos(np.pi * t / length))
        np.testing.assert_allclose(s.get_last_lr(), [want])
    s.step()
    np.testing.assert_allclose(s.get_last_lr(), [0.05 * (1 + np.cos(np.pi * 3.5 / 4))])
    with pytest.raises(ShapeError, match="epoch must be >= 0"):
        s.step(-1)


def test_a_composite_starts_over_inside_another_one():
    o = optimizer()
    inner = L.ChainedScheduler([L.ConstantLR(o, 0.5, 2), L.ExponentialLR(o, 0.5)])
    s = L.SequentialLR(o, [L.LambdaLR(o, lambda t: 1.0), inner], [3])
    found = [row[1][0] for row in rates(o, s, 6)]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.1, 0.05, 0.025, 0.025])


def test_plateau_reads_a_tensor_and_round_trips(tmp_path):
    def go(o, s, values):
        out = []
        for value in values:
            s.step(wrap(np.asarray(value, np.float32)))
            out.append(o.param_groups[0]["lr"])
        return out

    values = [3, 2, 2, 2, 2, 1, 1, 1, 1, 1]
    o = optimizer()
    whole = go(o, L.ReduceLROnPlateau(o, patience=1, cooldown=1), values)
    assert whole[-1] < whole[0]
    o = optimizer()
    s = L.ReduceLROnPlateau(o, patience=1, cooldown=1)
    first = go(o, s, values[:4])
    save([s.state_dict(), o.state_dict()], tmp_path / "x")
    o = optimizer()
    s = L.ReduceLROnPlateau(o)
    for part, state in zip((s, o), load(tmp_path / "x"), strict=True):
        part.load_state_dict(state)
    assert first + go(o, s, values[4:]) == whole


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: L.StepLR(3, 2), DTypeError, "StepLR: optimizer must be an Optimizer; got .* 3"),
        (lambda o: L.StepLR(o, 0), ShapeError, "step_size must be positive"),
        (lambda o: L.ConstantLR(o, 2.0), ShapeError, r"factor must lie in \[0, 1\]; got factor 2"),
        (lambda o: L.LinearLR(o, 0.0), ShapeError, "LinearLR: start_factor must"),
        (lambda o: L.LinearLR(o, total_iters=0), ShapeError, "LinearLR: total_iters must be pos"),
        (lambda o: L.PolynomialLR(o, 0), ShapeError, "PolynomialLR: total_iters must be positive"),
        (lambda o: L.CosineAnnealingLR(o, 0), ShapeError, "CosineAnnealingLR: T_max must be pos"),
        (lambda o: L.LambdaLR(o, [abs]), ShapeError, "one value for each of 2 groups"),
        (lambda o: L.CosineAnnealingWarmRestarts(o, 0), ShapeError, "must be positive integers"),
        (lambda o: L.OneCycleLR(o, 1.0), ShapeError, "give total_steps, or epochs and steps_per"),
        (lambda o: L.OneCycleLR(o, 1.0, 9, pct_start=2.0), ShapeError, "pct_start must lie in"),
        (lambda o: L.OneCycleLR(o, 1.0, 9, anneal_strategy="x"), ShapeError, "'cos', 'linear'"),
        (lambda o: L.ReduceLROnPlateau(o, "up"), ShapeError, "one of .'min', 'max'"),
        (lambda o: L.ReduceLROnPlateau(o, factor=1.0), ShapeError, "factor must be below 1"),
        (lambda o: L.ChainedScheduler([]), ShapeError, "the list of schedulers is empty"),
        (lambda o: L.SequentialLR(o, [L.StepLR(o, 1)], [2]), ShapeError, "one scheduler more"),
        (
            lambda o: L.ChainedScheduler([L.ReduceLROnPlateau(o)]),
            DTypeError,
            "step takes no metric",
        ),
        (
            lambda o: L.ChainedScheduler([L.StepLR(o, 1), L.StepLR(optimizer(), 1)]),
            ShapeError,
            "belong to the same optimizer",
        ),
    ],
)
def test_every_mistake_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make(optimizer())


def test_cycling_momentum_needs_some():
    o = optim.Adagrad([wrap(np.zeros(1), True)])
    with pytest.raises(ShapeError, match="neither momentum nor betas.*cycle_momentum=False"):
        L.OneCycleLR(o, 1.0, total_steps=5)
    L.OneCycleLR(o, 1.0, total_steps=5, cycle_momentum=False)
