"""From single-source curves to the score of a mixture.

The runs measure one source at a time; the decision mixes them. The rule: what a token of source i
does depends on the model's score, not on which source brought it there. So each curve is read as a
rate g_i(L) = -dL_i/dD at the score L, and the mixture falls by all of them together,

    dL = - sum_i g_i(L) dD_i,     D_i = effective tokens of source i,

from the base to the end, the sources being spread evenly over the run. Consequences, all tested:
a mixture of one source is that source's own curve; two halves of one source are that source
(splitting invariance: a source's name must not change its worth); repeated tokens count by their
marginal effective worth dD/dx; an over-fitting penalty adds with the sources' shares of tokens.

In the depth v (`laws.rates`) this is dv = sum_i kappa_i exp(-v / a_i) dD_i, integrated in steps
that are exact for one source or one exponent: over a step the sum is replaced by one power law with
the same value and slope, v += a log(1 + r / a), r the sum and 1/a the r-weighted mean of 1/a_i.
Every step is smooth in the tokens, so the score has an exact slope, found by going through the
steps backwards (`mixture_slope`): what one more token of each source is worth, in every draw, for
about twice the price of the score itself. The search lives on it.

A guard may rise and has no rate form: its mixture is the share-weighted mean of the curves at the
mixture's total, with each source's epochs kept; it too is splitting invariant.

Doubts. No interaction: sources that teach the same thing are counted twice, ones that complement
each other too little; the rule can only be checked against measured mixtures (`mixture_score` is
public for that), and until it is, a mixture's predicted gain over its best member is a claim of
the rule, not of the data. A power law through infinity has a steep early part that no run saw; a
source far behind the others is then credited with it, which `shifted_power` forms avoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anneal.laws.blend import Blend, Law
from anneal.laws.fits import Fit, Predicts
from anneal.laws.forms import Where, effective_tokens
from anneal.laws.points import Floats, Ints
from anneal.laws.rates import Rates, rates

STEPS = 16
"""Measured against an adaptive ODE solver: error of the score below 5e-4 of it (tests)."""
FIRST = 1e-4
"""Share of the run at which a curve without a base is started, on its own shares' mean depth."""
BLOCK = 60_000
"""Numbers at a time (draws x candidates x sources): such a block stays in a core's cache."""
STEEPEST = 300.0
"""Exponents are clipped here: a source far behind would overflow, and is a jump either way."""


