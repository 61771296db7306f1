"""Readers: every kind of input becomes the same documents, and bad input is one clear error."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from anneal.errors import SourceError
from anneal.sources.documents import (
    DOCUMENTS_FILE,
    Document,
    documents,
    held_out,
    keep_side,
    read_documents,
    write_documents,
)
from anneal.sources.files import fingerprint
from anneal.sources.values import (
    HuggingFaceReader,
    JsonlReader,
    ParquetReader,
    PreparedReader,
    Split,
    TreeReader,
)
from anneal.store import Store

ROWS = [{"text": f"Text number {i}, é.", "key": f"k{i}", "book": f"b{i // 2}"} for i in range(4)]


def lines(rows: list[dict[str, str]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(reader, base: Path) -> list[Document]:
    return list(documents(reader, base=base, prepared={}))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_plain_and_compressed_give_the_same_documents(tmp_path, suffix):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    (tmp_path / f"a.jsonl{suffix}").write_bytes(pack(lines(ROWS[:2])))
    (tmp_path / f"b.jsonl{suffix}").write_bytes(pack(lines(ROWS[2:])))
    found = read(JsonlReader(path=f"*.jsonl{suffix}", id="key", group="book"), tmp_path)
    assert [d.text for d in found] == [row["text"] for row in ROWS]
    assert [(d.id, d.group) for d in found] == [(row["key"], row["book"]) for row in ROWS]
    assert found[3].origin == f"b.jsonl{suffix}:2"


def test_parquet_and_a_dataset_folder_give_the_same_documents_as_jsonl(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "train.parquet")
    texts = [row["text"] for row in ROWS]
    assert [d.text for d in read(ParquetReader(path="set/train.parquet"), tmp_path)] == texts
    found = read(HuggingFaceReader(path="set", id="key", group="book"), tmp_path)
    assert [(d.text, d.id, d.group) for d in found] == [
        (row["text"], row["key"], row["book"]) for row in ROWS
    ]
    # what rows state, and rows that are unfit, as in every file of rows
    (found, *_) = read(HuggingFaceReader(path="set", licence="key", origin="book"), tmp_path)
    assert (found.licence, found.origin) == ("k0", "b0")
    parquet.write_table(pyarrow.table({"text": ["fine", None]}), folder / "train.parquet")
    with pytest.raises(SourceError, match="row 1: field `text` holds nothing"):
        read(HuggingFaceReader(path="set"), tmp_path)
    assert len(read(HuggingFaceReader(path="set", errors="skip"), tmp_path)) == 1


def test_a_dataset_saved_to_disk_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    found = read(HuggingFaceReader(path="saved"), tmp_path)
    assert [d.text for d in found] == [row["text"] for row in ROWS]


def test_tree_reads_sorted_without_hidden_excluded_and_large_files(tmp_path):
    for name in ("b/two.txt", "a/one.txt", "a/skip.txt", ".git/config", "top.txt", "a/big.txt"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name * (100 if "big" in name else 1))
    reader = TreeReader(path="root", exclude=("*skip*",), max_bytes=100)
    dropped: Counter[str] = Counter()
    found = list(documents(reader, base=tmp_path, prepared={}, dropped=dropped))
    assert [(d.id, d.group) for d in found] == [
        ("a/one.txt", "a"),
        ("b/two.txt", "b"),
        ("top.txt", ""),
    ]
    assert dropped == {"excluded": 1, "larger than max_bytes": 1}


def test_prepared_documents_come_back_as_they_were_written(tmp_path):
    given = [Document(f"i{i}", f"text\n{i} ☃", "g", "o") for i in range(300)]
    count, size = write_documents(tmp_path / DOCUMENTS_FILE, given)
    assert (count, size) == (300, sum(len(d.text.encode()) for d in given))
    reader = PreparedReader(source="up")
    assert list(documents(reader, base=tmp_path, prepared={"up": tmp_path})) == given
    whole = (tmp_path / DOCUMENTS_FILE).read_bytes()
    (tmp_path / DOCUMENTS_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="Truncated compressed stream"):
        list(read_documents(tmp_path))


def test_zst_frames_in_one_file_are_all_read(tmp_path):
    frames = [zstandard.compress(lines([row])) for row in ROWS]
    (tmp_path / "in.jsonl.zst").write_bytes(b"".join(frames))
    assert len(read(JsonlReader(path="in.jsonl.zst"), tmp_path)) == len(ROWS)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"text": "fine"}\n{"other": 1}\n', "in.jsonl:2: field `text` holds nothing"),
        (b'{"text": "fine"}\n{"text": 3}\n', "in.jsonl:2: field `text` holds int"),
        (b'{"text": "fine"}\nnot json\n', "in.jsonl:2: not JSON"),
        (b"[1]\n", "in.jsonl:1: not a JSON object"),
        (b'{"text": "fine"}\n{"text": "\xff"}\n', "in.jsonl:2: byte 27 is not UTF-8 (0xff)"),
        (b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        (b'{"text": "  "}\n', "no document with text"),
        (b"", "all files are empty"),
    ],
)
def test_bad_lines_are_named_by_file_and_line(tmp_path, content, what):
    (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(SourceError) as caught:
        read(JsonlReader(path="in.jsonl"), tmp_path)
    assert what in caught.value.what
    assert caught.value.hint


def test_other_bad_input_is_one_clear_error_each(tmp_path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(lines(ROWS * 50))[:-20])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but no table")
    parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "other.parquet")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    cases = {
        "cut.gz: cannot be read": JsonlReader(path="cut.gz"),
        "not readable as Parquet": ParquetReader(path="bad.parquet"),
        "no column `text` among ['body']": ParquetReader(path="other.parquet"),
        "latin.txt: byte 3 is not UTF-8 (0xe9)": TreeReader(path="tree"),
        "no file to read": TreeReader(path="tree", glob="*.md"),
        "nowhere: no such file": TreeReader(path="nowhere"),
        "none.jsonl: no such file": JsonlReader(path="none.jsonl"),
    }
    for what, reader in cases.items():
        with pytest.raises(SourceError) as caught:
            read(reader, tmp_path)
        assert what in caught.value.what
        assert caught.value.hint


def test_the_sides_of_a_split_are_complementary_and_keep_groups_together():
    stream = [Document(str(i), f"t{i}", f"g{i // 5}", "") for i in range(2000)]
    train = list(keep_side(stream, Split(part="train", fraction=0.3)))
    heldout = list(keep_side(stream, Split(part="heldout", fraction=0.3)))
    assert len(train) + len(heldout) == len(stream)
    assert not {d.group for d in train} & {d.group for d in heldout}
    assert 0.24 < len(heldout) / len(stream) < 0.36
    other = list(keep_side(stream, Split(part="heldout", fraction=0.3, salt="other")))
    assert {d.group for d in other} != {d.group for d in heldout}
    # without a group, copies of a text are on one side
    sides = {held_out(Document(str(i), "same", "", ""), Split(part="train")) for i in range(20)}
    assert len(sides) == 1


def test_fingerprint_is_of_content_not_of_place_or_time(tmp_path):
    store = Store(tmp_path / "store")
    for root in ("one", "two"):
        (tmp_path / root / "sub").mkdir(parents=True)
        (tmp_path / root / "sub" / "a.txt").write_text("alpha")
        (tmp_path / root / "b.txt").write_text("beta")

    def printed(root: str) -> str:
        return fingerprint(TreeReader(path=root), base=tmp_path, store=store)

    first = printed("one")
    assert printed("two") == first
    os.utime(tmp_path / "one" / "b.txt", (1, 1))
    assert printed("one") == first
    (tmp_path / "one" / "b.txt").write_text("gamma")
    assert printed("one") != first
    (tmp_path / "two" / "b.txt").rename(tmp_path / "two" / "c.txt")
    assert printed("two") != first  # names decide groups


def test_fingerprint_reads_only_what_changed(tmp_path):
    store = Store(tmp_path / "store")
    folder = tmp_path / "in"
    folder.mkdir()
    old = time.time() - 100
    for name in "ab":
        (folder / name).write_text(name)
        os.utime(folder / name, (old, old))
    reader = TreeReader(path="in")
    first = fingerprint(reader, base=tmp_path, store=store)
    # same size and time, other content: only reading could tell, and it is not read
    (folder / "a").write_text("z")
    os.utime(folder / "a", (old, old))
    assert fingerprint(reader, base=tmp_path, store=store) == first
    os.utime(folder / "a", (old + 1, old + 1))
    assert fingerprint(reader, base=tmp_path, store=store) != first


def test_a_file_that_changed_just_now_is_never_remembered(tmp_path):
    store = Store(tmp_path / "store")
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n')
    stamp = path.stat()
    reader = JsonlReader(path="in.jsonl")
    first = fingerprint(reader, base=tmp_path, store=store)
    path.write_text('{"text": "b"}\n')
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # within one tick of the clock
    assert fingerprint(reader, base=tmp_path, store=store) != first


def test_an_unpinned_hub_dataset_says_that_the_hub_is_out_of_reach(tmp_path):
    with pytest.raises(SourceError, match="no such folder, and the hub does not answer"):
        fingerprint(HuggingFaceReader(path="some/set"), base=tmp_path, store=Store(tmp_path))
