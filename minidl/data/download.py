"""Finding data sets on disk, and fetching the official files: checked, resumed, never by halves."""

from __future__ import annotations

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
from typing import Any, NamedTuple

from minidl.errors import DataError, require

FIX = "check the connection, unpack the files there by hand, or use --dataset embedded"
_BLOCK = 1 << 16


class Resource(NamedTuple):
    """A file to fetch: its mirrors, where it goes under the root, its checksum `kind:hex`."""

    urls: tuple[str, ...]
    name: str
    digest: str

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked where it lands, and then removed."""
        return self.name.endswith((".tar.gz", ".tgz"))


def cache_dir() -> Path:
    """Where downloads go: minidl/data in the user's cache folder (`XDG_CACHE_HOME`)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "minidl" / "data"


def locate(
    root: str | Path | None,
    folder: str,
    files: Sequence[str | tuple[str, ...]],
    resources: Sequence[Resource] = (),
    *,
    download: bool = False,
) -> Path:
    """The folder that holds all `files` (a tuple: any of them): ROOT/folder.

    ROOT is `root`; without it `MINIDL_DATA`, then the cache folder, into which `resources` are
    downloaded. A given root is used or refused, and filled only if download is set. Raises
    DataError that says what was looked for and where.
    """
    if root is not None:
        place = Path(root) / folder
        if missing := _missing(place, files):
            rule = f"{' and '.join(missing)} not found in {place}"
            rule += "" if Path(root).is_dir() else f" (there is no folder {root})"
            fix = (
                f"the root must hold the official layout, {folder}/; --dataset embedded needs none"
            )
            require(download and bool(resources), folder, rule, error=DataError, fix=fix)
            obtain(resources, Path(root))
        return _complete(place, files)
    given = os.environ.get("MINIDL_DATA")
    if given and not _missing(Path(given) / folder, files):
        return Path(given) / folder
    place = cache_dir() / folder
    if _missing(place, files):
        require(bool(resources), folder, "not found, and it has no download", error=DataError)
        obtain(resources, cache_dir())
    return _complete(place, files)


def _missing(place: Path, files: Sequence[str | tuple[str, ...]]) -> list[str]:
    """The files that are not there, each by its first name."""
    names = [(f,) if isinstance(f, str) else f for f in files]
    return [options[0] for options in names if not any((place / o).exists() for o in options)]


def _complete(place: Path, files: Sequence[str | tuple[str, ...]]) -> Path:
    missing = _missing(place, files)
    rule = f"{' and '.join(missing)} not found in {place}"
    require(not missing, "download", rule, error=DataError)
    return place


def obtain(resources: Sequence[Resource], root: Path, **options: Any) -> None:
    """Download what is not there yet, and unpack archives."""
    for r in resources:
        target = root / r.name
        if not target.exists():
            download(r.urls, target, r.digest, **options)
        if r.is_archive:
            unpack(target, target.parent)
            target.unlink()


def download(
    urls: Sequence[str],
    target: Path,
    digest: str,
    *,
    timeout: float = 30.0,
    attempts: int = 4,
    pause: float = 1.0,
) -> None:
    """Fetch one of `urls` to `target`, which appears only whole and with the right checksum.

    What has arrived stays in `target.part` and is continued by HTTP Range, in this call and in
    later ones. timeout: seconds without a byte that count as a cut; attempts: how often each
    mirror is tried. Raises DataError that names each address with its last failure.
    """
    part = target.with_name(target.name + ".part")
    failures: dict[str, str] = {}
    waiting = list(urls)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(attempts):
            if attempt and waiting:
                time.sleep(pause * 2 ** (attempt - 1))
            for url in [*waiting]:
                why, final = _attempt(url, part, digest, timeout)
                if not why:
                    os.replace(part, target)
                    return
                failures[url] = why
                if final:
                    waiting.remove(url)
    except OSError as e:
        raise DataError(f"download: cannot write {part}: {_reason(e)}") from e
    told = "; ".join(f"{url}: {why}" for url, why in failures.items())
    raise DataError(f"download: failed ({told}); {FIX}")


def _reason(e: BaseException) -> str:
    why = getattr(e, "reason", None) or e
    if isinstance(why, TimeoutError):
        return "the server stalled"
    return str(getattr(why, "strerror", None) or why) or type(e).__name__


class _Failed(Exception):
    """One address failed: the reason, and whether asking again is of no use."""


def _attempt(url: str, part: Path, digest: str, timeout: float) -> tuple[str, bool]:
    """Complete part from one address: why it failed ("" if not), and whether for good.

    Raises OSError when the file cannot be written.
    """
    try:
        _transfer(url, part, timeout)
    except _Failed as e:
        return e.args
    kind, _, wanted = digest.partition(":")
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found == wanted:
        return "", False
    part.unlink()
    return "the checksum is wrong", False


def _transfer(url: str, part: Path, timeout: float) -> None:
    """Fetch what is missing of part."""
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    blocks = _receive(url, have, timeout)
    start, total = next(blocks)
    name = url.rpartition("/")[2]
    with (
        open(part, "ab" if start else "wb") as file,
        tqdm(initial=start, total=total, unit="B", unit_scale=True, desc=name, disable=None) as bar,
    ):
        for block in blocks:
            file.write(block)
            bar.update(len(block))


def _receive(url: str, have: int, timeout: float) -> Iterator[Any]:
    """First where the answer begins (`have`, or 0 without Range) and its end, then its bytes."""
    headers = {"User-Agent": "minidl", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            begins = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            start = have if answer.status == 206 and begins else 0
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length else None
            yield start, total
            while block := answer.read1(_BLOCK):
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
        raise _Failed(_reason(e), False) from e
    if total is not None and start != total:
        raise _Failed(f"the connection was cut after {start} of {total} bytes", False)


def unpack(archive: Path, into: Path) -> None:
    """Unpack a .tar.gz of plain files and folders; its entries appear in `into` when all are out.

    Raises DataError for a damaged archive, a link, or a path that leads outside.
    """
    stage = into / f".{archive.name}.{os.getpid()}"
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir(parents=True)
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                _extract(tar, member, stage)
        for entry in sorted(stage.iterdir()):
            if (into / entry.name).is_dir():
                shutil.rmtree(into / entry.name)
            os.replace(entry, into / entry.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as e:
        raise DataError(f"unpack: cannot unpack {archive}: {_reason(e)}") from e
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    path = PurePosixPath(member.name)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in member.name
    rule = f"{member.name!r} is not a plain file or folder inside the archive"
    require(inside and (member.isfile() or member.isdir()), "unpack", rule, error=DataError)
    target = into / path
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None
    with source, open(target, "wb") as file:
        shutil.copyfileobj(source, file)
