"""The command line: train, resume, compare, sample, search, table, sweep."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from minidl.errors import DataError, require
from minidl.io import load
from minidl.models.sampling import Sampler
from minidl.train import RunDir, StopSignal
from projects.command import Parser, Project, comparing
from projects.settings import UsageError, from_json
from projects.textgen import tokens
from projects.textgen.compare import compare_runs
from projects.textgen.config import Config
from projects.textgen.convert import load_model
from projects.textgen.corpus import rows
from projects.textgen.model import build, stream
from projects.textgen.presets import PRESETS
from projects.textgen.run import main, tokenizer_of
from projects.textgen.search import search
from projects.textgen.tables import sweep, table


def sample(argv: Sequence[str], stop: StopSignal) -> int:
    """Write a text that goes on from a prompt, token by token, to standard output."""
    parser = Parser("python -m projects.textgen sample", allow_abbrev=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR")
    source.add_argument("--weights", metavar="FILE", help="of llama2.c, or GPT-2's safetensors")
    parser.add_argument("--tokenizer", metavar="FILE", help="that belongs to --weights")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument("--tokens", type=int, default=256, help="how many new ones")
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args(argv)
    if bool(args.weights) != bool(args.tokenizer):
        raise UsageError("--weights and --tokenizer go together")
    if args.tokens < 0:
        raise UsageError(f"--tokens must not be negative; got {args.tokens}")
    sampler = Sampler(
        temperature=0.0 if args.greedy else args.temperature, top_k=args.top_k, top_p=args.top_p,
        min_p=args.min_p, repetition_penalty=args.repetition_penalty, seed=args.seed,
    )  # fmt: skip
    if args.run:
        model, kind = trained(args.run)
    else:
        model, kind = load_model(args.weights), tokens.load(args.tokenizer)
        rule = f"{args.weights} has other tokens than {args.tokenizer}"
        size = next(iter(model.state_dict().values())).shape[0]
        require(size == kind.size, "sample", rule, error=DataError, weights=size, file=kind.size)
    prompt = kind.prompt(args.prompt)
    rule = "an empty prompt needs a token that begins a text, which these tokens lack"
    require(len(prompt) > 0, "sample", rule, error=DataError, tokens=kind.kind)
    write = tokens.Stream(kind, prompt.tolist())
    print(args.prompt, end="", flush=True)
    for token in stream(model.to(args.device).eval(), prompt[None], args.tokens, sampler):
        stop.check()
        print(write.push(int(token[0])), end="", flush=True)
    print(write.close())
    return 0


def trained(folder: str) -> tuple:
    """The network of a run as it stands, and its tokens."""
    run = RunDir(folder)
    cfg = from_json(Config, run.read_json("config.json"))
    require(run.checkpoint.exists(), "sample", f"{folder} has no checkpoint yet", error=DataError)
    kind = tokenizer_of(run)
    model = build(cfg, rows(cfg, kind))
    model.load_state_dict(load(run.checkpoint)["model"])
    return model, kind


PROJECT = Project(
    "textgen", Config, PRESETS, main, None, "steps",
    verbs={
        "compare": comparing("textgen", compare_runs), "sample": sample, "search": search,
        "sweep": sweep, "table": table,
    },
    more="Also: 'compare DIR DIR... [--out FILE.html]' draws several runs together; 'sample' goes "
    "on with a text by a run or by converted weights; 'search' tries widths, batches and rates; "
    "'table' trains every model over every kind of token; 'sweep' samples at many temperatures.",
)  # fmt: skip
cli = PROJECT.cli

if __name__ == "__main__":
    warnings.formatwarning = lambda message, *place: f"warning: {message}\n"
    sys.exit(cli(sys.argv[1:]))
