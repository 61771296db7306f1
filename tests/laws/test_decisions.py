from functools import partial
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal.errors import LawError
from anneal.laws import Points
from anneal.laws.decisions import (
    accuracy,
    accuracy_by_budget,
    count_pairs,
    expected_ranks,
    over_draws,
    over_runs,
    regret,
    spearman,
    ties,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_pairs_are_counted_as_datadecide_does():
    predicted, measured = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    pairs = count_pairs(predicted, measured)
    assert (pairs.right, pairs.decided, pairs.undecided, pairs.tied) == (5.0, 6, 0, 0)
    assert pairs.accuracy == pytest.approx(5 / 6)


def test_ties_at_the_noise_floor_are_counted_and_left_out():
    measured = np.array([1.0, 1.004, 1.5])
    pairs = count_pairs(np.array([2.0, 1.0, 3.0]), measured, noise=0.005)
    assert (pairs.decided, pairs.tied) == (2, 1)
    assert pairs.accuracy == 1.0  # the one wrong pair has no right order
    assert count_pairs(np.array([2.0, 1.0, 3.0]), measured).accuracy == pytest.approx(2 / 3)
    assert count_pairs(measured, measured, noise=1.0).accuracy is None
    assert np.isnan(accuracy(measured, measured, noise=1.0)).all()


def test_a_prediction_that_cannot_tell_gets_half_of_the_pair():
    pairs = count_pairs(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.5, 2.0]))
    assert (pairs.right, pairs.undecided) == (2.5, 1)
    wide = count_pairs(np.array([1.0, 1.05, 2.0]), np.array([1.0, 1.5, 2.0]), margin=0.1)
    assert wide == pairs


scores = st.lists(st.integers(0, 5), min_size=2, max_size=6)


@settings(max_examples=80, deadline=None)
@given(scores, st.integers(1, 6), st.integers(0, 2**31))
def test_regret_is_the_mean_over_all_choices_among_equals(guess, first, seed):
    truth = rng(seed).normal(size=len(guess))
    n = min(first, len(guess))
    found = []
    for order in permutations(range(len(guess))):
        values = [guess[i] for i in order]
        if values == sorted(values):  # one way of breaking the ties
            found.append(min(truth[i] for i in order[:n]) - truth.min())
    expected = np.mean(found)
    got = regret(np.array(guess, float), truth, first=first)[0]
    assert got == pytest.approx(expected, abs=1e-12)


def test_regret_falls_as_more_are_carried_on_and_a_right_ranking_has_none():
    generator = rng(1)
    truth, guess = generator.normal(size=(2, 50, 8))
    by_first = np.array([regret(guess, truth, first=n) for n in range(1, 9)])
    assert (np.diff(by_first, axis=0) <= 1e-12).all()
    np.testing.assert_allclose(by_first[-1], 0.0, atol=1e-12)
    np.testing.assert_allclose(regret(2 * truth + 3, truth), 0.0, atol=1e-12)


def test_spearman_is_scipys_and_nothing_where_it_has_no_meaning():
    from scipy import stats

    guess, truth = np.round(rng(2).normal(size=(2, 20, 7)), 1)
    expected = [stats.spearmanr(g, t).statistic for g, t in zip(guess, truth, strict=True)]
    np.testing.assert_allclose(spearman(guess, truth), expected)
    assert np.isnan(spearman(np.ones(5), truth[0, :5])).all()
    assert np.isnan(spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0]))).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1, 2), min_size=2, max_size=7), st.floats(0, 0.3))
def test_groups_of_ties_are_a_partition_of_pairs_within_the_margin(values, margin):
    table = np.array(values)
    found = ties(table, margin=margin)
    pairs = combinations(range(table.size), 2)
    near = {(i, j) for i, j in pairs if not abs(table[i] - table[j]) > margin}
    assert set(found.pairs) == near
    assert sorted(i for group in found.groups for i in group) == list(range(table.size))
    for group in found.groups:
        assert all(tuple(sorted((group[0], i))) in near for i in group[1:])
    heads = [table[group[0]] for group in found.groups]
    assert all(b - a > margin for a, b in zip(heads, heads[1:], strict=False))


def test_being_tied_is_not_passed_on():
    found = ties(np.array([1.0, 1.1, 1.2]), margin=0.15)
    assert found.pairs == ((0, 1), (1, 2))
    assert found.groups == ((0, 1), (2,))


def test_draws_that_disagree_are_a_tie():
    steady = np.array([1.0, 1.2]) + 0.01 * rng(3).standard_normal((400, 2))
    shaky = np.array([1.0, 1.2]) + 0.3 * rng(3).standard_normal((400, 2))
    assert ties(steady, margin=0.05).pairs == ()
    assert ties(shaky, margin=0.05).pairs == ((0, 1),)


