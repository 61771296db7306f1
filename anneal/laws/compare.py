"""Judging laws and reading decisions off them: hold-out, crossovers, which curve is best.

Laws are judged by what they predict, not by how they fit: the largest budget is left out, each
form is fitted to the rest and asked for it, next to the forms' average (`blend`, weighted by what
smaller budgets said of larger ones) and answers that need no law at all. DataDecide (METHODS 4.3)
found none of eight laws better than ranking at one scale, so the baselines are always in the table.
The average decides; the form that is printed with its parameters has the fewest of them among those
that noise cannot separate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from anneal.errors import LawError
from anneal.laws.blend import blend
from anneal.laws.fits import Predicts, fit, predict
from anneal.laws.forms import FORMS, layout
from anneal.laws.points import Floats, Points
from anneal.laws.uncertainty import band, bootstrap, noise_floor, outcomes

AVERAGE = "average of forms"
BASELINES = ("last budget", "mean law", "constant")


@dataclass(frozen=True)
class HeldOut:
    """How one approach predicted the largest budget.

    Args:
        approach: a form's name, `average` of all, or `last budget`, `mean law`, `constant`.
        mae: mean absolute error over the held-out runs, score.
        rank_correlation: Spearman over groups, predicted against measured; None where it has no
            meaning (fewer than 3 groups, or a prediction that is the same for all).
        top1_regret: measured score of the group predicted best, minus the best measured, score.
        coverage: share of held-out runs inside their 90% interval; None for baselines.
        parameters: how many the approach has; 0 for baselines and the average.
        chosen: whether it is what decides: the average, or the single form there is.
        message: why there is no prediction; such rows have an infinite error and are never chosen.
    """

    approach: str
    mae: float
    rank_correlation: float | None
    top1_regret: float
    coverage: float | None
    parameters: int
    chosen: bool = False
    message: str = ""


@dataclass(frozen=True)
class HoldOut:
    """The table, the choice and its reason in words."""

    rows: tuple[HeldOut, ...]
    budget: float
    """Tokens of the budget held out."""
    runs: int
    chosen: str
    """Name of the form to print; empty when none could be fitted."""
    reason: str
    predictions: tuple[tuple[int, float, float, float], ...] = ()
    """Of what decides: row in the table, predicted score, 90% interval of a new run."""
    beaten_by: str = ""
    """The baseline that predicts better than what decides by more than noise, if one does."""


def hold_out(
    forms: Sequence[str],
    points: Points,
    *,
    rng: np.random.Generator,
    draws: int = 200,
    repeats: bool = False,
    noise: float | None = None,
) -> HoldOut:
    """Predict the largest budget from all others, by every form and three baselines.

    Args:
        forms: names of forms that compete.
        repeats: whether the decision repeats tokens: then only forms that price repetition can be
            chosen, if any can be fitted, however well another predicts runs that did not repeat.
        noise: noise floor of a run, score, where it is known otherwise; else from repeats.

    Raises:
        LawError: fewer than two budgets.
    """
    largest = points.tokens >= points.largest * (1.0 - 1e-9)
    if largest.all():
        raise LawError("hold-out: every run has the same budget", hint="run at least 2 budgets")
    train, test = points.rows(~largest), points.rows(largest)
    rows: list[HeldOut] = []
    kept: dict[str, tuple[Floats, Floats]] = {}
    for name in forms:
        law = fit(name, train, rng=rng)
        size = layout(FORMS[name], points.labels).size
        if law.outcome != "ok":
            text = law.message or law.outcome
            rows.append(HeldOut(name, np.inf, None, np.inf, None, size, message=text))
            continue
        ensemble = bootstrap(law, train, draws=draws, rng=rng)
        expected = predict(law, test.group, test.tokens, test.unique)
        low, high = band(outcomes(ensemble, test.group, test.tokens, test.unique, rng=rng))
        inside = float(np.mean((low <= test.score) & (test.score <= high)))
        rows.append(_judge(name, expected, test, inside, size))
        kept[name] = (expected, np.stack([low, high]))
    if kept:
        averaged = blend(list(kept), train, rng=rng, draws=draws, repeats=repeats)
        curve = predict(averaged, test.group, test.tokens, test.unique)
        low, high = band(outcomes(averaged, test.group, test.tokens, test.unique, rng=rng))
        inside = float(np.mean((low <= test.score) & (test.score <= high)))
        expected = np.median(curve, axis=0)
        rows.append(_judge(AVERAGE, expected, test, inside, 0))
        kept[AVERAGE] = (expected, np.stack([low, high]))
    rows += [
        _judge("last budget", _carried(train, test), test, None, 0),
        _judge("mean law", _mean_law(train, test, rng), test, None, 0),
        _judge("constant", np.full(test.score.size, train.score.mean()), test, None, 0),
    ]
    margin = _margin(points, test.score.size, noise)
    chosen, reason = _choose(rows, test.score.size, repeats, margin)
    beaten_by = _beaten(rows, margin)
    if beaten_by:
        reason += f"; `{beaten_by}` predicts better: the law does not pay here"
    index = np.flatnonzero(largest)
    predictions: tuple[tuple[int, float, float, float], ...] = ()
    if chosen:
        expected, edges = kept[AVERAGE]
        predictions = tuple(
            (int(i), float(e), float(a), float(b))
            for i, e, a, b in zip(index, expected, edges[0], edges[1], strict=True)
        )
    marked = tuple(replace(r, chosen=r.approach == AVERAGE) for r in rows)
    return HoldOut(
        marked, points.largest, int(largest.sum()), chosen, reason, predictions, beaten_by
    )


def _beaten(rows: list[HeldOut], margin: float) -> str:
    """Name of the best baseline where it beats the average by more than noise; else nothing."""
    average = next((r for r in rows if r.approach == AVERAGE), None)
    best = min((r for r in rows if r.approach in BASELINES), key=lambda r: r.mae)
    if average is None or best.mae + margin >= average.mae:
        return ""
    return best.approach


def _margin(points: Points, runs: int, noise: float | None) -> float:
    """What noise can do to a mean over `runs` runs, score."""
    try:
        sd = noise_floor(points).sd if noise is None else noise
        return sd / float(np.sqrt(runs))
    except LawError:
        return 0.0


def _judge(
    approach: str, expected: Floats, test: Points, coverage: float | None, parameters: int
) -> HeldOut:
    groups = np.unique(test.group)
    guess = np.array([expected[test.group == g].mean() for g in groups])
    truth = np.array([test.score[test.group == g].mean() for g in groups])
    ranked = groups.size >= 3 and np.ptp(guess) > 0 and np.ptp(truth) > 0
    best = np.flatnonzero(guess <= guess.min() * (1 + 1e-12))
    return HeldOut(
        approach=approach,
        mae=float(np.abs(expected - test.score).mean()),
        rank_correlation=float(stats.spearmanr(guess, truth).statistic) if ranked else None,
        # an approach that cannot tell groups apart picks among them at random
        top1_regret=float(truth[best].mean() - truth.min()),
        coverage=coverage,
        parameters=parameters,
    )


def _carried(train: Points, test: Points) -> Floats:
    """Each group's mean score at its largest remaining budget."""
    out = np.empty(test.score.size)
    for code in np.unique(test.group):
        own = train.group == code
        if own.any():
            last = train.tokens[own].max()
            out[test.group == code] = train.score[own & (train.tokens == last)].mean()
        else:
            out[test.group == code] = train.score.mean()
    return out


