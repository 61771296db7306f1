import numpy as np
import pytest
from worlds import World, measured, random_world

from anneal.errors import LawError
from anneal.laws import band, bootstrap, fit, predict
from anneal.laws.families import SCATTERS, evidence, family, family_bootstrap, lift
from anneal.laws.forms import evaluate, prior
from anneal.laws.search import Assumed


def rng(seed=0):
    return np.random.default_rng(seed)


def thinned(points, group, budgets):
    return points.rows(~((points.group == group) & ~np.isin(points.tokens, budgets)))


@pytest.fixture(scope="module")
def world():
    return random_world(rng(1), groups=5, spread=0.15)


@pytest.fixture(scope="module")
def points(world):
    return measured(world, rng(2))


def mean_scatter(spread, worlds=2):
    means = []
    for seed in range(worlds):
        points = measured(random_world(rng(seed), spread=spread), rng(100 + seed))
        found = family("shifted_power", points, rng=rng(seed), starts=6)
        means.append(np.dot(np.log(found.scatters), found.weights))
    return np.exp(np.mean(means))


def test_the_runs_say_how_much_exponents_scatter():
    alike, apart = mean_scatter(0.02), mean_scatter(0.8)
    assert alike < 0.2
    assert apart > 0.4


def test_evidence_is_the_integral_over_the_parameters():
    """One source and no floor leave two parameters, few enough to integrate on a grid."""
    world = random_world(rng(3), groups=1)
    points = measured(world, rng(4), seeds=3)
    noise, wide = 0.02, 1.0  # a wide delta: least squares, where Laplace is nearly exact
    found = fit("pure_power", points, rng=rng(), noise=noise, delta=wide)
    assumed = prior(found.form, found.frame)
    a, b = np.meshgrid(
        found.theta[1] + np.linspace(-1.5, 1.5, 301), found.theta[2] + np.linspace(-0.2, 0.2, 301)
    )
    theta = np.column_stack([np.full(a.size, found.theta[0]), a.ravel(), b.ravel()])
    score, _ = evaluate(found.form, found.frame, theta, at=points)
    loss = (np.log(score / points.score) ** 2).sum(axis=1) / (2 * noise**2)
    away = theta - assumed.centre
    value = loss + 0.5 * ((away @ assumed.precision) * away).sum(axis=1)
    cell = (3.0 / 300) * (0.4 / 300)
    integral = np.exp(-value).sum() * cell / (2 * np.pi)
    known = assumed.precision[1:, 1:]
    exact = np.log(integral) + 0.5 * np.linalg.slogdet(known)[1]
    assert evidence(found, points, noise=noise) == pytest.approx(exact, abs=0.05)


def test_weights_sum_to_one_and_the_words_name_the_choice(points):
    found = family("shifted_power", points, rng=rng(), starts=8, control="a")
    assert sum(found.weights) == pytest.approx(1.0)
    assert sorted(found.scatters) == sorted(SCATTERS)
    assert list(found.weights) == sorted(found.weights, reverse=True)
    assert found.fit.assumed.scatter == found.scatters[0]
    assert f"SD {found.scatters[0]:g}" in found.words
    assert found.fit.pooled == ()


def test_held_out_error_may_weigh_instead_and_gives_way_where_there_is_no_budget_to_spare(points):
    assert family("shifted_power", points, rng=rng(), starts=6, by="held-out").by == "held-out"
    few = points.rows(np.isin(points.tokens, (5e4, 2e5, 8e5)))
    assert family("shifted_power", few, rng=rng(), starts=6, by="held-out").by == "evidence"


@pytest.mark.parametrize(("budgets", "words"), [((2e5, 8e5), "2 budgets"), ((2e5,), "1 budget;")])
def test_a_thin_source_takes_its_exponent_from_the_family_and_says_so(
    world, points, budgets, words
):
    thin = thinned(points, 3, budgets)
    found = family("shifted_power", thin, rng=rng(), starts=8)
    assert len(found.fit.pooled) == 1
    assert found.fit.pooled[0].startswith(f"`d`: {words}")
    assert "family's" in found.fit.pooled[0]
    law = family_bootstrap(found, thin, draws=150, rng=rng(5))
    at = np.array([1e5, 8e5, 3.2e6])
    low, high = band(predict(law, 3, at), level=0.98)
    truth = world.score(np.full(3, 3), at)
    assert ((low <= truth) & (truth <= high)).all()
    full = bootstrap(fit("shifted_power", points, rng=rng()), points, draws=150, rng=rng(5))
    wide, narrow = (np.ptp(band(predict(law_, 3, [3.2e6])), axis=0)[0] for law_ in (law, full))
    if len(budgets) == 1:
        assert wide > 1.2 * narrow
        with pytest.raises(LawError, match="`d` has 1 distinct budgets"):
            fit("shifted_power", thin, rng=rng(), throw=True)


def test_the_exponent_of_a_source_with_one_budget_is_the_mean_of_the_others():
    world = World(1.5, 3.4, np.full(5, 0.5), np.array([1e4, 2e4, 3e4, 2e4, 2.5e4]))
    thin = thinned(measured(world, rng(6), noise=5e-4), 2, (2e5,))
    found = fit("shifted_power", thin, rng=rng(), assumed=Assumed(scatter=0.1, pool=True))
    own = [found.parameters[f"exponent[{n}]"] for n in "abde"]
    mean = np.exp(np.mean(np.log(own)))
    assert found.parameters["exponent[c]"] == pytest.approx(mean, rel=0.05)


def test_a_source_without_runs_and_a_family_that_is_all_thin_are_refused(points):
    nothing = points.rows(points.group != 2)
    with pytest.raises(LawError, match="`c` has 0 distinct budgets"):
        family("shifted_power", nothing, rng=rng())
    thin = points.rows(np.isin(points.tokens, (5e4, 8e5)))
    with pytest.raises(LawError, match=r"underdetermined: .* cannot carry"):
        family("shifted_power", thin, rng=rng())


def test_the_control_is_a_member_and_lift_is_taken_within_each_draw(world, points):
    with pytest.raises(LawError, match="control `z` is not among the groups"):
        family("shifted_power", points, rng=rng(), control="z")
    found = family("shifted_power", points, rng=rng(), starts=6, control="a")
    law = family_bootstrap(found, points, draws=200, rng=rng(7))
    x = np.array([8e5])
    gain = lift(law, 0, 1, x)
    truth = world.score(np.array([0]), x) - world.score(np.array([1]), x)
    low, high = band(gain, level=0.98)
    assert low[0] <= truth[0] <= high[0]
    # far away both curves hang on the same floor: their difference is surer than either
    far = np.array([1e8])
    assert lift(law, 0, 1, far).std() < 0.8 * predict(law, 1, far).std() * np.sqrt(2)


def test_one_exponent_leaves_nothing_to_scatter(points):
    found = family("shifted_power_one_exponent", points, rng=rng(), starts=6)
    assert found.weights == (1.0,)
    assert "nothing to scatter" in found.words
    with pytest.raises(LawError, match="may rise"):
        family("log_linear", points, rng=rng())
