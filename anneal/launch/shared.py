"""A board that several shifts share: like any other to the local launcher, but others take too.

It claims the longest ready task that fits by a lease (`leases`), puts on record what failed, ends
the leases of whoever gave no sign of life, and follows new orders (`orders`).
"""

from __future__ import annotations

import os
import signal
import time
from itertools import islice
from pathlib import Path

from anneal.errors import AnnealError
from anneal.launch.leases import Leases
from anneal.launch.orders import Desk, Note, Orders, Stumble, hopeless, take_away
from anneal.launch.values import Outcome, Task
from anneal.plan.values import Failure, FailureClass

LOOK_SECONDS = 0.5
"""Between two looks at what others did."""
SETTLE_SECONDS = 1.0
"""A worker that was killed within this time before an order to stop was stopped by that order."""


class LeaseLost(AnnealError):
    """This process was silent for so long that its tasks were given to others."""


class Shared:
    """The board of one shift among several (see `board.Board` for what its methods mean).

    Args:
        desk: where orders are.
        orders: the first ones.
        leases: as this shift sees them.
        shift: its name.
        stop: the signal that told it to stop, where one did.
    """

    def __init__(
        self, desk: Desk, orders: Orders, leases: Leases, shift: str, stop: list[int]
    ) -> None:
        self._desk = desk
        self._leases = leases
        self._shift = shift
        self._stop = stop
        self._mine: dict[str, Task] = {}
        self._chosen: Task | None = None
        self._halted = False
        self._fresh = True
        """Whether anything may have changed since the last choice."""
        self._looked = self._watched = -1e9
        self._idle: float | None = None
        self._launches: dict[str, str] = {}
        self._met: dict[str, bool] = {}
        """Whether the result of a need exists."""
        self._follow(orders)

    @property
    def finished(self) -> bool:
        self._look()
        if self._halted:
            return not self._mine
        if self._mine or self._chosen:
            self._idle = None
            return False
        if self._orders.state == "closed":
            return True
        now = time.monotonic()
        self._idle = now if self._idle is None else self._idle
        return now - self._idle >= self._orders.work.linger_seconds

    @property
    def left(self) -> bool:
        """Whether anything of the orders is still to be done."""
        tried = self._orders.work.retries
        return any(
            not hopeless(self._stumbles.get(name, []), tried) and not Path(task.done).exists()
            for name, task in self._open.items()
        )

    @property
    def failures(self) -> int:
        return self._failures

    @property
    def next(self) -> Task | None:
        if self._chosen is None and not self._halted and self._orders.state == "open":
            self._choose()
        return self._chosen

    def take(self) -> Task | None:
        task, self._chosen = self._chosen, None
        if task is not None:
            self._mine[task.id] = task
            self._launches[task.id] = self._orders.launch
        return task

    def waiting(self) -> list[Task]:
        blocked = (t for t in self._open.values() if t.needs and not self._may_begin(t))
        return list(islice(blocked, self._orders.work.slots))

    def attempt(self, task: Task) -> int:
        return len(self._stumbles.get(task.id, ())) + 1

    def succeed(self, task: Task, seconds: float) -> None:
        self._desk.note(self._shift, Note(kind="ended", task=task.id, seconds=seconds))
        self._drop(task, finished=True)
        self._open.pop(task.id, None)
        self._met[task.id] = True

    def may_shrink(self, task: Task) -> bool:
        stumbles = self._stumbles.get(task.id, [])
        return all(stumble.micro_batch is None for _, stumble in stumbles)

    def fail(
        self,
        task: Task,
        kind: FailureClass,
        message: str,
        *,
        log: str,
        seconds: float,
        micro_batch: int | None = None,
    ) -> tuple[Failure, bool]:
        attempts = self.attempt(task)
        failure = Failure(run=task.id, kind=kind, message=message, log=log, attempts=attempts)
        if kind in {"killed", "preempted"} and self._stopping():
            self.abandon(task, message, seconds=seconds)
            return failure, True
        stumble = Stumble(failure=failure, seconds=seconds, micro_batch=micro_batch)
        self._desk.stumble(self._launches[task.id], stumble)
        self._drop(task)
        self._look(at_once=True)
        return failure, not hopeless(self._stumbles.get(task.id, []), self._orders.work.retries)

    def abandon(self, task: Task, reason: str, *, seconds: float) -> None:
        self._desk.note(self._shift, Note(kind="back", task=task.id, seconds=seconds))
        self._drop(task)

    def halt(self, reason: str) -> None:
        self._halted = True
        if self._chosen is not None:
            self._leases.give_back(self._chosen.id)
            self._chosen = None

    def news(self) -> list[Outcome]:
        self._leases.beat()
        return []

    def _choose(self) -> None:
        """Claims the longest ready task; nothing while that one does not fit."""
        work = self._orders.work
        free = work.slots - sum(task.slots for task in self._mine.values())
        limit = 1 if work.fail_fast else work.max_failures
        if free <= 0 or not self._fresh or (limit is not None and self._failures >= limit):
            return
        self._fresh = False
        claimed = self._leases.claimed()
        for task in list(self._open.values()):
            if task.id in self._mine or task.id in claimed or not self._may_begin(task):
                continue
            if not Path(task.done).exists():
                if task.slots > free:
                    return
                if not self._leases.claim(task.id):
                    continue
                if not Path(task.done).exists():
                    self._chosen = task
                    self._fresh = True
                    return
                self._leases.give_back(task.id, finished=True)
            del self._open[task.id]

    def _may_begin(self, task: Task) -> bool:
        if hopeless(self._stumbles.get(task.id, []), self._orders.work.retries):
            return False
        return all(self._is_met(need) for need in task.needs)

    def _is_met(self, need: str) -> bool:
        """Whether the result exists; asked once between two looks, and not again once it does."""
        if need not in self._met:
            self._met[need] = Path(self._done[need]).exists()
        return self._met[need]

    def _look(self, *, at_once: bool = False) -> None:
        """Signs of life, new orders, what others failed at and whom they have lost."""
        self._leases.beat()
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS and not at_once:
            return
        self._looked = now
        if (orders := self._desk.orders()) is not None:
            self._follow(orders)
        self._count()
        self._met = {need: met for need, met in self._met.items() if met}
        self._fresh = True
        if self._orders.state == "stop" and not self._stop:
            os.kill(os.getpid(), signal.SIGTERM)
        if now - self._watched >= self._orders.work.heartbeat_seconds:
            self._watched = now
            self._watch()

    def _watch(self) -> None:
        if lost := self._leases.lost():
            raise LeaseLost(f"shift {self._shift}: lost {', '.join(lost)} to others")
        for task in self._leases.claimed() & self._open.keys() - self._leases.held.keys():
            holder = self._leases.holder(task)
            if holder is not None and self._leases.expired(holder):
                message = f"{holder.owner} gave no sign of life"
                take_away(self._desk, self._orders, self._leases, task, message)

    def _follow(self, orders: Orders) -> None:
        """New orders; what is under way goes on."""
        self._orders = orders
        ordered = sorted(orders.tasks, key=lambda task: -task.size)
        self._open = {task.id: task for task in ordered}
        self._done = {task.id: task.done for task in orders.tasks}
        self._met = {}
        self._idle = None
        self._count()
        self._fresh = True

    def _count(self) -> None:
        self._stumbles = self._desk.stumbles(self._orders.launch)
        retries = self._orders.work.retries
        self._failures = sum(hopeless(found, retries) for found in self._stumbles.values())

    def _drop(self, task: Task, *, finished: bool = False) -> None:
        self._mine.pop(task.id, None)
        self._idle = None
        if task.id in self._leases.held:
            self._leases.give_back(task.id, finished=finished)
        self._fresh = True

    def _stopping(self) -> bool:
        """Whether a death came with an order to stop: Slurm signals every process of a job."""
        until = time.monotonic() + SETTLE_SECONDS
        while not self._stop and time.monotonic() < until:
            time.sleep(0.05)
        return bool(self._stop)
