"""What a store holds that nothing needs any more: listed, sized, and deleted where told to.

A thing is needed when something that stays refers to it. The roots are the runs of every plan
(of sweeps and of full runs), every run that is finished or was written to just now, every decision,
and the steps that prepare the sweep at hand. From them follow tokens, the documents these were made
of and what those were made from, and the boundaries of every run. What is left over:

    temporary           of writers that were killed: nobody wrote there for `QUIET_SECONDS`
    checkpoints         of finished runs
    tokens, documents, boundaries       that no root refers to
    caches              with `--cache` alone: made, and paid for, again when they are needed

Results, predictions, plans, reports and tokenizers are never touched. A sweep or full run that
prepared its sources and was never planned refers to nothing yet, so while there is one all tokens
and documents stay. Nothing is judged while somebody holds the store.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from anneal.curation.values import PrepareStep
from anneal.errors import SourceError, StoreError
from anneal.plan.values import RunSpec, RunTask
from anneal.sources.values import Manifest
from anneal.store import Store, read_value
from anneal.sweep.prepare import steps_of
from anneal.sweep.record import planned
from anneal.sweep.values import Sweep

QUIET_SECONDS = 600.0
"""A run that a person started by hand holds no lock: what it writes to is left alone."""


@dataclass(frozen=True)
class Waste:
    """Something that nothing needs.

    Args:
        path: file or folder.
        why: in words.
        bytes: of all its files.
    """

    path: Path
    why: str
    bytes: int


@dataclass
class Needed:
    """What the roots refer to, by address."""

    contents: set[str] = field(default_factory=set)
    """Of tokens; steps that make some stand among them."""
    documents: set[str] = field(default_factory=set)
    boundaries: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    """Why all tokens and documents are kept, where they are."""


def collect(ask: Sweep, *, delete: bool = False, cache: bool = False) -> list[Waste]:
    """Lists what nothing needs, and deletes it where `delete`.

    Args:
        ask: a sweep: its store is looked at, and its sources stay even before it is planned.
        delete: delete what is listed.
        cache: caches too.

    Raises:
        StoreError: the store does not exist or is in use; or a plan or task in it cannot be read,
            so that nobody can say what it needs.
    """
    store = Store(ask.store)
    if not store.root.is_dir():
        raise StoreError(f"store {store.root}: there is none", hint="name another store=FOLDER")
    with store.lock("gc"):
        needed = needs(ask, store)
        found = list(_waste(store, needed, cache=cache))
        for one in found:
            print(f"{_size(one.bytes):>10}  {one.path.relative_to(store.root)}  ({one.why})")
            if delete:
                remove(one.path)
    for note in needed.notes:
        print(f"note: {note}")
    total = f"{len(found)} things, {_size(sum(one.bytes for one in found))}"
    print(f"{total} {'deleted' if delete else 'that nothing needs: --delete deletes them'}")
    return found


def needs(ask: Sweep, store: Store) -> Needed:
    """What the plans, finished runs and decisions of a store refer to."""
    found = Needed()
    specs: dict[str, RunSpec] = {}
    for folder in store.folders("sweeps"):
        if (folder / "plan.json").exists():
            specs |= {run.spec.id: run.spec for run in planned(folder)}
        else:
            found.notes.append(f"all tokens and documents stay: {folder.name} was never planned")
        found.contents |= _decided(folder / "report" / "decision.json")
    for folder in store.folders("pretrain"):
        found.contents |= _decided(folder / "report" / "pretrained.json")
        if (folder / "plan.json").exists():
            spec = _full_run(folder / "plan.json")
            specs[spec.id] = spec
        else:
            found.notes.append(f"all tokens and documents stay: {folder.name} was never laid out")
    for name in store.runs():
        folder = store.run(name)
        stays = (folder / "result.json").exists() or _quiet(folder) < QUIET_SECONDS
        if stays and (folder / "task.json").exists():
            specs[name] = read_value(folder / "task.json", RunTask).spec
    _starts(specs, store)
    for spec in specs.values():
        found.contents |= set(spec.contents)
        found.boundaries |= {spec.boundary(index) for index in range(len(spec.phases))}
    _steps(ask, store, found)
    for folder in store.folders("tokens"):
        manifest = _manifest(folder)
        if manifest is not None and _used(folder, manifest, found):
            found.documents.add(manifest.documents_address)
    _upstream(store, found.documents)
    return found


def remove(path: Path) -> None:
    """Deletes a file or folder; a kill in between leaves a temporary, never half of what it was."""
    doomed = path.with_name(f".{path.name.lstrip('.')}.{uuid.uuid4().hex[:8]}")
    os.rename(path, doomed)
    if doomed.is_dir() and not doomed.is_symlink():
        shutil.rmtree(doomed)
    else:
        doomed.unlink()


def _waste(store: Store, needed: Needed, *, cache: bool) -> Iterator[Waste]:
    for path in store.temporaries():
        if _quiet(path) >= QUIET_SECONDS:
            yield _of(path, "of a writer that was killed")
    for name in store.runs():
        folder = store.run(name)
        if (folder / "result.json").exists():
            for path in sorted(folder.glob("checkpoint-*")):
                yield _of(path, "checkpoint of a finished run")
    if not needed.notes:
        yield from _texts(store, needed)
    for folder in store.folders("boundaries"):
        if folder.name not in needed.boundaries:
            yield _of(folder, "state after a phase of no run")
    for folder in store.folders("cache") if cache else ():
        yield _of(folder, "cache")


def _texts(store: Store, needed: Needed) -> Iterator[Waste]:
    """Tokens and documents that nothing refers to."""
    for folder in store.folders("tokens"):
        manifest = _manifest(folder)
        if manifest is None or not _used(folder, manifest, needed):
            name = manifest.name if manifest else "an unfinished writer"
            yield _of(folder, f"tokens of {name} that no run or decision refers to")
    for folder in store.folders("documents"):
        if folder.name not in needed.documents:
            yield _of(folder, "documents that no tokens in use were made of")


def _used(folder: Path, manifest: Manifest, needed: Needed) -> bool:
    return not needed.contents.isdisjoint({folder.name, manifest.content})


def _starts(specs: dict[str, RunSpec], store: Store) -> None:
    """Adds the runs that those of `specs` start from, as far back as the store knows."""
    todo = list(specs.values())
    while todo:
        start = todo.pop().start
        if start.kind != "run" or start.run in specs:
            continue
        task = store.run(start.run) / "task.json"
        if task.exists():
            specs[start.run] = read_value(task, RunTask).spec
            todo.append(specs[start.run])


def _steps(ask: Sweep, store: Store, found: Needed) -> None:
    """Adds what prepares the sweep at hand, which may have changed since it was planned."""
    if not store.sweep(ask.name).is_dir():
        return
    try:
        steps = steps_of(ask, store)
    except SourceError as error:
        found.notes.append(f"all tokens and documents stay: sweep {ask.name}: {error.what}")
        return
    for step in steps:
        if step.work.kind == "documents":
            found.documents.add(step.id)
        elif step.work.kind == "tokens":
            found.contents.add(step.id)
            if (manifest := _manifest(store.tokens(step.id))) is not None:
                found.contents.add(manifest.content)


def _upstream(store: Store, documents: set[str]) -> None:
    """Adds the documents that these were made from, by the steps that made them."""
    todo = list(documents)
    while todo:
        path = store.step(todo.pop())
        if not path.exists():
            continue
        work = read_value(path, PrepareStep).work
        if work.kind == "documents":
            new = {*work.upstream.values(), *work.against.values()} - documents
            documents |= new
            todo += new


def _manifest(folder: Path) -> Manifest | None:
    path = folder / "manifest.json"
    return read_value(path, Manifest) if path.exists() else None


def _decided(path: Path) -> set[str]:
    """Content addresses that a decision or the report of a full run names: `NAME ADDRESS, ...`."""
    if not path.exists():
        return set()
    told = _json(path).get("reproduce", {}).get("data", "")
    return {pair.rpartition(" ")[2] for pair in told.split(", ") if pair}


def _full_run(path: Path) -> RunSpec:
    try:
        return RunSpec.model_validate(_json(path)["spec"])
    except (KeyError, ValidationError) as error:
        raise StoreError(f"{path}: not the plan of a full run: {error}") from error


def _json(path: Path) -> dict[str, dict[str, str]]:
    try:
        found: dict[str, dict[str, str]] = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}: not JSON: {error}", hint="delete it and run again") from error
    return found


def _of(path: Path, why: str) -> Waste:
    return Waste(path, why, sum(_bytes(path)))


def _bytes(path: Path) -> Iterator[int]:
    for file in _files(path):
        try:
            yield file.lstat().st_size
        except OSError:  # gone meanwhile
            continue


def _files(path: Path) -> Iterable[Path]:
    if path.is_symlink() or not path.is_dir():
        return [path]
    return (Path(place) / name for place, _, names in os.walk(path) for name in names)


def _quiet(path: Path) -> float:
    """Seconds since a file or anything in a folder was written to; 0 where that is not known."""
    try:
        return time.time() - max(p.lstat().st_mtime for p in [path, *_files(path)])
    except OSError:
        return 0.0


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
