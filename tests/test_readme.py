"""The Python of README.md and CONTRIBUTING.md runs as it stands."""

import re
import runpy
from pathlib import Path

import pytest

from minidl.autograd import registry

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name in ("README.md", "CONTRIBUTING.md")
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_code_runs(block, tmp_path, monkeypatch, capsys):
    """Each block runs as a file, in a folder of its own; lines `# prints X` are checked."""
    monkeypatch.chdir(tmp_path)
    known = set(registry)
    Path("block.py").write_text(block)
    runpy.run_path("block.py")
    for example in set(registry) - known:  # an op made for show needs no case in the table
        del registry[example]
    printed = capsys.readouterr().out
    for wanted in re.findall(r"# prints (.*)$", block, re.MULTILINE):
        assert wanted in printed
