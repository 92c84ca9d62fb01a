"""Word vectors at the command line and in a run; a corpus too short; searches interrupted."""

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import minidl as ml
from minidl.errors import DataError, ShapeError
from minidl.train import Interrupted, Trainer
from projects.settings import UsageError
from projects.textgen import run as running
from projects.textgen.__main__ import cli
from projects.textgen.config import Config
from projects.textgen.model import build, table
from projects.textgen.vectors import put, read_glove, spoken, train, write_glove

ANIMALS = "cat dog horse cow sheep goat".split()
METALS = "iron gold zinc lead tin silver".split()


def two_topics(lines: int, seed: int = 0) -> str:
    """Lines of ten words, 20 of one topic, then 20 of the other."""
    rng = np.random.default_rng(seed)
    chosen = [rng.choice((ANIMALS, METALS)[i // 20 % 2], 10) for i in range(lines)]
    return "".join(" ".join(words) + ".\n" for words in chosen)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two topics."""
    path = tmp_path_factory.mktemp("corpus") / "topics.txt"
    path.write_text(two_topics(400))
    return path


def given(path: Path, width: int = 8) -> dict[str, np.ndarray]:
    """A file of vectors for half of the words, and what it holds."""
    words = [*ANIMALS, "zebra"]
    vectors = np.random.default_rng(3).normal(0, 2, (len(words), width)).astype(np.float32)
    write_glove(path, words, vectors)
    return dict(zip(words, vectors))


# ---- files and embeddings ------------------------------------------------------------------------


def test_what_is_written_is_read_bit_by_bit(tmp_path: Path) -> None:
    words = ["the", "l\u0085", "été", "a\u2028b", "1"]
    vectors = np.random.default_rng(0).normal(0, 1, (5, 4)).astype(np.float32)
    vectors[0] = [np.finfo(np.float32).max, 1e-45, -0.0, 0.1]
    write_glove(tmp_path / "v.txt", words, vectors)
    assert (tmp_path / "v.txt").read_text().startswith("the 3.4028235e+38 1e-45 -0.0 0.1\n")
    found, again = read_glove(tmp_path / "v.txt")
    assert found == words
    np.testing.assert_array_equal(again.view(np.uint32), vectors.view(np.uint32))


def test_what_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    for word in ("", "two words", "two\nlines"):
        with pytest.raises(DataError, match="write_glove: a word must not be empty nor hold"):
            write_glove(tmp_path / "v.txt", ["a", word], np.zeros((2, 3), np.float32))
    with pytest.raises(ShapeError, match="write_glove: vectors must have one row"):
        write_glove(tmp_path / "v.txt", ["a"], np.zeros((2, 3), np.float32))
    assert not [*tmp_path.iterdir()]


def test_the_words_of_a_text_are_the_tokens_without_white_space() -> None:
    assert spoken("It's 5 o'clock,\n\tsir.") == ["It", "'", "s", "5", "o", "'", "clock", ",", "sir",
                                                 "."]  # fmt: skip


def test_training_tells_every_step_and_its_loss() -> None:
    """Contexts start at 0, so the first loss is that of six coins: 6 ln 2 nats a pair."""
    told = []
    train(spoken(two_topics(40)), 6, 2, 5, 7, 0, after=lambda *now: told.append(now))
    assert [step for step, _ in told] == [*range(1, 8)]
    assert told[0][1] == pytest.approx(6 * math.log(2), rel=1e-6)
    assert told[-1][1] < told[0][1]


def test_an_embedding_is_filled_in_place() -> None:
    """Known words by their spelling, others drawn as widely; rows beyond the words stay."""
    vectors = ["cat", "dog"], np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    weight = ml.nn.Embedding(6, 3).weight
    last, array = weight.detach().numpy()[4:].copy(), weight.array
    assert put(weight, ["dog", "Cat", "?", "fish"], vectors, seed=1) == 2
    assert weight.array is array and weight.requires_grad
    now = weight.detach().numpy()
    np.testing.assert_array_equal(now[:2], [[4, 5, 6], [1, 2, 3]])
    np.testing.assert_array_equal(now[4:], last)
    assert 0 < np.abs(now[2:4]).max() < 4 * vectors[1].std()
    with pytest.raises(ShapeError, match="put: vectors must be as wide as the weight"):
        put(ml.nn.Embedding(6, 4).weight, ["dog"], vectors)


# ---- the command ---------------------------------------------------------------------------------

QUICK = "--dim 8 --window 3 --steps 300 --min-count 3".split()


def test_vectors_of_a_corpus_know_its_topics(book: Path, tmp_path: Path, capsys) -> None:
    """Neighbours are of the same topic; the same command writes the same bytes."""
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    for file in files:
        assert cli(["vectors", "--dataset", str(book), *QUICK, "--out", file]) == 0
    out = capsys.readouterr().out
    assert "step 30 of 300" in out and "step 300 of 300" in out and f"13 vectors: {files[1]}" in out
    first, second = (Path(file).read_bytes() for file in files)
    assert first == second and first.startswith(b". ")  # the most frequent comes first
    assert cli(["vectors", "--file", files[0], "--nearest", "cow", "tin"]) == 0
    for line, topic in zip(capsys.readouterr().out.splitlines(), (ANIMALS, METALS), strict=True):
        word, _, near = line.partition(": ")
        assert {pair.split()[0] for pair in near.split(", ")[:3]} <= {*topic} - {word}


MISTAKES = [
    ("--nearest cow", "one of the arguments --dataset --file is required"),
    ("--dataset {book} --steps 3", "--out must be a file in a folder that exists; got None"),
    ("--dataset {book} --out {here}/no/v.txt", "--out must be a file in a folder that exists"),
    ("--dataset {book} --out {here}", "--out must be a file in a folder that exists; got '{here}'"),
    ("--dataset {book} --out {here}/v.txt --dim 0", "sizes must be integers of at least 1"),
    ("--dataset {book} --out {here}/v.txt --min-count 9999", "needs at least 2 different words"),
    ("--dataset {here}/short --out {here}/v.txt", "is too short to be split"),
    ("--dataset nowhere --out {here}/v.txt", "a corpus must be one of embedded"),
    ("--file {book}", "--file is read alone, for --nearest WORD...; got no --nearest"),
    ("--file {book} --nearest cow --steps 5", "--file is read alone, for --nearest WORD"),
    ("--file {here}/none --nearest cow", "cannot read"),
    ("--file {book} --nearest cow", "must be a word and 9 finite numbers"),
    ("--file {here}/v8 --nearest cow unicorn", "word must be one of the words; got word 'unicorn'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda text: text[:30])
def test_mistakes_are_one_clear_line(arguments, message, book, tmp_path, capsys) -> None:
    (tmp_path / "short").write_text("a b")
    given(tmp_path / "v8")
    assert cli(["vectors", *arguments.format(book=book, here=tmp_path).split()]) in (1, 2)
    error = capsys.readouterr().err
    assert message.format(here=tmp_path) in error
    assert error.count("\n") == 1 and error.startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short", "v8"]


def test_interrupted_training_leaves_the_file_before(book, tmp_path, capsys, monkeypatch) -> None:
    from projects.textgen import vectors

    def stopping(steps):
        return lambda step, loss: step == 5 and os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(vectors, "progress", stopping)
    (tmp_path / "v.txt").write_text("before")
    assert cli(["vectors", "--dataset", str(book), *QUICK, "--out", str(tmp_path / "v.txt")]) == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


# ---- runs that begin with vectors ----------------------------------------------------------------

SMALL = ["hidden=8", "judged=200", "written=0", "batch=4", "context=16", "tokens=words"]


def run_in(folder: Path, book: Path, *more: str) -> int:
    return cli(["--preset", "smoke", "--dataset", str(book), "--out", str(folder), "--set",
                *SMALL, *more])  # fmt: skip


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="vectors are of words, they need tokens=words; got vec"):
        Config(vectors="train")
    with pytest.raises(UsageError, match="embedding is of recurrent networks"):
        Config(model="gpt", embedding=32)
    assert table(build(Config(embedding=7, hidden=16), 5)).shape == (5, 7)
    assert table(build(Config(model="gpt", hidden=16), 5)).shape == (5, 16)


@pytest.mark.parametrize("model", ["gru", "gpt"])
def test_a_network_begins_with_the_vectors_of_a_file(model, book, tmp_path, monkeypatch) -> None:
    """Before the first step; of the run's tokens six are in the file."""
    expected = given(tmp_path / "v.txt")

    def look(self):
        raise Interrupted(signal.SIGINT)

    seen = []
    monkeypatch.setattr(Trainer, "fit", lambda self: seen.append(self.model) or look(self))
    assert run_in(tmp_path / "run", book, f"model={model}", f"vectors={tmp_path / 'v.txt'}") == 130
    words = json.loads((tmp_path / "run" / "tokenizer.json").read_text())["words"]
    weight = table(seen[0]).detach().numpy()
    assert sum(word in expected for word in words) == 6
    for word, row in zip(words, weight):
        same = [known for known, vector in expected.items() if np.array_equal(row, vector)]
        assert same == [word] * (word in expected)


def test_vectors_of_another_width_are_refused(book, tmp_path, capsys) -> None:
    """With the setting that helps, before there is a run."""
    given(tmp_path / "v.txt", 5)
    fields = f"vectors={tmp_path / 'v.txt'}"
    for more, fix in (("model=rnn", "embedding=5"), ("model=gpt", "hidden=5")):
        assert run_in(tmp_path / "run", book, fields, more) == 2
        error = capsys.readouterr().err
        rule = f"error: {tmp_path / 'v.txt'} must have vectors as wide as the network's, 8; got 5"
        assert error == f"{rule}; try --set {fix}\n"
    assert run_in(tmp_path / "run", book, f"vectors={tmp_path / 'no'}") == 1
    assert "cannot read" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert run_in(tmp_path / "run", book, fields, "model=rnn", "embedding=5") == 0


def stopped_after(updates: int, monkeypatch) -> None:
    """Ctrl-C at that update of the next training."""
    advance, calls = Trainer._advance, []

    def stopping(self):
        advance(self)
        calls.append(1)
        if len(calls) == updates:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_advance", stopping)


def test_a_run_knows_the_vectors_it_began_with(book, tmp_path, monkeypatch, capsys) -> None:
    """A file with other numbers is refused; one elsewhere than at first is another matter."""
    given(tmp_path / "v.txt")
    with monkeypatch.context() as patch:
        stopped_after(5, patch)
        assert run_in(tmp_path / "run", book, f"vectors={tmp_path / 'v.txt'}") == 130
    whole = (tmp_path / "v.txt").read_text()
    (tmp_path / "v.txt").write_text(whole.replace("cat ", "lynx ", 1))
    assert cli(["--resume", str(tmp_path / "run")]) == 1
    assert "the vectors is not the one this run was started with" in capsys.readouterr().err
    (tmp_path / "v.txt").write_text(whole)
    assert cli(["--resume", str(tmp_path / "run")]) == 0


def test_a_run_that_trains_its_vectors_is_resumed_bit_by_bit(book, tmp_path, monkeypatch) -> None:
    """Stopped within skip-gram, then within the run; skip-gram is not trained again after that."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_in(whole, book, "vectors=train") == 0
    trained, work = [], running.vectors.train

    def counted(*args, after, **options):
        trained.append(args[4])

        def stopping(step, loss):
            if len(trained) == 1 and step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            after(step, loss)

        return work(*args, after=stopping, **options)

    monkeypatch.setattr(running.vectors, "train", counted)
    assert run_in(parts, book, "vectors=train") == 143
    with monkeypatch.context() as patch:
        stopped_after(7, patch)
        assert cli(["--resume", str(parts)]) == 130
    assert cli(["--resume", str(parts)]) == 0
    assert trained == [80, 80]  # four steps for each of the run's 20
    ours, theirs = ((folder / "checkpoint.safetensors").read_bytes() for folder in (parts, whole))
    assert ours == theirs


# ---- what is refused or interrupted --------------------------------------------------------------


@pytest.mark.parametrize(("text", "fields", "message"), [
    (b"hello world, hello", [], "training text 1 of odd.txt must have at least"),
    (b"hello world, hello", ["model=gpt"], "training text 1 of odd.txt must have at least 17"),
    (b"a b c d e f g h", ["batch=1", "context=2"], "a tenth of odd.txt must have at least 2"),
    (b"\n\n", [], "odd.txt is too short to be split"),
    (b"", [], "odd.txt must hold text"),
    (b"caf\xe9 noir " * 200, [], "odd.txt must be UTF-8 text"),
    (b"abc\0def " * 200, [], "not a binary file; got a NUL at byte 3"),
], ids=lambda value: str(value)[:20])  # fmt: skip
def test_a_corpus_that_will_not_do_leaves_no_run(text, fields, message, tmp_path, capsys) -> None:
    (tmp_path / "odd.txt").write_bytes(text)
    assert run_in(tmp_path / "run", tmp_path / "odd.txt", *fields) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")
    assert not (tmp_path / "run").exists()


def results(root: Path) -> list[dict]:
    """Of all runs in a folder, without times."""
    found = [json.loads(path.read_text()) for path in sorted(root.glob("*/result.json"))]
    return [{k: v for k, v in r.items() if "second" not in k} for r in found]


@pytest.mark.parametrize("verb", ["search", "table"])
def test_what_a_signal_stops_goes_on_to_the_same_results(verb, book, tmp_path, monkeypatch,
                                                         capsys) -> None:  # fmt: skip
    """Stopped in the middle of the second of two; checkpoints are the same bit by bit."""
    small = f"layers=1 steps=6 every=3 judged=200 written=40 context=16 tokens=words dataset={book}"
    one = {"search": "--preset smoke --hidden 8 --batch 4 --lr 1e-3,1e-2 --set",
           "table": "--only rnn --set hidden=8 batch=4"}[verb]  # fmt: skip
    roots = [tmp_path / "whole", tmp_path / "parts"]
    commands = [[verb, "--out", str(root), *one.split(), *small.split()] for root in roots]
    assert cli(commands[0]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stopped_after(9, patch)
        assert cli(commands[1]) == 130
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == "stopped by SIGINT" and len(results(roots[1])) == 1
    assert cli(commands[1]) == 0
    out = capsys.readouterr().out
    assert "resumed after 3 steps" in out and len(results(roots[0])) == 2
    assert results(roots[0]) == results(roots[1])
    for folder in roots[0].glob("*/checkpoint.safetensors"):
        other = roots[1] / folder.parent.name / folder.name
        assert folder.read_bytes() == other.read_bytes()
