"""The cache of answers: a request that was answered is never paid for again.

An answer is kept under the address of its request, so it is found again after a kill, by another
run and by another source that asks the same. Each answer is on disk before it is used: first as a
line of the process's own journal, which is flushed after every batch of answers, and from there in
shards of many, compressed, each of which appears whole or not at all.

    cache/synthesis/<teacher>/journal-<random>.jsonl      one process's latest; locked by it
    cache/synthesis/<teacher>/<address>.jsonl.zst         a shard; never changed

A journal that nobody locks belonged to a process that was killed: whoever comes next turns it into
a shard. A last line that was cut off is an answer that was not kept. Memory grows with the number
of answers (about 150 bytes each), not with their text.
"""

from __future__ import annotations

import fcntl
import json
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from anneal.curation.teacher import Answer
from anneal.errors import StoreError
from anneal.store import append, write
from anneal.values import address

SHARD = 1024
"""Answers in a shard; of one that a process leaves behind, perhaps fewer."""
_LINES = 2**32
OPEN_SHARDS = 4
"""Kept unpacked: a step that is done again asks in the order in which it asked before."""


class Answers:
    """The answers of one teacher.

    Args:
        folder: of that teacher, made when it is missing.

    Raises:
        StoreError: a shard is damaged, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._shards: list[Path] = []
        self._places: dict[int, int] = {}
        self._unpacked: OrderedDict[int, list[tuple[str, Answer]]] = OrderedDict()
        self._latest: dict[str, Answer] = {}
        for path in sorted(folder.glob("*.jsonl.zst")):
            self._index(path, _read_shard(path))
        for path in sorted(folder.glob("journal-*.jsonl")):
            self._inherit(path)
        self._journal = folder / f"journal-{uuid.uuid4().hex[:12]}.jsonl"
        self._lock: IO[bytes] | None = None

    def get(self, key: str) -> Answer | None:
        """The answer to the request with that key, where there is one."""
        if key in self._latest:
            return self._latest[key]
        place = self._places.get(int(key, 16))
        if place is None:
            return None
        number, line = divmod(place, _LINES)
        if number not in self._unpacked:
            self._unpacked[number] = _read_shard(self._shards[number])
            if len(self._unpacked) > OPEN_SHARDS:
                self._unpacked.popitem(last=False)
        self._unpacked.move_to_end(number)
        return self._unpacked[number][line][1]

    def add(self, answers: Iterable[tuple[str, Answer]]) -> None:
        """Keeps answers by key; when this returns they are on disk.

        Raises:
            StoreError: the disk is full.
        """
        new = dict(answers)
        if not new:
            return
        if self._lock is None:
            self._lock = open(self._journal, "ab")  # noqa: SIM115 (held until `close`)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        append(self._journal, _lines(new))
        self._latest |= new
        if len(self._latest) >= SHARD:
            self._index(self._write_shard(self._latest), list(self._latest.items()))
            self._latest = {}
            self._lock.truncate(0)

    def close(self) -> None:
        """Makes a shard of what is left."""
        if self._lock is None:
            return
        try:
            if self._latest:
                self._write_shard(self._latest)
            self._journal.unlink(missing_ok=True)
        finally:  # a journal that is left is taken over by whoever comes next
            self._lock.close()
            self._lock = None

    def _index(self, path: Path, rows: Iterable[tuple[str, Answer]]) -> None:
        number = len(self._shards)
        self._shards.append(path)
        for line, (key, _) in enumerate(rows):
            self._places[int(key, 16)] = number * _LINES + line

    def _inherit(self, path: Path) -> None:
        """Takes over the journal of another process; where it lives, only reads it."""
        with suppress(FileNotFoundError), open(path, "rb") as file:
            rows = dict(_rows(file.read(), path, torn=True))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._latest |= rows
                return
            if rows:
                self._index(self._write_shard(rows), rows.items())
            path.unlink(missing_ok=True)

    def _write_shard(self, rows: Mapping[str, Answer]) -> Path:
        import zstandard

        path = self._folder / f"{address(list(rows))}.jsonl.zst"
        write(path, zstandard.ZstdCompressor(write_checksum=True).compress(_lines(rows)))
        return path


def _lines(rows: Mapping[str, Answer]) -> bytes:
    lines = [json.dumps({"key": key, **asdict(answer)}) + "\n" for key, answer in rows.items()]
    return "".join(lines).encode()


def _read_shard(path: Path) -> list[tuple[str, Answer]]:
    import zstandard

    try:
        data = zstandard.ZstdDecompressor().decompress(path.read_bytes())
    except zstandard.ZstdError as error:
        raise _damaged(path, str(error)) from None
    return _rows(data, path, torn=False)


def _rows(data: bytes, path: Path, *, torn: bool) -> list[tuple[str, Answer]]:
    """The answers in JSON lines; `torn` says that the last line may have been cut off."""
    found = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1] if torn else filter(None, lines), 1):
        try:
            row = json.loads(line)
            found.append((row.pop("key"), Answer(**row)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, f"line {number}: {error}") from None
    return found


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"answers {path}: damaged ({what})",
        hint="delete the file; the answers in it will be asked for again",
    )
