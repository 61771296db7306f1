"""The verbs `fit` and `allocate`: a table in, words on stdout, files where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anneal.errors import TableError
from anneal.laws import HoldOut, Law
from anneal.store import write_value
from anneal.table import allocate as split
from anneal.table.cells import amount, near
from anneal.table.console import busy, show_allocation, show_fit
from anneal.table.costs import read_costs
from anneal.table.fit import find, noise_of, settle, usable_forms
from anneal.table.measured import Measured, measure
from anneal.table.read import COLUMNS, Rows, read
from anneal.table.values import Allocated, Fitted


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be said on the command line.

    Args:
        at: budgets to look at, as typed.
        columns: `NAME=HEADER`, as typed.
        pools: `SOURCE=TOKENS`, as typed.
        target: the one target to use.
        noise: seed SD of a score.
        higher_is_better: scores are accuracies.
        draws: of the law.
        seed: of everything drawn.
        json: file for the numbers.
        out: folder for the page.
    """

    at: Sequence[str] = ()
    columns: Sequence[str] = ()
    pools: Sequence[str] = ()
    target: str | None = None
    noise: float | None = None
    higher_is_better: bool = False
    draws: int = 400
    seed: int = 0
    json: Path | None = None
    out: Path | None = None
    budgets: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is read.

        Raises:
            TableError: a number or a place that makes no sense.
        """
        at = tuple(amount(word, "--at") for word in self.at)
        object.__setattr__(self, "budgets", at)
        if self.noise is not None and not 0 < self.noise < np.inf:
            raise TableError(
                f"--noise: got {self.noise:g}, not a positive number", hint="give an SD"
            )
        if self.draws < 50:
            raise TableError(f"--draws: got {self.draws}", hint="90% intervals want 50 or more")
        if self.seed < 0:
            raise TableError(f"--seed: got {self.seed}", hint="give 0 or more")
        if self.json is not None and self.json.is_dir():
            raise TableError(f"--json {self.json}: a folder", hint="name a file")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise TableError(f"--out {self.out}: a file", hint="name a folder")


def fit_table(table: Path, options: Options, *, forms: Sequence[str]) -> Fitted:
    """Fits a table, prints what it says and writes what is asked for.

    Args:
        forms: names of `laws.FORMS` to average.

    Raises:
        AnnealError: for what the user can mend.
    """
    measured = measure(_rows(table, options), target=options.target, pools=_pools(options))
    decision = max((*options.budgets, measured.largest))
    scarce = any(measured.pool(label, decision) < decision for label in measured.labels)
    fitted, *_ = _fitted(
        measured,
        options,
        forms,
        at=options.budgets,
        repeats=scarce or measured.repeats,
        noise=options.noise,
    )
    show_fit(fitted)
    if options.json is not None:
        write_value(options.json, fitted)
    if options.out is not None:
        from anneal.table.page import write_fit

        with busy("writing the page"):
            path = write_fit(fitted, options.out)
        print(f"page: {path}")
    return fitted


def allocate_table(
    table: Path, costs_file: Path, options: Options, *, forms: Sequence[str]
) -> Allocated:
    """Splits the budget of a file of costs over the sources of a table.

    Raises:
        AnnealError: for what the user can mend.
    """
    costs = read_costs(costs_file)
    rows = _rows(table, options)
    labels = {run.source for run in rows.runs}
    pools = {n: float(int(s.available)) for n, s in costs.sources.items() if n in labels}
    measured = measure(rows, target=options.target, pools=pools | _pools(options))
    split.match(measured, costs, costs_file.name)
    fitted, law, judged, rng = _fitted(
        measured,
        options,
        forms,
        at=(*options.budgets, split.decision_budget(costs)),
        repeats=split.repeats(costs, measured),
        noise=options.noise if options.noise is not None else costs.noise,
    )
    pick = fitted.ranks[-1].sources[0] if fitted.ranks else ""
    with busy("splitting the budget"):
        problem = split.problem_of(
            measured,
            law,
            judged,
            costs,
            noise=fitted.noise.sd.value,
            single_scale_pick=pick,
            rng=rng,
        )
        answer = split.decide(problem, rng)
        next_best = split.following(problem, measured, costs, rng)
    found = split.told(
        answer,
        problem,
        costs,
        fitted=fitted,
        next_best=next_best,
        name=costs_file.name,
        single_scale_pick=pick,
    )
    show_allocation(found)
    if options.json is not None:
        write_value(options.json, found)
    if options.out is not None:
        from anneal.table.page import write_allocation

        with busy("writing the page"):
            path = write_allocation(found, options.out)
        print(f"page: {path}")
    return found


def _fitted(
    measured: Measured,
    options: Options,
    forms: Sequence[str],
    *,
    at: Sequence[float],
    repeats: bool,
    noise: float | None,
) -> tuple[Fitted, Law, HoldOut, np.random.Generator]:
    """The law of a table and what it says; the generator goes on where the law left it."""
    rng = np.random.default_rng(options.seed)
    names = usable_forms(forms, measured.points, repeats=repeats)
    with busy(f"fitting {len(names)} forms to {measured.points.score.size} runs"):
        law, judged = settle(
            measured.points,
            rng,
            forms=names,
            draws=options.draws,
            repeats=repeats,
            noise=noise,
        )
        fitted = find(
            measured,
            law,
            judged,
            noise=noise_of(measured.points, law, noise),
            at=at,
            rng=rng,
            seed=options.seed,
            unit="1 - score" if options.higher_is_better else "score",
        )
    return fitted, law, judged, rng


def _rows(table: Path, options: Options) -> Rows:
    columns = {}
    for name, given in _pairs(options.columns, "--column NAME=HEADER"):
        if name not in COLUMNS:
            close = near(name, COLUMNS)
            raise TableError(
                f"--column {name}={given}: no column `{name}` is read",
                hint=f"did you mean `{close}`?" if close else f"one of {', '.join(COLUMNS)}",
            )
        columns[name] = given
    return read(table, columns=columns, higher_is_better=options.higher_is_better)


def _pools(options: Options) -> dict[str, float]:
    pairs = _pairs(options.pools, "--pool SOURCE=TOKENS")
    return {source: amount(word, f"--pool {source}") for source, word in pairs}


def _pairs(words: Sequence[str], usage: str) -> list[tuple[str, str]]:
    out = []
    for word in words:
        # a source's name may hold an equals sign, an amount may not
        name, sign, value = word.rpartition("=") if "TOKENS" in usage else word.partition("=")
        if not sign or not name or not value:
            raise TableError(f"{usage.split(maxsplit=1)[0]} {word}: no pair", hint=f"write {usage}")
        out.append((name, value))
    return out
