import numpy as np
import pytest
from scipy.optimize import minimize
from worlds import measured, random_world

from anneal.laws import FORMS, Points
from anneal.laws.engine import huber, minimise, race
from anneal.laws.forms import Frame, evaluate, layout, starting_points
from anneal.laws.search import USUAL, Task, projected, search_draws

DELTA, NOISE = 1e-3, 0.005


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def single():
    """One source, 12 points, 8 draws, 16 starts: what the benchmark repeats 750 times."""
    tokens = np.geomspace(1e6, 1e9, 12)
    truth = 2.0 + 30.0 * tokens**-0.3
    none = np.zeros(12, dtype=int)
    points = Points(("a",), none, tokens, tokens, truth, none)
    form = FORMS["power"]
    frame = Frame.of(form, points)
    task = Task.of(form, frame, points, USUAL, noise=NOISE, weights=None, delta=DELTA)
    drawn = np.log(truth) + NOISE * rng(1).standard_normal((8, 12))
    return task, starting_points(form, frame, points, 16, rng(2)), drawn


def objective(task, theta, log_score):
    """F of one row, written out."""
    score, slope = evaluate(task.form, task.frame, theta[None, :], at=task.points)
    residual = np.log(score[0]) - log_score
    away = theta - task.prior.centre
    value = task.information * (task.weights * huber(residual, task.delta)).sum()
    pull = task.information * task.weights * np.clip(residual, -task.delta, task.delta)
    gradient = (pull / score[0]) @ slope[0] + task.prior.precision @ away
    return value + 0.5 * away @ task.prior.precision @ away, gradient


def given(task):
    """What the engine is told of a task beside the curve and its starts."""
    return {
        "weights": task.weights,
        "information": task.information,
        "delta": task.delta,
        "centre": task.prior.centre[None, :],
        "precision": task.prior.precision,
        "low": task.prior.low,
        "high": task.prior.high,
    }


def raced(task, starts, drawn, **more):
    return race(
        lambda t: evaluate(task.form, task.frame, t, at=task.points),
        starts,
        drawn,
        **given(task),
        tolerance=1e-9,
        **more,
    )


def test_a_race_ends_no_higher_than_scipy_from_every_start(single):
    task, starts, drawn = single
    found = search_draws(task, starts, drawn, centre=task.prior.centre[None, :], tolerance=1e-9)
    assert found.converged.all()
    bounds = list(zip(task.prior.low, task.prior.high, strict=True))
    for draw, ours in zip(drawn, found.theta, strict=True):
        theirs = min(
            minimize(
                lambda t, y=draw: objective(task, t, y),
                start,
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 2000},
            ).fun
            for start in starts[:6]
        )
        assert objective(task, ours, draw)[0] <= theirs * (1 + 1e-6)


def test_dropping_starts_early_loses_nothing_against_following_all(single):
    task, starts, drawn = single
    short, full = raced(task, starts, drawn), raced(task, starts, drawn, rounds=())
    np.testing.assert_allclose(short.value, full.value, rtol=1e-6)
    assert (short.finished, full.finished) == (4, 16)
    assert (full.agreeing >= 8).all()


def test_tables_in_one_batch_do_not_touch_each_other(single):
    task, starts, drawn = single
    together = raced(task, starts, drawn)
    for row in range(0, 8, 3):
        alone = raced(task, starts, drawn[[row]])
        np.testing.assert_allclose(together.theta[row], alone.theta[0], rtol=1e-5, atol=1e-6)


def test_too_few_iterations_are_not_called_converged(single):
    task, starts, drawn = single
    found = minimise(
        lambda t: evaluate(task.form, task.frame, t, at=task.points),
        starts,
        drawn[[0]],
        **given(task),
        iterations=2,
    )
    assert not found.converged.any()


def test_a_run_drawn_twice_counts_like_two_runs(single):
    task, starts, drawn = single
    double = np.ones(12)
    double[[3, 7]] = 2.0
    centre = task.prior.centre[None, :]
    once = search_draws(task, starts, drawn[:1], centre=centre, counts=double[None, :])
    rows = np.array([*range(12), 3, 7])
    p = task.points
    longer = Points(
        p.labels, p.group[rows], p.tokens[rows], p.unique[rows], p.score[rows], p.seed[rows]
    )
    twice = Task.of(task.form, task.frame, longer, USUAL, noise=NOISE, weights=None, delta=DELTA)
    other = search_draws(twice, starts, drawn[:1, rows], centre=centre)
    np.testing.assert_allclose(once.value, other.value, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "groups"), [("power", 3), ("power", 1), ("power_overfit", 1), ("pure_power", 3)]
)
def test_projection_solves_for_what_is_linear_and_never_worsens_a_start(name, groups):
    world = random_world(rng(3), groups=groups)
    points = measured(world, rng(4), pools=[4e4, 1e5, 1e12][:groups], matched=9.0)
    form = FORMS[name]
    frame = Frame.of(form, points)
    starts = starting_points(form, frame, points, 20, rng(5))
    truth = starts[7].copy()
    exact, _ = evaluate(form, frame, truth[None, :], at=points)
    where = layout(form, frame.labels)
    task = Task.of(form, frame, points, USUAL, noise=NOISE, weights=None, delta=DELTA)
    given = np.tile(truth, (20, 1))
    linear = [*([where.floor] if groups == 1 else []), *where.scale]
    given[:, linear] = starts[:, linear]
    solved = projected(task, given, np.log(exact))
    np.testing.assert_allclose(
        evaluate(form, frame, solved, at=points)[0], np.tile(exact, (20, 1)), rtol=1e-5
    )
    data = np.log(points.score)[None, :]

    def misfit(theta):
        residual = np.log(evaluate(form, frame, theta, at=points)[0]) - data
        return (np.minimum(np.abs(residual), DELTA) * np.abs(residual)).sum(axis=1)

    before, after = misfit(starts), misfit(projected(task, starts, data))
    assert (after <= before * (1 + 1e-12)).all()
    assert np.median(after) < 0.5 * np.median(before)
