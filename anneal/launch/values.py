"""The words of launching: tasks, what became of them, and what happens meanwhile.

A `Task` is one spec file for a worker of one verb: a curation step (`prepare`) or a training run
(`run`). It is finished when its `done` path exists, whoever made it. Tasks need one another, and
an `Outcome` says what became of each:

    ok                      finished now (or `skipped`: it was finished before)
    failure                 tried and failed, with its class and its log
    missing                 never tried, and why: what it needs failed, or the launcher gave up

A `Launcher` carries tasks out, and tells whoever listens through `Event`s while it does so.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, Self

from pydantic import Field

from anneal.errors import AnnealError
from anneal.plan.values import Failure
from anneal.values import Value

Verb = Literal["prepare", "run"]
"""Which worker carries a task out: `python -m anneal VERB --serve`."""


class LaunchError(AnnealError):
    """Workers that cannot be started as asked."""


class Task(Value):
    """One thing for a worker to do."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=120)
    """Unique among the tasks of one launch, and fit for a file name: its log is named after it."""
    label: str
    """For people."""
    verb: Verb
    spec: str
    """Path of the JSON file that the worker reads."""
    done: str
    """Path whose existence means finished; the worker renames it into place last."""
    needs: tuple[str, ...] = ()
    """Tasks that must be finished before."""
    size: float = Field(1.0, ge=0)
    """Expected work of all its slots together, comparable within a verb (tokens): longest first,
    and the time left."""
    total: int = Field(0, ge=0)
    """Tokens, for the progress bar until the worker says better."""
    slots: int = Field(1, gt=0)
    """Slots it takes, with the cores and devices of all of them: processes of one run."""

    @property
    def again(self) -> str:
        """Command with which a person carries out this one task."""
        return f"python -m anneal {self.verb} {shlex.quote(self.spec)}"


class Outcome(Value):
    """What became of a task."""

    task: str
    ok: bool
    """Its result exists."""
    failure: Failure | None = None
    missing: str = ""
    """Why it was never tried to the end, where it did not fail itself."""
    attempts: int = 0
    seconds: float = 0.0
    """On a worker, over all attempts."""
    skipped: bool = False
    """Its result existed before."""
    micro_batch: int | None = None
    """Sequences at once with which it was tried again after it had run out of memory."""


class Planned(Value):
    """A launch begins: all its tasks, and those already done."""

    tasks: tuple[Task, ...]
    slots: int


class Began(Value):
    """A task was handed to the worker of a slot, or of a group of slots."""

    task: str
    slot: int
    """The first of the group, which later events name."""
    beside: tuple[int, ...] = ()
    """The other slots of the group."""
    attempt: int
    warm: bool
    """False while the worker is still starting up."""


class Advanced(Value):
    """A task came further (see `plan.protocol.Progress`); first of all, a worker turned to it."""

    task: str
    slot: int
    done: int
    total: int
    loss: float | None = None
    tokens_per_second: float | None = None


class Stumbled(Value):
    """A task failed, for good or to be retried."""

    task: str
    slot: int
    failure: Failure
    retry: bool
    again: str
    """Command that repeats this one task."""
    micro_batch: int | None = None
    """Sequences at once with which it is retried, where it ran out of memory."""


class Settled(Value):
    """What became of a task is known."""

    outcome: Outcome


class Stopping(Value):
    """Told to stop: the busy workers are saving their work."""

    workers: int
    seconds: float
    """How long they may take."""


Event = Planned | Began | Advanced | Stumbled | Settled | Stopping
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listens to nothing."""


class Launcher(ABC):
    """Carries tasks out somewhere. Workers may stay warm between launches, until `close`."""

    @abstractmethod
    def run(self, tasks: Sequence[Task], *, on_event: Listener = ignore) -> list[Outcome]:
        """Carries out `tasks`, those they need first.

        A task that fails is an outcome, not an exception, and the others go on.

        Returns:
            One outcome a task, in the order of `tasks`.

        Raises:
            ValueError: two tasks share an identifier, or needs are unknown or circular.
            LaunchError: a task that is not finished takes more slots than there are, told before
                anything starts; or workers cannot be started at all.
            KeyboardInterrupt: once every worker has saved its work or was killed.
        """

    @abstractmethod
    def admit(self, slots: int, *, what: str) -> None:
        """Checks that a task of so many slots could be carried out here.

        Args:
            slots: as of `Task.slots`.
            what: who asks, for the message.

        Raises:
            LaunchError: it takes more slots than there are.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends warm workers; a later `run` starts new ones."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
