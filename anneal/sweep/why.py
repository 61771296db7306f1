"""Why a run is a new one: what it has that no finished run has.

A run is what it trains on and how (`RunSpec`), so a run that is not found finished differs from
every finished one in at least one leaf of its spec. The finished run with the fewest differing
leaves is the one that a person took it for; those leaves are the answer. Among equals, runs that
the plan lacks come first: its own are meant to differ, in seed or source. Mixtures are compared
by source and targets by name, so that a source more is one difference and no shift of all others.
Content addresses say nothing to people: each is told with the source whose tokens it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from anneal.errors import SettingsError, StoreError
from anneal.plan.values import RunSpec, RunTask
from anneal.sources.values import Manifest
from anneal.store import Store, read_value
from anneal.sweep.record import planned
from anneal.sweep.show import wide_console
from anneal.sweep.values import Sweep

ABSENT = "-"
SHORT = 10
"""Characters of an address that are shown."""


@dataclass(frozen=True)
class Known:
    """A run of the store or of a plan.

    Args:
        spec: what it is.
        label: for people.
        finished: whether it has a result.
        planned: whether it is of the sweep's plan.
    """

    spec: RunSpec
    label: str
    finished: bool
    planned: bool = False


def why(ask: Sweep, run: str) -> None:
    """Prints which fields set a run apart from the nearest finished one.

    Args:
        ask: the sweep, whose planned runs can be asked about.
        run: an id or its beginning, of a planned run or of any in the store.

    Raises:
        SettingsError: no run begins so, or several do.
    """
    store, out = Store(ask.store), wide_console()
    runs = known_runs(ask, store)
    asked = _find(run, runs, store)
    state = "finished" if asked.finished else "not finished"
    out.print(f"run {asked.spec.id} ({asked.label}): {state}", markup=False, highlight=False)
    others = {i: r.spec for i, r in runs.items() if r.finished and i != asked.spec.id}
    if not others:
        out.print("No other run of this store is finished: there is nothing to compare with.")
        return
    other = nearest(asked.spec, others, last={i for i, r in runs.items() if r.planned})
    rows = differing(asked.spec, others[other])
    out.print(
        f"nearest finished run: {other} ({runs[other].label}), {len(rows)} of "
        f"{len(leaves(asked.spec))} fields differ{'' if asked.finished else ': a new run by'}",
        markup=False,
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("field", "this run", "that run"):
        table.add_column(name, overflow="fold")
    for name, (ours, theirs) in rows.items():
        shown = (_told(name, value, store, runs) for value in (ours, theirs))
        table.add_row(Text(name), *(Text(text) for text in shown))
    out.print(table)


def leaves(spec: RunSpec) -> dict[str, Any]:
    """Every leaf of a spec by its path, such as `phases.0.mixture.books.share`."""
    return dict(_leaves(spec.model_dump(mode="json"), ""))


def differing(spec: RunSpec, other: RunSpec) -> dict[str, tuple[Any, Any]]:
    """Leaves in which two specs differ, with both values; `ABSENT` where one has none."""
    ours, theirs = leaves(spec), leaves(other)
    return {
        name: (ours.get(name, ABSENT), theirs.get(name, ABSENT))
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name, ABSENT) != theirs.get(name, ABSENT)
    }


def nearest(
    spec: RunSpec, others: Mapping[str, RunSpec], *, last: Collection[str] = frozenset()
) -> str:
    """The id of the spec with the fewest differing leaves.

    Args:
        spec: compared with.
        others: by id; one at least.
        last: ids that come after the others among equals; then the first by id.
    """
    ours = set(_hashable(leaves(spec)))

    def distance(item: tuple[str, RunSpec]) -> tuple[int, bool, str]:
        apart = ours ^ set(_hashable(leaves(item[1])))
        return len({name for name, _ in apart}), item[0] in last, item[0]

    return min(others.items(), key=distance)[0]


def known_runs(ask: Sweep, store: Store) -> dict[str, Known]:
    """Runs by id: those of the sweep's plan, then all others that the store has a task of."""
    runs: dict[str, Known] = {}
    if (store.sweep(ask.name) / "plan.json").exists():
        for run in planned(store.sweep(ask.name)):
            runs[run.spec.id] = Known(
                run.spec, run.label, _finished(store, run.spec.id), planned=True
            )
    for name in store.runs():
        if name in runs:
            continue
        try:
            task = read_value(store.run(name) / "task.json", RunTask)
        except StoreError:  # of an older version, or damaged: it cannot be compared
            continue
        runs[name] = Known(task.spec, task.label, _finished(store, name))
    return runs


def _finished(store: Store, run: str) -> bool:
    return (store.run(run) / "result.json").exists()


def _find(run: str, runs: Mapping[str, Known], store: Store) -> Known:
    found = [name for name in sorted(runs) if run and name.startswith(run)]
    if run in runs:
        found = [run]
    if len(found) == 1:
        return runs[found[0]]
    several = f"{len(found)} begin so: {', '.join(found[:5])}" + (", ..." * (len(found) > 5))
    raise SettingsError(
        f"run {run}: {several if found else 'no such run'} in {store.root}",
        hint="`python -m anneal status` lists a sweep's runs; name its file or store=FOLDER",
    )


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            key = str(number)
            if isinstance(inner, dict):  # a portion or a target goes by its name
                named = path.endswith("mixture") or path == "targets"
                key = str(inner.get("source", inner.get("name", key))) if named else key
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, value


def _hashable(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        yield name, repr(value)


def _told(name: str, value: Any, store: Store, runs: Mapping[str, Known]) -> str:
    """A leaf's value for people: addresses cut short, with what they stand for."""
    if value == ABSENT or not isinstance(value, str):
        return f"{value:,}" if type(value) is int else str(value)
    field = name.rpartition(".")[2]
    if field == "content":
        return f"{value[:SHORT]}{_of_tokens(value, store)}"
    if field == "run":
        return value[:SHORT] + (f" ({runs[value].label})" if value in runs else "")
    return value[:SHORT] if field == "tokenizer" else value


def _of_tokens(content: str, store: Store) -> str:
    try:
        manifest = read_value(store.tokens(content) / "manifest.json", Manifest)
    except StoreError:
        return " (no longer in the store)"
    made = f"documents {manifest.documents_address[:SHORT]}"
    return f" ({manifest.name}: {manifest.tokens:,} tokens of {made})"
