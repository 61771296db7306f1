"""What a score keeps, and the interval of its ROC-AUC, against counting and simulated truth."""

from __future__ import annotations

import numpy as np
import pytest

from anneal.curation.ranking import best, best_within, roc_auc


def test_one_stratum_is_the_ranking_of_all():
    rng = np.random.default_rng(0)
    scores, sizes = rng.normal(size=500).round(1), rng.integers(1, 1000, 500)
    strata = np.zeros(500, dtype=np.int64)
    for share in (0.01, 0.3, 1.0):
        assert (best(scores, sizes, share) == best_within(scores, sizes, strata, share)).all()


def test_each_stratum_keeps_its_share_though_the_score_likes_one_of_them():
    rng = np.random.default_rng(1)
    strata = rng.integers(0, 4, 4000)
    scores = rng.normal(size=4000) + 5.0 * (strata == 2)
    sizes = rng.integers(100, 2000, 4000)
    kept = best_within(scores, sizes, strata, 0.25)
    for stratum in range(4):
        own = strata == stratum
        assert sizes[own & kept].sum() / sizes[own].sum() == pytest.approx(0.25, abs=0.01)
        assert scores[own & kept].min() >= scores[own & ~kept].max()
    assert sizes[kept & (strata == 2)].sum() == pytest.approx(sizes[kept].sum() / 4, rel=0.15)
    assert sizes[best(scores, sizes, 0.25)][strata[best(scores, sizes, 0.25)] == 2].sum() > 0.9 * (
        sizes[best(scores, sizes, 0.25)].sum()
    )


def test_strata_of_one_document_keep_the_share_together_and_the_best_of_them():
    rng = np.random.default_rng(2)
    scores, sizes = rng.normal(size=1000), rng.integers(100, 200, 1000)
    strata = np.concatenate((np.zeros(500, np.int64), np.arange(1, 501)))
    kept = best_within(scores, sizes, strata, 0.2)
    alone = strata > 0
    assert sizes[kept & alone].sum() / sizes[alone].sum() == pytest.approx(0.2, abs=0.03)
    assert sizes[kept].sum() / sizes.sum() == pytest.approx(0.2, abs=0.001)
    assert scores[kept & alone].min() >= scores[~kept & alone].max()


def test_the_area_is_the_share_of_pairs_that_are_in_order():
    rng = np.random.default_rng(3)
    good, other = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 60).round(1)
    pairs = [(g > o) + 0.5 * (g == o) for g in good for o in other]
    found = roc_auc(good, other)
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.low < found.value < found.high
    turned = roc_auc(-good, -other)
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_perfect_separation_is_not_certainty():
    found = roc_auc(np.arange(4.0) + 10, np.arange(30.0) - 40)
    assert found.value == 1.0
    assert (found.low, found.high) == (pytest.approx(0.05**0.25), 1.0)
    found = roc_auc(np.arange(4.0) - 40, np.arange(30.0))
    assert (found.low, found.high) == (0.0, pytest.approx(1 - 0.05**0.25))
    same = roc_auc(np.zeros(5), np.zeros(5))
    assert (same.value, same.low, same.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(("shift", "count"), [(0.0, 40), (1.0, 40), (2.0, 100)])
def test_the_interval_holds_the_truth_nine_times_in_ten(shift, count):
    from scipy.special import ndtr

    rng = np.random.default_rng(4)
    truth = ndtr(shift / 2**0.5)
    hits = 0
    for _ in range(400):
        found = roc_auc(rng.normal(shift, 1, count), rng.normal(0, 1, count * 2))
        hits += found.low <= truth <= found.high
    assert 0.86 < hits / 400 < 0.94
