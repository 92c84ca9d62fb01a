"""The command line: train, resume, compare, predict, table."""

from __future__ import annotations

from typing import get_args

from projects.command import Project, at_the_shell, comparing, predicting
from projects.convnet.config import Config, Dataset
from projects.convnet.look import compare_runs, opened
from projects.convnet.presets import PRESETS
from projects.convnet.run import main
from projects.convnet.tables import table

PROJECT = Project(
    "convnet", Config, PRESETS, main, get_args(Dataset),
    verbs={"compare": comparing("convnet", compare_runs), "predict": predicting("convnet", opened),
           "table": table},
    more="Also: 'compare DIR DIR... [--out FILE.html]' draws several runs together; "
    "'predict --run DIR IMAGE...' prints the top classes of any picture; 'table NAME --out DIR' "
    "trains all runs of a table, some at a time with --jobs, and draws them together.",
)  # fmt: skip
cli = PROJECT.cli

if __name__ == "__main__":
    at_the_shell(cli)
