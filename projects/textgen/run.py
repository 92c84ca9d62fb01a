"""One experiment from its configuration to the written result: `main(cfg, open_run, stop)`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minidl as ml
import minidl.functional as F
from minidl import nn, optim
from minidl.models.sampling import Sampler
from minidl.train import RunDir, StopSignal, Trainer, fingerprint
from projects.recipe import falling, groups_of, hits, optimizer_of
from projects.settings import UsageError, checksum, commit, device_name, dtype_of, rows_of, start
from projects.textgen import metrics, tokens, vectors
from projects.textgen.config import Config
from projects.textgen.corpus import Corpus, Feed, load_corpus, rows
from projects.textgen.data import windows
from projects.textgen.model import Best, Carried, build, generate, table
from projects.textgen.report import write_report

# What every look at the validation text adds to metrics.jsonl.
LOGGED = ("train_loss", "validation_loss", "validation_nats_per_character", "lr",
          "tokens_per_second")  # fmt: skip


def main(cfg: Config, open_run: Callable[[], RunDir], stop: StopSignal) -> int:
    """Train `cfg` in the run from where it stands, judge once, write samples, result and report."""
    start(cfg)
    corpus = load_corpus(cfg)
    model = build(cfg, rows(cfg, corpus.tokenizer)).to(cfg.device)
    given, feed = vectors_of(cfg, model), Feed(cfg, corpus)
    for part in (corpus.validation, corpus.test):  # too short ones are refused here
        windows(part, cfg.context, cfg.batch, name=f"a tenth of {corpus.name}")
    run = open_run()
    if not run.checkpoint.exists():  # else the weights are of the tokens that are there
        corpus.tokenizer.save(run.path / "tokenizer.json")
    best = Best(model) if cfg.keep == "best" else None
    trainer = make_trainer(cfg, run, corpus, feed, model, best, stop)
    resumed = trainer.resume()
    rows_of(run, *LOGGED)  # raises before training, if they are damaged
    counts = ", ".join(f"{len(part):,} {name}" for name, part in corpus.splits().items())
    print(f"{run.path}: {cfg.preset}, {corpus.name}, {corpus.tokenizer.size} tokens; {counts}")
    if resumed:
        print(f"resumed after {trainer.steps} steps")
    elif cfg.vectors:
        begin_with_vectors(cfg, corpus, model, given)
    trainer.fit()
    if best:
        best.put()
        trainer.save()
    tested = judge(cfg, model, corpus, corpus.test, stop.check)
    samples = write_samples(cfg, model, corpus)
    result = conclude(cfg, run, trainer, corpus, tested, samples)
    run.write_json("result.json", result)
    run.write_csv()
    write_report(run, result, samples, model, corpus)
    print(samples[0][:400])
    print(f"test loss {result['test_nats_per_character']:.3f} nats a character, validation "
          f"{result['validation_nats_per_character']:.3f}, {result['seconds']:.0f} s of training\n"
          f"report: {run.path / 'report.html'}")  # fmt: skip
    return 0


def make_trainer(cfg: Config, run: RunDir, corpus: Corpus, feed: Feed, model: nn.Module,
                 best: Best | None, stop: StopSignal) -> Trainer:  # fmt: skip
    """The loop for this experiment: an epoch of it is `every` steps. `best` sees each look."""
    optimizer = make_optimizer(cfg, model)

    def forward(model: nn.Module, batch: Any) -> tuple[ml.Tensor, ml.Tensor]:
        x, y = batch
        logits = feed.carried.run(model, x)
        flat, label = logits.reshape(-1, logits.shape[-1]), y.reshape(-1)
        return F.cross_entropy(flat, label), hits(flat, label)

    def judged() -> dict[str, float]:
        loss = judge(cfg, model, corpus, corpus.validation, stop.check)
        per = corpus.per_character(loss)
        if best:
            best.look(loss)
        return {"validation_loss": loss, "validation_nats_per_character": per}

    return Trainer(
        run, model, optimizer, feed, forward, judged,
        epochs=cfg.steps // cfg.each, identity=identity(cfg, corpus),
        about={"corpus": corpus.name}, scheduler=schedule(cfg, optimizer), clip=cfg.clip,
        read_every=1 if cfg.device == "cpu" else 50, unit="tokens", count=lambda b: b[0].numel(),
        state={"carried": feed.carried} | ({"best": best} if best else {}), captured=True,
        precision=dtype_of(cfg), stop=stop,
    )  # fmt: skip


def vectors_of(cfg: Config, model: nn.Module) -> vectors.Vectors | None:
    """The words and vectors of the file that a network begins with, if there is one.

    Raises DataError for a damaged file, UsageError for vectors of another width.
    """
    if cfg.vectors in ("", "train"):
        return None
    words, found = vectors.read_glove(cfg.vectors)
    has, needs = found.shape[1], table(model).shape[1]
    if has != needs:
        field = "hidden" if cfg.model == "gpt" else "embedding"
        rule = f"{cfg.vectors} must have vectors as wide as the network's, {needs}; got {has}"
        raise UsageError(f"{rule}; try --set {field}={has}")
    return words, found


def begin_with_vectors(
    cfg: Config, corpus: Corpus, model: nn.Module, given: vectors.Vectors | None
) -> None:
    """Put word vectors into a network: those given, else skip-gram's of the training text.

    Skip-gram takes four steps for each of the run's, and the run's seed.
    """
    weight, steps = table(model), 4 * cfg.steps
    if given is None:
        said = vectors.spoken(corpus.text)
        given = vectors.train(said, weight.shape[1], vectors.WINDOW, vectors.NEGATIVES, steps,
                              cfg.seed, after=vectors.progress(steps))  # fmt: skip
    words = [piece.decode() for piece in corpus.tokenizer.pieces]
    count = vectors.put(weight, words, given, cfg.seed)
    print(f"{count:,} of {len(words):,} tokens begin with the vector of a word")


def make_optimizer(cfg: Config, model: nn.Module) -> optim.Optimizer:
    """Adam or AdamW."""
    betas = (0.9, 0.99) if cfg.model == "gpt" else (0.9, 0.999)
    return optimizer_of(cfg, groups_of(model.parameters(), cfg.weight_decay), betas)


def schedule(cfg: Config, optimizer: optim.Optimizer) -> Any:
    """Linear warm-up, then a cosine down to `final` of the rate at the last step."""

    def share(step: int) -> float:
        if step < cfg.warmup:
            return (step + 1) / cfg.warmup
        done = min((step - cfg.warmup) / max(cfg.steps - cfg.warmup, 1), 1.0)
        return cfg.final + (1 - cfg.final) * falling("cosine", done)

    return optim.lr_scheduler.LambdaLR(optimizer, share)


@ml.no_grad()
def judge(
    cfg: Config, model: nn.Module, corpus: Corpus, part: np.ndarray, check: Callable[[], None]
) -> float:
    """Mean nats of the tokens of a text, each predicted once, from windows without overlap."""
    model.eval()
    total, count = 0.0, 0
    part = part[: cfg.judged + 1] if cfg.judged else part
    for x, y in windows(part, cfg.context, cfg.batch, name=corpus.name):
        check()
        logits = Carried().run(model, ml.tensor(x, device=cfg.device))
        flat, label = logits.reshape(-1, logits.shape[-1]), ml.tensor(y, device=cfg.device)
        total += F.cross_entropy(flat, label.reshape(-1), reduction="sum").item()
        count += y.size
    return total / max(count, 1)


def write_samples(cfg: Config, model: nn.Module, corpus: Corpus, count: int = 4) -> list[str]:
    """Texts of the model's own, `written` tokens in all, each behind a line's end."""
    if not cfg.written:
        return [""]
    top_k, each = cfg.top_k or None, max(cfg.written // count, 1)
    sampler = Sampler(temperature=cfg.temperature, top_k=top_k, top_p=cfg.top_p, seed=cfg.seed)
    prompt = corpus.opening()
    made = generate(model.eval(), np.tile(prompt, (count, 1)), each, sampler)
    return [corpus.tokenizer.decode(row[len(prompt) :]) for row in made]


def identity(cfg: Config, corpus: Corpus) -> dict[str, str]:
    """Fingerprints of configuration, text and vectors; where they lie and what computes is free."""
    begun = cfg.vectors
    if begun not in ("", "train"):
        begun = hashlib.sha256(Path(begun).read_bytes()).hexdigest()[:16]
    data = fingerprint(corpus.splits().values())
    text = checksum(cfg, "data", "device", "vectors")
    return {"configuration": text, "data": data, "vectors": begun}


def conclude(cfg: Config, run: RunDir, trainer: Trainer, corpus: Corpus, tested: float,
             samples: list[str]) -> dict[str, Any]:  # fmt: skip
    """result.json, of the weights that are kept: the last, or by least loss on validation text."""
    table = run.rows()
    kept = min(table, key=lambda row: row["validation_loss"]) if cfg.keep == "best" else table[-1]
    seconds = sum(row["seconds"] for row in table)
    per = corpus.per_character(tested, "test")
    return {
        "preset": cfg.preset,
        "dataset": corpus.name,
        "tokens": corpus.tokenizer.kind,
        "vocabulary": corpus.tokenizer.size,
        "seed": cfg.seed,
        "steps": trainer.steps,
        "kept_step": kept["epoch"] * cfg.each,
        "test_loss": tested,
        "test_nats_per_character": per,
        "test_bits_per_character": metrics.bits_per_character(per),
        "test_perplexity": metrics.perplexity(tested),
        "validation_nats_per_character": kept["validation_nats_per_character"],
        "validation_loss": kept["validation_loss"],
        "written": metrics.table(samples, corpus.text) if cfg.written else {},
        "seconds": round(seconds, 2),
        "tokens_per_second": round(trainer.steps * cfg.batch * cfg.context / max(seconds, 1e-9)),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "device": device_name(cfg.device),
        "commit": commit(),
    }


def tokenizer_of(run: RunDir) -> tokens.Tokenizer:
    """The tokens that a run was trained on."""
    return tokens.load(run.path / "tokenizer.json")
