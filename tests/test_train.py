"""The training loop: metrics, run directories, exact resume, early stopping, signals, report."""

import json
import os
import signal
import time

import numpy as np
import pytest

import minidl as ml
import minidl.functional as F
from minidl import nn, optim
from minidl.data import DataLoader, TensorDataset
from minidl.errors import CheckpointError, MinidlError
from minidl.io import load
from minidl.train import (
    Evaluation,
    Interrupted,
    Report,
    RunDir,
    StopSignal,
    Trainer,
    TrainingError,
    evaluate,
    fingerprint,
    report,
)


def toy_data(count=48):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 6)).astype(np.float32)
    return ml.tensor(x), ml.tensor((x[:, 0] + x[:, 1] > 0).astype(np.int64))


def toy(path, *, epochs=3, lr=0.1, hook=None, **options):
    """A trainer of a two-layer net with dropout, momentum, EMA and a schedule on 48 points."""
    ml.manual_seed(3)
    x, y = toy_data()
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 2))
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)

    def forward(model, batch):
        if hook is not None:
            hook(trainer)
        x, y = batch
        logits = model(x)
        return F.cross_entropy(logits, y), (logits.detach().argmax(1) == y).sum()

    def judged():
        seen = evaluate(model, [(x, y)])
        return {"heldout_loss": seen.loss, "heldout_accuracy": seen.accuracy}

    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1.0 + step))
    settings = {"epochs": epochs, "identity": {"data": "toy"}, "scheduler": schedule,
                "ema": optim.EMA(model, decay=0.9)} | options  # fmt: skip
    run = RunDir(path)
    run.path.mkdir(exist_ok=True)
    trainer = Trainer(run, model, optimizer, loader, forward, judged, **settings)
    return trainer


def states_equal(a, b):
    """Whether two loaded checkpoints hold the same values, bit for bit."""
    if isinstance(a, dict):
        return (
            isinstance(b, dict) and list(a) == list(b) and all(states_equal(a[k], b[k]) for k in a)
        )
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(states_equal, a, b))
    if hasattr(a, "numpy") and not isinstance(a, np.ndarray):
        a, b = a.numpy(), b.numpy()
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and repr(a) == repr(b)


class Killed(BaseException):
    """Stands for SIGKILL: nothing is saved on the way out."""


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(MinidlError, match="precision must be .*float16.*got .*int8"):
        toy(tmp_path, precision="int8")


@pytest.mark.parametrize(
    "name, value", [("accumulate", 0), ("accumulate", -2), ("accumulate", 1.5), ("epochs", 2.5)]
)
def test_counts_that_are_none_are_refused(tmp_path, name, value):
    """With accumulate = 0 no step was ever taken; 2.5 epochs were three."""
    with pytest.raises(
        MinidlError, match=f"Trainer: {name} must be an int >= .; got {name} {value}"
    ):
        toy(tmp_path, **{name: value})


def test_an_unknown_monitor_is_refused_at_the_first_evaluation(tmp_path):
    """It stopped the training after `patience` epochs without a word."""
    trainer = toy(tmp_path, patience=2, monitor="typo")
    with pytest.raises(MinidlError, match="monitor 'typo', known .'heldout_loss', 'heldout_acc"):
        trainer.fit()
    toy(tmp_path / "b", patience=0, monitor="typo", epochs=1).fit()


def test_rows_with_other_keys_keep_their_columns(tmp_path):
    """Values stood under other names in metrics.csv."""
    run = RunDir(tmp_path)
    for row in ({"epoch": 1, "loss": 2}, {"epoch": 2, "more": 5, "loss": 1}):
        run.append_row(row)
    run.write_csv()
    assert (tmp_path / "metrics.csv").read_text() == "epoch,loss,more\n1,2,\n2,1,5\n"


