"""Finding the best purchase: candidates, then exchanges.

The objective is the expected score over the draws, which has the same minimiser as the expected
regret. Guards come first: of two purchases the one that violates less wins, and the score decides
among those that keep every guard.

Fixed costs make the set of bought sources a discrete choice, so candidates are spread over its
subsets: all single sources, natural and uniform shares of every subset of up to 8 members (larger
problems: singles, the whole, and random subsets), and random shares. The best few are then refined
by exchanges: move a part h of the total from one source to another, refill the budget, keep the
best improvement, halve h down to 0.1%. An exchange can empty a source or begin a new one,
so the set of sources is searched as well. The answer is a local optimum to that tolerance from
several starts; the mixture rule is close to convex, and tests compare with dense grids.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from anneal.allocation.mixture import guard_score, mixture_score
from anneal.allocation.problem import Problem, fill
from anneal.laws import Law
from anneal.laws.points import Floats

FINEST = 1e-3
"""Share of the total below which exchanges stop: the stated tolerance of shares."""
THIN = 100
"""Draws used while searching; the last refinement and every reported number use all of them."""
NOTHING_KEPT = 1e3
"""Weight of guard violations (probability short of the confidence) before scores."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Purchases with their predictions.

    Args:
        tokens: (c, m).
        scores: (draws, c) target scores.
        kept: (c,) probability that every guard is kept.
        key: (c,) what is minimised: expected score, after guard violations.
    """

    tokens: Floats
    scores: Floats
    kept: Floats
    key: Floats

    def best(self) -> int:
        """Row of the best purchase."""
        return int(np.argmin(self.key))


def judge(problem: Problem, tokens: Floats, *, draws: int | None = None) -> Judged:
    """Predict scores and guards of purchases (c, m), with at most `draws` draws."""
    target = problem.target if draws is None else problem.target.thinned(draws)
    groups = problem.groups(problem.target)
    scores = mixture_score(target, tokens, problem.available, groups=groups)
    kept = guards_kept(problem, tokens, draws=draws)
    violation = (
        np.maximum(problem.confidence - kept, 0.0) if problem.guards else np.zeros_like(kept)
    )
    return Judged(tokens, scores, kept, scores.mean(axis=0) + NOTHING_KEPT * violation)


def guards_kept(problem: Problem, tokens: Floats, *, draws: int | None = None) -> Floats:
    """(c,) probability that every guard is kept; guards are taken as independent."""
    kept = np.ones(tokens.shape[0])
    for guard in problem.guards:
        law: Law = guard.law if draws is None else guard.law.thinned(draws)
        scores = guard_score(law, tokens, problem.available, groups=problem.groups(guard.law))
        kept *= np.mean(scores <= guard.limit, axis=0)
    return kept


def candidates(problem: Problem, *, rng: np.random.Generator, count: int = 300) -> Floats:
    """(c, m) feasible purchases spread over the subsets of supplies."""
    m = len(problem.supplies)
    rows = list(np.eye(m)) + list(comparisons(problem).values())
    if m <= 8:
        subsets = [s for size in range(2, m + 1) for s in combinations(range(m), size)]
    else:
        subsets = [tuple(np.flatnonzero(rng.random(m) < 0.4)) for _ in range(200)]
        subsets = [s for s in subsets if len(s) > 1] + [tuple(range(m))]
    for subset in subsets:
        row = np.zeros(m)
        row[list(subset)] = 1.0
        rows.append(row)
    for k in range(max(count - len(rows), 50)):
        subset = subsets[k % len(subsets)] if subsets else (0,)
        row = np.zeros(m)
        row[list(subset)] = rng.dirichlet(np.full(len(subset), 0.7)) + 1e-9
        rows.append(row)
    tokens, possible = fill(problem, np.array(rows))
    return tokens[possible]


def comparisons(problem: Problem) -> dict[str, Floats]:
    """Plain answers, as directions: natural proportions, uniform, replay only."""
    sources = np.array([name != problem.control for name in problem.names], dtype=np.float64)
    out: dict[str, Floats] = {}
    if sources.any():
        out["natural proportions"] = sources * problem.available
        out["uniform"] = sources
    if problem.control in problem.names:
        out["replay only"] = 1.0 - sources
    return out


def refine(
    problem: Problem,
    start: Floats,
    *,
    draws: int | None,
    coarsest: float = 0.25,
    rounds: int = 6,
) -> Judged:
    """Exchange descent from one purchase (m,); returns a `Judged` of that single optimum."""
    current = judge(problem, start[None, :], draws=draws)
    step = coarsest
    while step >= FINEST:
        for _ in range(rounds):
            tokens, possible = fill(problem, _exchanges(current.tokens[0], step))
            if not possible.any():
                break
            near = judge(problem, tokens[possible], draws=draws)
            best = near.best()
            if near.key[best] >= current.key[0] - 1e-9:
                break
            current = Judged(
                near.tokens[[best]], near.scores[:, [best]], near.kept[[best]], near.key[[best]]
            )
        step *= 0.5
    return current


def optimise(
    problem: Problem, pool: Floats, *, starts: int = 3, full: bool = True
) -> tuple[Floats, float]:
    """Best purchase (m,) and its expected score, from a pool of feasible purchases (c, m).

    Args:
        full: finish on all draws; otherwise on the thinned ones (sensitivity, shadow prices).
    """
    first = judge(problem, pool, draws=THIN)
    order = np.argsort(first.key, kind="stable")[:starts]
    found = [refine(problem, pool[i], draws=THIN) for i in order]
    top = min(found, key=lambda j: float(j.key[0]))
    if not full:
        return top.tokens[0], float(top.scores.mean())
    # On all draws: every optimum found and the pool's own best, then the last fine exchanges.
    finalists = np.concatenate([j.tokens for j in found] + [pool[order]])
    again = judge(problem, finalists)
    last = refine(problem, finalists[again.best()], draws=None, coarsest=0.03)
    return last.tokens[0], float(last.scores.mean())


def _exchanges(tokens: Floats, step: float) -> Floats:
    """(m (m - 1), m) directions with a part `step` of the total moved from one source to another.

    A part larger than what the giver has empties it.
    """
    m = tokens.size
    if m == 1:
        return tokens[None, :].copy()
    giver, taker = np.nonzero(~np.eye(m, dtype=bool))
    some = tokens[giver] > 0
    giver, taker = giver[some], taker[some]
    out = np.tile(tokens, (giver.size, 1))
    rows = np.arange(giver.size)
    part = np.minimum(step * tokens.sum(), tokens[giver])
    out[rows, giver] -= part
    out[rows, taker] += part
    return out
