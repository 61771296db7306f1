"""From a form and a table to the engine's arrays: a `Task`, its searches, and better starts.

Noise that depends on the budget is taken out of the residuals, not put on the loss: a run that is
twice as noisy has its residual halved, which is a weight of 1/4 and a delta twice as large. (A
weight of 1/4 alone would be right for least squares and wrong beyond delta, where Huber's loss
grows with |r|, not with its square.)

`projected` improves the starts of `power` curves by variable projection. Once exponents and R* are
given, scores are linear in what is left: the floor, A_i, the penalty. Their least squares of
*relative* residuals, which are log residuals to first order, is a small linear system for each row,
solved in closed form; the law itself is then fitted with the true objective, since no parameter is
linear under logs. With several groups the floor is left out: one start's exponent does not suit all
groups, and the floor would be dragged to an end to make up for it. Measured: of 400 starts of one
source, 20 instead of 45 had not settled after 20 iterations; of 200 starts of five, 64 instead of
76, and the slowest took under 80 instead of over 160. `shifted_power` has no such scale, and
solving for its floor alone made its starts worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anneal.laws.engine import Minima, Winners, minimise, race
from anneal.laws.forms import (
    EXPONENT_SCATTER,
    EXPONENT_SD,
    Form,
    Frame,
    Prior,
    evaluate,
    layout,
    prior,
)
from anneal.laws.noise import NoiseShape
from anneal.laws.points import Floats, Points

ROUNDS = ((3, 16), (6, 6))
"""Of races from projected starts. Measured on 6000 tables as in `analysis/bench_laws.py`, 64 starts
each: none ends more than 1e-7 above what following every start gives; with ((3, 8), (6, 3)) two end
up to 6e-4 above."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What a fit takes for granted about groups and noise."""

    scatter: float = EXPONENT_SCATTER
    """SD of the groups' log exponents about the common one."""
    pool: bool = False
    """Whether a group with too few budgets for a curve of its own borrows the family's exponent."""
    shape: NoiseShape | None = None
    """How the noise depends on the budget; the same everywhere where None."""


USUAL = Assumed()


@dataclass(frozen=True, eq=False)
class Task:
    """A form, a table and an objective; what is left to give are starts, and scores of draws.

    Args:
        weights: (n,) weights of Huber's loss.
        delta: (n,) of Huber's loss.
        information: what a unit of loss is worth against the prior.
    """

    form: Form
    frame: Frame
    points: Points
    prior: Prior
    weights: Floats
    delta: Floats
    information: float

    @staticmethod
    def of(
        form: Form,
        frame: Frame,
        points: Points,
        assumed: Assumed,
        *,
        noise: float,
        weights: Floats | None,
        delta: float,
    ) -> Task:
        """The task of fitting `form` where a run's relative noise SD is `noise` at the reference.

        A residual beyond delta pulls with constant force, like a Laplace likelihood; 1.2533 noise
        is the scale at which it carries the information of Gaussian noise of this SD (its
        estimator's variance is pi/2 that of least squares). Below delta the loss is least squares.
        """
        scale = spread_of(assumed, points)
        heavy = np.ones(points.score.size) if weights is None else weights
        return Task(
            form=form,
            frame=frame,
            points=points,
            prior=prior_of(form, frame, assumed),
            weights=heavy / scale**2,
            delta=delta * scale,
            information=1.0 / (noise * min(noise, 1.2533 * delta)),
        )


def prior_of(form: Form, frame: Frame, assumed: Assumed) -> Prior:
    """The forms' prior with the scatter of exponents that is assumed."""
    usual = prior(form, frame)
    own = np.unique(layout(form, frame.labels).exponent)
    if assumed.scatter == EXPONENT_SCATTER or not form.falls or own.size < 2:
        return usual
    precision = usual.precision.copy()
    covariance = np.full((own.size, own.size), EXPONENT_SD**2)
    precision[np.ix_(own, own)] = np.linalg.inv(covariance + assumed.scatter**2 * np.eye(own.size))
    return Prior(usual.centre, precision, usual.low, usual.high)


def spread_of(assumed: Assumed, points: Points) -> Floats:
    """(n,) relative noise of the rows, in units of that at the reference."""
    if assumed.shape is None:
        return np.ones(points.score.size)
    return assumed.shape.at(points.tokens)


