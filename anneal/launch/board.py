"""Which task comes next, and what became of each: bookkeeping without processes.

Every launcher has the same rules, kept here: what a task needs comes first; among the ready tasks
the longest goes first, since a long task begun last keeps one slot busy while the others stand
idle (Graham 1969, "Bounds on multiprocessing timing anomalies": at most 4/3 of the best makespan);
what the infrastructure failed is tried again, a bounded number of times, and what ran out of memory
once, after the launcher has halved its micro-batch; what needs a failed task is missing, with that
reason; and after too many failures nothing more is begun.

A task may take several slots, and there is one rule more for it: the order is kept. When the next
task does not fit into what is free, nothing else is begun until it does. What is free is then less
than it waits for, so all of it is reserved; small tasks cannot starve it, since only a longer one
that becomes ready meanwhile goes before it. Slots stand idle while others end their tasks, for the
rest of the longest of those at most. Filling them with tasks that would end in time (backfilling)
needs times known beforehand, and a micro-anneal's are known once the first ones are over.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Protocol

from anneal.launch.values import Launcher, Outcome, Task
from anneal.plan.failures import INFRASTRUCTURE
from anneal.plan.values import Failure, FailureClass


class Bookkeeping(Protocol):
    """What whoever carries tasks out asks and tells; `Board` says what each means."""

    @property
    def finished(self) -> bool: ...
    @property
    def failures(self) -> int: ...
    @property
    def next(self) -> Task | None: ...
    def take(self) -> Task | None: ...
    def waiting(self) -> list[Task]: ...
    def attempt(self, task: Task) -> int: ...
    def succeed(self, task: Task, seconds: float) -> None: ...
    def may_shrink(self, task: Task) -> bool: ...
    def fail(
        self,
        task: Task,
        kind: FailureClass,
        message: str,
        *,
        log: str,
        seconds: float,
        micro_batch: int | None = None,
    ) -> tuple[Failure, bool]: ...
    def abandon(self, task: Task, reason: str, *, seconds: float) -> None: ...
    def halt(self, reason: str) -> None: ...
    def news(self) -> list[Outcome]: ...


class Board:
    """The state of one launch.

    Args:
        tasks: all of them, in the order of `outcomes`.
        done: identifiers of those that are finished already.
        retries: how often a task that the infrastructure failed is tried again.
        max_failures: after this many failures nothing more is begun; None never gives up.

    Raises:
        ValueError: two tasks share an identifier, or needs are unknown or circular.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        done: Collection[str] = (),
        retries: int = 2,
        max_failures: int | None = None,
    ) -> None:
        _check(tasks)
        self._tasks = {task.id: task for task in tasks}
        self._order = {task.id: number for number, task in enumerate(tasks)}
        self._retries = retries
        self._max_failures = max_failures
        self._outcomes: dict[str, Outcome] = {}
        self._news: list[Outcome] = []
        self._attempts: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        self._lost: dict[str, int] = defaultdict(int)
        self._smaller: dict[str, int] = {}
        self._failures = 0
        self._halted = ""
        self._ready: list[tuple[float, int, str]] = []
        self._needed_by: dict[str, list[str]] = defaultdict(list)
        self._waits: dict[str, int] = {}
        for task in tasks:
            if task.id in done:
                self._settle(Outcome(task=task.id, ok=True, skipped=True))
                continue
            open_needs = {need for need in task.needs if need not in done}
            self._waits[task.id] = len(open_needs)
            for need in open_needs:
                self._needed_by[need].append(task.id)
            if not open_needs:
                self._queue(task)

    @property
    def finished(self) -> bool:
        """Whether what became of every task is known."""
        return len(self._outcomes) == len(self._tasks)

    @property
    def failures(self) -> int:
        """Tasks that failed for good."""
        return self._failures

    @property
    def halted(self) -> bool:
        """Whether nothing more is begun."""
        return bool(self._halted)

    @property
    def ready(self) -> list[Task]:
        """Tasks that may be begun, in no order."""
        return [self._tasks[name] for _, _, name in self._ready]

    @property
    def next(self) -> Task | None:
        """What `take` would give. Where it does not fit, nothing else is to be begun."""
        return self._tasks[self._ready[0][2]] if self._ready else None

    def take(self) -> Task | None:
        """The next task to begin, the longest that is ready; None when none is."""
        if not self._ready:
            return None
        task = self._tasks[heapq.heappop(self._ready)[2]]
        self._attempts[task.id] += 1
        return task

    def begin(self, task: Task) -> None:
        """Somebody else chose to begin this task, which need not be the next."""
        self._ready = [row for row in self._ready if row[2] != task.id]
        heapq.heapify(self._ready)
        self._attempts[task.id] += 1

    def give_back(self, task: Task, *, seconds: float) -> None:
        """The task was begun and saved, to go on elsewhere: no attempt that counts."""
        self._seconds[task.id] += seconds
        self._attempts[task.id] -= 1
        self._queue(task)

    def settled(self, task: Task) -> bool:
        """Whether what became of the task is known."""
        return task.id in self._outcomes

    def waiting(self) -> list[Task]:
        """Tasks that need another one first, the longest first."""
        blocked = [self._tasks[name] for name, left in self._waits.items() if left]
        blocked = [task for task in blocked if task.id not in self._outcomes]
        return sorted(blocked, key=lambda task: (-task.size, self._order[task.id]))

    def attempt(self, task: Task) -> int:
        """Which attempt the task is in, from 1."""
        return self._attempts[task.id]

    def succeed(self, task: Task, seconds: float) -> None:
        """The task is finished after `seconds` more on a worker."""
        self._seconds[task.id] += seconds
        self._settle(
            Outcome(
                task=task.id,
                ok=True,
                attempts=self._attempts[task.id],
                seconds=self._seconds[task.id],
                micro_batch=self._smaller.get(task.id),
            )
        )
        for other in self._needed_by[task.id]:
            self._waits[other] -= 1
            if not self._waits[other] and other not in self._outcomes:
                self._queue(self._tasks[other])

    def may_shrink(self, task: Task) -> bool:
        """Whether a task that ran out of memory would be tried again with less at once."""
        return task.id not in self._smaller and not self._halted

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
        """The task failed.

        Args:
            task: that failed.
            kind: its class.
            message: why, in a line.
            log: path of its log.
            seconds: on a worker, in this attempt.
            micro_batch: it ran out of memory, and its file now says this micro-batch.

        Returns:
            The failure, and whether the task was queued again.
        """
        self._seconds[task.id] += seconds
        attempts = self._attempts[task.id]
        failure = Failure(run=task.id, kind=kind, message=message, log=log, attempts=attempts)
        if self._tried_again(task, kind, micro_batch):
            self._queue(task)
            return failure, True
        self._failures += 1
        self._settle(
            Outcome(
                task=task.id,
                ok=False,
                failure=failure,
                attempts=attempts,
                seconds=self._seconds[task.id],
                micro_batch=self._smaller.get(task.id),
            )
        )
        self._block(task, f"needs `{task.label}`, which failed ({kind})")
        if self._max_failures is not None and self._failures >= self._max_failures:
            self.halt(f"not begun: gave up after {self._failures} failed")
        return failure, False

    def abandon(self, task: Task, reason: str, *, seconds: float) -> None:
        """The task was begun and stopped on purpose."""
        self._seconds[task.id] += seconds
        self._settle(self._missing(task.id, reason))
        self._block(task, f"needs `{task.label}`, which was stopped")

    def halt(self, reason: str) -> None:
        """Begins nothing more: every task that is not under way is missing for `reason`."""
        self._halted = reason
        waiting = {name for _, _, name in self._ready}
        self._ready.clear()
        for name in self._order:
            begun = name in self._attempts and name not in waiting
            if name not in self._outcomes and not begun:
                self._settle(self._missing(name, reason))

    def news(self) -> list[Outcome]:
        """Outcomes that became known since the last call."""
        news, self._news = self._news, []
        return news

    def outcomes(self) -> list[Outcome]:
        """One a task, in the order of the tasks."""
        return [self._outcomes[name] for name in self._order]

    def _tried_again(self, task: Task, kind: FailureClass, micro_batch: int | None) -> bool:
        if self._halted:
            return False
        if kind == "out_of_memory" and micro_batch is not None and task.id not in self._smaller:
            self._smaller[task.id] = micro_batch
            return True
        if kind not in INFRASTRUCTURE:
            return False
        self._lost[task.id] += 1
        return self._lost[task.id] <= self._retries

    def _queue(self, task: Task) -> None:
        if self._halted:
            self._settle(self._missing(task.id, self._halted))
        else:
            heapq.heappush(self._ready, (-task.size, self._order[task.id], task.id))

    def _block(self, task: Task, reason: str) -> None:
        """Whatever needs `task`, directly or not, is missing for the same first reason."""
        blocked = [task.id]
        while blocked:
            for other in self._needed_by[blocked.pop()]:
                if other not in self._outcomes:
                    self._settle(self._missing(other, reason))
                    blocked.append(other)

    def _missing(self, name: str, reason: str) -> Outcome:
        return Outcome(
            task=name,
            ok=False,
            missing=reason,
            attempts=self._attempts.get(name, 0),
            seconds=self._seconds.get(name, 0.0),
        )

    def _settle(self, outcome: Outcome) -> None:
        self._outcomes[outcome.task] = outcome
        self._news.append(outcome)


class Patience(Protocol):
    """What settings of a launcher say of failures."""

    @property
    def retries(self) -> int: ...
    @property
    def fail_fast(self) -> bool: ...
    @property
    def max_failures(self) -> int | None: ...


def board_for(tasks: Sequence[Task], launcher: Launcher, settings: Patience) -> Board:
    """The board of a launch: what is finished already, and what failures are borne.

    Raises:
        ValueError: as `Board`.
        LaunchError: an unfinished task takes more slots than there are.
    """
    done = {task.id for task in tasks if Path(task.done).exists()}
    for task in tasks:
        if task.id not in done:
            launcher.admit(task.slots, what=f"task `{task.label}`")
    limit = 1 if settings.fail_fast else settings.max_failures
    return Board(tasks, done=done, retries=settings.retries, max_failures=limit)


def _check(tasks: Sequence[Task]) -> None:
    needs = {task.id: task.needs for task in tasks}
    if len(needs) < len(tasks):
        raise ValueError("two tasks share an identifier")
    for task in tasks:
        for need in task.needs:
            if need not in needs:
                raise ValueError(f"task {task.id} needs {need}, which is not among the tasks")
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise ValueError(f"tasks need one another in a circle: {error.args[1]}") from error
