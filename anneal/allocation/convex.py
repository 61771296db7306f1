"""The search's core: smooth optima within a pattern, and the pattern by outer approximation.

Within a pattern of pieces (`pieces`) every limit is linear or convex and the expected score is
smooth and, to the mixture rule's accuracy, convex in the tokens, so a local method finds the
optimum: SLSQP (Kraft 1988; scipy) with exact slopes.

Fixed costs and unique tokens make the pattern a discrete choice. While there are few patterns all
are tried. Beyond that, outer approximation (Duran and Grossmann 1986): every purchase looked at
gives a plane below the convex objective; the mixed-integer programme over the planes proposes the
pattern that could still be best, and its value is a bound: where it is no better than the best
purchase found, no other pattern is.

The bound is exact where the objective is convex. The mixture rule is not exactly so (a repeated
pool under an over-fitting penalty, sources of very different exponents), so exchanges follow
(`search.polish`) and tests compare with all subsets and with dense grids.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import minimize

from anneal.allocation.mixture import guard_score
from anneal.allocation.pieces import Pieces, solve
from anneal.allocation.problem import Guard, Problem
from anneal.allocation.purchase import allowed, divergence, fill
from anneal.allocation.view import View, divergence_slope
from anneal.laws.points import Floats, Ints

FEW = 4
"""Patterns up to which all are tried."""
PROPOSALS = 16
"""Patterns that outer approximation tries at most; measured on 20 sources, it stops by 3 to 8."""
TOLERANCE = 1e-3
"""Of the bound, in noise floors."""


@dataclass(eq=False)
class Planes:
    """Planes below the objective: (height, slope by token)."""

    height: list[float] = field(default_factory=list)
    slope: list[Floats] = field(default_factory=list)

    def add(self, value: float, slope: Floats, tokens: Floats) -> None:
        """The plane that touches the objective at a purchase (m,)."""
        self.height.append(value - float(slope @ tokens))
        self.slope.append(slope)

    def scaled(self, unit: float, noise: float) -> tuple[Floats, Floats]:
        """Slopes (q, m) by unit and heights (q,), in noise floors."""
        return np.array(self.slope) * unit / noise, np.array(self.height) / noise


def optimum(view: View, parts: Pieces, starts: Floats, *, near: bool = False) -> Floats:
    """(k, m) allowed purchases, local optima of promising patterns, from starts (s, m); k >= 0.

    Args:
        near: only the starts' own patterns.
    """
    found: list[Floats] = []

    def descend(pattern: Ints, start: Floats) -> Floats | None:
        tokens = _within(view, parts, pattern, start)
        if tokens is not None:
            found.append(tokens)
        return tokens

    own = [parts.pattern_of(start) for start in starts]
    if parts.patterns == 1 or near:
        for pattern, start in zip(own, starts, strict=True):
            descend(pattern, start)
    elif parts.patterns <= FEW:
        choices = [np.flatnonzero(parts.owner == i) for i in range(parts.m)]
        for chosen in product(*choices):
            pattern = np.array(chosen)
            same = [s for s, o in zip(starts, own, strict=True) if (o == pattern).all()]
            descend(pattern, same[0] if same else starts[0])
    else:
        _approximate(view, parts, starts, descend)
    return np.array(found).reshape(-1, parts.m)


def _approximate(
    view: View,
    parts: Pieces,
    starts: Floats,
    descend: Callable[[Ints, Floats], Floats | None],
) -> None:
    """Outer approximation over patterns; `descend` collects what it finds."""
    noise, planes = view.problem.noise, Planes()
    banned: list[Ints] = []
    best, pattern, start = float("inf"), parts.pattern_of(starts[0]), starts[0]
    for other in starts[1:]:
        planes.add(*view.value_and_slope(other), other)
    for _ in range(PROPOSALS):
        tokens = descend(pattern, start)
        banned.append(pattern)
        # a solver's purchase of one token may be none at all: no plane touches there
        for point in [p for p in (start, tokens) if p is not None and p.sum() > 0]:
            planes.add(*view.value_and_slope(point), point)
        if tokens is not None:
            best = min(best, view.value_and_slope(tokens)[0])
        slopes, heights = planes.scaled(parts.unit, noise)
        proposal = solve(parts, np.zeros(parts.m), cuts=slopes, over=heights, banned=tuple(banned))
        if proposal is None or proposal.value * noise >= best - TOLERANCE * noise:
            return
        pattern, start = proposal.pattern, np.maximum(proposal.x * parts.unit, 0.0)


def repaired(problem: Problem, tokens: Floats) -> Floats | None:
    """A purchase (m,) a rounding error away from allowed, made allowed and full; else None."""
    out = np.where(tokens > 1e-7 * tokens.sum(), np.minimum(tokens, problem.caps), 0.0)
    if out.sum() <= 0:
        return None
    filled, possible = fill(problem, out[None, :], clip=not problem.shares_limited)
    if not possible[0] or not allowed(problem, filled, slack=1e-6)[0]:
        return None
    return np.asarray(filled[0])


def _within(view: View, parts: Pieces, pattern: Ints, start: Floats) -> Floats | None:
    """Optimum of one pattern by SLSQP; None where it holds no allowed purchase."""
    unit, noise = parts.unit, view.problem.noise
    low, high = parts.low[pattern], parts.high[pattern]
    first = np.clip(start / unit, low, high)
    if first.sum() <= 0:
        first = 0.5 * (low + high)

    def objective(x: Floats) -> tuple[float, Floats]:
        value, slope = view.value_and_slope(np.maximum(x, 1e-12) * unit)
        return value / noise, slope * unit / noise

    search: Any = minimize  # its stubs do not know a value with its slope and a list of rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # steps are clipped to the bounds
        found = search(
            objective,
            first,
            jac=True,
            method="SLSQP",
            bounds=list(zip(low, high, strict=True)),
            constraints=_constraints(view, parts, pattern),
            options={"maxiter": 60, "ftol": 1e-5},
        )
    if not np.isfinite(found.x).all():
        return None
    return repaired(view.problem, np.clip(found.x, low, high) * unit)


def _constraints(view: View, parts: Pieces, pattern: Ints) -> list[dict[str, Any]]:
    """SLSQP's inequalities: spending, shares, the fewest tokens, the prior and the guards."""
    problem, unit = view.problem, parts.unit
    rows = np.vstack([-parts.each[:, pattern], -parts.shares, np.ones((1, parts.m))])
    room = np.concatenate(
        [1.0 - parts.fixed[:, pattern].sum(axis=1), np.zeros(len(parts.shares)), [-parts.least]]
    )
    out: list[dict[str, Any]] = [
        {"type": "ineq", "fun": lambda x: rows @ x + room, "jac": lambda x: rows}
    ]
    if problem.prior_limit < float("inf"):

        def near(x: Floats) -> float:
            nats = divergence(problem, np.maximum(x, 1e-12)[None, :])[0]
            return float(problem.prior_limit - nats)

        def nearer(x: Floats) -> Floats:
            return -divergence_slope(problem, np.maximum(x, 1e-12))[1]

        out.append({"type": "ineq", "fun": near, "jac": nearer})
    for guard in view.guards:
        out.append(_guarded(problem, guard, unit, len(view.guards)))
    return out


