"""Streams: the bytes of an input file, wherever it lies and however it is packed.

Whatever the size of a file or of one line in it, a few megabytes are in memory: decompression stops
when a buffer is full, and a line above the limit is passed over, not put together. A file that was
cut short is an error; taken for the end of the data, it would pass for a smaller corpus.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any

from anneal.errors import SourceError
from anneal.sources.remote import is_url, open_remote, shown

BUFFER = 1 << 20
CODECS = {".gz": "gzip", ".zst": "zstd"}
"""By the end of the file's name."""


@contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """Opens a path or URL to be read from its start.

    Raises:
        SourceError: a URL that does not answer.
        OSError: a path that cannot be opened; anything that goes wrong while reading.
    """
    if is_url(path):
        with open_remote(path) as remote, io.BufferedReader(remote, BUFFER) as file:
            yield file
    else:
        with open(path, "rb", buffering=BUFFER) as file:
            yield file


@contextmanager
def unpacked(path: str) -> Iterator[IO[bytes]]:
    """Opens a path or URL, unpacking .gz and .zst as it is read; errors are `open_bytes`'s."""
    codec = CODECS.get(PurePosixPath(path.partition("?")[0] if is_url(path) else path).suffix)
    if codec is None:
        with open_bytes(path) as file:
            yield file
        return
    # not zstandard's own reader: it takes the end of the file for the end of the data. Arrow goes
    # on through all frames, and says when the last one is cut short
    import pyarrow

    with ExitStack() as stack:
        packed: Any = (
            pyarrow.PythonFile(stack.enter_context(open_bytes(path)), mode="r")
            if is_url(path)
            else stack.enter_context(pyarrow.OSFile(path))
        )
        stream = stack.enter_context(pyarrow.CompressedInputStream(packed, codec))
        yield stack.enter_context(io.BufferedReader(stream, BUFFER))


def lines(
    path: str, *, most: int | None = None, dropped: Counter[str] | None = None
) -> Iterator[tuple[int, int, bytes]]:
    """Lines of a plain, .gz or .zst file, without those of white space alone.

    Each comes as (its number from 1, how many unpacked bytes stand before it, the line).

    Args:
        path: a path or URL.
        most: bytes of the longest line; longer ones are passed over and counted.
        dropped: where they are counted.

    Raises:
        SourceError: missing, cut short, damaged, or a URL that does not answer.
    """
    limit = -1 if most is None else most + 1
    offset = 0
    try:
        with unpacked(path) as file:
            for number, data in enumerate(iter(partial(file.readline, limit), b""), start=1):
                if len(data) == limit and data[-1] != 10:  # 10: the end of a line
                    offset += len(data) + _pass_over(file)
                    if dropped is not None:
                        dropped["longer than max_bytes"] += 1
                    continue
                if not data.isspace():
                    yield number, offset, data
                offset += len(data)
    except OSError as error:
        raise SourceError(
            f"{shown(path)}: cannot be read ({error.strerror or error})",
            hint="the file is missing, cut short or damaged",
        ) from error


def _pass_over(file: IO[bytes]) -> int:
    """Reads to the end of the line; returns how many bytes that was."""
    passed = 0
    for part in iter(partial(file.readline, BUFFER), b""):
        passed += len(part)
        if part[-1] == 10:
            break
    return passed
