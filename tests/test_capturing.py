"""`ml.capture`: replays equal running the function, on every op that can be recorded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import CASES, Case

import minidl as ml
import minidl.functional as F
from minidl import nn
from minidl.backend.cpu import embedding, replay, team
from minidl.errors import GraphError, RangeError
from minidl.models import GPT, CharRNN

# By a library or with values read on the host, which is refused.
EAGER = """ctc_loss solution inverse determinant log_determinant cholesky_factor symmetric_eigen
singular_values orthogonal_triangular""".split()
RANDOM = [case for case in CASES if not case.stochastic and case.name not in EAGER]


def draw(case: Case, seed: int, dtype: type) -> list[ml.Tensor]:
    return [ml.tensor(a.astype(dtype)) for a in case.draw(np.random.default_rng(seed))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_replays_equal_running(case: Case, dtype: type) -> None:
    """Captured on some inputs, replayed on others: bit-equal."""
    step = ml.capture(case.call)
    step(*draw(case, 0, dtype))
    for seed in (1, 2, 3):
        args = draw(case, seed, dtype)
        expected = case.call(*args).numpy()
        np.testing.assert_array_equal(step(*args).numpy(), expected)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in EAGER], ids=str)
def test_what_cannot_be_recorded_is_refused(case: Case) -> None:
    with pytest.raises(GraphError, match="cannot be captured|while a function is captured"):
        ml.capture(case.call)(*draw(case, 0, np.float64))


def test_every_signature_is_recorded_once() -> None:
    """A replay runs no Python of the function; other shapes, dtypes, thread counts record anew."""
    calls = []

    def double(x: ml.Tensor) -> ml.Tensor:
        calls.append(x.shape)
        return x * 2

    step, before = ml.capture(double), ml.get_num_threads()
    for value in range(5):  # the second call also runs, to compare
        np.testing.assert_array_equal(step(ml.full((3,), float(value))).numpy(), [2 * value] * 3)
    assert len(calls) == 2
    step(ml.ones(4))
    step(ml.ones(4, dtype=ml.float64))
    assert len(calls) == 4
    try:
        ml.set_num_threads(before + 1)
        step(ml.ones(4))
    finally:
        ml.set_num_threads(before)
    assert len(calls) == 5


def test_replays_see_parameters_change() -> None:
    """Weights written in place between replays count, for kernels and for NumPy's work."""
    ml.manual_seed(0)
    model = nn.Sequential(nn.Linear(70, 90), nn.ReLU(), nn.Linear(90, 3)).eval()
    rnn = nn.GRU(3, 8)
    step = ml.capture(lambda x: rnn(model(x).unsqueeze(0))[0])
    for seed in range(4):
        x = ml.tensor(np.random.default_rng(seed).standard_normal((5, 70)).astype(np.float32))
        with ml.no_grad():
            for p in [*model.parameters(), *rnn.parameters()]:
                p *= 1.1
            expected = rnn(model(x).unsqueeze(0))[0].numpy()
        np.testing.assert_array_equal(step(x).numpy(), expected)


def test_results_are_overwritten_and_have_no_graph() -> None:
    """The same tensors come back each time; what needs one call's values copies them."""
    x = ml.ones(3, requires_grad=True)
    step = ml.capture(lambda x: (x + 1, x.sum()))
    first = step(x)
    kept = first[0].clone()
    assert not first[0].requires_grad and first[1].item() == 3
    second = step(ml.full((3,), 5.0))
    assert second[0] is first[0] and second[0].tolist() == [6, 6, 6] and second[1].item() == 15
    assert kept.tolist() == [2, 2, 2]


@pytest.mark.parametrize("read", [
    lambda x: x * x.sum().item(), lambda x: x if x.sum() > 0 else -x,
    lambda x: ml.tensor(x.tolist()), lambda x: ml.tensor(x.numpy() * 2),
])  # fmt: skip
def test_reading_values_is_refused(read) -> None:
    """A value on the host would stay what it was."""
    with pytest.raises(GraphError, match="values cannot be read while a function is captured"):
        ml.capture(read)(ml.ones(3))
    assert ml.ones(3).sum().item() == 3  # and only then


