"""A store in the middle of a sweep, made by hand: nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

from anneal.plan.means import Means
from anneal.plan.runs import PlannedRun
from anneal.plan.values import FromRun, RunSpec, RunTask
from anneal.store import Store, write, write_value
from anneal.sweep.record import keep
from anneal.sweep.values import Sweep
from tests.training import tiny

BASE = tiny.spec(tiny.GENERAL)


def spec(source: str = "code", seed: int = 0, steps: int = 4, **more) -> RunSpec:
    """A micro-anneal from the base."""
    phase = tiny.phase("anneal", {source: 0.75, "web": 0.25}, steps)
    made = tiny.spec(phase)
    return made.model_copy(update={"start": FromRun(run=BASE.id), "seed": seed, **more})


def planned(made: RunSpec) -> PlannedRun:
    return PlannedRun(
        spec=made,
        arm="source",
        source=made.phases[0].mixture[0].source,
        budget=384,
        seed=made.seed,
        repetition="matched",
        epochs=1.0,
        tested=0.75,
        acquisition_flops=0.0,
        acquisition_usd=0.0,
    )


def plan(ask: Sweep, *specs: RunSpec) -> Store:
    """The sweep is planned to be these runs."""
    store = Store(ask.store)
    keep(store.sweep(ask.name), tuple(planned(one) for one in specs))
    return store


def begin(store: Store, made: RunSpec, *, tokens: int | None = None, label: str = "") -> Path:
    """A run's folder as a worker leaves it: task file, and a log up to `tokens`."""
    folder = store.run(made.id)
    label = label or planned(made).label
    write_value(folder / "task.json", RunTask(spec=made, means=Means(), label=label, code="test"))
    if tokens is not None:
        rows = [{"phase": 0, "step": 1, "tokens": tokens, "loss": 2.5}, {"half": True}]
        write(folder / "log.jsonl", "\n".join(json.dumps(row) for row in rows)[:-3])
    return folder


def finish(store: Store, made: RunSpec, *, label: str = "") -> Path:
    folder = begin(store, made, label=label)
    write(folder / "result.json", "{}")  # its existence is what counts
    return folder
