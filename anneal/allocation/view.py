"""What a purchase is worth: the problem under its draws, and the objective with its slope.

The expected score has the same minimiser as the expected regret. The other objectives need the
regret itself: a draw's regret is the score minus the least that any allowed purchase reaches under
that draw. `survey` finds that least from many purchases and then improves each draw's best by
multiplicative steps along its own slope, all draws at once.

    mean     E[score]
    cvar     mean of the worst 1 - level of the regrets (Rockafellar and Uryasev 2000): convex where
             the score is
    chance   P(regret > limit), for the search smoothed by a logistic a third of the limit wide

A prior mix adds `prior_weight` KL(shares || prior). Guards come first: of two purchases the one
that violates less wins, and the objective decides among those that keep every guard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from anneal.allocation.mixture import guard_score, mixture_score, mixture_slope
from anneal.allocation.problem import Guard, Problem
from anneal.allocation.purchase import allowed, divergence, fill
from anneal.laws import Law
from anneal.laws.points import Floats

NOTHING_KEPT = 1e3
"""Weight of guard violations (probability short of the confidence) before scores."""
OWN_STEPS = 16
"""Multiplicative steps towards each draw's own optimum. Measured on 20 sources and 12 draws: the
least score is on average within 7e-5 of SLSQP's; the pool by itself misses it by 1.3e-2."""
TASTE = 0.02
"""Share of sources not in it that is mixed into a draw's purchase before the steps."""
STILL = 1e-9
"""Score that counts as no improvement."""


@dataclass(frozen=True, eq=False)
class View:
    """A problem seen through some of its draws.

    Args:
        problem: the question.
        law: of the target, perhaps with fewer draws.
        guards: likewise.
        least: (draws,) least score any purchase reaches under each draw; None until surveyed.
    """

    problem: Problem
    law: Law
    guards: tuple[Guard, ...]
    least: Floats | None = None

    @staticmethod
    def of(problem: Problem, *, draws: int | None = None) -> View:
        """All draws, or at most `draws` of them."""
        if draws is None:
            return View(problem, problem.target, problem.guards)
        guards = tuple(replace(g, law=g.law.thinned(draws)) for g in problem.guards)
        return View(problem, problem.target.thinned(draws), guards)

    def scores(self, tokens: Floats) -> Floats:
        """(draws, c) target scores of purchases (c, m)."""
        problem = self.problem
        groups = problem.groups(self.law)
        return mixture_score(self.law, tokens, problem.available, groups=groups)

    def slopes(self, tokens: Floats) -> tuple[Floats, Floats]:
        """Scores (draws,) and slopes (draws, m) of one purchase (m,), or one a draw (draws, m)."""
        problem = self.problem
        groups = problem.groups(self.law)
        return mixture_slope(self.law, tokens, problem.available, groups=groups)

    def kept(self, tokens: Floats) -> Floats:
        """(c,) probability that every guard is kept; guards are taken as independent."""
        kept = np.ones(tokens.shape[0])
        for guard in self.guards:
            groups = self.problem.groups(guard.law)
            scores = guard_score(guard.law, tokens, self.problem.available, groups=groups)
            kept *= np.mean(scores <= guard.limit, axis=0)
        return kept

    def judge(self, tokens: Floats) -> Judged:
        """Predict scores and guards of purchases (c, m)."""
        problem = self.problem
        scores, kept = self.scores(tokens), self.kept(tokens)
        key = risk(problem, scores, self.least)
        if problem.prior_weight > 0:
            key = key + problem.prior_weight * divergence(problem, tokens)
        if problem.guards:
            key = key + NOTHING_KEPT * np.maximum(problem.confidence - kept, 0.0)
        return Judged(tokens, scores, kept, key)

    def value_and_slope(self, tokens: Floats) -> tuple[float, Floats]:
        """Smooth objective of one purchase (m,) and its slope (m,), guards left out."""
        problem = self.problem
        scores, slopes = self.slopes(tokens)
        value, weight = _smooth(problem, scores, self.least)
        slope = weight @ slopes
        if problem.prior_weight > 0:
            nats, by_tokens = divergence_slope(problem, tokens)
            value += problem.prior_weight * nats
            slope = slope + problem.prior_weight * by_tokens
        return value, np.asarray(slope)


@dataclass(frozen=True, eq=False)
class Judged:
    """Purchases with their predictions.

    Args:
        tokens: (c, m).
        scores: (draws, c) target scores.
        kept: (c,) probability that every guard is kept.
        key: (c,) what is minimised: the objective, after guard violations.
    """

    tokens: Floats
    scores: Floats
    kept: Floats
    key: Floats

    def best(self) -> int:
        """Row of the best purchase."""
        return int(np.argmin(self.key))

    def row(self, index: int) -> Judged:
        """One purchase alone."""
        at = [index]
        return Judged(self.tokens[at], self.scores[:, at], self.kept[at], self.key[at])


