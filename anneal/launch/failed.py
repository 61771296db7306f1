"""The table of what failed, printed once at the end: hours of other lines may lie in between.

    2 failed
    books 8,192 seed 3                                    non_finite    1 attempt
      said   loss nan, gradient norm nan at step 3 of 12 of phase `anneal`, learn...
      log    store/sweeps/maths/logs/5f0c.log
      last   RuntimeError: the last line of that log
      again  python -m anneal run store/runs/5f0c/task.json

Text is cut to the width; paths and commands never are, since they are there to be copied: they
are given from the working directory where that is shorter, and a longer one has a line of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anneal.launch.process import tail
from anneal.plan.values import Failure

WIDTH = 80
HEAD = "  {:<7}"


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A task that failed for good.

    Args:
        label: for people.
        failure: class, message, log, attempts.
        again: command that repeats it.
    """

    label: str
    failure: Failure
    again: str


def failed_table(failed: Sequence[Failed], *, width: int = WIDTH) -> str:
    """One block a task, in the order in which they failed."""
    return "\n".join([f"{len(failed)} failed", *(_block(one, width) for one in failed)])


def _block(one: Failed, width: int) -> str:
    failure = one.failure
    tries = f"{failure.attempts} attempt" + ("s" if failure.attempts != 1 else "")
    right = f"  {failure.kind:<14}{tries:>12}"
    left = _cut(one.label, width - len(right))
    lines = [f"{left:<{width - len(right)}}{right}"]
    room = width - len(HEAD.format(""))
    lines.append(HEAD.format("said") + _cut(failure.message, room))
    lines += _whole("log", nearer(failure.log), width)
    if (last := tail(Path(failure.log))) and last not in failure.message:
        lines.append(HEAD.format("last") + _cut(last, room))
    words = [nearer(word) if os.path.isabs(word) else word for word in one.again.split(" ")]
    lines += _whole("again", " ".join(words), width)
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."


def _whole(head: str, text: str, width: int) -> list[str]:
    """A path or command on the line of its head where it fits, below it otherwise."""
    line = HEAD.format(head) + text
    return [line] if len(line) <= width else [f"  {head}", text]


def nearer(path: str) -> str:
    """A path from the working directory, where it lies below that."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
