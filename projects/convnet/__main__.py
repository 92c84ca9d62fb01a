"""The command line: train, resume, compare, predict, table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from minidl.train import StopSignal
from projects.command import Parser, Project, at_the_shell, comparing
from projects.convnet.config import Config, Dataset
from projects.convnet.look import compare_runs, predict_images
from projects.convnet.presets import PRESETS
from projects.convnet.run import main
from projects.convnet.tables import table


def predict(argv: Sequence[str], stop: StopSignal) -> int:
    """Name the most probable classes of pictures."""
    parser = Parser("python -m projects.convnet predict", allow_abbrev=False)
    parser.add_argument("--run", required=True, metavar="DIR")
    parser.add_argument("--top", type=int, default=3)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    args = parser.parse_args(argv)
    predict_images(args.run, args.images, args.top)
    return 0


PROJECT = Project(
    "convnet", Config, PRESETS, main, get_args(Dataset),
    verbs={"compare": comparing("convnet", compare_runs), "predict": predict,
           "table": table},
    more="Also: 'compare DIR DIR... [--out FILE.html]' draws several runs together; "
    "'predict --run DIR IMAGE...' prints the top classes of any picture; 'table NAME --out DIR' "
    "trains all runs of a table, some at a time with --jobs, and draws them together.",
)  # fmt: skip
cli = PROJECT.cli

if __name__ == "__main__":
    at_the_shell(cli)
