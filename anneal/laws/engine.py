"""Many small robust fits at once: starts and bootstrap draws are rows of one batch.

A law has tens of rows and parameters, so one fit is microseconds of arithmetic and milliseconds of
Python. Here B fits go through Levenberg-Marquardt together: one evaluation, one stack of normal
matrices (B, p, p), one batched solve an iteration; rows that have converged leave the batch.

The objective of row b is

    F_b(theta) = c sum_k w_k huber_delta(log L_k(theta) - log y_bk)
                 + 1/2 (theta - t_b)' Q (theta - t_b)

with Huber's loss on log residuals (delta 1e-3, summed, not averaged: METHODS 4.13 tells what the
mean did to Hoffmann et al.), handled as reweighted least squares with weights min(1, delta/|r|).
These majorise the loss, which is safe and slow: beyond delta the loss has no curvature at all. So
the curvature there (`bend`) is lowered while steps succeed and raised when they fail; only steps
that lower F are accepted. Bounds are kept by freezing parameters that push outwards and clipping
the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anneal.laws.points import Floats

Model = Callable[[Floats], tuple[Floats, Floats]]
"""theta (B, p) -> scores (B, n), derivatives (B, n, p)."""

TINY_SCORE = 1e-12


@dataclass(frozen=True, eq=False)
class Minima:
    """What B fits came to.

    Args:
        theta: (B, p) free parameters.
        value: (B,) objective.
        converged: (B,) whether the step or its gain became negligible before `iterations`.
    """

    theta: Floats
    value: Floats
    converged: NDArray[np.bool_]


def huber(residual: Floats, delta: float) -> Floats:
    """Huber's loss: r^2/2 up to delta, delta (|r| - delta/2) beyond. Unit: squared residual."""
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))


def minimise(
    model: Model,
    theta: Floats,
    log_score: Floats,
    *,
    weights: Floats,
    information: float,
    delta: float,
    centre: Floats,
    precision: Floats,
    low: Floats,
    high: Floats,
    iterations: int = 300,
    tolerance: float = 1e-5,
    plain: bool = False,
) -> Minima:
    """Minimise F from every row of `theta`.

    Args:
        theta: (B, p) starts.
        log_score: (B, n) or (1, n) logarithms of the scores.
        weights: (n,) weights w, or (B, n): a row of weights for each fit (a bootstrap of rows).
        information: c, what a unit of Huber loss is worth against the prior.
        centre: (B, p) or (1, p) prior centres t.
        precision: (p, p) prior precision Q.
        low, high: (p,) bounds.
        tolerance: gain of F, in nats of log likelihood, below which three accepted steps in a row
            mean that a row has converged.
        plain: residuals are model minus `log_score` as they are, without logarithms (accuracies).
    """
    count = theta.shape[0]
    log_score = np.broadcast_to(log_score, (count, log_score.shape[1]))
    weights = np.broadcast_to(weights, log_score.shape)
    centre = np.broadcast_to(centre, theta.shape)
    best = np.clip(theta, low, high)
    value = np.full(count, np.inf)
    converged = np.zeros(count, dtype=bool)
    damping = np.full(count, 1e-2)
    bend = np.ones(count)
    calm = np.zeros(count, dtype=np.int64)
    active = np.arange(count)

    def objective(candidate: Floats, rows: NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
        residual, slope = _residuals(*model(candidate), log_score[rows], plain=plain)
        loss = information * (huber(residual, delta) * weights[rows]).sum(axis=1)
        away = candidate - centre[rows]
        total = loss + 0.5 * ((away @ precision) * away).sum(axis=1)
        return np.where(np.isfinite(total), total, np.inf), residual, slope

    value, residual, slope = objective(best, active)
    for _ in range(iterations):
        x = best[active]
        heavy = (
            information
            * weights[active]
            * np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300))
        )
        outside = np.abs(residual) > delta
        curved = slope * (heavy * np.where(outside, bend[active, None], 1.0))[:, :, None]
        normal = np.matmul(curved.transpose(0, 2, 1), slope) + precision
        gradient = np.matmul(slope.transpose(0, 2, 1), (heavy * residual)[:, :, None])[:, :, 0]
        gradient = gradient + (x - centre[active]) @ precision
        step = _step(normal, gradient, x, damping[active], low=low, high=high)
        trial = np.clip(x - step, low, high)
        new_value, new_residual, new_slope = objective(trial, active)
        gain = value[active] - new_value
        better = gain >= 0
        small = np.abs(gain) <= tolerance
        still = np.abs(trial - x).max(axis=1) <= 1e-9
        damping[active] = np.where(better, damping[active] * 0.2, damping[active] * 5.0)
        damping[active] = np.clip(damping[active], 1e-9, 1e12)
        bend[active] = np.where(better, bend[active] * 0.7, np.minimum(bend[active] * 2.0, 1.0))
        bend[active] = np.maximum(bend[active], 0.03)
        # a refused step says nothing about how much is left to gain
        calm[active] = np.where(better, np.where(small, calm[active] + 1, 0), calm[active])
        stuck = damping[active] >= 1e11
        value[active] = np.where(better, new_value, value[active])
        best[active] = np.where(better[:, None], trial, x)
        done = (calm[active] >= 3) | still | stuck
        converged[active[done]] = np.isfinite(value[active[done]])
        keep = ~done
        residual = np.where(better[:, None], new_residual, residual)[keep]
        slope = np.where(better[:, None, None], new_slope, slope)[keep]
        active = active[keep]
        if active.size == 0:
            break
    return Minima(best, value, converged)


def _residuals(score: Floats, slope: Floats, goal: Floats, *, plain: bool) -> tuple[Floats, Floats]:
    """(B, n) residuals and their derivatives (B, n, p), of logarithms unless `plain`."""
    if plain:
        return score - goal, slope
    score = np.maximum(score, TINY_SCORE)
    return np.log(score) - goal, slope / score[:, :, None]


def _step(
    normal: Floats,
    gradient: Floats,
    x: Floats,
    damping: Floats,
    *,
    low: Floats,
    high: Floats,
) -> Floats:
    """(B, p) damped Gauss-Newton steps among the parameters that do not push against a bound."""
    size = x.shape[1]
    held = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
    free = ~held
    matrix = normal * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("bii->bi", matrix)
    index = np.arange(size)
    matrix[:, index, index] = np.where(held, 1.0, diagonal * (1.0 + damping[:, None]) + 1e-12)
    solved = np.linalg.solve(matrix, (gradient * free)[:, :, None])
    return np.asarray(solved[:, :, 0])
