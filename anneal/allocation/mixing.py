"""How wrong the rule for mixtures is: learnt from mixtures that were run, for what is said of one.

The rule (`mixture`) adds curves of single sources and knows no complements. Every sweep also runs
the uniform mix, all sources in equal shares, at every budget; what it measured over what the rule
says of it is the rule's error, d = log(measured / rule). It is modelled as a trend that may end,

    d(t) = level + slope (min(t, end) - middle),     t = log2(source tokens)

with level ~ N(0, LEVEL^2) and slope ~ N(0, SLOPE^2): no error until runs say so, and with few
runs, or none, the prior's own width. The end is unknown: with n the doublings from the smallest to
the largest budget, P(end later than tau doublings after the smallest) = n / (n + tau), so a
trend that has lasted all the ladder lasts another n doublings with probability 2/3 (and no number
is chosen: a ladder is its own measure of length). Ends before the largest budget are weighed by
how the runs fit them; given the end, level and slope are a regression with a closed form. Beyond
the largest budget what goes on may bend: there its slope is times 1 + BEND z, z ~ N(0, 1). So the
uncertainty grows with the distance and with the slope, and a share of the draws says that the error
stays as it was at the largest budget.

**Under the same draws.** All this is done in every draw of the law: a draw whose curves lie too low
at the largest budget sees a larger error there and is lifted by it. What curves and mixtures share
is so not counted twice; the uniform runs are then data on the law's level as well.

**Another mixture** gets the part of the error that it is mixed to: with M = 1 - sum of squared
shares of its source tokens (the chance that two tokens are of different sources),

    log(score / rule) = d r (1 + OWN z sqrt(1 - r)),     r = min(1, M / M of the uniform mix)

so a single source gets none of it, exactly, and the further from the uniform mix the less sure is
its part: some pairs complement each other more than the average pair does; z ~ N(0, 1) by draw.

**Said, not chosen.** M counts names: one source under two names would be a mixture of two, its
predicted score would move, and a search that saw this term would buy names. So it corrects the
score of the recommended purchase, its guards and the predictions of a full run; the search,
regrets, comparisons and shadow prices stay the rule's own, where splitting a source changes
nothing.

Doubts. LEVEL and SLOPE are rounded from two sweeps of small models (uniform mix -0.9% and -4.8% off
at the middle budget, -1.0% and -1.7% a doubling) and hold for no other size. The error of the
curves beyond the data is not known better by any of this: where the law is wrong for all sources
alike, the mixture is wrong with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from anneal.laws.points import Floats, Ints

LEVEL = 0.03
"""Prior SD of the error at the ladder's middle, log score (from two sweeps, see above)."""
SLOPE = 0.01
"""Prior SD of its slope, log score per doubling (likewise)."""
ROUGH = 0.002
"""SD by which one budget's error may lie off the trend besides run noise, log score (assumed)."""
BEND = 0.5
"""Relative SD of the slope beyond the largest budget about that within (assumed)."""
OWN = 0.5
"""Relative SD of a mixture's own part, as far as it is not the uniform mix (assumed)."""
PAIR = 0.5
"""Mixedness of two halves: the measure where no uniform mix of several sources exists."""


@dataclass(frozen=True, eq=False)
class Mixing:
    """Draws of the rule's error.

    Args:
        level, slope, end: (draws,) of the trend: log score, per doubling, log2 tokens.
        bend: (draws,) by what the slope is multiplied beyond the largest budget.
        own: (draws,) by what a mixture's own part is off, as far as it is not the uniform mix.
        first, middle, last: log2 of the smallest and largest budget, and between.
        even: mixedness of the uniform mix.
    """

    level: Floats
    slope: Floats
    end: Floats
    bend: Floats
    own: Floats
    first: float
    middle: float
    last: float
    even: float

    def error(self, tokens: Floats) -> Floats:
        """(draws, c) log error of the uniform mix at (c,) source tokens in all.

        Below the smallest budget it is what it is there.
        """
        t = np.maximum(np.log2(tokens), self.first)[None, :]
        gone = np.minimum(t, self.end[:, None])
        within = np.minimum(gone, self.last)
        far = within - self.middle + self.bend[:, None] * (gone - within)
        return np.asarray(self.level[:, None] + self.slope[:, None] * far)

    def part(self, tokens: Floats) -> Floats:
        """(c,) part r of the error that mixtures (c, m) get: 0 for a single source, 1 if even."""
        return np.minimum(1.0, mixedness(tokens) / self.even)

    def factor(self, tokens: Floats) -> Floats:
        """(draws, c) by what the rule's scores of mixtures (c, m) are to be multiplied."""
        part = self.part(tokens)
        own = 1.0 + self.own[:, None] * np.sqrt(1.0 - part)
        return np.asarray(np.exp(self.error(tokens.sum(axis=1)) * part * own))

    def lasts(self, tokens: float) -> float:
        """P(the trend goes on as far as this many source tokens)."""
        return float(np.mean(self.end >= np.log2(tokens)))


