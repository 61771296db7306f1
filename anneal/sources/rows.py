"""Rows: documents out of files of records (JSON lines, Parquet, Hugging Face datasets).

A row is fit when it has the fields that the reader names. What to do with one that is not is the
reader's to say. The default is to stop: a field that is missing is most often a name that was
mistyped, a byte that is not UTF-8 most often a file in another encoding, and a corpus that shrank
by a third in silence would be measured as if it were whole. Who knows that a dump has bad rows says
`errors: skip`, and finds them counted.

A missing `licence` field is unfit as well, not "unknown": otherwise a mistyped name would let
through what a sweep forbids. A licence of null is unknown.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from anneal.errors import SourceError
from anneal.sources.documents import Document
from anneal.sources.files import InputFile, is_local, resolve_revision
from anneal.sources.remote import is_url, open_remote, shown
from anneal.sources.streams import lines
from anneal.sources.values import HuggingFaceReader, JsonlReader, ParquetReader, RecordReader

ROWS = 128
"""Rows of a Parquet file held at once."""
PAGES = 1 << 20
"""Bytes of a Parquet column read at once: a row group can be as large as the file."""

UTF8_MARK = b"\xef\xbb\xbf"


def jsonl(
    reader: JsonlReader, files: Iterable[InputFile], dropped: Counter[str]
) -> Iterator[Document]:
    """One document for each line of each file."""
    rows = _Rows(reader, dropped)
    for index, file in enumerate(files):
        for number, offset, line in lines(file.path, most=reader.max_bytes, dropped=dropped):
            try:
                document = rows.document(_parsed(line, offset), index, number, file.name)
            except _UnfitRow as unfit:
                rows.refuse(unfit, f"{shown(file.path)}:{number}")
            else:
                if document is not None:
                    yield document


def parquet(
    reader: ParquetReader, files: Iterable[InputFile], dropped: Counter[str]
) -> Iterator[Document]:
    """One document for each row of each file."""
    import pyarrow

    rows = _Rows(reader, dropped)
    for index, file in enumerate(files):
        where = shown(file.path)
        try:
            for number, row in enumerate(_parquet_rows(file.path, rows.fields)):
                try:
                    document = rows.document(row, index, number, file.name)
                except _UnfitRow as unfit:
                    rows.refuse(unfit, f"{where}, row {number}")
                else:
                    if document is not None:
                        yield document
        except (pyarrow.ArrowException, OSError) as error:
            said = " ".join(str(error).split())  # Arrow's messages can be several lines
            raise SourceError(
                f"{where}: not readable as Parquet ({said})", hint="write the file again"
            ) from error


def hugging_face(
    reader: HuggingFaceReader, base: Path, dropped: Counter[str]
) -> Iterator[Document]:
    """Rows of a dataset folder or hub dataset; `datasets` runs no code of the dataset's."""
    import datasets

    local = is_local(reader, base)
    where = str(base / reader.path) if local else reader.path
    rows = _Rows(reader, dropped)
    try:
        if local and any((Path(where) / f).exists() for f in ("state.json", "dataset_dict.json")):
            found: Any = datasets.load_from_disk(where)
            found = found[reader.split] if isinstance(found, datasets.DatasetDict) else found
        else:
            revision = None if local else resolve_revision(reader)
            found = datasets.load_dataset(
                where, reader.name, split=reader.split, revision=revision, streaming=True
            )
        for number, row in enumerate(found):
            try:
                document = rows.document(row, None, number, reader.path)
            except _UnfitRow as unfit:
                rows.refuse(unfit, f"row {number}")
            else:
                if document is not None:
                    yield document
    except SourceError:
        raise
    except Exception as error:  # its readers raise whatever their file libraries raise
        raise SourceError(
            f"dataset {reader.path}, split {reader.split}: {type(error).__name__}: {error}",
            hint="check path, name, split and fields; hub datasets need the network or the cache",
        ) from error


class _UnfitRow(Exception):
    """A row that is no document: the reason it is counted under, the message, what to do."""

    def __init__(self, reason: str, what: str, hint: str) -> None:
        super().__init__(what)
        self.reason = reason
        self.what = what
        self.hint = hint


