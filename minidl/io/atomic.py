"""Writing a file so that a reader sees the old one or the new one whole, never a piece."""

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from minidl.errors import CheckpointError

_SUFFIX = ".partial"


def write_bytes(path: str | os.PathLike[str], pieces: Iterable[bytes | memoryview]) -> None:
    """Write `pieces` one after another to `path`, all or nothing.

    The bytes go to a temporary file in the same folder; file and folder are flushed to the disk
    around the rename, so the name `path` holds either the previous content or all of the new one
    whenever the process or the machine stops. What an earlier, killed writer of the same name left
    behind is removed. Raises CheckpointError with the path and the system's reason (disk full,
    folder read-only or missing); the previous file is then untouched.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        with open(partial, "xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        _flush_folder(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"save: cannot write {target}: {reason}") from error
    finally:  # also on Ctrl-C; after the rename there is nothing left to remove
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    _remove_leftovers(target)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable (POSIX; Windows cannot open a folder, and needs it not)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Delete the temporary files of writers of `target` that were killed before their rename."""
    for name in os.listdir(target.parent):
        if name.startswith(f".{target.name}.") and name.endswith(_SUFFIX):
            with contextlib.suppress(OSError):  # another writer's own affair; ours is done
                (target.parent / name).unlink()
