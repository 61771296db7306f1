"""Tables that could as well have been measured: five ways to redraw one.

    smoothed wild  fit + residuals of other runs, random sign, smoothed by a normal kernel (default)
    wild           fit + each run's own residual, random sign: keeps noise that differs by run
    residual       fit + residuals of other runs as they are: keeps the residuals' own shape
    parametric     fit + normal errors of the seeds' noise: where residuals are too few to resample
    pairs          the runs themselves, drawn with replacement within each group

The first three scale their errors so that their SD is the noise SD over the degrees of freedom, the
larger of residuals and seeds: raw residuals of a small table are too small by what the fit has
absorbed. Each draw takes its noise SD from s sqrt(nu / chi2_nu), s and nu those of that SD.

Measured coverage of the 90% interval of the curve (50 worlds of 6 curves, 5 budgets, 0.6% noise,
fitted as `shifted_power`, 120 draws; standard errors 2% at the runs, 4% at 16 times beyond):

                       4 seeds at every budget            3 seeds at the middle one
                    inside  largest   4x   16x          inside  largest   4x   16x
    smoothed wild      87%      84%  85%   84%             91%      92%  91%   90%
    wild               74%      67%  71%   71%             72%      61%  70%   71%
    residual           80%      81%  79%   79%             86%      90%  89%   90%
    parametric         88%      86%  86%   82%             90%      90%  90%   91%
    pairs              91%      86%  91%   91%             refused in some or all worlds

`wild` is too narrow and is here for comparison: a fit of log residuals under Huber's loss runs
through as many points as it has parameters, those residuals are zero, and their sign is all that is
redrawn. `residual` shares the fault as far as the zeros are in its pool. The kernel of the default
is what mends it.

`parametric` knows nothing of a misfit: a law of the wrong shape has large residuals, and intervals
as narrow as the seeds' noise.

`pairs` assumes nothing about errors, but a group may lose budgets that its curve needs. Such draws
are drawn again; where that would happen to more than `LOST` of them, the draws that are left are
not a sample any more and the method is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from anneal.errors import LawError
from anneal.laws.fits import Fit
from anneal.laws.forms import evaluate
from anneal.laws.noise import pooled
from anneal.laws.points import Floats, Points
from anneal.laws.search import spread_of

Method = Literal["smoothed wild", "wild", "residual", "parametric", "pairs"]

KERNEL = 0.5
"""Bandwidth of the smoothing, in residual SDs (assumed; the variance is kept at 1)."""
LOST = 0.1
"""Share of `pairs` draws that may be drawn again (assumed)."""


@dataclass(frozen=True, eq=False)
class Redrawn:
    """B tables.

    Args:
        log_score: (B, n).
        sd: (B,) relative noise SD of each, at the noise's reference.
        scale: the noise SD they scatter about.
        counts: (B, n) how often each run is in each table; None for once.
    """

    log_score: Floats
    sd: Floats
    scale: float
    counts: Floats | None = None


def resample(
    fit: Fit,
    points: Points,
    method: Method,
    *,
    draws: int,
    rng: np.random.Generator,
    noise: float | None = None,
) -> Redrawn:
    """`draws` tables in the places of `points`.

    Raises:
        LawError: an unknown method; `pairs` on a table that would lose budgets; `parametric`
            without seeds and without `noise`.
    """
    if method not in get_args(Method):
        raise LawError(
            f"bootstrap: method `{method}` is unknown",
            hint=f"one of: {', '.join(get_args(Method))}",
        )
    relative = spread_of(fit.assumed, points)
    degrees, variance = pooled(points, np.log(points.score) / relative)
    scale, nu = max(fit.residual_sd, float(np.sqrt(variance))), max(fit.degrees, 2.0)
    if method == "parametric":
        scale, nu = _seeds_noise(degrees, variance, noise)
    sd = scale * np.sqrt(nu / rng.chisquare(nu, draws))
    size = points.score.size
    if method == "pairs":
        counts = _pairs(fit, points, draws, rng)
        return Redrawn(np.tile(np.log(points.score), (draws, 1)), sd, scale, counts)
    residuals = fit.residuals / relative
    pool = residuals / max(float(np.sqrt(np.mean(residuals**2))), 1e-300)
    if method == "wild":
        error = pool * rng.choice([-1.0, 1.0], (draws, size))
    elif method == "residual":
        centred = pool - pool.mean()
        error = centred[rng.integers(0, size, (draws, size))]
    elif method == "parametric":
        error = rng.standard_normal((draws, size))
    else:
        error = pool[rng.integers(0, size, (draws, size))]
        error = error * rng.choice([-1.0, 1.0], error.shape)
        error = (error + KERNEL * rng.standard_normal(error.shape)) / np.sqrt(1.0 + KERNEL**2)
    centre, _ = evaluate(fit.form, fit.frame, fit.theta[None, :], at=points)
    return Redrawn(np.log(centre) + sd[:, None] * relative * error, sd, scale)


def _seeds_noise(degrees: int, variance: float, noise: float | None) -> tuple[float, float]:
    """Noise SD and its degrees of freedom; one that is given counts as known."""
    if noise is not None:
        return noise, 1e6
    if degrees == 0:
        raise LawError(
            "bootstrap: `parametric` needs the noise between seeds, and no run was repeated",
            hint="repeat one budget with 3 seeds, or give the noise of a sweep like this one",
        )
    return float(np.sqrt(variance)), float(max(degrees, 2))


def _pairs(fit: Fit, points: Points, draws: int, rng: np.random.Generator) -> Floats:
    """(draws, n) how often each run is drawn, as many of each group as it has runs."""
    own = 1 if fit.form.one_exponent else 2
    counts = np.zeros((draws, points.score.size))
    for code, label in enumerate(points.labels):
        rows = np.flatnonzero(points.group == code)
        _, budget = np.unique(points.tokens[rows], return_inverse=True)
        there = np.eye(int(budget.max()) + 1)[budget]  # (runs, budgets)
        needed = min(own, there.shape[1]) if fit.assumed.pool else own
        # the floor and the repeats' worth need a budget more wherever a group had one
        needed = min(needed + 1, there.shape[1]) if there.shape[1] > needed else needed
        pending, again = np.arange(draws), 0
        while pending.size:
            drawn = rng.multinomial(rows.size, np.full(rows.size, 1.0 / rows.size), pending.size)
            kept = ((drawn @ there) > 0).sum(axis=1) >= needed
            counts[np.ix_(pending[kept], rows)] = drawn[kept]
            pending = pending[~kept]
            again += int(pending.size)
            if again > LOST * draws:
                raise LawError(
                    f"bootstrap: `pairs` would lose budgets of `{label}` in more than {LOST:.0%} "
                    f"of the draws: {rows.size} runs at {there.shape[1]} budgets, {needed} needed",
                    hint="use the smoothed wild bootstrap, or run more seeds at each budget",
                )
    return counts
