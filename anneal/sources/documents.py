"""Documents: every reader turned into one stream of the same small record.

A document is text with an identity, a group (what must stay on one side of a held-out split) and
an origin to name in messages. `documents` streams them in an order that depends only on the
content of the input, never on the machine: curation keeps the first of two duplicates, and which
is first must be the same everywhere. Prepared documents are kept as JSON lines under zstandard.

Text must be UTF-8. A byte that is not is an error with its file and offset rather than a
replacement character in the training data.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from anneal.errors import SourceError
from anneal.sources.files import InputFile, input_files, is_local, resolve_revision
from anneal.sources.values import (
    HuggingFaceReader,
    InstalledReader,
    JsonlReader,
    ParquetReader,
    PreparedReader,
    Reader,
    Split,
    TreeReader,
)

DOCUMENTS_FILE = "documents.jsonl.zst"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a source or target."""

    id: str
    """Unique within its source, and the same wherever the input lies."""
    text: str
    group: str
    """Related documents share it; empty where the document is alone."""
    origin: str
    """Where it came from, for people: a relative name, a line, a row."""


def documents(
    reader: Reader,
    *,
    base: Path,
    prepared: Mapping[str, Path],
    dropped: Counter[str] | None = None,
) -> Iterator[Document]:
    """Streams the documents of `reader`; documents of white space alone are dropped.

    Args:
        reader: what to read.
        base: folder that relative paths start from (of the sweep file).
        prepared: by source name, the folder of its prepared documents.
        dropped: counts, by reason, what is left out.

    Raises:
        SourceError: missing or unreadable input, bytes that are not UTF-8, a record without its
            field (each with file and place), or no document at all.
    """
    left_out: Counter[str] = Counter() if dropped is None else dropped
    found = False
    for document in _records(reader, base, prepared, left_out):
        if not document.text.strip():
            left_out["empty"] += 1
            continue
        try:
            document.text.encode()
        except UnicodeEncodeError as error:
            raise SourceError(
                f"{document.origin}: character {error.start} is half a surrogate pair",
                hint="write the text as valid Unicode",
            ) from error
        found = True
        yield document
    if not found:
        raise SourceError(
            f"reader `{reader.kind}`: no document with text in it", hint="correct path or field"
        )


def keep_side(stream: Iterable[Document], split: Split | None) -> Iterator[Document]:
    """Only the documents on `split`'s side; all of them where there is no split."""
    for document in stream:
        if split is None or (held_out(document, split) == (split.part == "heldout")):
            yield document


def held_out(document: Document, split: Split) -> bool:
    """Whether the hash of (salt, group) falls in the first `fraction`.

    A document without a group goes by its text, so copies of it take the same side.
    """
    group = document.group or hashlib.sha256(document.text.encode()).hexdigest()
    digest = hashlib.sha256(f"{split.salt}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < split.fraction * 2**64


def write_documents(path: Path, stream: Iterable[Document]) -> tuple[int, int]:
    """Writes documents as JSON lines under zstandard; returns (documents, UTF-8 bytes of text)."""
    import zstandard

    count = size = 0
    with (
        open(path, "wb") as raw,
        zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(
            raw, closefd=False
        ) as file,
    ):
        for document in stream:
            file.write(json.dumps(asdict(document), ensure_ascii=False).encode() + b"\n")
            count += 1
            size += len(document.text.encode())
    return count, size


def read_documents(folder: Path) -> Iterator[Document]:
    """Streams the prepared documents of `folder`.

    Raises:
        SourceError: when they are missing or damaged.
    """
    path = folder / DOCUMENTS_FILE
    for _, line in _lines(path):
        yield Document(**json.loads(line))


def _records(
    reader: Reader, base: Path, prepared: Mapping[str, Path], dropped: Counter[str]
) -> Iterator[Document]:
    if isinstance(reader, PreparedReader):
        return read_documents(prepared[reader.source])
    if isinstance(reader, HuggingFaceReader):
        return _hugging_face(reader, base)
    files = input_files(reader, base=base, dropped=dropped)
    if isinstance(reader, TreeReader):
        return _texts(files)
    if isinstance(reader, JsonlReader):
        return _jsonl(reader, files)
    if isinstance(reader, ParquetReader):
        return _parquet(reader, files)
    return _installed(reader, files, dropped)


def _texts(files: list[InputFile]) -> Iterator[Document]:
    for file in files:
        yield Document(file.name, _text(Path(file.path)), file.group, file.name)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: byte {error.start} is not UTF-8 ({error.object[error.start]:#04x})",
            hint="convert the file to UTF-8, or leave it out with `glob` or `exclude`",
        ) from error
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror})", hint="correct its permissions"
        ) from error


def _installed(
    reader: InstalledReader, files: list[InputFile], dropped: Counter[str]
) -> Iterator[Document]:
    from anneal.sources.installed import code, prose

    if reader.what == "prose":
        for name, text, group in prose(files, reader.max_total_bytes, dropped):
            yield Document(name, text, group, name)
    else:
        for file, text in code(files, dropped, parsed=reader.what == "stdlib"):
            yield Document(file.name, text, file.group, file.name)


