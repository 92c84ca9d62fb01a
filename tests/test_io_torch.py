"""PyTorch's three containers, read without PyTorch: equal to torch.load, and safe from any file."""

import collections
import contextlib
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import hostile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.nests import leaves
from minidl.autograd import Tensor
from minidl.errors import CheckpointError
from minidl.io import load, torch_files, torch_objects, torch_pickle
from minidl.io.torch_files import is_torch, read_torch

FOLDER = Path(__file__).parent / "golden" / "torch"
FILES = sorted(FOLDER.glob("*.pt"))


@pytest.fixture(scope="module")
def expected():
    """What torch.load made of all files: {place: array or text}."""
    texts = json.loads((FOLDER / "expected.json").read_text("utf-8"))
    with np.load(FOLDER / "expected.npz") as arrays:
        return {**arrays, **texts}


# ---- good files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_load_reads_torchs_files_with_tensors_for_tensors(path):
    """As torch.load does: a script that loads its checkpoint needs no other name."""
    given, found = ([*leaves(read(path))] for read in (read_torch, load))
    assert [place for place, _ in given] == [place for place, _ in found]
    for (_, array), (_, leaf) in zip(given, found, strict=True):
        assert isinstance(leaf, Tensor) == isinstance(array, np.ndarray)
        if isinstance(leaf, Tensor):
            assert leaf.dtype == array.dtype and leaf.numpy().tobytes() == array.tobytes()
        else:
            assert repr(leaf) == repr(array)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_what_is_read_equals_what_torch_reads(path, expected):
    assert is_torch(path)
    found = {f"{path.stem}{place}": leaf for place, leaf in leaves(read_torch(path))}
    assert found.keys() == {name for name in expected if name.startswith(f"{path.stem}[")}
    for name, leaf in found.items():
        if not isinstance(leaf, np.ndarray):
            assert repr(leaf) == expected[name], name
            continue
        assert leaf.flags.c_contiguous and leaf.flags.writeable and leaf.dtype.isnative, name
        if "bfloat16" in name:
            assert leaf.dtype.name == "bfloat16"
            leaf = leaf.astype(np.float32)
        assert leaf.dtype == expected[name].dtype.newbyteorder("="), name
        assert leaf.shape == expected[name].shape, name
        assert np.array_equal(leaf, expected[name], equal_nan=True), name


def test_tensors_of_one_storage_come_as_arrays_of_their_own():
    for name in ("zip_views", "legacy_views"):
        arrays = [*read_torch(FOLDER / f"{name}.pt").values()]
        for i, array in enumerate(arrays):
            assert not any(np.shares_memory(array, other) for other in arrays[:i])


def test_bfloat16_widens_exactly_without_ml_dtypes(monkeypatch, expected):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    read = read_torch(FOLDER / "zip_dtypes.pt")["bfloat16"]
    assert read.dtype == np.float32 and read.shape == (2, 3)
    assert np.array_equal(read, expected["zip_dtypes['bfloat16']"])


@pytest.mark.parametrize(("name", "layers"), [("cifar10_resnet20", 97), ("cifar10_resnet56", 277)])
def test_real_checkpoints(real_data, name, layers):
    path = real_data / "weights" / f"{name}.th"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the real data")
    state = read_torch(path)["state_dict"]
    assert is_torch(path) and len(state) == layers
    assert state["module.conv1.weight"].shape == (16, 3, 3, 3)
    assert state["module.linear.weight"].shape == (10, 64)
    assert (state["module.layer3.0.bn2.running_var"] > 0).all()
    size = sum(a.size for k, a in state.items() if "running" not in k and "num_b" not in k)
    assert size in (269_722, 853_018)  # the author states 0.27 M and 0.85 M


# ---- drawn contents ------------------------------------------------------------------------------

leaf = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False),
    st.text(max_size=5), st.binary(max_size=5), st.complex_numbers(allow_nan=False),
    st.binary(max_size=3).map(bytearray), st.frozensets(st.integers(0, 9), max_size=3),
    st.sets(st.text(max_size=2), max_size=3), st.sampled_from([np.float32(0.1), np.int8(-1)]),
)  # fmt: skip
key = st.one_of(st.text(max_size=4), st.integers(-9, 9), st.tuples(st.text(max_size=1), st.none()))
nest = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(key, inner, max_size=3),
        st.dictionaries(key, inner, max_size=3).map(collections.OrderedDict),
    ),
    max_leaves=12,
)


