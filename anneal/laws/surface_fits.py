"""Fitting a surface to a table of runs.

A search that has found a lowest point has not shown that the table determines it. Three things are
reported: parameters on a bound, parameters that the data leave loose (their standard error is wider
than half of the range between the bounds), and the condition number of the normal matrix. A
matrix without full rank is the outcome `underdetermined`, with the parameters that trade off.

The objective is the sum of Huber's loss of the residuals (2203.15556, section 3.3: of log losses,
delta 1e-3). Its minimum does not depend on how large the noise is; only when to stop does, so a
first rough pass from all starts measures the noise and two further ones settle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anneal.errors import LawError
from anneal.laws.engine import Minima, huber
from anneal.laws.points import Floats
from anneal.laws.surface_search import Residual, residuals, screened, solve, starting_points
from anneal.laws.surfaces import Columns, Parameter, Surface, checked, widths

Outcome = Literal["ok", "not converged", "underdetermined", "constant"]

SINGULAR = 1e12
"""Condition number of the scaled normal matrix above which double precision cannot tell it from
one without full rank (assumed; its own rounding is about 1e16)."""
HOPELESS = 50.0
"""Nats by which a local optimum must be worse than the best to be forgotten (assumed)."""


@dataclass(frozen=True, eq=False)
class SurfaceFit:
    """A surface with its parameters, and how the search went.

    Args:
        surface: what was fitted.
        theta: (p,) free numbers; empty when the outcome is `underdetermined` or `constant`.
        parameters: values by name, in the units of the surface's parameters; empty likewise.
        outcome, message: what came of it; the message is empty when all is well.
        value: summed Huber loss (without priors), in squared residuals.
        agreeing, starts: starts that came within 1% noise information of the best, of how many.
        optima: (k, p) distinct lowest points, the best first (at most 8, none hopeless).
        on_bounds, loose: names of parameters on a bound, and of those the data leave open.
        condition: condition number of the scaled normal matrix.
        residual_sd: SD of the residuals over the degrees of freedom (relative where `log`).
        degrees: rows minus parameters that are not on a bound.
        residuals: (n,) predicted minus measured, of logarithms where `log`.
        support: tracked input -> smallest and largest value, each (1,) or (m,).
        residual, delta: which residuals, and Huber's delta for them.
    """

    surface: Surface
    theta: Floats
    parameters: dict[str, float]
    outcome: Outcome
    message: str = ""
    value: float = np.inf
    agreeing: int = 0
    starts: int = 0
    optima: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    on_bounds: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    condition: float = 0.0
    residual_sd: float = 0.0
    degrees: float = 0.0
    residuals: Floats = field(default_factory=lambda: np.zeros(0))
    support: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)
    residual: Residual = "log"
    delta: float = 1e-3

    @property
    def usable(self) -> bool:
        """Whether there are parameters to predict with."""
        return self.theta.size > 0

    def curve(self, columns: Columns) -> Floats:
        """(n,) scores without run-to-run noise.

        Raises:
            LawError: a fit without parameters, or columns that the surface cannot read.
        """
        if not self.usable:
            raise LawError(f"law `{self.surface.name}` cannot predict: {self.message}")
        score, _ = self.surface.evaluate(self.theta[None, :], checked(self.surface, columns))
        return np.asarray(score[0])


def fit_surface(
    surface: Surface,
    columns: Mapping[str, ArrayLike],
    score: ArrayLike,
    *,
    rng: np.random.Generator,
    starts: int = 64,
    weights: ArrayLike | None = None,
    delta: float = 1e-3,
    residual: Residual = "log",
) -> SurfaceFit:
    """Fit a surface to a table of n rows.

    Args:
        surface: the law.
        columns: its inputs, (n,) or (n, m) each; others are ignored.
        score: (n,) measured scores, above zero where `residual` is `log`.
        rng: draws the starts.
        starts: half of them are the best of `SCREEN` times as many random points, half random.
        weights: (n,) weights of the rows, 1 where None.
        delta: Huber's delta, in units of the residual.
        residual: `log` for losses; `plain` for scores that may be zero, such as accuracies.

    Raises:
        LawError: a column that is missing, not finite or not positive; unequal lengths; a score
            that is not finite, or not positive under `log`.
    """
    table = checked(surface, columns)
    measured = _checked_score(surface, table, score, residual)
    parameters = surface.parameters(widths(table))
    heavy = np.ones(measured.size) if weights is None else np.asarray(weights, dtype=np.float64)
    support = _support(surface, table)
    refusal = _refusal(surface, table, measured, len(parameters), heavy)
    if refusal is not None:
        return SurfaceFit(
            surface, np.zeros(0), {}, *refusal, support=support, residual=residual, delta=delta
        )
    goal = np.log(measured) if residual == "log" else measured
    theta = starting_points(surface, table, measured, starts, rng)
    theta = screened(surface, table, theta, goal, heavy, residual=residual, delta=delta)
    noise = max(0.05 * float(np.std(goal)), 1e-8)
    for tolerance in (1e-3, 1e-6, 1e-7):  # the first pass learns how large the noise is
        found = solve(
            surface,
            table,
            theta,
            goal[None, :],
            weights=heavy,
            noise=noise,
            delta=delta,
            residual=residual,
            tolerance=tolerance,
        )
        theta = found.theta
        best = theta[int(np.argmin(found.value))]
        off = residuals(surface, table, best[None, :], goal[None, :], residual)[0]
        degrees = max(float((heavy > 0).sum()) - len(parameters), 1.0)
        noise = max(float(np.sqrt((heavy * off**2).sum() / degrees)), 1e-8)
    return _report(
        surface, table, goal, found, heavy=heavy, support=support, residual=residual, delta=delta
    )


def _checked_score(
    surface: Surface, columns: Columns, score: ArrayLike, residual: Residual
) -> Floats:
    measured = np.asarray(score, dtype=np.float64)
    rows = next(iter(columns.values())).shape[0]
    if measured.shape != (rows,):
        raise LawError(f"law `{surface.name}`: {rows} rows of columns, scores {measured.shape}")
    bad = ~np.isfinite(measured) | ((measured <= 0) if residual == "log" else False)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise LawError(
            f"law `{surface.name}`, row {row}: score must be "
            f"{'a positive' if residual == 'log' else 'a finite'} number, got {measured[row]}",
            hint="leave failed runs out of the table",
        )
    return measured


def _refusal(
    surface: Surface, columns: Columns, score: Floats, size: int, weights: Floats
) -> tuple[Outcome, str] | None:
    """Why a table cannot carry a surface, if it cannot."""
    rows = np.column_stack([columns[c.name] for c in surface.inputs])[weights > 0]
    cells = np.unique(rows, axis=0).shape[0]
    if cells < size + 1:
        return (
            "underdetermined",
            f"{cells} distinct rows cannot carry {size} parameters and say how sure they are",
        )
    reason = surface.refuse(columns)
    if reason:
        return "underdetermined", reason
    if np.ptp(score) <= 1e-9 * float(np.abs(score).max()):
        return "constant", f"all {score.size} scores are {score[0]:.6g}"
    return None


def _support(surface: Surface, columns: Columns) -> dict[str, tuple[Floats, Floats]]:
    return {
        c.name: (
            np.atleast_1d(columns[c.name].min(axis=0)),
            np.atleast_1d(columns[c.name].max(axis=0)),
        )
        for c in surface.inputs
        if c.tracked
    }


def _report(
    surface: Surface,
    columns: Columns,
    goal: Floats,
    found: Minima,
    *,
    heavy: Floats,
    support: dict[str, tuple[Floats, Floats]],
    residual: Residual,
    delta: float,
) -> SurfaceFit:
    """Read the best of the minima: its errors, its rank, its bounds."""
    parameters = surface.parameters(widths(columns))
    names = np.array([p.name for p in parameters])
    order = np.argsort(found.value, kind="stable")
    theta, value = found.theta[order[0]], float(found.value[order[0]])
    score, slope = surface.evaluate(theta[None, :], columns)
    jacobian = slope[0] / (np.maximum(score[0], 1e-12)[:, None] if residual == "log" else 1.0)
    off = residuals(surface, columns, theta[None, :], goal[None, :], residual)[0]
    ends = np.array([p.ends for p in parameters])
    edge = 1e-6 * (ends[:, 1] - ends[:, 0])
    bound = (theta <= ends[:, 0] + edge) | (theta >= ends[:, 1] - edge)
    degrees = max(float((heavy > 0).sum()) - float((~bound).sum()), 1.0)
    sd = float(np.sqrt((heavy * off**2).sum() / degrees))
    condition, tied, errors = _rank(jacobian[:, ~bound], heavy, sd, parameters, ~bound)
    if tied:
        message = f"{', '.join(tied)} trade off against each other: the columns do not part them"
        return SurfaceFit(
            *(surface, np.zeros(0), {}, "underdetermined", message),
            condition=condition,
            support=support,
            residual=residual,
            delta=delta,
        )
    loose = errors > 0.5 * (ends[:, 1] - ends[:, 0])[~bound]
    settled = bool(found.converged[order[0]])
    return SurfaceFit(
        surface=surface,
        theta=theta,
        parameters={
            str(n): float(v)
            for n, v in zip(names, surface.values(theta[None, :], columns)[0], strict=True)
        },
        outcome="ok" if settled else "not converged",
        message="" if settled else "the best start had not settled when the iterations ran out",
        value=float((huber(off, delta) * heavy).sum()),
        agreeing=int((found.value <= value + 0.01 * (1.0 + abs(value))).sum()),
        starts=found.value.size,
        optima=_distinct(found, order),
        on_bounds=tuple(str(n) for n in names[bound]),
        loose=tuple(str(n) for n in names[~bound][loose]),
        condition=condition,
        residual_sd=sd,
        degrees=degrees,
        residuals=off,
        support=support,
        residual=residual,
        delta=delta,
    )


def _distinct(found: Minima, order: NDArray[np.intp]) -> Floats:
    """(k, p) lowest points whose objectives differ by more than the search's own tolerance.

    One that is `HOPELESS` nats above the best will not be the best of a resampled table either.
    """
    kept: list[int] = []
    for row in order:
        value = found.value[row]
        if value > found.value[order[0]] + HOPELESS:
            break
        if np.isfinite(value) and (not kept or value > found.value[kept[-1]] + 0.01):
            kept.append(int(row))
        if len(kept) == 8:
            break
    return found.theta[kept]


def _rank(
    jacobian: Floats,
    weights: Floats,
    noise: float,
    parameters: tuple[Parameter, ...],
    free: NDArray[np.bool_],
) -> tuple[float, tuple[str, ...], Floats]:
    """Condition number, names that trade off, standard errors of the free numbers off bounds."""
    own = [p for p, f in zip(parameters, free, strict=True) if f]
    known = np.array([p.prior[1] ** -2 if p.prior else 0.0 for p in own])
    normal = (jacobian.T * weights) @ jacobian + np.diag(known) * max(noise, 1e-8) ** 2
    size = np.sqrt(np.diag(normal))
    alive = size > 1e-9 * (size.max() if size.size else 1.0)
    errors = np.full(size.size, np.inf)
    if not alive.any():
        return np.inf, tuple(p.name for p in own), errors
    part = (normal / np.outer(size, size).clip(1e-300))[np.ix_(alive, alive)]
    values, vectors = np.linalg.eigh(part)
    condition = float(values[-1] / max(values[0], 1e-300))
    if condition > SINGULAR:
        tied = np.flatnonzero(alive)[np.abs(vectors[:, 0]) > 0.2]
        return condition, tuple(own[int(i)].name for i in tied), errors
    errors[alive] = noise * np.sqrt(np.diag(np.linalg.inv(part))) / size[alive]
    return condition, (), errors
