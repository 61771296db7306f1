"""From what shifts wrote down to events and outcomes: the coordinator's reading.

Notes come from several files and in no common order, and a shift may end between any two of its
lines. So a note is believed as far as it goes: one that is missing is made up for by the next
(`advanced` tells that the task was begun), and what decides are results and recorded failures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from anneal.launch.board import Board
from anneal.launch.orders import Desk, Note, Orders, Stumble, leases_of
from anneal.launch.values import Advanced, Began, LaunchError, Listener, Stumbled, Task


class Follower:
    """Follows one launch.

    Args:
        desk: where shifts write.
        orders: of the launch.
        tasks: of the launch.
        board: gets what became of them.
        on_event: is told meanwhile.
    """

    def __init__(
        self,
        desk: Desk,
        orders: Orders,
        tasks: Sequence[Task],
        board: Board,
        on_event: Listener,
    ) -> None:
        self.leases = leases_of(orders, "coordinator")
        self._desk = desk
        self._orders = orders
        self._tasks = {task.id: task for task in tasks}
        self._board = board
        self._on_event = on_event
        self._at: dict[str, tuple[str, int]] = {}
        """Shift and slot of tasks under way."""
        self._back: dict[str, float] = {}
        """Seconds of tasks that were given back in what is being read."""
        self._applied: set[Path] = set()
        self._pending: dict[str, list[Stumble]] = defaultdict(list)
        self._places: dict[str, int] = {}
        self._done_before: set[str] = set()
        self._unheld_before: set[str] = set()

    @property
    def under_way(self) -> list[Task]:
        return [self._tasks[name] for name in self._at]

    def read(self, alive: Collection[str]) -> None:
        """Reads what is new.

        Args:
            alive: elements that Slurm knows, `123_4`: the places of others in the table are free.

        Raises:
            LaunchError: a shift could not start its workers.
        """
        notes = self._desk.news()
        for found in self._desk.stumbles(self._orders.launch).values():
            for path, stumble in found:
                if path not in self._applied:
                    self._applied.add(path)
                    self._pending[stumble.failure.run].append(stumble)
        for shift, note in notes:
            if note.kind == "broken":
                raise LaunchError(note.message, hint=note.hint)
            task = self._tasks.get(note.task)
            if task is not None and not self._board.settled(task):
                self._hear(task, shift, note, alive)
        for name, stumbles in self._pending.items():
            while stumbles:
                self._stumble(self._tasks[name], stumbles.pop(0))
        for name in list(self._back):  # after failures: one of them may have been the reason
            self._return(self._tasks[name])

    def settle_done(self, *, at_once: bool = False) -> None:
        """Settles tasks whose result exists though no shift said so, the second time it is seen."""
        seen = set()
        for task in self._tasks.values():
            if not self._board.settled(task) and Path(task.done).exists():
                seen.add(task.id)
                if at_once or task.id in self._done_before:
                    self._succeed(task, 0.0)
        self._done_before = seen

    def close_unheld(self, held: Collection[str]) -> None:
        """Frees tasks that were begun and that nobody holds, the second time that is seen.

        Args:
            held: tasks with a lease.
        """
        unheld = self._at.keys() - held
        for name in unheld & self._unheld_before:
            self._close(self._tasks[name])
        self._unheld_before = unheld

    def abandon(self) -> None:
        """Settles what is under way as stopped."""
        for task in self.under_way:
            self._board.abandon(task, "stopped while under way", seconds=0.0)
        self._at.clear()

    def _hear(self, task: Task, shift: str, note: Note, alive: Collection[str]) -> None:
        if note.kind == "began":
            if task.id in self._back:
                self._return(task)
            if task.id in self._at:  # by another, whose attempt is over
                self._close(task)
            if not self._board.settled(task):
                self._begin(task, shift, note, alive)
        elif note.kind == "advanced":
            if task.id not in self._at:
                if task.id in self._back:
                    self._return(task)
                self._begin(task, shift, note, alive)
            if self._at[task.id][0] == shift:
                known = note.model_dump(include={"done", "total", "loss", "tokens_per_second"})
                self._on_event(Advanced(task=task.id, slot=self._at[task.id][1], **known))
        elif note.kind == "ended":
            self._succeed(task, note.seconds)
        elif note.kind == "back" and self._at.get(task.id, ("",))[0] == shift:
            del self._at[task.id]
            self._back[task.id] = note.seconds

    def _return(self, task: Task) -> None:
        """Settles a task that a shift saved and gave back."""
        seconds = self._back.pop(task.id)
        if self._board.settled(task):
            return
        if self._board.halted:
            self._board.abandon(task, "stopped while under way", seconds=seconds)
        else:
            self._board.give_back(task, seconds=seconds)

    def _begin(self, task: Task, shift: str, note: Note, alive: Collection[str]) -> None:
        self._mark_begun(task)
        first = self._place(shift, alive) * self._orders.work.slots
        self._at[task.id] = (shift, first + note.slot)
        self._on_event(
            Began(
                task=task.id,
                slot=first + note.slot,
                beside=tuple(first + slot for slot in note.beside),
                attempt=self._board.attempt(task),
                warm=note.warm,
            )
        )

    def _mark_begun(self, task: Task) -> None:
        for need in task.needs:  # finished, or it could not begin; its note may come later
            if not self._board.settled(self._tasks[need]):
                self._succeed(self._tasks[need], 0.0)
        self._board.begin(task)

    def _succeed(self, task: Task, seconds: float) -> None:
        if self._board.settled(task):
            return
        if task.id not in self._at and self._back.pop(task.id, None) is None:
            self._mark_begun(task)
        self._at.pop(task.id, None)
        self._board.succeed(task, seconds)

    def _close(self, task: Task) -> None:
        """The attempt that is under way is over: it failed, or was given back without a word."""
        if self._pending[task.id]:
            self._stumble(task, self._pending[task.id].pop(0))
        else:
            self._at.pop(task.id)
            self._board.give_back(task, seconds=0.0)

    def _stumble(self, task: Task, stumble: Stumble) -> None:
        if self._board.settled(task):
            return
        if task.id not in self._at and self._back.pop(task.id, None) is None:
            self._mark_begun(task)
        _, slot = self._at.pop(task.id, ("", 0))
        told = stumble.failure
        failure, retry = self._board.fail(
            task,
            told.kind,
            told.message,
            log=told.log,
            seconds=stumble.seconds,
            micro_batch=stumble.micro_batch,
        )
        self._on_event(
            Stumbled(
                task=task.id,
                slot=slot,
                failure=failure,
                retry=retry,
                again=task.again,
                micro_batch=stumble.micro_batch if retry else None,
            )
        )

    def _place(self, shift: str, alive: Collection[str]) -> int:
        """Which rows of the table a shift has: the first that no living shift has."""
        if shift not in self._places:
            job = shift.rpartition(".")[0]
            living = {
                place
                for other, place in self._places.items()
                if (former := other.rpartition(".")[0]) != job
                and former.rpartition("-")[2] in alive
            }
            self._places[shift] = next(n for n in range(len(living) + 1) if n not in living)
        return self._places[shift]
