"""The tools: gradient checks that explain, counts that are right, a profile, drawings, the CLI."""

import io
import os
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from minidl import functional as F
from minidl import nn, optim, random
from minidl.__main__ import main
from minidl.autograd import Op, wrap
from minidl.errors import DataError, GraphError, ShapeError
from minidl.io import save_safetensors
from minidl.tools import gradcheck, gradgradcheck, info, lr_find, plot_graph, profile, summary


def leaf(*shape, seed=0, dtype=np.float64):
    return wrap(np.random.default_rng(seed).normal(size=shape).astype(dtype), True)


def square_with(factor):
    """x², with a vjp that is right for factor 2; made by hand, so that it is not registered."""

    def square(x):
        return x * x, (x,), lambda g, need, x: (g * x * factor,)

    made = Op.__new__(Op)
    made.function, made.definition, made.view, made.name = square, None, False, "square"
    return made


# ---- gradcheck -----------------------------------------------------------------------------------


def test_right_gradients_pass_at_both_orders():
    assert gradcheck(lambda x: F.softmax(x, dim=-1), leaf(3, 4))
    assert gradgradcheck(F.linear, (leaf(3, 4), leaf(2, 4, seed=1), leaf(2, seed=2)))
    assert gradgradcheck(lambda x, y: (x * x * y, y.exp()), (leaf(3), leaf(3, seed=1)))
    assert gradgradcheck(lambda x: x * x, leaf(3), wrap(np.ones(3)))


def test_inputs_of_float32_are_checked_in_float64_and_others_passed_on():
    seen = []

    def fn(x, y, n):
        seen.append((x.dtype, y.dtype, n))
        return x * y * n

    assert gradcheck(fn, (leaf(3, dtype=np.float32), wrap(np.ones(3, np.float32)), 2))
    assert seen[0] == (np.float64, np.float32, 2)


def test_one_percent_of_error_is_found_and_explained():
    with pytest.raises(GraphError) as caught:
        gradcheck(lambda x, y: y + square_with(2.02)(x), (leaf(2, 3), leaf(3)))
    text = str(caught.value)
    assert "the derivative of fn with respect to input 0 (2, 3) is wrong" in text
    assert "ratio 1.01" in text and "looks like an error in the gradient" in text
    assert re.search(r"along a random direction: vjp \S+, central difference \S+, ratio", text)
    assert not gradcheck(square_with(2.02), leaf(2, 3), raise_exception=False)


def test_a_vjp_of_zeros_for_softmax_is_found():
    made = square_with(2)
    made.function = lambda x: (
        np.exp(x) / np.exp(x).sum(-1, keepdims=True),
        (x,),
        lambda g, need, x: (0 * g,),
    )
    with pytest.raises(GraphError, match="vjp 0, central difference"):
        gradcheck(made, leaf(3, 4))


def test_a_kink_is_told_from_an_error():
    x = wrap(np.array([1.0, 0.0, -2.0]), True)
    with pytest.raises(GraphError, match="one-sided differences disagree.*looks like a kink"):
        gradcheck(F.relu, x)
    assert gradcheck(F.relu, leaf(5))


def test_an_error_of_the_second_order_is_found():
    def cube(x):  # right once: 3x²; its own gradient is written as 5x
        def vjp(g, need, x):
            return (g * second(x),)

        return x * x * x, (x,), vjp

    second, first = square_with(2), square_with(2)
    second.function = lambda x: (3 * x * x, (x,), lambda g, need, x: (g * x * 5,))
    first.function = cube
    assert gradcheck(first, leaf(3))
    with pytest.raises(GraphError, match=r"derivative of fn with respect to input 0"):
        gradgradcheck(first, leaf(3))


@pytest.mark.parametrize(
    ("fn", "inputs", "message"),
    [
        (lambda x: x, wrap(np.ones(2)), "no input is a floating-point Tensor that requires"),
        (lambda x: x.detach(), leaf(2), "no output depends on an input"),
        (lambda x: F.dropout(x, 0.5), leaf(20), "fn gives different values when called twice"),
        (lambda x: (x * x).log(), wrap(np.zeros(2), True), "not a number: move the point"),
    ],
)
def test_what_cannot_be_checked_is_named(fn, inputs, message):
    with pytest.raises(GraphError, match=message), np.errstate(all="ignore"):
        gradcheck(fn, inputs)


def test_a_function_that_changes_its_input_is_named():
    def fn(x):
        y = x * 1.0
        x.array[...] = np.round(x.array + 1)
        return y * 0.0

    with pytest.raises(GraphError, match="fn changes input 0 in place"):
        gradcheck(fn, leaf(3))


