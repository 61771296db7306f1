"""What a coordinator and its shifts say to one another, through files alone.

A *shift* is a process that carries tasks out inside an allocation of a cluster (`shift`). It cannot
be spoken to: nodes may not reach each other, and the coordinator may be closed for a night. So each
writes files that only it writes, and reads those of the others:

    FOLDER/
      tasks.json                  `Orders`, by the coordinator: what is to be done, and how
      name                        of the jobs: how a coordinator knows its own again
      notes/SHIFT.jsonl           `Note`s, by one shift: began, came further, ended, gave back
      failures/LAUNCH/TASK.*.json `Stumble`s, by whoever holds the task: one a failed attempt
      slots/SHIFT/                logs of its workers while they have no task

Failures have files of their own because everyone decides by them: how often a task may be tried
again, and whether so much failed that nothing more is begun. Whether a task is *finished* is told
by its result alone, and who works on it by its lease (`leases`).
"""

from __future__ import annotations

import os
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from anneal.launch.leases import HEARTBEAT_SECONDS, LEASE_SECONDS, Leases
from anneal.launch.values import Task
from anneal.plan.failures import INFRASTRUCTURE
from anneal.plan.values import Failure
from anneal.store import Store, read_value, write_value
from anneal.values import Value


class Work(Value):
    """How shifts carry tasks out."""

    slots: int = Field(1, gt=0)
    """Tasks side by side in one shift, or processes of one run."""
    threads: int = Field(1, gt=0)
    """CPU threads of one slot."""
    gpus: int = Field(0, ge=0)
    """GPUs of one shift, dealt to its slots in turn."""
    retries: int = Field(2, ge=0)
    """How often a task that the infrastructure failed is tried again."""
    fail_fast: bool = False
    """At the first failure begin nothing more, and stop what is under way."""
    max_failures: int | None = Field(None, gt=0)
    """After this many failures begin nothing more; what is under way goes on."""
    grace_seconds: float = Field(30.0, ge=0)
    """How long workers may take to save their work when told to stop."""
    linger_seconds: float = Field(60.0, ge=0)
    """How long a shift with nothing to do keeps its allocation, and its workers warm."""
    heartbeat_seconds: float = Field(HEARTBEAT_SECONDS, gt=0)
    """Between two signs of life of a shift."""
    lease_seconds: float = Field(LEASE_SECONDS, gt=0)
    """A shift that gave none for so long loses its tasks; several heartbeats, and on NFS more than
    a minute."""


class Orders(Value):
    """What shifts are to do."""

    launch: str
    """A new one begins with no failures."""
    state: Literal["open", "stop", "closed"] = "open"
    """stop: save, give back and end. closed: end when there is nothing to do."""
    tasks: tuple[Task, ...]
    work: Work
    store: str
    """Root folder."""
    logs: str
    command: tuple[str, ...]
    """Of a worker: words before `VERB --serve`."""


class Note(Value):
    """One line of a shift."""

    kind: Literal["present", "began", "advanced", "ended", "back", "broken"]
    task: str = ""
    slot: int = 0
    """Of the shift."""
    beside: tuple[int, ...] = ()
    warm: bool = True
    done: int = 0
    total: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds: float = 0.0
    message: str = ""
    hint: str = ""


class Stumble(Value):
    """One failed attempt."""

    failure: Failure
    seconds: float
    micro_batch: int | None = None
    """It ran out of memory, and its file now says this micro-batch: it is tried once more."""


class Desk:
    """The folder between a coordinator and its shifts.

    Args:
        folder: theirs alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._stamp: tuple[int, int] | None = None
        self._read: dict[Path, int] = {}
        self._stumbles: dict[Path, Stumble] = {}

    @property
    def tasks(self) -> Path:
        return self.folder / "tasks.json"

    def write(self, orders: Orders) -> None:
        write_value(self.tasks, orders)

    def orders(self) -> Orders | None:
        """The orders where they have changed since the last look; None otherwise."""
        try:
            found = os.stat(self.tasks)
        except FileNotFoundError:
            return None
        stamp = (found.st_ino, found.st_mtime_ns)
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        return read_value(self.tasks, Orders)

    def note(self, shift: str, note: Note) -> None:
        """Adds a line to a shift's own file."""
        path = self.folder / "notes" / f"{shift}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(note.model_dump_json(exclude_defaults=True).encode() + b"\n")

    def skip(self) -> None:
        """Passes over every note that is there."""
        for path in self._notes():
            self._read[path] = path.stat().st_size

    def news(self) -> list[tuple[str, Note]]:
        """Notes since the last look, with the shift that made them; a half line waits."""
        heard = []
        for path in self._notes():
            at = self._read.get(path, 0)
            if path.stat().st_size <= at:
                continue
            with open(path, "rb") as file:
                file.seek(at)
                data = file.read()
            data = data[: data.rfind(b"\n") + 1]
            self._read[path] = at + len(data)
            for line in data.splitlines():
                try:
                    heard.append((path.stem, Note.model_validate_json(line)))
                except ValidationError:  # a line that a kill cut, and another went on
                    continue
        return heard

    def stumble(self, launch: str, stumble: Stumble) -> None:
        """Puts a failed attempt on record."""
        name = f"{stumble.failure.run}.{uuid.uuid4().hex[:8]}.json"
        write_value(self.folder / "failures" / launch / name, stumble)

    def stumbles(self, launch: str) -> dict[str, list[tuple[Path, Stumble]]]:
        """Failed attempts of a launch, by task."""
        found: dict[str, list[tuple[Path, Stumble]]] = defaultdict(list)
        for path in sorted((self.folder / "failures" / launch).glob("[!.]*.json")):
            if path not in self._stumbles:
                self._stumbles[path] = read_value(path, Stumble)
            stumble = self._stumbles[path]
            found[stumble.failure.run].append((path, stumble))
        return found

    def _notes(self) -> list[Path]:
        return sorted((self.folder / "notes").glob("*.jsonl"))


def hopeless(stumbles: list[tuple[Path, Stumble]], retries: int) -> bool:
    """Whether a task with these failed attempts is not tried again."""
    lost = [s for _, s in stumbles if s.failure.kind in INFRASTRUCTURE]
    shrunk = [s for _, s in stumbles if s.micro_batch is not None]
    return len(lost) + len(shrunk) < len(stumbles) or len(lost) > retries


def leases_of(orders: Orders, owner: str) -> Leases:
    """The leases of the store that the orders are about."""
    return Leases(
        Store(orders.store).leases,
        owner,
        seconds=orders.work.lease_seconds,
        heartbeat=orders.work.heartbeat_seconds,
    )


def take_away(desk: Desk, orders: Orders, leases: Leases, task: str, message: str) -> bool:
    """Ends the lease of a holder that is gone and puts its attempt on record; one of many does."""
    holder = leases.holder(task)
    if holder is None or not leases.take_away(task, holder):
        return False
    log = str(Path(orders.logs) / f"{task}.log")
    failure = Failure(run=task, kind="killed", message=message, log=log)
    desk.stumble(orders.launch, Stumble(failure=failure, seconds=0.0))
    return True