def _jsonl(reader: JsonlReader, files: list[InputFile]) -> Iterator[Document]:
    for index, file in enumerate(files):
        for number, line in _lines(Path(file.path)):
            place = f"{file.path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SourceError(
                    f"{place}: not JSON ({error})", hint="one JSON object a line"
                ) from error
            if not isinstance(row, dict):
                raise SourceError(f"{place}: not a JSON object", hint="one JSON object a line")
            yield _record(reader, row, f"{index}:{number}", f"{file.name}:{number}", place)


def _parquet(reader: ParquetReader, files: list[InputFile]) -> Iterator[Document]:
    import pyarrow
    from pyarrow import parquet

    for index, file in enumerate(files):
        try:
            table = parquet.ParquetFile(file.path)
            columns = [c for c in (reader.text, reader.id, reader.group) if c is not None]
            if missing := [c for c in columns if c not in table.schema_arrow.names]:
                raise SourceError(
                    f"{file.path}: no column `{missing[0]}` among {table.schema_arrow.names}",
                    hint="name the column with `text`, `id` or `group`",
                )
            number = 0
            for batch in table.iter_batches(batch_size=512, columns=columns):
                for row in batch.to_pylist():
                    place = f"{file.path}, row {number}"
                    yield _record(reader, row, f"{index}:{number}", f"{file.name}:{number}", place)
                    number += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise SourceError(
                f"{file.path}: not readable as Parquet ({error})", hint="write the file again"
            ) from error


def _hugging_face(reader: HuggingFaceReader, base: Path) -> Iterator[Document]:
    """Rows of a dataset folder or hub dataset; `datasets` runs no code of the dataset's."""
    import datasets

    local = is_local(reader, base)
    where = str(base / reader.path) if local else reader.path
    try:
        if local and any((Path(where) / f).exists() for f in ("state.json", "dataset_dict.json")):
            rows: Any = datasets.load_from_disk(where)
            rows = rows[reader.split] if isinstance(rows, datasets.DatasetDict) else rows
        else:
            revision = None if local else resolve_revision(reader)
            rows = datasets.load_dataset(
                where, reader.name, split=reader.split, revision=revision, streaming=True
            )
        for number, row in enumerate(rows):
            yield _record(reader, row, f"{number}", f"{reader.path}:{number}", f"row {number}")
    except SourceError:
        raise
    except Exception as error:  # its readers raise whatever their file libraries raise
        raise SourceError(
            f"dataset {reader.path}, split {reader.split}: {type(error).__name__}: {error}",
            hint="check path, name, split and fields; hub datasets need the network or the cache",
        ) from error


def _record(
    reader: JsonlReader | ParquetReader | HuggingFaceReader,
    row: Mapping[str, Any],
    number: str,
    origin: str,
    place: str,
) -> Document:
    """A row as a document."""
    text = row.get(reader.text)
    if not isinstance(text, str):
        got = type(text).__name__ if reader.text in row else "nothing"
        raise SourceError(
            f"{place}: field `{reader.text}` holds {got}, not text"
            f" (fields: {', '.join(map(str, row))})",
            hint="name the field with `text`",
        )
    for field in (reader.id, reader.group):
        if field is not None and row.get(field) is None:
            raise SourceError(f"{place}: no field `{field}`", hint="correct `id` or `group`")
    return Document(
        id=number if reader.id is None else str(row[reader.id]),
        text=text,
        group="" if reader.group is None else str(row[reader.group]),
        origin=origin,
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a plain, .gz or .zst file, without empty lines."""
    import zstandard

    offset = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode()
                except UnicodeDecodeError as error:
                    raise SourceError(
                        f"{path}:{number}: byte {offset + error.start} is not UTF-8"
                        f" ({line[error.start]:#04x})",
                        hint="convert the file to UTF-8",
                    ) from error
                offset += len(line)
                if text.strip():
                    yield number, text
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise SourceError(
            f"{path}: cannot be read ({error})", hint="the file is missing, cut short or damaged"
        ) from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(path), 1 << 20)
    return open(path, "rb")


class _Zstandard(io.RawIOBase):
    """Frames of a .zst file, one after another.

    zstandard's own stream reader takes the end of the file for the end of the data, so a file that
    was cut short would pass for a smaller corpus; here it is an EOFError, as gzip has it.
    """

    def __init__(self, path: Path) -> None:
        import zstandard

        self.file = open(path, "rb")  # noqa: SIM115  closed by close()
        self.new_frame = zstandard.ZstdDecompressor().decompressobj
        self.frame = self.new_frame()
        self.inside = False
        self.ready = memoryview(b"")
        self.unread = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            data = self.unread or self.file.read(1 << 17)
            self.unread = b""
            if not data:
                if self.inside:
                    raise EOFError("it ends inside a zstandard frame")
                return 0
            self.ready, self.inside = memoryview(self.frame.decompress(data)), True
            if self.frame.eof:
                self.unread = self.frame.unused_data
                self.frame, self.inside = self.new_frame(), False
        part, self.ready = self.ready[: len(buffer)], self.ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self.file.close()
        super().close()