def test_the_interval_over_draws_widens_with_them_and_holds_the_value():
    measured = np.linspace(1.0, 1.5, 6)
    noise = rng(4).standard_normal((500, 6))
    widths = []
    for sd in (0.001, 0.1, 0.4):
        found = over_draws(accuracy, measured + sd * noise, measured)
        assert found.low <= found.value <= found.high
        widths.append(found.high - found.low)
    assert widths[0] == 0.0
    assert widths[0] < widths[1] < widths[2]
    top2 = over_draws(partial(regret, first=2), measured + 0.4 * noise, measured)
    top1 = over_draws(regret, measured + 0.4 * noise, measured)
    assert 0 <= top2.high < top1.high


def test_the_interval_over_runs_holds_the_accuracy_of_the_true_means():
    """200 tables of 6 sources x 3 runs on either side, whose noise-free accuracy is known.

    An accuracy moves in steps of one pair, so 80% to 100% is asked of the interval.
    """
    generator = rng(5)
    small, large = generator.normal(size=(2, 6))
    truth = float(accuracy(small, large)[0])
    code = np.repeat(np.arange(6), 3)
    hits = []
    for _ in range(200):
        sides = [(s[code] + 0.25 * generator.standard_normal(18), code) for s in (small, large)]
        found = over_runs(accuracy, *sides, rng=generator, draws=200)
        hits.append(found.low - 1e-9 <= truth <= found.high + 1e-9)
    assert 0.8 <= np.mean(hits) <= 1.0


def test_single_runs_are_shaken_by_the_noise_floor():
    code = np.arange(4)
    side = (np.array([1.0, 1.01, 1.02, 1.03]), code)
    still = over_runs(accuracy, side, side, rng=rng(), noise=0.0)
    shaken = over_runs(accuracy, side, side, rng=rng(), noise=0.02)
    assert (still.low, still.high) == (1.0, 1.0)
    assert shaken.low < 0.7


def test_accuracy_by_budget_rises_where_larger_budgets_say_more():
    generator = rng(6)
    truth = np.linspace(1.0, 1.4, 8)
    groups, tokens = np.meshgrid(np.arange(8), [1e5, 4e5, 1.6e6], indexing="ij")
    groups, tokens = np.tile(groups.ravel(), 3), np.tile(tokens.ravel(), 3)
    score = truth[groups] + (3e4 / tokens) * generator.standard_normal(groups.size) + 0.5
    tokens = tokens * generator.uniform(1.0, 1.02, tokens.size)  # whole steps
    points = Points(tuple("abcdefgh"), groups, tokens, tokens, score, np.zeros(groups.size))
    rows = accuracy_by_budget(points, (truth, np.arange(8)), rng=generator, noise=0.06)
    assert [r.sources for r in rows] == [8, 8, 8]
    # neighbours are 0.057 apart: ties
    assert all(r.pairs.tied == 7 and r.pairs.decided == 21 for r in rows)
    values = [r.accuracy.value for r in rows]
    assert values[0] < values[-1] == 1.0
    assert rows[0].accuracy.high - rows[0].accuracy.low > 0


def test_bad_tables_are_one_clear_error():
    ok = np.array([1.0, 2.0, 3.0])
    with pytest.raises(LawError, match="2 predicted and 3 measured"):
        accuracy(np.array([1.0, 2.0]), ok)
    with pytest.raises(LawError, match="not a number"):
        spearman(np.array([1.0, np.nan, 2.0]), ok)
    with pytest.raises(LawError, match="at least one source"):
        regret(ok, ok, first=0)
    with pytest.raises(LawError, match="predicted sources"):
        over_runs(accuracy, (ok, np.array([0, 1, 2])), (ok, np.array([0, 1, 3])), rng=rng())
    with pytest.raises(LawError, match="no meaning"):
        over_draws(partial(accuracy, noise=9.0), np.tile(ok, (5, 1)), ok)


def test_the_order_of_a_law_does_not_follow_a_draw_that_runs_away():
    draws = np.tile([1.0, 1.1, 1.2], (50, 1))
    draws[0, 0] = 1e3  # as an exponent near nothing does far beyond the data
    assert draws.mean(axis=0).argmin() == 1
    ranks = expected_ranks(draws)
    assert ranks.argmin() == 0
    assert ranks == pytest.approx([1.04, 1.98, 2.98])
    assert ties(draws, margin=0.0).groups == ((0,), (1,), (2,))
