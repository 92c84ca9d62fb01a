"""The command line: train, resume, compare, predict, export, evaluate, forget, table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

from minidl.train import StopSignal
from projects.command import Parser, Project, at_the_shell, comparing, predicting
from projects.convnet.look import compare_runs
from projects.transfer.config import Config, Dataset
from projects.transfer.judge import evaluate_weights, forget
from projects.transfer.look import export, opened
from projects.transfer.presets import PRESETS
from projects.transfer.run import main
from projects.transfer.tables import table


def write_weights(argv: Sequence[str], stop: StopSignal) -> int:
    """Write the weights of a run's model as safetensors."""
    parser = Parser("transfer export")
    parser.add_argument("--run", required=True, metavar="DIR")
    parser.add_argument("out", metavar="OUT.safetensors")
    args = parser.parse_args(argv)
    export(args.run, args.out)
    return 0


def usual(given: Mapping[str, Any]) -> str:
    """The preset of fields given without one: own for data or weights of one's own, else quick."""
    drawn = given.get("dataset", "embedded") in ("embedded", "shapes")
    return "quick" if drawn and given.get("weights", "") in ("", "embedded") else "own"


PROJECT = Project(
    "transfer", Config, PRESETS, main, get_args(Dataset),
    verbs={"compare": comparing("transfer", partial(compare_runs, kind=Config)),
           "predict": predicting("transfer", opened), "export": write_weights,
           "evaluate": evaluate_weights, "forget": forget, "table": table},
    more="Also: 'compare DIR DIR... [--out FILE.html]' draws several runs together; "
    "'predict --run DIR IMAGE...' prints the top classes of any picture; "
    "'export --run DIR OUT.safetensors' writes a run's weights; 'evaluate --weights FILE "
    "--model NAME --dataset NAME' tests weights as they are; 'forget --run DIR --preset NAME' "
    "measures what a run's model forgets through another task; 'table NAME --out DIR' trains all "
    "runs of a table and writes it. Without --preset data or weights of one's own begin from the "
    "preset own.",
    flags=("weights", "model", "strategy"), usual=usual,
)  # fmt: skip
cli = PROJECT.cli

if __name__ == "__main__":
    at_the_shell(cli)