def _mean_law(train: Points, test: Points, rng: np.random.Generator) -> Floats:
    """One power law for all groups together; the last budget's mean where it cannot be fitted."""
    pooled = replace(train, labels=("all",), group=np.zeros_like(train.group))
    law = fit("power", pooled, rng=rng, starts=16)
    if not law.usable:
        last = train.tokens == train.tokens.max()
        return np.full(test.score.size, train.score[last].mean())
    return predict(law, np.zeros_like(test.group), test.tokens, test.unique)


def _choose(rows: list[HeldOut], runs: int, repeats: bool, margin: float) -> tuple[str, str]:
    """The fewest parameters among the forms whose error noise cannot tell from the smallest."""
    usable = [r for r in rows if r.coverage is not None and r.approach != AVERAGE]
    if not usable:
        return "", "no form could be fitted without the largest budget"
    pricing = [r for r in usable if FORMS[r.approach].repeats]
    competing = pricing if repeats and pricing else usable
    best = min(r.mae for r in competing)
    equal = [r for r in competing if r.mae <= best + margin]
    pick = min(equal, key=lambda r: (r.parameters, r.mae))
    baseline = min((r for r in rows if r.approach in BASELINES), key=lambda r: r.mae)
    why = (
        f"{pick.approach}: held-out error {pick.mae:.4f} with {pick.parameters} parameters, "
        f"smallest {best:.4f}, {len(equal)} of {len(competing)} forms within {margin:.4f} of it "
        f"(noise floor over the root of {runs} runs); best baseline "
        f"`{baseline.approach}` {baseline.mae:.4f}"
    )
    if repeats and pricing:
        why += "; only forms that price repetition compete, because the real budget repeats tokens"
    return pick.approach, why


