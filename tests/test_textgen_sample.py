"""The text project's `sample`: beams, drafts, contexts, mistakes and interruptions at the shell."""

import dataclasses
import os
import signal
import struct
from pathlib import Path

import numpy as np
import pytest

import minidl as ml
from minidl.train import RunDir
from projects.textgen import tokens
from projects.textgen.__main__ import cli
from projects.textgen.config import Config
from projects.textgen.corpus import rows
from projects.textgen.model import build
from projects.textgen.sample import trained

LETTERS = "\n abcdefgh"
RUNS = {  # fields, and a seed whose greedy text is no mere repetition
    "gpt": ({"model": "gpt"}, 6),
    "lstm": ({"model": "lstm"}, 18),
    "gru": ({"model": "gru", "layer_norm": True}, 5),
    "rnn": ({"model": "rnn", "embedding": 5}, 1),
    "masked": ({"model": "lstm", "masked": 0.1}, 18),
}
DRAFT = {"model": "gpt", "layers": 1, "context": 64, "positions": "rotary"}


def a_run(folder: Path, fields: dict, kind: tokens.Tokenizer, seed: int) -> None:
    """A run directory with a network far from uniform, as training leaves it."""
    sizes = {"hidden": 16, "layers": 2, "heads": 2, "context": 40}
    cfg, run = Config(**sizes | fields), RunDir(folder)
    ml.manual_seed(seed)
    model = build(cfg, rows(cfg, kind))
    for parameter in model.parameters():
        parameter.array[...] *= 3
    if cfg.masked:
        model.head.bias.array[-1] = 50  # all but certain
    run.write_json("config.json", dataclasses.asdict(cfg) | {"command": "by a test"})
    kind.save(folder / "tokenizer.json")
    ml.save({"model": model.state_dict()}, run.checkpoint)


