"""Families of sources: exponents that know of one another, as far as the runs say they should.

Sources annealed into one base share the model, so they share the floor; their exponents are alike
but not the same. Between one exponent for all and one each lies a scatter s,

    log a_i = log a + s z_i,    z_i ~ N(0, 1),

and s is estimated too. By **evidence**: the probability of the table under each s, parameters
integrated out by Laplace's approximation about the fit,

    log p(y | s) = -F(theta) + 1/2 log|Q_s| - 1/2 log|H + Q_s| + constant,

H the information of the runs, Q_s the prior's precision (Tierney and Kadane 1986). Or by
**held-out** error: fitted to all but the largest budget and asked for it, weights mse^(-c/2) as
`blend` has them. Six sources say little about their own scatter, so no single s is trusted:
`Family` has a weight for each, and `family_bootstrap` draws from all of them in proportion.

Pooling is what lets a thin source in. With two budgets its exponent is partly the family's, with
one budget wholly: its run says how high the curve lies, the mean law how it falls. The fit says so
(`Fit.pooled`). A source without runs stays an error: nothing says how high.

Measured on simulated truth, 40 worlds a column, 6 sources, 5 budgets, 3 seeds at one of them, 0.6%
noise, 120 draws: 90% interval of the curve at 4 times the largest budget, and mean absolute error.
`own` is the usual fit, with the scatter fixed at 0.7; in the last two rows one source has two
budgets or one.

    true scatter            0.03    0.1    0.2    0.4    0.7
    family, covered          99%    90%    85%    91%    88%
    own, covered             95%    90%    91%    95%    83%
    family, error          .0118  .0153  .0193  .0201  .0158
    own, error             .0139  .0157  .0167  .0160  .0154
    two budgets, covered     98%    90%    88%    95%    88%
    one budget, covered      98%    93%    93%    95%    90%

So where every source has its budgets a family pays only if the sources are much alike, and costs a
little otherwise (a scatter taken too small bends the shared floor); it is for thin sources.

The control is a member like any source: it trains on the replay alone, shares the floor, and is
subtracted within each draw (`lift`), so that what all curves have in common cancels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from anneal.errors import LawError
from anneal.laws.fits import ASSUMED_NOISE, SMALLEST_NOISE, Fit, Predicts, fit, predict, scatter
from anneal.laws.forms import EXPONENT_SCATTER, Form, layout
from anneal.laws.noise import NoiseShape, pooled
from anneal.laws.points import Floats, Points
from anneal.laws.resampling import Method
from anneal.laws.search import Assumed, Task, search
from anneal.laws.uncertainty import Ensemble, bootstrap

SCATTERS = (0.05, 0.1, 0.2, 0.4, EXPONENT_SCATTER, 1.2)
"""SDs of log exponents that compete."""
LIKELY, LIKELY_LOG_SD = 0.5, 0.8
"""Centre and log SD of the scatter before the runs (assumed; published exponents scatter by about
0.5). Too small a scatter is dear and too large a one is cheap: measured at 4 times the largest
budget, 30 worlds of 6 sources whose exponents scatter by 0.25, mean absolute error of the fit under
the scatters above .055 .031 .018 .016 .016 .016."""
FEW = 3
"""Degrees of freedom between seeds below which residuals say how large the noise is."""
NEGLIGIBLE = 0.02
"""Weight below which a scatter gets no draws."""


@dataclass(frozen=True, eq=False)
class Family:
    """One form fitted to a family of sources, under several scatters of their exponents.

    Args:
        fits: one a scatter, the likeliest first.
        scatters, weights: of the fits; the weights sum to 1.
        by: what the weights rest on.
        control: label of the control, a member like the others; None where there is none.
        words: the choice in words.
    """

    fits: tuple[Fit, ...]
    scatters: tuple[float, ...]
    weights: tuple[float, ...]
    by: Literal["evidence", "held-out"]
    control: str | None
    words: str

    @property
    def fit(self) -> Fit:
        """The fit under the likeliest scatter."""
        return self.fits[0]


def family(
    form: str | Form,
    points: Points,
    *,
    rng: np.random.Generator,
    by: Literal["evidence", "held-out"] = "evidence",
    control: str | None = None,
    shape: NoiseShape | None = None,
    starts: int = 24,
) -> Family:
    """Fit a family: partially pooled exponents, thin sources included.

    Args:
        form: a falling form or its name; with one exponent for all there is nothing to scatter.
        points: the table; its groups are the members.
        by: how scatters are weighed; `held-out` needs a budget to spare, and falls back to
            `evidence` where leaving the largest out leaves too little.
        control: label of the control, checked to be a member.
        shape: how the noise depends on the budget.

    Raises:
        LawError: a control that is no group, a form that may rise, a table that cannot carry the
            form even with pooling.
    """
    if control is not None and control not in points.labels:
        raise LawError(
            f"family: control `{control}` is not among the groups",
            hint=f"one of: {', '.join(points.labels)}",
        )
    assumed = Assumed(pool=True, shape=shape)
    usual = fit(form, points, rng=rng, starts=starts, assumed=assumed, throw=True)
    if not usual.form.falls:
        raise LawError(f"law `{usual.form.name}` may rise: a family has no exponents to share")
    if np.unique(layout(usual.form, points.labels).exponent).size < 2:
        return Family(
            (usual,), (EXPONENT_SCATTER,), (1.0,), by, control, "one exponent: nothing to scatter"
        )
    noise = _noise(usual, points)
    fits = []
    for s in SCATTERS:
        here = replace(assumed, scatter=s)
        fits.append(fit(usual.form, points, rng=rng, starts=starts, noise=noise, assumed=here))
    settled = [f for f in fits if f.outcome == "ok"]
    if not settled:
        raise LawError(f"law `{usual.form.name}`: {fits[0].outcome}: {fits[0].message}")
    logs = _held_out(settled, points, rng) if by == "held-out" else None
    if logs is None:
        by, logs = "evidence", np.array([evidence(f, points, noise=noise) for f in settled])
    scatters = np.array([f.assumed.scatter for f in settled])
    logs = logs - 0.5 * (np.log(scatters / LIKELY) / LIKELY_LOG_SD) ** 2
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    order = np.argsort(-weights)
    best, weight = settled[int(order[0])], float(weights[order[0]])
    words = (
        f"exponents scatter by SD {best.assumed.scatter:g} about their mean (log scale): "
        f"weight {weight:.0%} by {by}, of {len(settled)} scatters from {SCATTERS[0]:g} to "
        f"{SCATTERS[-1]:g}"
    )
    return Family(
        tuple(settled[int(i)] for i in order),
        tuple(settled[int(i)].assumed.scatter for i in order),
        tuple(float(weights[i]) for i in order),
        by,
        control,
        words,
    )


def evidence(found: Fit, points: Points, *, noise: float) -> float:
    """Laplace's approximation of log p(points | form, scatter), up to a constant of the table.

    Comparable between fits of one form to one table at one `noise`. Parameters on a bound count
    with the curvature they have there.
    """
    task = Task.of(
        found.form,
        found.frame,
        points,
        found.assumed,
        noise=noise,
        weights=found.weights,
        delta=found.delta,
    )
    minimum = search(task, found.theta[None, :])
    seen = scatter(task, minimum.theta[0], noise=noise)
    before = np.linalg.slogdet(task.prior.precision)[1]
    after = np.linalg.slogdet(task.prior.precision + seen.information)[1]
    return float(-minimum.value[0] + 0.5 * before - 0.5 * after)


def family_bootstrap(
    members: Family,
    points: Points,
    *,
    draws: int = 400,
    rng: np.random.Generator,
    method: Method = "smoothed wild",
) -> Ensemble:
    """Draws under every scatter in proportion to its weight; `Ensemble.fit` is the likeliest."""
    kept = [(f, w) for f, w in zip(members.fits, members.weights, strict=True) if w >= NEGLIGIBLE]
    total = sum(w for _, w in kept)
    parts = [
        bootstrap(f, points, draws=max(2, round(draws * w / total)), rng=rng, method=method)
        for f, w in kept
    ]
    return Ensemble(
        fit=members.fit,
        thetas=np.concatenate([p.thetas for p in parts]),
        noise=np.concatenate([p.noise for p in parts]),
        failed=sum(p.failed for p in parts),
        bounded=sum(p.bounded for p in parts),
        method=method,
    )


def lift(
    law: Predicts,
    control: int,
    group: ArrayLike,
    tokens: ArrayLike,
    unique: ArrayLike | None = None,
) -> Floats:
    """(draws, n) score of the control minus that of `group`, at equal tokens in each draw.

    Args:
        law: an `Ensemble` or a `Blend`.
        control: code of the control; its tokens are all new.
        group, tokens, unique: as in `predict`.
    """
    return np.asarray(predict(law, control, tokens) - predict(law, group, tokens, unique))


def _noise(usual: Fit, points: Points) -> float:
    """One noise SD for all scatters: of the seeds where there are enough, else of the residuals.

    Where residuals have no degrees of freedom left they say nothing, and noise is as assumed.
    """
    degrees, variance = pooled(points, np.log(points.score))
    if degrees >= FEW:
        return max(float(np.sqrt(variance)), SMALLEST_NOISE)
    if usual.degrees < 2:
        return max(usual.residual_sd, ASSUMED_NOISE)
    return max(usual.residual_sd, SMALLEST_NOISE)


def _held_out(fits: list[Fit], points: Points, rng: np.random.Generator) -> Floats | None:
    """Log weights mse^(-c/2) from the largest budget, c the groups that have it; None without."""
    top = points.tokens >= points.largest * (1.0 - 1e-9)
    if top.all():
        return None
    train, test = points.rows(~top), points.rows(top)
    logs = []
    for found in fits:
        before = fit(found.form, train, rng=rng, starts=24, assumed=found.assumed)
        if before.outcome != "ok":
            return None
        expected = predict(before, test.group, test.tokens, test.unique)
        error = np.log(expected) - np.log(test.score)
        groups = np.unique(test.group)
        mse = np.mean([(error[test.group == g] ** 2).mean() for g in groups])
        logs.append(-0.5 * groups.size * float(np.log(max(mse, 1e-12))))
    return np.array(logs)
