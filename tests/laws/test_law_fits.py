import dataclasses
import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from worlds import PLENTY, World, measured, random_world

from anneal.errors import LawError
from anneal.laws import FORMS, Points, fit, predict
from anneal.laws.engine import huber
from anneal.laws.forms import Frame, Where, evaluate, layout, prior, starting_points


def rng(seed=0):
    return np.random.default_rng(seed)


def table(score, budgets, *, unique=None, anchor=None, groups=2):
    """Exact scores of a formula, every group at every budget."""
    g, x = (np.array(c) for c in zip(*itertools.product(range(groups), budgets), strict=True))
    x = x.astype(float)
    u = np.full(x.size, PLENTY) if unique is None else unique(g, x)
    return Points(tuple("abcdef"[:groups]), g, x, u, score(g, x, u), np.zeros(x.size), anchor)


LADDER = (2e4, 5e4, 1e5, 2e5, 4e5, 8e5)
A, TAU, EXP = np.array([40.0, 90.0]), np.array([1e4, 4e4]), np.array([0.35, 0.45])


@pytest.mark.parametrize(
    ("form", "score", "truth"),
    [
        (
            "power",
            lambda g, x, u: 1.5 + A[g] * x ** -EXP[g],
            {"floor": 1.5, "exponent[a]": 0.35, "exponent[b]": 0.45, "scale[a]": 40.0},
        ),
        (
            "shifted_power",
            lambda g, x, u: 1.5 + 2.0 * (1 + x / TAU[g]) ** -EXP[g],
            {"floor": 1.5, "exponent[a]": 0.35, "scale[a]": 1e4, "scale[b]": 4e4},
        ),
        (
            "shifted_power_one_exponent",
            lambda g, x, u: 1.5 + 2.0 * (1 + x / TAU[g]) ** -0.4,
            {"floor": 1.5, "exponent": 0.4, "scale[b]": 4e4},
        ),
        (
            "shifted_power_overfit",
            lambda g, x, u: (
                1.5 + 2.0 * (1 + x / TAU[g]) ** -EXP[g] + 0.02 * np.maximum(x / u - 1, 0)
            ),
            {"floor": 1.5, "exponent[b]": 0.45, "penalty": 0.02},
        ),
        (
            "log_linear",
            lambda g, x, u: 2.0 + g + np.array([0.01, -0.02])[g] * np.log2(1 + x / 2e4),
            {"level[a]": 2.0, "level[b]": 3.0, "slope[a]": 0.01, "slope[b]": -0.02},
        ),
    ],
)
def test_planted_parameters_come_back_without_noise(form, score, truth):
    pools = (lambda g, x: np.where(g == 0, 6e4, PLENTY)) if "overfit" in form else None
    points = table(score, LADDER, anchor=3.5, unique=pools)
    found = fit(form, points, rng=rng(), noise=1e-4)
    assert found.outcome == "ok"
    for name, value in truth.items():
        assert found.parameters[name] == pytest.approx(value, rel=0.05), name
    assert np.abs(found.residuals).max() < 2e-4


