"""Optimizers: PyTorch's numbers over many steps, state that goes through a file, clear errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import optim
from minidl.amp import GradScaler
from minidl.autograd import is_grad_enabled, no_grad, wrap
from minidl.errors import CheckpointError, DTypeError, GraphError, ShapeError
from minidl.io import load, save

HERE = Path(__file__).parent / "golden"
CASES = json.loads((HERE / "optim_runs.json").read_text())
GOLDEN = np.load(HERE / "optim_runs.npz")
EVERY = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (optim.Adam, {"amsgrad": True}),
    (optim.AdamW, {}),
    (optim.RMSprop, {"momentum": 0.5}),
    (optim.RMSprop, {"centered": True}),
    (optim.Adagrad, {}),
    (optim.Adadelta, {}),
    (optim.Adamax, {}),
    (optim.NAdam, {}),
    (optim.RAdam, {"betas": (0.8, 0.9)}),
    (optim.Lion, {}),
    (optim.LAMB, {}),
    (optim.LARS, {"weight_decay": 0.1}),
]


def leaf(array):
    return wrap(np.array(array), True)


class Run:
    """The run that the golden script made, from the same seeded numbers."""

    def __init__(self, make, dtype="float64", shapes=CASES["shapes"]):
        self.rng, self.dtype, self.step_count = np.random.default_rng(0), dtype, 0
        self.params = [leaf(self.rng.normal(size=s).astype(dtype)) for s in shapes]
        self.optimizer = make(self.params)

    def go(self, steps):
        for _ in range(steps):
            self.step_count += 1
            for i, p in enumerate(self.params):
                g = self.rng.normal(size=p.shape).astype(self.dtype)
                p.grad = None if i == 1 and self.step_count in (1, 5) else wrap(g)
            self.optimizer.step()
        return [p.array.copy() for p in self.params]


def make_of(case):
    return lambda params: getattr(optim, case["name"])(params, **case["options"])


@pytest.mark.parametrize("index", range(len(CASES["runs"])))
def test_a_long_run_gives_the_golden_values(index):
    case = CASES["runs"][index]
    run = Run(make_of(case), case["dtype"])
    tolerance = 1e-11 if case["dtype"] == "float64" else 4e-6
    for before, step in zip([0, *CASES["kept"]], CASES["kept"], strict=False):
        for i, p in enumerate(run.go(step - before)):
            expected = GOLDEN[f"run{index}.{step}.{i}"]
            np.testing.assert_allclose(p, expected, tolerance, tolerance, err_msg=str(case))
    saved = run.optimizer.state_dict()
    assert {str(i): set(entry) for i, entry in saved["state"].items()} == {
        i: set(entry) for i, entry in case["state"].items()
    }
    assert set(saved["param_groups"][0]) == set(case["group"])
    assert all(type(s["step"]) is int for s in saved["state"].values() if "step" in s)


@pytest.mark.parametrize(("kind", "options"), EVERY)
def test_a_run_that_goes_through_a_file_is_bit_identical(kind, options, tmp_path):
    def make(params):
        return kind([{"params": params[:1], "lr": 0.03}, {"params": params[1:]}], **options)

    whole, half = Run(make, "float32"), Run(make, "float32")
    expected = whole.go(9)
    half.go(4)
    names = [p.array for p in half.params]
    save({"optimizer": half.optimizer.state_dict(), "params": names}, tmp_path / "x")
    state = load(tmp_path / "x")
    half.params = [leaf(array) for array in state["params"]]
    half.optimizer = kind([{"params": half.params[:1]}, {"params": half.params[1:]}])
    half.optimizer.load_state_dict(state["optimizer"])
    assert half.optimizer.param_groups[0]["lr"] == 0.03
    assert half.optimizer.param_groups[0]["params"][0] is half.params[0]
    for a, b in zip(expected, half.go(5), strict=True):
        assert np.array_equal(a, b)
    entries = state["optimizer"]["state"].get(0, {})  # the loaded arrays were copied, not taken
    assert all(half.optimizer.state[half.params[0]][key] is not v for key, v in entries.items()
               if isinstance(v, np.ndarray))  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), EVERY)
def test_memory_order_does_not_change_the_step(kind, options):
    rng = np.random.default_rng(1)
    start, grads = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(3, 2, 3, 4, 5))

    def last(a):
        return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    results = []
    for order_p, order_g in [(np.array, np.array), (last, np.array), (last, last)]:
        p = wrap(order_p(start), True)
        optimizer = kind([p], **options)
        for g in grads:
            p.grad = wrap(order_g(g))
            optimizer.step()
        assert p.array.strides == order_p(start).strides
        results.append(p.array)
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], 1e-13)


@given(groups=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_groups_step_as_separate_optimizers_would(groups, seed):
    rng = np.random.default_rng(seed)
    starts = [[rng.normal(size=rng.integers(0, 4, 2)) for _ in range(n)] for n in groups]
    rates = rng.uniform(0.01, 1, len(groups))
    together = [[leaf(a) for a in group] for group in starts]
    apart = [[leaf(a) for a in group] for group in starts]
    one = optim.Adam([{"params": g, "lr": lr} for g, lr in zip(together, rates, strict=True)])
    several = [optim.Adam(g, lr=lr) for g, lr in zip(apart, rates, strict=True)]
    for _ in range(3):
        for group, twin in zip(together, apart, strict=True):
            for p, q in zip(group, twin, strict=True):
                p.grad = None if rng.random() < 0.3 else wrap(rng.normal(size=p.shape))
                q.grad = p.grad
        one.step()
        for optimizer in several:
            optimizer.step()
    for p, q in zip(sum(together, []), sum(apart, []), strict=True):
        assert np.array_equal(p.array, q.array)


def test_step_runs_the_closure_skips_missing_gradients_and_bumps_versions():
    p, q, r = leaf([1.0, 2.0]), leaf([3.0]), leaf([4.0])
    optimizer = optim.SGD([p, q, r], lr=0.5)

    def closure():
        assert is_grad_enabled()
        p.grad, r.grad = wrap(np.array([1.0, -1.0])), wrap(np.array([2.0]))
        return "loss"

    before = [a.version for a in (p, q, r)]
    with no_grad():
        assert optimizer.step(closure) == "loss"
    assert p.tolist() == [0.5, 2.5] and q.tolist() == [3.0] and r.tolist() == [3.0]
    assert [a.version > v for a, v in zip((p, q, r), before)] == [True, False, True]
    kept = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0, 0] and q.grad is None and kept.shape == (2,)
    optimizer.zero_grad()
    assert p.grad is None
    optimizer.step()
    assert p.tolist() == [0.5, 2.5]


def test_groups_defaults_and_changed_options():
    p, q = leaf([1.0]), leaf([2.0])
    optimizer = optim.SGD([p], lr=0.1, momentum=0.0)
    optimizer.add_param_group({"params": [q], "lr": 1.0})
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 1.0]
    saved = optimizer.state_dict()
    assert saved["param_groups"][1]["params"] == [1] and saved["state"] == {}
    optimizer.param_groups[0]["lr"] = 2.0
    p.grad = q.grad = wrap(np.array([1.0]))
    optimizer.step()
    assert p.item() == -1.0 and q.item() == 1.0
    assert "Parameter Group 1\n" in repr(optimizer) and "    lr: 2.0\n" in repr(optimizer)


def test_a_state_of_pytorch_loads():
    p = leaf(np.ones((2, 2), np.float32))
    optimizer = optim.Adam([p])
    state = {"step": np.array(3.0), "exp_avg": np.ones((2, 2)), "exp_avg_sq": np.ones((2, 2))}
    group = {**optimizer.state_dict()["param_groups"][0], "foreach": None, "lr": 0.25}
    optimizer.load_state_dict({"state": {0: state}, "param_groups": [group]})
    held = optimizer.state[p]
    assert held["step"] == 3 and held["exp_avg"].dtype == np.float32
    p.grad = wrap(np.ones((2, 2), np.float32))
    optimizer.step()
    assert held["step"] == 4


@pytest.mark.parametrize("kind", [optim.Adam, optim.NAdam])
def test_counts_of_a_number_stay_counts(kind):
    """Of a 0-d parameter, PyTorch's step and mu_product became arrays of its dtype."""
    p = leaf(np.array(1.0, np.float32))
    optimizer = kind([p])
    p.grad = wrap(np.array(0.5, np.float32))
    optimizer.step()
    saved = optimizer.state_dict()
    held = {key: np.array(value, np.float32) for key, value in saved["state"][0].items()}
    optimizer.load_state_dict({**saved, "state": {0: held | {"step": np.array(2.0**24)}}})
    optimizer.step()
    assert int(optimizer.state[p]["step"]) == 2**24 + 1
    assert type(optimizer.state[p].get("mu_product", 1.0)) is float


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: optim.SGD([], lr=0.1), ShapeError, "SGD: the list of parameters is empty"),
        (lambda p: optim.SGD(p, lr=0.1), DTypeError, "SGD: params must be an ordered iter"),
        (lambda p: optim.Adam([p, 3]), DTypeError, "Adam: only Tensors can be optimized; got.*3"),
        (lambda p: optim.Adam([p, p]), ShapeError, "Adam: a parameter is given twice"),
        (lambda p: optim.Adam([{"params": p}, {"params": [p]}]), ShapeError, "given twice"),
        (lambda p: optim.Adam([{"lr": 1.0}]), DTypeError, "a group is a dict with 'params'"),
        (lambda p: optim.Adam({p}), DTypeError, "params must be an ordered iterable"),
        (lambda p: optim.Adam([{"params": {p}}]), DTypeError, "ordered collection"),
        (lambda p: optim.Adam([p], lr=-1.0), ShapeError, "lr must not be negative; got value -1.0"),
        (lambda p: optim.Adam([p], lr=float("nan")), ShapeError, "lr must not be negative"),
        (lambda p: optim.Adam([p], lr="0.1"), DTypeError, "lr must be a number; got lr '0.1'"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), ShapeError, "betas must be two numbers in"),
        (lambda p: optim.Adam([p], betas=0.9), ShapeError, "betas must be two numbers in"),
        (lambda p: optim.RMSprop([p], eps=-1e-8), ShapeError, "eps must not be negative"),
        (lambda p: optim.Adadelta([p], rho=2.0), ShapeError, "rho must lie in .0, 1.; got rho 2"),
        (lambda p: optim.SGD([p], nesterov=True), ShapeError, "nesterov needs momentum"),
    ],
)
def test_every_mistake_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make(leaf([1.0, 2.0]))