def test_every_input_is_proven_for_itself() -> None:
    """Work that cannot be recorded on one input is found though another changed before."""

    def work(x: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
        return x * 2 + ml.from_numpy(np.sort(y.array))

    step = ml.capture(work)
    x, y = ml.ones(2), ml.tensor([[1.0, 2.0], [3.0, 5.0]])
    step(x, y)
    for k in range(3):
        np.testing.assert_array_equal(step(x * k, y).numpy(), work(x * k, y).numpy())
    with pytest.raises(GraphError, match="cannot be recorded"):
        step(x, y * 5)
    np.testing.assert_array_equal(step(x, y * 5).numpy(), work(x, y * 5).numpy())  # not y's


def test_a_changing_number_of_results_is_refused() -> None:
    """Regression: it was an error of zip's."""
    calls = []

    def work(x: ml.Tensor) -> tuple[ml.Tensor, ...]:
        calls.append(x)
        return (x + 1,) * len(calls)

    step = ml.capture(work)
    step(ml.ones(2))
    with pytest.raises(GraphError, match="cannot be recorded"):
        step(ml.zeros(2))


@pytest.mark.parametrize("work", [
    lambda x: x[x > 0] * 2, lambda x: (x > 0).nonzero(), lambda x: x.masked_select(x > 0),
    lambda x: F.one_hot((x > 0).sum() * (x > 0).long()), lambda x: (x != 0).unique(dim=0),
    lambda x: x.repeat_interleave((x > 0).long()), lambda x: x.bool().nonzero(as_tuple=True)[0],
])  # fmt: skip
def test_a_shape_that_depends_on_values_is_refused_once_it_is_another(work) -> None:
    """Regression: proven with as many values, it gave wrong ones later, or NumPy's complaint."""
    step = ml.capture(work)
    alike = [[1.0, 2.0, 0.0], [3.0, 1.0, 0.0], [2.0, 5.0, 0.0]]
    for values in alike:
        assert step(ml.tensor(values)).tolist() == work(ml.tensor(values)).tolist()
    for other in ([1.0, 0.0, 0.0], [1.0, 2.0, 3.0]):
        with pytest.raises(GraphError, match="capture: a shape that depends on values"):
            for values in (*alike, other):
                step(ml.tensor(values))


def test_masks_that_stay_and_writes_by_masks_are_recorded() -> None:
    """How many places a mask names matters only where the result's shape follows from it."""
    mask = ml.tensor([True, False, True])

    def work(x: ml.Tensor) -> ml.Tensor:
        y = x.clone()
        y[x > 1] = -1.0
        return ml.cat([x[mask], x[mask.nonzero().flatten()], y])

    step = ml.capture(work)
    for values in ([1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [3.0, 5.0, 7.0]):
        assert step(ml.tensor(values)).tolist() == work(ml.tensor(values)).tolist()


def test_arithmetic_of_integers_is_recorded() -> None:
    """Regression: it was not, and what followed from it could pass the proof by luck."""
    w = ml.randn(5, 3)
    step = ml.capture(lambda i: F.embedding(i // 2, w))
    for given in ([0, 2], [1, 3], [4, 6], [8, 0]):
        i = ml.tensor(given)
        np.testing.assert_array_equal(step(i).numpy(), F.embedding(i // 2, w).numpy())


def test_replays_warn_of_nothing() -> None:
    """As small expressions do outside: overflow and NaN are values."""
    step = ml.capture(lambda x: (x * 1e38).to(ml.int32))
    for k in range(3):
        step(ml.full((3,), 10.0**k))


def test_what_is_no_tensor_is_refused() -> None:
    for given in ((), (3,), (ml.ones(2), None)):
        with pytest.raises(GraphError, match="capture: the function takes tensors, at least one"):
            ml.capture(lambda *xs: xs[0])(*given)
    with pytest.raises(GraphError, match="capture: the function must give a tensor or a tuple"):
        ml.capture(lambda x: {"y": x})(ml.ones(2))


def test_random_draws_are_refused() -> None:
    step = ml.capture(lambda x: F.dropout(x, 0.5))
    step(ml.ones(100))
    with pytest.raises(GraphError, match="cannot be recorded"):
        step(ml.full((100,), 2.0))


def test_replays_check_indices() -> None:
    """An index out of range raises in a replay too, before anything is read."""
    table = nn.Embedding(5, 3)
    step = ml.capture(table)
    for k in range(3):
        step(ml.tensor([k, 0]))
    with pytest.raises(RangeError, match=r"embedding: every index must lie in \[0, 5\); got inde"):
        step(ml.tensor([1, 7]))
    expected = table.weight.detach().numpy()[[4, 2]]
    np.testing.assert_array_equal(step(ml.tensor([4, 2])).numpy(), expected)


def test_a_token_of_a_model_is_replayed_without_python_between_kernels() -> None:
    """Of a GPT's and an LSTM's step only the checks of their indices stand between the kernels."""
    x = ml.zeros(1, 1, dtype=ml.int64)
    gpt = GPT(9, block_size=8, n_layer=2, n_head=2, n_embd=8, n_kv_head=1, positions="rotary",
              norm="rms", mlp="swiglu").eval()  # fmt: skip
    rnn, states, cache = CharRNN(9, hidden_size=8).eval(), [ml.zeros(1, 8)] * 4, gpt.new_cache()
    with ml.no_grad():
        gpt(x, cache)
        for step in (lambda: gpt(x, cache), lambda: rnn._after(x, *states)):
            _, again = replay.record(step)
            (notes,) = [c.cell_contents for c in again.__closure__]
            others = [f for f, _ in notes if not isinstance(f, team.Jobs)]
            assert set(others) <= {embedding._check_range} and len(notes) <= 4


def test_two_threads_replay_at_once() -> None:
    """Jobs of many chunks: one replay has the team, the other does its chunks alone."""
    x = ml.tensor(np.random.default_rng(0).standard_normal((400, 300)).astype(np.float32))
    steps = [ml.capture(lambda x: F.softmax(F.gelu(x) * 2, -1)) for _ in range(2)]
    expected = [step(x).numpy().copy() for step in steps][0]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            for y in pool.map(lambda step: step(x).numpy(), steps):
                np.testing.assert_array_equal(y, expected)
