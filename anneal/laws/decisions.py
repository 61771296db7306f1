"""Decisions read off scores: were the sources put in the right order, and what did an error cost?

A law is bought for its decisions, so it is judged by them: `predicted` scores of k sources against
`measured` ones, smaller is better in both. Every measure takes (k,) or a stack of B tables (B, k)
and answers with one number a table, so that a bootstrap is one call on a stack.

    accuracy    share of pairs put in the right order        (DataDecide, 2504.11393, section 3)
    regret      measured score of what was chosen, minus the best there is; of the best of the
                first n where n are carried to a next stage
    spearman    rank correlation, ties at their mean rank

**Ties.** A pair whose measured scores differ by no more than the noise floor has no right order:
it is counted (`Pairs.tied`), and left out of the accuracy. A prediction that cannot tell a pair
apart gets half of it, as a coin would, and is counted too (`Pairs.undecided`). Equally good choices
are chosen among at random, so the regret is the mean over them.

**Intervals.** `over_draws`: the predictions of a law's draws against one measured table: how sure
the law is. `over_runs`: both tables from their runs, resampled within each source; a source with a
single run cannot be resampled, so it gets normal noise of the noise floor's SD instead. Resampling
noisy scores adds noise a second time, so the spread is right and its centre lies low: the interval
is that of the percentiles, widened to hold the value itself. Neither knows what other sources would
have done: with k sources an accuracy rests on k sources, not on k (k - 1) / 2 pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from anneal.errors import LawError
from anneal.laws.points import Floats, Ints, Points

Measure = Callable[[Floats, Floats], Floats]
"""Predicted (B, k) and measured (B, k) to one number a table, (B,); NaN where it has no meaning."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `level` is that of the interval."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Pairs:
    """Pairs of sources, counted.

    Args:
        right: pairs put in the right order, an undecided one counting half.
        decided: pairs that have a right order: measured further apart than the noise floor.
        undecided: decided pairs that the prediction could not tell apart.
        tied: pairs that have no right order.
    """

    right: float
    decided: int
    undecided: int
    tied: int

    @property
    def accuracy(self) -> float | None:
        """Share of the decided pairs put in the right order; None where every pair is a tie."""
        return self.right / self.decided if self.decided else None


@dataclass(frozen=True)
class Ties:
    """What a ranking cannot tell apart.

    Args:
        pairs: codes (i, j), i < j, of sources within the margin of each other.
        groups: all codes, best first; a group begins with the best source left and holds all that
            are tied with it, so being tied is not passed on from neighbour to neighbour.
    """

    pairs: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class AtBudget:
    """Decision accuracy of ranking by one budget alone.

    Args:
        budget: tokens.
        sources: compared: those run at this budget.
        pairs: counted at the data themselves.
        accuracy: with its interval over runs; None where every pair is a tie.
    """

    budget: float
    sources: int
    pairs: Pairs
    accuracy: Estimate | None


def count_pairs(
    predicted: Floats, measured: Floats, *, noise: float = 0.0, margin: float = 0.0
) -> Pairs:
    """Count the pairs of k sources that a prediction orders as the measurement does.

    Args:
        predicted, measured: (k,) scores.
        noise: noise floor of the measurement, score; a smaller measured difference is a tie.
        margin: a predicted difference no larger than this is "cannot tell".

    Raises:
        LawError: fewer than two sources, unequal lengths or a score that is not finite.
    """
    right, decided, undecided, tied = _count(*_tables(predicted, measured), noise, margin)
    return Pairs(float(right[0]), int(decided[0]), int(undecided[0]), int(tied[0]))


def accuracy(
    predicted: Floats, measured: Floats, *, noise: float = 0.0, margin: float = 0.0
) -> Floats:
    """(B,) decision accuracy of (B, k) tables; NaN where every pair is a tie. See `count_pairs`."""
    right, decided, _, _ = _count(*_tables(predicted, measured), noise, margin)
    return np.where(decided > 0, right / np.maximum(decided, 1), np.nan)


def regret(predicted: Floats, measured: Floats, *, first: int = 1) -> Floats:
    """(B,) best measured score among the `first` predicted best, minus the best of all.

    Of sources predicted equal at the boundary some are taken at random: the mean over all choices.

    Raises:
        LawError: as `count_pairs`; `first` below 1.
    """
    guess, truth = _tables(predicted, measured)
    k = guess.shape[1]
    if first < 1:
        raise LawError(f"regret: at least one source must be chosen, got {first}")
    taken = min(first, k)
    edge = np.partition(guess, taken - 1, axis=1)[:, [taken - 1]]
    sure, maybe = guess < edge, guess == edge
    places = taken - sure.sum(axis=1)
    among = maybe.sum(axis=1)
    # j-th smallest of the doubtful is the best one taken: C(among - j - 1, places - 1) of
    # C(among, places) choices
    doubtful = np.sort(np.where(maybe, truth, np.inf), axis=1)
    rank = np.arange(k)[None, :]
    ways = special.binom(np.maximum(among[:, None] - rank - 1, 0), places[:, None] - 1)
    ways = np.where(among[:, None] - rank >= places[:, None], ways, 0.0)
    share = ways / special.binom(among, places)[:, None]
    certain = np.where(sure, truth, np.inf).min(axis=1)
    best = np.minimum(np.where(share > 0, doubtful, 0.0), certain[:, None])
    chosen = (share * best).sum(axis=1)
    return np.asarray(chosen - truth.min(axis=1))