def test_a_computed_tensor_is_refused():
    with pytest.raises(GraphError, match="only leaf Tensors can be optimized"):
        optim.SGD([wrap(np.ones(2), True, node=object())])


def test_a_state_of_another_model_is_refused():
    optimizer = optim.SGD([leaf([1.0]), leaf([2.0])], momentum=0.9)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["params"] = [0]
    with pytest.raises(CheckpointError, match=r"as many parameters.*got saved \[1\], here \[2\]"):
        optimizer.load_state_dict(saved)
    saved["param_groups"][0]["params"] = [0, 1]
    saved["state"] = {1: {"momentum_buffer": np.zeros((2, 2))}}
    message = r"saved momentum_buffer must have its parameter's shape; got saved \(2, 2\) float64"
    with pytest.raises(CheckpointError, match=message):
        optimizer.load_state_dict(saved)


class Model:
    """A parameter, a float buffer, and a count that is no average's business."""

    def __init__(self):
        self.w, self.mean = leaf([1.0, 2.0]), wrap(np.array([5.0]))
        self.count = wrap(np.array(7))

    def named_parameters(self):
        yield "w", self.w

    def named_buffers(self):
        yield "mean", self.mean
        yield "count", self.count


def test_ema_averages_and_swaps_without_a_trace():
    model = Model()
    ema = optim.EMA(model, decay=0.75)
    model.w.array[...] = [3.0, 3.0]
    ema.update(model)  # the first copies
    model.w.array[...], model.mean.array[...] = [7.0, -1.0], 1.0
    ema.update(model)
    model.count.array += 1
    version = model.w.version
    with ema.swapped(model):
        assert model.w.tolist() == [4.0, 2.0] and model.mean.tolist() == [4.0]
        assert model.count.item() == 8 and model.w.version > version
    assert model.w.tolist() == [7.0, -1.0] and model.mean.tolist() == [1.0]
    twin = optim.EMA(Model(), decay=0.5)
    twin.load_state_dict(ema.state_dict())
    assert twin.decay == 0.75 and twin.updates == 2 and twin.average["w"].tolist() == [4.0, 2.0]
    saved = ema.state_dict()
    saved["average"] = {"w": np.zeros(3), "mean": np.zeros(1)}
    with pytest.raises(CheckpointError, match=r"another model; got differing \['w'\]"):
        twin.load_state_dict(saved)
    with pytest.raises(ShapeError, match=r"decay must lie in \[0, 1\]"):
        optim.EMA(model, decay=1.5)


