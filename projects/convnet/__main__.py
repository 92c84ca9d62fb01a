"""The command line: train, resume, compare, predict."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from minidl.errors import MinidlError
from minidl.train import Interrupted, RunDir, StopSignal
from projects.convnet.config import Config, Dataset, UsageError, assignments, from_json
from projects.convnet.look import compare_runs, predict_images
from projects.convnet.presets import listing, preset
from projects.convnet.run import check_free, main, new_run


class Parser(argparse.ArgumentParser):
    """argparse with one clear line in place of usage and error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def train_parser() -> Parser:
    """The arguments of a training run."""
    more = (
        "Also: 'compare DIR DIR... [--out FILE.html]' draws several runs together; "
        "'predict --run DIR IMAGE...' prints the top classes of any picture."
    )
    parser = Parser("python -m projects.convnet", epilog=more, allow_abbrev=False)
    parser.add_argument("--preset", help="a named experiment (default: quick)")
    parser.add_argument("--dataset", choices=get_args(Dataset), help="overrides the preset's")
    parser.add_argument(
        "--data", help="root of the official layouts; default: MINIDL_DATA, else a download"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", help="the run's folder (default: runs/PRESET-N)")
    parser.add_argument(
        "--resume", metavar="DIR", help="go on with the run in DIR, by its configuration"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE",
                        help="change fields of the configuration")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list presets and fields, and stop")
    return parser


def configuration(args: argparse.Namespace) -> Config:
    """The preset, changed by the flags and by --set."""
    flags = {name: getattr(args, name) for name in ("dataset", "data", "device", "epochs", "seed")}
    given = {name: value for name, value in flags.items() if value is not None}
    base = preset("quick" if args.preset is None else args.preset)
    return dataclasses.replace(base, **given | assignments(args.set))


def train(argv: Sequence[str], stop: StopSignal) -> int:
    """Train or resume."""
    args = train_parser().parse_args(argv)
    if args.list:
        print(listing())
        print("\nfields for --set:")
        for field in dataclasses.fields(Config):
            print(f"  {field.name} = {field.default!r}")
        return 0
    if args.resume:
        return resume(args, stop)
    cfg = configuration(args)
    if args.out:
        check_free(Path(args.out))
    command = shlex.join(["python", "-m", "projects.convnet", *argv])
    return main(cfg, lambda: new_run(cfg, args.out, command), stop)


def resume(args: argparse.Namespace, stop: StopSignal) -> int:
    """Go on with a run by its own configuration; only where data and device are may change."""
    fixed = [name for name in ("preset", "dataset", "epochs", "seed", "out", "set")
             if getattr(args, name) not in (None, [])]  # fmt: skip
    if fixed:
        what = ", ".join(f"--{name}" for name in fixed)
        raise UsageError(f"--resume takes its configuration from {args.resume}; leave out {what}")
    run = RunDir(args.resume)
    cfg = from_json(run.read_json("config.json"))
    moved = {name: getattr(args, name) for name in ("data", "device") if getattr(args, name)}
    return main(dataclasses.replace(cfg, **moved), lambda: run, stop)


def compare(argv: Sequence[str], stop: StopSignal) -> int:
    """Draw several runs together."""
    parser = Parser("python -m projects.convnet compare", allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="DIR")
    parser.add_argument("--out", default="compare.html")
    args = parser.parse_args(argv)
    compare_runs(args.runs, args.out)
    return 0


def predict(argv: Sequence[str], stop: StopSignal) -> int:
    """Name the most probable classes of pictures."""
    parser = Parser("python -m projects.convnet predict", allow_abbrev=False)
    parser.add_argument("--run", required=True, metavar="DIR")
    parser.add_argument("--top", type=int, default=3)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    args = parser.parse_args(argv)
    predict_images(args.run, args.images, args.top)
    return 0


def cli(argv: Sequence[str]) -> int:
    """Run the command line; 0, or 2 for a mistake in it, 1 for a failure, 130/143 by a signal."""
    verbs = {"compare": compare, "predict": predict}
    try:
        with StopSignal() as stop:
            verb = verbs.get(argv[0]) if argv else None
            return verb(argv[1:], stop) if verb else train(argv, stop)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MinidlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.code


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *place: f"warning: {message}\n"
    sys.exit(cli(sys.argv[1:]))