def risk(problem: Problem, scores: Floats, least: Floats | None) -> Floats:
    """(c,) objective of purchases with scores (draws, c)."""
    if problem.objective == "mean" or least is None:
        return np.asarray(scores.mean(axis=0))
    regret = scores - least[:, None]
    if problem.objective == "cvar":
        return np.asarray(tail_weights(len(scores), problem.level) @ np.sort(regret, axis=0))
    over = (regret > problem.threshold).mean(axis=0)
    return np.asarray(over + 1e-3 * regret.mean(axis=0) / problem.threshold)


def tail_weights(draws: int, level: float) -> Floats:
    """(draws,) weights of ascending values whose sum is the mean of their worst 1 - level."""
    left = np.clip(np.arange(1, draws + 1) - level * draws, 0.0, 1.0)
    return np.asarray(left / left.sum())


def divergence_slope(problem: Problem, tokens: Floats) -> tuple[float, Floats]:
    """KL(shares || prior) of one purchase (m,) and its slope (m,)."""
    prior = problem.mix(problem.prior)
    total = tokens.sum()
    log = np.log(np.maximum(tokens / total, 1e-12) * prior.sum() / prior)
    nats = float(divergence(problem, tokens[None, :])[0])
    return nats, np.asarray((log - nats) / total)


def _smooth(problem: Problem, scores: Floats, least: Floats | None) -> tuple[float, Floats]:
    """Smooth objective of one purchase's scores (draws,), and its slope by score (draws,)."""
    draws = scores.size
    even = np.full(draws, 1.0 / draws)
    if problem.objective == "mean" or least is None:
        return float(scores.mean()), even
    regret = scores - least
    if problem.objective == "cvar":
        weight = np.empty(draws)
        weight[np.argsort(regret, kind="stable")] = tail_weights(draws, problem.level)
        return float(weight @ regret), weight
    width = problem.threshold / 3.0
    logistic = 1.0 / (1.0 + np.exp(-np.clip((regret - problem.threshold) / width, -50, 50)))
    weight = logistic * (1.0 - logistic) / width / draws + 1e-3 * even / problem.threshold
    return float(logistic.mean() + 1e-3 * regret.mean() / problem.threshold), weight


@dataclass(frozen=True, eq=False)
class Survey:
    """Many purchases judged, and the best of each draw.

    Args:
        judged: the purchases.
        least: (draws,) least score found under each draw.
        optima: (draws, m) the purchase that reaches it.
    """

    judged: Judged
    least: Floats
    optima: Floats


def survey(view: View, tokens: Floats) -> Survey:
    """Judge purchases (c, m) and find every draw's own optimum from the best of them.

    With guards the draws' optima are chosen among the purchases that keep them; their improvement
    by steps is then left out, since a guard is kept over all draws, not under one.
    """
    problem = view.problem
    judged = view.judge(tokens)
    fair = np.flatnonzero(judged.kept >= min(problem.confidence, float(judged.kept.max())))
    fair = fair[allowed(problem, judged.tokens[fair], slack=1e-6)]
    if fair.size == 0:
        fair = np.array([judged.best()])
    pick = fair[judged.scores[:, fair].argmin(axis=1)]
    rows, least = judged.tokens[pick], judged.scores[np.arange(pick.size), pick]
    if not problem.guards and len(problem.supplies) > 1:
        rows, least = _own_optima(view, rows, least)
    return Survey(replace(judged, key=risk(problem, judged.scores, least)), least, rows)


def _own_optima(view: View, rows: Floats, least: Floats) -> tuple[Floats, Floats]:
    """Multiplicative steps along each draw's slope (draws, m), kept where they improve it.

    Such a step cannot begin a source, so a little of every source that costs nothing to begin is
    mixed in first; where it does not pay, the steps make it vanish again.
    """
    problem = view.problem
    clip = not problem.shares_limited
    free = np.array(
        [s.max_share > 0 and not any(s.fixed(a) for a in problem.most) for s in problem.supplies]
    )
    share = rows / rows.sum(axis=1, keepdims=True)
    little, possible = fill(problem, share + TASTE * free / max(free.sum(), 1), clip=clip)
    possible &= allowed(problem, little) | clip
    here = np.where(possible[:, None], little, rows)
    score, slope = view.slopes(here)
    size = np.ones(least.size)
    for _ in range(OWN_STEPS):
        share = here / here.sum(axis=1, keepdims=True)
        excess = (share * slope).sum(axis=1, keepdims=True) - slope
        excess[(here >= problem.caps * (1 - 1e-9)) & (excess > 0)] = 0.0
        excess[share == 0] = 0.0
        excess /= np.abs(excess).max(axis=1, keepdims=True) + 1e-300
        there, possible = fill(problem, share * np.exp(size[:, None] * excess), clip=clip)
        there = np.where(possible[:, None], there, here)
        new, new_slope = view.slopes(there)
        better = possible & (new < score - STILL) & (clip | allowed(problem, there))
        here, slope = (
            np.where(better[:, None], a, b) for a, b in ((there, here), (new_slope, slope))
        )
        score = np.where(better, new, score)
        size = np.where(better, size * 1.3, size * 0.4)
        if not better.any() and size.max() < 0.02:
            break
    better = score < least
    return np.where(better[:, None], here, rows), np.where(better, score, least)
