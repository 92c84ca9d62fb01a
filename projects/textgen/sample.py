"""Writing with a network: `python -m projects.textgen sample`.

By default token by token with a sampler. --beams N looks for the likeliest text instead. --draft
gives a small network that proposes four tokens, which the large one judges in one call: the texts
are distributed as before. It pays off where judging five tokens takes the large one hardly longer
than writing one, where the draft takes a small part of that, and where most of its guesses are
kept: for a large GPT on a GPU. On a few CPU cores five tokens cost nearly as much as three calls,
and a recurrent network judges one after the other, so that little or nothing is gained there.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import minidl as ml
from minidl import nn
from minidl.errors import CheckpointError, DataError, require, reworded
from minidl.models.sampling import Sampler
from minidl.train import RunDir, StopSignal
from projects.command import Parser
from projects.settings import UsageError, settings_of, state_of
from projects.textgen import tokens
from projects.textgen.config import Config
from projects.textgen.convert import load_model
from projects.textgen.corpus import rows
from projects.textgen.decode import Cached, beam_search, rounds
from projects.textgen.model import build, stream, table
from projects.textgen.run import tokenizer_of

SAMPLING = {"temperature": float, "top_k": int, "top_p": float, "min_p": float,
            "repetition_penalty": float, "seed": int}  # fmt: skip


def sample(argv: Sequence[str], stop: StopSignal) -> int:
    """Write a text that goes on from a prompt, token by token, to standard output."""
    args = _parsed(argv)
    given = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    sampler = Sampler(**given | ({"temperature": 0.0} if args.greedy else {}))
    model, kind = trained(args.run) if args.run else converted(args.weights, args.tokenizer)
    models = [model, *([drafting(args.draft, kind)] if args.draft else [])]
    prompt = kind.prompt(args.prompt)
    for network in models:
        _check_room(network, len(prompt), args)
    models = [network.to(args.device).eval() for network in models]
    write = tokens.Stream(kind, prompt.tolist())
    print(args.prompt, end="", flush=True)
    try:
        for token in _written(models, prompt, args, sampler):
            stop.check()
            print(write.push(token), end="", flush=True)
    finally:
        print(write.close(), flush=True)
    return 0


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments; UsageError for those that do not go together."""
    parser = Parser("textgen sample")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR")
    source.add_argument("--weights", metavar="FILE", help="of llama2.c, or GPT-2's safetensors")
    parser.add_argument("--tokenizer", metavar="FILE", help="that belongs to --weights")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    text = "how many new ones; beyond its context a GPT goes on from the last half of it"
    parser.add_argument("--tokens", type=int, default=256, help=f"{text} (default: 256)")
    text = "the likeliest token every time"
    parser.add_argument("--greedy", action="store_true", default=None, help=text)
    for name, kind in SAMPLING.items():
        text = f"default: {getattr(Sampler, name)}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    text = "search for the likeliest text with N hypotheses, and write it in the end"
    parser.add_argument("--beams", type=int, metavar="N", help=text)
    text = "a small network's run or weights: it proposes tokens that the other judges together"
    parser.add_argument("--draft", metavar="DIR|FILE", help=text)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args(argv)
    for name in ("run", "weights", "draft"):
        if getattr(args, name) == "":
            raise UsageError(f"--{name} must name a run or a file; got ''")
    if bool(args.weights) != bool(args.tokenizer):
        raise UsageError("--weights and --tokenizer go together")
    for name, least in (("tokens", 0), ("beams", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} must be at least {least}; got {value}")
    others = [name for name in ("greedy", "draft", *SAMPLING) if getattr(args, name) is not None]
    if args.beams and others:
        got = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise UsageError(f"--beams searches and draws nothing; leave out {got}")
    return args


def _check_room(network: nn.Module, length: int, args: argparse.Namespace) -> None:
    """Refuse a prompt beyond a GPT's context, and texts that a search or a draft cannot go on with.

    Warns where the text will outgrow it.
    """
    room = getattr(network, "block_size", None)
    if room is None:
        return
    rule = f"a prompt must have at most {room} tokens, the network's context"
    require(length <= room, "sample", rule, error=DataError, tokens=length)
    if length + args.tokens - 1 > room:
        most = room + 1 - length
        if args.beams or args.draft:
            rule = "with --beams or --draft prompt and text must fit the network's context of"
            raise UsageError(f"{rule} {room} tokens; try --tokens {most}")
        warnings.warn(f"sample: beyond {most} tokens the text outgrows the network's context of "
                      f"{room}, which goes on from its last half", stacklevel=2)  # fmt: skip


def _written(
    models: Sequence[nn.Module], prompt: np.ndarray, args: argparse.Namespace, sampler: Sampler
) -> Iterator[int]:
    """The new tokens, as soon as they are certain."""
    if not (args.beams or args.draft) or not args.tokens:
        return (int(token[0]) for token in stream(models[0], prompt[None], args.tokens, sampler))
    x = ml.tensor(prompt[None], device=args.device)
    steps = [Cached(network) for network in models]
    if args.beams:
        text, _ = beam_search(steps[0], x, args.beams, args.tokens)
        return iter(text.tolist()[0][len(prompt) :])
    return (token for new, _ in rounds(*steps, x, args.tokens, sampler) for token in new)


def trained(folder: str, verb: str = "sample") -> tuple[nn.Module, tokens.Tokenizer]:
    """The network of a run as it stands, and its tokens, for a verb of the command line."""
    run = RunDir(folder)
    cfg = settings_of(Config, run)
    if cfg.model == "seq2seq":
        raise UsageError(f"{folder} holds a translator; use translate, not {verb}")
    state, kind = state_of(run, verb), tokenizer_of(run)
    model = build(cfg, rows(cfg, kind))
    with reworded(CheckpointError, f"{verb}: {folder} has other tokens", CheckpointError):
        model.load_state_dict(state["model"])
    return model, kind


def converted(weights: str, tokenizer: str) -> tuple[nn.Module, tokens.Tokenizer]:
    """A network of other programs' weights, and the tokens that belong to it."""
    model, kind = load_model(weights), tokens.load(tokenizer)
    _check_size(model, weights, kind, tokenizer)
    return model, kind


def drafting(path: str, kind: tokens.Tokenizer) -> nn.Module:
    """The network of a run with these very tokens, or one of other weights of as many."""
    if not Path(path).is_dir():
        model = load_model(path)
        _check_size(model, path, kind, "what it is to draft for")
        return model
    model, own = trained(path)
    rule = f"the draft of {path} must have the tokens of what it drafts for"
    same = own.kind == kind.kind and own.pieces == kind.pieces
    require(same, "sample", rule, error=DataError, draft=f"{own.size} {own.kind}",
            target=f"{kind.size} {kind.kind}")  # fmt: skip
    return model


def _check_size(model: nn.Module, weights: str, kind: tokens.Tokenizer, other: str) -> None:
    size, rule = len(table(model)), f"{weights} has other tokens than {other}"
    require(size == kind.size, "sample", rule, error=DataError, weights=size, tokens=kind.size)
