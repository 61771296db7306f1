# %% [markdown]
# One simulated world: its runs, what a law and an allocation make of them, and the truth beside it.

# %%
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from analysis import worlds
from analysis.worlds import EPOCHS, LABELS, LADDER, NOISE, World
from anneal.allocation import Problem, Supply, allocate
from anneal.laws import (
    Blend,
    Crossing,
    Ensemble,
    HoldOut,
    Law,
    Points,
    band,
    blend,
    bootstrap,
    crossover,
    fit,
    hold_out,
    noise_floor,
    outcomes,
    predict,
)
from anneal.laws.points import Floats

FORMS: tuple[str, ...] = tuple(
    yaml.safe_load((Path(__file__).parent.parent / "conf/law/default.yaml").read_text())["forms"]
)
"""The forms that a sweep averages."""
TRUE_FORM = "shifted_power_repeated"
"""What `effective` worlds are made of."""
DRAWS = 200
FACTORS = (1.0, 4.0, 16.0, 64.0)
"""Budgets asked for, times the largest run."""


def settle(
    points: Points,
    rng: np.random.Generator,
    *,
    judge: bool = False,
    forms: Sequence[str] = FORMS,
) -> tuple[Blend, HoldOut | None]:
    """Everything that is done to a table before it is believed.

    `judge` asks the held-out budget as well. It costs twice the average itself and changes nothing
    in the law, only whether it is offered, so it is asked of some worlds alone.
    """
    judged = hold_out(forms, points, rng=rng, draws=100, repeats=True) if judge else None
    return blend(forms, points, rng=rng, draws=DRAWS, repeats=True), judged


@dataclass
class Seen:
    """What one world showed. Arrays over FACTORS are NaN beyond the world's real budget.

    Args:
        curve, run: share of the sources whose true curve, or new run, is inside the 90% interval,
            by law (`ours`, `heaviest form`, `true form`).
        error: mean absolute log error of the median curve.
        width: median relative width of the curve's interval.
        crossing: of the planted pair.
        regret: in score against the oracle, by allocation.
        parameters: recovery by the true form: name to (inside, |error|); `effective` worlds only.
        judged: of the held-out largest budget, where it was asked for.
    """

    truth: World
    extrapolation: float
    curve: dict[str, Floats] = field(default_factory=dict)
    run: dict[str, Floats] = field(default_factory=dict)
    error: dict[str, Floats] = field(default_factory=dict)
    width: dict[str, Floats] = field(default_factory=dict)
    crossing: dict[str, Crossing] = field(default_factory=dict)
    regret: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, tuple[float, float]] = field(default_factory=dict)
    judged: HoldOut | None = None


def study(
    truth: World,
    rng: np.random.Generator,
    *,
    judge: bool = False,
    forms: Sequence[str] = FORMS,
) -> Seen:
    """Make the runs of a world, settle them, and set the answers beside the truth."""
    points = worlds.runs(truth, rng)
    law, judged = settle(points, rng, judge=judge, forms=forms)
    seen = Seen(truth, truth.real / LADDER[-1], judged=judged)
    heaviest = bootstrap(law.fit, points, draws=DRAWS, rng=rng)
    laws: dict[str, Law] = {"ours": law, "heaviest form": heaviest}
    if truth.family == "effective":
        true = bootstrap(fit(TRUE_FORM, points, rng=rng), points, draws=DRAWS, rng=rng)
        laws["true form"] = true
        seen.parameters = recovered(truth, true)
    for name, each in laws.items():
        covered(seen, name, each, rng)
        seen.crossing[name] = crossover(
            each,
            0,
            1,
            low=LADDER[0],
            high=truth.limit,
            unique=(float(truth.pool[0]), float(truth.pool[1])),
            noise=noise_floor(points).sd,
        )
    seen.regret = regrets(truth, points, law, rng)
    return seen