class _Rows:
    """Turns the rows of one reader into documents."""

    def __init__(self, reader: RecordReader, dropped: Counter[str]) -> None:
        self.reader = reader
        self.dropped = dropped
        named = (reader.id, reader.group, reader.licence, reader.language, reader.identifier)
        self.fields = [f for f in (reader.text, *named, reader.origin) if f is not None]
        self.stated = any((reader.licence, reader.language, reader.identifier))
        self.ids = _Seen()

    def document(
        self, row: Mapping[str, Any], file: int | None, number: int, name: str
    ) -> Document | None:
        """A row as a document; None where its text is too long, which is counted."""
        reader = self.reader
        text = row.get(reader.text)
        if text is None:
            text = _field(row, reader.text)
        if not isinstance(text, str):
            raise _UnfitRow(
                "no text",
                f"field `{reader.text}` holds {'nothing' if text is None else type(text).__name__},"
                f" not text (fields: {', '.join(map(str, row))})",
                "name the field with `text`",
            )
        if len(text) > reader.max_bytes:
            self.dropped["longer than max_bytes"] += 1
            return None
        numbered = f"{number}" if file is None else f"{file}:{number}"
        id = numbered if reader.id is None else self._unique(row, numbered)
        group = "" if reader.group is None else _given(row, reader.group)
        origin = f"{name}:{number}" if reader.origin is None else _said(row, reader.origin)
        if not self.stated:
            return Document(id, text, group, origin)
        return Document(
            id,
            text,
            group,
            origin,
            licence=_said(row, reader.licence),
            language=_said(row, reader.language),
            identifier=_said(row, reader.identifier),
        )

    def refuse(self, unfit: _UnfitRow, place: str) -> None:
        """Stops, or counts the row, as the reader says."""
        if self.reader.errors == "stop":
            hint = f"{unfit.hint}, or leave out and count such rows with `errors: skip`"
            raise SourceError(f"{place}: {unfit.what}", hint=hint) from unfit
        self.dropped[unfit.reason] += 1

    def _unique(self, row: Mapping[str, Any], numbered: str) -> str:
        """The row's id. One that was there before keeps its text and gets its number added:
        ids that start again in every file are common, and equal texts are for `deduplicate`."""
        assert self.reader.id is not None
        given = str(row.get(self.reader.id) or _given(row, self.reader.id))
        if self.ids.add(given):
            return given
        self.dropped["duplicate id, numbered"] += 1
        return f"{given}~{numbered}"


class _Seen:
    """A set of texts in 12 to 24 bytes each, by 64 bits of their hash: open addressing.

    Two of a billion texts share their 64 bits with odds of 3 %, and then one is numbered in vain.
    """

    def __init__(self) -> None:
        self.table = array("Q", bytes(8 * 2**16))
        self.count = 0

    def add(self, text: str) -> bool:
        """Whether `text` is new."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        new = self._put(int.from_bytes(digest, "big") or 1)  # 0 is an empty place
        self.count += new
        if 3 * self.count > 2 * len(self.table):
            before, self.table = self.table, array("Q", bytes(16 * len(self.table)))
            for key in before:
                if key:
                    self._put(key)
        return new

    def _put(self, key: int) -> bool:
        table, last = self.table, len(self.table) - 1
        place = key & last
        while table[place]:
            if table[place] == key:
                return False
            place = (place + 1) & last
        table[place] = key
        return True


def _parsed(line: bytes, offset: int) -> dict[str, Any]:
    """The object on a line that stands `offset` bytes into its file."""
    try:
        row = json.loads((line if offset else line.removeprefix(UTF8_MARK)).decode())
    except UnicodeDecodeError as error:
        raise _UnfitRow(
            "not UTF-8",
            f"byte {offset + error.start} is not UTF-8 ({error.object[error.start]:#04x})",
            "convert the file to UTF-8",
        ) from error
    except (ValueError, RecursionError) as error:
        raise _UnfitRow("not JSON", f"not JSON ({error})", "one JSON object a line") from error
    if not isinstance(row, dict):
        raise _UnfitRow("not JSON", "not a JSON object", "one JSON object a line")
    return row


def _parquet_rows(path: str, fields: list[str]) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with ExitStack() as stack:
        opened = stack.enter_context(open_remote(path)) if is_url(path) else path
        table = stack.enter_context(
            parquet.ParquetFile(opened, buffer_size=PAGES, pre_buffer=False)
        )
        names = table.schema_arrow.names
        if missing := [f for f in fields if f not in names and f.partition(".")[0] not in names]:
            raise SourceError(
                f"{shown(path)}: no column `{missing[0]}` among {names}",
                hint="name the columns that there are",
            )
        for batch in table.iter_batches(batch_size=ROWS, columns=fields):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError:  # in one of them: the others are fit
                yield from (_alone(batch.slice(i, 1)) for i in range(len(batch)))
            else:
                yield from rows


def _alone(row: Any) -> dict[str, Any]:
    """One row of a batch; fields that are not UTF-8 are left as bytes, and so are no text."""
    found = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            found[name] = column[0].as_py()
        except UnicodeDecodeError:
            found[name] = column[0].as_buffer().to_pybytes()
    return found


def _field(row: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by names with dots; None where there is none or it is null."""
    if name in row or "." not in name:
        return row.get(name)
    outer, _, inner = name.partition(".")
    inside = row.get(outer)
    return _field(inside, inner) if isinstance(inside, Mapping) else None


def _has(row: Mapping[str, Any], name: str) -> bool:
    if name in row:
        return True
    outer, _, inner = name.partition(".")
    inside = row.get(outer)
    return isinstance(inside, Mapping) and _has(inside, inner)


def _given(row: Mapping[str, Any], name: str) -> str:
    """A field that every row must fill."""
    value = _field(row, name)
    if value is None:
        raise _UnfitRow(f"no field {name}", f"no field `{name}`", "correct the field's name")
    return str(value)


def _said(row: Mapping[str, Any], name: str | None) -> str:
    """A field that every row must have if it is named; empty where it is null. All of a list
    hold."""
    if name is None:
        return ""
    value = _field(row, name)
    if value is None:
        if not _has(row, name):
            raise _UnfitRow(
                f"no field {name}",
                f"no field `{name}`",
                "correct the field's name, write null where it is not known",
            )
        return ""
    if isinstance(value, list | tuple):
        return " AND ".join(str(one).strip() for one in value)
    return str(value).strip()