def test_r_star_is_recovered_where_runs_repeat():
    world = World(1.4, 3.4, np.array([0.4, 0.35]), np.array([1e4, 2e4]), r_star=6.0)
    points = measured(world, rng(), noise=1e-4, pools=[3e4, PLENTY], matched=12.0)
    found = fit("shifted_power_repeated", points, rng=rng(), noise=1e-4)
    assert found.parameters["r_star"] == pytest.approx(6.0, rel=0.1)
    assert found.parameters["floor"] == pytest.approx(1.4, abs=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_are_those_of_the_function(form):
    world = random_world(rng(1), groups=3, r_star=8.0)
    points = measured(world, rng(2), pools=[4e4, 1e5, PLENTY], matched=9.0)
    row = FORMS[form]
    frame = Frame.of(row, points)
    theta = starting_points(row, frame, points, 5, rng(3))
    if row.repeats == "overfit":
        theta[:, -1] = 0.01
    at = Where(points.group, points.tokens, points.unique)
    _, slope = evaluate(row, frame, theta, at=at)
    for column in range(layout(row, points.labels).size):
        step = np.zeros(theta.shape[1])
        step[column] = 1e-6
        up, _ = evaluate(row, frame, theta + step, at=at)
        down, _ = evaluate(row, frame, theta - step, at=at)
        np.testing.assert_allclose(slope[:, :, column], (up - down) / 2e-6, atol=2e-7, rtol=1e-5)


@pytest.mark.parametrize("form", ["power", "shifted_power_repeated", "log_linear"])
def test_the_engine_reaches_the_minimum_that_scipy_finds(form):
    world = random_world(rng(5), groups=3, r_star=8.0)
    points = measured(world, rng(6), pools=[4e4, 1e5, PLENTY], matched=9.0)
    noise, delta = 0.006, 1e-3
    found = fit(form, points, rng=rng(), noise=noise, delta=delta)
    assumed = prior(found.form, found.frame)

    def objective(theta):
        score, _ = evaluate(found.form, found.frame, theta[None, :], at=points)
        loss = huber(np.log(np.maximum(score[0], 1e-12)) - np.log(points.score), delta).sum()
        away = theta - assumed.centre
        return loss / (noise * 1.2533 * delta) + 0.5 * away @ assumed.precision @ away

    ours = objective(found.theta)
    bounds = list(zip(assumed.low, assumed.high, strict=True))
    starts = [found.theta, *starting_points(found.form, found.frame, points, 4, rng(7))]
    theirs = min(
        minimize(objective, s, method="L-BFGS-B", bounds=bounds, options={"maxiter": 3000}).fun
        for s in starts
    )
    assert ours <= theirs + 1e-3


def test_one_outlier_moves_the_law_little():
    world = random_world(rng(8), groups=3)
    clean = measured(world, rng(9))
    score = clean.score.copy()
    score[4] *= 1.2
    dirty = dataclasses.replace(clean, score=score)
    grid = (np.arange(3), np.full(3, 4e5))
    moved = predict(fit("shifted_power", dirty, rng=rng()), *grid) / predict(
        fit("shifted_power", clean, rng=rng()), *grid
    )
    assert np.abs(np.log(moved)).max() < 0.015


def test_rows_in_another_order_and_groups_under_other_codes_are_the_same_law():
    world = random_world(rng(10), groups=3)
    points = measured(world, rng(11))
    here = fit("shifted_power", points, rng=rng())
    order = rng(12).permutation(points.score.size)
    shuffled = Points(
        points.labels,
        *(getattr(points, n)[order] for n in ("group", "tokens", "unique", "score", "seed")),
        anchor=points.anchor,
    )
    swap = np.array([2, 0, 1])
    renamed = dataclasses.replace(points, group=swap[points.group], labels=("b", "c", "a"))
    for other in (
        fit("shifted_power", shuffled, rng=rng()),
        fit("shifted_power", renamed, rng=rng()),
    ):
        for name, value in here.parameters.items():
            assert other.parameters[name] == pytest.approx(value, rel=2e-3), name


def test_a_power_law_in_other_units_of_tokens_predicts_the_same():
    points = measured(random_world(rng(13), groups=3), rng(14))
    bigger = dataclasses.replace(points, tokens=points.tokens * 1e5, unique=points.unique * 1e5)
    here, there = (fit("power", p, rng=rng()) for p in (points, bigger))
    for name in ("floor", "exponent[a]"):
        assert there.parameters[name] == pytest.approx(here.parameters[name], rel=1e-3)
    np.testing.assert_allclose(predict(here, 1, [3e6]), predict(there, 1, [3e11]), rtol=1e-4)


def test_a_law_through_the_base_passes_through_the_base():
    points = measured(random_world(rng(15), groups=2), rng(16))
    found = fit("shifted_power", points, rng=rng())
    np.testing.assert_allclose(predict(found, [0, 1], [1e-6, 1e-6]), points.anchor, rtol=1e-6)


@pytest.mark.parametrize(
    ("budgets", "score", "outcome", "words"),
    [
        ((1e5,), lambda g, x, u: 2.0 + g + 1e4 / x, "underdetermined", "`a` has 1 distinct"),
        ((1e5, 2e5), lambda g, x, u: 2.0 + g + 1e4 / x, "underdetermined", "cannot carry"),
        (LADDER, lambda g, x, u: 2.0 + 0.0 * x, "constant", "all 12 scores are 2"),
    ],
)
def test_a_table_that_cannot_carry_the_law_is_a_named_outcome(budgets, score, outcome, words):
    points = table(score, budgets)
    found = fit("power", points, rng=rng())
    assert (found.outcome, found.usable) == (outcome, False)
    assert words in found.message
    with pytest.raises(LawError, match="cannot predict"):
        predict(found, 0, [1e5])
    with pytest.raises(LawError, match=words):
        fit("power", points, rng=rng(), throw=True)


def test_an_unknown_form_and_a_missing_base_are_errors_that_say_what_to_do():
    points = table(lambda g, x, u: 1.5 + A[g] * x ** -EXP[g], LADDER)
    with pytest.raises(LawError, match="shifted_power") as unknown:
        fit("cubic", points, rng=rng())
    assert "power_repeated" in unknown.value.hint
    with pytest.raises(LawError, match="base has no score"):
        fit("shifted_power", points, rng=rng())


def test_parameters_on_a_bound_are_named():
    # repeating does better than fresh tokens here, and a penalty cannot be negative
    fresh = measured(random_world(rng(19), groups=2), rng(20), pools=[4e5, PLENTY], matched=8.0)
    better = np.where(fresh.tokens > fresh.unique, 0.97, 1.0)
    points = dataclasses.replace(fresh, score=fresh.score * better)
    found = fit("shifted_power_overfit", points, rng=rng())
    assert found.on_bounds == ("penalty",)
    assert found.parameters["penalty"] == 0.0


def test_starts_agree_on_a_table_that_says_enough():
    found = fit("shifted_power", measured(random_world(rng(17)), rng(18)), rng=rng(), starts=24)
    assert found.starts == 24
    assert found.agreeing >= 20
    assert found.condition > 1.0
    assert found.residual_sd == pytest.approx(0.006, rel=0.5)
