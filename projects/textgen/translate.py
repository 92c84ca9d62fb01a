"""Translation by attention: a run from its configuration to the result, and the verb translate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from minidl.errors import CheckpointError, DataError, reworded
from minidl.random import Generator
from minidl.train import RunDir, StopSignal, Trainer
from projects.command import Parser
from projects.settings import (
    UsageError,
    commit,
    device_name,
    dtype_of,
    rows_of,
    settings_of,
    start,
    state_of,
)
from projects.textgen import metrics
from projects.textgen.config import Config
from projects.textgen.run import LOGGED, identity, make_optimizer, schedule
from projects.textgen.translation import (
    PAD,
    Buckets,
    Sentences,
    Translations,
    grouped,
    joined,
    load_translations,
)
from projects.textgen.translation_report import write_report
from projects.textgen.translator import Translator, build, scored

BEAMS = 4  # those of the second BLEU of a test


# ---- a run ---------------------------------------------------------------------------------------


def main(cfg: Config, open_run: Callable[[], RunDir], stop: StopSignal) -> int:
    """Train `cfg` in the run from where it stands, judge once, write result and report."""
    start(cfg)
    corpus = load_translations(cfg)
    translator = build(cfg, corpus.english, corpus.french)
    run = open_run()
    words = {"english": corpus.english.words, "french": corpus.french.words}
    if not run.checkpoint.exists():  # else the weights are of the words that are there
        run.write_json("vocabulary.json", words)
    trainer = make_trainer(cfg, run, corpus, translator, stop)
    resumed = trainer.resume()
    rows_of(run, *LOGGED, "validation_bleu")  # raises before training, if they are damaged
    counts = f"{len(corpus.train):,} pairs, {corpus.english.size} and {corpus.french.size} tokens"
    print(f"{run.path}: {cfg.preset}, {corpus.name}; trained on {counts}")
    if resumed:
        print(f"resumed after {trainer.steps} steps")
    trainer.fit()
    tested = translator.judge(corpus, corpus.test, stop.check)
    groups = grouped(corpus.test, cfg.judged)
    beams = []
    for sentence in groups:
        stop.check()
        beams.append(translator.beam(sentence, BEAMS))
    tested["bleu_beams"] = scored(groups, beams)
    result = conclude(cfg, run, trainer, corpus, tested)
    run.write_json("result.json", result)
    run.write_csv()
    write_report(run, result, groups, translator)
    print(f"test loss {tested['loss']:.3f} nats a token, BLEU {100 * tested['bleu']:.1f} %, "
          f"{result['seconds']:.0f} s of training\nreport: {run.path / 'report.html'}")  # fmt: skip
    return 0


def make_trainer(
    cfg: Config, run: RunDir, corpus: Translations, translator: Translator, stop: StopSignal
) -> Trainer:
    """The loop for this experiment: an epoch of it is `every` steps."""
    source, target = corpus.encode(corpus.train)
    optimizer = make_optimizer(cfg, translator.model)

    def judged() -> dict[str, float]:
        found = translator.judge(corpus, corpus.validation, stop.check)
        return {f"validation_{name}": value for name, value in found.items()}

    return Trainer(
        run, translator.model, optimizer,
        Buckets(source, target, cfg.batch, Generator(cfg.seed, "data"), every=cfg.each),
        lambda model, batch: translator.losses(*batch, "mean"), judged,
        epochs=cfg.steps // cfg.each, identity=identity(cfg, corpus), about={"corpus": corpus.name},
        scheduler=schedule(cfg, optimizer), clip=cfg.clip, precision=dtype_of(cfg),
        read_every=1 if cfg.device == "cpu" else 50, unit="tokens",
        count=lambda batch: int((batch[1][:, 1:] != PAD).sum()), stop=stop,
    )  # fmt: skip


def conclude(cfg: Config, run: RunDir, trainer: Trainer, corpus: Translations,
             tested: dict[str, float]) -> dict[str, Any]:  # fmt: skip
    """result.json: all at the last step; nothing was selected on validation or test sentences."""
    table = run.rows()
    seconds = sum(row["seconds"] for row in table)
    tokens = sum(row["seconds"] * row["tokens_per_second"] for row in table)
    return {
        "preset": cfg.preset,
        "dataset": corpus.name,
        "attention": cfg.attention,
        "tokens": cfg.tokens,
        "vocabulary": corpus.french.size,
        "seed": cfg.seed,
        "steps": trainer.steps,
        **{f"test_{name}": value for name, value in tested.items()},
        "test_bits_per_character": metrics.bits_per_character(tested["nats_per_character"]),
        "test_perplexity": metrics.perplexity(tested["loss"]),
        **{k: v for k, v in table[-1].items() if k.startswith("validation_")},
        "written": {},
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / max(seconds, 1e-9)),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "device": device_name(cfg.device),
        "commit": commit(),
    }


# ---- the verb ------------------------------------------------------------------------------------


def verb(argv: Sequence[str], stop: StopSignal) -> int:
    """Write the French of an English sentence, by a run as it stands, to standard output."""
    parser = Parser("textgen translate")
    parser.add_argument("--run", metavar="DIR", required=True)
    parser.add_argument("--text", required=True, metavar="ENGLISH")
    parser.add_argument("--beams", type=int, default=1, metavar="N", help="1: greedy")
    args = parser.parse_args(argv)
    if args.beams < 1:
        raise UsageError(f"--beams must be at least 1; got {args.beams}")
    translator = trained(args.run)
    if not Sentences.split(args.text):
        raise UsageError(f"--text must hold a word; got {args.text!r}")
    if args.beams > 1:
        words = translator.beam(args.text, args.beams)
    else:
        words = translator.greedy([args.text])[0][0]
    print(joined(words))
    return 0


def trained(folder: str) -> Translator:
    """The translator of a run as it stands, on the CPU."""
    run = RunDir(folder)
    cfg = replace(settings_of(Config, run), device="cpu")
    if cfg.model != "seq2seq":
        raise UsageError(f"{folder} holds a language model; use sample, not translate")
    state = state_of(run, "translate")
    saved = run.read_json("vocabulary.json")
    rule = f"translate: {run.path / 'vocabulary.json'} is damaged"
    with reworded(CheckpointError, rule, DataError, KeyError, TypeError):
        english, french = (Sentences(saved[side]) for side in ("english", "french"))
    translator = build(cfg, english, french)
    translator.model.load_state_dict(state["model"])
    translator.model.eval()
    return translator
