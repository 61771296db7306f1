import numpy as np
import pytest
from scipy.optimize import minimize
from worlds import measured, random_world

from anneal.laws import Points, bootstrap, fit, outcomes, predict
from anneal.laws.noise import SLOPE_SD, indistinct, noise_shape
from anneal.laws.search import Assumed

BUDGETS = np.array([1e5, 2e5, 4e5, 8e5, 1.6e6])


def rng(seed=0):
    return np.random.default_rng(seed)


def repeated(generator, *, slope, seeds, budgets=BUDGETS, groups=1):
    g = np.repeat(np.arange(groups), budgets.size * seeds)
    x = np.tile(np.repeat(budgets, seeds), groups)
    sd = 0.01 * (x / 4e5) ** slope
    score = (2.0 + 50.0 * x**-0.4) * np.exp(sd * generator.standard_normal(x.size))
    return Points(tuple("abc"[:groups]), g, x, x, score, np.tile(np.arange(seeds), x.size // seeds))


def test_noise_that_falls_with_the_budget_is_found_where_runs_are_repeated():
    shape = noise_shape(repeated(rng(1), slope=-0.5, seeds=60))
    assert shape.slope == pytest.approx(-0.5, abs=3 * shape.slope_sd)
    assert shape.slope_sd < 0.06
    assert shape.relative == pytest.approx(0.01, rel=0.15)
    # beyond the largest budget noise is not promised to fall further; within it follows the law
    far, edge, inside = shape.at(np.array([1.6e8, 1.6e6, 1e5]))
    assert far == edge < 1.0 < inside


def test_the_mode_is_the_one_that_scipy_finds():
    points = repeated(rng(2), slope=0.3, seeds=4)
    shape = noise_shape(points)
    log = np.log(points.score).reshape(5, 4)
    spread = ((log - log.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    depth = np.log(BUDGETS / shape.reference)

    def posterior(free):
        log_sd = free[0] + free[1] * depth
        return (3 * log_sd + 0.5 * spread * np.exp(-2 * log_sd)).sum() + 0.5 * (
            free[1] / SLOPE_SD
        ) ** 2

    theirs = minimize(posterior, [-4.0, 0.0], options={"gtol": 1e-9}).x
    assert np.log(shape.relative) == pytest.approx(theirs[0], abs=1e-4)
    assert shape.slope == pytest.approx(theirs[1], abs=1e-4)


def test_few_repeats_leave_the_noise_the_same_at_every_budget():
    pairs = noise_shape(repeated(rng(3), slope=-0.5, seeds=2))
    assert abs(pairs.slope) < 0.5
    assert pairs.slope_sd > 0.12
    one = noise_shape(measured(random_world(rng(4)), rng(5)))  # seeds at the middle budget alone
    assert (one.slope, one.degrees) == (0.0, 12)
    assert (one.at(BUDGETS) == 1.0).all()
    none = noise_shape(measured(random_world(rng(4)), rng(5), seeds=1))
    assert (none.slope, none.relative, none.degrees) == (0.0, 0.0, 0)


def test_calm_runs_count_for_more_when_the_noise_is_known_to_depend_on_the_budget():
    generator = rng(6)
    truth = 2.0 + 50.0 * BUDGETS**-0.4
    errors = {"same": [], "shape": []}
    for _ in range(12):
        points = repeated(generator, slope=-1.0, seeds=3)
        shape = noise_shape(points)
        for name, assumed in (("same", Assumed()), ("shape", Assumed(shape=shape))):
            law = fit("power", points, rng=generator, starts=6, assumed=assumed)
            errors[name].append(np.abs(predict(law, 0, BUDGETS) - truth)[-2:].mean())
    assert np.mean(errors["shape"]) < 0.9 * np.mean(errors["same"])


def test_new_runs_have_the_noise_of_their_budget():
    points = repeated(rng(7), slope=-0.8, seeds=8)
    shape = noise_shape(points)
    found = fit("power", points, rng=rng(), assumed=Assumed(shape=shape))
    assert found.residual_sd == pytest.approx(shape.relative, rel=0.3)
    law = bootstrap(found, points, draws=400, rng=rng())
    x = np.array([1e5, 1.6e6])
    group = np.zeros(2, dtype=int)
    noise = np.log(outcomes(law, group, x, x, rng=rng()) / predict(law, group, x))
    early, late = noise.std(axis=0)
    assert early / late == pytest.approx(16**-shape.slope, rel=0.25)


def test_sources_within_noise_are_called_a_tie_and_sources_apart_are_not():
    generator = rng(8)
    said = [bool(indistinct(repeated(generator, slope=0, seeds=3, groups=3))) for _ in range(200)]
    assert np.mean(said) == pytest.approx(0.95, abs=0.05)  # level 5%, +- 3 standard errors
    apart = measured(random_world(rng(9), groups=3), rng(10))
    assert indistinct(apart) == ""
    same = repeated(rng(11), slope=0, seeds=3, groups=3)
    assert "3 groups differ no more than seeds do (F = " in indistinct(same)
    assert fit("power", same, rng=rng(), starts=8).notes == (indistinct(same),)
    assert indistinct(measured(random_world(rng(9), groups=3), rng(10), seeds=1)) == ""
