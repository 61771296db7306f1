"""Benchmark files: more text that must not be trained on, though no run is scored on it here.

A file is JSON lines or Parquet, with the fields that are compared, or plain text. They are read by
the readers that sources have, so compression, bad bytes and missing fields are met in the same way.
Their content, and never where they lie, is part of a recipe.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from anneal.curation.steps import Decontaminate
from anneal.errors import SourceError
from anneal.sources.documents import Document, documents
from anneal.sources.files import fingerprint, input_files
from anneal.sources.values import JsonlReader, ParquetReader, Reader, TreeReader
from anneal.store import Store
from anneal.values import address

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")


def benchmark_documents(step: Decontaminate, base: Path) -> Iterator[tuple[str, Document]]:
    """(Name of the file, document) of every row of every benchmark file of `step`.

    Args:
        step: names files and fields.
        base: folder that relative paths start from.

    Raises:
        SourceError: a file that is missing, has another ending, lacks a field or cannot be read.
    """
    for pattern in step.benchmarks:
        for file in input_files(JsonlReader(path=pattern), base=base):
            try:
                for document in _rows(file.path, step.fields):
                    yield file.name, document
            except SourceError as error:
                raise SourceError(f"benchmark {error.what}", hint=error.hint) from error


def benchmarks_address(step: Decontaminate, store: Store, base: Path) -> str:
    """Address of the content of the benchmark files; empty where there are none.

    Raises:
        SourceError: a pattern that no file has, or an ending that is not read.
    """
    contents = []
    for pattern in step.benchmarks:
        reader = JsonlReader(path=pattern)
        try:
            for file in input_files(reader, base=base):
                _ending(file.path)
            contents.append(fingerprint(reader, base=base, store=store))
        except SourceError as error:
            raise SourceError(f"benchmark {error.what}", hint=error.hint) from error
    return address(sorted(contents)) if contents else ""


def _rows(path: str, fields: tuple[str, ...]) -> Iterator[Document]:
    """The file's documents; those of one row are joined by a newline, in the order of `fields`."""
    kind = JsonlReader if ".jsonl" in _ending(path) else ParquetReader
    if _ending(path) == ".txt":
        place = Path(path)
        reader: Reader = TreeReader(
            path=str(place.parent), glob=glob.escape(place.name), max_bytes=2**40
        )
        yield from documents(reader, base=place.parent, prepared={})
        return
    rows: dict[str, list[Document]] = {}
    for field in fields:
        # a row whose field is empty has no document there, so rows are matched by their numbers
        for document in documents(kind(path=path, text=field), base=Path(), prepared={}):
            rows.setdefault(document.id, []).append(document)
    for row in rows.values():
        text = "\n".join(document.text for document in row)
        yield Document(row[0].origin, text, "", row[0].origin)


def _ending(path: str) -> str:
    for ending in ENDINGS:
        if path.endswith(ending):
            return ending
    raise SourceError(
        f"{path}: not {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}", hint="convert the file"
    )
