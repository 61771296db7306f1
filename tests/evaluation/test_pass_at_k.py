"""pass@k against enumeration, and intervals against known ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from anneal.errors import SettingsError
from anneal.evaluation.pass_at_k import (
    binomial,
    bootstrap_mean,
    bootstrap_ratio,
    over_problems,
    pass_at_k,
)
from anneal.evaluation.values import LEVEL


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.data())
def test_the_estimator_is_the_mean_over_all_ways_of_choosing(counts, data):
    n, c = counts
    k = data.draw(st.integers(1, n))
    ways = [any(i < c for i in chosen) for chosen in combinations(range(n), k)]
    assert pass_at_k(n, c, k) == pytest.approx(np.mean(ways))


def test_it_is_unbiased_for_independent_completions():
    rng = np.random.default_rng(0)
    chance, n, k = 0.3, 10, 4
    found = [pass_at_k(n, int(c), k) for c in rng.binomial(n, chance, 20_000)]
    assert np.mean(found) == pytest.approx(1 - (1 - chance) ** k, abs=0.005)


def test_many_completions_do_not_overflow():
    assert 0 < pass_at_k(10_000, 3, 100) < 0.04


@pytest.mark.parametrize("k", [0, -1, 6])
def test_a_k_that_cannot_be_is_an_error(k):
    with pytest.raises(SettingsError, match=f"pass@{k} of 5"):
        pass_at_k(5, 2, k)


def test_problems_are_drawn_again_with_all_their_completions():
    """A thousand completions of four problems are worth four problems, not four thousand items."""
    few = over_problems([(1, 1), (1, 0), (1, 1), (1, 0)], 1)
    many = over_problems([(1000, 1000), (1000, 0), (1000, 1000), (1000, 0)], 1)
    assert few == many
    assert few.interval == "bootstrap"
    assert few.value == 0.5
    assert few.high - few.low >= 0.5
    # drawing four of (1, 0, 1, 0): the standard deviation of the mean is 0.25
    assert few.stderr == pytest.approx(0.25, abs=0.02)


def test_the_bootstrap_has_the_spread_of_the_mean():
    values = np.random.default_rng(1).uniform(size=400)
    made = bootstrap_mean(values, seed=3)
    assert made.stderr == pytest.approx(values.std() / 20, rel=0.1)
    assert made.low < made.value < made.high
    assert made == bootstrap_mean(values, seed=3)
    assert made != bootstrap_mean(values, seed=4)


def test_a_ratio_weighs_its_items():
    made = bootstrap_ratio(np.array([1.0, 9.0]), np.array([1.0, 3.0]))
    assert made.value == 2.5
    assert bootstrap_ratio(np.array([1.0]), np.array([2.0])).interval == "none"


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (3, 17), (160, 164)])
def test_the_binomial_interval_is_wilsons(right, n):
    made = binomial(right, n)
    known = binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    assert (made.low, made.high) == (pytest.approx(known.low), pytest.approx(known.high))


def test_all_alike_is_no_certainty():
    none = over_problems([(10, 0)] * 3, 1)
    assert (none.value, none.interval) == (0.0, "binomial")
    assert none.high > 0.4
    assert over_problems([(10, 10)] * 3, 1).low < 0.6
