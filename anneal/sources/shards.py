"""Shards: files of token ids, written one after another and hashed on the way.

A shard is nothing but ids, little-endian uint16 or uint32. `documents.npy` holds where documents
start, over all shards. A reader maps the files and slices: no parsing, no copy.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from anneal.sources.values import Shard

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


class Shards:
    """Appends documents to shards of at most `shard_tokens`.

    Args:
        folder: an existing folder.
        wide: four bytes a token instead of two.
        shard_tokens: most tokens in one file.
    """

    def __init__(self, folder: Path, *, wide: bool, shard_tokens: int) -> None:
        self.folder = folder
        self.kind = np.dtype("<u4" if wide else "<u2")
        self.shard_tokens = shard_tokens
        self.shards: list[Shard] = []
        self.starts = array("q", [0])
        """Where each document begins, and the end of the last."""
        self.padding = 0
        """Tokens that fill up windows; in `starts` they belong to the document before."""
        self._file: IO[bytes] | None = None
        self._written = 0
        self._digest = hashlib.sha256()

    @property
    def tokens(self) -> int:
        """Tokens written, padding included."""
        return self.starts[-1]

    def add(self, ids: npt.NDArray[np.integer]) -> None:
        """One document's ids, shape (tokens,)."""
        self.starts.append(self.tokens + len(ids))
        self._write(ids)

    def pad(self, count: int, token: int) -> None:
        """`count` tokens that are no document's."""
        self.starts[-1] += count
        self.padding += count
        self._write(np.full(count, token))

    def _write(self, ids: npt.NDArray[np.integer]) -> None:
        data = ids.astype(self.kind)
        while len(data):
            if self._file is None:
                path = self.folder / f"{len(self.shards):05d}.bin"
                self._file = open(path, "wb")  # noqa: SIM115  closed by close()
            part, data = np.split(data, [self.shard_tokens - self._written])
            raw = part.tobytes()
            self._file.write(raw)
            self._digest.update(raw)
            self._written += len(part)
            if self._written == self.shard_tokens:
                self.close()

    def close(self) -> None:
        """Ends the current shard."""
        if self._file is not None:
            name = Path(self._file.name).name
            self._file.close()
            shard = Shard(file=name, tokens=self._written, sha256=self._digest.hexdigest())
            self.shards.append(shard)
            self._file, self._written, self._digest = None, 0, hashlib.sha256()

    def reader(self) -> Reader:
        """Reads documents back by number; nothing more is written then."""
        self.close()
        return Reader(self)

    def remove(self) -> None:
        """Deletes what was written, and the folder."""
        for shard in self.shards:
            (self.folder / shard.file).unlink()
        self.folder.rmdir()


class Reader:
    """Documents of finished shards by number.

    Read, not mapped: in an order of its own a document's pages are of no use to the next one, and
    mapped they would count as this process's memory until all of the file is in it.
    """

    def __init__(self, shards: Shards) -> None:
        self.starts = np.frombuffer(shards.starts, dtype=np.int64)
        self.lengths = np.diff(self.starts)
        """(documents,) tokens of each."""
        self.kind, self.shard_tokens = shards.kind, shards.shard_tokens
        self._stack = ExitStack()
        self._files = [
            self._stack.enter_context(open(shards.folder / shard.file, "rb"))  # noqa: SIM115
            for shard in shards.shards
        ]

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __getitem__(self, number: int) -> Tokens:
        at, stop = int(self.starts[number]), int(self.starts[number + 1])
        parts = []
        while at < stop:
            index, inside = divmod(at, self.shard_tokens)
            count = min(stop - at, self.shard_tokens - inside)
            width = self.kind.itemsize
            parts.append(os.pread(self._files[index].fileno(), count * width, inside * width))
            at += count
        return np.frombuffer(b"".join(parts), dtype=self.kind)
