"""The text project: configuration, a whole run, resuming, sampling, comparing, searching."""

import json
from pathlib import Path

import numpy as np
import pytest

import minidl as ml
from minidl.models.sampling import Sampler
from minidl.train import Interrupted, Trainer
from projects.settings import UsageError
from projects.textgen.__main__ import PROJECT, cli
from projects.textgen.config import Config
from projects.textgen.corpus import Feed, load_corpus, rows
from projects.textgen.model import Carried, build, generate, stream
from projects.textgen.presets import PRESETS, preset

SMALL = "--preset smoke --set hidden=16 judged=500 written=40"


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Have training saved and interrupted after so many steps."""
    advance, calls = Trainer._advance, []

    def stopping(self: Trainer) -> None:
        advance(self)
        calls.append(1)
        if len(calls) == steps:
            self.save()
            raise Interrupted(2)

    monkeypatch.setattr(Trainer, "_advance", stopping)


def run_in(folder: Path, *more: str) -> int:
    return cli([*SMALL.split(), "--out", str(folder), *more])


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("textgen") / "run"
    assert run_in(folder) == 0
    return folder


def test_every_preset_is_a_configuration() -> None:
    """By its own name, with limits and divisors kept; all kinds of network build and learn."""
    for name in PRESETS:
        assert preset(name).preset == name
    with pytest.raises(UsageError, match="steps must be a multiple of every; got steps=30"):
        Config(steps=30, every=20)
    with pytest.raises(UsageError, match="hidden must be a multiple of heads"):
        Config(model="gpt", hidden=30, heads=4)


KINDS = [
    {"model": "rnn"}, {"model": "gru", "layer_norm": True}, {"model": "lstm", "layers": 2},
    {"model": "gpt"}, {"model": "gpt", "positions": "rotary", "norm": "rms", "mlp": "swiglu",
                       "kv_heads": 2},
    {"model": "lstm", "tokens": "words", "vocabulary": 300, "dropped": 0.1, "masked": 0.1},
    {"model": "lstm", "tokens": "bytes", "swapped": 0.2},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_every_kind_of_network_learns_and_writes(kind: dict) -> None:
    """A step changes the loss; texts are the same alone and together."""
    cfg = Config(**{"hidden": 16, "layers": 1, "batch": 4, "context": 16, "steps": 4, "every": 2,
                    **kind})  # fmt: skip
    ml.manual_seed(0)
    corpus = load_corpus(cfg)
    model = build(cfg, rows(cfg, corpus.tokenizer))
    losses = []
    optimizer = ml.optim.Adam(model.parameters(), lr=0.01)
    feed = Feed(cfg, corpus)
    for _ in range(2):
        for x, y in feed:
            logits = feed.carried.run(model, x)
            loss = ml.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]),
                                                  y.reshape(-1))  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(losses) == 4 and losses[-1] < losses[0]
    sampler, prompt = Sampler(seed=1), np.tile(corpus.opening(), (3, 1))
    together = generate(model.eval(), prompt, 20, sampler)
    alone = generate(model, prompt[:1], 20, sampler)
    np.testing.assert_array_equal(together[:1], alone)
    assert len([*stream(model, prompt, 3, sampler)]) == 3


def test_sequences_go_on_in_their_own_text() -> None:
    """Of two corpora by turns each keeps its state, which begins anew with the text."""
    cfg = Config(hidden=8, layers=1, batch=2, context=8)
    ml.manual_seed(0)
    model, carried = build(cfg, 5), Carried()
    x = ml.tensor(np.arange(16).reshape(2, 8) % 5)
    with ml.no_grad():
        turns = [(0, True), (0, False), (1, True), (0, False), (1, False), (0, True)]
        made = []
        for source, fresh in turns:
            carried.turn(source, fresh)
            made.append(carried.run(model, x).numpy())
        copy = Carried()
        copy.load_state_dict(carried.state_dict())
        for each in (carried, copy):
            each.turn(1, False)
            made.append(each.run(model, x).numpy())
    first, second, other, third, second_other, again, *thirds = made
    assert not np.allclose(first, second) and not np.allclose(second, third)
    for same in (other, again):
        np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(second, second_other)
    for same in thirds:
        np.testing.assert_array_equal(third, same)


def test_a_run_leaves_everything_behind(smoke: Path) -> None:
    result = json.loads((smoke / "result.json").read_text())
    rows = [json.loads(line) for line in (smoke / "metrics.jsonl").read_text().splitlines()]
    assert result["steps"] == 20 and len(rows) == 2 and "Python 3" in result["dataset"]
    assert 0 < result["test_nats_per_character"] < 6 and result["written"]["distinct-1"] > 0
    page = (smoke / "report.html").read_text()
    assert page.count("<svg") == 3 and "Next characters" in page and "Neurons" in page


def test_a_stopped_run_ends_the_same(smoke: Path, tmp_path: Path, monkeypatch) -> None:
    """Resumed in the middle of an iteration, states and all: the same checkpoint, bit by bit."""
    stop_after(monkeypatch, 13)
    assert run_in(tmp_path / "run") == 130
    monkeypatch.undo()
    assert cli(["--resume", str(tmp_path / "run")]) == 0
    ours, theirs = (ml.load(p / "checkpoint.safetensors") for p in (tmp_path / "run", smoke))
    for key, value in theirs["model"].items():
        np.testing.assert_array_equal(ours["model"][key].numpy(), value.numpy(), key)


def test_tokens_that_an_earlier_attempt_left_behind_are_replaced(smoke: Path, tmp_path: Path):
    """A table's run that was stopped before its first checkpoint leaves its tokens' file."""
    (tmp_path / "tokenizer.json").write_text('{"kind": "bytes"}')
    assert run_in(tmp_path, "--steps", "10") == 0
    kept = [(folder / "tokenizer.json").read_text() for folder in (tmp_path, smoke)]
    assert kept[0] == kept[1]


def test_the_best_weights_are_kept(tmp_path: Path, monkeypatch) -> None:
    """keep=best: the result, the checkpoint and what is judged are those of the least loss, also
    of a run that was stopped behind it."""
    fields = "hidden=16 judged=500 written=0 keep=best steps=12 every=2 lr=0.3 final=1".split()

    def run(name: str) -> int:
        return cli(["--preset", "smoke", "--out", str(tmp_path / name), "--set", *fields])

    assert run("whole") == 0
    kept = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in kept]
    losses = [row["validation_loss"] for row in rows]
    assert min(losses) < losses[-1]  # at this rate
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert result["validation_loss"] == min(losses)
    assert result["kept_step"] == 2 * (losses.index(min(losses)) + 1) and result["steps"] == 12
    stop_after(monkeypatch, 11)
    assert run("stopped") == 130
    monkeypatch.undo()
    assert cli(["--resume", str(tmp_path / "stopped")]) == 0
    ours, theirs = (ml.load(tmp_path / n / "checkpoint.safetensors") for n in ("stopped", "whole"))
    for key, value in theirs["model"].items():
        np.testing.assert_array_equal(ours["model"][key].numpy(), value.numpy(), key)
        np.testing.assert_array_equal(theirs["best"]["weights"][key].numpy(), value.numpy(), key)
    again = json.loads((tmp_path / "stopped" / "result.json").read_text())
    for key in ("test_loss", "validation_loss", "kept_step"):
        assert again[key] == result[key]


def test_sample_writes_prompt_and_continuation(smoke: Path, capsys) -> None:
    """Nothing else, a line's end at the end, and the same for the same seed."""
    texts = []
    for seed in (1, 1, 2):
        command = f"sample --run {smoke} --tokens 30 --seed {seed} --prompt"
        assert cli([*command.split(), "The "]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert all(len(t) == 4 + 30 + 1 and t.startswith("The ") and t.endswith("\n") for t in texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dataset nowhere", "a corpus must be one of embedded, shakespeare"),
        ("--dataset {empty}", "must hold text"),
        ("--dataset {binary}", "must be UTF-8 text, not a binary file"),
        ("--set batch=60000", "must have at least"),
        ("--steps 7 --set every=3", "steps must be a multiple of every"),
        ("--preset unknown", "unknown preset 'unknown'"),
        ("--out {run}", "holds a run already"),
        ("sample --run {run} --prompt 日", "got character '日'"),
        ("sample --run {run} --prompt a --top-p 2", "top_p must lie in (0, 1]"),
        ("sample --prompt a", "one of the arguments --run --weights is required"),
        ("sample --weights {binary} --tokenizer {run} --prompt a", "binary"),
        ("compare {empty}", "is not a run directory"),
        ("search --out {run} --hidden 8,8", "names a value twice"),
        ("search --out {run} --random 0", "--random must be at least 1; got 0"),
        ("search --out {run} --random 2 --lr 0,1e-3", "--lr must be positive to be drawn from"),
        (
            "search --out {run} --preset a-seq2seq",
            "search is of language models; got model=seq2seq",
        ),
        ("sweep --run {run} --tokens 1", "--tokens must be at least 20"),
        ("sweep --run {run} --top-p 1,0", "top_p must lie in (0, 1]"),
        ("--preset smoke --set top_p=0", "top_p must be in [1e-06, 1]; got 0.0"),
        ("--preset smoke --set preset=e-rnn", "a preset is chosen by --preset, not by --set"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, message, smoke, tmp_path, capsys) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(b"ab\0cd" * 100)
    places = {"run": smoke, "empty": tmp_path / "empty", "binary": tmp_path / "binary"}
    assert cli(arguments.format(**places).split()) in (1, 2)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")


def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch, capsys) -> None:
    """Finished points are read, not trained again; the table names the best."""
    from projects.textgen import search

    command = ["search", "--preset", "smoke", "--hidden", "8,16", "--batch", "8", "--lr",
               "1e-3,1e-2", "--out", str(tmp_path), "--set", "judged=300", "written=0", "steps=4",
               "every=2"]  # fmt: skip
    trained, work = [], search.main

    def counting(cfg, open_run, stop):
        trained.append(cfg.lr)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return work(cfg, open_run, stop)

    monkeypatch.setattr(search, "main", counting)
    with pytest.raises(KeyboardInterrupt):
        cli(command)
    assert cli(command) == 0
    assert len(trained) == 5  # two, the one that was stopped, then it and the last
    out = capsys.readouterr().out
    assert "search.html" in out and (tmp_path / "search.html").read_text().count("<tr>") == 5
    assert cli(["compare", *map(str, sorted(tmp_path.glob("point-*"))), "--out",
                str(tmp_path / "c.html")]) == 0  # fmt: skip


def test_tables_come_from_one_command(smoke: Path, tmp_path: Path, capsys) -> None:
    """A cell of the table, and the sweeps over temperature and nucleus."""
    small = "hidden=16 steps=4 every=2 judged=300 written=200 batch=8 context=16 dataset=embedded"
    command = f"table --only lstm1-char --out {tmp_path} --set {small}".split()
    assert cli(command) == 0
    assert "lstm1-characters" in capsys.readouterr().out and (tmp_path / "table.html").exists()
    assert cli(f"sweep --run {smoke} --tokens 60 --temperature 0.5,1 --top-p 0.9".split()) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["temperature", "0.5"] in lines and ["top_p", "0.9"] in lines
    assert (smoke / "sweep.html").read_text().count("<svg") == 1
    assert cli(f"sweep --run {smoke} --temperature a".split()) == 2


def test_the_parser_knows_its_fields(capsys) -> None:
    assert cli(["--list"]) == 0
    out = capsys.readouterr().out
    assert "e-lstm2" in out and "temperature = 0.8" in out
    args = PROJECT.parser().parse_args(["--preset", "smoke", "--steps", "40"])
    assert PROJECT.configuration(args).steps == 40


def test_results_are_written_from_runs(smoke: Path, tmp_path: Path) -> None:
    from projects.textgen.results import HERE, write_results

    write_results([str(smoke)], tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| smoke |" in text and "python -m projects.textgen" in text
    assert (tmp_path / "results.svg").exists()
    write_results([], tmp_path)
    assert (HERE / "RESULTS.md").read_text().startswith((tmp_path / "RESULTS.md").read_text())
