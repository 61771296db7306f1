"""Documents: every reader turned into one stream of the same small record.

A document is text with an identity, a group (what must stay on one side of a held-out split) and
an origin to name in messages; licence, language and identifier follow it where the input states
them. `documents` streams them in an order that depends only on the
content of the input, never on the machine: curation keeps the first of two duplicates, and which
is first must be the same everywhere. Prepared documents are kept as JSON lines under zstandard.

Text must be UTF-8. A byte that is not is an error with its file and offset rather than a
replacement character in the training data, unless the reader says to leave out such documents.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from anneal.errors import SourceError
from anneal.sources.files import InputFile, input_files
from anneal.sources.remote import is_url, shown
from anneal.sources.streams import lines, open_bytes
from anneal.sources.values import (
    HuggingFaceReader,
    InstalledReader,
    JsonlReader,
    ParquetReader,
    PreparedReader,
    Reader,
    RepositoriesReader,
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
    licence: str = ""
    """Its own licence, a name or an SPDX expression; empty where only its source's is known."""
    language: str = ""
    """Natural or programming language; empty where unknown."""
    identifier: str = ""
    """Holds everywhere: a SWHID, a DOI, a URL; empty where it has none. What is made from a
    document keeps its licence, language and identifier."""


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
        dropped: counts, by reason, what is left out, and ids that had to be made unique.

    Raises:
        SourceError: missing or unreadable input, bytes that are not UTF-8, a record without its
            field (each with file and place), or no document at all.
    """
    left_out: Counter[str] = Counter() if dropped is None else dropped
    found = False
    for document in _records(reader, base, prepared, left_out):
        text = document.text
        if not text or text.isspace():
            left_out["empty"] += 1
            continue
        try:
            if not text.isascii():  # which is known without looking; saves a copy of most texts
                text.encode()
        except UnicodeEncodeError as error:
            if getattr(reader, "errors", "stop") == "skip":
                left_out["not Unicode"] += 1
                continue
            raise SourceError(
                f"{document.origin}: character {error.start} is half a surrogate pair",
                hint="write the text as valid Unicode",
            ) from error
        found = True
        yield document
    if not found:
        raise SourceError(
            f"reader `{reader.kind}`: no document with text in it{_listed(left_out)}",
            hint="correct path or field",
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
            file.write(json.dumps(_fields(document), ensure_ascii=False).encode() + b"\n")
            count += 1
            size += len(document.text.encode())
    return count, size


def read_documents(folder: Path) -> Iterator[Document]:
    """Streams the prepared documents of `folder`.

    Raises:
        SourceError: when they are missing or damaged.
    """
    for _, _, data in lines(str(folder / DOCUMENTS_FILE)):
        yield Document(**json.loads(data.decode()))


def _fields(document: Document) -> dict[str, str]:
    """A document as it is written: what it does not state is left out."""
    row = {
        "id": document.id,
        "text": document.text,
        "group": document.group,
        "origin": document.origin,
    }
    for name in ("licence", "language", "identifier"):
        if value := getattr(document, name):
            row[name] = value
    return row


def _records(
    reader: Reader, base: Path, prepared: Mapping[str, Path], dropped: Counter[str]
) -> Iterator[Document]:
    from anneal.sources import rows  # it makes documents, as this module does

    if isinstance(reader, PreparedReader):
        return read_documents(prepared[reader.source])
    if isinstance(reader, HuggingFaceReader):
        return rows.hugging_face(reader, base, dropped)
    files = input_files(reader, base=base, dropped=dropped)
    if isinstance(reader, JsonlReader):
        return rows.jsonl(reader, files, dropped)
    if isinstance(reader, ParquetReader):
        return rows.parquet(reader, files, dropped)
    if isinstance(reader, InstalledReader):
        return _installed(reader, files, dropped)
    return (
        _texts(reader, files, dropped)
        if isinstance(reader, TreeReader)
        else _code(reader, files, dropped)
    )


def _texts(reader: TreeReader, files: list[InputFile], dropped: Counter[str]) -> Iterator[Document]:
    for file in files:
        data = _bytes(file, reader.max_bytes, dropped)
        if data is None:
            continue
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            if reader.errors == "skip":
                dropped["not UTF-8"] += 1
                continue
            raise SourceError(
                f"{shown(file.path)}: byte {error.start} is not UTF-8"
                f" ({error.object[error.start]:#04x})",
                hint="convert the file to UTF-8, leave it out with `glob` or `exclude`, or leave"
                " out and count such files with `errors: skip`",
            ) from error
        yield Document(file.name, text, file.group, file.name)


def _code(
    reader: RepositoriesReader, files: list[InputFile], dropped: Counter[str]
) -> Iterator[Document]:
    from anneal.sources.repositories import language_of, licence_of, swhid

    for file in files:
        data = _bytes(file, reader.max_bytes, dropped)
        if data is None:
            continue
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:  # some file always is, and nobody mends other people's history
            dropped["not UTF-8"] += 1
            continue
        yield Document(
            file.name,
            text,
            file.group,
            file.name,
            licence=licence_of(text),
            language=language_of(file.name),
            identifier=swhid(data),
        )


def _bytes(file: InputFile, most: int, dropped: Counter[str]) -> bytes | None:
    """A file's content; None, and counted, where it is binary or longer than its store said."""
    try:
        if is_url(file.path):
            with open_bytes(file.path) as stream:
                data = stream.read(most + 1)
        else:
            with open(file.path, "rb", buffering=0) as whole:
                data = whole.read()
    except OSError as error:
        raise SourceError(
            f"{shown(file.path)}: cannot be read ({error.strerror or error})",
            hint="correct its permissions",
        ) from error
    if len(data) > most:
        dropped["larger than max_bytes"] += 1
        return None
    if b"\0" in data:
        dropped["binary"] += 1
        return None
    return data


def _installed(
    reader: InstalledReader, files: list[InputFile], dropped: Counter[str]
) -> Iterator[Document]:
    from anneal.sources.installed import code, prose

    if reader.what == "prose":
        for name, text, group in prose(files, reader.max_total_bytes, dropped):
            yield Document(name, text, group, name)
    else:
        for file, text in code(files, dropped, parsed=reader.what == "stdlib"):
            yield Document(file.name, text, file.group, file.name, language="Python")


def _listed(left_out: Counter[str]) -> str:
    found = ", ".join(f"{reason}: {count}" for reason, count in sorted(left_out.items()))
    return f" (left out: {found})" if found else ""
