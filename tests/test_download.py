"""Downloads against a local server that truncates, corrupts, stalls, refuses and ignores Range."""

import hashlib
import http.server
import io
import os
import tarfile
import threading

import pytest

from minidl.config import user_cache
from minidl.data import CIFAR10
from minidl.data.download import Resource, download, locate, obtain, unpack
from minidl.errors import DataError

CONTENT = os.urandom(1000) * 300
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT as `server.script` says, one entry a request, the last for ever."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        act = server.script[min(len(server.requests), len(server.script)) - 1]
        if isinstance(act, int):
            self.send_error(act)
            return
        begin = 0
        asked = self.headers.get("Range")
        if asked and act != "no range":
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(CONTENT):
                self.send_error(416)
                return
        content = CONTENT[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if act == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if act in ("cut", "stall"):
            content = content[: len(content) // 2]
        self.wfile.write(content)
        self.wfile.flush()
        if act == "stall":
            server.release.wait(10)
        self.close_connection = True

    def log_message(self, *args):
        """Silent."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.script, server.requests, server.release = ["whole"], [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/data.bin"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def fetch(server, target, **options):
    download(server.url, target, DIGEST, timeout=0.3, pause=0.01, **options)


def test_a_whole_file_arrives(server, tmp_path):
    target = tmp_path / "new" / "data.bin"
    fetch(server, target)
    assert target.read_bytes() == CONTENT and os.listdir(target.parent) == ["data.bin"]
    assert server.requests == [None]


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_a_cut_is_continued_where_it_was(server, tmp_path, fault):
    server.script = [fault, fault, "whole"]
    fetch(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=150000-", "bytes=225000-"]


def test_a_server_without_range_starts_over(server, tmp_path):
    server.script = ["cut", "no range"]
    fetch(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and len(server.requests) == 2


def test_a_later_call_continues(server, tmp_path):
    server.script = ["cut"]
    with pytest.raises(DataError, match="cut after 150000 of 300000 bytes"):
        fetch(server, tmp_path / "data.bin", attempts=1)
    assert os.listdir(tmp_path) == ["data.bin.part"]
    server.script = ["whole"]
    fetch(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=150000-"


def test_a_corrupt_file_is_thrown_away(server, tmp_path):
    server.script = ["corrupt", "whole"]
    fetch(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and server.requests == [None, None]
    server.script = ["corrupt"]
    with pytest.raises(DataError, match="checksum is wrong.*--dataset embedded") as caught:
        fetch(server, tmp_path / "other.bin", attempts=2)
    assert server.url in str(caught.value) and os.listdir(tmp_path) == ["data.bin"]


def test_a_complete_part_needs_no_second_transfer(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests == ["bytes=300000-"]


def test_failures_name_the_address_and_the_reason(server, tmp_path):
    server.script = [404]
    with pytest.raises(DataError, match="answered 404 Not Found"):
        fetch(server, tmp_path / "data.bin")
    assert len(server.requests) == 1  # a refusal is not asked again
    server.script = [503, "whole"]
    server.requests.clear()
    fetch(server, tmp_path / "data.bin")
    server.script = ["stall"]
    with pytest.raises(DataError, match="the server stalled"):
        fetch(server, tmp_path / "more.bin", attempts=1)
    with pytest.raises(DataError, match="refused"):
        download("http://127.0.0.1:9/x", tmp_path / "y", DIGEST, attempts=1)


def test_an_unwritable_place_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write .*file"):
        fetch(server, tmp_path / "file" / "data.bin")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
def test_a_full_disk_is_named(server, tmp_path):
    (tmp_path / "data.bin.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="cannot write .*data.bin.part: No space left"):
        fetch(server, tmp_path / "data.bin")
    assert len(server.requests) == 1


def archive(path, entries):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_unpack(tmp_path):
    archive(tmp_path / "a.tar.gz", {"in/x": b"1", "in/deep/y": b"22"})
    unpack(tmp_path / "a.tar.gz", tmp_path)
    assert (tmp_path / "in/x").read_bytes() == b"1" and (tmp_path / "in/deep/y").stat().st_size == 2


@pytest.mark.parametrize("entries", [{"../evil": b"1"}, {"/evil": b"1"}, {"in/l": "/etc"}])
def test_unpack_stays_inside(tmp_path, entries):
    into = tmp_path / "into"
    into.mkdir()
    archive(into / "a.tar.gz", {"in/x": b"1", **entries})
    with pytest.raises(DataError, match="not a plain file"):
        unpack(into / "a.tar.gz", into)
    assert os.listdir(into) == ["a.tar.gz"] and os.listdir(tmp_path) == ["into"]


def test_a_damaged_archive_leaves_nothing(tmp_path):
    archive(tmp_path / "a.tar.gz", {"in/x": os.urandom(9999)})
    content = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(content[:-5000])
    with pytest.raises(DataError, match="cannot unpack"):
        unpack(tmp_path / "a.tar.gz", tmp_path)
    assert os.listdir(tmp_path) == ["a.tar.gz"]


def test_locate_goes_from_root_to_environment_to_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    digest = DIGEST
    resource = Resource(server.url, "set/data.bin", digest)
    with pytest.raises(DataError, match="data.bin not found in"):
        locate(tmp_path / "empty", "set", ["data.bin"], [resource])
    assert locate(None, "set", ["data.bin"], [resource]) == [user_cache("data") / "set/data.bin"]
    assert user_cache("data") == tmp_path / "cache/minidl/data"
    assert locate(None, "set", ["data.bin"], [resource]) == [user_cache("data") / "set/data.bin"]
    assert len(server.requests) == 1
    given = tmp_path / "given/set"
    given.mkdir(parents=True)
    (given / "data.bin").write_bytes(b"")
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "given"))
    assert locate(None, "set", ["data.bin"], [resource]) == [given / "data.bin"]
    mine = tmp_path / "mine"
    (given / "data.bin").rename(given / "data.bin.gz")
    assert locate(None, "set", ["data.bin"], [resource]) == [given / "data.bin.gz"]
    assert locate(mine, "set", ["data.bin"], [resource], download=True) == [mine / "set/data.bin"]


def test_archives_are_unpacked_and_removed(server, tmp_path, monkeypatch):
    archive(tmp_path / "made.tar.gz", {"set/x": b"1"})
    content = (tmp_path / "made.tar.gz").read_bytes()
    monkeypatch.setitem(globals(), "CONTENT", content)
    digest = "md5:" + hashlib.md5(content).hexdigest()
    root = tmp_path / "root"
    obtain([Resource(server.url, "in/a.tar.gz", digest)], root, pause=0.01)
    assert (root / "in/set/x").read_bytes() == b"1" and os.listdir(root / "in") == ["set"]


def test_a_data_set_that_cannot_be_fetched_names_the_way_out(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    server.script = [403]
    resource = CIFAR10.resource._replace(url=server.url)
    monkeypatch.setattr(CIFAR10, "resource", resource)
    with pytest.raises(DataError, match=f"{server.url}: the server answered 403 .*embedded"):
        CIFAR10()
