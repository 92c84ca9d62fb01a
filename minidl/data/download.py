"""Finding data sets on disk, and fetching the official files: checked, resumed, never by halves."""

import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from minidl.config import user_cache
from minidl.errors import DataError, require, reworded

FIX = "check the connection, unpack the files there by hand, or use --dataset embedded"


class Resource(NamedTuple):
    """A file to fetch: its address, where it goes under the root, its checksum `kind:hex`."""

    url: str
    name: str
    digest: str


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets lie: `root`, else `MINIDL_DATA`, else where downloads go, in the cache."""
    return Path(root or os.environ.get("MINIDL_DATA") or user_cache("data"))


def locate(root: str | Path | None, folder: str, names: Sequence[str],
           resources: Sequence[Resource], *, download: bool = False) -> list[Path]:  # fmt: skip
    """Where ROOT/folder/name, or its gzipped form, lies for each of `names`.

    ROOT is `root`; without it `MINIDL_DATA`, then the cache folder, into which `resources` are
    downloaded. A given root is used or refused, and filled only if download is set. Raises
    DataError that says what was looked for and where.
    """
    usual = [data_root(), user_cache("data")]
    for base in usual if root is None else [Path(root)]:
        found, missing = _find(base / folder, names)
        if not missing:
            return found
    rule = f"{' and '.join(missing)} not found in {base / folder}"
    rule += "" if root is None or base.is_dir() else f" (there is no folder {root})"
    fix = f"the root must hold the official layout, {folder}/; --dataset embedded needs none"
    require(root is None or download, folder, rule, error=DataError, fix=fix)
    obtain(resources, base)
    found, missing = _find(base / folder, names)
    require(not missing, folder, f"the download lacks {missing}", error=DataError)
    return found


def _find(place: Path, names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files that are there, gzipped or not, and the names of those that are not."""
    found = {n: p for n in names for p in (place / f"{n}.gz", place / n) if p.exists()}
    return list(found.values()), [n for n in names if n not in found]


def obtain(resources: Sequence[Resource], root: Path, **options: Any) -> None:
    """Download what is not there yet; unpack archives and remove them."""
    for r in resources:
        target = root / r.name
        if not target.exists():
            download(r.url, target, r.digest, **options)
        if target.name.endswith(".tar.gz"):
            unpack(target, target.parent)
            target.unlink()


def download(url: str, target: Path, digest: str, *, timeout: float = 30.0,
             attempts: int = 4, pause: float = 1.0) -> None:  # fmt: skip
    """Fetch `url` to `target`, which appears only whole and with the right checksum.

    What has arrived stays in `target.part` and is continued by HTTP Range, in this call and in
    later ones. timeout: seconds without a byte that count as a cut; attempts: how often it is
    tried. Raises DataError that names the address and the last failure.
    """
    part = target.with_name(target.name + ".part")
    with reworded(DataError, f"download: cannot write {part}", OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(attempts):
            try:
                _transfer(url, part, digest, timeout)
                return os.replace(part, target)
            except _Failed as e:
                why, final = e.args
                if final or attempt == attempts - 1:
                    raise DataError(f"download: failed ({url}: {why}); {FIX}") from e
            time.sleep(pause * 2**attempt)


class _Failed(Exception):
    """Its two arguments: why a transfer failed, and whether asking again is of no use."""


def _transfer(url: str, part: Path, digest: str, timeout: float) -> None:
    """Fetch what is missing of part. Raises _Failed, and OSError if it cannot be written."""
    from tqdm import tqdm

    blocks = _receive(url, part.stat().st_size if part.exists() else 0, timeout)
    start, total = next(blocks)
    name = url.rpartition("/")[2]
    bar = tqdm(initial=start, total=total, unit="B", unit_scale=True, desc=name, disable=None)
    with bar, open(part, "ab" if start else "wb") as file:
        for block in blocks:
            file.write(block)
            bar.update(len(block))
    kind, _, wanted = digest.partition(":")
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != wanted:
        part.unlink()
        raise _Failed("the checksum is wrong", False)


def _receive(url: str, have: int, timeout: float) -> Iterator[Any]:
    """First where the answer begins (`have`, or 0 without Range) and its end, then its bytes."""
    headers = {"User-Agent": "minidl", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.build_opener().open(request, timeout=timeout) as answer:
            begins = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            start = have if answer.status == 206 and begins else 0
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length else None
            yield start, total
            while block := answer.read1(1 << 16):
                start += len(block)
                yield block
    except urllib.error.HTTPError as e:
        e.close()
        if e.code == 416 and have:  # nothing follows what is there: the checksum will judge it
            yield have, have
            return
        final = 400 <= e.code < 500 and e.code not in (408, 429)
        raise _Failed(f"the server answered {e.code} {e.reason}", final) from e
    except (OSError, http.client.HTTPException) as e:  # URLError, timeouts and resets are OSErrors
        why = getattr(e, "reason", None) or e
        stalled, text = isinstance(why, TimeoutError), str(getattr(why, "strerror", None) or why)
        raise _Failed("the server stalled" if stalled else text or type(e).__name__, False) from e
    if total is not None and start != total:
        raise _Failed(f"the connection was cut after {start} of {total} bytes", False)


def unpack(archive: Path, into: Path) -> None:
    """Unpack a .tar.gz of plain files and folders; its entries appear in `into` when all are out.

    Raises DataError for a damaged archive, a link, or a path that leads outside.
    """
    kinds = (tarfile.TarError, EOFError, zlib.error, OSError)
    with reworded(DataError, f"unpack: cannot unpack {archive}", *kinds):
        into.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=into) as made, tarfile.open(archive, "r:gz") as tar:
            stage = Path(made)
            for member in tar:
                path = PurePosixPath(member.name)
                inside = not path.is_absolute() and not {"..", "\\"} & {*path.parts, *member.name}
                rule = f"{member.name!r} is not a plain file or folder inside the archive"
                plain = member.isfile() or member.isdir()
                require(inside and plain, "unpack", rule, error=DataError)
                if source := tar.extractfile(member):
                    (stage / path).parent.mkdir(parents=True, exist_ok=True)
                    with source, open(stage / path, "wb") as file:
                        shutil.copyfileobj(source, file)
            for entry in sorted(stage.iterdir()):
                if (into / entry.name).is_dir():
                    shutil.rmtree(into / entry.name)
                os.replace(entry, into / entry.name)
