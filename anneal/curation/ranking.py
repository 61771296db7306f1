"""Ranking: which documents a score keeps, and how well it tells good from other.

Keeping is by bytes, best first. Within strata (languages, groups) the same share of each is kept,
so that a score which likes one language does not keep that language alone: Arctic-SnowCoder ranks
within language (arXiv 2409.02326, section 2.2). Strata may be tiny, where "a quarter of it" is no
whole document; then a document's place among *all* decides, see `best_within`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LEVEL = 0.9
"""Of intervals of the ROC-AUC."""


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve: the chance that a good document scores above another one."""

    value: float
    low: float
    high: float


def best(scores: Floats, sizes: Integers, share: float) -> Mask:
    """Which documents to keep: highest scores first, until `share` of the bytes is reached."""
    order = np.argsort(-scores, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    kept = np.zeros(len(scores), dtype=bool)
    kept[order[before < share * sizes.sum()]] = True
    return kept


def best_within(scores: Floats, sizes: Integers, strata: Integers, share: float) -> Mask:
    """Which documents to keep so that each stratum keeps `share` of its bytes.

    A document covers a stretch [a, b) of its stratum's bytes, ranked by score from 0 to 1. Its
    place is a + u (b - a), where u in [0, 1) is its rank among all documents; the lowest places
    are kept until `share` of all bytes is reached. In a large stratum u decides nothing, and in
    one of a single document it decides alone: such strata together still keep `share`, and of the
    best of them. With one stratum this is `best`.

    Args:
        scores: (documents,).
        sizes: (documents,) bytes.
        strata: (documents,) number of each document's stratum.
        share: of the bytes.
    """
    overall = _stretches(scores, sizes, np.zeros(len(scores), dtype=np.int64))[0]
    start, width = _stretches(scores, sizes, strata)
    return best(-(start + overall * width), sizes, share)


def _stretches(scores: Floats, sizes: Integers, strata: Integers) -> tuple[Floats, Floats]:
    """(start, width) of every document in its stratum's bytes, best first, as shares of them."""
    order = np.lexsort((-scores, strata))
    ends = np.cumsum(sizes[order])
    ranked = strata[order]
    first = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    counts = np.diff(np.concatenate((first, [len(order)])))
    base = np.repeat(ends[first] - sizes[order][first], counts)
    totals = np.repeat(np.add.reduceat(sizes[order], first), counts)
    start, width = np.empty(len(order)), np.empty(len(order))
    start[order] = (ends - sizes[order] - base) / totals
    width[order] = sizes[order] / totals
    return start, width


def roc_auc(good: Floats, other: Floats, *, level: float = LEVEL) -> Auc:
    """ROC-AUC of scores with an interval: DeLong's variance (Biometrics 44, 1988) on logits.

    Where nothing varies (perfect separation) DeLong's variance is 0, which no small sample
    deserves; the bound is then that of as many successes in a row as the smaller class has
    documents (Clopper and Pearson 1934).

    Args:
        good: (m,) scores of documents that are good.
        other: (n,) scores of documents that are not.
        level: of the interval.
    """
    from scipy.special import expit, logit, ndtri
    from scipy.stats import rankdata

    m, n = len(good), len(other)
    ranks = rankdata(np.concatenate((good, other)))
    above = (ranks[:m] - rankdata(good)) / n  # share of the others that each good one beats
    below = 1.0 - (ranks[m:] - rankdata(other)) / m
    value = float(above.mean())
    tail = (1.0 - level) / 2
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n if min(m, n) > 1 else 0.0
    if variance <= 0.0 or not 0.0 < value < 1.0:
        bound = float(tail ** (1.0 / min(m, n)))
        low = bound if value == 1.0 else 0.0
        high = 1.0 - bound if value == 0.0 else 1.0
        return Auc(value, low, high)
    reach = -float(ndtri(tail)) * variance**0.5 / (value * (1.0 - value))
    return Auc(value, float(expit(logit(value) - reach)), float(expit(logit(value) + reach)))