def _guarded(problem: Problem, guard: Guard, unit: float, guards: int) -> dict[str, Any]:
    """A guard as an inequality: the quantile of its score at the asked confidence.

    The quantile is smoothed over 5% of the draws. Several guards, taken as independent, share the
    confidence; the exchanges that follow count the probability itself.
    """
    level = problem.confidence ** (1.0 / guards)
    groups = problem.groups(guard.law)

    def quantile(rows: Floats) -> Floats:
        scores = np.sort(guard_score(guard.law, rows, problem.available, groups=groups), axis=0)
        draws = len(scores)
        middle, half = level * (draws - 1), max(0.025 * draws, 0.5)
        window = np.abs(np.arange(draws) - middle) <= half
        return np.asarray(scores[window].mean(axis=0))

    def room(x: Floats) -> float:
        spent = quantile(np.maximum(x, 1e-12)[None, :] * unit)[0]
        return float((guard.limit - spent) / problem.noise)

    def slope(x: Floats) -> Floats:
        step = 1e-4 * max(float(x.sum()), 1e-9)
        rows = np.maximum(np.vstack([x, x + step * np.eye(x.size)]), 1e-12) * unit
        values = quantile(rows)
        return -np.asarray(values[1:] - values[0]) / step / problem.noise

    return {"type": "ineq", "fun": room, "jac": slope}
