"""A task that ran out of memory, made smaller: its file is changed before it is handed out again.

A worker is handed the path of a file and nothing else, so what changes about a retry is changed
there. The file is the run's record as well: whoever repeats the run by its command gets the same.
"""

from __future__ import annotations

from pathlib import Path

from anneal.errors import StoreError
from anneal.launch.values import Task
from anneal.plan.failures import smaller
from anneal.plan.values import RunTask
from anneal.store import read_value, write_value


def shrink(task: Task) -> int | None:
    """Halves the micro-batch in the task's file, at an equal global batch.

    Returns:
        Sequences at once from now on; None for what has none (curation steps), for a run that has
        one sequence at once already, and where the file cannot be read or written.
    """
    if task.verb != "run":
        return None
    path = Path(task.spec)
    try:
        less = smaller(read_value(path, RunTask))
        if less is None:
            return None
        write_value(path, less)
    except StoreError:
        return None
    return less.means.micro_batch