def spearman(predicted: Floats, measured: Floats) -> Floats:
    """(B,) rank correlation; NaN with fewer than 3 sources or where one side is constant."""
    guess, truth = (stats.rankdata(side, axis=1) for side in _tables(predicted, measured))
    guess, truth = (side - side.mean(axis=1, keepdims=True) for side in (guess, truth))
    size = np.sqrt((guess**2).sum(axis=1) * (truth**2).sum(axis=1))
    meaning = (size > 0) & (guess.shape[1] >= 3)
    return np.where(meaning, (guess * truth).sum(axis=1) / np.where(meaning, size, 1.0), np.nan)


def expected_ranks(draws: Floats) -> Floats:
    """(k,) mean rank of each source over draws (draws, k), 1 the best: the order of a law.

    Source i is put before j when the draws favour it in more matches against all others, whatever
    the margins (Borda's count). A mean score follows the few draws that run away beyond the data:
    asked from three budgets for five doublings more (gadre, 32 choices among three corpora), mean
    scores put 77 of 83 pairs in the right order and mean ranks 79.
    """
    table = np.atleast_2d(np.asarray(draws, dtype=np.float64))
    return np.asarray(stats.rankdata(table, axis=1).mean(axis=0))


def ties(scores: Floats, *, margin: float, level: float = 0.9) -> Ties:
    """Pairs and groups of sources that the noise floor, or a law's draws, cannot tell apart.

    Args:
        scores: (k,), or (draws, k) of a law; the ranking is by `expected_ranks`.
        margin: noise floor, score.
        level: two sources are apart when one is better by more than the margin in this share of
            the draws; a single table is apart or not.
    """
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    k = table.shape[1]
    better = np.mean(table[:, None, :] - table[:, :, None] > margin, axis=0)  # (i, j): i beats j
    apart = np.maximum(better, better.T) >= level
    first, second = np.triu_indices(k, 1)
    pairs = tuple((int(i), int(j)) for i, j in zip(first, second, strict=True) if not apart[i, j])
    left = [int(i) for i in np.argsort(expected_ranks(table), kind="stable")]
    groups: list[tuple[int, ...]] = []
    while left:
        group = tuple(i for i in left if i == left[0] or not apart[left[0], i])
        groups.append(group)
        left = [i for i in left if i not in group]
    return Ties(pairs, tuple(groups))


def over_draws(
    measure: Measure, draws: Floats, measured: Floats, *, level: float = 0.9
) -> Estimate:
    """A measure of the order that a law's draws agree on, with the interval over its draws.

    Args:
        measure: `accuracy`, `spearman`, `regret` or a `functools.partial` of one.
        draws: (draws, k) predicted scores.
        measured: (k,).

    Raises:
        LawError: the measure has no meaning for this table.
    """
    stack = np.broadcast_to(measured, draws.shape)
    return _estimate(measure, expected_ranks(draws), measured, (draws, stack), level)


def over_runs(
    measure: Measure,
    predicted: tuple[Floats, Ints],
    measured: tuple[Floats, Ints],
    *,
    rng: np.random.Generator,
    draws: int = 1000,
    noise: float = 0.0,
    level: float = 0.9,
) -> Estimate:
    """A measure of one set of runs as a prediction of another, with the interval over runs.

    Args:
        predicted, measured: scores (n,) and codes (n,) of the sources they belong to; the same
            codes on both sides. A source's score is the mean of its runs.
        noise: noise floor, score: what a source with a single run is shaken by.

    Raises:
        LawError: the two sides hold different sources, or the measure has no meaning for them.
    """
    sides = [(np.asarray(s, dtype=np.float64), np.asarray(c)) for s, c in (predicted, measured)]
    codes = [np.unique(c) for _, c in sides]
    if codes[0].size != codes[1].size or (codes[0] != codes[1]).any():
        raise LawError(
            f"decisions: predicted sources {codes[0].tolist()}, measured {codes[1].tolist()}",
            hint="compare the sources that both sides have",
        )
    means = [np.array([s[c == code].mean() for code in codes[0]]) for s, c in sides]
    stacks = [
        np.stack([_means(s[c == code], draws, noise, rng) for code in codes[0]], axis=1)
        for s, c in sides
    ]
    return _estimate(measure, means[0], means[1], (stacks[0], stacks[1]), level)