@pytest.mark.parametrize("lacking", ["seconds", "extra"])
def test_a_run_that_lacks_something_is_not_resumed(tmp_path, lacking):
    """With words, not a bare KeyError, and before anything is changed."""
    toy(tmp_path, epochs=1).fit()
    if lacking == "seconds":
        (tmp_path / "clock.json").write_text("{}")
    extra = {"extra": optim.EMA(nn.Linear(1, 1))} if lacking == "extra" else {}
    trainer = toy(tmp_path, epochs=2, state=extra)
    with pytest.raises(CheckpointError, match=f"resume: .* lacks: '{lacking}'"):
        trainer.resume()
    assert trainer.epoch == 0


@pytest.mark.parametrize("accumulate", [1, 4])
def test_killed_and_resumed_three_times_ends_bit_identical(tmp_path, accumulate):
    whole = toy(tmp_path / "whole", accumulate=accumulate)
    whole.fit()
    stops = iter((3, 4, 9))

    def run_once(stop_after):
        forwards = 0

        def hook(trainer):
            nonlocal forwards
            forwards += 1
            if stop_after and forwards > stop_after:
                raise Killed

        trainer = toy(tmp_path / "cut", accumulate=accumulate, hook=hook, save_every=0.0)
        trainer.resume()
        trainer.fit()

    for stop in stops:
        with pytest.raises(Killed):
            run_once(stop)
    run_once(0)
    assert (tmp_path / "whole/checkpoint.safetensors").read_bytes() == (
        tmp_path / "cut/checkpoint.safetensors"
    ).read_bytes()
    times = ("seconds", "evaluation_seconds", "images_per_second")
    rows = [
        [{k: v for k, v in row.items() if k not in times} for row in RunDir(tmp_path / name).rows()]
        for name in ("whole", "cut")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 3


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_between_steps_and_resume_is_exact(tmp_path, number, code):
    whole = toy(tmp_path / "whole")
    whole.fit()

    def hook(trainer):
        if trainer.steps == 8:
            os.kill(os.getpid(), number)

    with StopSignal() as stop:
        trainer = toy(tmp_path / "cut", hook=hook, stop=stop)
        with pytest.raises(Interrupted) as caught:
            trainer.fit()
    assert caught.value.code == code
    assert load(tmp_path / "cut/checkpoint.safetensors")["loop"]["steps"] == 9
    again = toy(tmp_path / "cut")
    assert again.resume()
    again.fit()
    assert states_equal(load(whole.run.checkpoint), load(again.run.checkpoint))


def test_signal_while_evaluating_evaluates_again_after_resume(tmp_path):
    whole = toy(tmp_path / "whole")
    whole.fit()
    with StopSignal() as stop:
        trainer = toy(tmp_path / "cut", stop=stop)
        judged = trainer.evaluate

        def judged_then_interrupted():
            judged()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            stop.check()
            raise AssertionError("the signal was lost")

        trainer.evaluate = judged_then_interrupted
        with pytest.raises(Interrupted):
            trainer.fit()
    again = toy(tmp_path / "cut")
    assert again.resume() and again.epoch == 0 and again.batch == 6
    again.fit()
    assert states_equal(load(whole.run.checkpoint), load(again.run.checkpoint))


def test_signal_before_the_first_step_leaves_at_once():
    with StopSignal() as stop:
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        assert caught.value.code == 130 and stop.number == signal.SIGINT


def test_a_step_that_never_ends_is_given_up(tmp_path):
    def hook(trainer):
        if trainer.steps == 8:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with StopSignal() as stop:
        stop.patience = 0.1
        trainer = toy(tmp_path, hook=hook, stop=stop)
        started = time.monotonic()
        with pytest.raises(Interrupted) as caught:
            trainer.fit()
    assert caught.value.code == 143 and time.monotonic() - started < 5
    assert load(trainer.run.checkpoint)["loop"]["steps"] == 6  # that of the first epoch's end


def test_nan_stops_with_the_place_and_keeps_the_checkpoint(tmp_path):
    trainer = toy(tmp_path, epochs=1)
    trainer.fit()
    before = trainer.run.checkpoint.read_bytes()
    broken = toy(tmp_path, epochs=2, hook=lambda t: t.model[0].weight.array.fill(np.nan))
    broken.resume()
    with pytest.raises(
        TrainingError, match=r"loss became nan in epoch 2, batch 1, at learning rate 0\.0"
    ):
        broken.fit()
    assert trainer.run.checkpoint.read_bytes() == before


def test_delayed_reading_names_the_same_batch_and_gives_the_same_means(tmp_path):
    often = toy(tmp_path / "a")
    often.fit()
    seldom = toy(tmp_path / "b", read_every=50)  # it seeds all streams, so only now
    seldom.fit()
    assert often.run.rows()[-1]["train_loss"] == seldom.run.rows()[-1]["train_loss"]

    def poison(trainer):
        if trainer.batch == 2:
            trainer.model[0].weight.array.fill(np.nan)

    with pytest.raises(TrainingError, match="epoch 1, batch 3, at"):
        toy(tmp_path / "c", read_every=50, hook=poison).fit()


def test_early_stopping_and_its_state(tmp_path):
    trainer = toy(tmp_path, epochs=50, lr=0.0, patience=3)
    trainer.fit()
    assert len(trainer.run.rows()) == 4 and trainer.finished
    again = toy(tmp_path, epochs=50, lr=0.0, patience=3)
    again.resume()
    assert again.finished and again.best == trainer.best


def test_gradient_clipping(tmp_path):
    trainer = toy(tmp_path, epochs=2, clip=1e-9)
    before = [p.detach().numpy().copy() for p in trainer.model.parameters()]
    trainer.fit()
    after = [p.detach().numpy() for p in trainer.model.parameters()]
    assert all(np.allclose(a, b, atol=1e-7) for a, b in zip(before, after, strict=True))
    assert [row["lr"] for row in trainer.run.rows()] == pytest.approx([0.1 / 7, 0.1 / 13])


@pytest.mark.parametrize("accumulate, groups", [(4, [4, 2]), (1000, [6])])
def test_accumulated_gradients_are_the_mean_of_each_group(tmp_path, accumulate, groups):
    """Of 6 batches an epoch; the last group of fewer counts as much as any other."""
    own, sizes = [], []
    trainer = toy(tmp_path, epochs=1, accumulate=accumulate)
    parameters, forward = list(trainer.model.parameters()), trainer.forward

    def seen(model, batch):
        loss, right = forward(model, batch)
        own.append([g.numpy() for g in ml.grad(loss, parameters, retain_graph=True)])
        return loss, right

    def update():
        for p, *each in zip(parameters, *own, strict=True):
            np.testing.assert_allclose(p.grad.numpy(), np.mean(each, 0), rtol=1e-5, atol=1e-7)
        sizes.append(len(own))
        own.clear()
        trainer.optimizer.zero_grad()

    trainer.forward, trainer._update = seen, update
    trainer.fit()
    assert sizes == groups


def test_resume_of_other_data_is_refused(tmp_path):
    toy(tmp_path, epochs=1).fit()
    with pytest.raises(CheckpointError, match="the data is not the one this run was started with"):
        toy(tmp_path, epochs=1, identity={"data": "other"}).resume()


def test_resume_elsewhere_warns(tmp_path, monkeypatch):
    toy(tmp_path, epochs=1).fit()
    monkeypatch.setattr("minidl.train.rundir.processor", lambda: "another processor")
    with pytest.warns(UserWarning, match="not bit-identical here: cpu .* -> another processor"):
        toy(tmp_path, epochs=1).resume()


def test_nothing_saved_yet_starts_from_the_beginning(tmp_path):
    trainer = toy(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    assert not trainer.resume()
    assert trainer.run.rows() == []


def test_rows_beyond_the_checkpoint_are_cut(tmp_path):
    run = RunDir(tmp_path)
    for epoch in (1, 2, 3):
        run.append_row({"epoch": epoch})
    run.cut_rows(2)
    assert [row["epoch"] for row in run.rows()] == [1, 2]
    with pytest.raises(CheckpointError, match="has lost rows"):
        run.cut_rows(3)
    run.write_csv()
    assert (tmp_path / "metrics.csv").read_text().split() == ["epoch", "1", "2"]


def test_no_time_in_the_checkpoint(tmp_path):
    toy(tmp_path, epochs=1).fit()
    text = json.dumps(
        load(tmp_path / "checkpoint.safetensors"), default=lambda v: list(np.shape(v))
    )
    assert "second" not in text and "time" not in text.replace("times", "")


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="is not a run directory: it has no config.json"):
        RunDir(tmp_path).read_json("config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        RunDir(tmp_path).read_json("config.json")


def test_evaluation_counts():
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2]])
    seen = Evaluation(np.log(probs), np.array([0, 1, 0, 1, 0]))
    assert seen.accuracy == 0.6
    assert seen.loss == pytest.approx(-np.log([0.9, 0.8, 0.3, 0.4, 0.8]).mean())
    assert seen.confusion().tolist() == [[2, 1], [1, 1]]
    assert seen.mistakes(5).tolist() == [2, 3] and seen.mistakes(1).tolist() == [2]


