"""The arithmetic of a purchase: the largest along a direction, what is allowed, whole tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from anneal.allocation.problem import Problem
from anneal.errors import PlanError
from anneal.laws.points import Floats, Ints

NOTHING = 1e-9
"""Share of a purchase below which a source is not bought."""
CLOSE = 1e-9
"""Of a limit: what is over by less is kept (rounding of sums)."""
BEYOND = 1e-12
"""Part of an amount by which it has passed the place where a price changes."""
REACH = 64
"""Whole tokens that rounding may move a source by, beside one for every source."""


def fill(
    problem: Problem, direction: Floats, *, clip: bool = True
) -> tuple[Floats, NDArray[np.bool_]]:
    """Largest purchases along directions: n_i = min(cap_i, lambda d_i), every spending limit kept.

    Args:
        direction: (c, m) non-negative weights, each row with a positive entry; a share below 1e-9
            is none, so that it pays no fixed cost.
        clip: go on with the other sources where one reaches its cap (the shares then change);
            else stop there, so that shares, and limits on shares, stay as they were.

    Returns:
        tokens (c, m), and (c,) whether anything can be bought at all: not so where the fixed costs
        alone, or the fewest tokens allowed, exceed a limit.
    """
    caps = problem.caps
    unit = direction / direction.sum(axis=1, keepdims=True)
    unit[unit < NOTHING] = 0.0
    reach = caps / np.maximum(unit, NOTHING)
    if clip:
        most = np.where(unit > 0, reach, 0.0).max(axis=1)
    else:
        most = np.where(unit > 0, reach, np.inf).min(axis=1)
    tokens = np.minimum(caps, _furthest(problem, unit, most)[:, None] * unit)
    fewest = max(1.0, problem.least_tokens)
    possible = affordable(problem, tokens, slack=1e-12) & (
        tokens.sum(axis=1) >= fewest * (1 - CLOSE)
    )
    return tokens, possible


def _furthest(problem: Problem, unit: Floats, most: Floats) -> Floats:
    """(c,) largest amounts, from 1 token to `most` (c,), along shares (c, m) within the spending.

    Spending is piecewise linear in the amount and, between the places where a price rises,
    concave: tokens that repeat or are capped cost less. So Newton's steps from below that stop
    where a price rises never overshoot a limit, and end on it once every bend on the way is passed.
    """
    caps = problem.caps
    out = most
    for axis, limit in problem.most.items():
        train = problem.per_trained(axis)
        owner, first, last, each = problem.steps(axis)
        rises = np.flatnonzero(first > 0)
        with np.errstate(divide="ignore"):  # a source that is not bought never gets there
            bends = first[rises] / unit[:, owner[rises]]
        room = limit - (unit > 0) @ np.array([s.fixed(axis) for s in problem.supplies])
        amount = np.zeros_like(most)
        for _ in range(2 * caps.size + rises.size + 2):
            x = amount[:, None] * unit
            trained = np.minimum(x, caps)
            paid = (np.clip(trained[:, owner], first, last) - first) @ each
            left = room - paid - train * trained.sum(axis=1)
            here = x[:, owner] * (1 + BEYOND)
            bought = (here >= first) & (here < last) & (x < caps)[:, owner]
            price = (unit[:, owner] * bought) @ each + train * (unit * (x < caps)).sum(axis=1)
            step = np.full_like(price, np.inf)  # where nothing more is bought nothing more is paid
            np.divide(np.maximum(left, 0.0), price, out=step, where=price > 0)
            ahead = np.where(bends > amount[:, None] * (1 + BEYOND), bends, np.inf)
            moved = np.minimum(np.minimum(amount + step, out), ahead.min(axis=1, initial=np.inf))
            if (moved <= amount * (1 + 1e-14)).all():
                break
            amount = moved
        out = amount
    return np.asarray(np.maximum(out, 1.0))


def affordable(problem: Problem, tokens: Floats, *, slack: float = 0.0) -> NDArray[np.bool_]:
    """(c,) whether purchases keep the budget and every ceiling."""
    out = np.ones(tokens.shape[0], dtype=bool)
    for axis, limit in problem.most.items():
        out &= problem.spent(tokens, axis) <= limit * (1 + slack)
    return out


def share_rows(problem: Problem) -> tuple[list[str], Floats]:
    """Limits on shares as rows r with r . tokens <= 0: their names, and (k, m)."""
    names: list[str] = []
    rows: list[Floats] = []

    def add(name: str, part: Floats, least: float, most: float) -> None:
        if most < 1:
            names.append(f"{name} at most {most:g}")
            rows.append(part - most)
        if least > 0:
            names.append(f"{name} at least {least:g}")
            rows.append(least - part)

    unit = np.eye(len(problem.supplies))
    for i, supply in enumerate(problem.supplies):
        add(f"share of {supply.name}", unit[i], supply.min_share, supply.max_share)
    for limit in problem.together:
        part = np.array([float(name in limit.sources) for name in problem.names])
        add(f"share of {limit.name}", part, limit.least, limit.most)
    if problem.min_replay > problem.replay:
        # r + (1 - r) share of the control >= min_replay
        least = (problem.min_replay - problem.replay) / (1.0 - problem.replay)
        names.append(f"replay at least {problem.min_replay:g}")
        rows.append(least - unit[problem.names.index(problem.control)])
    return names, np.array(rows).reshape(-1, len(problem.supplies))


def divergence(problem: Problem, tokens: Floats) -> Floats:
    """(c,) KL(shares || prior), nats; 0 without a prior."""
    if not problem.prior:
        return np.zeros(tokens.shape[0])
    prior = problem.mix(problem.prior)
    share = tokens / tokens.sum(axis=1, keepdims=True)
    ratio = np.where(share > 0, share * prior.sum() / np.where(prior > 0, prior, 1e-300), 1.0)
    return np.asarray((share * np.log(ratio)).sum(axis=1))


def allowed(problem: Problem, tokens: Floats, *, slack: float = CLOSE) -> NDArray[np.bool_]:
    """(c,) whether purchases keep every limit but the guards, to `slack` of it."""
    total = tokens.sum(axis=1)
    out = affordable(problem, tokens, slack=max(slack, 1e-12))
    out &= (tokens <= problem.caps * (1 + slack)).all(axis=1)
    out &= total >= max(1.0, problem.least_tokens) * (1 - slack) - 1e-9
    _, rows = share_rows(problem)
    if rows.size:
        out &= (tokens @ rows.T <= slack * total[:, None]).all(axis=1)
    if problem.prior_limit < float("inf"):
        # one token more or less moves the divergence by about its logarithm over the total
        coarse = len(problem.supplies) * np.log(np.maximum(total, 2.0)) / np.maximum(total, 1.0)
        out &= divergence(problem, tokens) <= problem.prior_limit + 10 * slack + coarse
    return np.asarray(out)


def whole(problem: Problem, tokens: Floats) -> Ints:
    """(m,) whole tokens near a purchase (m,): every limit kept, the total as large as they allow.

    Largest remainders where they keep the limits; else the smallest integer program that does.
    The total is the budget itself where it is given in tokens and `tokens` fills it.

    Raises:
        PlanError: no whole numbers near the purchase keep the limits (a handful of tokens).
    """
    total = int(np.floor(tokens.sum() + 1e-6 * max(1.0, tokens.sum() * 1e-6)))
    if "tokens" in problem.most and tokens.sum() >= problem.most["tokens"] * (1 - 1e-9):
        total = int(problem.most["tokens"])
    for fewer in range(len(problem.supplies) + 2):
        out = _remainders(problem, tokens, total - fewer)
        if allowed(problem, out[None, :], slack=1e-12)[0]:
            return np.asarray(out, dtype=np.int64)
        if not affordable(problem, out[None, :], slack=1e-12)[0]:
            continue  # rounding up cost a little more than there is
        break
    return _programme(problem, tokens)


def _remainders(problem: Problem, tokens: Floats, total: int) -> Floats:
    """(m,) whole tokens that sum to `total`, by largest remainder within the caps."""
    caps = problem.caps
    out = np.minimum(np.floor(tokens + 1e-9), caps)
    fraction = tokens - out
    short = total - int(out.sum())
    while short > 0:
        room = np.flatnonzero((caps > out) & (tokens > 0))
        if room.size == 0:
            break
        first = room[np.argsort(-fraction[room], kind="stable")][:short]
        out[first] += 1.0
        short -= first.size
    while short < 0 and out.max() > 0:
        out[int(np.argmax(out))] -= 1.0
        short += 1
    return np.asarray(out)


def _programme(problem: Problem, tokens: Floats) -> Ints:
    """The most whole tokens, then the nearest to the purchase, that keep every limit.

    Unknowns are whole offsets e from the rounded-down purchase, and their distances d from it. A
    price is taken as that of a new token up to what exists, which can only overstate a cost; no
    offset leaves the tier of a rising price that the purchase lies in.
    """
    m = len(problem.supplies)
    base = np.minimum(np.floor(tokens + 1e-9), problem.caps)
    some = tokens > 0.5
    base = np.where(some, base, 0.0)
    reach = float(REACH + m)
    low = np.where(some, np.maximum(-base, -reach), 0.0)
    high = np.where(some, np.minimum(problem.caps - base, reach), 0.0)
    rows, most = [], []
    for axis, limit in problem.most.items():
        owner, first, last, each = problem.steps(axis)
        inside = (first <= base[owner]) & (base[owner] < last)
        price = np.bincount(owner, each * inside, minlength=m) + problem.per_trained(axis)
        rising = inside & (last < problem.available[owner])
        np.minimum.at(high, owner[rising], np.floor(last[rising]) - base[owner[rising]])
        np.maximum.at(low, owner[inside], np.ceil(first[inside]) - base[owner[inside]])
        if price.max() > 0:
            rows.append(price / price.max())
            most.append((limit - problem.spent(base[None, :], axis)[0]) / price.max())
    _, shares = share_rows(problem)
    for row in shares:
        rows.append(row)
        most.append(-float(row @ base))
    rows.append(-np.ones(m))
    most.append(float(base.sum()) - max(1.0, np.ceil(problem.least_tokens - 1e-9)))
    # where the total is the limit it is reached; where money is, dear tokens are not traded for it
    full = tokens.sum() >= problem.most.get("tokens", np.inf) * (1 - 1e-9)
    more = 4.0 * m if full else 1.5
    near, unit = tokens - base, np.eye(m)
    matrix = np.block(
        [[np.array(rows), np.zeros((len(rows), m))], [unit, -unit], [-unit, -unit]],
    )
    bound = np.concatenate([np.array(most), near, -near])
    found = milp(
        np.concatenate([np.full(m, -more), np.ones(m)]),
        constraints=LinearConstraint(matrix, ub=bound),
        integrality=np.concatenate([np.ones(m), np.zeros(m)]),
        bounds=Bounds(
            np.concatenate([low, np.zeros(m)]), np.concatenate([high, np.full(m, np.inf)])
        ),
    )
    if found.x is None:
        raise PlanError(
            f"allocation: no whole number of tokens near {tokens.round(2).tolist()} keeps every "
            "limit",
            hint="the limits meet in less than a token: widen a share limit or raise the budget",
        )
    return np.asarray(base + np.round(found.x[:m]), dtype=np.int64)
