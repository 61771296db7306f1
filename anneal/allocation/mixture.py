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

A guard may rise and has no rate form: its mixture is the share-weighted mean of the curves at the
mixture's total, with each source's epochs kept; it too is splitting invariant.

Doubts. No interaction: sources that teach the same thing are counted twice, ones that complement
each other too little; the rule can only be checked against measured mixtures (`mixture_score` is
public for that), and until it is, a mixture's predicted gain over its best member is a claim of
the rule, not of the data. A power law through infinity has a steep early part that no run saw; a
source far behind the others is then credited with it, which `shifted_power` forms avoid.
"""

from __future__ import annotations

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
BLOCK = 64
"""Candidates at a time, so that a block stays in cache."""


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
    """
    codes = np.arange(tokens.shape[1]) if groups is None else groups
    if isinstance(law, Blend):
        parts = [mixture_score(m, tokens, unique, groups=codes) for m in law.members]
        return np.concatenate(parts) * _drifted(law, tokens, codes)
    rate = rates(law)
    parts = [
        _integrate(rate, tokens[i : i + BLOCK], unique, codes)
        for i in range(0, tokens.shape[0], BLOCK)
    ]
    return np.concatenate(parts, axis=1)


def _drifted(law: Blend, tokens: Floats, codes: Ints) -> Floats:
    """(draws, c) factors: a mixture drifts as its sources do, by their shares."""
    total = tokens.sum(axis=1)
    drift = law.drift[:, codes] @ (tokens / total[:, None]).T
    return np.asarray(np.exp(drift * law.doublings(total)))


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


def _integrate(rate: Rates, tokens: Floats, unique: Floats, codes: Ints) -> Floats:
    """(draws, c) scores."""
    exponent = rate.exponent[:, None, codes]
    log_kappa = rate.log_kappa[:, None, codes]
    total = tokens.sum(axis=1)
    share = tokens / total[:, None]
    if rate.from_base:
        knots = np.expm1(np.linspace(0.0, np.log1p(1e3), STEPS + 1)) / 1e3
        depth = np.zeros((exponent.shape[0], tokens.shape[0]))
    else:
        knots = np.geomspace(FIRST, 1.0, STEPS + 1)
        log_first = np.log(FIRST * total)[:, None]
        # a single curve's depth: v = a (log(kappa / a) + log D)
        own = exponent * (log_kappa - np.log(exponent) + log_first)
        depth = (share * own).sum(axis=2)
    worth = rate.worth(unique)
    r_star = None if worth is None else worth[:, None, :]
    before = _effective(tokens * knots[0], unique, r_star)
    for knot in knots[1:]:
        after = _effective(tokens * knot, unique, r_star)
        # clipped: a source far behind the mixture would overflow, and is a jump either way
        pull = np.exp(np.minimum(log_kappa - depth[:, :, None] / exponent, 300.0))
        pull *= after - before
        force = pull.sum(axis=2)
        inverse = (pull / exponent).sum(axis=2)
        some = force > 0
        mean = np.where(some, force / np.where(some, inverse, 1.0), 1.0)
        depth = depth + mean * np.log1p(force / mean)
        before = after
    score = rate.floor[:, None] + rate.span[:, None] * np.exp(-depth)
    if rate.penalty is not None:
        excess = (share * np.maximum(tokens / unique - 1.0, 0.0)).sum(axis=1)
        score = score + rate.penalty[:, None] * excess
    return np.asarray(score)


def _effective(tokens: Floats, unique: Floats, r_star: Floats | None) -> Floats:
    """(1 or draws, c, m) effective tokens."""
    if r_star is None or not (tokens > unique).any():
        return tokens[None, :, :]
    return effective_tokens(tokens[None, :, :], unique, r_star)[0]
