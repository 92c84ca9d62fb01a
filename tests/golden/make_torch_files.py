"""Makes torch/*.pt, small checkpoints in PyTorch's three containers, and what PyTorch reads there.

    PYTHONPATH=tests python tests/golden/make_torch_files.py  # needs torch 2.13; the tests do not

Files that no PyTorch writes any more (tar, parts of storages) or only on other machines (of big-
endian order) are put together by hand after torch/serialization.py. The values expected of every
file, expected.npz and expected.json, are what torch.load returns, flattened by nests.py.
"""

import argparse
import collections
import io
import json
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from golden.nests import leaves

FOLDER = Path(__file__).parent / "torch"
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001

# ---- what is saved -------------------------------------------------------------------------------


def dtypes():
    """A tensor of every dtype, and of shapes () and (2, 0, 3)."""
    x = torch.tensor([[0.0, 1.5, -2.25], [100.0, 0.1, -0.0]])
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 complex64 complex128"
    made = {name: x.to(getattr(torch, name)) for name in names.split()}
    made |= {name: x.abs().to(getattr(torch, name)) for name in ("uint8", "bool")}
    made["complex64"] = made["complex64"] * (1 - 2j)
    return made | {"scalar": torch.tensor(3.5), "empty": torch.zeros(2, 0, 3)}


def unsigned():
    """The dtypes that are saved through _rebuild_tensor_v3, in the zip only."""
    x = torch.tensor([[1, 2, 60_000], [4, 5, 6]])
    return {name: x.to(getattr(torch, name)) for name in ("uint16", "uint32", "uint64")}


def views():
    """Tensors that share storages, in every kind of order."""
    x = torch.arange(24.0).reshape(4, 6)
    z = torch.complex(torch.arange(4.0), torch.ones(4))
    image = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    return {
        "whole": x, "turned": x.t(), "steps": x[1::2, ::3], "row": x[2], "one": x[3, 5],
        "expanded": x[:1].expand(5, 6), "conj": z.conj(), "neg": torch._neg_view(x[1]), "same": x,
        "channels_last": image.to(memory_format=torch.channels_last), "none": x[4:],
    }  # fmt: skip


