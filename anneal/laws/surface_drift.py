"""Drift: how far a surface goes wrong beyond its data, learnt inside them.

Bootstrap intervals speak of noise alone, and published runs beyond the data show what that is
worth: of Chinchilla's 23 runs above 1e21 FLOPs, 9 / 35 / 70% lie inside their 50 / 80 / 95%
intervals. The shape of a law is wrong by a little everywhere, and extrapolation adds it up.

So the largest runs are held out several times: the law is fitted to the runs below an origin and
the errors at the runs above it, beyond what their intervals explain, are taken as

    error^2 = noise^2 + curve^2 + (sd * reach)^2,    reach = log(scale / origin)

with scale the product of the columns `by` (FLOPs as N D, tokens, ...). sd is the drift: relative
error of the law per e-fold of scale. A draw then carries one systematic error, sd * reach times a
Student t variable.

A few origins that share most of their runs cannot rule much out, and often say zero. Beyond
published tables a law went wrong by about `PRIOR` times its residual SD per e-fold: that much, as
far as the origins are too few to speak (its square over their number and one), is added:

    sd^2 = rolled^2 + (PRIOR residual SD)^2 / (origins + 1)

Measured (analysis/backtest_size.py), each table with the prior that the other four teach, and
before there was one; share of held-out runs inside 50 / 80 / 95%:

                             now              before
    chinchilla_epoch     17 / 70 /  91     17 / 52 /  91     of  23
    gadre_overtraining  100 / 100 / 100    89 / 89 / 100     of   9
    porian_isoflop       45 / 82 / 100     39 / 76 /  99     of 188
    learning_curves      47 / 75 /  96     43 / 58 /  78     of  72
    steplaw              50 / 50 / 100     50 / 50 / 100     of   2

Chinchilla's 23 errors are nearly one: its runs lie on one side of the law together. In 24 simulated
worlds, up to a decade beyond the table, a law of the right shape covers 71 / 93 / 99% (64 / 88 / 97
before), one without its floor 0 / 52 / 97% (0 / 50 / 97): the price is paid by laws that are right.

Errors that grow as the root of reach would cover published tables a little better yet, and a wrong
shape's errors worse; rolling origins show powers of reach from 0.4 to 1.3. Measured as it is on
smaller extrapolations than it is used for, the drift assumes that errors grow no faster than reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anneal.errors import LawError
from anneal.laws.points import Floats
from anneal.laws.surface_draws import SurfaceEnsemble, bootstrap_surface
from anneal.laws.surface_fits import fit_surface
from anneal.laws.surface_search import Residual
from anneal.laws.surfaces import Surface, checked

PRIOR = 1.7
"""Error of a law per e-fold beyond its table, in its residual SDs: median of the five published
tables above (0.1 to 4.9; `realised` in analysis/backtest_rows.py)."""


@dataclass(frozen=True)
class Drift:
    """Systematic error of a law beyond its table.

    Args:
        sd: relative error (of the score itself under `plain`) per e-fold of scale.
        by: columns whose product is the scale.
        frontier: log of the largest scale in the table.
        origins: origins that had a fit; the degrees of freedom of the errors' t distribution.
        residual: of the fit.
    """

    sd: float
    by: tuple[str, ...]
    frontier: float
    origins: int
    residual: Residual

    def reach(self, columns: Mapping[str, ArrayLike]) -> Floats:
        """(n,) e-folds of scale beyond the table, 0 inside."""
        return np.asarray(np.maximum(_scale(columns, self.by) - self.frontier, 0.0))

    def apply(
        self, samples: Floats, columns: Mapping[str, ArrayLike], *, rng: np.random.Generator
    ) -> Floats:
        """(draws, n) curves or outcomes with the systematic error of each draw added."""
        t = np.asarray(rng.standard_t(max(self.origins, 2), size=samples.shape[0]))
        error = self.sd * t[:, None] * self.reach(columns)[None, :]
        return np.asarray(samples * np.exp(error) if self.residual == "log" else samples + error)


def measure_drift(
    surface: Surface,
    columns: Mapping[str, ArrayLike],
    score: ArrayLike,
    *,
    by: tuple[str, ...],
    rng: np.random.Generator,
    shares: tuple[float, ...] = (0.5, 0.65, 0.8),
    residual: Residual = "log",
    delta: float = 1e-3,
    draws: int = 100,
    cluster: ArrayLike | None = None,
    prior: float = PRIOR,
) -> Drift:
    """Drift of a surface from rolling origins at quantiles `shares` of the runs' scale.

    Args:
        by: columns whose product is the scale along which the law will be used.
        shares: origins, as shares of the rows.
        draws: of the bootstrap (residuals of runs) that says what noise explains.
        cluster: (n,) labels of runs, as in `bootstrap_surface`.
        prior: residual SDs, see `PRIOR`.

    Raises:
        LawError: no origin leaves a table that carries the surface.
    """
    table = checked(surface, columns)
    y = np.asarray(score, dtype=np.float64)
    scale = _scale(columns, by)
    labels = np.arange(y.size) if cluster is None else np.asarray(cluster)
    excess, squares, noise, used = 0.0, 0.0, 0.0, 0
    for share in shares:
        origin = float(np.quantile(scale, share))
        early, late = scale <= origin, scale > origin
        fitted = _rows(table, early)
        fit = fit_surface(
            surface, fitted, y[early], rng=rng, starts=24, residual=residual, delta=delta
        )
        if not fit.usable or not late.any():
            continue
        try:
            ensemble = bootstrap_surface(
                *(fit, fitted, y[early]),
                rng=rng,
                draws=draws,
                method="residual",
                cluster=labels[early],
                starts=1,
            )
        except LawError:  # too few runs below this origin to say what noise explains
            continue
        error, known = _errors(ensemble, _rows(table, late), y[late])
        excess += float((error**2 - known).mean())
        squares += float(((scale[late] - origin) ** 2).mean())
        noise = fit.residual_sd
        used += 1
    if used == 0:
        raise LawError(
            f"law `{surface.name}`: no part of the table carries it, drift cannot be measured",
            hint="add runs, or choose a law with fewer parameters",
        )
    rolled = max(excess, 0.0) / squares  # runs beyond an origin have a reach above zero
    sd = float(np.sqrt(rolled + (prior * noise) ** 2 / (used + 1)))
    return Drift(sd, by, float(scale.max()), used, residual)


def _errors(
    ensemble: SurfaceEnsemble, columns: dict[str, Floats], y: Floats
) -> tuple[Floats, Floats]:
    """(n,) errors and (n,) variances that noise and the curve's interval explain."""
    curve, fit = ensemble.curve(columns), ensemble.fit
    best = fit.curve(columns)
    if fit.residual == "log":
        curve, best, y = (np.log(np.maximum(v, 1e-12)) for v in (curve, best, y))
    # quartiles: a few wild draws must not explain every error away
    low, high = np.quantile(curve, [0.25, 0.75], axis=0)
    return best - y, ((high - low) / 1.349) ** 2 + fit.residual_sd**2


def _rows(columns: Mapping[str, Floats], keep: NDArray[np.bool_]) -> dict[str, Floats]:
    return {name: x[keep] for name, x in columns.items()}


def _scale(columns: Mapping[str, ArrayLike], by: tuple[str, ...]) -> Floats:
    """(n,) log of the product of columns."""
    missing = [name for name in by if name not in columns]
    if missing or not by:
        raise LawError(f"drift: no column {', '.join(missing) or 'named'} to measure scale by")
    return np.asarray(
        np.sum([np.log(np.asarray(columns[name], dtype=np.float64)) for name in by], axis=0)
    )
