"""From a measured table to a law and what it says: the calls to `anneal.laws`, and their answers.

`settle` fits; `find` reads everything off the law: curves at the budgets asked for, ranks,
crossovers, ties (`compare`), and the outcome with its warnings (`outcome`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anneal.errors import LawError
from anneal.laws import (
    FORMS,
    HoldOut,
    Law,
    Points,
    band,
    blend,
    hold_out,
    noise_floor,
    outcomes,
    predict,
    probability_best,
)
from anneal.report.law_rows import Interval
from anneal.table.compare import LEVEL, crossings, interval, scores_at, single_scale, ties_at
from anneal.table.measured import Measured
from anneal.table.outcome import doubt_of, outcome_at, warnings_of
from anneal.table.read import CONTROL
from anneal.table.values import (
    At,
    AtRow,
    Dot,
    Fitted,
    FormRow,
    GuardRow,
    HeldOut,
    HeldRow,
    Line,
    NoiseFloor,
    Parameter,
    SourceRow,
)

GRID = 48
"""Points of a drawn curve, log-spaced."""


def usable_forms(forms: Sequence[str], points: Points, *, repeats: bool) -> list[str]:
    """The forms worth fitting: those through the base need its score, and where neither the table
    nor the decision repeats a token, the forms that price repetition are their plain twins."""
    out: dict[str, None] = {}
    for name in forms:
        form = FORMS.get(name)
        if form is None:
            raise LawError(f"law: unknown form `{name}`", hint=f"one of {', '.join(FORMS)}")
        if form.curve == "shifted_power" and points.anchor is None:
            continue
        plain = name if repeats or not form.repeats else name.removesuffix(f"_{form.repeats}")
        out[plain] = None
    if not out:
        raise LawError(
            "law: every form asked for passes through the base, and the base has no score",
            hint="add a row of the base with 0 tokens, or ask for `power`",
        )
    return list(out)


def settle(
    points: Points,
    rng: np.random.Generator,
    *,
    forms: Sequence[str],
    draws: int,
    repeats: bool,
    noise: float | None = None,
) -> tuple[Law, HoldOut]:
    """The law of a table and how its forms predicted the held-out largest budget: every call to
    the fitting of laws is here.

    Raises:
        LawError: no form can be fitted.
    """
    judged = hold_out(forms, points, rng=rng, repeats=repeats, noise=noise)
    return blend(forms, points, rng=rng, draws=draws, repeats=repeats), judged


def noise_of(points: Points, law: Law, given: float | None) -> NoiseFloor:
    """The noise floor: as given, from repeats, or what the law leaves over."""
    mean = float(points.score.mean())
    if given is not None:
        sd = Interval(value=given, low=given, high=given, level=LEVEL)
        return NoiseFloor(sd=sd, relative=given / mean, degrees=0, origin="given")
    try:
        floor = noise_floor(points, level=LEVEL)
    except LawError:
        relative = law.fit.residual_sd
        value = max(relative * mean, 1e-6)
        sd = Interval(value=value, low=value, high=value, level=LEVEL)
        return NoiseFloor(sd=sd, relative=relative, degrees=0, origin="residuals of the law")
    sd = Interval(value=max(floor.sd, 1e-6), low=floor.low, high=floor.high, level=LEVEL)
    return NoiseFloor(sd=sd, relative=floor.relative, degrees=floor.degrees, origin="repeats")


def find(
    measured: Measured,
    law: Law,
    judged: HoldOut,
    *,
    noise: NoiseFloor,
    at: Sequence[float],
    rng: np.random.Generator,
    seed: int = 0,
    unit: str = "score",
) -> Fitted:
    """Everything a fitted law says about a table.

    Args:
        at: budgets to look at besides the largest tried, tokens; the largest of all is the
            decision's.
        rng: draws the noise of new runs, and the laws of guards.
        seed: what `rng` was made from, to be told.
    """
    budgets = sorted({measured.largest, *at})
    looks = tuple(_look(measured, law, x, noise.sd.value, rng) for x in budgets)
    last = looks[-1]
    ties = ties_at(measured, law, last, noise.sd.value)
    doubt = doubt_of(judged, last)
    outcome, reason = outcome_at(last, ties, noise, doubt=doubt)
    pick = next(r.source for r in last.rows if r.source != CONTROL)
    crossed, notes = crossings(measured, law, budgets[-1], noise.sd.value)
    return Fitted(
        table=measured.name,
        unit=unit,
        notes=(*measured.notes, *notes),
        warnings=warnings_of(measured, law, judged, looks, noise),
        runs=measured.points.score.size,
        targets=measured.targets,
        base=measured.points.anchor,
        sources=tuple(_source(measured, label) for label in measured.labels),
        control=CONTROL in measured.labels,
        noise=noise,
        held_out=_held_out(judged),
        forms=_forms(law),
        parameters=_parameters(law),
        drift=_drift(law),
        draws=law.draws,
        seed=seed,
        at=looks,
        ranks=single_scale(measured, pick, noise.sd.value),
        crossings=crossed,
        ties=ties,
        guards=_guards(measured, budgets[-1], rng),
        lines=tuple(_line(measured, law, label, budgets[-1]) for label in measured.labels),
        dots=_dots(measured, law, judged),
        outcome=outcome,
        reason=reason,
        doubt=doubt,
    )


def _look(
    measured: Measured, law: Law, tokens: float, noise: float, rng: np.random.Generator
) -> At:
    """All curves at one budget, the best first."""
    labels, k = measured.labels, len(measured.sources)
    scores, unique = scores_at(measured, law, tokens)
    codes = np.array([law.code(label) for label in labels], np.int64)
    runs = outcomes(law, codes, np.full(len(labels), tokens), unique, rng=rng)
    best = probability_best(scores[:, :k])
    within = probability_best(scores[:, :k], margin=noise)
    rows = []
    for i, label in enumerate(labels):
        source = i < k
        beats = float(np.mean(scores[:, i] < scores[:, -1])) if source and len(labels) > k else None
        rows.append(
            AtRow(
                source=label,
                unique=float(unique[i]),
                epochs=tokens / float(unique[i]),
                curve=interval(scores[:, i]),
                new_run=interval(runs[:, i]),
                probability_best=float(best[i]) if source else None,
                probability_within=float(within[i]) if source else None,
                probability_control=beats,
            )
        )
    rows.sort(key=lambda r: r.curve.value)
    return At(tokens=tokens, factor=tokens / measured.largest, rows=tuple(rows))


def _source(measured: Measured, label: str) -> SourceRow:
    points = measured.points
    own = points.group == measured.labels.index(label)
    _, counts = np.unique(points.cells()[own], return_counts=True)
    return SourceRow(
        source=label,
        runs=int(own.sum()),
        budgets=tuple(np.unique(points.tokens[own]).tolist()),
        seeds=int(counts.max()),
        pool=measured.pools[label],
        epochs=float((points.tokens[own] / points.unique[own]).max()),
        best=float(points.score[own].min()),
    )


def _held_out(judged: HoldOut) -> HeldOut:
    rows = []
    for r in judged.rows:
        known = bool(np.isfinite(r.mae))
        rows.append(
            HeldRow(
                approach=r.approach,
                mae=r.mae if known else None,
                rank_correlation=r.rank_correlation,
                top1_regret=r.top1_regret if known else None,
                coverage=r.coverage,
                parameters=r.parameters,
                used=r.chosen,
                message=r.message,
            )
        )
    return HeldOut(
        budget=judged.budget,
        runs=judged.runs,
        rows=tuple(rows),
        reason=judged.reason,
        beaten_by=judged.beaten_by,
    )


def _forms(law: Law) -> tuple[FormRow, ...]:
    weights = getattr(law, "named_weights", None) or {law.form.name: 1.0}
    return tuple(
        FormRow(form=name, formula=FORMS[name].formula, weight=weight)
        for name, weight in weights.items()
    )


def _parameters(law: Law) -> tuple[Parameter, ...]:
    """Of the heaviest form, those that it does not fix itself."""
    out = []
    for name, draws in law.parameters().items():
        if name == "floor" and law.form.floorless:
            continue
        low, high = band(draws, level=LEVEL)
        value = law.fit.parameters[name]
        # a fit at the edge of its own draws still lies in their interval
        interval = Interval(
            value=value, low=min(float(low), value), high=max(float(high), value), level=LEVEL
        )
        out.append(Parameter(name=name, value=interval))
    return tuple(out)


def _drift(law: Law) -> tuple[float, float]:
    return float(getattr(law, "common_sd", 0.0)), float(getattr(law, "own_sd", 0.0))


def _guards(measured: Measured, tokens: float, rng: np.random.Generator) -> tuple[GuardRow, ...]:
    """What a budget of each source alone does to every guard."""
    rows = []
    for name, points in measured.guards.items():
        law = guard_law(points, rng)
        for label in measured.labels:
            pool = measured.pool(label, tokens)
            score = interval(predict(law, law.code(label), tokens, pool)[:, 0])
            rows.append(GuardRow(guard=name, source=label, base=points.anchor, score=score))
    return tuple(rows)


def guard_law(points: Points, rng: np.random.Generator) -> Law:
    """The law of a guard: a straight line in the logarithm of tokens, which may rise."""
    return blend(["log_linear"], points, rng=rng)


def _line(measured: Measured, law: Law, label: str, high: float) -> Line:
    grid = np.geomspace(measured.ladder[0], high, GRID)
    pool = np.array([measured.pool(label, x) for x in grid])
    scores = predict(law, law.code(label), grid, pool)
    low, top = band(scores, level=LEVEL)
    return Line(
        source=label,
        tokens=tuple(grid.tolist()),
        score=tuple(np.median(scores, axis=0).tolist()),
        low=tuple(low.tolist()),
        high=tuple(top.tolist()),
    )


def _dots(measured: Measured, law: Law, judged: HoldOut) -> tuple[Dot, ...]:
    points = measured.points
    fitted = np.median(predict(law, points.group, points.tokens, points.unique), axis=0)
    pools = [
        measured.pool(measured.labels[int(g)], float(x))
        for g, x in zip(points.group, points.tokens, strict=True)
    ]
    held = {
        row: Interval(value=value, low=min(low, value), high=max(high, value), level=LEVEL)
        for row, value, low, high in judged.predictions
    }
    return tuple(
        Dot(
            source=measured.labels[int(points.group[i])],
            tokens=float(points.tokens[i]),
            unique=float(points.unique[i]),
            seed=int(points.seed[i]),
            score=float(points.score[i]),
            fitted=float(fitted[i]),
            smaller=float(points.unique[i]) < 0.999 * pools[i],
            predicted=held.get(i),
        )
        for i in range(points.score.size)
    )
