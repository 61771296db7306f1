"""URLs: the same documents from any store, its checksums believed, its silence one clear error."""

from __future__ import annotations

import gzip
import http.server
import json
import socket
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import fsspec
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from anneal.errors import SourceError
from anneal.sources import remote
from anneal.sources.documents import documents
from anneal.sources.files import fingerprint, input_files
from anneal.sources.remote import matches, shown
from anneal.sources.values import JsonlReader, ParquetReader, TreeReader
from anneal.store import Store

ROWS = [{"text": f"Text {i} é", "key": f"k{i}"} for i in range(300)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain file server; `ETag` is what the test says, and only GET of a range is left out."""

    tags: dict[str, str] = {}
    broken: tuple[str, ...] = ()
    asked: Counter[str] = Counter()

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked[self.path] += 1
        if self.path in self.broken:
            self.send_error(500)
        else:
            super().do_GET()

    def end_headers(self):
        if tag := self.tags.get(self.path.partition("?")[0]):
            self.send_header("ETag", tag)
        super().end_headers()


@pytest.fixture
def site(tmp_path):
    """(folder that is served on the loopback, its URL)."""
    folder = tmp_path / "site"
    folder.mkdir()
    Quiet.tags, Quiet.asked, Quiet.broken = {}, Counter(), ()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def memory(tmp_path):
    """(file system, URL of an empty folder in it)."""
    system = fsspec.filesystem("memory")
    yield system, f"memory://{tmp_path.name}"
    if system.exists(f"/{tmp_path.name}"):
        system.rm(f"/{tmp_path.name}", recursive=True)


def texts(reader, base: Path) -> list[str]:
    return [d.text for d in documents(reader, base=base, prepared={})]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_come_over_http_as_from_disk(site, tmp_path, suffix):
    folder, url = site
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    (folder / f"a.jsonl{suffix}").write_bytes(pack(LINES))
    reader = JsonlReader(path=f"{url}/a.jsonl{suffix}?signature=1", id="key")
    found = list(documents(reader, base=tmp_path, prepared={}))
    assert [(d.id, d.text) for d in found] == [(row["key"], row["text"]) for row in ROWS]
    assert found[1].origin == f"a.jsonl{suffix}:2"


def test_every_reader_of_files_takes_a_url(memory, tmp_path):
    system, url = memory
    expected = [row["text"] for row in ROWS]
    local = tmp_path / "b.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), local)
    system.put(str(local), f"/{tmp_path.name}/b.parquet")
    for name in ("b", "a", "not"):
        system.pipe(f"/{tmp_path.name}/lines/{name}.jsonl", LINES if name != "not" else b"")
    assert texts(ParquetReader(path=f"{url}/b.parquet"), tmp_path) == expected
    assert texts(ParquetReader(path=f"file://{local}"), tmp_path) == expected
    assert texts(JsonlReader(path=f"{url}/lines/*.jsonl"), tmp_path) == expected * 2
    tree = {"x/one.txt": "one", "x/.hidden/two.txt": "two", "x/y/three.txt": "three", "top.md": "t"}
    for name, text in tree.items():
        system.pipe(f"/{tmp_path.name}/tree/{name}", text.encode())
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    for glob in ("**/*", "**/*.txt", "*", "x/*.txt", "x/**/*"):
        there = TreeReader(path=f"{url}/tree", glob=glob)
        here = TreeReader(path="tree", glob=glob)
        found = list(documents(there, base=tmp_path, prepared={}))
        assert found == list(documents(here, base=tmp_path, prepared={}))
        store = Store(tmp_path / "store")
        prints = [fingerprint(r, base=tmp_path, store=store) for r in (there, here)]
        assert prints[0] == prints[1]


def test_a_checksum_of_the_store_stands_for_the_content(site, tmp_path):
    folder, url = site
    (folder / "a.jsonl").write_bytes(LINES)
    store, reader = Store(tmp_path / "store"), JsonlReader(path=f"{url}/a.jsonl")

    def printed() -> str:
        Quiet.asked.clear()
        return fingerprint(reader, base=tmp_path, store=store)

    by_content = printed()
    assert Quiet.asked["/a.jsonl"] > 0
    assert by_content == fingerprint(
        JsonlReader(path=str(folder / "a.jsonl")), base=tmp_path, store=store
    )
    Quiet.tags["/a.jsonl"] = 'W/"weak"'
    assert printed() == by_content
    Quiet.tags["/a.jsonl"] = '"first"'
    by_tag = printed()
    assert Quiet.asked["/a.jsonl"] == 0  # nothing was downloaded
    assert printed() == by_tag
    Quiet.tags["/a.jsonl"] = '"second"'
    assert printed() not in (by_tag, by_content)


def test_what_is_not_there_and_who_does_not_answer_is_said(site, memory, tmp_path, monkeypatch):
    folder, url = site
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(LINES)[:-20])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    cases = {
        f"{closed}/a.jsonl: it does not answer": JsonlReader(path=f"{closed}/a.jsonl?key=secret"),
        f"{url}/none.jsonl: no such file": JsonlReader(path=f"{url}/none.jsonl"),
        f"{memory[1]}/*.jsonl: no such file": JsonlReader(path=f"{memory[1]}/*.jsonl"),
        f"{memory[1]}/tree: no file below it": TreeReader(path=f"{memory[1]}/tree"),
        f"{closed}/tree: it does not answer": TreeReader(path=f"{closed}/tree"),
        "nothing://x: it does not answer": JsonlReader(path="nothing://x"),
        "cut.jsonl.gz: cannot be read (Truncated": JsonlReader(path=f"{url}/cut.jsonl.gz"),
        "http://127.0.0.1/a: the URL holds a password": JsonlReader(
            path="http://me:secret@127.0.0.1/a"
        ),
    }
    for what, reader in cases.items():
        with pytest.raises(SourceError) as caught:
            texts(reader, tmp_path)
        assert what in caught.value.what
        assert caught.value.hint
        assert "secret" not in str(caught.value)
    # a server that takes the call and then says nothing
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        reader = JsonlReader(path=f"http://127.0.0.1:{silent.getsockname()[1]}/a.jsonl")
        with pytest.raises(SourceError, match="does not answer"):
            texts(reader, tmp_path)


def test_a_folder_on_a_site_is_read_whole_or_not_at_all(site, tmp_path):
    folder, url = site
    for name in ("a/one.txt", "b/two.txt"):
        (folder / "tree" / name).parent.mkdir(parents=True)
        (folder / "tree" / name).write_text(name)
        (folder / "tree" / name).with_suffix(".jsonl").write_bytes(LINES)
    readers = {
        TreeReader(path=f"{url}/tree/", glob="**/*.txt"): 2,
        JsonlReader(path=f"{url}/tree/**/*.jsonl"): 2 * len(ROWS),
    }
    for reader, count in readers.items():
        Quiet.broken = ()
        assert len(texts(reader, tmp_path)) == count
        Quiet.broken = ("/tree/b/",)
        with pytest.raises(SourceError, match=r"it does not answer .*500"):
            texts(reader, tmp_path)


def test_a_missing_library_is_named(tmp_path):
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(SourceError, match="s3fs") as caught:
            input_files(JsonlReader(path="s3://bucket/a.jsonl"), base=tmp_path)
        assert "install" in caught.value.hint


def test_a_store_that_fails_while_it_is_read_is_one_error(memory, tmp_path, monkeypatch):
    system, url = memory
    system.pipe(f"/{tmp_path.name}/a.jsonl", LINES)

    def broken(*_):
        raise RuntimeError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr("fsspec.implementations.memory.MemoryFile.read", broken, raising=False)
        with pytest.raises(SourceError, match=r"a\.jsonl: cannot be read .*connection lost"):
            texts(JsonlReader(path=f"{url}/a.jsonl"), tmp_path)


def test_what_follows_a_question_mark_is_never_shown():
    assert shown("s3://bucket/a?X-Amz-Signature=1") == "s3://bucket/a"
    assert shown("https://user@host/a") == "https://host/a"
    assert shown("what?.jsonl") == "what?.jsonl"


@pytest.mark.parametrize("pattern", ["**/*", "*", "**/*.py", "a/*", "a/**/*.py", "a/b/c.py", "?/*"])
def test_a_glob_means_for_urls_what_it_means_for_folders(tmp_path, pattern):
    names = ["x.py", "a/x.py", "a/b/c.py", "a/b/c.txt", "b/z.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    there = {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern) if p.is_file()}
    assert {name for name in names if matches(name, pattern)} == there