def accuracy_by_budget(
    points: Points,
    truth: tuple[Floats, Ints],
    *,
    rng: np.random.Generator,
    noise: float = 0.0,
    draws: int = 1000,
    level: float = 0.9,
) -> list[AtBudget]:
    """How well each single budget of a table ranks what the truth ranks (2504.11393, figure 1).

    Args:
        points: runs at small budgets; budgets within 5% of one another are one (whole steps).
        truth: scores (n,) and codes (n,) of runs at the real budget.
        noise: noise floor, score: measured differences below it are ties, and single runs are
            shaken by it.

    Returns:
        One row a budget with at least two sources that the truth has, smallest budget first.
    """
    score, code = np.asarray(truth[0], dtype=np.float64), np.asarray(truth[1])
    rows = []
    for budget in budgets(points.tokens):
        here = np.abs(points.tokens / budget - 1.0) <= 0.05
        both = np.intersect1d(points.group[here], code)
        if both.size < 2:
            continue
        small = here & np.isin(points.group, both)
        large = np.isin(code, both)
        sides = (points.score[small], points.group[small]), (score[large], code[large])
        guess, right = (np.array([s[c == g].mean() for g in both]) for s, c in sides)
        pairs = count_pairs(guess, right, noise=noise)
        estimate = None
        if pairs.decided:
            # which pairs have a right order is settled by the truth as measured: resampled tables
            # are asked only whether they order those pairs so
            apart = np.abs(right[:, None] - right[None, :]) > noise
            estimate = over_runs(
                partial(_ordered, apart=apart),
                *sides,
                rng=rng,
                draws=draws,
                noise=noise,
                level=level,
            )
        rows.append(AtBudget(float(budget), int(both.size), pairs, estimate))
    return rows


def budgets(tokens: Floats) -> Floats:
    """Distinct budgets, ascending; those within 5% of the first of them are one."""
    found: list[float] = []
    for budget in np.unique(tokens):
        if not found or budget > found[-1] * 1.05:
            found.append(float(budget))
    return np.array(found)


def _tables(predicted: Floats, measured: Floats) -> tuple[Floats, Floats]:
    """Both as (B, k), checked."""
    guess, truth = (np.atleast_2d(np.asarray(s, dtype=np.float64)) for s in (predicted, measured))
    if guess.shape[1] != truth.shape[1] or guess.shape[1] < 2:
        raise LawError(
            f"decisions: {guess.shape[1]} predicted and {truth.shape[1]} measured sources",
            hint="give both sides the same sources, at least two",
        )
    if not (np.isfinite(guess).all() and np.isfinite(truth).all()):
        raise LawError("decisions: a score is not a number", hint="leave failed runs out")
    guess, truth = np.broadcast_arrays(guess, truth)
    return guess, truth


def _count(
    guess: Floats, truth: Floats, noise: float, margin: float
) -> tuple[Floats, Ints, Ints, Ints]:
    """(B,) right, decided, undecided and tied pairs."""
    first, second = np.triu_indices(guess.shape[1], 1)
    asked, answer = truth[:, first] - truth[:, second], guess[:, first] - guess[:, second]
    decided = np.abs(asked) > noise
    unsure = decided & (np.abs(answer) <= margin)
    right = (decided & ~unsure & (np.sign(asked) == np.sign(answer))).sum(axis=1)
    return (
        np.asarray(right + 0.5 * unsure.sum(axis=1)),
        np.asarray(decided.sum(axis=1)),
        np.asarray(unsure.sum(axis=1)),
        np.asarray((~decided).sum(axis=1)),
    )


def _ordered(guess: Floats, truth: Floats, apart: NDArray[np.bool_]) -> Floats:
    """(B,) share of the pairs marked in (k, k) that both tables order alike."""
    first, second = np.nonzero(np.triu(apart, 1))
    asked, answer = truth[:, first] - truth[:, second], guess[:, first] - guess[:, second]
    agree = np.where(answer == 0, 0.5, np.sign(asked) == np.sign(answer))
    return np.asarray(agree.mean(axis=1))


def _means(runs: Floats, draws: int, noise: float, rng: np.random.Generator) -> Floats:
    """(draws,) means of a source's runs, resampled; of a single run, shaken by the noise."""
    if runs.size == 1:
        return np.asarray(runs[0] + noise * rng.standard_normal(draws))
    return np.asarray(runs[rng.integers(0, runs.size, (draws, runs.size))].mean(axis=1))


def _estimate(
    measure: Measure,
    predicted: Floats,
    measured: Floats,
    stack: tuple[Floats, Floats],
    level: float,
) -> Estimate:
    value = float(measure(predicted[None, :], measured[None, :])[0])
    samples = measure(*stack)
    samples = samples[np.isfinite(samples)]
    if not np.isfinite(value) or samples.size == 0:
        raise LawError(
            "decisions: the measure has no meaning for this table",
            hint="every pair is a tie, or a ranking of fewer than 3 sources was asked for",
        )
    low, high = np.quantile(samples, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Estimate(value, min(float(low), value), max(float(high), value), level)
