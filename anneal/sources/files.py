"""Input files: which files a reader reads, and one address for their content.

Before a document is read, two things must be known cheaply: that the input exists, and whether it
changed since the last time. `input_files` lists what a reader would open, in an order that does
not depend on the machine; `fingerprint` addresses the content. Reading gigabytes to learn that
nothing changed would make every re-run slow, so the hash of each file is remembered under its
size and modification time: a re-run only asks the file system.

Names, not paths, enter the address: a corpus that is moved, copied or touched is the same corpus.
Behind a URL the store's own checksum stands for the content, where it has one: then a copy
elsewhere is curated again, and its tokens are found to be the same.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from anneal.errors import SourceError
from anneal.sources.remote import RemoteFile, below, is_url, matching, shown
from anneal.sources.streams import open_bytes
from anneal.sources.values import (
    HuggingFaceReader,
    InstalledReader,
    JsonlReader,
    ParquetReader,
    PreparedReader,
    Reader,
    RepositoriesReader,
    TreeReader,
)
from anneal.store import Store, write
from anneal.values import address

RACY_SECONDS = 2.0
"""A file changed this recently may change again within one tick of its clock: never remembered."""


class InputFile(NamedTuple):
    """One file of an input: where it is, and what it is called wherever it is."""

    path: str
    """As the system opens it, or a URL; a string, since there can be very many."""
    name: str
    """Relative to the input's root, with forward slashes."""
    group: str
    """What keeps related documents together when splitting; empty where the documents say."""
    size: int
    """Bytes; -1 where a store does not say."""
    modified: int
    """Nanoseconds, as the file system says; 0 behind a URL."""
    stamp: str = ""
    """A store's own word for the content; empty where only reading tells."""


def input_files(
    reader: Reader, *, base: Path, dropped: Counter[str] | None = None
) -> list[InputFile]:
    """The files `reader` reads, sorted by name; relative paths start from `base`.

    Args:
        reader: any reader with files of its own: not `prepared`, not a hub dataset.
        base: the folder of the sweep file.
        dropped: counts, by reason, the files that are left out without being opened.

    Raises:
        SourceError: when the path is missing, nothing matches, or all of it is empty.
    """
    left_out: Counter[str] = Counter() if dropped is None else dropped
    if isinstance(reader, InstalledReader):
        from anneal.sources.installed import installed_files

        files = installed_files(reader, left_out)
    elif isinstance(reader, TreeReader):
        files = _tree(reader, base, left_out)
    elif isinstance(reader, RepositoriesReader):
        files = _repositories(reader, base, left_out)
    elif isinstance(reader, HuggingFaceReader):
        folder = _resolve(reader.path, base)
        files = [entry(p, p.relative_to(folder).as_posix()) for p in _visible(folder, "**/*")]
    elif isinstance(reader, JsonlReader | ParquetReader):
        files = _matching(reader.path, base)
    else:
        raise TypeError(f"reader `{reader.kind}` has no files of its own")
    if not any(file.size for file in files):
        raise SourceError(
            f"{_where(reader)}: {'all files are empty' if files else 'no file to read'}"
            + (f" ({sum(left_out.values())} left out)" if left_out else ""),
            hint="correct the path or the glob, or raise max_bytes",
        )
    return files


def fingerprint(reader: Reader, *, base: Path, store: Store) -> str:
    """Address of the content that `reader` reads: equal content, equal address, wherever it lies.

    Hashes are remembered in the store by path, size and modification time.

    Raises:
        SourceError: as `input_files`; or a hub dataset whose revision cannot be resolved.
        TypeError: for a `prepared` reader, whose content is the address of what it names.
    """
    if isinstance(reader, PreparedReader):
        raise TypeError("prepared documents are addressed by their recipe")
    if isinstance(reader, HuggingFaceReader) and not is_local(reader, base):
        return address(["hub", reader.path, resolve_revision(reader)])
    files = input_files(reader, base=base)
    digests = _digests(files, store.fingerprint(address([str(base), reader.model_dump()])))
    if isinstance(reader, RepositoriesReader):  # there, a `.git` decides the group
        names = [f"{file.group}:{file.name}" for file in files]
    elif isinstance(reader, TreeReader | InstalledReader):  # there, the name does
        names = [file.name for file in files]
    else:
        names = [""] * len(files)
    return address([[name, digest] for name, digest in zip(names, digests, strict=True)])


def is_local(reader: HuggingFaceReader, base: Path) -> bool:
    """Whether the dataset is a folder here rather than a name on the hub."""
    return (base / reader.path).exists()


def resolve_revision(reader: HuggingFaceReader) -> str:
    """The commit of a hub dataset: the one that is pinned, or else the newest, by asking the hub.

    Raises:
        SourceError: when the hub cannot be asked or does not know the dataset.
    """
    if reader.revision and re.fullmatch(r"[0-9a-f]{40}", reader.revision):
        return reader.revision
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(reader.path, revision=reader.revision).sha
    except Exception as error:  # its errors are httpx's, its own and OSError
        raise SourceError(
            f"dataset `{reader.path}`: no such folder, and the hub does not answer for it:"
            f" {str(error).splitlines()[0]}",
            hint="correct the path, or pin `revision` to a commit that is in the local cache",
        ) from error
    return str(found)


