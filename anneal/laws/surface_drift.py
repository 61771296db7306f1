"""Drift: how far a surface goes wrong beyond its data, learnt inside them.

Bootstrap intervals speak of noise alone. Published runs show what that is worth beyond the data
(analysis/backtest_size.py): of Chinchilla's runs above 1e21 FLOPs 9 / 35 / 70% lie inside their
50 / 80 / 95% intervals, with drift 17 / 52 / 91%; of the two largest budgets of 15 IsoFLOP setups
27 / 44 / 72%, with drift 39 / 76 / 99%. The shape of a law is wrong by a little everywhere, and
extrapolation multiplies it.

So the largest runs are held out several times: the law is fitted to the runs below an origin and
the errors at the runs above it, beyond what their intervals explain, are taken as

    error^2 = noise^2 + curve^2 + (sd * reach)^2,    reach = log(scale / origin)

with scale the product of the columns `by` (FLOPs as N D, tokens, ...). sd is the drift: relative
error of the law per e-fold of scale. A draw then carries one systematic error, sd * reach times a
Student t variable with as many degrees of freedom as there were origins.

Measured as it is on smaller extrapolations than it is used for, the drift assumes that errors grow
no faster than linearly in log scale.
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
) -> Drift:
    """Drift of a surface from rolling origins at quantiles `shares` of the runs' scale.

    Args:
        by: columns whose product is the scale along which the law will be used.
        shares: origins, as shares of the rows.
        draws: of the bootstrap (residuals of runs) that says what noise explains.
        cluster: (n,) labels of runs, as in `bootstrap_surface`.

    Raises:
        LawError: no origin leaves a table that carries the surface.
    """
    table = checked(surface, columns)
    y = np.asarray(score, dtype=np.float64)
    scale = _scale(columns, by)
    labels = np.arange(y.size) if cluster is None else np.asarray(cluster)
    excess, squares, used = 0.0, 0.0, 0
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
        reach = scale[late] - origin
        excess += float((error**2 - known).sum()) / late.sum()
        squares += float((reach**2).sum()) / late.sum()
        used += 1
    if used == 0:
        raise LawError(
            f"law `{surface.name}`: no part of the table carries it, drift cannot be measured",
            hint="add runs, or choose a law with fewer parameters",
        )
    sd = float(np.sqrt(max(excess, 0.0) / squares)) if squares > 0 else 0.0
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
