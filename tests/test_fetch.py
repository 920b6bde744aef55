"""Downloads, from a server on this machine that breaks off or knows no ranges when told to."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from isthmus.data import fetch
from isthmus.errors import InputError

CONTENT = np.random.default_rng(0).bytes(20_000)


class Server(ThreadingHTTPServer):
    """Serves one `body`; `breaks` bytes into the next answer it hangs up; `ranges` are those asked for."""

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.breaks, self.knows_ranges, self.ranges = body, None, True, []
        self.url = f"http://127.0.0.1:{self.server_port}/files/data.tar.gz"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if self.server.knows_ranges else 0
        if start >= len(self.server.body):
            self.send_error(416)
            return
        rest = self.server.body[start:]
        self.send_response(206 if self.server.knows_ranges else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.breaks])
        self.server.breaks = None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("data/gas/._a.bin", "data/gas/a.bin", "data/hepmass/b.bin", "data/mnist/unwanted.bin"):
            member = tarfile.TarInfo(name)
            member.size = len(CONTENT)
            archive.addfile(member, io.BytesIO(CONTENT if name.endswith("/a.bin") else CONTENT[::-1]))
    with Server(packed.getvalue()) as server:
        source = (server.url, f"md5:{hashlib.md5(server.body).hexdigest()}")
        monkeypatch.setattr(fetch, "PUBLIC", dict.fromkeys(("gas/a.bin", "hepmass/b.bin", "missing.bin"), source))
        monkeypatch.setattr(fetch, "_BLOCK", 1024)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_unpacked_alone_and_its_archive_comes_once(server, tmp_path):
    assert fetch.find(tmp_path, "gas/a.bin").read_bytes() == CONTENT
    assert files(tmp_path) == ["data.tar.gz", "gas/a.bin"]
    assert fetch.find(tmp_path, "hepmass/b.bin").read_bytes() == CONTENT[::-1]
    assert fetch.find(tmp_path, "gas/a.bin") == tmp_path / "gas" / "a.bin"
    assert server.ranges == ["bytes=0-"]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.breaks = 5_000
    with pytest.raises(InputError, match=r"got ChunkedEncodingError.* call again"):
        fetch.find(tmp_path, "gas/a.bin")
    come = (tmp_path / "data.tar.gz.part").stat().st_size
    assert 5_000 - 1024 < come <= 5_000
    assert fetch.find(tmp_path, "gas/a.bin").read_bytes() == CONTENT
    assert server.ranges == ["bytes=0-", f"bytes={come}-"]
    assert files(tmp_path) == ["data.tar.gz", "gas/a.bin"]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_download_that_had_come_whole_and_a_server_without_ranges(server, tmp_path, knows_ranges):
    server.knows_ranges = knows_ranges
    (tmp_path / "data.tar.gz.part").write_bytes(server.body)
    assert fetch.find(tmp_path, "gas/a.bin").read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(server.body)}-"]


def test_what_has_another_checksum_is_thrown_away(server, tmp_path):
    right, server.body = server.body, server.body[:-1] + b"x"
    with pytest.raises(InputError, match="does not match the known hash"):
        fetch.find(tmp_path, "gas/a.bin")
    assert files(tmp_path) == []
    server.body = right
    assert fetch.find(tmp_path, "gas/a.bin").read_bytes() == CONTENT


def test_a_single_file_keeps_its_own_checksum_and_place(server, tmp_path):
    fetch.PUBLIC["torus/c.tsv"] = (server.url.replace("data.tar.gz", "c.tsv"), fetch.PUBLIC["gas/a.bin"][1])
    assert fetch.find(tmp_path, "torus/c.tsv").read_bytes() == server.body
    assert files(tmp_path) == ["torus/c.tsv"]


def test_an_archive_without_the_file_says_so(server, tmp_path):
    with pytest.raises(InputError, match=r"no missing\.bin in .*data\.tar\.gz"):
        fetch.find(tmp_path, "missing.bin")


def test_offline_one_sentence_names_the_folder_and_the_files(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError) as error:
        fetch.find(tmp_path, "gas/a.bin")
    message = str(error.value)
    assert message.startswith(f"expected to download gas/a.bin from {server.url} to {tmp_path}; got ConnectionError")
    assert message.endswith("or put data.tar.gz or gas/a.bin there by hand")


def test_the_first_of_the_files_that_is_there(tmp_path):
    for name in ("b.npy", "c.npy"):
        (tmp_path / name).touch()
    assert fetch.find(str(tmp_path), "a.npy", "b.npy", "c.npy").name == "b.npy"
    with pytest.raises(InputError, match=rf"the file a\.npy or d\.npy in {tmp_path}; got none; .* ISTHMUS_DATA"):
        fetch.find(tmp_path, "a.npy", "d.npy")


def test_where_the_data_folder_is(monkeypatch, tmp_path):
    monkeypatch.delenv("ISTHMUS_DATA", raising=False)
    monkeypatch.setattr(fetch, "_BESIDE_CHECKOUT", tmp_path)
    assert fetch.data_folder() == tmp_path
    monkeypatch.setattr(fetch, "_BESIDE_CHECKOUT", tmp_path / "none")
    assert fetch.data_folder().name == "isthmus"
    monkeypatch.setenv("ISTHMUS_DATA", "~/tables")
    assert fetch.data_folder() == Path.home() / "tables"


@pytest.mark.parametrize("damaged", [b"", b"no array", b"PK\x03\x04 no zip", None])
def test_a_file_that_holds_no_arrays_says_so(tmp_path, damaged):
    path = tmp_path / "x.npz"
    if damaged is None:
        np.savez(path, other=np.zeros(2))
    else:
        path.write_bytes(damaged)
    with pytest.raises(InputError, match=f"expected arrays of numbers in {path}; got "):
        fetch.read_arrays(path, "x")


def test_importing_the_data_sets_reads_and_fetches_nothing(fresh_python):
    loaded = fresh_python("import json, sys, isthmus.data; print(json.dumps(sorted(sys.modules)))")
    assert not {"pooch", "requests", "urllib3", "pandas", "sklearn"} & set(loaded)
