"""Rolling origin: what a form says of budgets that it has not seen, and what it weighs for it.

Each form is fitted to the smallest budgets alone, from three of them up to all but the largest, and
asked for every larger budget. With budgets b_1 < ... < b_n that gives errors at one doubling, at
two, and so on, of predictions that were real predictions. A form then counts by

    w ~ mse^(-c/2) s^(-n)

mse the mean squared error of its c rolled budgets, s its residual SD (over the degrees of freedom,
so a parameter that only bends the curve to the noise costs), n the budgets fitted. Either factor is
a likelihood with the error variance profiled out. All runs of one budget and origin err together,
so a rolled budget counts once, and a fitted one no more than that. The residuals know what a few
rolled budgets cannot: whether the form agrees with matched and natural pools, seeds and sources at
once.

How much they should count was looked at. Mean error of the curve, in percent, at 16 and 64 times
the largest run on 144 worlds of `analysis.worlds` (48 of them those of the back-test), and of the
four sources of the demo sweep at 16 times, by the rolled budgets that a fitted one counts for:

                       0          1          2          4
    effective data   4.8, 9.2   3.0, 4.5   2.4, 3.3   2.3, 3.2
    qqt              1.3, 2.1   1.2, 1.9   1.2, 1.8   1.2, 1.8
    demo, measured   3.0        2.3        3.1        4.5

Simulated noise is what the fit takes it for; real residuals differ by chance and by what no form
has, so that the sharper weights pick a wrong form with confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import block_diag

from anneal.laws.fits import ASSUMED_NOISE, SMALLEST_NOISE, Fit, fit, predict
from anneal.laws.forms import evaluate, prior
from anneal.laws.noise import pooled
from anneal.laws.points import Floats, Points

FEWEST_BUDGETS = 3
"""A form is asked to predict only from this many budgets on."""
NOISE_DEGREES = 2.0
"""Degrees of freedom that the noise known otherwise counts for beside a form's residuals."""


@dataclass(frozen=True, eq=False)
class Rolled:
    """What one form, or the average of several, said about budgets that it had not seen.

    Args:
        origin: (k,) largest budget fitted to, tokens.
        row: (k,) row of the table that was predicted.
        doublings: (k,) log2 of the row's budget over the origin.
        error: (k,) log predicted minus log measured.
        expected: (k, k) covariance of the errors that parameters (and other forms) explain; blocks
            of one origin, no run noise.
        message: why there are none.
    """

    origin: Floats
    row: Floats
    doublings: Floats
    error: Floats
    expected: Floats
    message: str = ""

    @property
    def cells(self) -> int:
        """Budgets predicted, an origin's each counted."""
        return len(set(zip(self.origin.tolist(), self.doublings.tolist(), strict=True)))

    @property
    def mse(self) -> float:
        """Mean squared error, every predicted budget counting alike; infinite where none was."""
        if not self.error.size:
            return float("inf")
        return float(np.mean([(e**2).mean() for e in by_cell(self, self.error)]))


def rolling(form: str, points: Points, *, rng: np.random.Generator) -> Rolled:
    """Predict every budget from those below it, from three budgets on."""
    budgets = ladder(points)
    parts: list[tuple[Floats, Floats, Floats, Floats]] = []
    blocks: list[Floats] = []
    known = noise_between_seeds(points) or SMALLEST_NOISE
    message = f"{budgets.size} budgets: too few to leave one out"
    for origin in budgets[FEWEST_BUDGETS - 1 : -1]:
        seen = points.tokens <= origin * (1 + 1e-9)
        law = fit(form, points.rows(seen), rng=rng, starts=24)
        if law.outcome != "ok":
            message = law.message or law.outcome
            continue
        row = np.flatnonzero(~seen)
        expected = predict(law, points.group[row], points.tokens[row], points.unique[row])
        error = np.log(expected) - np.log(points.score[row])
        doublings = np.log2(points.tokens[row] / origin)
        parts.append((np.full(row.size, origin), row.astype(np.float64), doublings, error))
        # few runs scatter little by chance: the noise of all of them is the least there is
        noise = max(law.residual_sd, known)
        blocks.append(_spread(law, points.rows(seen), points.rows(~seen), noise))
    if not parts:
        none = np.zeros(0)
        return Rolled(none, none, none, none, np.zeros((0, 0)), message)
    origins, rows, doublings, error = (np.concatenate(c) for c in zip(*parts, strict=True))
    return Rolled(origins, rows, doublings, error, np.asarray(block_diag(*blocks)))


