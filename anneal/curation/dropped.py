"""The list of what was dropped and why, kept beside a source's documents.

A filter that nobody can check is a filter nobody should trust: for every document that a step
drops there is a line in `dropped.jsonl.zst` with its identifier, its origin, the step, the reason
and what the step saw (which target document, what share, a copy of what), and never the text, for
that may be somebody's test set. A corpus can lose a billion documents, so at most `MOST` lines are
kept of each step's each reason, the first ones; the last lines of the file say how many more there
were. The counts of the curation record are always whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anneal.sources.documents import Document

DROPPED_FILE = "dropped.jsonl.zst"
MOST = 10_000
"""Lines of one reason of one step; a line is a few hundred bytes, a few dozen compressed."""
LONGEST = 300
"""Characters of an identifier or an origin that are kept."""

Detail = str | int | float


class DroppedFile:
    """Writes the list; a context manager, complete when it is left.

    Args:
        path: the file to write.
    """

    def __init__(self, path: Path) -> None:
        import zstandard

        self._raw = open(path, "wb")  # noqa: SIM115  closed by __exit__
        self._file: Any = zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(
            self._raw
        )
        self._seen: Counter[tuple[str, str]] = Counter()

    def add(self, step: str, document: Document, reason: str, detail: Mapping[str, Detail]) -> None:
        """One line, while there is room for more of its step and reason."""
        self._seen[step, reason] += 1
        if self._seen[step, reason] <= MOST:
            row = {"id": document.id[:LONGEST], "origin": document.origin[:LONGEST], "step": step}
            self._write(row | {"reason": reason} | dict(detail))

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def __enter__(self) -> DroppedFile:
        return self

    def __exit__(self, *error: object) -> None:
        for (step, reason), count in self._seen.items():
            if count > MOST:
                self._write({"step": step, "reason": reason, "not_listed": count - MOST})
        self._file.close()


def read_dropped(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines beside the prepared documents of `folder`, in the order of dropping.

    Each has `step` and `reason`; `id`, `origin` and the details of the step, or, at the end,
    `not_listed`: the number of documents that got no line.
    """
    import zstandard

    with zstandard.open(folder / DROPPED_FILE, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