def llama2c(path: Path, vocabulary: int, seed: int = 0) -> None:
    """A llama2.c file: dim 8, hidden 12, 1 layer, 2 heads, context 48, a random table of tokens."""
    head = struct.pack("<7i", 8, 12, 1, 2, 2, vocabulary, 48)
    table, layer, last = vocabulary * 8, 8 + 4 * 64 + 8 + 3 * 96, 8 + 2 * 48 * 2
    numbers = np.random.default_rng(seed).normal(0, 0.5, table + layer + last)
    path.write_bytes(head + numbers.astype("<f4").tobytes())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, and of the files of mistakes."""
    root = tmp_path_factory.mktemp("runs")
    for name, (fields, seed) in RUNS.items():
        a_run(root / name, fields, tokens.Characters(LETTERS), seed)
    a_run(root / "draft", DRAFT, tokens.Characters(LETTERS), 0)
    a_run(root / "bytes", {}, tokens.Bytes(), 0)
    a_run(root / "other", {}, tokens.Characters("\n abcdefgi"), 0)
    a_run(root / "mixed", {}, tokens.Characters(LETTERS), 0)
    tokens.Bytes().save(root / "mixed" / "tokenizer.json")
    llama2c(root / "llama.bin", len(LETTERS))
    llama2c(root / "large.bin", len(LETTERS) + 1)
    (root / "short.bin").write_bytes((root / "llama.bin").read_bytes()[:-4])
    (root / "text").write_text("no weights at all, but a text that is long enough")
    return root


def said(capsys, runs: Path, run: str, *more: str, count: int = 30) -> str:
    """What a command wrote, prompt and continuation without the line's end."""
    command = ["sample", "--run", str(runs / run), "--prompt", "ab ", "--tokens", str(count)]
    assert cli([*command, *more]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("ab ") and out.endswith("\n")
    assert len(out) == 3 + count + 1
    return out[:-1]


@pytest.mark.parametrize("run", RUNS)
def test_every_way_of_writing_the_likeliest_is_one(run, runs, capsys) -> None:
    """Greedy, a beam of one, temperature 0, and greedy with a draft, whatever the draft is."""
    greedy = said(capsys, runs, run, "--greedy")
    assert len(set(greedy[3:])) > 3
    assert said(capsys, runs, run, "--temperature", "0") == greedy
    assert said(capsys, runs, run, "--beams", "1") == greedy
    for draft in ("draft", "masked", "llama.bin"):
        assert said(capsys, runs, run, "--greedy", "--draft", str(runs / draft)) == greedy
    penalty = ["--greedy", "--repetition-penalty", "1.5"]
    plain = said(capsys, runs, run, *penalty)
    assert said(capsys, runs, run, *penalty, "--draft", str(runs / "draft")) == plain != greedy


@pytest.mark.parametrize("run", ["gpt", "lstm", "masked"])
def test_a_draft_of_itself_changes_no_draw(run, runs, capsys) -> None:
    """Every proposal is kept then: the same text as without, for every seed and sampler."""
    for options in ("--seed 4", "--seed 5 --temperature 0.7 --top-k 4", "--top-p 0.8 --min-p 0.05"):
        plain = said(capsys, runs, run, *options.split())
        assert said(capsys, runs, run, *options.split(), "--draft", str(runs / run)) == plain


def log_probability(folder: Path, text: str) -> float:
    """Of what follows the first three characters, by one run over the whole text."""
    model, kind = trained(str(folder))
    x = kind.encode(text)
    with ml.no_grad():
        found = model.eval()(ml.tensor(x[None]))
    logits = (found[0] if isinstance(found, tuple) else found).numpy()[0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(logs[np.arange(2, len(x) - 1), x[3:]].sum())


@pytest.mark.parametrize("run", ["gpt", "gru"])
def test_beams_find_likelier_texts(run, runs, capsys) -> None:
    narrow, wide = (said(capsys, runs, run, "--beams", n, count=12) for n in ("1", "8"))
    assert log_probability(runs / run, wide) > log_probability(runs / run, narrow)


def test_accepted_tokens_are_written_at_once(runs, monkeypatch) -> None:
    """A round's tokens are out before the next round begins."""
    from projects.textgen import decode, sample

    order, verified = [], decode._verified
    monkeypatch.setattr(decode, "_verified", lambda *a: order.append("round") or verified(*a))
    push = tokens.Stream.push
    monkeypatch.setattr(sample.tokens.Stream, "push",
                        lambda self, t: order.append("token") or push(self, t))  # fmt: skip
    draft = str(runs / "gpt")
    command = ["sample", "--run", draft, "--prompt", "a", "--tokens", "10", "--draft", draft]
    assert cli(command) == 0
    assert order[1:] == ["round", *["token"] * 5] * 2  # four proposed, one more of the target's


MISTAKES = [
    ("--beams 2 --temperature 0.5", "--beams searches and draws nothing; leave out --temperature"),
    ("--beams 2 --seed 0 --top-k 3", "leave out --top-k, --seed"),
    ("--beams 2 --greedy", "leave out --greedy"),
    ("--beams 2 --draft {0}/gpt", "leave out --draft"),
    ("--beams 0", "--beams must be at least 1; got 0"),
    ("--tokens -1", "--tokens must be at least 0; got -1"),
    ("--draft {0}/bytes", "must have the tokens of what it drafts for; got draft '256 bytes', "
                          "target '10 characters'"),
    ("--draft {0}/other", "/other must have the tokens of what it drafts for"),
    ("--draft {0}/large.bin", "has other tokens than what it is to draft for; got weights 11"),
    ("--draft {0}/short.bin", "/short.bin must be"),
    ("--draft {0}/text", "/text is no llama2.c file"),
    ("--draft {0}/nothing", "cannot read"),
    ("--draft= --tokens 3", "--draft must name a run or a file; got ''"),
    ("--run=", "--run must name a run or a file; got ''"),
    ("--beams 3 --tokens 41", "fit the network's context of 40 tokens; try --tokens 40"),
    ("--draft {0}/draft --tokens 41", "fit the network's context of 40 tokens; try --tokens 40"),
    ("--run {0}/lstm --draft {0}/llama.bin --tokens 50", "context of 48 tokens; try --tokens 48"),
    ("--prompt " + 41 * "a", "a prompt must have at most 40 tokens, the network's context; got "
                             "tokens 41"),
    ("--prompt xyz", "got character 'x', index 0"),
    ("--run {0}/mixed", "mixed has other tokens: load_state_dict"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda text: text[:30])
def test_mistakes_are_one_clear_message(arguments, message, runs, capsys) -> None:
    """Nothing is written to standard output then."""
    base = ["sample", "--run", str(runs / "gpt"), "--prompt", "a"]
    assert cli([*base, *arguments.format(runs).split()]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.startswith("error: ")
    assert err.count("error:") == 1 and "Traceback" not in err


@pytest.mark.parametrize("file", ["short.bin", "text", "gpt", "large.bin"])
def test_converted_weights_that_are_none(file, runs, capsys) -> None:
    """Truncated, another file, a folder, of another vocabulary."""
    vocabulary = runs / "gpt" / "tokenizer.json"
    command = ["sample", "--weights", runs / file, "--tokenizer", vocabulary, "--prompt", "a"]
    assert cli([*map(str, command)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and str(runs / file) in err


def test_a_text_beyond_the_context_goes_on_with_a_warning(runs, capsys) -> None:
    """The first tokens are those of a text that ends before; 40 of context hold 40 after one."""
    command = ["sample", "--run", str(runs / "gpt"), "--prompt", "a", "--greedy", "--tokens"]
    assert cli([*command, "40"]) == 0
    within = capsys.readouterr().out
    with pytest.warns(UserWarning, match="beyond 40 tokens the text outgrows the network's"):
        assert cli([*command, "100"]) == 0
    beyond = capsys.readouterr().out
    assert len(beyond) == 1 + 100 + 1 and beyond.startswith(within[:-1])


def test_no_tokens_are_the_prompt(runs, capsys) -> None:
    for more in ([], ["--beams", "2"], ["--draft", str(runs / "draft")]):
        assert said(capsys, runs, "gpt", *more, count=0) == "ab "


def test_the_mask_is_never_written(runs, capsys) -> None:
    """It is the likeliest token of that network by far, but its row is for reading alone."""
    for options in ([], ["--greedy"], ["--beams", "3"], ["--draft", str(runs / "masked")]):
        assert set(said(capsys, runs, "masked", *options)) <= set(LETTERS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sample_ends_its_line(number, runs, capsys, monkeypatch) -> None:
    push, pushed = tokens.Stream.push, []

    def stopping(self, token):
        pushed.append(token)
        if len(pushed) == 6:
            os.kill(os.getpid(), number)
        return push(self, token)

    monkeypatch.setattr(tokens.Stream, "push", stopping)
    command = ["sample", "--run", str(runs / "lstm"), "--prompt", "a", "--tokens", "50"]
    assert cli(command) == 128 + number
    out, err = capsys.readouterr()
    assert err == f"stopped by {number.name}\n"
    assert out.startswith("a") and out.endswith("\n") and 2 <= len(out) <= 8