def seeded_order(name: str, salt: str = "") -> bytes:
    """A key that sorts names in an order that is random in effect and the same everywhere."""
    return hashlib.sha256(f"{salt}\0{name}".encode()).digest()


def entry(path: Path, name: str, group: str = "") -> InputFile:
    """The `InputFile` of a path, with its size and modification time."""
    status = path.stat()
    return InputFile(str(path), name, group, status.st_size, status.st_mtime_ns)


def _tree(reader: TreeReader, base: Path, dropped: Counter[str]) -> list[InputFile]:
    if is_url(reader.path):
        found = [
            _remote(file, _first_folder(file.name))
            for file in below(reader.path, reader.glob)
            if not any(part.startswith(".") for part in file.name.split("/"))
        ]
    else:
        folder = _folder(reader, base)
        named = [(p, p.relative_to(folder).as_posix()) for p in _visible(folder, reader.glob)]
        found = [entry(path, name, _first_folder(name)) for path, name in named]
    files = []
    for file in found:
        if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in reader.exclude):
            dropped["excluded"] += 1
        elif file.size > reader.max_bytes:
            dropped["larger than max_bytes"] += 1
        else:
            files.append(file)
    return files


def _repositories(reader: RepositoriesReader, base: Path, dropped: Counter[str]) -> list[InputFile]:
    from anneal.sources.repositories import code_files

    root = reader.path if is_url(reader.path) else _folder(reader, base)
    return [
        _remote(file, repository)._replace(modified=changed)
        for file, changed, repository in code_files(reader, root, dropped)
    ]


def _folder(reader: TreeReader | RepositoriesReader, base: Path) -> Path:
    folder = _resolve(reader.path, base)
    if not folder.is_dir():
        raise SourceError(
            f"reader `{reader.kind}`, path {reader.path}: not a folder",
            hint="use kind: jsonl or parquet",
        )
    return folder


def _first_folder(name: str) -> str:
    """A file right below the root is its own group, by its content."""
    return name.partition("/")[0] if "/" in name else ""


def _remote(file: RemoteFile, group: str) -> InputFile:
    return InputFile(file.url, file.name, group, file.size, 0, file.stamp)


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Files below `folder`, sorted by relative name, without hidden files and folders."""
    try:
        found = [
            path
            for path in folder.glob(pattern)
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
    except (OSError, ValueError, NotImplementedError) as error:
        raise SourceError(
            f"folder {folder}, glob {pattern!r}: {error}", hint="use a glob relative to the path"
        ) from error
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _matching(pattern: str, base: Path) -> list[InputFile]:
    """Files of a path, URL or glob, sorted by path."""
    if is_url(pattern):
        return [_remote(file, "") for file in matching(pattern)]
    whole = _local(pattern, base)
    paths = [whole] if whole.is_file() else [Path(p) for p in glob.glob(str(whole), recursive=True)]
    files = sorted(path for path in paths if path.is_file())
    if not files:
        raise SourceError(
            f"path {pattern}: no such file (looked in {base})",
            hint="paths are relative to the sweep file",
        )
    return [entry(path, path.name) for path in files]


def _resolve(path: str, base: Path) -> Path:
    whole = _local(path, base)
    if not whole.exists():
        raise SourceError(
            f"path {path}: no such file or folder (looked in {base})",
            hint="paths are relative to the sweep file",
        )
    return whole


def _local(path: str, base: Path) -> Path:
    return base / Path(path.removeprefix("file://")).expanduser()


def _where(reader: Reader) -> str:
    what = reader.what if isinstance(reader, InstalledReader) else getattr(reader, "path", "")
    return f"reader `{reader.kind}`, {shown(what)}"


def _digests(files: list[InputFile], remembered: Path) -> list[str]:
    """SHA-256 of each file, or its stamp; reads only those whose size or time of change is new."""
    try:
        known = json.loads(remembered.read_bytes())
    except (FileNotFoundError, ValueError):
        known = {}
    now, changed, digests = time.time_ns(), False, []
    fresh: dict[str, list[object]] = {}
    for file in files:
        if file.stamp:
            digests.append(file.stamp)
            continue
        row = known.get(file.path) if file.modified else None
        if not (row and row[:2] == [file.size, file.modified]):
            row = [file.size, file.modified, _digest(file.path)]
            changed = True
        digests.append(str(row[2]))
        if file.modified and now - file.modified > RACY_SECONDS * 1e9:
            fresh[file.path] = row
    if changed or len(fresh) != len(known):
        write(remembered, json.dumps(fresh, separators=(",", ":")))
    return digests


def _digest(path: str) -> str:
    try:
        with open_bytes(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise SourceError(
            f"{shown(path)}: cannot be read ({error.strerror or error})",
            hint="correct its permissions",
        ) from error
