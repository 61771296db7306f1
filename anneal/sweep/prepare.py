"""From sources to tokens: plans the preparation, has workers carry it out, reads the manifests."""

from __future__ import annotations

from pathlib import Path

from anneal.curation.plan import manifests, plan_preparation
from anneal.curation.values import PrepareStep
from anneal.errors import SourceError
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
    )


def prepare(
    ask: Sweep, store: Store, launcher: Launcher, listener: Listener
) -> dict[str, Manifest]:
    """Prepares what is not prepared yet.

    Raises:
        SourceError: with the message of the first step that failed.
    """
    steps = steps_of(ask, store)
    outcomes = launcher.run([task_of(step, store) for step in steps], on_event=listener)
    for outcome in outcomes:
        _raise_failure(outcome, steps)
    return read(ask, steps, store)


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
    if failure.kind == "bad_data":
        raise SourceError(message, hint=hint)
    raise SourceError(f"{label}: {failure.kind}: {message}", hint=f"see {failure.log}")