def zipped(program, members=(), path=None):
    """A zip of torch.save's shape around a pickle; with `path` it is written there."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/data.pkl", program)
        for name, data in dict(members).items():
            archive.writestr(f"a/{name}", data)
    if path is None:
        return packed.getvalue()
    path.write_bytes(packed.getvalue())
    return path


@given(content=nest, protocol=st.integers(0, 5))
def test_any_plain_nest_is_read_as_pickle_reads_it(tmp_path_factory, content, protocol):
    path = tmp_path_factory.getbasetemp() / "nest.pt"
    found = read_torch(zipped(pickle.dumps(content, protocol), path=path))
    assert [*leaves(found)] == [*leaves(content)]
    assert [type(x) for _, x in leaves(found)] == [type(x) for _, x in leaves(content)]


def named(module, attribute):
    """The opcode that pushes a name."""
    return f"c{module}\n{attribute}\n".encode()


def value(plain):
    """The opcodes that push plain data."""
    return pickle.dumps(plain, 2)[2:-1]


def call(function, *arguments):
    """The opcodes of a call; the arguments are opcodes too."""
    return function + b"(" + b"".join(arguments) + b"tR"


def storage(key="0", numel=10, kind="Float"):
    """The opcodes that push a storage of a zip."""
    kind = named("torch", f"{kind}Storage")
    return b"(" + value("storage") + kind + value(key) + value("cpu") + value(numel) + b"tQ"


def tensor(offset, shape, stride, held=None):
    """The opcodes that push a tensor."""
    rest = [value(x) for x in (offset, shape, stride, False)]
    function = named("torch._utils", "_rebuild_tensor_v2")
    return call(function, held or storage(), *rest, call(named("collections", "OrderedDict")))


DATA = {"data/0": np.arange(10, dtype="<f4").tobytes()}


@given(data=st.data())
def test_drawn_views_take_their_elements_or_are_refused(tmp_path_factory, data):
    axes = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=3))
    offset, start = data.draw(st.integers(0, 11)), data.draw(st.integers(0, 3))
    shape, stride = tuple(n for n, _ in axes), tuple(s for _, s in axes)
    places = [offset + int(np.dot(index, stride)) for index in np.ndindex(shape)]
    path = tmp_path_factory.getbasetemp() / "views.pt"
    zipped(tensor(offset, shape, stride, storage(numel=10 - start)) + b".", DATA, path)
    if max(places, default=0) < 10 - start:
        assert np.array_equal(read_torch(path), np.array(places, "f4").reshape(shape))
    else:
        with pytest.raises(CheckpointError, match="reaches over its storage of"):
            read_torch(path)


# ---- refused contents ----------------------------------------------------------------------------

BOMB = b"(lp0\n" + b"".join(b"(" + b"g%d\n" % i * 10 + b"lp%d\n" % (i + 1) for i in range(20))
OPCODES = [
    (b"(Vtouch witness\nios\nsystem\n.", "opcode INST 'os system' is refused"),
    (b"(" + named("collections", "OrderedDict") + b"o.", "opcode OBJ None is refused"),
    (b"\x82\x01.", "opcode EXT1 1 is refused"),
    (b"\x83\x01\x02.", "opcode EXT2 513 is refused"),
    (b"\x84\x01\x00\x00\x00.", "opcode EXT4 1 is refused"),
    (named("torch", "Size") + b")}\x92.", "opcode NEWOBJ_EX None is refused"),
    (b"\x97.", "opcode NEXT_BUFFER None is refused"),
    (named("torch", "float32") + b")R.", "calls what is no function.*'torch.float32'"),
    (named("torch", "FloatStorage") + b")\x81.", "calls what is no function"),
    (named("torch", "Size") + b"NR.", "calls what is no function"),
    (b"]}b.", "sets attributes of what has none"),
    (named("argparse", "Namespace") + b")\x81]b.", "Namespace is not made of its attributes"),
    (call(named("argparse", "Namespace"), value({"a": 1})) + b".", "wrong arguments"),
    (call(named("torch.serialization", "_get_layout"), value(b"a"), value("hex")) + b".", "wrong"),
    (call(named("torch.serialization", "_get_layout"), value([1])) + b".", r"no name; got \[1\]"),
    (b"}Na.", "appends to what is no list"),
    (b"]NNs.", "sets items of what is no dict"),
    (b"}(Nu.", "a key without a value"),
    (b"](N\x90.", "adds members to what is no set"),
    (b"}]Ns.", "not a plain value"),
    (b"(" + b"\x85" * 99 + b"\x91.", "pop from empty list"),
    (b"N" + b"\x85" * 100_000 + b"q\0}h\0Ns.", "not a plain value"),
    (b"h\7.", "gets what it has not put; got 7"),
    (b"a.", "pop from empty list"), (b"t.", "pop from empty list"), (b".", "pop from empty"),
    (b"N", "cut short"), (b"\xff.", r"unknown opcode; got b'\\xff'"), (b"", "cut short"),
    (b"cos\nsystem", "cut short"), (b"S'x'\n.", r"opcode STRING \"'x'\" is refused"),
    (b"cos\nsys\\tem\n.", r"os\.sys.tem, which is refused"),
    (b"Q.", "pop from empty list"), (b"Pwhat\n.", "persistent id is not a storage's; got 'wh"),
    (value(("storage", 1, "0", "cpu", 10)) + b"Q.", "persistent id is not a storage's"),
    (value(("module", None)) + b"Q.", r"persistent id is not a storage's; got \('module', N"),
    (storage(numel=-1) + b".", "not up to 64 natural numbers"),
]  # fmt: skip
SIZES = [
    (b"\x8e" + struct.pack("<Q", 2**40) + b"x.", "expected 1099511627776 bytes"),
    (b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"x.", "expected 9223372036854775807 bytes"),
    (b"\x96" + struct.pack("<Q", 2**64 - 1) + b"x.", "18446744073709551615"),
    (b"T" + struct.pack("<i", 2**31 - 1) + b"x.", "expected 2147483647 bytes"),
    (b"X" + struct.pack("<I", 2**32 - 1) + b"x.", "expected 4294967295 bytes"),
    (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x.", "not enough data"),
    (b"\x8b" + struct.pack("<i", 1000) + b"x" * 1000 + b".", "an integer of over 2040 bits"),
    (b"L" + b"9" * 5000 + b"L\n.", "limit"),
    (call(named("builtins", "bytearray"), value(2**40)) + b".", "bytes are not in Latin-1"),
    (call(named("builtins", "bytes"), value(2**40)) + b".", "gives builtins bytes wrong arg"),
    (call(named("torch", "Size"), value([1] * 65)) + b".", "not up to 64 natural numbers"),
    (tensor(0, (2**40,), (0,)) + b".", r"grow to over \d+ bytes"),
    (tensor(0, (2**62, 2**62), (0, 0)) + b".", r"grow to over \d+ bytes"),
    (tensor(0, (2**62, 0, 2**62), (1, 1, 1)) + b".", "cannot read"),
    (tensor(0, (11,), (1,)) + b".", r"reaches over its storage of 10 elements; got 0, \(11,\)"),
    (tensor(0, (1, 1), (1,)) + b".", "shape and strides differ in length"),
    (tensor(0, (1.5,), (1,)) + b".", "not up to 64 natural numbers"),
    (tensor(-1, (1,), (1,)) + b".", "not up to 64 natural numbers"),
    (tensor(0, (1,), (1,), storage("0", 11)) + b".", "storage is cut short .*; got '0'"),
    (tensor(0, (1,), (1,), storage("../b")) + b".", "no item named 'a/data/../b'"),
    (tensor(0, (1,), (1,), value("x")) + b".", "something else than a storage; got 'x'"),
    (storage() + b".", "neither a tensor nor plain data; got Storage"),
    (b"]q\0h\0a.", "nested over 100 deep or contains itself"),
    (b"}q\0(h\0h\0u.", "not a plain value"),
    (b"]" * 200 + b"a" * 199 + b".", "nested over 100 deep"),
    (BOMB + b".", r"grow to over \d+ bytes"),
]  # fmt: skip


def names(witness):
    """Pickles that ask for what is not allowed; those that could run would make the file."""
    return [
        (named("os", "system") + value((f"touch {witness}",)) + b"R.", r"os\.system, which"),
        (f"cposix\nsystem\n(Vtouch {witness}\ntR.".encode(), r"posix\.system, which is refused"),
        (call(named("builtins", "open"), value(str(witness)), value("w")) + b".", r"ns\.open"),
        (call(named("builtins", "eval"), value(f"open('{witness}', 'w')")) + b".", r"ns\.eval"),
        (call(named("__builtin__", "getattr"), named("os", "x")) + b".", "getattr"),
        (value("os") + value("system") + b"\x93.", r"os\.system, which is refused"),
        (value("builtins") + value("eval.__call__") + b"\x93.", r"builtins\.eval\.__call__"),
        (value(5) + value("x") + b"\x93.", "a name that is no text"),
        (named("collections", "OrderedDict.fromkeys") + b".", "fromkeys, which is refused"),
        (named("__main__", "Net") + b")\x81}b.", r"__main__\.Net.*save model\.state_dict\(\)"),
        (named("torch._utils", "_rebuild_qtensor") + b".", r"quantized .* save x\.dequantize\(\)"),
        (named("torch", "QInt8Storage") + b".", r"quantized tensors are not read"),
        (named("torch._utils", "_rebuild_sparse_tensor") + b".", r"sparse .* save x\.to_dense\(\)"),
        (named("torch.storage", "_load_from_bytes") + b".", "pickles within pickles"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["names", "opcodes", "sizes"])
def test_pickles_are_refused_for_the_reason_given_and_run_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(torch_files, "ALLOWANCE", 2**20)
    witness = tmp_path / "witness"
    for program, reason in {"names": names(witness), "opcodes": OPCODES, "sizes": SIZES}[kind]:
        path = zipped(program, DATA, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=reason) as caught:
            read_torch(path)
        assert str(path) in str(caught.value) and len(str(caught.value)) < 1000
        row = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + value(1001) + b".}." + program
        (tmp_path / "y.pt").write_bytes(row)
        with pytest.raises(CheckpointError, match=r"y\.pt"):
            read_torch(tmp_path / "y.pt")
    assert not witness.exists()


def test_the_witness_would_exist_had_the_pickles_run(tmp_path):
    """The payloads are real: the standard library's pickle runs them."""
    for program, _ in names(tmp_path / "witness")[:4]:
        command = [sys.executable, "-c", f"import pickle; pickle.loads({program!r})"]
        subprocess.run(command, check=True)
        (tmp_path / "witness").unlink()


