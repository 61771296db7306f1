"""The training worker: runs handed to it one after another, torch and base loaded once.

Started as `python -m anneal run SPEC` (one run) or `python -m anneal run --serve` (runs named on
standard input, events on standard output; see `plan.protocol`). It needs torch, transformers,
pydantic and numpy alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from anneal.errors import AnnealError
from anneal.plan.values import FailureClass, RunTask
from anneal.store import Store, read_value


def work(
    spec: Path,
    *,
    report: Callable[[int, int, float, float], None],
    stopping: Callable[[], bool],
) -> None:
    """Carries out the run whose `task.json` is at `spec`; returns when its result is written.

    Args:
        spec: STORE/runs/ID/task.json.
        report: called with tokens trained, tokens in all, loss and tokens/s.
        stopping: asked at every step.
    """
    from anneal.training.loop import train

    task = read_value(spec, RunTask)
    store = Store(spec.parents[2])
    if (store.run(task.spec.id) / "result.json").exists():
        return
    _set_threads(task.means.threads)
    train(task, store, bench=_bench(), report=report, stopping=stopping)


_warm: list[object] = []


def _bench():  # type: ignore[no-untyped-def]
    from anneal.training.loop import make_repeatable
    from anneal.training.workbench import Workbench

    if not _warm:
        make_repeatable()
        _warm.append(Workbench())
    return _warm[0]


def _set_threads(threads: int) -> None:
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def failure_class(error: BaseException) -> FailureClass:
    """What kind of failure an exception of a run is."""
    if type(error).__name__ == "NonFinite":
        return "non_finite"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return "out_of_memory"
    if isinstance(error, AnnealError):
        return "bad_data"
    return "bug"
