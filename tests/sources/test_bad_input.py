"""Bad input: one clear error, or a counted rejection; nothing is lost in silence."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from anneal.errors import SourceError
from anneal.sources.documents import Document, documents
from anneal.sources.rows import _Seen
from anneal.sources.values import JsonlReader, ParquetReader, TreeReader

GOOD = [{"text": f"Text number {i}.", "key": f"k{i}"} for i in range(400)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in GOOD)


def read(reader, base: Path) -> tuple[list[Document], Counter[str]]:
    dropped: Counter[str] = Counter()
    return list(documents(reader, base=base, prepared={}, dropped=dropped)), dropped


def refusal(reader, base: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read(reader, base)
    assert caught.value.hint
    assert "\n" not in caught.value.what
    return caught.value


def test_damaged_files_are_errors_whatever_the_reader_says_of_rows(tmp_path):
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(LINES)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    damaged = {
        "flipped.jsonl.zst": bytes(flipped),
        "cut.jsonl.zst": packed[:-1],
        "head.jsonl.zst": packed[:3],
        "two.jsonl.zst": packed + packed[: len(packed) // 2],
        "no.jsonl.zst": b"plain text",
        "cut.jsonl.gz": gzip.compress(LINES)[:-20],
        "no.jsonl.gz": b"plain text",
        "tail.jsonl.gz": gzip.compress(LINES)[:-4] + b"\1\2\3\4",
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        for errors in ("stop", "skip"):
            assert (
                f"{name}: cannot be read"
                in refusal(JsonlReader(path=name, errors=errors), tmp_path).what
            )
    parquet.write_table(pyarrow.Table.from_pylist(GOOD), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    middle = bytearray(whole)
    middle[4:200] = bytes(196)
    for name, data in {
        "half": whole[: len(whole) // 2],
        "tail": whole[100:],
        "mid": middle,
    }.items():
        (tmp_path / f"{name}.parquet").write_bytes(data)
        assert (
            f"{name}.parquet: not readable as Parquet"
            in refusal(ParquetReader(path=f"{name}.parquet", errors="skip"), tmp_path).what
        )


BAD_ROWS = {
    b'{"text": "\xff"}': ("byte {offset} is not UTF-8 (0xff)", "not UTF-8"),
    b"not json": ("not JSON", "not JSON"),
    b"[1]": ("not a JSON object", "not JSON"),
    b"[" * 100_000: ("not JSON", "not JSON"),
    b'{"other": 1}': ("field `text` holds nothing", "no text"),
    b'{"text": 3}': ("field `text` holds int", "no text"),
    b'{"text": "no key"}': ("no field `key`", "no field key"),
    b'{"text": "x", "key": "\\ud800", "lic": null, "text": "\\ud800"}': (
        "half a surrogate pair",
        "not Unicode",
    ),
    b'{"text": "no licence", "key": "k"}': ("no field `lic`", "no field lic"),
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_an_unfit_row_stops_or_is_counted(tmp_path, row):
    what, reason = BAD_ROWS[row]
    good = b'{"text": "fine", "key": "a", "lic": null}\n'
    (tmp_path / "in.jsonl").write_bytes(good + row + b"\n" + good.replace(b'"a"', b'"b"'))
    fields = {"path": "in.jsonl", "id": "key", "licence": "lic"}
    said = refusal(JsonlReader(**fields), tmp_path).what
    assert what.format(offset=len(good) + 10) in said
    assert "in.jsonl:2" in said
    found, dropped = read(JsonlReader(**fields, errors="skip"), tmp_path)
    assert [d.id for d in found] == ["a", "b"]
    assert dropped == {reason: 1}


def test_where_every_row_is_unfit_the_error_lists_why(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"body": "x"}\n' * 3 + b"junk\n")
    said = refusal(JsonlReader(path="in.jsonl", errors="skip"), tmp_path).what
    assert "no document with text in it (left out: no text: 3, not JSON: 1)" in said


def test_parquet_refuses_or_counts_rows_too(tmp_path):
    rows = [{"text": "fine", "lic": "MIT"}, {"text": None, "lic": None}, {"text": "", "lic": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    said = refusal(ParquetReader(path="in.parquet"), tmp_path).what
    assert "in.parquet, row 1: field `text` holds nothing" in said
    found, dropped = read(ParquetReader(path="in.parquet", licence="lic", errors="skip"), tmp_path)
    assert [(d.text, d.licence) for d in found] == [("fine", "MIT")]
    assert dropped == {"no text": 1, "empty": 1}
    typo = ParquetReader(path="in.parquet", licence="licens", errors="skip")
    assert "no column `licens`" in refusal(typo, tmp_path).what


def test_bytes_in_a_parquet_text_that_are_not_utf8_are_that_rows_alone(tmp_path):
    column = pyarrow.array([b"one", b"caf\xe9", b"three"], pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(3, *column.buffers()[1:])
    parquet.write_table(pyarrow.table({"text": text}), tmp_path / "in.parquet")
    assert (
        "row 1: field `text` holds bytes"
        in refusal(ParquetReader(path="in.parquet"), tmp_path).what
    )
    found, dropped = read(ParquetReader(path="in.parquet", errors="skip"), tmp_path)
    assert [d.text for d in found] == ["one", "three"]
    assert dropped == {"no text": 1}


def test_binary_files_in_a_tree_are_counted_and_others_refused_or_counted(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.txt").write_text("\ufefftext with a mark")
    (tmp_path / "tree" / "b.bin").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "tree" / "c.txt").write_text("utf-16", encoding="utf-16")
    found, dropped = read(TreeReader(path="tree"), tmp_path)
    assert [d.text for d in found] == ["text with a mark"]
    assert dropped == {"binary": 2}
    (tmp_path / "tree" / "d.txt").write_bytes(b"caf\xe9")
    assert "d.txt: byte 3 is not UTF-8 (0xe9)" in refusal(TreeReader(path="tree"), tmp_path).what
    _, dropped = read(TreeReader(path="tree", errors="skip"), tmp_path)
    assert dropped == {"binary": 2, "not UTF-8": 1}


def test_a_byte_order_mark_before_json_lines_is_no_part_of_them(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "fine"}\n')
    assert [d.text for d in read(JsonlReader(path="in.jsonl"), tmp_path)[0]] == ["fine"]


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_above_the_limit_is_passed_over(tmp_path, end):
    def row(letters: int) -> bytes:
        return b'{"text": "' + b"x" * letters + b'"}'

    longest = 3_000_000  # more than one buffer
    content = b"\n".join((row(10), row(88), row(89), row(longest), row(11), row(90)))
    (tmp_path / "in.jsonl").write_bytes(content + end)
    reader = JsonlReader(path="in.jsonl", max_bytes=100)
    found, dropped = read(reader, tmp_path)
    assert [(len(d.text), d.origin) for d in found] == [
        (10, "in.jsonl:1"),
        (88, "in.jsonl:2"),
        (11, "in.jsonl:5"),
    ]
    assert dropped == {"longer than max_bytes": 3}
    (tmp_path / "in.jsonl").write_bytes(content + b"\n\xff\n")
    assert f"byte {len(content) + 1} is not UTF-8" in refusal(reader, tmp_path).what


def test_a_line_of_200_megabytes_never_lies_in_memory(tmp_path):
    """The line is packed, so that a few kilobytes of the file hold all of it."""
    line = b'{"text": "' + b"a" * 200_000_000 + b'"}\n'
    packed = zstandard.compress(line + b'{"text": "after"}\n')
    del line
    (tmp_path / "in.jsonl.zst").write_bytes(packed)
    code = (
        "import resource, sys, json, zstandard, pyarrow\n"
        "from collections import Counter\n"
        "from pathlib import Path\n"
        "from anneal.sources.documents import documents\n"
        "from anneal.sources.values import JsonlReader\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before, dropped = peak(), Counter()\n"
        "reader = JsonlReader(path='in.jsonl.zst', max_bytes=1_000_000)\n"
        "found = documents(reader, base=Path(sys.argv[1]), prepared={}, dropped=dropped)\n"
        "print(json.dumps([[d.text for d in found], dropped, peak() - before]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    texts, dropped, megabytes = json.loads(done.stdout)
    assert texts == ["after"]
    assert dropped == {"longer than max_bytes": 1}
    assert megabytes < 50


def test_a_text_above_the_limit_is_counted_in_every_kind_of_file(tmp_path):
    parquet.write_table(pyarrow.table({"text": ["short", "long" * 50]}), tmp_path / "in.parquet")
    found, dropped = read(ParquetReader(path="in.parquet", max_bytes=100), tmp_path)
    assert [d.text for d in found] == ["short"]
    assert dropped == {"longer than max_bytes": 1}


def test_empty_sources_are_errors(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "zero.jsonl").touch()
    (tmp_path / "zero.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "zero.jsonl.zst").write_bytes(zstandard.compress(b""))
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], "str")}), tmp_path / "z.parquet")
    cases = {
        "no file to read": TreeReader(path="tree"),
        "all files are empty": JsonlReader(path="zero.jsonl"),
        "no document with text": JsonlReader(path="zero.jsonl.*"),
        "no document with text in it": ParquetReader(path="z.parquet"),
    }
    for what, reader in cases.items():
        assert what in refusal(reader, tmp_path).what


def test_an_id_that_comes_again_is_numbered_and_no_text_is_lost(tmp_path):
    for name in ("a", "b"):  # ids that start again in every file
        (tmp_path / f"{name}.jsonl").write_bytes(LINES)
    found, dropped = read(JsonlReader(path="*.jsonl", id="key"), tmp_path)
    assert len(found) == len({d.id for d in found}) == 800
    assert [d.id for d in found[:400]] == [row["key"] for row in GOOD]
    assert found[400].id == "k0~1:1"
    assert dropped == {"duplicate id, numbered": 400}


def test_the_set_of_ids_knows_what_it_has_seen():
    seen = _Seen()
    new = [seen.add(str(i % 70_000)) for i in range(100_000)]  # it grows once
    assert new == [i < 70_000 for i in range(100_000)]
