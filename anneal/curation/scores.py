"""Known scores: what a model said of a text, kept by the text's content.

Scoring is the dear part of filtering, and the same texts are scored again and again: after a kill,
for another share to keep, in another source that holds the same documents. So every row that a
model computed is kept under the address of the model and the hash of the text.

    cache/scores/<address of the annotator>/<hash of the rows>.npy

A segment is written at once and renamed into place, so a kill loses the rows of the last seconds
and never leaves half of one; segments are merged into one when the work is done. A row also holds
what it did cost, because a source's price is a property of its recipe: were a found score free, the
price of a source would depend on which one was prepared first. All of it may be deleted at any
time, and the annotators that were not used for longest go when there is too much.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anneal.store import write

LIMIT = 2**30
"""Bytes of all annotators' rows together: about 27 million scores."""

SECONDS = 10.0
"""Between two segments: at most this much work is lost by a kill."""

Floats = npt.NDArray[np.float64]


def digests(contents: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """128-bit hashes of contents; shape (contents, 2)."""
    joined = b"".join(hashlib.blake2b(c, digest_size=16).digest() for c in contents)
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2)


class Rows:
    """The rows of one annotator: found by content, added as they are made.

    Args:
        folder: of this annotator, below one that holds every annotator's.
        width: numbers in a row: 1 for a score, as many as a vector has.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder = folder
        self.kind = np.dtype(
            [("key", "<u8", (2,)), ("value", "<f8", (width,)), ("flops", "<f8"), ("seconds", "<f8")]
        )
        self.segments = sorted(folder.glob("*.npy"))
        self.known = self._together()
        self.fresh: list[npt.NDArray[np.void]] = []
        self.written = time.monotonic()
        self.room = LIMIT - self.known.nbytes

    def find(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """(n,) where each key's row is among those that were known at the start; -1 for none."""
        if not len(self.known):
            return np.full(len(keys), -1)
        place = np.searchsorted(self.known["key"][:, 0], keys[:, 0])
        place = np.minimum(place, len(self.known) - 1)
        return np.where((self.known["key"][place] == keys).all(axis=1), place, -1)

    def add(
        self, keys: npt.NDArray[np.uint64], values: Floats, flops: Floats, seconds: Floats
    ) -> None:
        """Keeps rows: keys (n, 2), values (n, width), and what each did cost, (n,)."""
        rows = np.empty(len(keys), self.kind)
        rows["key"], rows["value"], rows["flops"], rows["seconds"] = keys, values, flops, seconds
        if rows.nbytes <= self.room:
            self.room -= rows.nbytes
            self.fresh.append(rows)
        if time.monotonic() - self.written > SECONDS:
            self._flush()

    def close(self) -> None:
        """Writes what is left, merges the segments, and makes room among other annotators."""
        self._flush()
        if len(self.segments) > 1:
            merged, old = self._write(self._together()), self.segments
            for path in old:
                if path != merged:
                    path.unlink(missing_ok=True)
            self.segments = [merged]
        if self.segments:
            os.utime(self.folder)
            _make_room(self.folder)

    def _flush(self) -> None:
        if self.fresh:
            self.segments.append(self._write(np.concatenate(self.fresh)))
            self.fresh = []
        self.written = time.monotonic()

    def _write(self, rows: npt.NDArray[np.void]) -> Path:
        data = io.BytesIO()
        np.save(data, rows, allow_pickle=False)
        name = hashlib.blake2b(data.getbuffer(), digest_size=16).hexdigest()
        write(self.folder / f"{name}.npy", data.getvalue())
        return self.folder / f"{name}.npy"

    def _together(self) -> npt.NDArray[np.void]:
        """The rows of all segments, one for each key, sorted by key."""
        parts = [rows for path in self.segments if (rows := self._read(path)) is not None]
        rows = np.concatenate([np.empty(0, self.kind), *parts])
        keys = rows["key"]
        rows = rows[np.lexsort((keys[:, 1], keys[:, 0]))]
        new = (rows["key"][1:] != rows["key"][:-1]).any(axis=1)
        first: npt.NDArray[np.void] = rows[np.concatenate((np.ones(min(1, len(rows)), bool), new))]
        return first

    def _read(self, path: Path) -> npt.NDArray[np.void] | None:
        """A segment's rows; none where another process merged it away, or where it is damaged."""
        try:
            data = path.read_bytes()
            if hashlib.blake2b(data, digest_size=16).hexdigest() != path.stem:
                return None
            rows: npt.NDArray[np.void] = np.load(io.BytesIO(data), allow_pickle=False)
        except (OSError, ValueError):
            return None
        return rows if rows.dtype == self.kind else None


def _make_room(used: Path) -> None:
    """Removes annotators, those unused for longest first, until all are within `LIMIT`."""
    found: dict[Path, tuple[float, int]] = {}
    for folder in used.parent.iterdir():
        with suppress(FileNotFoundError):  # another process makes room, or merges, meanwhile
            size = sum(path.stat().st_size for path in folder.glob("*.npy"))
            found[folder] = (folder.stat().st_mtime, size)
    total = sum(size for _, size in found.values())
    for folder in sorted(found, key=lambda folder: found[folder][0]):
        if total > LIMIT and folder != used:
            shutil.rmtree(folder, ignore_errors=True)
            total -= found[folder][1]