@dataclass(frozen=True)
class Crossing:
    """Where the curves of two groups cross, on one axis.

    Args:
        found: whether most draws cross inside the range.
        at: median crossing and its interval over the draws that cross; None when not found.
        probability: share of draws with a crossing inside the range.
        first_ahead: share of draws in which the first group is better at the range's end.
        tie: the difference stays below `noise` over the whole range in the median draw.
        low, high: the range, in units of the axis.
        message: the finding in words.
    """

    found: bool
    at: tuple[float, float, float] | None
    probability: float
    first_ahead: float
    tie: bool
    low: float
    high: float
    message: str


Axis = Callable[[Floats], Floats]
"""Tokens (k,) -> FLOPs or USD (k,), never falling."""


def crossover(
    ensemble: Predicts,
    first: int,
    second: int,
    *,
    low: float,
    high: float,
    unique: tuple[float, float] | None = None,
    axes: tuple[Axis, Axis] | None = None,
    noise: float = 0.0,
    level: float = 0.9,
    steps: int = 200,
) -> Crossing:
    """Find where one source overtakes another as the budget grows.

    Args:
        first, second: codes of the groups.
        low, high: range on the axis (tokens, or what `axes` return), low < high.
        unique: unique tokens of either group; None: tokens are never repeated.
        axes: what a number of tokens of either group costs; None: the axis is tokens.
        noise: noise floor, score; a smaller difference is a tie.
        steps: grid points, evenly spaced in the logarithm.
    """
    grid = np.geomspace(low, high, steps)
    curves = []
    affordable = np.ones(steps, dtype=bool)
    for side, code in enumerate((first, second)):
        tokens = grid if axes is None else _tokens_at(axes[side], grid)
        affordable &= tokens >= 1.0
        pool = None if unique is None else np.full(steps, unique[side])
        curves.append(predict(ensemble, code, np.maximum(tokens, 1.0), pool))
    if affordable.sum() < 2:
        text = "no crossover in range: the two are never affordable together"
        return Crossing(False, None, 0.0, 0.5, False, low, high, text)
    grid = grid[affordable]
    gap = (curves[0] - curves[1])[:, affordable]
    ahead = float(np.mean(gap[:, -1] < 0))
    tie = bool(np.abs(np.median(gap, axis=0)).max() < noise)
    turns = np.signbit(gap[:, 1:]) != np.signbit(gap[:, :-1])
    crosses = turns.any(axis=1)
    probability = float(crosses.mean())
    if probability < 0.5:
        kind = "tie over the whole range" if tie else "no crossover in range"
        text = f"{kind} ({probability:.0%} of draws cross)"
        return Crossing(False, None, probability, ahead, tie, low, high, text)
    where = turns[crosses].argmax(axis=1)
    before, after = gap[crosses, where], gap[crosses, where + 1]
    part = np.abs(before) / np.maximum(np.abs(before) + np.abs(after), 1e-300)
    at = np.exp(np.log(grid[where]) + part * np.log(grid[where + 1] / grid[where]))
    edges = band(at, level=level)
    value = (float(np.median(at)), float(edges[0]), float(edges[1]))
    text = f"crossover at {value[0]:.4g} ({value[1]:.4g} to {value[2]:.4g})"
    if tie:
        text += ", but the difference stays below the noise floor: a tie"
    return Crossing(True, value, probability, ahead, tie, low, high, text)


def _tokens_at(axis: Axis, grid: Floats) -> Floats:
    """Tokens that cost `grid`, by log bisection; below 1 where even one is too dear."""
    low, high = np.full(grid.size, np.log(0.5)), np.full(grid.size, np.log(1e18))
    for _ in range(80):
        middle = 0.5 * (low + high)
        dear = axis(np.exp(middle)) > grid
        low, high = np.where(dear, low, middle), np.where(dear, middle, high)
    return np.asarray(np.exp(low))


def probability_best(scores: Floats, *, margin: float = 0.0) -> Floats:
    """(k,) share of draws in which each of k alternatives is not beaten by more than `margin`.

    Args:
        scores: (draws, k) predicted scores, smaller is better.
        margin: noise floor; with 0 the shares sum to 1 but for exact ties.
    """
    return np.asarray(np.mean(scores <= scores.min(axis=1, keepdims=True) + margin, axis=0))
