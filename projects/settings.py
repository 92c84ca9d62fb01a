"""Settings of a project: one dataclass whose fields flags and `--set field=value` change."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import minidl as ml
from minidl.backend.cuda import runtime
from minidl.errors import CheckpointError, DataError, MinidlError, require
from minidl.io import load
from minidl.tools.environment import processor
from minidl.train import RunDir

ROOT = Path(__file__).resolve().parents[1]


class UsageError(MinidlError, ValueError):
    """The command line or the configuration asks for something that does not exist."""


class Settings(Protocol):
    """What every project's dataclass has."""

    preset: str
    seed: int
    __dataclass_fields__: Any


S = TypeVar("S", bound=Settings)
Precision = Literal["float32", "tf32", "bfloat16", "float16"]
Presets = Mapping[str, tuple[str, Mapping[str, Any]]]  # name -> what it is, its fields
NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@cache
def types_of(kind: type) -> dict[str, Any]:
    """The type of each field of a settings class."""
    return get_type_hints(kind)


def check_limits(settings: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    """UsageError where a number lies outside of its limits, both included."""
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise UsageError(f"{name} must be in [{low:g}, {high:g}]; got {value!r}")


def start(settings: Any) -> None:
    """Seed the random streams and choose how float32 is multiplied; raises without the device."""
    ml.manual_seed(settings.seed)
    ml.empty(0, device=settings.device)
    ml.set_float32_matmul_precision("high" if settings.precision == "tf32" else "highest")


def dtype_of(settings: Any) -> str:
    """The dtype that training makes its products in: tf32 is a way to multiply float32."""
    return "float32" if settings.precision == "tf32" else settings.precision


def check_precision(settings: Any) -> None:
    """UsageError where products are wanted of a CPU that only a GPU makes."""
    if settings.precision != "float32" and settings.device == "cpu":
        raise UsageError(f"precision={settings.precision} needs device=cuda; got device=cpu")


def parse(kind: type, field: str, text: str) -> Any:
    """The value of `field` written as `text`; UsageError for an unknown field or a wrong value."""
    types = types_of(kind)
    if field not in types:
        raise UsageError(f"unknown field {field!r}; one of: {', '.join(types)}")
    wanted = types[field]
    if get_origin(wanted) is Literal:
        if text not in get_args(wanted):
            raise UsageError(f"{field} must be one of {', '.join(get_args(wanted))}; got {text!r}")
        return text
    if wanted is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise UsageError(f"{field} must be {NOUNS[bool]}; got {text!r}")
        return words[text.lower()]
    try:
        return wanted(text)
    except ValueError:
        raise UsageError(f"{field} must be {NOUNS[wanted]}; got {text!r}") from None


def assignments(kind: type, pairs: Sequence[str]) -> dict[str, Any]:
    """The `field=value` texts of `--set` as a dict of typed values."""
    values = {}
    for pair in pairs:
        field, sign, text = pair.partition("=")
        if not sign:
            raise UsageError(f"--set takes field=value; got {pair!r}")
        if field.strip() == "preset":
            raise UsageError(f"a preset is chosen by --preset, not by --set; got {pair!r}")
        values[field.strip()] = parse(kind, field.strip(), text.strip())
    return values


# ---- presets -------------------------------------------------------------------------------------


def preset_of(kind: type[S], presets: Presets, name: str) -> S:
    """The configuration called `name`; UsageError with near names when there is none."""
    if name not in presets:
        alike = [known for known in presets if name.split("-")[-1] in known] or list(presets)
        near = ", ".join(alike[:8])
        raise UsageError(f"unknown preset {name!r}; try {near}, or --list for all of them")
    return kind(**{"preset": name} | dict(presets[name][1]))


def listing(presets: Presets) -> str:
    """All presets, one a line."""
    width = max(map(len, presets))
    return "\n".join(f"{name:<{width}}  {text}" for name, (text, _) in presets.items())


# ---- runs ----------------------------------------------------------------------------------------


def from_json(kind: type[S], saved: Mapping[str, Any], where: object = "config.json") -> S:
    """The configuration a run directory was started with; fields made since have their defaults."""
    types = types_of(kind)
    unknown = sorted(set(saved) - set(types) - {"command", "commit"})
    if unknown:
        wrong = ", ".join(unknown)
        raise UsageError(f"{where} is of another version; fields that differ: {wrong}")
    given = {name: saved[name] for name in types if name in saved}
    for name, value in given.items():
        check_value(f"{where}: {name}", types[name], value)
    return kind(**given)


def check_value(what: str, wanted: Any, value: Any) -> None:
    """UsageError unless a value read from JSON is one of a field's type."""
    if get_origin(wanted) is Literal:
        fits, noun = value in get_args(wanted), f"one of {', '.join(get_args(wanted))}"
    else:
        allowed = (int, float) if wanted is float else (wanted,)
        fits, noun = type(value) in allowed, NOUNS[wanted]
    if not fits:
        raise UsageError(f"{what} must be {noun}; got {value!r}")


def saved_of(project: str, run: RunDir) -> dict[str, Any]:
    """config.json of a run of a project; UsageError for a run of another, or one without command.

    A run says which project it is of by the command that began it.
    """
    saved, file = run.read_json("config.json"), run.path / "config.json"
    check_value(f"{file}: command", str, saved.get("command"))
    found = re.match(r"python -m projects\.(\w+)", saved["command"])
    if found and found[1] != project:
        raise UsageError(
            f"{run.path} holds a run of projects.{found[1]}, not of projects.{project}"
        )
    return saved


def rows_of(run: RunDir, *names: str) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; DataError where one lacks a number, of `names` too."""
    rows = run.rows()
    for row in rows:
        for name in ("epoch", "seconds", "evaluation_seconds", *names):
            rule = f"{run.metrics} is damaged: each row must hold a number {name!r}"
            require(type(row.get(name)) in (int, float), "run", rule, error=DataError, row=row)
    return rows


def state_of(run: RunDir, verb: str, *about: str) -> dict[str, Any]:
    """A run's checkpoint, for a verb of the command line: its model, and what it says of `about`.

    Raises DataError where there is none yet, CheckpointError where it is none of such a run.
    """
    require(run.checkpoint.exists(), verb, f"{run.path} has no checkpoint yet", error=DataError)
    state = load(run.checkpoint)
    kept = isinstance(state, dict) and state.get("about", {})
    ours = isinstance(kept, dict) and isinstance(state.get("model"), dict) and {*about} <= {*kept}
    rule = f"{run.checkpoint} is not the checkpoint of such a run"
    require(ours, verb, rule, error=CheckpointError)
    return state


def settings_of(kind: type[S], run: RunDir) -> S:
    """The configuration of a run, which is of the project that its class belongs to."""
    project = kind.__module__.split(".")[1]
    return from_json(kind, saved_of(project, run), run.path / "config.json")


def checksum(settings: Any, *free: str) -> str:
    """Of all fields but the free ones, which a resumed run may change."""
    fields = {k: v for k, v in dataclasses.asdict(settings).items() if k not in free}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def check_free(path: Path) -> None:
    """UsageError where a run lives already."""
    if (path / "config.json").exists():
        raise UsageError(f"{path} holds a run already; choose another --out, or --resume {path}")


def new_run(settings: Any, out: str | None, command: str) -> RunDir:
    """A fresh run directory that holds config.json; `out`, or the first free runs/PRESET-N."""
    if out:
        path = Path(out)
        check_free(path)
    else:
        names = (Path("runs") / f"{settings.preset}-{n}" for n in range(1, 10**6))
        path = next(path for path in names if not path.exists())
    run = RunDir(path)
    run.write_json("config.json", dataclasses.asdict(settings) | {"command": command})
    return run


def commit() -> str | None:
    """The git commit of the source tree, or None where it is no checkout of its own."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def device_name(device: str) -> str:
    """What computes, in words."""
    if device == "cpu":
        return f"{processor()}, {ml.get_num_threads()} threads"
    cuda = runtime.cupy().cuda
    return cuda.runtime.getDeviceProperties(cuda.get_device_id())["name"].decode()


def short_names(runs: Sequence[RunDir]) -> list[str]:
    """What runs are called in a legend: their folders' names, or paths where two are alike."""
    names = [run.path.resolve().name for run in runs]
    paths = {run.path.resolve() for run in runs}
    chosen = names if len(set(names)) == len(paths) else [str(run.path) for run in runs]
    return [*map(label_of, chosen)]


def readable(name: str) -> str:
    """The name of a file as text: U+FFFD for bytes that are no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def label_of(name: str) -> str:
    """A name as Matplotlib's legends show it: no dollars of formulas, no underscore in front."""
    return (" " * name.startswith("_") + readable(name)).replace("$", r"\$")


def clock(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
