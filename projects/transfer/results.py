"""RESULTS.md from committed tables: `python -m projects.transfer.results`.

results/NAME.json is the table.json that `table NAME` wrote: every result of its runs, whole. Each
gets a section, after what results/notes.md says of all of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidl.errors import CheckpointError, reworded
from minidl.io import write_bytes
from projects.command import Parser, status_of
from projects.results import DAMAGE, row
from projects.transfer.tables import HEAD, TABLES, lines

HERE = Path(__file__).resolve().parent
OPENING = """# Results of projects/transfer

Accuracies in percent at the final epoch; ± is the standard deviation over seeds. Held-out: a tenth
of each class's training images, never trained on. Preparing: decoding aside, the features of the
frozen beginning, or what an earlier run of the table left of them. Made by
`python -m projects.transfer.results` from the files in results/.

"""


def section(about: dict[str, Any]) -> str:
    """The title, command and lines of one table."""
    found, name = about["results"], about["table"]
    places = dict.fromkeys(f"{r['device']}, commit {(r['commit'] or '-')[:10]}" for r in found)
    text = f"## {about['title']}\n\n`{about['command']} --out runs/{name}` ({'; '.join(places)}; "
    text += f"{tested(found)} test images)\n\n"
    text += row(*HEAD) + row(*["---"] * len(HEAD))
    return text + "".join(row(*cells) for cells in lines(found)) + "\n"


def tested(found: Sequence[dict[str, Any]]) -> str:
    """How many test images the results are of; where they differ, which are of how many."""
    presets: dict[int, dict[str, None]] = {}
    for r in found:
        presets.setdefault(r["test_images"], {})[r["preset"]] = None
    if len(presets) == 1:
        return f"{found[0]['test_images']:,}"
    return " and ".join(f"{n:,} ({', '.join(names)})" for n, names in presets.items())


def write_results(out: Path = HERE) -> None:
    """Write RESULTS.md from out/results; CheckpointError for a damaged table."""
    notes = out / "results" / "notes.md"
    text = OPENING + (f"{notes.read_text()}\n" if notes.exists() else "")
    for path in (out / "results" / f"{name}.json" for name in TABLES):
        if path.exists():
            with reworded(CheckpointError, f"results: {path} is damaged", *DAMAGE):
                text += section(json.loads(path.read_text()))
    write_bytes(out / "RESULTS.md", [text.rstrip("\n").encode() + b"\n"])


def cli(argv: Sequence[str]) -> int:
    """The command, which takes no arguments: 0, 2 for a mistake in it, 1 for a failure."""
    text = "Write RESULTS.md beside this project's code, of the tables in its results/."

    def work() -> None:
        Parser("transfer.results", description=text).parse_args(argv)
        write_results()

    return status_of(work)


if __name__ == "__main__":
    sys.exit(cli(sys.argv[1:]))
