"""Hostile files: damaged copies of good ones, and a run that shows that a reader survives them.

`python -m tests.hostile FORMAT COUNT [SEED]`, from the repository's root, feeds COUNT damaged
copies of the good files of a format to its reader and prints what became of them. Each must end in
a CheckpointError that names the file or in a correct load: another exception, a warning, a case
longer than LIMIT_SECONDS or an address space over LIMIT_BYTES ends the run with a failure that
says which case it was. A test calls `survive(FORMAT)`: a few hundred cases, or as many as the
environment's MINIDL_HOSTILE says. A new format is one more line in FORMATS.
"""

import collections
import faulthandler
import importlib
import io
import itertools
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_BYTES = 2 * 10**9
LIMIT_SECONDS = 90  # by the clock, on a busy machine; the process that reads HDF5 has 60
FORMATS = {  # name: its reader (of a path), and where its good files are, under tests/golden
    "torch_zip": ("minidl.io.torch_files:read_torch", "torch/zip_*.pt"),
    "torch_legacy": ("minidl.io.torch_files:read_torch", "torch/legacy_*.pt"),
    "torch_tar": ("minidl.io.torch_files:read_torch", "torch/tar_*.pt"),
    "caffe": ("minidl.io.caffe:read_caffe", "foreign/*.caffemodel"),
    "onnx": ("minidl.io.onnx_files:read_onnx", "foreign/*.onnx"),
    "tflite": ("minidl.io.tflite:read_tflite", "foreign/*.tflite"),
    "tflite_graph": ("minidl.io.tflite:read_tflite_graph", "foreign/*.tflite"),
    "flax": ("minidl.io.flax:read_flax", "foreign/*.msgpack"),
    "npz": ("minidl.io.flax:read_npz", "foreign/*.npz"),
    "keras": ("minidl.io.keras:read_keras", "foreign/*.h5"),
}

# ---- damage --------------------------------------------------------------------------------------


def mutations(blob: bytes, rng: random.Random) -> Iterator[bytes]:
    """Damaged copies of `blob`, without end: cut, bits flipped, bytes spliced, lengths edited.

    Half of those of a zip file are damaged inside a member and packed again with right checksums.
    """
    archive = zipfile.is_zipfile(io.BytesIO(blob))
    while True:
        inside = archive and rng.random() < 0.5
        yield _repacked(blob, rng) if inside else _damaged(blob, rng)


def _damaged(blob: bytes, rng: random.Random) -> bytes:
    """One to three kinds of damage, one after another."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        blob = rng.choice((_cut, _flip, _overwrite, _splice, _edit_length, _edit_length))(blob, rng)
    return blob


def _repacked(blob: bytes, rng: random.Random) -> bytes:
    """A zip file with the content of one member damaged: most often of the smallest files' kind."""
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in members if name.endswith(".pkl")]
    chosen = rng.choice(pickles if pickles and rng.random() < 0.8 else [*members])
    members[chosen] = _damaged(members[chosen], rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _place(blob: bytes, rng: random.Random) -> int:
    """A position: anywhere, or near either end, where formats keep their headers."""
    reach = rng.choice((len(blob), 64, 512))
    place = rng.randrange(max(min(reach, len(blob)), 1))
    return place if rng.random() < 0.7 else max(len(blob) - 1 - place, 0)


def _cut(blob: bytes, rng: random.Random) -> bytes:
    return blob[: _place(blob, rng)]


def _flip(blob: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(blob)
    for _ in range(rng.randint(1, 8) if blob else 0):
        damaged[_place(blob, rng)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _overwrite(blob: bytes, rng: random.Random) -> bytes:
    start, size = _place(blob, rng), rng.choice((1, 1, 2, 4, 16))
    piece = rng.choice((rng.randbytes(size), b"\0" * size, b"\xff" * size))
    return blob[:start] + piece + blob[start + size :]


def _splice(blob: bytes, rng: random.Random) -> bytes:
    """Some bytes removed, doubled or put in another place."""
    start, size, target = _place(blob, rng), rng.randint(1, 64), _place(blob, rng)
    piece = blob[start : start + size]
    without = blob[:start] + blob[start + size :]
    moved = without[:target] + piece + without[target:]
    return rng.choice((without, moved, blob[:target] + piece + blob[target:]))


def _edit_length(blob: bytes, rng: random.Random) -> bytes:
    """One to eight bytes taken for an integer, which becomes an extreme or a neighbouring one."""
    start, size = _place(blob, rng), rng.choice((1, 2, 4, 8))
    order = rng.choice(("little", "big"))
    old, top = int.from_bytes(blob[start : start + size], order), 1 << 8 * size
    extremes = [0, 1, top - 1, top // 2, top // 2 - 1, len(blob), 10**12, 1 << 30]
    new = rng.choice([*extremes, old + 1, old - 1, 2 * old, old << 8, old ^ (top - 1)])
    return blob[:start] + (new % top).to_bytes(size, order) + blob[start + size :]


# ---- the run -------------------------------------------------------------------------------------


def survive(name: str, count: int = 300, seed: int = 0) -> str:
    """Run the damaged files of a format in a limited child process -> its account.

    AssertionError with the child's own words when one of them did harm.
    """
    count = int(os.environ.get("MINIDL_HOSTILE", count))
    command = [sys.executable, "-m", "tests.hostile", name, str(count), str(seed)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, f"{' '.join(command[1:])}\n{child.stdout}{child.stderr}"
    return child.stdout


def run(name: str, count: int, seed: int) -> str:
    """Read `count` damaged files one after another -> how many were loaded and refused."""
    from minidl.errors import CheckpointError

    reader, pattern = FORMATS[name]
    module, function = reader.split(":")
    read = getattr(importlib.import_module(module), function)
    goods = sorted((ROOT / "tests" / "golden").glob(pattern))
    assert goods, f"no good files: tests/golden/{pattern}"
    rng = random.Random(f"{name} {seed}")
    sources = [mutations(good.read_bytes(), rng) for good in goods]
    ends: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hostile.bin"
        for case, source in zip(range(count), itertools.cycle(sources)):
            path.write_bytes(next(source))
            faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
            start = time.monotonic()
            try:
                read(path)
                ends["loaded"] += 1
            except CheckpointError as error:
                assert path.name in str(error), f"case {case}: no file named in: {error}"
                ends["refused"] += 1
            except BaseException as error:
                error.add_note(
                    f"case {case} of {name}, seed {seed}, from {goods[case % len(goods)]}"
                )
                raise
            slowest = max(slowest, time.monotonic() - start)
    faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (
        f"{name}, seed {seed}: {count} files, {ends['loaded']} loaded, {ends['refused']} refused; "
        f"slowest {slowest:.3f} s, peak {peak / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    warnings.simplefilter("error")
    print(run(sys.argv[1], int(sys.argv[2]), int([*sys.argv, "0"][3])))
