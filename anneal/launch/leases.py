"""Leases: who carries a task out, among processes that share nothing but a folder.

Locks do not work on every network file system, clocks of two machines differ, and whoever holds a
task may vanish at any instant. So nothing here locks, and nobody compares clocks. One thing is
relied on: renaming a folder is atomic, and fails where a folder with something in it already has
that name.

    leases/
      TASK/holder.json         the lease: who holds the task, and the lease's own name, its token
      .TASK.TOKEN/             a lease that is over: given back or taken away
      .beats/OWNER             a number that its owner raises as long as it lives

*Claiming* makes a folder under another name and renames it to `TASK`: one of many wins.

*Living*: an owner rewrites one counter for all its leases. An observer notes, by its own monotonic
clock, when it last saw that counter change; a lease has expired for it once that is `seconds` ago.
Both clocks may be hours apart or jump, since neither is told to the other (the argument of Gray and
Cheriton 1989, "Leases", with the expiry judged by the observer alone).

*Ending* a lease, by its owner or by whoever found it expired, renames `TASK` to `.TASK.TOKEN`. That
name can be won once: an observer that slept on an old belief finds it taken and cannot end the
lease that someone else has made since. The owner learns in the same way that it lost. What is left
behind stays until the task is finished, since only then nobody cares for it.

A lease says who *should* work. A holder that was stopped for longer than `seconds` and wakes works
for a moment beside its successor; results are equal and renamed into place: it costs time only.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

from pydantic import ValidationError

from anneal.store import disk_errors, write
from anneal.values import Value

HEARTBEAT_SECONDS = 15.0
"""Between two rewrites of an owner's counter."""
LEASE_SECONDS = 180.0
"""A counter that an observer has not seen change for so long is its owner's last. NFS clients may
show a folder as it was a minute ago (acdirmax, nfs(5)), and a heartbeat comes on top."""
_LEFT = re.compile(r"\.(.+)\.(?:[0-9a-f]{12}(?:\.new)?|damaged)")
_DAMAGED = "damaged"
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class Holder(Value):
    """Who holds a task."""

    owner: str
    token: str
    """Of this one lease."""


class Leases:
    """The leases of one folder as one process sees them.

    Args:
        folder: shared by all; made when first written to.
        owner: this process, unlike any other's name, fit for a file name.
        seconds: a lease expires when its owner's counter stood still for so long.
        heartbeat: seconds between two rewrites of the counter.
        clock: monotonic seconds; never compared with anyone else's.
    """

    def __init__(
        self,
        folder: Path,
        owner: str,
        *,
        seconds: float = LEASE_SECONDS,
        heartbeat: float = HEARTBEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.owner = owner
        self.held: dict[str, str] = {}
        """Tokens of the leases that this process has made, by task."""
        self._folder = folder
        self._seconds = seconds
        self._heartbeat = heartbeat
        self._clock = clock
        self._beats = 0
        self._beaten: float | None = None
        self._seen: dict[str, tuple[str, float]] = {}

    def claim(self, task: str) -> bool:
        """Takes a task that nobody holds; False when somebody does.

        Whether it is finished is to be looked at afterwards: its holder may have finished it and
        given it back a moment ago.

        Raises:
            StoreError: the folder cannot be written.
        """
        self.beat()
        token = uuid.uuid4().hex[:12]
        making = self._folder / f".{task}.{token}.new"
        write(making / "holder.json", Holder(owner=self.owner, token=token).model_dump_json())
        with disk_errors(making):
            try:
                os.rename(making, self._folder / task)
            except OSError as error:
                # A network file system may repeat a rename whose answer was lost, and report
                # that the name is taken: by this very lease.
                known = self.holder(task)
                if known is None or known.token != token:
                    shutil.rmtree(making, ignore_errors=True)
                    if error.errno in (*_TAKEN, errno.ENOENT):  # ENOENT: tidied, as finished
                        return False
                    raise
        self.held[task] = token
        return True

    def give_back(self, task: str, *, finished: bool = False) -> bool:
        """Ends a lease of this process; False when it was taken away before.

        Args:
            task: held.
            finished: its result exists, so nothing of the lease need stay.
        """
        token = self.held.pop(task)
        ended = self._end(task, token)
        if finished:
            shutil.rmtree(self._over(task, token), ignore_errors=True)
        return ended

    def take_away(self, task: str, holder: Holder) -> bool:
        """Ends a lease of another process, of all that try exactly one succeeds.

        The task is then anyone's to claim, not yet this process's.
        """
        return self._end(task, holder.token)

    def lost(self) -> list[str]:
        """Tasks whose lease was taken from this process."""
        gone = [t for t, token in self.held.items() if self._over(t, token).exists()]
        for task in gone:
            del self.held[task]
        return gone

    def holder(self, task: str) -> Holder | None:
        """Who holds a task; None when nobody does."""
        try:
            data = (self._folder / task / "holder.json").read_bytes()
            return Holder.model_validate_json(data)
        except ValidationError:  # damaged by something else: it expires as any other
            return Holder(owner="unknown", token=_DAMAGED)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def claimed(self) -> set[str]:
        """Tasks that somebody holds."""
        try:
            return {name for name in os.listdir(self._folder) if not name.startswith(".")}
        except FileNotFoundError:
            return set()

    def expired(self, holder: Holder) -> bool:
        """Whether the owner's counter stood still for too long; the first look starts the watch."""
        try:
            beat = (self._folder / ".beats" / holder.owner).read_text(encoding="utf-8")
        except OSError:  # none, or another's write under way on a network file system
            beat = ""
        now = self._clock()
        known = self._seen.get(holder.owner)
        if known is None or known[0] != beat:
            self._seen[holder.owner] = (beat, now)
            return False
        return now - known[1] >= self._seconds

    def beat(self) -> None:
        """Says that this process lives, where it is time to; to be called often."""
        now = self._clock()
        if self._beaten is not None and 0 <= now - self._beaten < self._heartbeat:
            return
        self._beaten = now
        self._beats += 1
        write(self._folder / ".beats" / self.owner, str(self._beats))

    def leave(self) -> None:
        """Gives everything back and takes the counter away."""
        for task in list(self.held):
            self.give_back(task)
        (self._folder / ".beats" / self.owner).unlink(missing_ok=True)

    def tidy(self, finished: Collection[str]) -> None:
        """Removes what ended leases of finished tasks left behind."""
        for name in os.listdir(self._folder) if self._folder.is_dir() else ():
            known = _LEFT.fullmatch(name)
            if known and known[1] in finished:
                shutil.rmtree(self._folder / name, ignore_errors=True)

    def forget_owner(self, owner: str) -> None:
        """Removes the counter of an owner that is known to have ended."""
        (self._folder / ".beats" / owner).unlink(missing_ok=True)

    def _over(self, task: str, token: str) -> Path:
        return self._folder / f".{task}.{token}"

    def _end(self, task: str, token: str) -> bool:
        try:
            os.rename(self._folder / task, self._over(task, token))
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
        return True