def test_a_new_scaler_has_pytorchs_numbers():
    scaler = GradScaler("cpu")
    assert list(scaler.state_dict().values()) == [65536.0, 2.0, 0.5, 2000, 0]
    assert scaler.get_scale() == 65536.0 and scaler.enabled


def test_the_state_of_another_optimizer_is_refused():
    p = leaf([1.0])
    adam, sgd = optim.Adam([p]), optim.SGD([p], momentum=0.9)
    with pytest.raises(CheckpointError, match=r"Adam: .*another optimizer's.*'betas'"):
        adam.load_state_dict(sgd.state_dict())
    with pytest.raises(CheckpointError, match=r"SGD: .*lacking \['dampening', 'momentum'\]"):
        sgd.load_state_dict(adam.state_dict())
    optim.AdamW([p]).load_state_dict(adam.state_dict())  # alike but for a switch


@pytest.mark.parametrize(
    "make, lacking",
    [
        (lambda: optim.SGD([leaf([1.0])]), "SGD: the saved state lacks: 'param_groups'"),
        (lambda: optim.EMA(Model()), "EMA: the saved state lacks: 'average'"),
        (lambda: GradScaler("cpu"), "GradScaler: the saved state lacks: 'scale'"),
    ],
)
def test_an_empty_state_is_refused(make, lacking):
    """With words, not a bare KeyError."""
    with pytest.raises(CheckpointError, match=lacking):
        make().load_state_dict({})


def test_an_optimizer_goes_on_from_torchs_checkpoint():
    """What README says of them: moments, and the count of steps, which is a tensor there."""
    state = load(HERE / "torch" / "zip_training.pt")["optimizer"]
    kept = state["state"]
    params = [leaf(np.zeros(kept[i]["exp_avg"].shape)) for i in sorted(kept)]
    optimizer = optim.Adam(params, amsgrad=True)
    optimizer.load_state_dict(state)
    for i, p in enumerate(params):
        assert optimizer.state[p]["step"] == kept[i]["step"].item() > 0
        assert (optimizer.state[p]["exp_avg"] == kept[i]["exp_avg"].numpy()).all()