def search(task: Task, theta: Floats, *, tolerance: float = 1e-5, iterations: int = 300) -> Minima:
    """Run the engine on the table itself, from (B, p) starts."""
    return minimise(
        lambda t: evaluate(task.form, task.frame, t, at=task.points),
        theta,
        np.log(task.points.score)[None, :],
        weights=task.weights,
        information=task.information,
        delta=task.delta,
        centre=task.prior.centre[None, :],
        precision=task.prior.precision,
        low=task.prior.low,
        high=task.prior.high,
        tolerance=tolerance,
        iterations=iterations,
    )


def search_draws(
    task: Task,
    theta: Floats,
    log_score: Floats,
    *,
    centre: Floats,
    counts: Floats | None = None,
    tolerance: float = 1e-4,
) -> Winners:
    """The best of S starts for each of B tables in the task's places.

    Args:
        theta: (S, p) starts, or (B, S, p).
        log_score: (B, n).
        centre: (B, p) prior centres, or (1, p).
        counts: (B, n) how often each row is in each table; once where None.
    """
    weights = task.weights if counts is None else task.weights * counts
    return race(
        lambda t: evaluate(task.form, task.frame, t, at=task.points),
        theta,
        log_score,
        weights=weights,
        information=task.information,
        delta=task.delta,
        centre=centre,
        precision=task.prior.precision,
        low=task.prior.low,
        high=task.prior.high,
        tolerance=tolerance,
        rounds=ROUNDS,
        improve=lambda t, y: projected(task, t, y),
    )


def projected(task: Task, theta: Floats, log_score: Floats) -> Floats:
    """(B, p) starts with their linear parameters solved for, where that is closer to the scores.

    Args:
        theta: (B, p) starts.
        log_score: (B, n) of their tables, or (1, n).
    """
    if task.form.curve != "power":
        return theta
    moved = np.clip(_eliminated(task, theta, log_score), task.prior.low, task.prior.high)
    closer = _misfit(task, moved, log_score) < _misfit(task, theta, log_score)
    return np.where(closer[:, None], moved, theta)


def _misfit(task: Task, theta: Floats, log_score: Floats) -> Floats:
    score, _ = evaluate(task.form, task.frame, theta, at=task.points)
    size = np.abs(np.log(np.maximum(score, 1e-300)) - log_score)
    total = (np.minimum(size, task.delta) * size * task.weights).sum(axis=1)
    return np.where(np.isfinite(total), total, np.inf)


def _eliminated(task: Task, theta: Floats, log_score: Floats) -> Floats:
    """(B, p) with floor, A_i and penalty at the weighted least squares of relative residuals.

    The derivative by a logarithm is the term itself, so `evaluate` gives the linear basis: the
    unknowns are factors on the floor and on each A_i, and the penalty.
    """
    form, where = task.form, layout(task.form, task.frame.labels)
    score, slope = evaluate(form, task.frame, theta, at=task.points)
    share = 1.0 / (1.0 + np.exp(-theta[:, where.floor]))
    with_floor = len(task.frame.labels) == 1 and not form.floorless
    terms = [slope[:, :, [where.floor]] / (1.0 - share)[:, None, None]] if with_floor else []
    terms.append(slope[:, :, where.scale])
    rest = score - np.concatenate(terms, axis=2).sum(axis=2)
    if form.repeats == "overfit":
        terms.append(slope[:, :, [where.repeats]])
        rest = rest - theta[:, [where.repeats]] * slope[:, :, where.repeats]
    basis = np.concatenate(terms, axis=2) * np.exp(-log_score)[:, :, None]
    wanted = 1.0 - rest * np.exp(-log_score)
    heavy = basis * task.weights[None, :, None]
    normal = np.matmul(heavy.transpose(0, 2, 1), basis)
    index = np.arange(normal.shape[1])
    normal[:, index, index] = normal[:, index, index] * (1.0 + 1e-9) + 1e-300
    right = np.matmul(heavy.transpose(0, 2, 1), wanted[:, :, None])
    if not np.isfinite(normal).all():
        return theta
    solved = np.linalg.solve(normal, right)[:, :, 0]
    out, at = theta.copy(), int(with_floor)
    if with_floor:
        part = np.clip(share * solved[:, 0], 0.02, 0.98)
        out[:, where.floor] = np.log(part / (1.0 - part))
    factor = np.maximum(solved[:, at : at + where.scale.size], 0.05)
    out[:, where.scale] = out[:, where.scale] + np.log(factor)
    if form.repeats == "overfit":
        out[:, where.repeats] = solved[:, -1]
    return out