NAMES = [named(*known) for known in torch_objects.ALLOWED]
ATOMS = [
    *NAMES, *map(bytes.fromhex, ("29", "5d", "7d", "8f", "4e")), storage(), storage("0", 5, "Int"),
    *map(value, ["f4", "C", "", "torch.int8", "latin1", b"abcd", (2, 1), (2,), (0,), [1], [[1, 2]],
                 {"a": 1}, 0, 1, -1, 2**70, -1.5, True, (1, "<", None, None, None), {"conj": True},
                 {"neg": True}]),
    tensor(1, (2, 2), (3, 2)), call(named("numpy", "dtype"), value("f4")),
]  # fmt: skip


def programs(inner):
    """Pickles of calls with any arguments, of lists and dicts, of states set."""
    few = st.lists(inner, max_size=8)
    calls = st.builds(lambda f, xs: call(f, *xs), st.sampled_from(NAMES), few)
    return st.one_of(
        calls, calls, few.map(lambda xs: b"(" + b"".join(xs) + b"t"),
        few.map(lambda xs: b"](" + b"".join(xs) + b"e"),
        few.map(lambda xs: b"}(" + b"".join(xs) + b"u"),
        st.builds(lambda target, state: target + state + b"b", inner, inner),
        inner.map(lambda x: x + b"Q"),
    )  # fmt: skip


