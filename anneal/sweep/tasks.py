"""From planned runs to tasks for the launcher."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from anneal.launch.values import Task
from anneal.plan.budget import Supply
from anneal.plan.means import Means
from anneal.plan.runs import Design, PlannedRun
from anneal.plan.values import LlamaShape, RunSpec, RunTask
from anneal.sources.values import Manifest
from anneal.store import Store, write_value
from anneal.sweep.base import Base, scored
from anneal.sweep.values import Sweep


def design_of(ask: Sweep, manifests: Mapping[str, Manifest], base: Base) -> Design:
    """The design of a sweep whose sources are prepared."""
    replay = ask.replay[0]
    return Design(
        start=base.start,
        parameters=base.parameters,
        tokenizer=manifests[replay.name].tokenizer,
        vocabulary=manifests[replay.name].vocabulary,
        replay=supply_of(replay.max_epochs, manifests[replay.name]),
        sources=tuple(supply_of(s.max_epochs, manifests[s.name]) for s in ask.source),
        targets=scored(ask, manifests),
        budget=ask.budget,
        anneal=ask.phase,
        optimiser=ask.optimiser,
        precision=ask.precision,
        score_sequence=ask.score_sequence,
        prices=ask.prices,
        seed=ask.seed,
    )


def supply_of(max_epochs: float, manifest: Manifest) -> Supply:
    """A prepared source as the plan sees it."""
    return Supply(
        name=manifest.name,
        kind=manifest.kind,
        content=manifest.content,
        tokens=manifest.tokens,
        max_epochs=max_epochs,
        cost=manifest.cost,
    )


def run_tasks(
    ask: Sweep,
    runs: Sequence[PlannedRun | RunSpec],
    store: Store,
) -> list[Task]:
    """Tasks of `runs`; the task files of those without a result are written."""
    tasks = []
    for run in runs:
        if isinstance(run, RunSpec):
            spec, label = run, run.phases[-1].name
        else:
            spec, label = run.spec, run.label
        keep = isinstance(spec.start, LlamaShape)
        means = ask.engine.model_copy(
            update={"keep_weights": keep, "threads": ask.launcher.threads}
        )
        tasks.append(run_task(spec, means, label, store))
    return tasks


def run_task(spec: RunSpec, means: Means, label: str, store: Store) -> Task:
    """The task of one run; its file is written where the run has no result."""
    folder = store.run(spec.id)
    done = folder / "result.json"
    if not done.exists():
        task = RunTask(spec=spec, means=means, label=label, code=code_version())
        write_value(folder / "task.json", task)
    tokens = sum(p.tokens for p in spec.phases)
    return Task(
        id=spec.id,
        label=label,
        verb="run",
        spec=str(folder / "task.json"),
        done=str(done),
        size=tokens + SCORING * len(spec.targets),
        total=tokens,
        slots=means.processes,
    )


SCORING = 20_000
"""Trained tokens that scoring one target is about worth in time: it orders runs, no more."""


@cache
def code_version() -> str:
    """Commit of anneal's code, `+` when it has local changes; `release` outside a checkout."""
    folder = Path(__file__).resolve().parent.parent.parent
    if not (folder / ".git").exists():
        return "release"

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no", "--", "anneal", "conf")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if dirty else "")
