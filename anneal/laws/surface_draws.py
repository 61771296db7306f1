"""How sure a surface is: refits of resampled runs, all draws solved together.

Three ways to make a table that could as well have been measured:

    pairs      whole runs drawn with replacement, as weights 0, 1, 2, ... on their rows: assumes
               nothing about the noise, needs many runs (Epoch's replication, 2404.10102)
    residual   the fit's curve plus residuals of other runs: every design point stays, so it works
               with few runs; assumes that all runs are equally noisy
    wild       the fit's curve plus each run's own residuals, with a random sign for the run
               (Rademacher): few runs, unequal noise

Rows that share a `cluster` (checkpoints of one run, or its score on several tables) are drawn,
moved and signed together: their errors are not independent, and rows resampled one by one would
claim far too much. Residuals are enlarged by sqrt(n / degrees), since a fit shrinks them; under
`residual` and `wild` each draw's errors are scaled by sqrt(nu / chi2_nu), so that few degrees of
freedom give the heavy tails of Student's t (ours, as in `uncertainty`).

Measured coverage of the 90% interval of the curve (a power law with a floor, 1% noise, 150 worlds,
150 draws; the lowest and highest of three places from half to ten times the data's range): 12 runs
pairs 88 to 98%, residual 87 to 89%, wild 73 to 87%; 40 runs pairs 89 to 93%, residual 87 to 91%,
wild 79 to 87%. So take `pairs` where runs are many, `residual` where few, and `wild` only for noise
that differs between runs.

The intervals are right about noise, not about the shape of the law: hold out what is largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anneal.errors import LawError
from anneal.laws.engine import Minima
from anneal.laws.points import Floats, Ints
from anneal.laws.surface_fits import SurfaceFit
from anneal.laws.surface_search import solve
from anneal.laws.surfaces import Surface, checked, widths

KERNEL = 0.5
"""Bandwidth by which residuals are smoothed, in their SDs (as in `uncertainty`). A small delta
makes the fit pass through p points exactly; residuals of zero would make a table too quiet."""


@dataclass(frozen=True, eq=False)
class SurfaceEnsemble:
    """A surface with its uncertainty.

    Args:
        fit: the surface at the data themselves.
        thetas: (draws, p) free numbers.
        values: (draws,) objective of each draw: Huber loss by its own weights, in units of the
            fit's noise information.
        noise: (draws,) residual SD that belongs to each draw.
        failed: draws left out: their search did not settle, or they drew too few different runs.
        bounded: draws kept that have a parameter on a bound.
        shape: widths of the columns.
    """

    fit: SurfaceFit
    thetas: Floats
    values: Floats
    noise: Floats
    failed: int
    bounded: int
    shape: dict[str, int]

    def parameters(self) -> dict[str, Floats]:
        """(draws,) values of every parameter by name."""
        blank = {n: np.ones((1, m) if m else 1) for n, m in self.shape.items()}
        values = self.fit.surface.values(self.thetas, blank)
        return {n: values[:, i] for i, n in enumerate(self.fit.surface.names(blank))}

    def curve(self, columns: Mapping[str, ArrayLike]) -> Floats:
        """(draws, n) scores without run-to-run noise."""
        score, _ = self.fit.surface.evaluate(self.thetas, checked(self.fit.surface, columns))
        return score

    def outcomes(self, columns: Mapping[str, ArrayLike], *, rng: np.random.Generator) -> Floats:
        """(draws, n) scores a new run could get: the law's uncertainty and the run's own noise.

        The noise is a residual of the fit, standardised and smoothed by a normal kernel.
        """
        curve = self.curve(columns)
        pool = self.fit.residuals / max(float(np.sqrt(np.mean(self.fit.residuals**2))), 1e-300)
        error = pool[rng.integers(0, pool.size, curve.shape)]
        error = error * rng.choice([-1.0, 1.0], curve.shape)
        error = (error + KERNEL * rng.standard_normal(curve.shape)) / np.sqrt(1.0 + KERNEL**2)
        error = self.noise[:, None] * error
        return np.asarray(curve * np.exp(error) if self.fit.residual == "log" else curve + error)


@dataclass(frozen=True, eq=False)
class SurfacePrediction:
    """Scores at n rows with intervals, and how far they lie from the table.

    Args:
        score: (n,) of the fit itself.
        low, high: (n,) interval of the curve.
        run_low, run_high: (n,) interval of a new run.
        level: of both intervals.
        extrapolation: tracked input -> (n,) factor beyond its range: 1 inside; x / max or min / x
            for positive columns (the largest over components), 1 + distance / range for others.
    """

    score: Floats
    low: Floats
    high: Floats
    run_low: Floats
    run_high: Floats
    level: float
    extrapolation: dict[str, Floats]


def bootstrap_surface(
    fit: SurfaceFit,
    columns: Mapping[str, ArrayLike],
    score: ArrayLike,
    *,
    rng: np.random.Generator,
    draws: int = 1000,
    method: Literal["pairs", "residual", "wild"] = "pairs",
    cluster: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    starts: int = 2,
    tolerance: float = 1e-5,
) -> SurfaceEnsemble:
    """Refit `draws` resampled tables; see the module's text.

    Args:
        fit: a usable fit of `columns` and `score`.
        draws: refits.
        method: how tables are made.
        cluster: (n,) labels of runs; each row a run of its own where None.
        weights: (n,) weights that the fit had.
        starts: at most so many of each draw: the distinct lowest points that the fit's own search
            found, the best first (often there is one).
        tolerance: gain, in nats of log likelihood, at which a draw has settled.

    Raises:
        LawError: a fit without parameters, fewer than 4 runs, or half of the draws unusable.
    """
    surface = fit.surface
    if not fit.usable:
        raise LawError(f"law `{surface.name}` has no intervals: {fit.outcome}: {fit.message}")
    table = checked(surface, columns)
    measured = np.asarray(score, dtype=np.float64)
    goal = np.log(measured) if fit.residual == "log" else measured
    heavy = np.ones(goal.size) if weights is None else np.asarray(weights, dtype=np.float64)
    runs = _runs(cluster, goal.size)
    count = int(runs.max()) + 1
    if count < 4:
        raise LawError(
            f"law `{surface.name}`: {count} runs, intervals need 4",
            hint="rows of one run count once: add runs",
        )
    nu = max(fit.degrees * count / goal.size, 2.0)
    scale = np.sqrt(nu / rng.chisquare(nu, draws))
    enough = np.ones(draws, dtype=bool)
    goals, loads = goal[None, :], heavy
    if method == "pairs":
        times = rng.multinomial(count, np.full(count, 1.0 / count), size=draws)
        enough = (times[:, runs] > 0).sum(axis=1) > fit.theta.size
        loads = times[:, runs] * heavy
    else:
        error = _errors(fit.residuals, runs, draws, rng, own=method == "wild")
        kernel = KERNEL * np.sqrt(np.mean(fit.residuals**2)) * rng.standard_normal((draws, count))
        error = (error + kernel[:, runs]) / np.sqrt(1.0 + KERNEL**2)
        larger = np.sqrt(goal.size / fit.degrees)
        goals = goal + fit.residuals + larger * scale[:, None] * error
    starts = min(starts, fit.optima.shape[0])
    theta = np.concatenate([np.tile(lowest, (draws, 1)) for lowest in fit.optima[:starts]])
    goals = goals if method == "pairs" else np.tile(goals, (starts, 1))
    loads = np.tile(loads, (starts, 1)) if method == "pairs" else loads
    centre = _centres(surface, widths(table), draws, starts, rng)

    def search(theta: Floats, rows: NDArray[np.intp], tolerance: float) -> Minima:
        return solve(
            surface,
            table,
            theta,
            goals if goals.shape[0] == 1 else goals[rows],
            weights=loads if loads.ndim == 1 else loads[rows],
            noise=max(fit.residual_sd, 1e-8),
            delta=fit.delta,
            residual=fit.residual,
            tolerance=tolerance,
            centre=centre[rows],
        )

    found = search(theta, np.arange(theta.shape[0]), tolerance)
    slow = np.flatnonzero(~found.converged)
    if slow.size:  # along a valley: gains of 1e-3 nats say nothing about the curve any more
        again = search(found.theta[slow], slow, max(1e-3, tolerance))
        found.theta[slow], found.value[slow] = again.theta, again.value
        found.converged[slow] = again.converged
    best = found.value.reshape(starts, draws).argmin(axis=0)
    pick = best * draws + np.arange(draws)
    good = found.converged[pick] & enough
    if good.sum() * 2 < draws:
        raise LawError(
            f"law `{surface.name}`: {draws - int(good.sum())} of {draws} refits are unusable",
            hint="method='wild' keeps every run; or choose a law with fewer parameters",
        )
    kept = found.theta[pick][good]
    ends = np.array([p.ends for p in surface.parameters(widths(table))])
    edge = 1e-6 * (ends[:, 1] - ends[:, 0])
    bounded = ((kept <= ends[:, 0] + edge) | (kept >= ends[:, 1] - edge)).any(axis=1)
    return SurfaceEnsemble(
        fit=fit,
        thetas=kept,
        values=found.value[pick][good],
        noise=(fit.residual_sd * scale)[good],
        failed=int(draws - good.sum()),
        bounded=int(bounded.sum()),
        shape=widths(table),
    )


def predict_surface(
    ensemble: SurfaceEnsemble,
    columns: Mapping[str, ArrayLike],
    *,
    rng: np.random.Generator,
    level: float = 0.9,
) -> SurfacePrediction:
    """Scores at the rows of `columns`, with equal-tailed intervals of the curve and of a new run.

    Args:
        level: of the intervals, between 0 and 1.
    """
    table = checked(ensemble.fit.surface, columns)
    tails = [0.5 - level / 2.0, 0.5 + level / 2.0]
    low, high = np.quantile(ensemble.curve(table), tails, axis=0)
    run_low, run_high = np.quantile(ensemble.outcomes(table, rng=rng), tails, axis=0)
    return SurfacePrediction(
        score=ensemble.fit.curve(table),
        low=low,
        high=high,
        run_low=run_low,
        run_high=run_high,
        level=level,
        extrapolation=extrapolation(ensemble.fit, table),
    )


def extrapolation(fit: SurfaceFit, columns: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    """Tracked input -> (n,) factor beyond the range of the table; see `SurfacePrediction`."""
    table = checked(fit.surface, columns)
    out = {}
    for column in fit.surface.inputs:
        if not column.tracked:
            continue
        low, high = fit.support[column.name]
        x = table[column.name].reshape(-1, low.size)
        if column.positive:
            factor = np.maximum(np.maximum(x / high, low / x), 1.0)
        else:
            beyond = np.maximum(np.maximum(x - high, low - x), 0.0)
            factor = 1.0 + beyond / np.maximum(high - low, 1e-12)
        out[column.name] = np.asarray(factor.max(axis=1))
    return out


def _runs(cluster: ArrayLike | None, rows: int) -> Ints:
    """(n,) codes of runs."""
    if cluster is None:
        return np.arange(rows, dtype=np.int64)
    labels = np.asarray(cluster)
    if labels.shape != (rows,):
        raise LawError(f"bootstrap: {rows} rows, cluster labels {labels.shape}")
    return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int64).reshape(-1)


def _errors(
    residuals: Floats, runs: Ints, draws: int, rng: np.random.Generator, *, own: bool
) -> Floats:
    """(draws, n) measured minus predicted, redrawn: own residuals or another run's, signed by run.

    A run that is longer than the one it borrows from repeats its residuals in turn.
    """
    count = int(runs.max()) + 1
    sign = rng.choice([-1.0, 1.0], (draws, count))[:, runs]
    if own:
        return np.asarray(sign * residuals)
    order = np.argsort(runs, kind="stable")
    length = np.bincount(runs)
    first = np.concatenate([[0], np.cumsum(length)[:-1]])
    place = np.empty(runs.size, dtype=np.int64)
    place[order] = np.arange(runs.size) - first[runs[order]]
    donor = rng.integers(0, count, (draws, count))[:, runs]
    return np.asarray(sign * residuals[order[first[donor] + place % length[donor]]])


def _centres(
    surface: Surface, shape: dict[str, int], draws: int, starts: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(starts * draws, p) redrawn centres of the priors: what only a prior knows spreads as it."""
    parameters = surface.parameters(shape)
    centre = np.zeros((draws, len(parameters)))
    for i, p in enumerate(parameters):
        if p.prior:
            centre[:, i] = float(p.free(p.prior[0])) + p.prior[1] * rng.standard_normal(draws)
    return np.tile(centre, (starts, 1))
