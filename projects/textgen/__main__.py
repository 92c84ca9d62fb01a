"""The command line: train, resume, compare, sample, search, table, sweep, translate, vectors."""

from __future__ import annotations

from collections.abc import Callable

from minidl.train import RunDir, StopSignal
from projects.command import Project, at_the_shell, comparing
from projects.textgen import run, translate, vectors
from projects.textgen.compare import compare_runs
from projects.textgen.config import Config
from projects.textgen.presets import PRESETS
from projects.textgen.sample import sample
from projects.textgen.search import search
from projects.textgen.tables import sweep, table


def main(cfg: Config, open_run: Callable[[], RunDir], stop: StopSignal) -> int:
    """Train a language model or, as model=seq2seq, a translator."""
    return (translate if cfg.model == "seq2seq" else run).main(cfg, open_run, stop)


PROJECT = Project(
    "textgen", Config, PRESETS, main, None, "steps",
    verbs={
        "compare": comparing("textgen", compare_runs), "sample": sample, "search": search,
        "sweep": sweep, "table": table, "translate": translate.verb, "vectors": vectors.verb,
    },
    more="Also: 'compare DIR DIR... [--out FILE.html]' draws several runs together; 'sample' goes "
    "on with a text by a run or by converted weights; 'search' tries widths, batches and rates; "
    "'table' trains every model over every kind of token; 'sweep' samples at many temperatures; "
    "'translate' writes a sentence's French; 'vectors' trains word vectors or looks up neighbours.",
)  # fmt: skip
cli = PROJECT.cli

if __name__ == "__main__":
    at_the_shell(cli)
