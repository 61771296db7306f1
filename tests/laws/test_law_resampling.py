from typing import get_args

import numpy as np
import pytest
from worlds import measured, random_world

from anneal.errors import LawError
from anneal.laws import Points, band, bootstrap, fit, noise_floor, predict
from anneal.laws.resampling import Method, resample


def rng(seed=0):
    return np.random.default_rng(seed)


def thick(seeds=4, groups=2):
    """Every budget with every seed, so that pairs can be drawn."""
    world = random_world(rng(1), groups=groups)
    budgets = (5e4, 1e5, 2e5, 4e5, 8e5)
    g = np.repeat(np.arange(groups), 5 * seeds)
    x = np.tile(np.repeat(budgets, seeds), groups)
    score = world.score(g, x) * np.exp(0.006 * rng(2).standard_normal(x.size))
    seed = np.tile(np.arange(seeds), 5 * groups)
    return world, Points(tuple("ab"[:groups]), g, x, x, score, seed, world.base)


@pytest.fixture(scope="module")
def fitted():
    world, points = thick()
    return world, points, fit("shifted_power", points, rng=rng(3), starts=12)


@pytest.mark.parametrize("method", [m for m in get_args(Method) if m != "pairs"])
def test_redrawn_tables_scatter_about_the_fit_by_the_noise(fitted, method):
    _, points, found = fitted
    again = resample(found, points, method, draws=4000, rng=rng(4))
    expected = predict(found, points.group, points.tokens, points.unique)
    error = again.log_score - np.log(expected)
    if method != "residual":  # signs are random: no run is pulled to one side
        assert np.abs(error.mean(axis=0)).max() < 4 * again.scale / np.sqrt(4000) * 2
    # chi-square draws of the SD: mean square is scale^2 nu / (nu - 2)
    nu = noise_floor(points).degrees if method == "parametric" else found.degrees
    assert (error**2).mean() == pytest.approx(again.scale**2 * nu / (nu - 2), rel=0.1)


def test_wild_keeps_the_size_of_every_runs_own_residual(fitted):
    _, points, found = fitted
    again = resample(found, points, "wild", draws=50, rng=rng(5))
    expected = np.log(predict(found, points.group, points.tokens, points.unique))
    size = np.abs(again.log_score - expected)
    ratio = size / np.abs(found.residuals)
    np.testing.assert_allclose(ratio, np.tile(ratio[:, :1], (1, points.score.size)), rtol=1e-6)


def test_pairs_keep_the_runs_of_each_group_and_budgets_enough(fitted):
    _, points, found = fitted
    again = resample(found, points, "pairs", draws=300, rng=rng(6))
    for code in range(2):
        mine = points.group == code
        assert (again.counts[:, mine].sum(axis=1) == mine.sum()).all()
        budgets = np.unique(points.tokens)
        kept = [(again.counts[:, mine & (points.tokens == b)] > 0).any(axis=1) for b in budgets]
        assert (np.sum(kept, axis=0) >= 3).all()
    np.testing.assert_array_equal(again.log_score[7], np.log(points.score))


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_gives_an_interval_about_the_truth(fitted, method):
    world, points, found = fitted
    law = bootstrap(found, points, draws=150, rng=rng(7), method=method)
    assert law.method == method
    g, x = np.arange(2), np.full(2, 4e5)
    low, high = band(predict(law, g, x), level=0.99)
    assert ((low <= world.score(g, x)) & (world.score(g, x) <= high)).all()
    assert (high - low < 0.1).all()


def test_more_starts_than_one_are_raced_and_change_little(fitted):
    _, points, found = fitted
    one, many = (bootstrap(found, points, draws=60, rng=rng(8), starts=s) for s in (1, 12))
    assert many.draws == 60
    widths = [np.ptp(band(predict(law, 0, [1.6e6])), axis=0)[0] for law in (one, many)]
    assert widths[0] == pytest.approx(widths[1], rel=0.5)


def test_pairs_refuse_a_table_that_would_lose_budgets():
    points = measured(random_world(rng(9), groups=3), rng(10), budgets=(5e4, 2e5, 8e5), seeds=1)
    found = fit("shifted_power", points, rng=rng())
    with pytest.raises(LawError, match="`pairs` would lose budgets of `a`") as refused:
        bootstrap(found, points, rng=rng(), method="pairs")
    assert "smoothed wild" in refused.value.hint


def test_parametric_needs_seeds_or_a_noise():
    points = measured(random_world(rng(11), groups=3), rng(12), seeds=1)
    found = fit("shifted_power", points, rng=rng())
    with pytest.raises(LawError, match="no run was repeated"):
        bootstrap(found, points, rng=rng(), method="parametric")
    calm, rough = (
        bootstrap(found, points, draws=80, rng=rng(), method="parametric", noise=s)
        for s in (0.003, 0.03)
    )
    assert np.allclose(calm.noise, 0.003, rtol=0.01)
    width = [np.ptp(band(predict(law, 0, [8e5])), axis=0)[0] for law in (calm, rough)]
    assert width[1] > 3 * width[0]


def test_an_unknown_method_is_an_error_that_names_the_known_ones(fitted):
    _, points, found = fitted
    with pytest.raises(LawError, match="`jackknife` is unknown") as unknown:
        bootstrap(found, points, rng=rng(), method="jackknife")
    assert "pairs" in unknown.value.hint
