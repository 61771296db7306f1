"""When the answer would change: neighbouring questions, and where the largest source is another.

Every neighbouring question is searched again on fewer draws, near the answer itself and a few other
good purchases: in their patterns of bought sources, then by exchanges, which may begin or end one.

A **flip** is the factor of the budget, of acquisition costs or of the epochs caps at which another
source gets the largest share. Going away from 1, the first factor of a coarse ladder that flips is
found and the place bisected. Its interval is over the draws, each with its own optimum at every
factor of the ladder (`view.survey`); a draw's flip is where the lead that the answer's largest
source has in it falls to nothing, interpolated in the logarithm of the factor. A draw under which
another source leads already flips at 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from anneal.allocation.pieces import feasible
from anneal.allocation.problem import Problem
from anneal.allocation.purchase import allowed, fill
from anneal.allocation.search import NEAR, THIN, candidates, optimise
from anneal.allocation.values import Change, Flip
from anneal.allocation.view import View, survey
from anneal.laws import Law
from anneal.laws.points import Floats

LADDER = (2.0, 4.0, 8.0)
"""Factors away from 1 that are tried, both ways."""
BISECTIONS = 5
"""Halvings of the last step of the ladder: a flip is placed to about 1% to 2%."""
POOL = 40
"""Candidates from which draws' own optima begin."""
GOOD = 12
"""Of them, the best: where a neighbouring question's search begins, besides the answer."""
LEVEL = 0.9
"""Of a flip's interval."""

Scaled = Callable[[float], Problem]


def sensitivity(
    problem: Problem,
    tokens: Floats,
    pool: Floats,
    *,
    without: Mapping[str, Law],
) -> tuple[Change, ...]:
    """The answers to neighbouring questions, on fewer draws.

    Args:
        tokens: (m,) the answer.
        pool: (c, m) a few good purchases beside it.
        without: laws fitted without some of the runs, by what was left out.
    """
    questions: list[tuple[str, Problem]] = [
        ("budget -50%", problem.scaled_budget(0.5)),
        ("budget +50%", problem.scaled_budget(1.5)),
        ("acquisition costs -50%", problem.scaled_costs(0.5)),
        ("acquisition costs +50%", problem.scaled_costs(1.5)),
        ("epochs cap -50%", problem.scaled_epochs(0.5)),
        ("epochs cap +50%", problem.scaled_epochs(1.5)),
    ]
    if len(problem.supplies) > 1:
        questions += [(f"without {n}", problem.without(n)) for n in problem.names]
    for left_out, law in without.items():
        questions.append((f"without {left_out}", replace(problem, target=law)))
    largest = int(np.argmax(tokens))
    score = float(View.of(problem, draws=NEAR).scores(tokens[None, :]).mean())
    rows: list[Change] = []
    for label, question in questions:
        found = again(question, tokens, pool)
        if found is None:
            rows.append(Change(label, {}, score, False, possible=False))
            continue
        share = found[0] / found[0].sum()
        names = [s.name for s in question.supplies if s.max_share > 0]
        shares = {n: float(v) for n, v in zip(problem.names, share, strict=True) if n in names}
        rows.append(Change(label, shares, found[1], int(np.argmax(share)) != largest))
    return tuple(rows)


def again(problem: Problem, tokens: Floats, pool: Floats) -> tuple[Floats, float] | None:
    """The answer to a neighbouring question, from an answer (m,) and a pool (c, m).

    None where nothing can be bought.
    """
    if not feasible(problem):
        return None
    rows = np.vstack([tokens, pool])
    rows[:, [s.max_share == 0 for s in problem.supplies]] = 0.0
    near, possible = fill(problem, rows[rows.sum(axis=1) > 0], clip=not problem.shares_limited)
    near = near[possible & allowed(problem, near)]
    if not len(near) or problem.shares_limited:
        near = np.concatenate([near, candidates(problem, rng=np.random.default_rng(0), count=POOL)])
    if not len(near):
        return None
    return optimise(problem, near, starts=2, full=False)


