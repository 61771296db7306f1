import numpy as np
import pytest
from worlds import PLENTY, World, measured, random_world

from anneal.errors import LawError
from anneal.laws import Points, band, bootstrap, fit, noise_floor, outcomes, predict
from anneal.laws.forms import R_STAR, R_STAR_SD


def rng(seed=0):
    return np.random.default_rng(seed)


def test_noise_floor_is_the_pooled_sd_with_its_chi_square_interval():
    points = Points(
        ("a", "b"),
        [0, 0, 0, 1, 1, 1],
        [1e5, 1e5, 1e5, 1e5, 1e5, 2e5],
        [1e5] * 6,
        [2.0, 2.1, 2.2, 3.0, 3.2, 2.5],
        [0, 1, 2, 0, 1, 0],
    )
    noise = noise_floor(points)
    # squares 0.02 + 0.02 over 2 + 1 degrees; chi2(3) quantiles 0.3518 and 7.8147 (tables)
    assert noise.degrees == 3
    assert noise.sd == pytest.approx((0.04 / 3) ** 0.5)
    assert noise.low == pytest.approx((0.04 / 7.8147) ** 0.5, rel=1e-3)
    assert noise.high == pytest.approx((0.04 / 0.3518) ** 0.5, rel=1e-3)


def test_without_repeats_there_is_no_noise_floor():
    points = Points(("a",), [0, 0], [1e5, 2e5], [1e5, 1e5], [2.0, 1.9], [0, 0])
    with pytest.raises(LawError, match="two seeds"):
        noise_floor(points)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("form", "repeats"), [("shifted_power", False), ("shifted_power_repeated", True)]
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(form, repeats):
    """36 worlds x 6 curves within the runs, at the largest budget and at 4x and 16x beyond it.

    Curves of one world share its floor and R*, so the tolerance is 3 standard errors of a mean of
    36 independent worlds, measured over the worlds (a binomial one of 216 would be too strict).
    """
    generator = rng(20)
    factors = np.array([0.4, 1.0, 4.0, 16.0])
    inside = []
    for _ in range(36):
        r_star = float(np.exp(generator.normal(np.log(10), 0.5))) if repeats else 1e9
        world = random_world(generator, r_star=r_star)
        pools = np.array([6e4, 1.5e5, PLENTY, PLENTY, 4e5, PLENTY]) if repeats else None
        points = measured(world, generator, pools=pools, matched=10.0 if repeats else None)
        law = bootstrap(
            fit(form, points, rng=generator, starts=12), points, draws=120, rng=generator
        )
        hits = []
        for x in 8e5 * factors:
            g, at = np.arange(6), np.full(6, x)
            unique = np.maximum(pools, x / 16) if repeats else np.full(6, PLENTY)
            low, high = band(predict(law, g, at, unique))
            truth = world.score(g, at, unique)
            hits.append(np.mean((low <= truth) & (truth <= high)))
        inside.append(hits)
    mean = np.mean(inside, axis=0)
    error = np.std(inside, axis=0, ddof=1) / np.sqrt(len(inside))
    assert (np.abs(mean - 0.9) <= 3 * np.maximum(error, 0.01)).all(), (mean, error)


@pytest.mark.statistical
def test_intervals_of_new_runs_cover_new_runs():
    generator = rng(21)
    hits = []
    for _ in range(30):
        world = random_world(generator)
        points = measured(world, generator)
        law = bootstrap(
            fit("shifted_power", points, rng=generator), points, draws=120, rng=generator
        )
        g, x = np.arange(6), np.full(6, 1.6e6)
        low, high = band(outcomes(law, g, x, x, rng=generator))
        new = world.score(g, x) * np.exp(0.006 * generator.standard_normal(6))
        hits.append(np.mean((low <= new) & (new <= high)))
    assert abs(np.mean(hits) - 0.9) <= 3 * np.std(hits, ddof=1) / np.sqrt(len(hits))


def test_what_the_runs_do_not_know_spreads_as_its_prior_does():
    points = measured(random_world(rng(22)), rng(23))  # no run repeats its pool
    law = bootstrap(fit("shifted_power_repeated", points, rng=rng()), points, draws=400, rng=rng())
    log_r = np.log(law.parameters()["r_star"])
    assert np.median(log_r) == pytest.approx(np.log(R_STAR), abs=0.2)
    assert log_r.std() == pytest.approx(R_STAR_SD, rel=0.15)
    fresh, stale = (predict(law, 0, [1e6], [u]) for u in (1e6, 1e5))
    assert np.ptp(band(stale)) > 1.5 * np.ptp(band(fresh))


def test_runs_that_repeat_teach_r_star():
    world = random_world(rng(24), groups=3, r_star=6.0)
    points = measured(world, rng(25), pools=[3e4, 6e4, PLENTY], matched=12.0)
    law = bootstrap(fit("shifted_power_repeated", points, rng=rng()), points, draws=200, rng=rng())
    low, high = band(law.parameters()["r_star"])
    assert low < 6.0 < high
    assert high / low < 3.0  # the prior's own 90% interval spans a factor of 27


def test_more_noise_and_fewer_degrees_of_freedom_widen_the_intervals():
    world = random_world(rng(26))

    def width(noise, seeds):
        points = measured(world, rng(27), noise=noise, seeds=seeds)
        law = bootstrap(fit("shifted_power", points, rng=rng()), points, draws=200, rng=rng())
        return np.median(np.ptp(band(predict(law, np.arange(6), np.full(6, 4e6))), axis=0))

    assert width(0.02, 3) > 1.8 * width(0.006, 3)
    assert width(0.006, 1) > width(0.006, 5)


def test_the_same_seed_gives_the_same_ensemble_and_draws_are_accounted_for():
    points = measured(random_world(rng(28)), rng(29))
    found = fit("power", points, rng=rng())
    one, two = (bootstrap(found, points, draws=150, rng=rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.thetas, two.thetas)
    assert one.draws + one.failed == 150
    assert one.thinned(40).draws == 40
    with pytest.raises(LawError, match="no curve for `z`"):
        one.code("z")


def test_a_fit_without_parameters_has_no_ensemble():
    points = Points(("a",), [0, 0], [1e5, 2e5], [1e5, 1e5], [2.0, 1.9], [0, 0])
    with pytest.raises(LawError, match="underdetermined"):
        bootstrap(fit("power", points, rng=rng()), points, rng=rng())


def test_a_world_without_noise_has_narrow_intervals():
    world = World(1.4, 3.4, np.array([0.4, 0.35]), np.array([1e4, 2e4]))
    points = measured(world, rng(), noise=1e-6)
    law = bootstrap(fit("shifted_power", points, rng=rng()), points, draws=100, rng=rng())
    assert np.ptp(band(predict(law, [0, 1], [1e7, 1e7])), axis=0).max() < 0.01
