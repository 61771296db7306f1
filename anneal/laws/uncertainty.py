"""How sure a law is: the noise between seeds, and an ensemble of refitted laws.

With five budgets and one seed each, rows cannot simply be resampled: most resamples would lose a
budget. Instead each draw is a table that could have been measured had the fit been true, and is
refitted with everything that is unknown redrawn (other ways to redraw: `resampling`):

1. the noise SD, from s * sqrt(nu / chi2_nu): s is the larger of the residual SD over its degrees of
   freedom nu and the seed SD, so a misfit widens the intervals and few degrees give heavy tails;
2. the runs' errors: the fit's own standardised residuals, resampled by run with random signs and
   smoothed by a normal kernel (a smoothed wild bootstrap);
3. the centres of the weak priors, from the priors themselves (randomised maximum a posteriori): a
   parameter that the data do not know, such as R* without repeated runs, spreads as its prior does
   instead of standing still.

Measured coverage of the 90% interval of the curve on simulated truth (6 groups, 5 budgets, 3 seeds
at one of them, 0.6% noise, 200 draws; worlds x 6 curves a row; the tests repeat a part of it):

    worlds                                 inside   largest   4x     16x beyond
    200, shifted_power                     89%      91%       92%    92%
    200, repeated pools, R* about 10       88%      90%       90%    91%
    100, true exponents near 0.9           91%      92%       90%    89%
    100, true exponents near 0.1           89%      91%       92%    94%
    100, noise 2%                          91%      92%       93%    95%
    100, fitted as `power`: wrong shape    90%      87%       66%    49%

The last row is the warning: the interval is right about noise, not about the shape of the law
(`blend` is about that).
What this does not know: another shape of the law (the hold-out speaks to that), errors shared by
all runs of a source or of a seed, and, unless the fit was told (`noise.noise_shape`), a noise that
depends on the budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy import stats

from anneal.errors import LawError
from anneal.laws.fits import SMALLEST_NOISE, Fit, predict
from anneal.laws.forms import Form, Frame, Where, evaluate, named, starting_points
from anneal.laws.noise import pooled
from anneal.laws.points import Floats, Ints, Points
from anneal.laws.resampling import Method, resample
from anneal.laws.search import Task, search_draws


@dataclass(frozen=True)
class Noise:
    """Run-to-run noise, pooled over cells that differ in the seed alone.

    Args:
        sd, low, high: pooled SD with its chi-square interval, in units of the score.
        relative: the same SD as a share of the score.
        degrees: degrees of freedom, sum over cells of (seeds - 1).
        level: of the interval.
    """

    sd: float
    low: float
    high: float
    relative: float
    degrees: int
    level: float = 0.9


def noise_floor(points: Points, *, level: float = 0.9) -> Noise:
    """Pooled SD between seeds, with (degrees sd^2 / chi2) interval.

    Raises:
        LawError: no cell holds two runs.
    """
    degrees, variance = pooled(points, points.score)
    if degrees == 0:
        raise LawError(
            "noise floor: no group and budget was run with two seeds",
            hint="repeat one budget with 3 seeds",
        )
    _, relative = pooled(points, np.log(points.score))
    tail = (1.0 - level) / 2.0
    high, low = (float(stats.chi2.ppf(q, degrees)) for q in (tail, 1.0 - tail))
    return Noise(
        sd=float(np.sqrt(variance)),
        low=float(np.sqrt(degrees * variance / low)),
        high=float(np.sqrt(degrees * variance / high)),
        relative=float(np.sqrt(relative)),
        degrees=degrees,
        level=level,
    )


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A law with its uncertainty: every draw is a law that fits as well as the data can tell.

    Args:
        fit: the law at the data themselves.
        thetas: (draws, p) free parameters.
        noise: (draws,) relative noise SD that belongs to each draw.
        failed: draws left out because their search did not settle.
        bounded: draws kept that have a parameter on a bound.
        method: how the tables were redrawn.
    """

    fit: Fit
    thetas: Floats
    noise: Floats
    failed: int
    bounded: int
    method: Method = "smoothed wild"

    @property
    def form(self) -> Form:
        return self.fit.form

    @property
    def frame(self) -> Frame:
        return self.fit.frame

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the groups."""
        return self.fit.frame.labels

    @property
    def draws(self) -> int:
        """Draws kept."""
        return int(self.thetas.shape[0])

    def code(self, label: str) -> int:
        """Code of a group by name.

        Raises:
            LawError: no such group.
        """
        if label not in self.labels:
            raise LawError(f"law has no curve for `{label}`: it has {', '.join(self.labels)}")
        return self.labels.index(label)

    def curve(self, at: Where) -> Floats:
        """(draws, n) scores without run-to-run noise."""
        return evaluate(self.form, self.frame, self.thetas, at=at)[0]

    def parameters(self) -> dict[str, Floats]:
        """(draws,) of every parameter by name, in the units of `forms.named`."""
        return named(self.form, self.frame, self.thetas)

    def thinned(self, draws: int) -> Ensemble:
        """Every k-th draw, at most `draws` of them."""
        if draws >= self.draws:
            return self
        keep = np.linspace(0, self.draws - 1, draws).round().astype(np.int64)
        return replace(self, thetas=self.thetas[keep], noise=self.noise[keep])

    def noise_at(self, tokens: Floats) -> Floats:
        """(draws, n) relative noise SD of runs of `tokens` (n,)."""
        shape = self.fit.assumed.shape
        relative = np.ones_like(tokens) if shape is None else shape.at(tokens)
        return np.asarray(self.noise[:, None] * relative[None, :])


def bootstrap(
    fit: Fit,
    points: Points,
    *,
    draws: int = 400,
    rng: np.random.Generator,
    starts: int = 2,
    method: Method = "smoothed wild",
    noise: float | None = None,
) -> Ensemble:
    """Refit `draws` tables that could as well have been measured; see the module's text.

    Args:
        fit: a usable fit of `points`.
        points: the table it was fitted to.
        draws: refits.
        starts: starts of each draw: the fit's own optimum, then spread ones, raced.
        method: how tables are redrawn, see `resampling`.
        noise: relative noise SD for `parametric` where the table's own seeds are too few to say.

    Raises:
        LawError: a fit without parameters, fewer than half of the draws settled, or a method that
            the table cannot carry.
    """
    if not fit.usable:
        raise LawError(f"law `{fit.form.name}` has no intervals: {fit.outcome}: {fit.message}")
    form, frame = fit.form, fit.frame
    again = resample(fit, points, method, draws=draws, rng=rng, noise=noise)
    task = Task.of(
        form,
        frame,
        points,
        fit.assumed,
        noise=max(again.scale, SMALLEST_NOISE),
        weights=fit.weights,
        delta=fit.delta,
    )
    assumed = task.prior
    spread = np.linalg.cholesky(np.linalg.inv(assumed.precision))
    centre = assumed.centre + rng.standard_normal((draws, fit.theta.size)) @ spread.T
    others = starting_points(form, frame, points, max((starts - 1) * draws, 1), rng)
    theta = np.concatenate(
        [
            np.broadcast_to(fit.theta, (draws, 1, fit.theta.size)),
            others[: (starts - 1) * draws].reshape(draws, starts - 1, fit.theta.size),
        ],
        axis=1,
    )
    best = search_draws(task, theta, again.log_score, centre=centre, counts=again.counts)
    good = best.converged
    if good.sum() * 2 < draws:
        raise LawError(
            f"law `{form.name}`: {draws - int(good.sum())} of {draws} refits did not settle",
            hint="choose a form with fewer parameters",
        )
    kept = best.theta[good]
    edge = 1e-6 * (assumed.high - assumed.low)
    edged = (kept <= assumed.low + edge) | (kept >= assumed.high - edge)
    bounded = int(edged[:, assumed.high > assumed.low].any(axis=1).sum())
    return Ensemble(fit, kept, again.sd[good], int(draws - good.sum()), bounded, method)


def band(samples: Floats, *, level: float = 0.9) -> Floats:
    """(2, ...) lower and upper quantiles of samples (draws, ...), equal tails."""
    tail = (1.0 - level) / 2.0
    return np.asarray(np.quantile(samples, [tail, 1.0 - tail], axis=0))


class Draws(Protocol):
    """An ensemble or a blend: curves, and the noise that goes with each draw."""

    @property
    def noise(self) -> Floats: ...

    def curve(self, at: Where) -> Floats: ...


def outcomes(
    ensemble: Draws, group: Ints, tokens: Floats, unique: Floats, *, rng: np.random.Generator
) -> Floats:
    """(draws, n) scores a new run could get: the law's uncertainty and the run's own noise."""
    curve = predict(ensemble, group, tokens, unique)
    sd = ensemble.noise[:, None]
    if isinstance(ensemble, Ensemble):
        sd = ensemble.noise_at(np.broadcast_to(tokens, curve.shape[1:]))
    return np.asarray(curve * np.exp(sd * rng.standard_normal(curve.shape)))
