"""A sweep watched from outside: what is finished, under way and missing, read from files alone.

The watcher takes no lock and asks no process. It may run beside a sweep, on another machine that
sees the same disk, or when nothing runs. What it goes by:

    result.json             finished
    log.jsonl               how far a run is: its last whole line; written since the store was taken
                            by whoever holds it: under way; older: begun, and left
    neither                 missing

That a run is under way is therefore a conclusion: the seconds since its last line stand beside it.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from anneal.errors import StoreError
from anneal.plan.runs import PlannedRun
from anneal.store import Holder, Store
from anneal.sweep.record import planned
from anneal.sweep.show import wide_console
from anneal.sweep.values import Sweep

SECONDS = 2.0
"""Between two looks."""
MOST_ROWS = 30
"""Runs under way that are shown, the least advanced last."""
LINE = 4096
"""Bytes that hold the last line of a log."""

State = Literal["finished", "running", "begun", "missing"]


@dataclass(frozen=True)
class Standing:
    """Where one run stands.

    Args:
        run: its id.
        label: for people.
        state: see above.
        tokens: trained so far, as far as its log says.
        total: tokens of the run.
        loss: the last, nats per token.
        age: seconds since its log was written to.
    """

    run: str
    label: str
    state: State
    total: int
    tokens: int = 0
    loss: float | None = None
    age: float = 0.0


def watch(
    ask: Sweep,
    *,
    seconds: float = SECONDS,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Shows a sweep until all its runs are finished or Ctrl-C comes.

    On a terminal the picture is redrawn; elsewhere a line is written when a run's state changes.

    Raises:
        StoreError: it was never started, and nothing prepares it either.
    """
    store, out = Store(ask.store), console or wide_console()
    finished: set[str] = set()
    began, said = time.monotonic(), ""
    first: int | None = None
    runs: list[tuple[str, str, int]] = []
    written = 0.0
    live = Live(console=out, auto_refresh=False) if out.is_terminal else None
    with live or nullcontext():
        try:
            while True:
                holder = active(store)
                if (made := _made(ask, store)) != written or not runs:
                    runs, written = _runs(ask, store, holder), made
                standings = look(store, runs, finished, held=holder is not None)
                trained = sum(s.tokens for s in standings)
                first = trained if first is None else first
                rate = (trained - first) / max(time.monotonic() - began, 1e-9)
                told = summary(standings, holder, rate)
                if live is not None:
                    live.update(picture(standings, told), refresh=True)
                elif (plain := summary(standings, holder, 0.0)) != said:
                    out.print(told, markup=False, highlight=False, soft_wrap=True)
                    said = plain
                if standings and all(s.state == "finished" for s in standings):
                    return
                sleep(seconds)
        except KeyboardInterrupt:
            return


def active(store: Store) -> Holder | None:
    """Who seems to hold the store, by what the lock file says: told without touching the lock."""
    holder = store.last_holder()
    if holder is None or not holder.here:
        return holder
    try:
        os.kill(holder.process, 0)  # signal 0 asks whether the process exists
    except ProcessLookupError:
        return None
    except PermissionError:
        return holder
    return holder


def look(
    store: Store, runs: Iterable[tuple[str, str, int]], finished: set[str], *, held: bool
) -> list[Standing]:
    """Where every run stands.

    Args:
        store: where they lie.
        runs: id, label and tokens of each.
        finished: ids known to be finished, which are not asked for again; added to.
        held: whether somebody is at work.
    """
    taken = store.taken() if held else None
    now, found = time.time(), []
    for run, label, total in runs:
        folder = store.run(run)
        if run in finished or (folder / "result.json").exists():
            finished.add(run)
            found.append(Standing(run, label, "finished", total, total))
            continue
        row = last_row(folder / "log.jsonl")
        if row is None:
            begun = next(folder.glob("checkpoint-*"), None)
            found.append(Standing(run, label, "begun" if begun else "missing", total))
            continue
        tokens, loss, written = row
        state: State = "running" if taken is not None and written >= taken else "begun"
        found.append(Standing(run, label, state, total, tokens, loss, max(0.0, now - written)))
    return found


def last_row(log: Path) -> tuple[int, float | None, float] | None:
    """Tokens and loss of a log's last whole line (0 and None before the first), and when it was
    written; None without a log."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LINE))
            lines = file.read().split(b"\n")[:-1]  # what follows the last newline is half a line
            written = os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
            return int(row["tokens"]), float(row["loss"]), written
        except (ValueError, KeyError, TypeError):
            continue
    return 0, None, written


def summary(standings: Sequence[Standing], holder: Holder | None, rate: float) -> str:
    """One line: how many of each state, who is at work, the time left at the rate seen so far."""
    who = str(holder) if holder else "nothing runs here now"
    if not standings:
        return f"preparing sources and targets; {who}"
    counts = Counter(s.state for s in standings)
    words = [f"{counts['finished']} of {len(standings)} runs finished"]
    words += [f"{counts['running']} running"] if counts["running"] else []
    words += [f"{counts['begun']} begun and left"] if counts["begun"] else []
    words += [f"{counts['missing']} missing"] if counts["missing"] else []
    left = sum(s.total - s.tokens for s in standings)
    if rate > 0 and left:
        words.append(f"about {_span(left / rate)} left at {rate:,.0f} tokens/s")
    return f"{', '.join(words)}; {who}"


def picture(standings: Sequence[Standing], told: str) -> RenderableType:
    """A row for every run under way, and the summary."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "", "tokens", "", "loss", "last line"):
        table.add_column(name, justify="left" if name in {"run", ""} else "right")
    rows = sorted((s for s in standings if s.state == "running"), key=lambda s: -s.tokens)
    for row in rows[:MOST_ROWS]:
        table.add_row(
            row.run[:10],
            Text(row.label),
            f"{row.tokens:,}",
            f"{row.tokens / max(row.total, 1):4.0%}",
            "" if row.loss is None else f"{row.loss:.4f}",
            f"{row.age:.0f} s ago",
        )
    if len(rows) > MOST_ROWS:
        table.add_row("", f"and {len(rows) - MOST_ROWS} more")
    return Group(*([table] if rows else []), Text(told, style="bold"))


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _made(ask: Sweep, store: Store) -> float:
    """When the plan was written; 0 before it is."""
    try:
        return (store.sweep(ask.name) / "plan.json").stat().st_mtime
    except OSError:
        return 0.0


def _runs(ask: Sweep, store: Store, holder: Holder | None) -> list[tuple[str, str, int]]:
    """Id, label and tokens of every run of the plan, the trained base first; none while the
    sources are prepared for the first time."""
    try:
        runs = planned(store.sweep(ask.name))
    except StoreError:
        if holder is None:
            raise
        return []
    return [*_base(ask, runs), *((r.spec.id, r.label, r.tokens) for r in runs)]


def _base(ask: Sweep, runs: Sequence[PlannedRun]) -> list[tuple[str, str, int]]:
    starts = {r.spec.start.run for r in runs if r.spec.start.kind == "run"}
    return [(run, "the base", ask.base.tokens) for run in sorted(starts)]