def mixture_score(
    law: Fit | Law,
    tokens: Floats,
    unique: Floats,
    *,
    groups: Ints | None = None,
) -> Floats:
    """Scores of c mixtures under every draw, without run-to-run noise.

    Args:
        law: a fit, an ensemble or a blend of falling forms.
        tokens: (c, m) source tokens trained, 0 or more, at least 1 in all.
        unique: (m,) unique tokens that exist of each source.
        groups: (m,) codes of the curves; 0 .. m-1 where None.

    Returns:
        (draws, c); one row for a fit.

    Raises:
        LawError: a form that may rise.
    """
    codes = np.arange(tokens.shape[1]) if groups is None else groups
    if isinstance(law, Blend):
        parts = [mixture_score(m, tokens, unique, groups=codes) for m in law.members]
        return np.concatenate(parts) * _drifted(law, tokens[None, :, :], codes)[0]
    rate = rates(law)
    size = max(1, BLOCK // (rate.floor.size * tokens.shape[1]))
    parts = [
        _walk(rate, tokens[i : i + size].T[:, :, None], unique, codes).score
        for i in range(0, tokens.shape[0], size)
    ]
    return np.ascontiguousarray(np.concatenate(parts, axis=0).T)


def mixture_slope(
    law: Fit | Law,
    tokens: Floats,
    unique: Floats,
    *,
    groups: Ints | None = None,
) -> tuple[Floats, Floats]:
    """Score and exact slope of one mixture under every draw, or of one mixture a draw.

    Args:
        law: as in `mixture_score`.
        tokens: (m,) one mixture for all draws, or (draws, m) each draw its own.
        unique: (m,) unique tokens.
        groups: (m,) codes of the curves.

    Returns:
        scores (draws,), and d score / d tokens (draws, m): negative where one more token helps.
    """
    codes = np.arange(tokens.shape[-1]) if groups is None else groups
    if isinstance(law, Blend):
        scores, slopes, first = [], [], 0
        for member in law.members:
            own = tokens if tokens.ndim == 1 else tokens[first : first + member.draws]
            score, slope = mixture_slope(member, own, unique, groups=codes)
            scores.append(score)
            slopes.append(slope)
            first += member.draws
        rows = np.broadcast_to(tokens, (law.draws, codes.size))[:, None, :]
        factor, by_tokens = _drifted(law, rows, codes)
        score = np.concatenate(scores)
        slope = np.concatenate(slopes) * factor
        slope += (score * factor[:, 0])[:, None] * by_tokens[:, 0, :]
        return score * factor[:, 0], slope
    walk = _walk(rates(law), np.atleast_2d(tokens).T[:, None, :], unique, codes, trace=True)
    return walk.score[0], walk.slope()


def guard_score(
    law: Predicts, tokens: Floats, unique: Floats, *, groups: Ints | None = None
) -> Floats:
    """Guard scores of c mixtures: share-weighted mean of the curves at the total; any form.

    Args as in `mixture_score`. Returns (draws, c).
    """
    codes = np.arange(tokens.shape[1]) if groups is None else groups
    total = tokens.sum(axis=1)
    out: Floats = np.zeros((1, total.size))
    for column, code in enumerate(codes):
        share = tokens[:, column] / total
        # where nothing is bought the curve counts for nothing: any pool will do
        pool = unique[column] / np.maximum(share, 1e-12)
        out = out + share * law.curve(Where(np.full(total.size, code), total, pool))
    return np.asarray(out)


def _drifted(law: Blend, tokens: Floats, codes: Ints) -> tuple[Floats, Floats]:
    """Factors (draws, c) of a blend's drift, and d log factor / d tokens (draws, c, m).

    A mixture drifts as its sources do, by their shares. `tokens` is (1 or draws, c, m); the slopes
    are left out (empty) where many mixtures share all draws.
    """
    total = tokens.sum(axis=2)
    own = law.drift[:, codes]
    drift = np.einsum("bcm,bm->bc", np.broadcast_to(tokens, (len(own), *tokens.shape[1:])), own)
    drift = drift / total
    doublings = law.doublings(total)
    factor = np.asarray(np.exp(drift * doublings))
    if tokens.shape[1] > 1:
        return factor, np.zeros(0)
    further = np.where(doublings > 0, 1.0 / (total * np.log(2.0)), 0.0)
    by_share = (own[:, None, :] - drift[:, :, None]) * (doublings / total)[:, :, None]
    return factor, by_share + (drift * further)[:, :, None]


@dataclass(frozen=True, eq=False)
class _Walk:
    """A mixture's way down, with what is needed to go back up it.

    Sources come first and draws last (measured: half the time of the reverse), so that sums over
    sources run along whole rows of memory: m sources, c mixtures, B draws.

    Args:
        tokens: (m, c, 1 or B).
        knots: parts of the run at which the steps begin and end.
        depth, score: (c, B).
        steps: per step: pull per effective token (m, c, B), pull (m, c, B), its sum and its sum
            over the exponents (c, B). Empty unless traced.
    """

    rate: Rates
    tokens: Floats
    unique: Floats
    codes: Ints
    knots: Floats
    depth: Floats
    score: Floats
    steps: tuple[tuple[Floats, Floats, Floats, Floats], ...]

    def slope(self) -> Floats:
        """(B, m) d score / d tokens of the one mixture, by the adjoint of the steps."""
        rate, tokens = self.rate, self.tokens
        inverse = 1.0 / _column(rate.exponent, self.codes)
        unique, r_star = self.unique[:, None, None], _worth(rate, self.unique)
        weight = np.ones_like(self.depth)
        out = np.zeros((tokens.shape[0], *self.depth.shape))
        after = self.knots[-1] * _marginal(tokens * self.knots[-1], unique, r_star)
        for k in range(len(self.steps) - 1, -1, -1):
            each, pull, force, bend = self.steps[k]
            before = self.knots[k] * _marginal(tokens * self.knots[k], unique, r_star)
            log, some = np.log1p(bend), bend > 0
            safe = np.where(some, bend, 1.0)
            by_force = np.where(some, log / safe, 1.0)
            by_bend = np.where(some, force * (1.0 / (safe * (1.0 + bend)) - log / safe**2), 0.0)
            out += weight * each * (by_force + by_bend * inverse) * (after - before)
            third = (pull * inverse**2).sum(axis=0)
            weight = weight * (1.0 - by_force * bend - by_bend * third)
            after = before
        total = tokens.sum(axis=0)
        share = tokens / total
        if not rate.from_base:
            own = _own_depth(rate, total, self.codes)
            mean, steeper = (share * own).sum(axis=0), (share / inverse).sum(axis=0)
            out += weight * (own - mean + steeper) / total
        slope = -rate.span * np.exp(-self.depth) * out
        if rate.penalty is not None:
            excess = np.maximum(tokens / unique - 1.0, 0.0)
            mean = (share * excess).sum(axis=0)
            own = (excess - mean) / total + share / unique * (tokens > unique)
            slope = slope + rate.penalty * own
        return np.ascontiguousarray(slope[:, 0, :].T)


def _walk(
    rate: Rates, tokens: Floats, unique: Floats, codes: Ints, *, trace: bool = False
) -> _Walk:
    """Integrate mixtures (m, c, 1 or B) under B laws."""
    inverse = 1.0 / _column(rate.exponent, codes)
    log_kappa = _column(rate.log_kappa, codes)
    total = tokens.sum(axis=0)
    share = tokens / total
    depth = np.zeros((tokens.shape[1], inverse.shape[2]))
    if rate.from_base:
        knots = np.expm1(np.linspace(0.0, np.log1p(1e3), STEPS + 1)) / 1e3
    else:
        knots = np.geomspace(FIRST, 1.0, STEPS + 1)
        depth = depth + (share * _own_depth(rate, total, codes)).sum(axis=0)
    pools, r_star = unique[:, None, None], _worth(rate, unique)
    before = _effective(tokens * knots[0], pools, r_star)
    steps = []
    for knot in knots[1:]:
        after = _effective(tokens * knot, pools, r_star)
        each = depth * inverse
        np.subtract(log_kappa, each, out=each)
        np.minimum(each, STEEPEST, out=each)
        np.exp(each, out=each)
        pull = each * (after - before) if trace else np.multiply(each, after - before, out=each)
        force = pull.sum(axis=0)
        bend = (pull * inverse if trace else np.multiply(pull, inverse, out=pull)).sum(axis=0)
        if trace:
            steps.append((each, pull, force, bend))
        some = bend > 0
        depth = depth + np.where(some, force / np.where(some, bend, 1.0), 1.0) * np.log1p(bend)
        before = after
    score = rate.floor + rate.span * np.exp(-depth)
    if rate.penalty is not None:
        excess = (share * np.maximum(tokens / pools - 1.0, 0.0)).sum(axis=0)
        score = score + rate.penalty * excess
    return _Walk(rate, tokens, unique, codes, knots, depth, np.asarray(score), tuple(steps))


def _column(values: Floats, codes: Ints) -> Floats:
    """(B, groups) values of laws as (m, 1, B) values of sources."""
    return np.ascontiguousarray(values[:, codes].T[:, None, :])


def _worth(rate: Rates, unique: Floats) -> Floats | None:
    """(m, 1, B) R* of the sources' pools; None where repeated tokens count in full."""
    worth = rate.worth(unique)
    return None if worth is None else np.ascontiguousarray(worth.T[:, None, :])


def _own_depth(rate: Rates, total: Floats, codes: Ints) -> Floats:
    """(m, c, B) depth of each curve alone after the first stretch: a (log(kappa / a) + log D).

    `total` is (c, 1 or B).
    """
    exponent = _column(rate.exponent, codes)
    scale = _column(rate.log_kappa, codes) - np.log(exponent)
    return np.asarray(exponent * (scale + np.log(FIRST * total)))


def _effective(tokens: Floats, unique: Floats, r_star: Floats | None) -> Floats:
    """(m, c, 1 or B) effective tokens; only the sources that some mixture repeats are worked on."""
    if r_star is None:
        return tokens
    again = (tokens > unique).any(axis=(1, 2))
    if not again.any():
        return tokens
    size = (*tokens.shape[:2], r_star.shape[2])
    out = np.array(np.broadcast_to(tokens, size))
    out[again] = effective_tokens(tokens[again], unique[again], r_star[again])[0]
    return out


def _marginal(tokens: Floats, unique: Floats, r_star: Floats | None) -> Floats:
    """(m, c, 1 or B) worth of one more token, dD/dx: exp(-excess / R*)."""
    if r_star is None:
        return np.ones_like(tokens)
    return np.asarray(np.exp(-np.maximum(tokens / unique - 1.0, 0.0) / r_star))