def flips(problem: Problem, tokens: Floats, pool: Floats) -> tuple[Flip, ...]:
    """Where the mix flips, downwards and upwards from the question as it is.

    Args:
        tokens: (m,) the answer.
        pool: (c, m) purchases that draws' own optima begin from, the best first.
    """
    if len(problem.supplies) == 1:
        return ()
    money = [axis for axis in problem.most if axis != "tokens"]
    scaled: dict[str, Scaled] = {"budget": problem.scaled_budget}
    if any(s.fixed(a) or s.each(a) for s in problem.supplies for a in money):
        scaled["acquisition costs"] = problem.scaled_costs
    if (problem.caps < problem.budget).any() if problem.axis == "tokens" else True:
        scaled["epochs cap"] = problem.scaled_epochs
    here, leader = _shares(problem, pool), int(np.argmax(tokens))
    out: list[Flip] = []
    for change, question in scaled.items():
        for ladder in ([1 / f for f in LADDER], list(LADDER)):
            places = np.full(1, np.inf)
            if here is not None:
                places = _by_draw(question, ladder, pool, first=leader, here=here)
            out.append(_flip(change, question, ladder, (tokens, pool), places))
    return tuple(out)


def _flip(
    change: str,
    question: Scaled,
    ladder: list[float],
    known: tuple[Floats, Floats],
    places: Floats,
) -> Flip:
    """One way from 1; `places` (draws,) are the draws' own flips as distances |log factor|."""
    tokens, pool = known
    largest = int(np.argmax(tokens))
    names = question(1.0).names

    def leads(factor: float) -> int:
        found = again(question(factor), tokens, pool[:GOOD])
        return largest if found is None else int(np.argmax(found[0]))

    factor, to, inner = None, largest, 1.0
    for outer in ladder:
        to = leads(outer)
        if to != largest:
            low, high = np.log(inner), np.log(outer)
            for _ in range(BISECTIONS):
                middle = 0.5 * (low + high)
                leader = leads(float(np.exp(middle)))
                if leader == largest:
                    low = middle
                else:
                    high, to = middle, leader
            factor = float(np.exp(0.5 * (low + high)))
            break
        inner = outer
    some = np.isfinite(places)
    tail = (1.0 - LEVEL) / 2.0
    ends = np.quantile(places, [tail, 1.0 - tail], method="nearest")
    ends = np.exp(-ends[::-1]) if ladder[0] < 1 else np.exp(ends)
    low_end, high_end = (float(e) if 0 < e < np.inf else None for e in ends)
    return Flip(
        change=change,
        factor=factor,
        to="" if factor is None else names[to],
        low=low_end,
        high=high_end,
        probability=float(some.mean()),
        searched=(min(1.0, ladder[-1]), max(1.0, ladder[-1])),
        level=LEVEL,
    )


def _shares(problem: Problem, pool: Floats) -> Floats | None:
    """(draws, m) shares of each draw's own optimum; None where nothing can be bought."""
    some = pool[:: max(1, len(pool) // POOL)]
    rows, possible = fill(problem, some, clip=not problem.shares_limited)
    rows = rows[possible & allowed(problem, rows)]
    if not len(rows):
        return None
    optima = survey(View.of(problem, draws=THIN), rows).optima
    return np.asarray(optima / optima.sum(axis=1, keepdims=True))


def _by_draw(
    question: Scaled, ladder: list[float], pool: Floats, *, first: int, here: Floats
) -> Floats:
    """(draws,) distance |log factor| at which `first` no longer leads; infinite where it does.

    `here` (draws, m) are the shares of the draws' own optima at factor 1.
    """

    def lead(share: Floats) -> Floats:
        return np.asarray(share[:, first] - np.delete(share, first, axis=1).max(axis=1))

    before, inner = lead(here), 0.0
    out = np.where(before < 0, 0.0, np.inf)
    for factor in ladder:
        share = _shares(question(factor), pool)
        if share is None:
            break
        after, outer = lead(share), abs(float(np.log(factor)))
        fall = np.maximum(before - after, 1e-12)
        place = inner + (outer - inner) * np.clip(before / fall, 0.0, 1.0)
        out = np.where(~np.isfinite(out) & (after < 0), place, out)
        before, inner = after, outer
    return out
