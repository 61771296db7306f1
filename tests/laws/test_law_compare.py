import numpy as np
import pytest
from worlds import PLENTY, World, measured, random_world

from anneal.errors import LawError
from anneal.laws import Points, bootstrap, crossover, fit, hold_out, predict, probability_best


def rng(seed=0):
    return np.random.default_rng(seed)


def ensemble(world, *, noise=0.003, draws=200, form="shifted_power", **more):
    points = measured(world, rng(1), noise=noise, **more)
    return bootstrap(fit(form, points, rng=rng()), points, draws=draws, rng=rng())


def crossing_world():
    """Group a is ahead early, b late; the exact crossing by bisection."""
    world = World(1.3, 3.3, np.array([0.25, 0.55]), np.array([5e3, 4e4]))
    low, high = 1e4, 1e8
    for _ in range(100):
        middle = np.sqrt(low * high)
        ahead = world.score([0], [middle])[0] < world.score([1], [middle])[0]
        low, high = (middle, high) if ahead else (low, middle)
    return world, low


def test_a_planted_crossover_is_found_with_an_interval_around_it():
    world, truth = crossing_world()
    found = crossover(ensemble(world), 0, 1, low=5e4, high=1e7)
    assert found.found
    assert found.probability > 0.9
    assert found.at[1] <= truth <= found.at[2]
    assert found.at[0] == pytest.approx(truth, rel=0.3)
    assert found.first_ahead < 0.05


def test_curves_that_do_not_cross_say_so():
    world = World(1.3, 3.3, np.array([0.4, 0.4]), np.array([5e3, 4e4]))
    found = crossover(ensemble(world), 0, 1, low=5e4, high=1e7)
    assert (found.found, found.at) == (False, None)
    assert found.message.startswith("no crossover in range")
    assert found.first_ahead > 0.95


def test_equal_curves_are_a_tie():
    world = World(1.3, 3.3, np.array([0.4, 0.4]), np.array([1e4, 1e4]))
    found = crossover(ensemble(world), 0, 1, low=5e4, high=1e6, noise=0.05)
    assert found.tie
    assert "tie" in found.message


def test_a_fixed_cost_moves_the_crossover_on_the_money_axis():
    world, truth = crossing_world()
    law = ensemble(world)
    price = 1e-6

    def plain(x):
        return price * x

    def with_fee(x):
        return price * x + 0.5

    even = crossover(law, 0, 1, low=0.05, high=30.0, axes=(plain, plain))
    late = crossover(law, 0, 1, low=0.05, high=30.0, axes=(plain, with_fee))
    assert even.at[0] == pytest.approx(truth * price, rel=0.3)
    assert late.at[0] > even.at[0]
    never = crossover(law, 0, 1, low=0.05, high=0.4, axes=(plain, with_fee))
    assert "never affordable" in never.message


def test_repetition_brings_a_crossover_that_fresh_tokens_do_not_have():
    world = World(1.3, 3.3, np.array([0.4, 0.4]), np.array([1e4, 2e4]), r_star=5.0)
    law = ensemble(
        world, form="shifted_power_repeated", pools=[5e4, PLENTY], matched=8.0, noise=0.002
    )
    assert not crossover(law, 0, 1, low=5e4, high=4e6).found
    scarce = crossover(law, 0, 1, low=5e4, high=4e6, unique=(5e4, PLENTY))
    assert scarce.found
    grid = np.geomspace(5e4, 4e6, 4000)
    gap = world.score(np.zeros(4000, int), grid, 5e4) - world.score(np.ones(4000, int), grid)
    truth = grid[np.argmax(gap > 0)]
    assert scarce.at[1] <= truth <= scarce.at[2]


def test_hold_out_prefers_the_shape_of_the_truth_and_beats_the_baselines():
    points = measured(random_world(rng(30), exponent=0.5), rng(31), noise=0.002)
    table = hold_out(["log_linear", "shifted_power"], points, rng=rng(), draws=100)
    rows = {r.approach: r for r in table.rows}
    assert table.chosen == "shifted_power"
    assert rows["average of forms"].chosen and not table.beaten_by
    assert rows["average of forms"].mae < 1.5 * rows["shifted_power"].mae
    assert rows["shifted_power"].mae < 0.5 * min(
        rows[n].mae for n in ("log_linear", "last budget", "mean law", "constant")
    )
    assert rows["shifted_power"].coverage >= 4 / 6
    assert rows["shifted_power"].rank_correlation > 0.8
    assert rows["constant"].rank_correlation is None
    assert rows["constant"].top1_regret > 0
    assert table.budget == points.largest
    assert len(table.predictions) == table.runs == 6
    assert "shifted_power" in table.reason


def test_the_carried_ranking_is_right_about_order_and_wrong_about_size():
    world = World(1.3, 3.3, np.array([0.4, 0.4, 0.4]), np.array([5e3, 1e4, 4e4]))
    table = hold_out(["shifted_power"], measured(world, rng(2), noise=1e-3), rng=rng(), draws=50)
    carried = next(r for r in table.rows if r.approach == "last budget")
    assert carried.rank_correlation == pytest.approx(1.0)
    assert carried.top1_regret == 0.0
    truth = world.score(np.arange(3), np.full(3, 4e5)) - world.score(np.arange(3), np.full(3, 8e5))
    assert carried.mae == pytest.approx(truth.mean(), rel=0.1)


def test_among_equals_the_fewest_parameters_win():
    world = World(1.3, 3.3, np.full(4, 0.4), np.array([5e3, 1e4, 2e4, 4e4]))
    points = measured(world, rng(3), noise=0.01)
    names = ["shifted_power", "shifted_power_one_exponent"]
    assert hold_out(names, points, rng=rng(), draws=50).chosen == "shifted_power_one_exponent"


def test_a_decision_that_repeats_is_left_to_forms_that_price_repetition():
    points = measured(random_world(rng(4)), rng(5))
    names = ["shifted_power", "shifted_power_repeated"]
    assert hold_out(names, points, rng=rng(), draws=50).chosen == "shifted_power"
    assert hold_out(names, points, rng=rng(), draws=50, repeats=True).chosen == names[1]


def test_forms_that_cannot_be_fitted_stay_in_the_table_with_their_reason():
    points = measured(random_world(rng(6), groups=2), rng(7), budgets=(1e5, 2e5))
    table = hold_out(["shifted_power"], points, rng=rng())
    assert table.chosen == ""
    assert "distinct budgets" in table.rows[0].message
    single = Points(("a",), [0, 0], [1e5, 1e5], [1e5, 1e5], [2.0, 1.9], [0, 1])
    with pytest.raises(LawError, match="same budget"):
        hold_out(["power"], single, rng=rng())


def test_probability_best_counts_draws_and_grants_ties():
    scores = np.array([[1.0, 1.1], [1.2, 1.0], [1.0, 1.3], [1.0, 1.05]])
    np.testing.assert_allclose(probability_best(scores), [0.75, 0.25])
    np.testing.assert_allclose(probability_best(scores, margin=0.06), [0.75, 0.5])
    law = ensemble(World(1.3, 3.3, np.array([0.4, 0.4]), np.array([5e3, 4e4])))
    assert probability_best(predict(law, [0, 1], [1e6, 1e6]))[0] > 0.99
