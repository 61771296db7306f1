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

from anneal.allocation.problem import Problem
from anneal.allocation.purchase import allowed, fill
from anneal.allocation.search import FINEST, NEAR, THIN, candidates, optimise
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

SCALED: dict[str, Callable[[Problem, float], Problem]] = {
    "budget": Problem.scaled_budget,
    "acquisition costs": Problem.scaled_costs,
    "epochs cap": Problem.scaled_epochs,
}
Found = tuple[Floats, float] | None


class Neighbours:
    """The answers to neighbouring questions, on fewer draws, none of them searched twice.

    Many need no search. A question that only takes choices away (fewer epochs, dearer sources, one
    source not to be bought) leaves the best choice where it is, if that is still allowed. So it is
    with the mean score; a regret is measured from the best that each draw allows, which may go.

    Args:
        problem: the question itself.
        tokens: (m,) its answer.
        pool: (c, m) purchases, the best first; searches begin from the answer and `GOOD` of them.
    """

    def __init__(self, problem: Problem, tokens: Floats, pool: Floats) -> None:
        self.problem, self.tokens, self.pool = problem, tokens, pool
        self.here = again(problem, tokens, pool[:GOOD])
        self._scaled: dict[tuple[str, float], Found] = {}

    @property
    def priced(self) -> bool:
        """Whether acquiring any source costs something that is limited."""
        supplies, axes = self.problem.supplies, self.problem.most
        return any(s.acquired(a, s.available) for s in supplies for a in axes)

    def ask(self, question: Problem, *, narrower: bool = False) -> Found:
        """The answer to a question; `narrower` where all it allows the problem allows too."""
        stays = narrower and self.problem.objective == "mean"
        if stays and self.here is not None and allowed(question, self.here[0][None, :])[0]:
            return self.here
        return again(question, self.tokens, self.pool[:GOOD])

    def scaled(self, change: str, factor: float) -> Found:
        """The answer where a limit or all prices are multiplied by a factor."""
        if (change, factor) not in self._scaled:
            dearer = change == "acquisition costs"
            self._scaled[change, factor] = self.ask(
                SCALED[change](self.problem, factor),
                narrower=(factor > 1) == dearer or (dearer and not self.priced),
            )
        return self._scaled[change, factor]


def sensitivity(near: Neighbours, *, without: Mapping[str, Law]) -> tuple[Change, ...]:
    """What the answer becomes, one change at a time.

    Args:
        without: laws fitted without some of the runs, by what was left out.
    """
    problem = near.problem
    answers = [
        (f"{change} {part - 1:+.0%}", near.scaled(change, part))
        for change in SCALED
        for part in (0.5, 1.5)
    ]
    barred = {f"without {n}": n for n in problem.names if len(problem.names) > 1}
    answers += [
        (label, near.ask(problem.without(name), narrower=True)) for label, name in barred.items()
    ]
    answers += [
        (f"without {left_out}", near.ask(replace(problem, target=law)))
        for left_out, law in without.items()
    ]
    largest = int(np.argmax(near.tokens))
    score = float(View.of(problem, draws=NEAR).scores(near.tokens[None, :]).mean())
    rows: list[Change] = []
    for label, found in answers:
        if found is None:
            rows.append(Change(label, {}, score, False, possible=False))
            continue
        share = found[0] / found[0].sum()
        shares = {
            s.name: float(v)
            for s, v in zip(problem.supplies, share, strict=True)
            if s.max_share > 0 and s.name != barred.get(label)
        }
        rows.append(Change(label, shares, found[1], leader(share, largest) != largest))
    return tuple(rows)


def again(problem: Problem, tokens: Floats, pool: Floats) -> Found:
    """The answer to a neighbouring question, from an answer (m,) and a pool (c, m).

    None where nothing can be bought.
    """
    rows = np.vstack([tokens, pool])
    rows[:, [s.max_share == 0 for s in problem.supplies]] = 0.0
    near, possible = fill(problem, rows[rows.sum(axis=1) > 0], clip=not problem.shares_limited)
    near = near[possible & allowed(problem, near)]
    if not len(near) or problem.shares_limited:
        near = np.concatenate([near, candidates(problem, rng=np.random.default_rng(0), count=POOL)])
    if not len(near):
        return None
    return optimise(problem, near, starts=2, full=False)


def leader(tokens: Floats, largest: int) -> int:
    """The source with most of a purchase (m,): `largest` unless another has really more."""
    ahead = tokens.max() - tokens[largest] > FINEST * tokens.sum()
    return int(np.argmax(tokens)) if ahead else largest


def flips(near: Neighbours) -> tuple[Flip, ...]:
    """Where the mix flips, downwards and upwards from the question as it is."""
    problem, pool = near.problem, near.pool
    if len(problem.supplies) == 1:
        return ()
    changes = ["budget"]
    if near.priced:
        changes.append("acquisition costs")
    if problem.axis != "tokens" or (problem.caps < problem.budget).any():
        changes.append("epochs cap")
    here, largest = _shares(problem, pool), int(np.argmax(near.tokens))
    out: list[Flip] = []
    for change in changes:
        for ladder in ([1 / f for f in LADDER], list(LADDER)):
            places = np.full(1, np.inf)
            if here is not None:
                places = _by_draw(near, change, ladder, first=largest, here=here)
            out.append(_flip(near, change, ladder, places))
    return tuple(out)


def _flip(near: Neighbours, change: str, ladder: list[float], places: Floats) -> Flip:
    """One way from 1; `places` (draws,) are the draws' own flips as distances |log factor|."""
    largest = int(np.argmax(near.tokens))

    def leads(factor: float) -> int:
        found = near.scaled(change, factor)
        return largest if found is None else leader(found[0], largest)

    factor, to, inner = None, largest, 1.0
    for outer in ladder:
        to = leads(outer)
        if to != largest:
            low, high = np.log(inner), np.log(outer)
            for _ in range(BISECTIONS):
                middle = 0.5 * (low + high)
                first = leads(float(np.exp(middle)))
                if first == largest:
                    low = middle
                else:
                    high, to = middle, first
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
        to="" if factor is None else near.problem.names[to],
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
    near: Neighbours, change: str, ladder: list[float], *, first: int, here: Floats
) -> Floats:
    """(draws,) distance |log factor| at which `first` no longer leads; infinite where it does.

    `here` (draws, m) are the shares of the draws' own optima at factor 1.
    """

    def lead(share: Floats) -> Floats:
        return np.asarray(share[:, first] - np.delete(share, first, axis=1).max(axis=1))

    before, inner = lead(here), 0.0
    out = np.where(before < 0, 0.0, np.inf)
    for factor in ladder:
        share = _shares(SCALED[change](near.problem, factor), near.pool)
        if share is None:
            break
        after, outer = lead(share), abs(float(np.log(factor)))
        fall = np.maximum(before - after, 1e-12)
        place = inner + (outer - inner) * np.clip(before / fall, 0.0, 1.0)
        out = np.where(~np.isfinite(out) & (after < 0), place, out)
        before, inner = after, outer
    return out
