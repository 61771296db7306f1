import numpy as np
import pytest
from worlds import PLENTY, measured, random_world

from anneal.laws import blend, bootstrap, fit, predict
from anneal.laws.prediction import forecast


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def law():
    points = measured(
        random_world(rng(1), groups=3, r_star=8.0), rng(2), pools=[1e5, PLENTY, PLENTY]
    )
    points = points.rows(~((points.group == 1) & (points.tokens > 4e5)))
    found = fit("shifted_power_repeated", points, rng=rng(), starts=12)
    return bootstrap(found, points, draws=200, rng=rng(3))


def test_a_run_is_less_certain_than_the_curve_and_both_hold_the_median(law):
    p = forecast(law, [0, 1, 2], 8e5, [1e5, 8e5, 8e5], rng=rng())
    assert (p.run_low < p.low).all() and (p.low < p.value).all()
    assert (p.value < p.high).all() and (p.high < p.run_high).all()
    np.testing.assert_allclose(
        p.value, np.median(predict(law, [0, 1, 2], 8e5, [1e5, 8e5, 8e5]), axis=0)
    )
    wide = forecast(law, [0, 1, 2], 8e5, [1e5, 8e5, 8e5], rng=rng(), level=0.99)
    assert (wide.high - wide.low > p.high - p.low).all()


def test_the_extrapolation_is_that_of_the_group_and_is_put_in_words(law):
    p = forecast(law, [2, 1, 1, 2, 0], [8e5, 8e5, 8e6, 1e4, 8e5], 8e5, rng=rng())
    np.testing.assert_allclose(p.extrapolation, [1.0, 2.0, 20.0, 5.0, 1.0])
    assert p.labels == ("c", "b", "b", "c", "a")
    assert p.words[0] == "" == p.words[4]
    assert p.words[1] == "`b`: 2x beyond the largest run"
    assert (
        p.words[2] == "`b`: 20x beyond the largest run: far from any run; 10 epochs, runs reached 1"
    )
    assert p.words[3].startswith("`c`: 5x below the smallest run")


def test_more_epochs_than_any_run_is_an_extrapolation_too(law):
    p = forecast(law, 0, [8e5], [2e4], rng=rng())  # its runs reached 8 epochs of 100k tokens
    assert p.extrapolation[0] == 1.0
    assert p.words == ("`a`: 40 epochs, runs reached 8",)


def test_an_average_of_forms_predicts_the_same_way():
    points = measured(random_world(rng(4), groups=2), rng(5))
    several = blend(["power", "shifted_power"], points, rng=rng(), draws=80)
    p = forecast(several, [0, 1], 3.2e6, rng=rng())
    np.testing.assert_allclose(p.extrapolation, 4.0)
    assert (p.run_high - p.run_low > p.high - p.low).all()
