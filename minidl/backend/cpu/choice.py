"""Which algorithm runs for which shape: limits measured by `python -m benchmarks.tune`."""

import json
from pathlib import Path

# Read once, from the committed table: results must not change from run to run.
LIMITS: dict[str, int] = json.loads(Path(__file__).with_name("choices.json").read_text())["limits"]
