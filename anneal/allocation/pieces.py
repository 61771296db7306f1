"""The linear side of a problem: what is bought in pieces, and whether anything can be bought.

A price is linear only in parts. A source with a fixed cost is bought or not; one that costs by the
unique token and may be repeated is in its first pass, where every token costs, or beyond it, where
none does. So each supply has one to three **pieces** (off; first pass, one piece a tier where its
price rises; repeated), each an interval of tokens with its own fixed and per-token price, and a
**pattern** picks one piece a supply. Within a pattern every limit on tokens, money and shares is a
linear row. Which patterns are possible, and which is best for a linear objective, is a small
mixed-integer programme (HiGHS, through scipy).

Everything is in parts of `unit`, about the most tokens that can be bought, so that the numbers are
of order one whatever the budget is: a solver keeps rows to 1e-7, and a limit on shares is a row
that shrinks with the purchase. So `pieces` first asks for the largest purchase and, where that is a
small part of the unit, asks again in a smaller one; limits that collide shrink it below one token.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from anneal.allocation.problem import Axis, Problem
from anneal.allocation.purchase import share_rows
from anneal.laws.points import Floats, Ints

FITTING = 0.05
"""Least part of a unit that the largest purchase may be."""
SHRINK = 1e-4
"""Part of itself by which a unit is made smaller at most."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """All pieces of a problem, supply after supply.

    Args:
        owner: (P,) supply of each piece.
        low, high: (P,) tokens, in units.
        each, fixed: (k, P) part of each spending limit that one unit, and the piece itself, takes.
        shares: (s, m) rows r with r . x <= 0.
        least: fewest tokens in all, in units.
        unit: tokens.
        axes: the k limits' axes.
    """

    owner: Ints
    low: Floats
    high: Floats
    each: Floats
    fixed: Floats
    shares: Floats
    least: float
    unit: float
    axes: tuple[Axis, ...]

    @property
    def m(self) -> int:
        """Supplies."""
        return int(self.owner[-1]) + 1

    @property
    def patterns(self) -> float:
        """How many there are."""
        return float(np.prod(np.bincount(self.owner).astype(np.float64)))

    @property
    def matrix(self) -> tuple[Floats, Floats]:
        """Rows over (x of pieces, z of pieces) and what they may not exceed."""
        p, k, s = self.owner.size, len(self.axes), len(self.shares)
        eye, none = np.eye(p), np.zeros((1, p))
        rows = np.block(
            [
                [self.each, self.fixed],
                [self.shares[:, self.owner], np.zeros((s, p))],
                [eye, -np.diag(self.high)],
                [-eye, np.diag(self.low)],
                [-np.ones((1, p)), none],
            ]
        )
        bound = np.concatenate([np.ones(k), np.zeros(s + 2 * p), [-self.least]])
        return rows, bound

    def pattern_of(self, tokens: Floats) -> Ints:
        """(m,) pieces that a purchase (m,) lies in: the first that holds it, else the last."""
        x = tokens / self.unit
        out = np.zeros(self.m, dtype=np.int64)
        for i in range(self.m):
            own = np.flatnonzero(self.owner == i)
            holds = own[(x[i] >= self.low[own] - 1e-9) & (x[i] <= self.high[own] + 1e-9)]
            out[i] = holds[0] if holds.size else own[-1]
        return out


def pieces(problem: Problem, *, reached: float = 0.0) -> Pieces | None:
    """A problem's pieces, in a fitting unit; None where no purchase keeps the linear limits.

    Args:
        reached: tokens of a purchase known to keep them: where it fits the unit, the programme for
            the largest one need not be solved.
    """
    unit = float(problem.caps.sum())
    for axis, limit in problem.most.items():
        if problem.per_trained(axis) > 0:
            unit = min(unit, limit / problem.per_trained(axis))
    while unit >= 0.5:
        parts = _laid_out(problem, unit)
        if reached >= FITTING * unit:
            return parts
        largest = solve(parts, -np.ones(parts.m))
        if largest is None:
            return None
        if -largest.value >= FITTING:
            return parts
        unit *= max(-2.0 * largest.value, SHRINK)
    return None


def _laid_out(problem: Problem, unit: float) -> Pieces:
    axes = tuple(problem.most)
    money = [a for a in axes if a != "tokens"]
    rows: list[tuple[int, float, float, list[float], list[float]]] = []
    for i, supply in enumerate(problem.supplies):
        cap = min(float(supply.cap), unit)
        nothing = [0.0] * len(axes)
        if supply.max_share == 0:
            rows.append((i, 0.0, 0.0, nothing, nothing))
            continue
        if any(supply.fixed(a) for a in money):
            rows.append((i, 0.0, 0.0, nothing, nothing))
        ends = {last for a in money for _, last, each in supply.steps(a) if each}
        starts = {first for a in money for first, _, _ in supply.steps(a)}
        bends = sorted(b for b in {0.0, *starts, *ends} if b < cap)
        for low, high in pairwise([*bends, cap]):
            each, fixed = [], []
            for a in axes:
                price = sum(e for first, last, e in supply.steps(a) if first <= low < last)
                each.append(price + problem.per_trained(a))
                fixed.append(supply.acquired(a, low) - price * low)
            rows.append((i, low, high, each, fixed))
    limits = np.array([problem.most[a] for a in axes])
    return Pieces(
        owner=np.array([r[0] for r in rows], dtype=np.int64),
        low=np.array([r[1] for r in rows]) / unit,
        high=np.array([r[2] for r in rows]) / unit,
        each=np.array([r[3] for r in rows]).T * unit / limits[:, None],
        fixed=np.array([r[4] for r in rows]).T / limits[:, None],
        shares=share_rows(problem)[1],
        least=max(1.0, problem.least_tokens) / unit,
        unit=unit,
        axes=axes,
    )


@dataclass(frozen=True, eq=False)
class Vertex:
    """A solved programme: x (m,) in units, the pieces chosen (m,), and the objective."""

    x: Floats
    pattern: Ints
    value: float


def solve(
    parts: Pieces,
    cost: Floats,
    *,
    cuts: Floats | None = None,
    over: Floats | None = None,
    banned: tuple[Ints, ...] = (),
) -> Vertex | None:
    """Best purchase for a linear objective, over all patterns; None where there is none.

    Args:
        cost: (m,) per unit. With `cuts`, what is minimised is instead eta.
        cuts, over: (q, m) slopes g and (q,) heights h of eta >= g . x + h.
        banned: patterns not to be taken.
    """
    p = parts.owner.size
    rows, bound = parts.matrix
    rows = np.hstack([rows, np.zeros((rows.shape[0], 1))])
    objective = np.concatenate([cost[parts.owner], np.zeros(p + 1)])
    if cuts is not None and over is not None:
        lines = np.hstack(
            [cuts[:, parts.owner], np.zeros((len(cuts), p)), -np.ones((len(cuts), 1))]
        )
        rows, bound = np.vstack([rows, lines]), np.concatenate([bound, -over])
        objective[:-1], objective[-1] = 0.0, 1.0
    for pattern in banned:
        line = np.zeros(2 * p + 1)
        line[p + pattern] = 1.0
        rows, bound = np.vstack([rows, line]), np.append(bound, parts.m - 1.0)
    one = np.hstack(
        [np.zeros((parts.m, p)), np.eye(parts.m)[:, parts.owner], np.zeros((parts.m, 1))]
    )
    single = np.bincount(parts.owner)[parts.owner] == 1
    found: Any = milp(
        objective,
        constraints=[
            LinearConstraint(csr_array(rows), ub=bound),
            LinearConstraint(csr_array(one), lb=1.0, ub=1.0),
        ],
        integrality=np.concatenate([np.zeros(p), ~single, [0.0]]),
        bounds=Bounds(
            np.concatenate([np.zeros(2 * p), [-np.inf]]),
            np.concatenate([parts.high, np.ones(p), [np.inf]]),
        ),
        # planes leave presolve nothing to find: without it, half the time (measured, 20 sources)
        options={"presolve": cuts is None},
    )
    if found.x is None:
        return None
    x = np.bincount(parts.owner, weights=found.x[:p], minlength=parts.m)
    chosen = np.array(
        [
            own[int(np.argmax(found.x[p + own]))]
            for own in (np.flatnonzero(parts.owner == i) for i in range(parts.m))
        ]
    )
    return Vertex(np.maximum(x, 0.0), chosen, float(found.fun))


def feasible(problem: Problem) -> bool:
    """Whether any purchase keeps every linear limit (guards and the prior are not asked)."""
    return pieces(problem) is not None