def test_evaluate_averages_views_and_puts_modes_back():
    ml.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[1].eval()
    x, y = toy_data()
    once = evaluate(model, [(x, y)])
    twice = evaluate(model, [(x[:20], y[:20]), (x[20:], y[20:])], views=(lambda v: v, lambda v: -v))
    mirror = evaluate(model, [(-x, y)])
    mean = (np.exp(once.log_probs) + np.exp(mirror.log_probs)) / 2
    np.testing.assert_allclose(np.exp(twice.log_probs), mean, rtol=1e-5)
    assert model.training and not model[1].training


def test_fingerprint_sees_shape_dtype_and_every_byte():
    a = np.arange(12, dtype=np.uint8)
    marks = {fingerprint([v]) for v in (a, a.reshape(3, 4), a.view(np.int8), np.roll(a, 1))}
    assert len(marks) == 4
    assert fingerprint([a]) == fingerprint([a.copy()])


def test_report_is_self_contained():
    rng = np.random.default_rng(0)
    row = {"train_loss": 1.0, "train_accuracy": 0.5, "heldout_loss": 1.0, "heldout_accuracy": 0.4}
    row |= {"lr": 0.1, "seconds": 1.0, "evaluation_seconds": 0.1}
    rows = [{"epoch": epoch} | row for epoch in (1, 2, 3)]
    page = Report("a <title>", "x & y")
    page.tiles({"test accuracy": "50 %"})
    page.section("Curves", "a note")
    page.code("python -m projects.convnet --set 'a<b'")
    page.table([("lr", 0.1)], ("field", "value"))
    page.figure(report.curves({"one": rows}))
    page.figure(report.times(rows))
    page.figure(report.curves({"one": rows, "two": rows[:1]}))
    page.figure(report.confusion(rng.integers(0, 9, (3, 3)), ["a", "b", "c"]))
    page.gallery(rng.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8), ["x", "y", "z<"])
    page.filters(rng.normal(size=(5, 1, 3, 3)))
    text = page.html()
    assert "a &lt;title&gt;" in text and text.count("<svg") == 4 and text.count("<img") == 8
    assert "http" not in text.replace("http://www.w3.org/", "")


def test_curves_of_many_runs_are_told_apart_beside_the_panels():
    row = {"train_loss": 1.0, "heldout_accuracy": 0.4, "lr": 0.1}
    rows = [{"epoch": epoch} | row for epoch in (1, 2, 3, 4)]
    many = report.curves({f"run {k}": rows for k in range(20)})
    looks = {(line.get_color(), line.get_linestyle()) for line in many.legends[0].get_lines()}
    assert len(looks) == 20
    assert not any(axes.get_legend() for axes in many.axes)
    shares = report.curves({"short": rows[:2], "long": rows}, by_share=True)
    ends = [at[-1] for line in shares.axes[2].lines if len(at := line.get_xdata())]
    assert ends == [1, 1]


def test_curves_of_one_epoch_have_one_tick_and_no_rate_below_zero():
    figure = report.curves({"one": [{"epoch": 1, "train_loss": 1.0, "lr": 0.0}]})
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    assert [at for at in figure.axes[0].get_xticks() if low <= at <= high] == [1]
    assert figure.axes[2].get_ylim()[0] == 0
