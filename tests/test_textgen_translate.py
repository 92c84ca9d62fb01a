"""Translating: losses and beams against single sentences, and whole runs on a toy language."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from translating import KIND, toy, written

import minidl as ml
from minidl.errors import ShapeError
from projects.settings import UsageError
from projects.textgen.__main__ import cli
from projects.textgen.config import Config
from projects.textgen.presets import preset
from projects.textgen.results import write_results
from projects.textgen.seq2seq import Continued, Seq2Seq
from projects.textgen.translate import trained
from projects.textgen.translation import BEGIN, END, Sentences, grouped, load_translations, padded
from projects.textgen.translator import build

# ---- translating ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    written(root, toy())
    return root


def fresh(data: Path, **more):
    """A corpus and a translator without training, its weights far from nought."""
    cfg = Config(**KIND, data=str(data), hidden=8, embedding=6, longest=6, batch=5, **more)
    corpus = load_translations(cfg)
    ml.manual_seed(3)
    translator = build(cfg, corpus.english, corpus.french)
    rng = np.random.default_rng(4)
    for p in translator.model.parameters():
        p.array[...] = rng.normal(0, 0.6, p.shape)
    translator.model.eval()
    return corpus, translator


def law(translator, english: str, words: list[int]) -> np.ndarray:
    """Log-probabilities (T, V) of the tokens after BEGIN and each of some tokens, in float64."""
    source, lengths = translator.source([english])
    logits, _ = translator.model(source, lengths, ml.tensor([[BEGIN, *words]]))
    x = logits[0].detach().numpy().astype(np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_losses_are_of_single_sentences(data):
    """Nats a token with the end, without padding, however the pairs are batched."""
    corpus, translator = fresh(data)
    total, count, characters, hits = 0.0, 0, 0, 0
    pairs = corpus.validation[:9]
    for english, french in pairs:
        ids = [*corpus.french.encode(french).tolist(), END]
        logs = law(translator, english, ids[:-1])
        total -= sum(row[t] for row, t in zip(logs, ids))
        hits += sum(row.argmax() == t for row, t in zip(logs, ids))
        count, characters = count + len(ids), characters + len(f"{french}\n")
    found = translator.judge(corpus, pairs, lambda: None)
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["nats_per_character"] == pytest.approx(total / characters, rel=1e-5)
    x, y = (padded(side) for side in corpus.encode(pairs))
    mean, right = translator.losses(x, y, "mean")
    assert mean.item() == pytest.approx(total / count, rel=1e-5) and right.item() == hits
    made = [translator.greedy([text])[0][0] for text in grouped(pairs)]
    assert translator.translated([*grouped(pairs)], lambda: None) == made


def test_a_beam_of_all_finds_the_best(data):
    """Among all texts of up to 3 of 6 tokens, by the mean log-probability of theirs."""
    corpus, _ = fresh(data)
    few = Sentences(corpus.french.words[:6])
    cfg = Config(**KIND, hidden=8, longest=2)
    ml.manual_seed(1)
    translator = build(cfg, corpus.english, few)
    rng = np.random.default_rng(2)
    for p in translator.model.parameters():
        p.array[...] = rng.normal(0, 0.7, p.shape)
    translator.model.eval()
    for english in ("the cat", "a red", "wine ."):
        scores, laws = {}, {}
        for n in (1, 2, 3):
            for made in itertools.product(range(6), repeat=n):
                if END in made[:-1] or (n < 3 and made[-1] != END):
                    continue
                if made[:-1] not in laws:
                    laws[made[:-1]] = law(translator, english, [*made[:-1]])
                scores[made] = sum(row[t] for row, t in zip(laws[made[:-1]], made)) / n
        best = few.written(max(scores, key=lambda made: scores[made]))
        assert translator.beam(english, 200) == best
        assert translator.beam(english, 1) == translator.greedy([english])[0][0]


def test_continued_runs_the_last_token_alone(data):
    """Its logits are those of the whole text; prefixes of other texts may come between."""
    _, translator = fresh(data)
    source, lengths = translator.source(["the cat ."])
    step = Continued(translator.model, source)
    for text in ([1], [1, 5], [1, 6], [1, 5, 7], [1, 6, 4]):
        whole, _ = translator.model(source, lengths, ml.tensor([text]))
        rows = step(ml.tensor([text]))
        np.testing.assert_allclose(rows, whole[0].detach().numpy(), atol=1e-6)
    assert sorted(step.known) == [(1, 5), (1, 5, 7), (1, 6), (1, 6, 4)]
    with pytest.raises(ShapeError, match="Continued: the model must be in evaluation mode"):
        Continued(Seq2Seq(9, 9, hidden_size=4), source)


# ---- runs ----------------------------------------------------------------------------------------

SMALL = ("batch=16 hidden=32 embedding=16 longest=6 judged=0 lr=1e-2 warmup=5 steps={steps} "
         "every={every}")  # fmt: skip


def run_in(folder: Path, data: Path, *more: str, steps: int = 80, every: int = 40) -> int:
    fields = SMALL.format(steps=steps, every=every).split()
    command = ["--preset", "a-seq2seq", "--data", str(data), "--out", str(folder)]
    return cli([*command, "--set", *fields, *more])


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, data) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("translate") / "run"
    assert run_in(folder, data) == 0
    return folder


@pytest.fixture(scope="module")
def novelist(tmp_path_factory) -> Path:
    """A language model's run."""
    folder = tmp_path_factory.mktemp("novel") / "run"
    fields = "tokens=words hidden=8 judged=50 written=0 steps=1 every=1".split()
    assert cli(["--preset", "smoke", "--out", str(folder), "--set", *fields]) == 0
    return folder


