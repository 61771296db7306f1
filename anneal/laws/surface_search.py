"""The search behind a surface's fit: spread starts, screened, then solved in batches.

A law's parameters lie in ranges of many powers of ten and most random points are far from any
table. So many more points are tried than are searched from, and half of the starts are the best of
them; the other half stays random, so that agreement between starts means something.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from anneal.laws.engine import Minima, huber, minimise
from anneal.laws.points import Floats
from anneal.laws.surfaces import Columns, Surface, widths

Residual = Literal["log", "plain"]
"""Of logarithms (losses), or as they are (scores that may be zero)."""
SCREEN = 16
"""Random points tried for each start that the engine is given."""
CHUNK = 400000
"""Numbers in one batch of derivatives (B n p): larger batches fall out of the processor's cache."""


def solve(
    surface: Surface,
    columns: Columns,
    theta: Floats,
    goal: Floats,
    *,
    weights: Floats,
    noise: float,
    delta: float,
    residual: Residual,
    tolerance: float = 1e-6,
    centre: Floats | None = None,
) -> Minima:
    """Run the engine from (B, p) starts, a few hundred rows at a time.

    Args:
        goal: (1, n) or (B, n) scores, as logarithms where `residual` is `log`.
        weights: (n,) or (B, n).
        noise: residual SD, which says how much a gain in the objective is worth.
        centre: (B, p) centres of the priors, the parameters' own where None.
    """
    parameters = surface.parameters(widths(columns))
    ends = np.array([p.ends for p in parameters])
    priors = [(float(p.free(p.prior[0])), p.prior[1]) if p.prior else None for p in parameters]
    if centre is None:
        centre = np.array([[prior[0] if prior else 0.0 for prior in priors]])
    precision = np.diag([prior[1] ** -2 if prior else 0.0 for prior in priors])
    rows = max(8, CHUNK // (goal.shape[1] * len(parameters)))
    parts = []
    for first in range(0, theta.shape[0], rows):
        part = slice(first, first + rows)
        parts.append(
            minimise(
                lambda t: surface.evaluate(t, columns),
                theta[part],
                goal if goal.shape[0] == 1 else goal[part],
                weights=weights if weights.ndim == 1 else weights[part],
                information=1.0 / (noise * min(noise, 1.2533 * delta)),
                delta=delta,
                centre=centre if centre.shape[0] == 1 else centre[part],
                precision=precision,
                low=ends[:, 0],
                high=ends[:, 1],
                tolerance=tolerance,
                plain=residual == "plain",
            )
        )
    return Minima(
        np.concatenate([m.theta for m in parts]),
        np.concatenate([m.value for m in parts]),
        np.concatenate([m.converged for m in parts]),
    )


def starting_points(
    surface: Surface, columns: Columns, score: Floats, count: int, rng: np.random.Generator
) -> Floats:
    """(SCREEN * count, p) spread free numbers: Latin strata in each starting range."""
    parameters = surface.parameters(widths(columns))
    size = (len(parameters), SCREEN * count)
    strata = (np.argsort(rng.random(size), axis=1) + rng.random(size)) / size[1]
    ranges = np.array([p.free(np.array(p.start)) for p in parameters])
    theta = (ranges[:, :1] + (ranges[:, 1:] - ranges[:, :1]) * strata).T
    if surface.place is not None:
        theta = surface.free(surface.place(surface.values(theta, columns), columns, score), columns)
    ends = np.array([p.ends for p in parameters])
    return np.asarray(np.clip(theta, ends[:, 0], ends[:, 1]))


def residuals(
    surface: Surface, columns: Columns, theta: Floats, goal: Floats, residual: Residual
) -> Floats:
    """(B, n) predicted minus measured."""
    score, _ = surface.evaluate(theta, columns)
    return (np.log(np.maximum(score, 1e-12)) if residual == "log" else score) - goal


def screened(
    surface: Surface,
    columns: Columns,
    theta: Floats,
    goal: Floats,
    weights: Floats,
    *,
    residual: Residual,
    delta: float,
) -> Floats:
    """The starts: half of them the best of `theta`, half its first others."""
    keep = theta.shape[0] // SCREEN
    loss = np.empty(theta.shape[0])
    rows = max(8, CHUNK // (goal.size * theta.shape[1]))
    for first in range(0, loss.size, rows):
        off = residuals(surface, columns, theta[first : first + rows], goal[None, :], residual)
        loss[first : first + rows] = (huber(off, delta) * weights).sum(axis=1)
    order = np.argsort(np.where(np.isfinite(loss), loss, np.inf), kind="stable")
    best = order[: (keep + 1) // 2]
    others = np.setdiff1d(np.arange(loss.size), best)[: keep - best.size]
    return np.concatenate([theta[best], theta[others]])
