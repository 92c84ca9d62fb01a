"""Every experiment of the course's ladder under a name: what differs from Config's defaults."""

from __future__ import annotations

from typing import Any

from projects.transfer.config import Config
from projects.settings import preset_of

Fields = dict[str, Any]
PRESETS: dict[str, tuple[str, Fields]] = {"e-species": ("x", {}), "quick": ("y", {})}
