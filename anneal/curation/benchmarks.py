"""Benchmark files: more text that must not be trained on, though no run is scored on it here.

A file is JSON lines or Parquet, with the fields that are compared, or plain text. They are read by
the readers that sources have, so compression, bad bytes and missing fields are met in the same way.
Their content, and never where they lie, is part of a recipe.
"""

from __future__ import annotations

import glob
from collections import Counter
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
    if _ending(path) == ".txt":
        folder, name = str(Path(path).parent), glob.escape(Path(path).name)
        yield from _whole(TreeReader(path=folder, glob=name, max_bytes=2**40))
        return
    kind = JsonlReader if ".jsonl" in _ending(path) else ParquetReader
    rows: dict[str, list[Document]] = {}
    for field in fields:
        # a row whose field is empty has no document there, so rows are matched by their numbers
        for document in _whole(kind(path=path, text=field)):
            rows.setdefault(document.id, []).append(document)
    for row in rows.values():
        text = "\n".join(document.text for document in row)
        yield Document(row[0].origin, text, "", row[0].origin)


def _whole(reader: Reader) -> Iterator[Document]:
    """All documents of a file, or an error: what is left out here could be trained on."""
    left_out: Counter[str] = Counter()
    yield from documents(reader, base=Path(), prepared={}, dropped=left_out)
    del left_out["empty"]
    if left_out:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise SourceError(
            f"{getattr(reader, 'path', '')}: rows that cannot be compared with ({reasons})",
            hint="mend the file, or leave it out of `benchmarks`",
        )


def _ending(path: str) -> str:
    for ending in ENDINGS:
        if path.endswith(ending):
            return ending
    raise SourceError(
        f"{path}: not {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}", hint="convert the file"
    )