# ---- summary -------------------------------------------------------------------------------------


def network():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 5, 10),
    )


def test_summary_counts_parameters_flops_and_bytes():
    model = network()
    model[1].eval()
    model[4].bias.requires_grad_(False)
    state = {name: t.array.copy() for name, t in model.state_dict().items()}
    found = summary(model, (3, 4, 8, 10))
    conv, dense = 2 * 3 * 8 * 4 * 5 * (2 * 9), 2 * 3 * 160 * 10
    assert found.flops == conv + dense
    assert found.parameters == 8 * 2 * 9 + 16 + 1610 and found.trainable == found.parameters - 10
    rows = {layer.name: layer for layer in found.layers}
    assert [rows[n].kind for n in "01234"] == "Conv2d BatchNorm2d ReLU Flatten Linear".split()
    assert rows["0"].output == (3, 8, 4, 5) and rows["0"].flops == conv
    assert rows["4"].flops == dense and rows["4"].parameters == 1610
    assert rows["2"].bytes == 3 * 8 * 4 * 5 * 4
    assert model.training and not model[1].training
    assert all(np.array_equal(state[n], t.array) for n, t in model.state_dict().items())
    text = str(found)
    assert "0 (Conv2d)" in text and "(3, 8, 4, 5)" in text and "1,770 parameters" in text


def test_summary_counts_every_kind_of_product():
    t, b, i, h = 5, 2, 3, 4

    def flops(model, *shape, **options):
        return summary(model, shape, **options).flops

    assert flops(nn.LSTM(i, h), t, b, i) == 2 * t * b * 4 * h * (i + h)
    assert flops(nn.GRU(i, h), t, b, i) == 2 * t * b * 3 * h * (i + h)
    assert flops(nn.RNN(i, h), t, b, i) == 2 * t * b * h * (i + h)
    assert flops(nn.Conv1d(i, h, 2), b, i, t) == 2 * b * h * (t - 1) * i * 2
    transposed = nn.ConvTranspose2d(i, h, 3, stride=2)
    assert flops(transposed, b, i, t, t) == 2 * b * t * t * i * h * 9
    assert flops(nn.Embedding(7, h), b, t, dtype=np.int64) == 0
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    dense = 2 * b * t * (8 * 24 + 8 * 8 + 2 * 8 * 16)
    assert flops(encoder, b, t, 8) == dense + 2 * b * t * t * (8 + 8)


def test_summary_of_a_layer_used_twice_and_of_two_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(4, 4)

        def forward(self, x, index):
            return self.dense(self.dense(x)) @ x.mT, index

    found = summary(Twice(), [(3, 4), (2,)], dtype=[np.float32, np.int64])
    assert [(r.name, r.flops) for r in found.layers] == [
        ("(model)", 2 * 3 * 3 * 4),
        ("dense", 2 * 2 * 3 * 16),
    ]
    with pytest.raises(ShapeError, match="summary: model must be a Module"):
        summary(lambda x: x, (1,))


# ---- profile, plot_graph -------------------------------------------------------------------------


def test_profile_lists_forward_and_backward_ops():
    model, x = network(), wrap(np.ones((2, 4, 8, 10), np.float32))
    with profile() as p:
        for _ in range(2):
            model(x).sum().backward()
    rows = {row.name: row for row in p.rows}
    counts = [rows[n].calls for n in ("convolve", "convolve_grad", "normalise_batch_grad")]
    assert counts == [2, 2, 2]
    inside = sum(row.seconds for row in p.rows)
    assert 0 < inside <= p.seconds
    w, y = model[0].weight.array, 2 * 8 * 4 * 5 * 4
    assert rows["convolve"].bytes == 2 * (x.array.nbytes + w.nbytes + y)
    text = str(p)
    assert text.splitlines()[0].split() == "op calls ms share µs/call MB GB/s".split()
    assert "convolve_grad" in text and text.splitlines()[-1].startswith("in ops ")
    assert list(p.rows) == sorted(p.rows, key=lambda row: -row.seconds)


