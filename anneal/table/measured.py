"""From rows to what the laws take: points, guards, pools and the ladder of budgets.

A run that was scored on several targets has one row each; its score is their mean, and every run
must have every target, or two sources would be compared on different exams. The ladder joins
budgets that lie within 5% of one another: runs end on whole steps, so equal budgets rarely are.

**Pools.** A curve can only be drawn beyond the data with a pool: how many different tokens of the
source exist. Where the table's runs repeated, or drew on more than they used, the pool is the
largest that it names; otherwise every token is taken as new. `--pool` overrules both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from anneal.errors import TableError
from anneal.laws import Points
from anneal.laws.points import Floats
from anneal.table.cells import near
from anneal.table.read import CONTROL, Rows, Run

SAME_BUDGET = 1.05
"""Ratio up to which two budgets are one rung."""
FEWEST_BUDGETS = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """A table that a law can be fitted to.

    Args:
        name: the file's name.
        points: runs with their mean score over the targets; groups are `labels`.
        sources: those that could be bought: without the control.
        ladder: distinct budgets, ascending, tokens.
        pools: unique tokens that exist, by label; None where every token is new.
        flops, usd: (n,) what the runs cost, None where the table does not say.
        guards: points by guard target.
        targets: the targets of the mean; empty where the table names none.
        notes: what was decided in reading.
    """

    name: str
    points: Points
    sources: tuple[str, ...]
    ladder: tuple[float, ...]
    pools: dict[str, float | None]
    flops: Floats | None
    usd: Floats | None
    guards: dict[str, Points]
    targets: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Sources, then the control where there is one."""
        return self.points.labels

    @property
    def largest(self) -> float:
        """Most tokens that any run trained on."""
        return self.points.largest

    @property
    def repeats(self) -> bool:
        """Whether any run repeated its pool."""
        return bool((self.points.tokens > self.points.unique * (1 + 1e-9)).any())

    def pool(self, label: str, tokens: float) -> float:
        """Unique tokens of a source when it is trained on `tokens`."""
        exists = self.pools[label]
        return tokens if exists is None else min(tokens, exists)

    def rung(self, tokens: float) -> int:
        """Position of a budget in the ladder."""
        return int(np.argmin(np.abs(np.log(np.array(self.ladder) / tokens))))


def measure(
    rows: Rows, *, target: str | None = None, pools: Mapping[str, float] | None = None
) -> Measured:
    """What the laws take, from the rows of a table.

    Args:
        target: the one target to use; None: the mean of all that are no guards.
        pools: unique tokens that exist, by source, where the table does not say or misleads.

    Raises:
        TableError: an unknown target or source, a run without one of its targets, one source, one
            budget or two.
    """
    aims, guards = _targets(rows, target)
    runs = _averaged(rows, [r for r in rows.runs if r.target in aims], aims)
    sources = tuple(dict.fromkeys(r.source for r in runs if r.source != CONTROL))
    control = any(r.source == CONTROL for r in runs)
    labels = (*sources, CONTROL) if control else sources
    if len(labels) < 2:
        raise TableError(
            f"{rows.name}: one source, `{labels[0]}`: there is nothing to compare it with"
            if labels
            else f"{rows.name}: only the base has rows",
            hint="add runs of a second source, or of a control",
        )
    ladder = _ladder(runs)
    _enough(rows.name, runs, ladder)
    points = _points(labels, runs, _anchor(rows, aims))
    if np.ptp(points.score) <= 1e-9 * points.score.max():
        raise TableError(
            f"{rows.name}: all {len(runs)} scores are {points.score[0]:g}: nothing falls",
            hint="is it the right column? see --column score=HEADER",
        )
    notes = list(rows.notes)
    if points.anchor is None:
        notes.append("no row of the base (tokens 0): forms that pass through it are left out")
    for label, count in _budgets(runs, ladder).items():
        if count < FEWEST_BUDGETS:
            notes.append(f"`{label}` has {count} budget(s): its curve leans on the others'")
    return Measured(
        name=rows.name,
        points=points,
        sources=sources,
        ladder=ladder,
        pools=_pools(rows.name, runs, labels, pools or {}),
        flops=_costs([r.flops for r in runs]),
        usd=_costs([r.usd for r in runs]),
        guards={
            name: _points(
                labels,
                [r for r in rows.runs if r.target == name and r.source in labels],
                _anchor(rows, (name,)),
            )
            for name in guards
        },
        targets=tuple(t for t in aims if t),
        notes=tuple(notes),
    )


