"""The command line that the projects share: train, resume, and verbs of their own."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from minidl.errors import MinidlError
from minidl.train import Interrupted, RunDir, StopSignal
from projects.settings import (
    Presets,
    UsageError,
    assignments,
    check_free,
    listing,
    new_run,
    parse,
    preset_of,
    settings_of,
)

Verb = Callable[[Sequence[str], StopSignal], int]
# Names of classes, and the probabilities (K,) of each for the picture in a file.
Answers = tuple[Sequence[str], Callable[[str], np.ndarray]]
Main = Callable[[Any, Callable[[], RunDir], StopSignal], int]


class Parser(argparse.ArgumentParser):
    """argparse with one clear line in place of usage and error; options have their whole names."""

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(f"python -m projects.{command}", allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def status_of(work: Callable[[], int | None]) -> int:
    """A command's status: what its work gives, 2 for a mistake in the command, 1 for a failure."""
    try:
        return work() or 0
    except (MinidlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def at_the_shell(cli: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a project's command line and leave with its status.

    Warnings are one line. Characters that the output's encoding lacks are escaped, as in errors.
    """
    warnings.formatwarning = lambda message, *place: f"warning: {message}\n"
    if isinstance(sys.stdout, io.TextIOWrapper):  # it may be closed
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(cli(sys.argv[1:]))


def comparing(project: str, draw: Callable[[Sequence[str], str], None]) -> Verb:
    """The verb that draws several runs together."""

    def compare(argv: Sequence[str], stop: StopSignal) -> int:
        parser = Parser(f"{project} compare")
        parser.add_argument("runs", nargs="+", metavar="DIR")
        parser.add_argument("--out", default="compare.html")
        args = parser.parse_args(argv)
        draw(args.runs, args.out)
        return 0

    return compare


def predicting(project: str, opened: Callable[[str], Answers]) -> Verb:
    """The verb that prints the most probable classes of pictures, by a run that `opened` opens."""

    def predict(argv: Sequence[str], stop: StopSignal) -> int:
        parser = Parser(f"{project} predict")
        parser.add_argument("--run", required=True, metavar="DIR")
        parser.add_argument("--top", type=int, default=3)
        parser.add_argument("images", nargs="+", metavar="IMAGE")
        args = parser.parse_args(argv)
        if args.top < 1:
            raise UsageError(f"--top must be at least 1; got {args.top}")
        classes, answer = opened(args.run)
        for file in args.images:
            shares = answer(file)
            best = np.argsort(-shares, kind="stable")[: args.top]
            print(f"{file}: " + ", ".join(f"{classes[i]} {100 * shares[i]:.1f} %" for i in best))
        return 0

    return predict


def train_alone(main: Main, settings: Any, open_run: Callable[[], RunDir], stop: StopSignal) -> int:
    """What `main` does, in a run that no other process trains meanwhile."""
    with contextlib.ExitStack() as held:
        return main(settings, lambda: held.enter_context(alone(open_run())), stop)


@contextlib.contextmanager
def alone(run: RunDir) -> Iterator[RunDir]:
    """Within it the run is this process's; UsageError where another one trains it.

    By a lock on its config.json, which goes with the process. Windows has none, nor have some file
    systems.
    """
    with open(run.path / "config.json", "rb+") as file:
        if os.name != "nt":
            lock(file, run)
        yield run


def lock(file: IO[bytes], run: RunDir) -> None:
    """Lock a file of a run until it is closed; UsageError where another process has done so."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{run.path} is being trained by another process") from None
    except OSError as error:
        warnings.warn(f"{run.path} cannot be locked: {error.strerror}", stacklevel=2)


@dataclasses.dataclass(frozen=True)
class Project:
    """What the command line needs to know: settings class, presets, the work, and more verbs.

    main(settings, open_run, stop) trains; open_run is called when everything else is there.
    """

    name: str  # of the package
    kind: type
    presets: Presets
    main: Main
    datasets: Sequence[str] | None  # None: any text
    length: str = "epochs"  # the field that says how long training goes on
    verbs: Mapping[str, Verb] = dataclasses.field(default_factory=dict)
    more: str = ""  # about the verbs, for --help
    flags: Sequence[str] = ()  # fields that have a flag of their own
    # The preset that fields begin from which are given without one.
    usual: Callable[[Mapping[str, Any]], str] = lambda given: "quick"

    def parser(self) -> Parser:
        """The arguments of a training run."""
        parser = Parser(self.name, epilog=self.more)
        parser.add_argument("--preset", help="a named experiment (default: quick)")
        parser.add_argument("--dataset", choices=self.datasets, help="overrides the preset's")
        parser.add_argument(
            "--data", help="root of the official layouts; default: MINIDL_DATA, else a download"
        )
        parser.add_argument("--device", choices=["cpu", "cuda"])
        parser.add_argument(f"--{self.length}", type=int)
        parser.add_argument("--seed", type=int)
        for name in self.flags:
            parser.add_argument(f"--{name}", help=f"the same as --set {name}=…")
        parser.add_argument("--out", help="the run's folder (default: runs/PRESET-N)")
        parser.add_argument(
            "--resume", metavar="DIR", help="go on with the run in DIR, by its configuration"
        )
        parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE",
                            help="change fields of the configuration")  # fmt: skip
        parser.add_argument("--list", action="store_true", help="list presets and fields, and stop")
        return parser

    def configuration(self, args: argparse.Namespace) -> Any:
        """The preset, changed by the flags and by --set."""
        names = ("dataset", "data", "device", self.length, "seed")
        flags = {name: getattr(args, name) for name in names}
        given = {name: value for name, value in flags.items() if value is not None}
        texts = {name: getattr(args, name) for name in self.flags}
        given |= {k: parse(self.kind, k, text) for k, text in texts.items() if text is not None}
        given |= assignments(self.kind, args.set)
        name = self.usual(given) if args.preset is None else args.preset
        return dataclasses.replace(preset_of(self.kind, self.presets, name), **given)

    def train(self, argv: Sequence[str], stop: StopSignal) -> int:
        """Train or resume."""
        args = self.parser().parse_args(argv)
        if args.list:
            print(listing(self.presets))
            print("\nfields for --set:")
            for field in dataclasses.fields(self.kind):
                print(f"  {field.name} = {field.default!r}")
            return 0
        for name in ("resume", "out"):
            if getattr(args, name) == "":
                raise UsageError(f"--{name} must name a folder; got ''")
        if args.resume:
            return self.resume(args, stop)
        settings = self.configuration(args)
        if args.out:
            check_free(Path(args.out))
        command = shlex.join(["python", "-m", f"projects.{self.name}", *argv])
        return train_alone(self.main, settings, lambda: new_run(settings, args.out, command), stop)

    def resume(self, args: argparse.Namespace, stop: StopSignal) -> int:
        """Go on with a run by its own configuration; only where data and device are may change."""
        fixed = [name for name in ("preset", "dataset", self.length, "seed", "out", "set",
                                   *self.flags)
                 if getattr(args, name) not in (None, [])]  # fmt: skip
        if fixed:
            what = ", ".join(f"--{name}" for name in fixed)
            rule = f"--resume takes its configuration from {args.resume}; leave out {what}"
            raise UsageError(rule)
        run = RunDir(args.resume)
        settings = settings_of(self.kind, run)
        moved = {name: getattr(args, name) for name in ("data", "device") if getattr(args, name)}
        return train_alone(self.main, dataclasses.replace(settings, **moved), lambda: run, stop)

    def cli(self, argv: Sequence[str]) -> int:
        """Run the command line; 0, 2 for a mistake in it, 1 for a failure, 130/143 by a signal."""
        try:
            with StopSignal() as stop:
                verb = self.verbs.get(argv[0]) if argv else None
                return status_of(lambda: verb(argv[1:], stop) if verb else self.train(argv, stop))
        except Interrupted as stopped:
            print(stopped, file=sys.stderr)
            return stopped.code