def test_a_gradient_that_is_an_op_is_counted_once():
    array, other = np.zeros(4), np.zeros(4)
    with profile() as p:
        for x in (array, other):
            p._observe("relu_grad", [x, x], {}, x, 1.0)
            p._observe("relu_grad", [x], {}, [x, None], 0.5)
    assert p.rows == [("relu_grad", 2, 3.0, 2 * 3 * array.nbytes)]


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_plot_graph_writes_a_file(tmp_path, ending):
    x, w = leaf(3, 4), leaf(2, 4)
    loss = F.relu(F.linear(x, w)).sum() + w.exp().sum()
    path = tmp_path / f"graph.{ending}"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_graph(loss, path)
    content = path.read_bytes()
    assert content[:4] == {"png": b"\x89PNG", "svg": b"<?xm"}[ending]
    if ending == "svg":
        text = content.decode()
        assert ">(3, 4)<" in text and text.count(">(2, 4)<") == 1
        assert ">affine<" in text and ">exp<" in text
    loss.backward()
    with pytest.raises(GraphError, match="the graph was freed by backward; draw it before"):
        plot_graph(loss, path)
    with pytest.raises(GraphError, match="plot_graph: the tensor has no graph"):
        plot_graph(x, path)


def test_a_picture_of_a_huge_graph_is_refused(tmp_path):
    x = leaf(2)
    y = x
    for _ in range(450):
        y = y * 1.5
    with pytest.raises(GraphError, match=r"holds 400 nodes; got nodes 45\d; draw a part"):
        plot_graph(y, tmp_path / "x.png")


# ---- lr_find, info, the command line -------------------------------------------------------------


def test_lr_find_suggests_a_rate_that_trains_and_leaves_no_trace():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 32, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 1))).astype(np.float32)
    loader = [(wrap(a), wrap(b)) for a, b in zip(x, y, strict=True)]
    model = nn.Sequential(nn.Linear(6, 1), nn.Dropout(0.1))
    model[1].eval()
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model(loader[0][0]).sum().backward()
    optimizer.step()
    before = {name: t.array.copy() for name, t in model.state_dict().items()}
    buffers = [s["momentum_buffer"].copy() for s in optimizer.state.values()]
    draws = random.get_state()

    found = lr_find(model, F.mse_loss, loader, optimizer, start=1e-4, end=100.0, steps=60)

    assert found.lrs[0] == 1e-4 and len(found.lrs) == len(found.losses) < 60
    assert 1e-3 < found.suggestion < 1
    assert random.get_state() == draws
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert model.training and not model[1].training
    for name, t in model.state_dict().items():
        assert np.array_equal(before[name], t.array)
    for kept, s in zip(buffers, optimizer.state.values(), strict=True):
        assert np.array_equal(kept, s["momentum_buffer"])


def test_lr_find_names_what_is_wrong():
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters())
    x, y = wrap(np.full((1, 2), np.nan, np.float32)), wrap(np.ones((1, 1), np.float32))
    with pytest.raises(DataError, match="lr_find: the first loss is not finite; got loss nan"):
        lr_find(model, F.mse_loss, [(x, y)], optimizer)
    with pytest.raises(DataError, match="lr_find: the loader has no batch"):
        lr_find(model, F.mse_loss, [], optimizer)
    with pytest.raises(ShapeError, match="0 < start < end"):
        lr_find(model, F.mse_loss, [(x, y)], optimizer, start=1.0, end=0.1)


def test_info_names_versions_threads_blas_cache_and_gpu(capsys, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE", "/some/folder")
    facts = info()
    assert list(facts) == "python packages processor threads BLAS".split() + ["kernel cache", "GPU"]
    assert f"numpy {np.__version__}" in facts["packages"]
    assert facts["kernel cache"].startswith("/some/folder")
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("python ") and "GPU  " in printed and "/some/folder" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "the following arguments are required: COMMAND"), (["inof"], "invalid choice: 'inof'")],
)
def test_a_wrong_command_line_is_explained(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_wrong_setting_is_one_line_and_status_1(capsys, monkeypatch):
    monkeypatch.setenv("MINIDL_NUM_THREADS", "many")
    monkeypatch.setattr("minidl.config._threads", 0)
    assert main(["info"]) == 1
    error = capsys.readouterr().err
    assert error == "error: MINIDL_NUM_THREADS: must be a positive integer; got value 'many'\n"


def test_names_that_the_output_lacks_are_escaped(tmp_path):
    """`python -m minidl inspect` ended in a traceback."""
    save_safetensors({"naïve": np.zeros(2)}, tmp_path / "w")
    command = [sys.executable, "-m", "minidl", "inspect", str(tmp_path / "w")]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("na\\xefve  float64   (2,)")


def test_an_output_that_is_full_is_one_line_and_status_1(capsys, monkeypatch):
    """A traceback before: `python -m minidl inspect FILE > /dev/full`, and a closed pipe."""

    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["info"]) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "minidl", "info"], capture_output=True, text=True, check=True
    )
    assert "BLAS" in done.stdout and not done.stderr
