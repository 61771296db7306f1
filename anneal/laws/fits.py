"""Fitting one form to one table, and predicting from it.

`fit` runs the engine from many starts and keeps the lowest objective. It never guesses: a table
that cannot carry the form is an outcome with a name (`underdetermined`, `constant`), and a search
that did not settle says `not converged`; `throw=True` turns these into errors.

A source with too few budgets for a curve of its own makes the whole table underdetermined, unless
the fit may pool (`Assumed.pool`): then its exponent is what the other sources' say, as far as its
own runs do not contradict, and the fit names it in `pooled`.

The Huber loss needs to know how much a residual weighs against the weak priors, so the relative
noise is estimated: from the residuals of a first pass, over the degrees of freedom that the
*effective* number of parameters leaves, tr[(H + Q)^-1 H], where a parameter that only its prior
knows counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from anneal.errors import LawError
from anneal.laws.engine import Minima
from anneal.laws.forms import (
    FORMS,
    Form,
    Frame,
    Where,
    evaluate,
    layout,
    named,
    starting_points,
)
from anneal.laws.noise import indistinct
from anneal.laws.points import Floats, Points
from anneal.laws.search import USUAL, Assumed, Task, projected, search
from anneal.laws.support import Outcome, Support, lent, refusal, support

DELTA = 1e-3
"""Huber's delta on log residuals (Hoffmann 2203.15556; METHODS 6.3)."""
SMALLEST_NOISE = 1e-5
"""Relative; keeps noise-free tables finite."""
ASSUMED_NOISE = 0.005
"""Relative seed SD before anything is known (METHODS 6.10: up to 3.5%)."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A form with its parameters, and how the search went.

    Args:
        form, frame: what was fitted, and its units.
        theta: (p,) free parameters; empty when the outcome is `underdetermined` or `constant`.
        parameters: by name, in the units of `forms.named`; empty likewise.
        outcome, message: what came of it; the message is empty when all is well.
        converged: whether the best start settled.
        agreeing, starts: starts that came within 1% noise information of the best, of how many.
        on_bounds: names of parameters that lie on a bound.
        condition: condition number of the scaled normal matrix; above 1e6 parameters trade off.
        residual_sd: relative (log) residual SD over the degrees of freedom.
        degrees: n minus the effective number of parameters.
        residuals: (n,) log predicted minus log measured.
        delta: Huber's delta.
        assumed: what was taken for granted.
        weights: (n,) weights of the rows; 1 where None.
        support: what each group's runs reach.
        pooled: in words, groups whose exponent the family lends.
        notes: in words, what a reader should know before using the numbers.
    """

    form: Form
    frame: Frame
    theta: Floats
    parameters: dict[str, float]
    outcome: Outcome
    message: str = ""
    converged: bool = False
    agreeing: int = 0
    starts: int = 0
    on_bounds: tuple[str, ...] = ()
    condition: float = 0.0
    residual_sd: float = 0.0
    degrees: float = 0.0
    residuals: Floats = field(default_factory=lambda: np.zeros(0))
    delta: float = DELTA
    assumed: Assumed = USUAL
    weights: Floats | None = None
    support: tuple[Support, ...] = ()
    pooled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether there are parameters to predict with."""
        return self.theta.size > 0

    @property
    def thetas(self) -> Floats:
        """(1, p): the fit as an ensemble of one."""
        return self.theta[None, :]

    def curve(self, at: Where) -> Floats:
        """(1, n) scores without run-to-run noise."""
        return evaluate(self.form, self.frame, self.thetas, at=at)[0]


def fit(
    form: str | Form,
    points: Points,
    *,
    rng: np.random.Generator,
    starts: int = 48,
    weights: Floats | None = None,
    noise: float | None = None,
    delta: float = DELTA,
    throw: bool = False,
    assumed: Assumed = USUAL,
) -> Fit:
    """Fit a form to a table.

    Args:
        form: a row of `FORMS` or its name.
        points: the table.
        rng: draws the starts.
        starts: number of starts; the fit says how many agree with the best.
        weights: (n,) weights of the rows, 1 where None.
        noise: relative noise SD of a run, if known; else estimated from the residuals.
        delta: Huber's delta on log residuals.
        throw: raise instead of returning an unusable fit.
        assumed: the exponents' scatter, whether to pool, how noise depends on the budget.

    Raises:
        LawError: an unknown form, no score of the base for a form through it; with `throw`, any
            outcome but `ok`.
    """
    row = _form(form)
    frame = Frame.of(row, points)
    reached = support(points)
    refused = refusal(row, points, reached, pool=assumed.pool)
    if refused is not None:
        outcome, message = refused
        if throw:
            raise LawError(f"law `{row.name}`: {outcome}: {message}", hint=_HINTS[outcome])
        return Fit(
            *(row, frame, np.zeros(0), {}, outcome, message),
            delta=delta,
            assumed=assumed,
            support=reached,
        )

    def task_at(sd: float) -> Task:
        return Task.of(row, frame, points, assumed, noise=sd, weights=weights, delta=delta)

    sd = ASSUMED_NOISE if noise is None else max(noise, SMALLEST_NOISE)
    task = task_at(sd)
    theta = starting_points(row, frame, points, starts, rng)
    minima = search(task, projected(task, theta, np.log(points.score)[None, :]))
    if noise is None:
        for _ in range(2):  # the second pass corrects a first guess that was far off
            best = minima.theta[int(np.argmin(minima.value))]
            sd = max(scatter(task, best, noise=sd).sd, SMALLEST_NOISE)
            task = task_at(sd)
            minima = search(task, minima.theta)
    found = _report(task, minima, noise=sd, assumed=assumed, delta=delta, reached=reached)
    found = replace(found, weights=weights)
    if throw and found.outcome != "ok":
        raise LawError(f"law `{row.name}`: {found.outcome}: {found.message}")
    return found


class Predicts(Protocol):
    """A fit, an ensemble or a blend of several: whatever gives curves, one or one a draw."""

    def curve(self, at: Where) -> Floats:
        """(draws, n) scores without run-to-run noise."""
        ...


def predict(
    law: Predicts,
    group: ArrayLike,
    tokens: ArrayLike,
    unique: ArrayLike | None = None,
) -> Floats:
    """Scores that the law expects, without run-to-run noise.

    Args:
        law: a `Fit` (one row), an `Ensemble` or a `Blend` (one row a draw).
        group: code or (n,) codes of groups.
        tokens: (n,) source tokens, above 0.
        unique: (n,) unique tokens; where None every token is new.

    Returns:
        (n,) for a fit, (draws, n) otherwise.

    Raises:
        LawError: a fit without parameters.
    """
    x = np.atleast_1d(np.asarray(tokens, dtype=np.float64))
    pool = x if unique is None else np.atleast_1d(np.asarray(unique, dtype=np.float64))
    code = np.atleast_1d(np.asarray(group, dtype=np.int64))
    code, x, pool = np.broadcast_arrays(code, x, pool)
    if isinstance(law, Fit) and not law.usable:
        raise LawError(f"law `{law.form.name}` cannot predict: {law.outcome}: {law.message}")
    score = law.curve(Where(code, x, pool))
    return score[0] if isinstance(law, Fit) else score


def _form(form: str | Form) -> Form:
    if isinstance(form, Form):
        return form
    if form not in FORMS:
        raise LawError(f"law `{form}` is unknown", hint=f"one of: {', '.join(FORMS)}")
    return FORMS[form]


_HINTS: dict[Outcome, str] = {
    "underdetermined": "run the sources at more budgets, or choose a form with fewer parameters",
    "constant": "nothing was learnt at any budget: choose larger budgets or another target",
}


@dataclass(frozen=True, eq=False)
class Scatter:
    """Residuals of a row of parameters, and what they say.

    Args:
        sd: relative SD at the noise's reference, over the degrees of freedom.
        degrees: n minus the effective number of parameters.
        condition: of the scaled normal matrix.
        residuals: (n,) log predicted minus log measured.
        information: (p, p) of the data, J' W J / noise^2, all parameters counted as free.
    """

    sd: float
    degrees: float
    condition: float
    residuals: Floats
    information: Floats


def scatter(task: Task, theta: Floats, *, noise: float) -> Scatter:
    """How the table scatters about the law with parameters `theta` (p,)."""
    points, assumed = task.points, task.prior
    score, slope = evaluate(task.form, task.frame, theta[None, :], at=points)
    residual = np.log(score[0]) - np.log(points.score)
    jacobian = slope[0] / score[0][:, None]
    free = (theta > assumed.low) & (theta < assumed.high)
    information = (jacobian.T * task.weights) @ jacobian / noise**2
    keep = np.ix_(free, free)
    data, known = information[keep], assumed.precision[keep]
    effective = float(np.trace(np.linalg.solve(data + known, data)))
    size = np.sqrt(np.diag(data + known))
    condition = float(np.linalg.cond((data + known) / np.outer(size, size)))
    degrees = max(points.score.size - effective, 1.0)
    sd = float(np.sqrt((task.weights * residual**2).sum() / degrees))
    return Scatter(sd, degrees, condition, residual, information)


def _report(
    task: Task,
    minima: Minima,
    *,
    noise: float,
    assumed: Assumed,
    delta: float,
    reached: tuple[Support, ...],
) -> Fit:
    form, frame, known = task.form, task.frame, task.prior
    order = int(np.argmin(minima.value))
    theta, value = minima.theta[order], float(minima.value[order])
    seen = scatter(task, theta, noise=noise)
    where = layout(form, frame.labels)
    edge = 1e-6 * (known.high - known.low)
    bound = (theta <= known.low + edge) | (theta >= known.high - edge)
    bound &= known.high > known.low  # what the form itself fixes is no discovery
    converged = bool(minima.converged[order])
    agreeing = int((minima.value <= value + 0.01 * (1.0 + abs(value))).sum())
    tie = indistinct(task.points)
    return Fit(
        form=form,
        frame=frame,
        theta=theta,
        parameters={n: float(v[0]) for n, v in named(form, frame, theta[None, :]).items()},
        outcome="ok" if converged else "not converged",
        message="" if converged else "the best start had not settled when the iterations ran out",
        converged=converged,
        agreeing=agreeing,
        starts=minima.value.size,
        on_bounds=tuple(n for n, b in zip(where.names, bound, strict=True) if b),
        condition=seen.condition,
        residual_sd=seen.sd,
        degrees=seen.degrees,
        residuals=seen.residuals,
        delta=delta,
        assumed=assumed,
        support=reached,
        pooled=lent(form, frame, reached, seen.information, known.precision)
        if assumed.pool
        else (),
        notes=(tie,) if tie else (),
    )
