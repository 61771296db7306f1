"""Fitting one form to one table, and predicting from it.

`fit` runs the engine from many starts and keeps the lowest objective. It never guesses: a table
that cannot carry the form is an outcome with a name (`underdetermined`, `constant`), and a search
that did not settle says `not converged`; `throw=True` turns these into errors.

The Huber loss needs to know how much a residual weighs against the weak priors, so the relative
noise is estimated: from the residuals of a first pass, over the degrees of freedom that the
*effective* number of parameters leaves, tr[(H + Q)^-1 H], where a parameter that only its prior
knows counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from anneal.errors import LawError
from anneal.laws.engine import Minima, minimise
from anneal.laws.forms import (
    FORMS,
    Form,
    Frame,
    Prior,
    Where,
    evaluate,
    layout,
    named,
    prior,
    starting_points,
)
from anneal.laws.points import Floats, Points

Outcome = Literal["ok", "not converged", "underdetermined", "constant"]

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

    Raises:
        LawError: an unknown form, no score of the base for a form through it; with `throw`, any
            outcome but `ok`.
    """
    row = _form(form)
    frame = Frame.of(row, points)
    refusal = _refusal(row, points)
    if refusal is not None:
        outcome, message = refusal
        if throw:
            raise LawError(f"law `{row.name}`: {message}")
        return Fit(row, frame, np.zeros(0), {}, outcome, message, delta=delta)
    heavy = np.ones(points.score.size) if weights is None else weights
    assumed = prior(row, frame)
    theta = starting_points(row, frame, points, starts, rng)
    sd = ASSUMED_NOISE if noise is None else max(noise, SMALLEST_NOISE)
    minima = search(row, frame, points, theta, assumed, noise=sd, weights=heavy, delta=delta)
    if noise is None:
        for _ in range(2):  # the second pass corrects a first guess that was far off
            best = minima.theta[int(np.argmin(minima.value))]
            sd = max(
                _scatter(row, frame, points, best, weights=heavy, assumed=assumed, noise=sd)[0],
                SMALLEST_NOISE,
            )
            minima = search(
                row, frame, points, minima.theta, assumed, noise=sd, weights=heavy, delta=delta
            )
    found = _report(row, frame, points, minima, assumed, heavy=heavy, noise=sd, delta=delta)
    if throw and found.outcome != "ok":
        raise LawError(f"law `{row.name}`: {found.outcome}: {found.message}")
    return found


def search(
    form: Form,
    frame: Frame,
    points: Points,
    theta: Floats,
    assumed: Prior,
    *,
    noise: float,
    weights: Floats,
    delta: float,
    log_score: Floats | None = None,
    centre: Floats | None = None,
    tolerance: float = 1e-5,
) -> Minima:
    """Run the engine on one table, from (B, p) starts.

    Args:
        log_score: (B, n) replaced log scores (bootstrap), the table's own where None.
        centre: (B, p) replaced prior centres.
    """
    # A residual beyond delta pulls with constant force, like a Laplace likelihood; 1.2533 noise is
    # the scale at which it carries the information of Gaussian noise of this SD (its estimator's
    # variance is pi/2 that of least squares). Below delta the loss is least squares itself.
    information = 1.0 / (noise * min(noise, 1.2533 * delta))
    return minimise(
        lambda t: evaluate(form, frame, t, at=points),
        theta,
        np.log(points.score)[None, :] if log_score is None else log_score,
        weights=weights,
        information=information,
        delta=delta,
        centre=assumed.centre[None, :] if centre is None else centre,
        precision=assumed.precision,
        low=assumed.low,
        high=assumed.high,
        tolerance=tolerance,
    )


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


def _refusal(form: Form, points: Points) -> tuple[Outcome, str] | None:
    """Why a table cannot carry a form, if it cannot."""
    where = layout(form, points.labels)
    own = 1 if form.one_exponent else 2
    budgets = []
    for code, label in enumerate(points.labels):
        here = np.unique(points.tokens[points.group == code]).size
        budgets.append(here)
        if here < own:
            return (
                "underdetermined",
                f"`{label}` has {here} distinct budgets, its curve has {own} parameters of its own",
            )
    cells = np.unique(points.cells()).size
    if form.falls and (max(budgets) < own + 1 or cells < where.size - (where.repeats >= 0)):
        return (
            "underdetermined",
            f"{cells} distinct cells and at most {max(budgets)} budgets a group "
            f"cannot carry {where.size} parameters",
        )
    if points.score.max() <= points.score.min() * (1.0 + 1e-9) and form.falls:
        return "constant", f"all {points.score.size} scores are {points.score[0]:.6g}"
    return None


def _scatter(
    form: Form,
    frame: Frame,
    points: Points,
    theta: Floats,
    *,
    weights: Floats,
    assumed: Prior,
    noise: float,
) -> tuple[float, float, float, Floats]:
    """Relative residual SD, degrees of freedom, condition number, residuals (n,)."""
    score, slope = evaluate(form, frame, theta[None, :], at=points)
    residual = np.log(score[0]) - np.log(points.score)
    jacobian = slope[0] / score[0][:, None]
    free = (theta > assumed.low) & (theta < assumed.high)
    data = (jacobian.T * weights) @ jacobian / noise**2
    keep = np.ix_(free, free)
    data, known = data[keep], assumed.precision[keep]
    effective = float(np.trace(np.linalg.solve(data + known, data)))
    size = np.sqrt(np.diag(data + known))
    condition = float(np.linalg.cond((data + known) / np.outer(size, size)))
    degrees = max(points.score.size - effective, 1.0)
    return float(np.sqrt((weights * residual**2).sum() / degrees)), degrees, condition, residual


def _report(
    form: Form,
    frame: Frame,
    points: Points,
    minima: Minima,
    assumed: Prior,
    *,
    heavy: Floats,
    noise: float,
    delta: float,
) -> Fit:
    order = int(np.argmin(minima.value))
    theta, value = minima.theta[order], float(minima.value[order])
    sd, degrees, condition, residuals = _scatter(
        form, frame, points, theta, weights=heavy, assumed=assumed, noise=noise
    )
    names = layout(form, frame.labels).names
    edge = 1e-6 * (assumed.high - assumed.low)
    bound = (theta <= assumed.low + edge) | (theta >= assumed.high - edge)
    bound &= assumed.high > assumed.low  # what the form itself fixes is no discovery
    converged = bool(minima.converged[order])
    agreeing = int((minima.value <= value + 0.01 * (1.0 + abs(value))).sum())
    message = "" if converged else "the best start had not settled when the iterations ran out"
    return Fit(
        form=form,
        frame=frame,
        theta=theta,
        parameters={n: float(v[0]) for n, v in named(form, frame, theta[None, :]).items()},
        outcome="ok" if converged else "not converged",
        message=message,
        converged=converged,
        agreeing=agreeing,
        starts=minima.value.size,
        on_bounds=tuple(n for n, b in zip(names, bound, strict=True) if b),
        condition=condition,
        residual_sd=sd,
        degrees=degrees,
        residuals=residuals,
        delta=delta,
    )
