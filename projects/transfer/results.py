"""RESULTS.md from committed tables: `python -m projects.transfer.results`.

results/NAME.json is the table.json that `table NAME` wrote: every result of its runs, whole. Each
gets a section, after what results/notes.md says of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidl.io import write_bytes
from projects.results import row
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
    """Write RESULTS.md from out/results."""
    notes = out / "results" / "notes.md"
    text = OPENING + (f"{notes.read_text()}\n" if notes.exists() else "")
    files = [out / "results" / f"{name}.json" for name in TABLES]
    text += "".join(section(json.loads(path.read_text())) for path in files if path.exists())
    write_bytes(out / "RESULTS.md", [text.rstrip("\n").encode() + b"\n"])


if __name__ == "__main__":
    write_results()