def _targets(rows: Rows, only: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the targets aimed at, and of the guards."""
    roles: dict[str, bool] = {}
    for run in rows.runs:
        if roles.setdefault(run.target, run.guard) != run.guard:
            raise TableError(
                f"{run.where}: target `{run.target}` is a guard in one row and none in another",
                hint="give every row of a target the same `guard`",
            )
    if not rows.runs:
        raise TableError(f"{rows.name}: only the base has rows", hint="add one row a run")
    if only is not None and only not in roles:
        close = near(only, roles)
        raise TableError(
            f"{rows.name}: no target `{only}`; targets are {', '.join(filter(None, roles)) or '-'}",
            hint=f"did you mean `{close}`?" if close else "choose one of them",
        )
    aims = tuple(t for t, guard in roles.items() if (t == only if only is not None else not guard))
    if not aims:
        raise TableError(
            f"{rows.name}: every target is a guard: there is nothing to aim at",
            hint="give `guard` no to the targets that sources are judged by",
        )
    return aims, tuple(t for t, guard in roles.items() if guard and t not in aims)


def _averaged(rows: Rows, runs: list[Run], aims: tuple[str, ...]) -> list[Run]:
    """One row a run, its score the mean over the targets."""
    if len(aims) == 1:
        return runs
    cells: dict[tuple[str, float, float, int], dict[str, Run]] = {}
    for run in runs:
        cells.setdefault((run.source, run.tokens, run.unique, run.seed), {})[run.target] = run
    out = []
    for (source, tokens, _, seed), scored in cells.items():
        missing = [t for t in aims if t not in scored]
        first = next(iter(scored.values()))
        if missing:
            raise TableError(
                f"{first.where}: source `{source}`, {tokens:,.0f} tokens, seed {seed} has no score "
                f"on target `{missing[0] or '(unnamed)'}`",
                hint="score every run on every target, or choose one with --target",
            )
        mean = sum(r.score for r in scored.values()) / len(scored)
        out.append(replace(first, score=mean, target=""))
    return out


def _anchor(rows: Rows, aims: tuple[str, ...]) -> float | None:
    """The base's score on the same targets."""
    known = {r.target: r.score for r in rows.base}
    if not known:
        return None
    if set(known) == {""}:  # one base row in a table whose runs name a single target
        if len({r.target for r in rows.runs}) == 1:
            return known[""]
        raise TableError(
            f"{rows.name}: the base's row names no target, the runs name several",
            hint="give one row of the base for every target",
        )
    missing = [t for t in aims if t not in known]
    if missing:
        raise TableError(
            f"{rows.name}: the base has no score on target `{missing[0]}`",
            hint="give one row of the base for every target, or none at all",
        )
    return sum(known[t] for t in aims) / len(aims)


def _ladder(runs: Iterable[Run]) -> tuple[float, ...]:
    ladder: list[float] = []
    for budget in sorted({r.tokens for r in runs}):
        if ladder and budget <= ladder[-1] * SAME_BUDGET:
            ladder[-1] = budget
        else:
            ladder.append(budget)
    return tuple(ladder)


def _budgets(runs: Iterable[Run], ladder: tuple[float, ...]) -> dict[str, int]:
    """How many rungs each source has."""
    rungs: dict[str, set[int]] = {}
    for run in runs:
        at = int(np.argmin(np.abs(np.log(np.array(ladder) / run.tokens))))
        rungs.setdefault(run.source, set()).add(at)
    return {source: len(at) for source, at in rungs.items()}


def _enough(name: str, runs: list[Run], ladder: tuple[float, ...]) -> None:
    """A falling curve with a floor has three parameters: no source may do with fewer budgets."""
    most = max(_budgets(runs, ladder).values())
    if most >= FEWEST_BUDGETS:
        return
    told = ", ".join(f"{b:,.0f}" for b in ladder)
    if len(ladder) == 1:
        raise TableError(
            f"{name}: every run has the same budget, {told} tokens",
            hint="run each source at 3 budgets or more, a factor of 2 apart; 5 are better",
        )
    raise TableError(
        f"{name}: at most {most} budgets a source ({told} tokens): no curve can be told from them",
        hint="add a third budget; 5 are better, as intervals need room",
    )


def _points(labels: tuple[str, ...], runs: list[Run], anchor: float | None) -> Points:
    codes = {label: code for code, label in enumerate(labels)}
    return Points(
        labels=labels,
        group=np.array([codes[r.source] for r in runs], np.int64),
        tokens=np.array([r.tokens for r in runs]),
        unique=np.array([r.unique for r in runs]),
        score=np.array([r.score for r in runs]),
        seed=np.array([r.seed for r in runs], np.int64),
        anchor=anchor,
    )


def _pools(
    name: str, runs: list[Run], labels: tuple[str, ...], given: Mapping[str, float]
) -> dict[str, float | None]:
    for label in given:
        if label not in labels:
            close = near(label, labels)
            raise TableError(
                f"--pool {label}: {name} has no source `{label}`",
                hint=f"did you mean `{close}`?" if close else f"sources are {', '.join(labels)}",
            )
    out: dict[str, float | None] = {}
    for label in labels:
        own = [r for r in runs if r.source == label]
        finite = any(abs(r.pool - r.tokens) > 1e-9 * r.tokens for r in own)
        out[label] = given.get(label, max(r.pool for r in own) if finite else None)
    return out


def _costs(values: list[float | None]) -> Floats | None:
    """Costs of the runs where every row has one and any is above 0."""
    known = [v for v in values if v is not None]
    if len(known) < len(values) or not any(known):
        return None
    return np.array(known)