def covered(seen: Seen, name: str, law: Law, rng: np.random.Generator) -> None:
    """Coverage, error and width of the curves and of new runs, at the real budget's repetition."""
    truth = seen.truth
    group = np.arange(len(LABELS))
    measures: dict[str, list[float]] = {"curve": [], "run": [], "error": [], "width": []}
    for factor in FACTORS:
        x = LADDER[-1] * factor
        if x > truth.real * (1 + 1e-9):
            for values in measures.values():
                values.append(np.nan)
            continue
        tokens, pool = np.full(group.size, x), worlds.asked(truth, x)
        clean = truth.score(group, tokens, pool)
        draws = predict(law, group, tokens, pool)
        low, high = band(draws)
        measures["curve"].append(float(np.mean((low <= clean) & (clean <= high))))
        measures["error"].append(float(np.abs(np.log(np.median(draws, axis=0) / clean)).mean()))
        measures["width"].append(float(np.median((high - low) / clean)))
        low, high = band(outcomes(law, group, tokens, pool, rng=rng))
        new = clean * np.exp(NOISE * rng.standard_normal(group.size))
        measures["run"].append(float(np.mean((low <= new) & (new <= high))))
    for key, values in measures.items():
        getattr(seen, key)[name] = np.array(values)


def recovered(truth: World, law: Ensemble) -> dict[str, tuple[float, float]]:
    """Whether the 90% intervals of the true form's parameters hold the planted ones, and by how
    much the medians are off (floor: score; the others: natural logarithm)."""
    planted = {"floor": np.array([truth.floor]), "r_star": truth.worth[:1]}
    planted["exponent"], planted["scale"] = truth.exponent, truth.scale
    found = law.parameters()
    out = {}
    for kind, values in planted.items():
        names = [kind] if kind in found else [f"{kind}[{label}]" for label in LABELS]
        draws = np.stack([found[name] for name in names], axis=1)
        low, high = band(draws)
        middle = np.median(draws, axis=0)
        off = middle - values if kind == "floor" else np.log(middle / values)
        out[kind] = float(np.mean((low <= values) & (values <= high))), float(np.abs(off).mean())
    return out


def problem_of(truth: World, points: Points, law: Law) -> Problem:
    """The allocation's question about a world, costs aside."""
    supplies = tuple(
        Supply(name, int(pool), max_epochs=EPOCHS)
        for name, pool in zip(LABELS, truth.pool, strict=True)
    )
    return Problem(
        supplies, law, budget=truth.real, noise=noise_floor(points).sd, control=LABELS[-1]
    )


def regrets(truth: World, points: Points, law: Law, rng: np.random.Generator) -> dict[str, float]:
    """True score minus the oracle's: of our allocation and of what needs no law.

    Picks buy one source up to the budget or its cap: the largest budget's best by its matched and
    by its natural runs (where a source has none, the matched ones are its natural ones).
    """
    answer = allocate(problem_of(truth, points, law), rng=rng, explained=False)
    bought = {"ours": np.array([float(row.tokens) for row in answer.rows])}
    m = len(LABELS)
    # natural proportions of what exists; what never runs out counts as twenty real budgets
    exists = np.minimum(truth.pool[:-1], 20 * truth.real)
    bought["proportional"] = np.append(exists / exists.sum() * truth.real, 0.0)
    bought["proportional"] = np.minimum(bought["proportional"], truth.caps)
    bought["uniform"] = _capped(np.append(np.ones(m - 1), 0.0), truth)
    top = points.tokens == points.largest
    for name, choose in (("matched", np.min), ("natural", np.max)):
        scores = []
        for group in range(m - 1):
            own = top & (points.group == group)
            level = choose(points.unique[own])
            scores.append(points.score[own & (points.unique == level)].mean())
        bought[f"single-scale pick, {name} runs"] = _capped(
            np.eye(m)[int(np.argmin(scores))], truth
        )
    best, least = worlds.oracle(truth)
    found = truth.mixture(np.stack([*bought.values(), best]))
    least = min(least, float(found.min()))  # the oracle's grid is dense, not continuous
    return {name: float(score - least) for name, score in zip(bought, found, strict=False)}


def _capped(direction: Floats, truth: World) -> Floats:
    """The real budget along a direction; what a cap leaves over goes to the uncapped members."""
    tokens = np.zeros_like(direction)
    for _ in range(direction.size):
        open_ = (direction > 0) & (tokens < truth.caps)
        rest = truth.real - tokens.sum()
        if not open_.any() or rest < 1:
            break
        tokens = np.minimum(tokens + rest * direction * open_ / direction[open_].sum(), truth.caps)
    return tokens