def training():
    """A run's checkpoint: model, Adam, schedule, settings, NumPy's and Python's odds and ends."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    model(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    schedule.step()
    tagged = torch.arange(3.0)
    tagged.tag = "kept by PyTorch, not by minidl"
    return {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(), "parameter": torch.nn.Parameter(torch.ones(2)),
        "args": argparse.Namespace(lr=0.01, layers=[1, 2]), "tagged": tagged,
        "size": torch.Size([2, 3]), "device": torch.device("cpu"), "gpu": torch.device("cuda", 1),
        "dtype": torch.float16, "count": collections.Counter("aab"), 7: (1, (None, True), []),
        ("a", 1): {}, "set": {3}, "frozen": frozenset({"x"}), "complex": 1 - 2j,
        "bytes": b"\0\xff", "no bytes": b"", "bytearray": bytearray(b"ab\xfe"),
        "big": -(2**80), "text": "naïve ☃",
        "float64": np.float64(0.1), "int32": np.int32(-5), "flag": np.bool_(True),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "big-endian": np.arange(3, dtype=">f4"),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }  # fmt: skip


# ---- how -----------------------------------------------------------------------------------------


def write_zip(path, content, protocol=2):
    torch.save(content, path, pickle_protocol=protocol)


def write_pickles(path, content, protocol=2):
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)


def write_big_endian_zip(path):
    """As a big-endian machine would: dtypes() and views() with the bytes of storages turned."""
    tensors = {k: v for k, v in (dtypes() | views()).items() if not v.is_conj() and not v.is_neg()}
    packed = io.BytesIO()
    torch.save(tensors, packed)
    widths = {}
    for tensor in tensors.values():
        key = tensor.untyped_storage()._cdata
        width = tensor.element_size() // (2 if tensor.is_complex() else 1)
        widths.setdefault(key, (len(widths), width))
    widths = dict(widths.values())
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            name = member.filename.split("/", 1)[1]
            if name == "byteorder":
                data = b"big"
            elif name.startswith("data/"):
                numbers = np.frombuffer(data, f"u{widths[int(name[5:])]}")
                data = numbers.byteswap().tobytes()
            new.writestr(f"archive/{name}", data)


class HandPickler(pickle.Pickler):
    """A pickler whose persistent ids are those of the objects in `names`."""

    def __init__(self, file, names):
        super().__init__(file, 2)
        self.names = {id(thing): name for thing, name in names}

    def persistent_id(self, thing):
        return self.names.get(id(thing))


class Rebuilt:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_parts(path):
    """Pickles in a row as PyTorch 0.2 to 0.3 wrote them: parts of a storage, from Python 2."""
    whole, part = object(), object()
    rebuild = torch._utils._rebuild_tensor
    content = {
        "whole": Rebuilt(rebuild, whole, 0, (2, 5), (5, 1)),
        "part": Rebuilt(rebuild, part, 1, (3,), (2,)),
    }
    names = [
        (whole, ("storage", torch.FloatStorage, "10", "cpu", 10, None)),
        (part, ("storage", torch.FloatStorage, "10", "cpu", 10, ("11", 4, 6))),
    ]
    with open(path, "wb") as file:
        for thing in (MAGIC, VERSION, {"little_endian": True, "protocol_version": VERSION}):
            pickle.dump(thing, file, 2)
        HandPickler(file, names).dump(content)
        pickle.dump(["10"], file, 2)
        file.write(struct.pack("<q", 10) + np.arange(10, dtype="<f4").tobytes())


def write_big_endian_pickles(path):
    """Pickles in a row of a big-endian system: the storages are little-endian all the same."""
    packed = io.BytesIO()
    write_pickles(packed, {"x": torch.arange(4.0)})
    turned, count = re.subn(b"little_endian(q.)\x88", b"little_endian\\1\x89", packed.getvalue())
    assert count == 1
    path.write_bytes(turned)


def write_tar(path):
    """The container of PyTorch before 0.2."""
    weight, turned, epoch = object(), object(), 3
    content = {"epoch": epoch, "net": collections.OrderedDict(weight=weight, turned=turned)}
    storages, tensors, pickled = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pickle.dump(2, storages, 2)
    for key, kind, data in ((100, torch.FloatStorage, np.arange(6, dtype="<f4")),
                            (101, torch.LongStorage, np.arange(8, dtype="<i8"))):  # fmt: skip
        pickle.dump((key, "cpu", kind), storages, 2)
        storages.write(struct.pack("<q", len(data)) + data.tobytes())
    pickle.dump([(102, 101, 2, 6)], storages, 2)
    pickle.dump(2, tensors, 2)
    for key, storage, shape, stride, offset in (
        (1, 100, (2, 3), (3, 1), 0),
        (2, 102, (3, 1), (1, 1), 2),
    ):
        kind = torch.FloatTensor if storage == 100 else torch.LongTensor
        pickle.dump((key, storage, kind), tensors, 2)
        numbers = (*shape, *stride, offset)
        tensors.write(struct.pack(f"<ii{len(numbers)}q", len(shape), 0, *numbers))
    HandPickler(pickled, [(weight, "1"), (turned, "2")]).dump(content)
    system = pickle.dumps({"little_endian": True, "protocol_version": 1000}, 2)
    parts = {"pickle": pickled.getvalue(), "tensors": tensors.getvalue()}
    parts = {"sys_info": system, **parts, "storages": storages.getvalue()}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


# ---- what is expected ----------------------------------------------------------------------------


def main():
    FOLDER.mkdir(exist_ok=True)
    saved = {"dtypes": dtypes(), "views": views(), "training": training()}
    for name, content in saved.items():
        write_zip(FOLDER / f"zip_{name}.pt", content)
        write_pickles(FOLDER / f"legacy_{name}.pt", content)
    write_zip(FOLDER / "zip_unsigned.pt", unsigned())
    write_zip(FOLDER / "zip_protocol5.pt", training(), 5)
    write_pickles(FOLDER / "legacy_protocol4.pt", training(), 4)
    write_big_endian_zip(FOLDER / "zip_big_endian.pt")
    write_big_endian_pickles(FOLDER / "legacy_big_endian.pt")
    write_parts(FOLDER / "legacy_parts.pt")
    write_tar(FOLDER / "tar_plain.pt")
    arrays, texts = {}, {}
    for path in sorted(FOLDER.glob("*.pt")):
        for place, leaf in leaves(torch.load(path, map_location="cpu", weights_only=False)):
            name = f"{path.stem}{place}"
            if isinstance(leaf, torch.Tensor):
                leaf = leaf.detach().resolve_conj().resolve_neg()
                arrays[name] = (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
            elif isinstance(leaf, np.ndarray):
                arrays[name] = leaf
            else:
                plain = isinstance(leaf, (torch.dtype, torch.device))
                texts[name] = repr(str(leaf) if plain else leaf)
    np.savez_compressed(FOLDER / "expected.npz", **arrays)
    (FOLDER / "expected.json").write_text(json.dumps(texts, indent=0, ensure_ascii=False))


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
