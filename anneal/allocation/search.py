"""Finding the best purchase: candidates, the convex core, then exchanges.

1. **Candidates** are spread over what is allowed: all single sources, natural and uniform shares of
   every subset of up to 8 members (larger problems: singles, the whole, and random subsets), random
   shares. Where shares are limited they are combinations of corners of what is allowed, since
   almost no random direction is.
2. The best few start the **convex core** (`convex`): SLSQP within a pattern, all patterns or outer
   approximation over them where there are fixed costs.
3. **Exchanges** polish what it found, and need no smoothness: move a part h of the total from one
   source to another, refill the budget, keep the best improvement, halve h down to 0.1%. Of many
   possible exchanges those are tried that the slopes call best, and all that empty a source.

The search runs on at most `THIN` draws; the last descent and exchanges, and every reported number,
use all of them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from anneal.allocation.convex import optimum
from anneal.allocation.pieces import Pieces, pieces, solve
from anneal.allocation.problem import Problem
from anneal.allocation.purchase import allowed, divergence, fill
from anneal.allocation.view import Judged, View, survey
from anneal.errors import PlanError
from anneal.laws.points import Floats, Ints

FINEST = 1e-3
"""Share of the total below which exchanges stop: the stated tolerance of shares."""
THIN = 100
"""Draws used while searching."""
NEAR = 50
"""Draws used for neighbouring questions, of which there are many."""
PAIRS = 48
"""Exchanges tried at a time, of m (m - 1)."""
ROUNDS = 6
"""Exchanges of one size in a row."""


def candidates(problem: Problem, *, rng: np.random.Generator, count: int = 250) -> Floats:
    """(c, m) allowed purchases spread over the subsets of supplies."""
    m = len(problem.supplies)
    barred = np.array([s.max_share == 0 for s in problem.supplies])
    rows = [row for row in (*np.eye(m), *comparisons(problem).values()) if not row[barred].any()]
    if m <= 8:
        subsets = [s for size in range(2, m + 1) for s in combinations(range(m), size)]
    else:
        subsets = [tuple(np.flatnonzero(rng.random(m) < 0.4)) for _ in range(count // 2)]
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
    directions = np.array(rows)
    directions[:, barred] = 0.0
    tokens, possible = fill(problem, directions[directions.sum(axis=1) > 0])
    tokens = tokens[possible]
    if problem.shares_limited or len(problem.most) > 1 or problem.least_tokens > 1:
        tokens = tokens[allowed(problem, tokens)]
        tokens = np.concatenate([tokens, _between_corners(problem, rng, count)])
    return tokens


def _between_corners(problem: Problem, rng: np.random.Generator, count: int) -> Floats:
    """(c, m) allowed purchases from corners of what is allowed, and combinations of them."""
    parts = pieces(problem)
    if parts is None:
        return np.zeros((0, len(problem.supplies)))
    m = parts.m
    costs = [-np.ones(m), *rng.standard_normal((min(8 + 2 * m, 40), m)) - 0.5]
    found = [v.x for v in (solve(parts, cost) for cost in costs) if v is not None]
    corners = np.array([x for x in found if x.sum() > 0])
    if not len(corners):
        return np.zeros((0, m))
    weight = np.zeros((count, len(corners)))
    for row in weight:
        size = min(len(corners), 1 + int(rng.integers(4)))
        some = rng.choice(len(corners), size=size, replace=False)
        row[some] = rng.dirichlet(np.ones(some.size))
    mixed = np.concatenate([corners, weight @ corners, corners.mean(axis=0, keepdims=True)])
    if problem.prior:
        prior = problem.mix(problem.prior) / problem.mix(problem.prior).sum()
        share = mixed / mixed.sum(axis=1, keepdims=True)
        near = [a * share + (1 - a) * prior for a in (0.0, 0.05, 0.2, 0.5, 0.8)]
        mixed = np.concatenate([mixed, *near])
    first, possible = fill(problem, mixed, clip=False)
    second, possible_too = fill(problem, mixed)
    tokens = np.concatenate([first[possible], second[possible_too]])
    return np.asarray(tokens[allowed(problem, tokens, slack=1e-7)])


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


def optimise(
    problem: Problem,
    pool: Floats,
    *,
    starts: int = 3,
    full: bool = True,
) -> tuple[Floats, float]:
    """Best purchase (m,) and its expected score, from a pool of allowed purchases (c, m).

    Args:
        starts: of the pool's best, from which the core descends.
        full: search all patterns and finish on all draws; otherwise only the starts' own patterns,
            on `NEAR` draws, and exchanges from there (sensitivity, shadow prices).

    Raises:
        PlanError: the pool is empty.
    """
    parts = pieces(problem, reached=float(pool.sum(axis=1).max())) if len(pool) else None
    if parts is None:
        raise PlanError("allocation: nothing allowed to begin the search from")
    thin = _surveyed(View.of(problem, draws=THIN if full else NEAR), pool)
    smooth = thin
    if problem.objective == "chance":  # its patterns are searched with the convex tail instead
        smooth = replace(thin, problem=replace(problem, objective="cvar"))
    first = thin.judge(pool)
    order = np.argsort(first.key, kind="stable")[:starts]
    if parts.patterns == 1:  # convex: the best start's descent ends where any other's does
        order = order[: 2 if full else 1]
    found = optimum(smooth, parts, pool[order], near=not full)
    if smooth is not thin and len(found):
        found = np.concatenate([found, optimum(thin, parts, found[-1:], near=True)])
    near = thin.judge(np.concatenate([found, pool[order]]))
    best = near.row(near.best())
    if full:
        start = polish(thin, best.tokens[0], coarsest=0.02 if len(found) else 0.25).tokens
        return _finish(problem, pool, parts, np.concatenate([start, near.tokens]))
    if not len(found) or problem.guards or parts.patterns > 1:  # else smooth, convex and done
        coarsest = 0.05 if len(found) else 0.25
        best = polish(thin, best.tokens[0], coarsest=coarsest, rounds=2, pairs=24)
    return best.tokens[0], float(best.scores.mean())


def _finish(
    problem: Problem, pool: Floats, parts: Pieces, finalists: Floats
) -> tuple[Floats, float]:
    """On all draws: the best finalist, one descent in its pattern, the last fine exchanges."""
    view = _surveyed(View.of(problem), pool)
    jumps = problem.objective == "chance"  # a step function of the draws: what is best moves
    again = view.judge(np.concatenate([finalists, pool]) if jumps else finalists)
    start = again.tokens[again.best()]
    one = _one_pattern(parts, parts.pattern_of(start))
    last = optimum(view, one, start[None, :])
    both = view.judge(np.concatenate([start[None, :], last]))
    coarsest = 0.1 if jumps else 4 * FINEST
    best = polish(view, both.tokens[both.best()], coarsest=coarsest, rounds=2, pairs=24)
    return best.tokens[0], float(best.scores.mean())


def _one_pattern(parts: Pieces, pattern: Ints) -> Pieces:
    return replace(
        parts,
        owner=np.arange(parts.m),
        low=parts.low[pattern],
        high=parts.high[pattern],
        each=parts.each[:, pattern],
        fixed=parts.fixed[:, pattern],
    )


def _surveyed(view: View, pool: Floats) -> View:
    """With the least score of every draw, where the objective asks for regrets."""
    if view.problem.objective == "mean":
        return view
    return replace(view, least=survey(view, pool).least)


def polish(
    view: View,
    start: Floats,
    *,
    coarsest: float = 0.25,
    rounds: int = ROUNDS,
    pairs: int = PAIRS,
) -> Judged:
    """Exchange descent from one purchase (m,); returns a `Judged` of that single optimum."""
    problem = view.problem
    current = view.judge(start[None, :])
    step = coarsest
    while step >= FINEST:
        for _ in range(rounds):
            moved = _exchanges(view, current.tokens[0], step, pairs)
            tokens, possible = fill(problem, moved, clip=not problem.shares_limited)
            if problem.shares_limited:
                possible &= allowed(problem, tokens)
            if not possible.any():
                break
            near = view.judge(tokens[possible])
            best = near.best()
            if near.key[best] >= current.key[0] - 1e-9:
                break
            current = near.row(best)
        step *= 0.5
    return current


def _exchanges(view: View, tokens: Floats, step: float, pairs: int) -> Floats:
    """(c, m) directions with a part `step` of the total moved from one source to another.

    A part larger than what the giver has empties it.
    """
    m = tokens.size
    if m == 1:
        return tokens[None, :].copy()
    barred = np.array([s.max_share == 0 for s in view.problem.supplies])
    giver, taker = np.nonzero(~np.eye(m, dtype=bool))
    some = (tokens[giver] > 0) & ~barred[taker]
    giver, taker = giver[some], taker[some]
    if giver.size > pairs:
        _, slope = view.value_and_slope(tokens)
        order = np.argsort(slope[taker] - slope[giver], kind="stable")
        empties = tokens[giver] <= step * tokens.sum()
        keep = np.concatenate([order[:pairs], order[empties[order]][:pairs]])
        keep = np.unique(keep)
        giver, taker = giver[keep], taker[keep]
    out = np.tile(tokens, (giver.size, 1))
    rows = np.arange(giver.size)
    part = np.minimum(step * tokens.sum(), tokens[giver])
    out[rows, giver] -= part
    out[rows, taker] += part
    return out


def nearest_to_prior(problem: Problem) -> Floats:
    """(1, m) the allowed purchase nearest to the prior mix, or as near as the other limits allow.

    Raises:
        PlanError: even that is farther from it than `prior_limit`.
    """
    free = replace(problem, prior_limit=float("inf"), prior_weight=0.0)
    parts = pieces(free)
    assert parts is not None
    corners = _between_corners(free, np.random.default_rng(0), 400)
    nats = divergence(problem, corners)
    best = corners[int(np.argmin(nats))]
    for step in (0.3, 0.1, 0.03, 0.01, 0.003):
        for _ in range(20):
            mixed = best + step * (corners - best)
            tokens, possible = fill(free, mixed, clip=False)
            tokens = tokens[possible & allowed(free, tokens, slack=1e-7)]
            if not len(tokens) or divergence(problem, tokens).min() >= nats.min() - 1e-9:
                break
            best = tokens[int(np.argmin(divergence(problem, tokens)))]
            nats = divergence(problem, best[None, :])
    if nats.min() > problem.prior_limit:
        raise PlanError(
            f"allocation: no purchase within {problem.prior_limit:g} nats of the prior mix: the "
            f"nearest that the other limits allow lies {nats.min():.4g} away",
            hint=f"raise prior_limit to {nats.min() * 1.01:.4g}, or loosen the caps and shares",
        )
    return np.asarray(best[None, :])
