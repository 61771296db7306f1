"""Warm workers on this machine: which there are, where a task goes, and who must leave for it.

A worker is one process for a group of slots and a verb: it has the cores and devices of all of
them, and carries out one task after another. Workers of several verbs may share a group, one of
them at work. But a slot belongs to one group at a time: before a worker starts, idle workers of
other groups on its slots are ended, since a warm worker keeps its model in the memory of the very
GPU that the new one wants. Getting ready ahead never ends a worker: what is warm is not given up
for what is not ready yet.
"""

from __future__ import annotations

import selectors
import shlex
from collections.abc import Sequence
from pathlib import Path

from anneal.launch.process import Worker
from anneal.launch.slots import Group, Slot, choose
from anneal.launch.values import LaunchError, Task

Place = tuple[tuple[int, ...], str]
"""The slots and the verb of a worker."""


class Pool:
    """The workers of a launcher.

    Args:
        slots: of the machine.
        command: words before `VERB --serve`.
        logs: folder of `slot-N-VERB.log`, or `slot-N+M-VERB.log` of a group: what workers say
            while they have no task.
    """

    def __init__(self, slots: Sequence[Slot], *, command: Sequence[str], logs: Path) -> None:
        self._slots = tuple(slots)
        self._command = tuple(command)
        self._logs = logs
        self._workers: dict[Place, Worker] = {}
        self._ahead: set[Place] = set()
        self._selector = selectors.DefaultSelector()

    def __contains__(self, worker: Worker) -> bool:
        return worker in self._workers.values()

    @property
    def workers(self) -> list[Worker]:
        return list(self._workers.values())

    @property
    def busy(self) -> list[Worker]:
        """Workers that have a task."""
        return [worker for worker in self._workers.values() if worker.task]

    @property
    def free(self) -> list[Slot]:
        """Slots of no busy worker."""
        taken = {number for worker in self.busy for number in worker.group.numbers}
        return [slot for slot in self._slots if slot.number not in taken]

    def place(self, task: Task) -> Group | None:
        """Where a task goes now; None when too little is free.

        To a worker that is warm if there is one, otherwise where the fewest workers would be
        ended, and then where the fewest of another verb would share the slot.
        """
        free = self.free
        numbers = {slot.number for slot in free}
        for at, verb in sorted(self._workers):
            if verb == task.verb and len(at) == task.slots and numbers.issuperset(at):
                return self._workers[at, verb].group

        def claims(slot: Slot) -> tuple[int, int]:
            there = [at for at, _ in self._workers if slot.number in at]
            return sum(len(at) != task.slots for at in there), len(there)

        # In their own order at last: that is how the launcher found that the task can fit at all.
        return choose(sorted(free, key=claims), task.slots) or choose(free, task.slots)

    def worker(self, group: Group, verb: str) -> Worker:
        """The worker of free slots, started where there is none; those of other groups leave.

        Raises:
            LaunchError: it cannot be started.
        """
        worker = self._workers.get((group.numbers, verb))
        if worker is not None and worker.alive:
            return worker
        if worker is not None:  # died idle: nothing is lost
            self.remove(worker)
        self._end(self._others(group))
        return self._start(group, verb)

    def get_ready(self, waiting: Sequence[Task]) -> None:
        """Free slots start the workers of what waits for a task under way.

        Args:
            waiting: first first. Where one does not fit, what is left is kept for it.

        Raises:
            LaunchError: one cannot be started.
        """
        free = self.free
        for later in waiting:
            group = choose(free, later.slots)
            if group is None:
                return
            free = [slot for slot in free if slot.number not in group.numbers]
            place = (group.numbers, later.verb)
            if place not in self._workers.keys() | self._ahead and not self._others(group):
                self._ahead.add(place)  # once: it may die of what is wrong
                self._start(group, later.verb, ahead_of=later.spec)

    def wait(self, seconds: float) -> None:
        """Until a worker says something, `seconds` at most."""
        self._selector.select(seconds)

    def remove(self, worker: Worker) -> int:
        """Waits for the end of a worker that is ending, kills it if need be; its exit code."""
        self._selector.unregister(worker)
        del self._workers[worker.group.numbers, worker.verb]
        return worker.reap()

    def close(self) -> None:
        """Ends the workers: they exit when their standard input ends."""
        self._end(self.workers)

    def _end(self, workers: Sequence[Worker]) -> None:
        for worker in workers:  # all of them first: they exit side by side
            worker.close()
        for worker in workers:
            self.remove(worker)

    def _others(self, group: Group) -> list[Worker]:
        """Workers of other groups on these slots; idle, since the slots are free."""
        return [
            worker
            for worker in self._workers.values()
            if worker.group.numbers != group.numbers
            and not set(worker.group.numbers).isdisjoint(group.numbers)
        ]

    def _start(self, group: Group, verb: str, *, ahead_of: str | None = None) -> Worker:
        command = [*self._command, verb, "--serve", *([ahead_of] if ahead_of else [])]
        log = self._logs / f"slot-{'+'.join(map(str, group.numbers))}-{verb}.log"
        try:
            worker = Worker(command, group=group, verb=verb, log=log)
        except OSError as error:
            raise LaunchError(
                f"worker `{shlex.join(command)}`: cannot be started ({error.strerror or error})"
            ) from error
        self._workers[group.numbers, verb] = worker
        self._selector.register(worker, selectors.EVENT_READ)
        return worker
