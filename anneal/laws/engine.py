"""Many small robust fits at once: starts and bootstrap draws are rows of one batch.

A law has tens of rows and parameters, so one fit is microseconds of arithmetic and milliseconds of
Python. Here B fits go through Levenberg-Marquardt together: one evaluation, one stack of normal
matrices (B, p, p), one batched solve an iteration; rows that have converged leave the batch.

The objective of row b is

    F_b(theta) = c sum_k w_bk huber_delta(log L_k(theta) - log y_bk)
                 + 1/2 (theta - t_b)' Q (theta - t_b)

with Huber's loss on log residuals (delta 1e-3, summed, not averaged: METHODS 4.13 tells what the
mean did to Hoffmann et al.), handled as reweighted least squares with weights min(1, delta/|r|).
These majorise the loss, which is safe and slow: beyond delta the loss has no curvature at all. So
the curvature there (`bend`) is lowered while steps succeed and raised when they fail; only steps
that lower F are accepted. Bounds are kept by freezing parameters that push outwards and clipping
the step.

`race` fits many tables from many starts each. Most starts of a table end in the same minimum, so
they are not all followed to it: all take a few steps, then only the best few go on (successive
halving, 1502.07943), and the last of them until they settle. Nothing is gained by eliminating
parameters within a step: under a loss of *log* residuals no parameter of a law with a floor enters
linearly. Where scores are linear in some parameters once the others are given, these are
eliminated in closed form to improve the starts instead (`search.projected`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from anneal.laws.points import Floats, Ints

Model = Callable[[Floats], tuple[Floats, Floats]]
"""theta (B, p) -> scores (B, n), derivatives (B, n, p)."""

TINY_SCORE = 1e-12
ROUNDS = ((4, 12), (8, 4))
"""Of a race: (iterations, starts kept after them), before the last ones run until they settle."""
ENTRIES = 2**19
"""Derivatives that `race` lets `minimise` hold at a time (4 MiB of them, of some ten such arrays);
batches a quarter to four times as large take as long within a tenth (measured)."""


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


@dataclass(frozen=True, eq=False)
class Winners:
    """What B races of S starts each came to.

    Args:
        theta, value, converged: as in `Minima`, of the best start of each race.
        agreeing: (B,) starts that came within 1% of the winner's 1 + |F|, of those that finished.
        finished: how many starts of each race were followed to the end.
    """

    theta: Floats
    value: Floats
    converged: NDArray[np.bool_]
    agreeing: Ints
    finished: int


def huber(residual: Floats, delta: float | Floats) -> Floats:
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
    delta: float | Floats,
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
        weights: (n,) weights w of the points, or (B, n) where the tables differ in them.
        information: c, what a unit of Huber loss is worth against the prior.
        delta: of Huber's loss; (n,) where points of unequal noise have their own.
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
        size = np.abs(residual)
        pull = information * weights[active] * np.minimum(1.0, delta / np.maximum(size, 1e-300))
        curved = slope * (pull * np.where(size > delta, bend[active, None], 1.0))[:, :, None]
        normal = np.matmul(curved.transpose(0, 2, 1), slope) + precision
        gradient = np.matmul((pull * residual)[:, None, :], slope)[:, 0, :]
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


def race(
    model: Model,
    theta: Floats,
    log_score: Floats,
    *,
    weights: Floats,
    information: float,
    delta: float | Floats,
    centre: Floats,
    precision: Floats,
    low: Floats,
    high: Floats,
    tolerance: float = 1e-5,
    rounds: Sequence[tuple[int, int]] = ROUNDS,
    improve: Callable[[Floats, Floats], Floats] | None = None,
) -> Winners:
    """The lowest F that each of B tables reaches from its S starts.

    Args:
        theta: (S, p) starts that the tables share, or (B, S, p).
        log_score: (B, n) logarithms of the scores.
        weights: (n,) or (B, n).
        centre: (1, p) or (B, p).
        rounds: (iterations, starts kept) of each round; empty follows every start to its end.
        improve: (rows, p) starts and the (rows, n) log scores of their tables -> better starts.

    The other arguments are those of `minimise`.
    """
    count, starts = log_score.shape[0], theta.shape[-2]
    theta = np.broadcast_to(theta, (count, starts, theta.shape[-1]))
    weights = np.broadcast_to(weights, log_score.shape)
    centre = np.broadcast_to(centre, (count, theta.shape[-1]))
    several = max(1, ENTRIES // (starts * log_score.shape[1] * theta.shape[-1]))
    parts = []
    for first in range(0, count, several):
        here = slice(first, first + several)
        parts.append(
            _heat(
                partial(
                    minimise,
                    model,
                    information=information,
                    delta=delta,
                    precision=precision,
                    low=low,
                    high=high,
                    tolerance=tolerance,
                ),
                theta[here],
                log_score[here],
                weights=weights[here],
                centre=centre[here],
                rounds=[(n, k) for n, k in rounds if k < starts],
                improve=improve,
            )
        )
    return Winners(
        theta=np.concatenate([p.theta for p in parts]),
        value=np.concatenate([p.value for p in parts]),
        converged=np.concatenate([p.converged for p in parts]),
        agreeing=np.concatenate([p.agreeing for p in parts]),
        finished=parts[0].finished,
    )


def _heat(
    search: Callable[..., Minima],
    theta: Floats,
    log_score: Floats,
    *,
    weights: Floats,
    centre: Floats,
    rounds: Sequence[tuple[int, int]],
    improve: Callable[[Floats, Floats], Floats] | None,
) -> Winners:
    """One batch of a race."""
    count = log_score.shape[0]
    table = np.arange(count)

    def run(theta: Floats, **limits: int) -> Minima:
        rows = np.repeat(table, theta.shape[1])
        flat = theta.reshape(rows.size, theta.shape[2])
        return search(flat, log_score[rows], weights=weights[rows], centre=centre[rows], **limits)

    if improve is not None:
        rows = np.repeat(table, theta.shape[1])
        theta = improve(theta.reshape(rows.size, -1), log_score[rows]).reshape(theta.shape)
    for iterations, kept in rounds:
        found = run(theta, iterations=iterations)
        value = found.value.reshape(count, -1)
        best = np.argpartition(value, kept - 1, axis=1)[:, :kept]
        theta = found.theta.reshape(*value.shape, -1)[table[:, None], best]
    found = run(theta)
    value = found.value.reshape(count, -1)
    first = value.argmin(axis=1)
    lowest = value[table, first]
    near = value <= (lowest + 0.01 * (1.0 + np.abs(lowest)))[:, None]
    return Winners(
        theta=found.theta.reshape(*value.shape, -1)[table, first],
        value=lowest,
        converged=found.converged.reshape(value.shape)[table, first],
        agreeing=near.sum(axis=1),
        finished=value.shape[1],
    )


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
