"""The store: one folder that holds everything `anneal` makes, and the only module with its paths.

Two rules make it safe to kill anything at any time. A file is written under a temporary name,
flushed to disk and renamed into place, so readers never see half a file. And in every folder one
file is written last (`manifest.json`, `result.json`): its existence is the only state.

    store/
      lock                    held while a sweep runs
      fingerprints/           content of input files by (path, size, mtime): a re-run reads none
      documents/<address>/    curated documents of a source: documents.jsonl.zst, curation.json last
      tokenizers/<address>/   tokenizer.json, tokenizer_info.json last
      tokens/<address>/       shards of a source or target: *.bin, documents.npy, manifest.json last
      steps/<id>.json         what a curation worker is told to do
      runs/<id>/              task.json, log.jsonl, checkpoint-*/, weights/, result.json last; lock,
                              held while it trains
      boundaries/<address>/   state after a phase, for all runs that began alike: boundary.json last
      predictions/<address>/  prediction.json, written before; measured.json, afterwards
      pretrain/<name>/        plan.json and report/ of a full run
      sweeps/<name>/          plan.json, registrations/ and report/; cluster/ with orders for shifts
      leases/                 who carries which run or step out, where several processes could
      cache/                  compiled kernels, answers of teachers: may be deleted at any time, and
                              is then made, and paid for, again
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from anneal.errors import StoreError
from anneal.values import Value

V = TypeVar("V", bound=Value)
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}|writing)")
"""Names under which files and folders are written before they are renamed."""


class Holder(Value):
    """Who holds a store."""

    what: str
    """The verb and what it is about: `sweep demo`."""
    process: int
    host: str

    def __str__(self) -> str:
        return f"{self.what} (process {self.process} on {self.host})"

    @property
    def here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()


class Store:
    """Every path of one store, and the safe ways to write below it.

    Args:
        root: the store's folder; made when first written to.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def fingerprint(self, address: str) -> Path:
        return self.root / "fingerprints" / f"{address}.json"

    def documents(self, address: str) -> Path:
        return self.root / "documents" / address

    def tokenizer(self, address: str) -> Path:
        return self.root / "tokenizers" / address

    def tokens(self, address: str) -> Path:
        return self.root / "tokens" / address

    def step(self, address: str) -> Path:
        return self.root / "steps" / f"{address}.json"

    def run(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    def runs(self) -> list[str]:
        """Identifiers of every run with a folder here, finished or not, sorted."""
        folder = self.root / "runs"
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def boundary(self, address: str) -> Path:
        return self.root / "boundaries" / address

    def prediction(self, address: str) -> Path:
        return self.root / "predictions" / address

    def predictions(self) -> list[str]:
        """Addresses of every prediction with a folder here, sorted."""
        folder = self.root / "predictions"
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def pretrain(self, name: str) -> Path:
        return self.root / "pretrain" / name

    def sweep(self, name: str) -> Path:
        return self.root / "sweeps" / name

    @property
    def leases(self) -> Path:
        return self.root / "leases"

    def cache(self, name: str) -> Path:
        return self.root / "cache" / name

    def folders(
        self, room: Literal["documents", "tokens", "boundaries", "sweeps", "pretrain", "cache"]
    ) -> list[Path]:
        """Folders in a part of the store, sorted; without those still being written."""
        folder = self.root / room
        if not folder.is_dir():
            return []
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    def temporaries(self) -> list[Path]:
        """Files and folders that somebody writes, or was killed writing; caches left out."""
        found: list[Path] = []
        for place, folders, files in os.walk(self.root):
            here = Path(place)
            found += [here / n for n in (*folders, *files) if TEMPORARY.fullmatch(n)]
            inner = [n for n in folders if not TEMPORARY.fullmatch(n)]
            folders[:] = [n for n in inner if here != self.root or n != "cache"]
        return sorted(found)

    def last_holder(self) -> Holder | None:
        """Who took the store last and did not give it back: it may have been killed since."""
        try:
            text = (self.root / "lock").read_text(encoding="utf-8")
        except OSError:
            return None
        found = re.fullmatch(r"(.*) \(process (\d+) on (.*)\)", text.strip(), re.DOTALL)
        if found is None:
            return None
        return Holder(what=found[1], process=int(found[2]), host=found[3])

    def taken(self) -> float | None:
        """When the store was taken last, by the clock of its disk; None when it never was."""
        try:
            return (self.root / "lock").stat().st_mtime
        except OSError:
            return None

    def holder(self) -> Holder | None:
        """Who holds the store now; None when nobody does.

        Asking is not holding, but for the instant in which nobody else does.
        """
        try:
            with open(self.root / "lock", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self.last_holder()
        except OSError:
            return None
        return None

    @contextmanager
    def lock(self, owner: str) -> Iterator[None]:
        """Holds the store for one sweep; the kernel frees it when the process dies.

        Raises:
            StoreError: when another live process holds it, named in the message.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "lock"
        with disk_errors(path), open(path, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise StoreError(
                    f"store {self.root}: in use by {file.read().strip() or 'another sweep'}",
                    hint="wait for it, stop it, or give this sweep its own store=FOLDER",
                ) from None
            file.truncate(0)
            file.write(str(Holder(what=owner, process=os.getpid(), host=socket.gethostname())))
            file.flush()
            yield
            file.truncate(0)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Holds a folder for this process, waiting for the one that holds it; the kernel frees it when
    the process dies."""
    path = folder / "lock"
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sweep_up(folder: Path, name: str = "") -> None:
    """Deletes what `write` and `writing` were at when they were killed; for the only writer there.

    Args:
        folder: where it lies.
        name: of the one file or folder that they wrote; empty for all of them.
    """
    for left in folder.glob(f".{name}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write(path: Path, data: str | bytes) -> None:
    """Writes `data` to `path` so that no reader and no crash ever sees half of it.

    Temporary name, flush, fsync, rename, then fsync of the folder.

    Raises:
        StoreError: when the disk is full or refuses.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Adds `data` to the end of a file and flushes it to disk; all of it or, on an error, nothing.

    Raises:
        StoreError: when the disk is full or refuses.
    """
    with disk_errors(path), open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(before)
            raise


def write_value(path: Path, value: Value) -> None:
    """Writes a value as indented JSON, as `write` does."""
    write(path, value.model_dump_json(indent=1) + "\n")


def read_value(path: Path, kind: type[V]) -> V:
    """Reads what `write_value` wrote.

    Raises:
        StoreError: when the file is missing, is not JSON or is not a `kind`.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path}: missing", hint="run the sweep again: it remakes it") from None
    except (ValidationError, json.JSONDecodeError) as error:
        raise StoreError(
            f"{path}: not a {kind.__name__}: {error}", hint="delete the file and run again"
        ) from error


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all: yields a temporary one, renamed at the end.

    When `folder` appeared meanwhile, made by someone else from the same content, theirs stays.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    with disk_errors(folder):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for path in temporary.iterdir():
                if path.is_file():
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            try:
                os.rename(temporary, folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            _sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"{path}: disk full ({error.strerror})",
                hint="free space and run again: what is finished is kept",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StoreError(
                f"{path}: cannot be written ({error.strerror})", hint="choose another store=FOLDER"
            ) from error
        raise
