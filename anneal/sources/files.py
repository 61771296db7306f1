"""Input files: which files a reader reads, and one address for their content.

Before a document is read, two things must be known cheaply: that the input exists, and whether it
changed since the last time. `input_files` lists what a reader would open, in an order that does
not depend on the machine; `fingerprint` addresses the content. Reading gigabytes to learn that
nothing changed would make every re-run slow, so the hash of each file is remembered under its
size and modification time: a re-run only asks the file system.

Names, not paths, enter the address: a corpus that is moved, copied or touched is the same corpus.
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
from anneal.sources.values import (
    HuggingFaceReader,
    InstalledReader,
    JsonlReader,
    ParquetReader,
    PreparedReader,
    Reader,
    TreeReader,
)
from anneal.store import Store, write
from anneal.values import address

RACY_SECONDS = 2.0
"""A file changed this recently may change again within one tick of its clock: never remembered."""


class InputFile(NamedTuple):
    """One file of an input: where it is, and what it is called wherever it is."""

    path: str
    """As the system opens it; a string, since there can be very many."""
    name: str
    """Relative to the input's root, with forward slashes."""
    group: str
    """What keeps related documents together when splitting; empty where the documents say."""
    size: int
    """Bytes."""
    modified: int
    """Nanoseconds, as the file system says."""


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
    named = isinstance(reader, TreeReader | InstalledReader)  # there, names decide the groups
    digests = _digests(files, store.fingerprint(address([str(base), reader.model_dump()])))
    return address([[f.name if named else "", d] for f, d in zip(files, digests, strict=True)])


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
    folder = _resolve(reader.path, base)
    if not folder.is_dir():
        raise SourceError(
            f"reader `tree`, path {reader.path}: not a folder", hint="use kind: jsonl or parquet"
        )
    files = []
    for path in _visible(folder, reader.glob):
        name = path.relative_to(folder).as_posix()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in reader.exclude):
            dropped["excluded"] += 1
            continue
        # a file right below the root is its own group, by its content
        file = entry(path, name, name.split("/")[0] if "/" in name else "")
        if file.size > reader.max_bytes:
            dropped["larger than max_bytes"] += 1
        else:
            files.append(file)
    return files


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
    """Files of a path or a glob, sorted by path."""
    whole = base / Path(pattern).expanduser()
    paths = [whole] if whole.is_file() else [Path(p) for p in glob.glob(str(whole), recursive=True)]
    files = sorted(path for path in paths if path.is_file())
    if not files:
        raise SourceError(
            f"path {pattern}: no such file (looked in {base})",
            hint="paths are relative to the sweep file",
        )
    return [entry(path, path.name) for path in files]


def _resolve(path: str, base: Path) -> Path:
    whole = base / Path(path).expanduser()
    if not whole.exists():
        raise SourceError(
            f"path {path}: no such file or folder (looked in {base})",
            hint="paths are relative to the sweep file",
        )
    return whole


def _where(reader: Reader) -> str:
    what = reader.what if isinstance(reader, InstalledReader) else getattr(reader, "path", "")
    return f"reader `{reader.kind}`, {what}"


def _digests(files: list[InputFile], remembered: Path) -> list[str]:
    """SHA-256 of each file; reads only those whose size or modification time is new."""
    try:
        known = json.loads(remembered.read_bytes())
    except (FileNotFoundError, ValueError):
        known = {}
    now, changed, digests = time.time_ns(), False, []
    fresh: dict[str, list[object]] = {}
    for file in files:
        row = known.get(file.path)
        if not (row and row[:2] == [file.size, file.modified]):
            row = [file.size, file.modified, _digest(file.path)]
            changed = True
        digests.append(str(row[2]))
        if now - file.modified > RACY_SECONDS * 1e9:
            fresh[file.path] = row
    if changed or len(fresh) != len(known):
        write(remembered, json.dumps(fresh, separators=(",", ":")))
    return digests


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror})", hint="correct its permissions"
        ) from error
