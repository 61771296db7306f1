"""What a person sees while tasks run: a row for each slot, one line that sums up, and each failure.

`Live` listens to a launcher's events. On a terminal it draws a table on standard error, redrawn a
few times a second by a thread of rich's whatever the number of events; elsewhere it writes a line
now and then, and in the end a table of what failed (`failed`). Standard output is left alone: it is
for data.

The time left is measured, not promised: seconds per unit of size of the tasks finished so far, for
each verb, times the size still to come, over the slots (`time_left`). Seconds on several slots
count once for each.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from anneal.launch.failed import Failed, failed_table
from anneal.launch.values import (
    Advanced,
    Began,
    Event,
    Outcome,
    Planned,
    Settled,
    Stopping,
    Stumbled,
    Task,
)

REFRESHES_PER_SECOND = 2.0
"""A redraw costs a few milliseconds of a core that the workers want too."""
PLAIN_SECONDS = 15.0
"""Without a terminal, a line at most this often."""
BAR_WIDTH = 24


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one slot is doing."""

    task: Task
    began: float
    warm: bool
    done: int = 0
    total: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    beside: tuple[int, ...] = ()
    """The other slots that its task takes."""

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


class Live:
    """Shows a launch: `with Live() as live: launcher.run(tasks, on_event=live)`.

    Args:
        console: where to; standard error when None.
        clock: seconds, monotonic.
    """

    def __init__(
        self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console if console is not None else Console(stderr=True)
        self._clock = clock
        self._terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._rich: RichLive | None = None
        self._began = clock()
        self._said = clock()
        self._tasks: dict[str, Task] = {}
        self._rows: dict[int, Row] = {}
        self._slots = 0
        self._outcomes: dict[str, Outcome] = {}
        self._last_failure = ""
        self._note = ""
        self._failed: list[Failed] = []

    def __enter__(self) -> Self:
        if self._terminal:
            self._rich = RichLive(
                console=self._console,
                get_renderable=self.render,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
                redirect_stdout=False,
            )
            self._rich.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
            self._rich = None
        if self._tasks:
            self.say(self.summary())
            missing = Counter(o.missing for o in self._outcomes.values() if o.missing)
            for reason, count in missing.items():
                self.say(f"{count} missing: {reason}")
        if self._failed:
            self.say(failed_table(self._failed))
            self._failed.clear()

    def __call__(self, event: Event) -> None:
        """Takes note of an event."""
        if isinstance(event, Planned):
            self._plan(event)
        elif isinstance(event, Began):
            task = self._tasks[event.task]
            self._rows[event.slot] = Row(
                task=task,
                began=self._clock(),
                warm=event.warm,
                total=task.total,
                beside=event.beside,
            )
        elif isinstance(event, Advanced):
            row = self._rows[event.slot]
            self._rows[event.slot] = replace(
                row,
                began=row.began if row.warm else self._clock(),
                warm=True,
                done=event.done,
                total=event.total,
                loss=event.loss,
                tokens_per_second=event.tokens_per_second,
            )
        elif isinstance(event, Stumbled):
            self._stumble(event)
        elif isinstance(event, Settled):
            self._outcomes[event.outcome.task] = event.outcome
            for slot, row in list(self._rows.items()):
                if row.task.id == event.outcome.task:
                    del self._rows[slot]
        elif isinstance(event, Stopping):
            self._note = (
                f"stopping: {event.workers} workers save their work,"
                f" at most {event.seconds:.0f} s; Ctrl-C again ends them at once"
            )
            if not self._terminal:
                self.say(self._note)
        if not self._terminal and self._clock() - self._said >= PLAIN_SECONDS:
            self.say(self.summary())

    def summary(self) -> str:
        """One line: finished, failed, missing, elapsed, time left."""
        outcomes = list(self._outcomes.values())
        skipped = sum(o.skipped for o in outcomes)
        failed = sum(o.failure is not None for o in outcomes)
        missing = sum(bool(o.missing) for o in outcomes)
        words = [f"{sum(o.ok for o in outcomes)}/{len(self._tasks)} finished"]
        words += [f"{skipped} of them before"] if skipped else []
        words += [f"{failed} failed"] if failed else []
        words += [f"{missing} missing"] if missing else []
        words += [f"{_clock_time(self._clock() - self._began)} elapsed"]
        if len(outcomes) < len(self._tasks):
            left = time_left(
                self._tasks, outcomes, list(self._rows.values()), self._slots, now=self._clock()
            )
            words += ["time left unknown" if left is None else f"about {_clock_time(left)} left"]
        return ", ".join(words)

    def render(self) -> RenderableType:
        """The table and the lines below it."""
        if not self._tasks:
            return Text("")
        table = Table.grid(padding=(0, 2), expand=False)
        led = {n: first for first, row in self._rows.items() for n in row.beside}
        for number in range(self._slots):
            row = self._rows.get(number)
            if row is None:
                does = f"with slot {led[number]}" if number in led else "idle"
                table.add_row(f"{number}", Text(does, style="dim"))
                continue
            name = f"{number} x{1 + len(row.beside)}" if row.beside else f"{number}"
            elapsed = _clock_time(self._clock() - row.began)
            label = Text(row.task.label, overflow="ellipsis", no_wrap=True)
            if not row.warm:
                starting = Text("starting up", style="dim")
                table.add_row(name, label, starting, "", "", elapsed)
                continue
            bar = ProgressBar(total=max(1, row.total), completed=row.done, width=BAR_WIDTH)
            speed, loss = row.tokens_per_second, row.loss
            table.add_row(
                name,
                label,
                bar,
                f"{row.fraction:4.0%}",
                "" if speed is None else f"{speed:,.0f} tokens/s",
                elapsed,
                "" if loss is None else f"loss {loss:.3f}",
            )
        lines: list[RenderableType] = [table, Text(self.summary(), style="bold")]
        if self._last_failure:
            lines.append(Text(self._last_failure, style="red", overflow="ellipsis", no_wrap=True))
        if self._note:
            lines.append(Text(self._note, style="yellow"))
        return Group(*lines)

    def _plan(self, event: Planned) -> None:
        self._tasks = {task.id: task for task in event.tasks}
        self._slots = event.slots
        self._rows, self._outcomes = {}, {}
        self._last_failure = self._note = ""
        self._began = self._clock()
        if not self._terminal:
            self.say(f"{len(event.tasks)} tasks on {event.slots} slots")

    def _stumble(self, event: Stumbled) -> None:
        self._rows.pop(event.slot, None)
        failure, label = event.failure, self._tasks[event.task].label
        head = f"{label} ({failure.kind}): {failure.message}"
        if event.retry:
            how = "" if event.micro_batch is None else f" with micro-batch {event.micro_batch}"
            self.say(f"retried{how}: {head}\n  log: {failure.log}")
        else:
            self._last_failure = f"last failure: {head}"
            self._failed.append(Failed(label=label, failure=failure, again=event.again))
            self.say(f"failed: {head}\n  log: {failure.log}\n  again: {event.again}")

    def say(self, text: str) -> None:
        """Prints a line above the table."""
        self._said = self._clock()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def time_left(
    tasks: Mapping[str, Task],
    outcomes: Sequence[Outcome],
    rows: Sequence[Row],
    slots: int,
    *,
    now: float,
) -> float | None:
    """Seconds until all is finished, at the speed measured so far; None while nothing is known.

    A verb's speed is that of its finished tasks (seconds on a worker, times its slots, over size),
    or, before there is one, of those under way that are at least 2% done. Failed and skipped tasks
    say nothing. Slots that wait until a wide task fits are not foreseen.
    """
    seconds: dict[str, float] = defaultdict(float)
    sizes: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        if outcome.ok and not outcome.skipped:
            task = tasks[outcome.task]
            seconds[task.verb] += outcome.seconds * task.slots
            sizes[task.verb] += task.size
    measured = set(sizes)
    for row in rows:
        if row.task.verb not in measured and row.fraction >= 0.02:
            seconds[row.task.verb] += (now - row.began) * row.task.slots
            sizes[row.task.verb] += row.fraction * row.task.size
    fraction = {row.task.id: row.fraction for row in rows}
    settled = {outcome.task for outcome in outcomes}
    total = longest = 0.0
    for task in tasks.values():
        if task.id in settled or not task.size:
            continue
        if not sizes.get(task.verb):
            return None
        rate = seconds[task.verb] / sizes[task.verb]
        left = rate * task.size * (1 - fraction.get(task.id, 0.0))
        total += left
        longest = max(longest, left / task.slots)
    return max(total / slots, longest)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
