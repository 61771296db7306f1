"""Files behind a URL: whatever store fsspec speaks to (S3, Google Cloud, Azure, HTTP, memory).

A store answers three questions: which files there are, what version of a file this is, and what its
bytes are. The second has its own word in most stores, a checksum or an entity tag, and then a plan
need not download a corpus to learn that nothing changed.

The libraries behind fsspec raise whatever they like, so everything here ends in a `SourceError`.
Keys and passwords come from where those libraries look for them (environment, their own files): a
URL that holds one is refused, since the URLs of a sweep are written down with its plan. What
follows a `?` may be a signature and is never shown.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from anneal.errors import SourceError

ANSWER_SECONDS = 60.0
"""An HTTP server that is silent for so long does not answer; a long download is no silence."""

_VERSIONS = ("sha256", "md5Hash", "ContentMD5", "Content-MD5", "ETag", "etag", "blob_id")
"""What stores call their word for the content of a file, the strongest first."""


class RemoteFile(NamedTuple):
    """One file of a store."""

    url: str
    name: str
    """Relative to what was listed, with forward slashes."""
    size: int
    """Bytes; -1 where the store does not say."""
    stamp: str
    """The store's own word for the version; empty where it has none."""


def is_url(path: str) -> bool:
    """Whether fsspec is to be asked; `file://` is a path like any other."""
    return "://" in path and not path.startswith("file://")


def shown(path: str) -> str:
    """A path or URL as it may be shown: without password and without what follows a `?`."""
    if not is_url(path):
        return path
    return re.sub(r"//[^/@]*@", "//", path.partition("?")[0])


def matching(url: str) -> list[RemoteFile]:
    """The file at `url`, or the files that it matches as a glob, sorted by URL.

    Raises:
        SourceError: no such file, or the store does not answer.
    """
    with _answering(url):
        system, path = _store(url)
        if "*" in url or "[" in url:
            found = system.glob(path, detail=True, **_all(system))
        else:
            found = {path: system.info(path)}
        files = [
            _file(system, name, info, re.sub(r"[?#].*", "", name).rsplit("/", 1)[-1])
            for name, info in sorted(found.items())
            if info["type"] == "file"
        ]
    if not files:
        raise SourceError(f"{shown(url)}: no such file", hint="correct the URL or its glob")
    return files


def below(url: str, pattern: str) -> list[RemoteFile]:
    """Files below `url` whose relative name matches a glob, sorted by name, hidden ones included.

    Raises:
        SourceError: nothing there, or the store does not answer.
    """
    with _answering(url):
        system, path = _store(url)
        root = path.rstrip("/") + "/"
        found = [
            _file(system, name, info, name.removeprefix(root))
            for name, info in system.find(path, detail=True, **_all(system)).items()
            if name.startswith(root) and info["type"] == "file"
        ]
    if not found:
        raise SourceError(f"{shown(url)}: no file below it", hint="correct the URL")
    return sorted((f for f in found if matches(f.name, pattern)), key=lambda file: file.name)


def matches(name: str, pattern: str) -> bool:
    """Whether a relative name matches a glob, as `Path.glob` has it: `**/` is any folders."""
    if pattern.startswith("**/"):
        folders = name.split("/")
        return any(matches("/".join(folders[i:]), pattern[3:]) for i in range(len(folders)))
    head, _, rest = pattern.partition("/")
    first, _, inside = name.partition("/")
    return fnmatchcase(first, head) and (matches(inside, rest) if rest else not inside)


@contextmanager
def open_remote(url: str) -> Iterator[Stream]:
    """Opens the file at `url`; what goes wrong while it is read is an `OSError`.

    Raises:
        SourceError: when it is not there.
    """
    with _answering(url):
        system, path = _store(url)
        file = system.open(path, "rb")
    with file:
        yield Stream(file)


class Stream(io.RawIOBase):
    """An opened remote file, in any order where the store allows that."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.file.read(len(buffer))
        except Exception as error:  # of whatever library the store needs
            raise OSError(f"{type(error).__name__}: {error}") from error
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _answering(url: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except ImportError as error:
        raise SourceError(
            f"{shown(url)}: {error}", hint="install that package beside anneal"
        ) from error
    except Exception as error:  # fsspec's libraries raise whatever they like
        reason: BaseException = error
        while reason.__cause__ is not None:  # over HTTP, all that fails is "not found" at first
            reason = reason.__cause__
        if isinstance(reason, FileNotFoundError) or getattr(reason, "status", 0) == 404:
            what, hint = "no such file", "correct the URL"
        else:
            said = re.sub(r"\?\S*", "", next(iter(str(reason).splitlines()), ""))
            what = f"it does not answer ({type(reason).__name__}: {said})"
            hint = "correct the URL; check the network and the store's credentials"
        raise SourceError(f"{shown(url)}: {what}", hint=hint) from error


def _store(url: str) -> tuple[Any, str]:
    """The file system of a URL, with nothing remembered of it, and the path there."""
    from fsspec.core import url_to_fs

    if urlsplit(url).password is not None:
        raise SourceError(
            f"{shown(url)}: the URL holds a password, which would be written down with the plan",
            hint="leave it to the environment or to the store's own configuration",
        )
    more: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        limits = ClientTimeout(total=None, connect=ANSWER_SECONDS, sock_read=ANSWER_SECONDS)
        more = {"client_kwargs": {"timeout": limits}}
    system, path = url_to_fs(url, **more)
    system.invalidate_cache()
    return system, path


def _all(system: Any) -> dict[str, str]:
    """Options with which a listing is complete or fails. Most stores list everything at once; where
    fsspec goes folder by folder, it would leave out in silence those that do not answer."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    find = getattr(type(system), "_find", type(system).find)
    by_folder = find in (AbstractFileSystem.find, AsyncFileSystem._find)
    return {"on_error": "raise"} if by_folder else {}


def _file(system: Any, path: str, info: dict[str, Any], name: str) -> RemoteFile:
    size = info.get("size")
    stamp = next((f"{key} {info[key]}" for key in _VERSIONS if info.get(key)), "")
    if "W/" in stamp:  # a weak entity tag does not say that the bytes are the same
        stamp = ""
    return RemoteFile(system.unstrip_protocol(path), name, -1 if size is None else size, stamp)