def test_a_run_learns_and_leaves_everything_behind(smoke):
    """Sentences that were not trained on are translated, the adjective last."""
    result = json.loads((smoke / "result.json").read_text())
    rows = [json.loads(line) for line in (smoke / "metrics.jsonl").read_text().splitlines()]
    assert result["steps"] == 80 and len(rows) == 2 and result["attention"] == "bahdanau"
    assert rows[1]["validation_loss"] < rows[0]["validation_loss"] < math.log(25)
    assert result["test_loss"] < 0.5 and result["test_bleu"] > 0.6 < result["test_bleu_beams"]
    header = (smoke / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"validation_bleu", "validation_nats_per_character"} <= {*header}
    page = (smoke / "report.html").read_text()
    assert page.count("<svg") == 2 + 4 and "Attention" in page and "le chat" in page


def test_translate_writes_the_translation_and_nothing_else(smoke, capsys):
    wanted = {
        "The red cat.": "le chat rouge.\n",
        "the OLD wine now .": "le vin vieux maintenant.\n",
    }
    for text, said in wanted.items():
        assert cli(["translate", "--run", str(smoke), "--text", text]) == 0
        shown = capsys.readouterr()
        assert shown.out in (said, said.replace("le", "un", 1)) and not shown.err
    assert cli(["translate", "--run", str(smoke), "--text", "the cat", "--beams", "3"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert not trained(str(smoke)).model.training


def test_dot_products_learn_too(data, tmp_path):
    assert run_in(tmp_path / "run", data, "attention=dot", steps=40, every=40) == 0
    assert json.loads((tmp_path / "run/result.json").read_text())["test_loss"] < math.log(25)
    assert preset("a-seq2seq-dot").attention == "dot"


def test_a_stopped_run_ends_the_same(data, tmp_path, monkeypatch):
    """Resumed in the middle of an iteration: the same checkpoint, bit by bit."""
    from minidl.train import Interrupted, Trainer

    assert run_in(tmp_path / "whole", data, "dropout=0.3", steps=12, every=6) == 0
    advance, calls = Trainer._advance, []

    def stopping(self: Trainer) -> None:
        advance(self)
        calls.append(1)
        if len(calls) == 8:
            self.save()
            raise Interrupted(2)

    monkeypatch.setattr(Trainer, "_advance", stopping)
    assert run_in(tmp_path / "run", data, "dropout=0.3", steps=12, every=6) == 130
    monkeypatch.undo()
    assert cli(["--resume", str(tmp_path / "run")]) == 0
    ours, theirs = (ml.load(tmp_path / p / "checkpoint.safetensors") for p in ("run", "whole"))
    for key, value in theirs["model"].items():
        np.testing.assert_array_equal(ours["model"][key].numpy(), value.numpy(), key)


def test_runs_of_both_kinds_are_compared_and_written_up(smoke, novelist, tmp_path, capsys):
    runs = [str(novelist), str(smoke)]
    assert cli(["compare", *runs, "--out", str(tmp_path / "c.html")]) == 0
    assert "a-seq2seq" in capsys.readouterr().out
    write_results(runs, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    result = json.loads((smoke / "result.json").read_text())
    (row,) = [line for line in text.splitlines() if line.startswith("| a-seq2seq")]
    assert f"| bahdanau | 80 | {result['validation_loss']:.3f} | {result['test_loss']:.3f} |" in row
    assert f"| {100 * result['test_bleu']:.1f} |" in row and text.count("| smoke |") == 1
    assert text.index("## Translation") < text.index("| a-seq2seq") < text.index("| smoke |")
    write_results(runs[:1], tmp_path)
    assert "Translation" not in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--preset a-seq2seq --data {empty}", "neither fra.txt nor fra-eng.zip is in {empty}/text"),
        ("--preset a-seq2seq --dataset shakespeare",
         "model=seq2seq needs dataset=english-french; got dataset=shakespeare"),
        ("--preset a-seq2seq --set tokens=bpe dropped=0.1",
         "needs tokens=words, dropped=0; got tokens=bpe, dropped=0.1"),
        ("--dataset english-french", "dataset=english-french needs model=seq2seq; got model=lstm"),
        ("--preset a-seq2seq --set attention=sum", "attention must be one of bahdanau, dot; got"),
        ("--preset a-seq2seq --set longest=1", "longest must be in [2, 1000]; got 1"),
        ("sample --run {run} --prompt a", "holds a translator; use translate, not sample"),
        ("translate --run {novelist} --text a", "a language model; use sample, not translate"),
        ("translate --run {run} --text ''", "--text must hold a word; got ''"),
        ("translate --run {run} --text a --beams 0", "--beams must be at least 1; got 0"),
        ("sweep --run {run}", "{run} holds a translator; use translate, not sweep"),
        ("translate --run {empty} --text a", "{empty} is not a run directory"),
        ("translate --run {begun} --text a", "{begun} has no checkpoint yet"),
        ("translate --run {damaged} --text a", "{damaged}/vocabulary.json is damaged"),
        ("translate --text a", "the following arguments are required: --run"),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_line(arguments, message, smoke, novelist, tmp_path, capsys):
    places = {"run": smoke, "novelist": novelist}
    for name in ("empty", "begun", "damaged"):
        places[name] = tmp_path / name
        places[name].mkdir()
    for name in ("begun", "damaged"):
        (places[name] / "config.json").write_bytes((smoke / "config.json").read_bytes())
    (places["damaged"] / "vocabulary.json").write_text('{"english": ["a"]}')
    checkpoint = (smoke / "checkpoint.safetensors").read_bytes()
    (places["damaged"] / "checkpoint.safetensors").write_bytes(checkpoint)
    command = [part.strip("'") for part in arguments.format(**places).split()]
    assert cli(command) in (1, 2)
    error = capsys.readouterr().err
    assert message.format(**places) in error
    assert error.count("\n") == 1 and error.startswith("error: ")


def test_settings_go_together():
    with pytest.raises(UsageError, match="needs model=seq2seq; got model=gpt"):
        Config(model="gpt", dataset="shakespeare+english-french")
    cfg = preset("a-seq2seq")
    assert (cfg.model, cfg.dataset, cfg.attention) == ("seq2seq", "english-french", "bahdanau")
