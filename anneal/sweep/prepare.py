"""From sources to tokens: plans the preparation, has workers carry it out, reads the manifests."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from anneal.curation.plan import manifests, plan_preparation
from anneal.curation.values import PrepareStep
from anneal.errors import SettingsError, SourceError
from anneal.launch.values import Launcher, Listener, Outcome, Task
from anneal.sources.values import Manifest
from anneal.store import Store, write_value
from anneal.sweep.values import Sweep


def steps_of(ask: Sweep, store: Store) -> tuple[PrepareStep, ...]:
    """Every preparation step of a sweep, finished or not.

    Raises:
        SourceError: sources that are missing, empty, circular or also a target.
    """
    return plan_preparation(
        (*ask.source, *ask.replay),
        ask.target,
        ask.tokenizer,
        store,
        base=Path(ask.folder),
        others=ask.helper,
        forbidden_licences=ask.forbidden_licences,
    )


def prepare(
    ask: Sweep, store: Store, launcher: Launcher, listener: Listener
) -> dict[str, Manifest]:
    """Prepares what is not prepared yet.

    Raises:
        SourceError: with the message of the first step that failed.
        LaunchError: the runs could not be launched afterwards; told before anything is paid for.
    """
    steps = steps_of(ask, store)
    if not all(step.done(store).exists() for step in steps):
        launcher.admit(ask.engine.processes, what="a run of the sweep")
    outcomes = launcher.run([task_of(step, store) for step in steps], on_event=listener)
    for outcome in outcomes:
        _raise_failure(outcome, steps)
    return read(ask, steps, store)


def prepare_some(
    ask: Sweep, names: Sequence[str], store: Store, launcher: Launcher, listener: Listener
) -> tuple[PrepareStep, ...]:
    """Prepares these sources or targets alone, with what they need; all where none is named.

    Returns:
        The steps that this takes, finished; those of tokens are of the named alone.

    Raises:
        SettingsError: a name that the sweep does not have.
        SourceError: with the message of the first step that failed.
    """
    steps = steps_of(ask, store)
    named = {s.work.name: s for s in steps if s.work.kind == "tokens"}
    if unknown := [name for name in names if name not in named]:
        near = difflib.get_close_matches(unknown[0], named, n=3, cutoff=0.5)
        raise SettingsError(
            f"prepare: the sweep has no source or target `{unknown[0]}`",
            hint=f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(named)}",
        )
    by_id = {step.id: step for step in steps}
    needed: dict[str, PrepareStep] = {}

    def need(step: PrepareStep) -> None:
        for other in step.needs:
            need(by_id[other])
        needed.setdefault(step.id, step)

    for name in names or named:
        need(named[name])
    some = tuple(needed.values())
    outcomes = launcher.run([task_of(step, store) for step in some], on_event=listener)
    for outcome in outcomes:
        _raise_failure(outcome, some)
    return some


def read(ask: Sweep, steps: tuple[PrepareStep, ...], store: Store) -> dict[str, Manifest]:
    """Manifests of a finished preparation, by name of source or target."""
    return manifests((*ask.source, *ask.replay), ask.target, steps, store, others=ask.helper)


def task_of(step: PrepareStep, store: Store) -> Task:
    """The launcher's task for one step; its spec is written where it is not there yet."""
    done = step.done(store)
    spec = store.step(step.id)
    if not done.exists():
        write_value(spec, step)
    return Task(
        id=step.id,
        label=step.label,
        verb="prepare",
        spec=str(spec),
        done=str(done),
        needs=step.needs,
    )


def _raise_failure(outcome: Outcome, steps: tuple[PrepareStep, ...]) -> None:
    failure = outcome.failure
    if failure is None:
        return
    label = next(s.label for s in steps if s.id == outcome.task)
    message, _, hint = failure.message.partition(" hint: ")
    if failure.kind in ("bad_data", "network", "disk_full"):
        raise SourceError(message, hint=hint)
    raise SourceError(f"{label}: {failure.kind}: {message}", hint=f"see {failure.log}")