def mixedness(tokens: Floats) -> Floats:
    """(c,) 1 - sum of squared shares of mixtures (c, m): 0 for a single source."""
    share = tokens / tokens.sum(axis=1, keepdims=True)
    # a single source's share is 1 exactly, so its mixedness is 0 exactly
    return np.asarray(1.0 - (share**2).sum(axis=1))


def learn(
    predicted: Floats,
    measured: Floats,
    runs: Ints,
    tokens: Floats,
    *,
    noise: Floats,
    sources: int,
    ladder: tuple[float, float],
    rng: np.random.Generator,
) -> Mixing:
    """The rule's error from the uniform mix as run at b budgets, none among them.

    Args:
        predicted: (draws, b) what the rule says of it under every draw.
        measured: (b,) mean score of its runs.
        runs: (b,) how many there were.
        tokens: (b,) source tokens in all, ascending.
        noise: (draws,) relative noise SD of one run.
        sources: in the mix.
        ladder: smallest and largest budget of the single sources, tokens, for where b is 0.
    """
    draws = noise.size
    ends = (float(tokens[0]), float(tokens[-1])) if tokens.size else ladder
    first, last = (float(np.log2(x)) for x in ends)
    middle, long = 0.5 * (first + last), max(last - first, 1.0)
    t, d = np.log2(tokens), np.log(measured[None, :] / predicted)
    weight = 1.0 / (noise[:, None] ** 2 / np.maximum(runs, 1)[None, :] + ROUGH**2)
    # possible ends: amid two budgets, or beyond them all
    knots = np.append(0.5 * (t[1:] + t[:-1]), np.inf)
    edges = np.concatenate([[0.0], t[1:] - first, [np.inf]])
    prior = -np.diff(long / (long + edges))
    fits = [_regress(np.minimum(t, knot) - middle, d, weight) for knot in knots]
    log = np.stack([fit.evidence for fit in fits], axis=1) + np.log(np.maximum(prior, 1e-300))
    chance = np.exp(log - log.max(axis=1, keepdims=True))
    upto = np.cumsum(chance / chance.sum(axis=1, keepdims=True), axis=1)
    # (draws,) which end; evenly spread draws of it, so that few draws add little chance
    which = np.minimum((upto < _even(draws, rng)[:, None]).sum(axis=1), knots.size - 1)
    rows = np.arange(draws)
    mean = np.stack([fit.mean for fit in fits], axis=1)[rows, which]
    root = np.stack([fit.root for fit in fits], axis=1)[rows, which]
    normal = np.asarray(stats.norm.ppf([_even(draws, rng) for _ in range(4)]))
    pair = mean + np.einsum("bij,jb->bi", root, normal[:2])
    later = last + (long + last - first) * (1.0 / _even(draws, rng) - 1.0)
    return Mixing(
        level=pair[:, 0],
        slope=pair[:, 1],
        end=np.where(which == knots.size - 1, later, knots[which]),
        bend=1.0 + BEND * normal[2],
        own=OWN * normal[3],
        first=first,
        middle=middle,
        last=last,
        even=1.0 - 1.0 / sources if sources > 1 else PAIR,
    )


@dataclass(frozen=True, eq=False)
class _Regression:
    """Posterior of (level, slope) in every draw.

    Args:
        mean: (draws, 2).
        root: (draws, 2, 2) whose product with its transpose is the covariance.
        evidence: (draws,) log of the marginal likelihood, but for what no end changes.
    """

    mean: Floats
    root: Floats
    evidence: Floats


def _regress(x: Floats, y: Floats, weight: Floats) -> _Regression:
    """Regress y (draws, b), precision `weight` (draws, b), on 1 and x (b,), with the prior."""
    design = np.stack([np.ones_like(x), x], axis=1)
    precision = np.einsum("bn,ni,nj->bij", weight, design, design)
    precision += np.diag([LEVEL**-2, SLOPE**-2])
    right = np.einsum("bn,bn,ni->bi", weight, y, design)
    covariance = np.linalg.inv(precision)
    mean = np.einsum("bij,bj->bi", covariance, right)
    fitted = 0.5 * (right * mean).sum(axis=1)
    evidence = fitted - 0.5 * np.linalg.slogdet(precision)[1]
    return _Regression(mean, np.linalg.cholesky(covariance), np.asarray(evidence))


def _even(draws: int, rng: np.random.Generator) -> Floats:
    """(draws,) equally likely quantiles in random order."""
    return np.asarray((rng.permutation(draws) + 0.5) / draws)