@given(program=st.recursive(st.sampled_from(ATOMS), programs, max_leaves=12))
def test_senseless_programs_end_in_an_error_or_a_load(tmp_path_factory, program):
    path = zipped(program + b".", DATA, tmp_path_factory.getbasetemp() / "senseless.pt")
    with contextlib.suppress(CheckpointError):
        read_torch(path)


def test_what_a_few_bytes_repeat_is_paid_for(tmp_path, monkeypatch):
    """Large values of the memo, used again and again: text, bytes, arrays, lists."""
    monkeypatch.setattr(torch_files, "ALLOWANCE", 2**16)
    big = "x" * 10_000
    for function, large in (("_codecs encode", big), ("builtins bytearray", big), (
        "builtins frozenset", list(range(2000))), ("torch Size", [1] * 60)):  # fmt: skip
        once = named(*function.split()) + b"q\x01" + value(large) + b"\x85q\x02"
        zipped(once + b"(" + b"h\1h\2R" * 1000 + b"t.", path=tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=r"x\.pt: its contents grow to over \d+ bytes"):
            read_torch(tmp_path / "x.pt")


def test_the_number_of_opcodes_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MAXIMUM_OPCODES", 100)
    path = zipped(b"(" + b"N" * 97 + b"t.", path=tmp_path / "x.pt")
    assert read_torch(path) == (None,) * 97
    with pytest.raises(CheckpointError, match=r"x\.pt: its pickle has over 100 opcodes"):
        read_torch(zipped(b"(" + b"N" * 98 + b"t.", path=path))