def _spread(law: Fit, seen: Points, later: Points, noise: float) -> Floats:
    """(k, k) covariance of predicted log scores that the parameters' uncertainty makes, to first
    order: J (H + Q)^-1 J', with the priors' precision Q and bounded parameters held."""
    assumed = prior(law.form, law.frame)
    free = (law.theta > assumed.low) & (law.theta < assumed.high)
    slopes = []
    for rows in (seen, later):
        score, slope = evaluate(law.form, law.frame, law.thetas, at=rows)
        slopes.append((slope[0] / score[0][:, None])[:, free])
    here, there = slopes
    known = here.T @ here / noise**2 + assumed.precision[np.ix_(free, free)]
    return np.asarray(there @ np.linalg.solve(known, there.T))


def weigh(rolls: Mapping[str, Rolled], fits: Mapping[str, Fit], points: Points) -> dict[str, float]:
    """Weights of forms, summing to 1; see the module's text.

    A form that could not predict what others could gets none. Few degrees of freedom make a small
    residual SD by chance, so what is known of the noise counts for `NOISE_DEGREES` more of them.

    Args:
        rolls: rolling predictions by name of form.
        fits: usable fits of `points`, by the same names.
    """
    predicted = max(r.cells for r in rolls.values())
    noise = noise_between_seeds(points) or ASSUMED_NOISE
    fitted = ladder(points).size
    log = {}
    for name, roll in rolls.items():
        law = fits[name]
        squares = law.degrees * law.residual_sd**2 + NOISE_DEGREES * noise**2
        log[name] = -0.5 * fitted * float(np.log(squares / (law.degrees + NOISE_DEGREES)))
        if predicted:
            log[name] -= 0.5 * predicted * float(np.log(max(roll.mse, SMALLEST_NOISE**2)))
        if roll.cells < predicted:
            log[name] = -np.inf
    top = max(log.values())
    raw = {name: float(np.exp(value - top)) for name, value in log.items()}
    return {name: value / sum(raw.values()) for name, value in raw.items()}


def noise_between_seeds(points: Points) -> float | None:
    """Relative SD of runs that differ in the seed alone; None where no run was repeated."""
    degrees, variance = pooled(points, np.log(points.score))
    return max(float(np.sqrt(variance)), SMALLEST_NOISE) if degrees else None


def ladder(points: Points) -> Floats:
    """Distinct budgets, ascending; budgets within 5% of one another are one (whole steps)."""
    rungs: list[float] = []
    for budget in np.unique(points.tokens):
        if rungs and budget <= rungs[-1] * 1.05:
            rungs[-1] = float(budget)
        else:
            rungs.append(float(budget))
    return np.array(rungs)


def averaged(rolls: Sequence[Rolled], weights: Sequence[float]) -> Rolled:
    """Errors of the weighted mean of the forms' predictions, where all of them made one."""
    full = [(r, w) for r, w in zip(rolls, weights, strict=True) if r.error.size]
    if not full:
        return rolls[0]
    first = max((r for r, _ in full), key=lambda r: r.error.size)
    same = [(r, w) for r, w in full if r.error.size == first.error.size]
    total = sum(w for _, w in same)
    error = np.asarray(sum(w * r.error for r, w in same) / total)
    together = first.origin[:, None] == first.origin[None, :]
    expected = np.zeros_like(first.expected)
    for rolled, weight in same:
        apart = rolled.error - error
        expected += weight / total * (rolled.expected + np.outer(apart, apart) * together)
    return replace(first, error=error, expected=expected)


def by_cell(rolled: Rolled, values: Floats) -> list[Floats]:
    """`values` (k,) split by (origin, budget)."""
    keys = np.column_stack([rolled.origin, rolled.doublings])
    _, codes = np.unique(keys, axis=0, return_inverse=True)
    codes = codes.reshape(-1)
    return [values[codes == code] for code in range(codes.max() + 1)]