# ---- damaged containers --------------------------------------------------------------------------


def test_zip_files_that_are_not_as_torch_writes_them(tmp_path):
    path, good = tmp_path / "x.pt", zipped(tensor(0, (10,), (1,)) + b".", DATA)

    def refused(blob, reason):
        path.write_bytes(blob)
        with pytest.raises(CheckpointError, match=rf"x\.pt: .*{reason}"):
            read_torch(path)

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/data/0", bytes(10**7))
    refused(packed.getvalue(), "grow")
    twice = io.BytesIO(good)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("a/data/0", b"other")
    refused(twice.getvalue(), "two members of one name")
    central = good.rindex(b"PK\1\2")
    flagged = bytearray(good)
    flagged[central + 8] |= 1
    refused(bytes(flagged), "encrypted; got 'a/data/0'")
    flagged = bytearray(good)
    flagged[central + 10] = zipfile.ZIP_LZMA
    refused(bytes(flagged), "neither stored nor deflated")
    refused(good.replace(b"a/data/0", b"a/data/1", 1), "differ")
    refused(good[: len(good) // 2], "not a zip file")
    refused(good.replace(DATA["data/0"], bytes(40)), "Bad CRC-32")
    refused(zipped(b"N.", {"byteorder": "middle"}), "byte order is neither little nor big")
    two = zipped(b"N.", {"datax.pkl": b"N."}).replace(b"a/datax.pkl", b"b2/data.pkl")
    refused(two, "must have one member FOLDER/data.pkl")
    refused(good.replace(b"a/data.pkl", b"a/data.pxl"), "must have one member FOLDER/data.pkl")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_files_cut_short_anywhere_are_refused(path, tmp_path):
    whole, cut = path.read_bytes(), tmp_path / "cut.pt"
    needed = len(whole.rstrip(b"\0")) - 1 if path.stem.startswith("tar") else len(whole)
    for size in {0, 1, *np.linspace(0, needed - 1, 40).astype(int)}:
        cut.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"read_torch: cannot read .*cut\.pt"):
            read_torch(cut)


def test_other_files_are_told_apart_by_content(tmp_path):
    with open(tmp_path / "x.pt", "wb") as file:
        np.savez(file, a=np.ones(3))
    (tmp_path / "y.pt").write_bytes(b"text")
    for path, reason in (
        (tmp_path / "x.pt", "FOLDER/data.pkl"),
        (tmp_path / "y.pt", "no checkpoi"),
    ):
        assert not is_torch(path)
        with pytest.raises(CheckpointError, match=reason):
            read_torch(path)
    (tmp_path / "z.npz").write_bytes((FOLDER / "zip_views.pt").read_bytes())
    assert is_torch(tmp_path / "z.npz") and len(read_torch(tmp_path / "z.npz")) == 11
    for function in (is_torch, read_torch):
        with pytest.raises(CheckpointError, match="none.pt: No such file"):
            function(tmp_path / "none.pt")


@pytest.mark.parametrize("container", ["torch_zip", "torch_legacy", "torch_tar"])
def test_hostile_files_end_in_an_error_or_a_load(container):
    print(hostile.survive(container))
