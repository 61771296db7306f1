"""The mixture rule's error: from uniform runs, none for a single source, wide where unknown."""

import numpy as np
import pytest

from analysis import worlds
from analysis.backtest_mixing import study
from anneal.allocation.mixing import LEVEL, SLOPE, learn, mixedness

LADDER = np.array([1e5, 2e5, 4e5, 8e5, 1.6e6])
T = np.log2(LADDER)
RUNS = np.array([1, 1, 3, 1, 1])
FAR = 16 * LADDER[-1]
EVEN = np.full((1, 4), FAR / 4)


def learnt(errors, *, draws=400, noise=0.005, spread=0.0, seed=0, tokens=LADDER, runs=RUNS):
    """Errors (b,) as they were measured, under draws that differ in the law's level by `spread`."""
    errors = np.asarray(errors, float)
    off = spread * np.random.default_rng(9).standard_normal((draws, 1))
    return learn(
        2.0 * np.exp(np.broadcast_to(off, (draws, errors.size))),
        2.0 * np.exp(errors),
        runs[: errors.size],
        tokens[: errors.size],
        noise=np.full(draws, noise),
        sources=4,
        ladder=(LADDER[0], LADDER[-1]),
        rng=np.random.default_rng(seed),
    ), np.exp(off[:, 0])


def test_mixedness_counts_shares():
    tokens = np.array([[5.0, 0, 0, 0], [1, 1, 1, 1], [3, 3, 0, 0]])
    np.testing.assert_array_equal(mixedness(tokens)[0], 0.0)
    np.testing.assert_allclose(mixedness(tokens), [0.0, 0.75, 0.5])


def test_a_single_source_gets_none_of_it():
    found, _ = learnt(-0.02 * (T - T[0]))
    alone = np.diag([FAR, FAR / 7, 1e6 / 3, 12345.0])
    assert (found.factor(alone) == 1.0).all()
    assert found.factor(EVEN).max() < 1.0
    # a pair gets its part: less than the uniform mix, on average in proportion
    pair = np.array([[FAR / 2, FAR / 2, 0, 0]])
    ratio = np.log(found.factor(pair)).mean() / np.log(found.factor(EVEN)).mean()
    assert ratio == pytest.approx(0.5 / 0.75, rel=0.05)


def test_within_the_runs_it_is_what_they_measured():
    truth = 0.01 - 0.008 * (T - T[0])
    found, _ = learnt(truth, noise=0.002)
    at = LADDER[1:4]
    np.testing.assert_allclose(found.error(at).mean(axis=0), truth[1:4], atol=0.002)
    # and below the smallest budget what it is there
    np.testing.assert_array_equal(found.error(LADDER[:1]), found.error(LADDER[:1] / 100))


def test_a_trend_goes_on_or_levels_off_and_is_less_sure_further_out():
    slope = -0.01
    found, _ = learnt(slope * (T - T[0]), noise=0.002)
    budgets = LADDER[-1] * 2.0 ** np.arange(7)
    error = found.error(budgets)
    mean, sd = error.mean(axis=0), error.std(axis=0)
    assert (np.diff(sd) > 0).all()
    whole = slope * (np.log2(budgets) - T[0])
    assert (mean[1:] > whole[1:]).all() and (np.diff(mean) < 0).all()
    # as it was at the largest budget, or all the way: both lie within
    low, high = np.quantile(error[:, 4], [0.05, 0.95])
    assert low < whole[4] < whole[0] < high
    assert 0.4 < found.lasts(FAR) < 0.8
    assert found.lasts(LADDER[0]) == 1.0


def test_a_trend_that_ended_among_the_runs_is_not_prolonged():
    ended = -0.02 * np.minimum(T - T[0], 2.0)
    found, _ = learnt(ended, noise=0.002)
    going, _ = learnt(-0.02 * (T - T[0]), noise=0.002)
    assert found.lasts(FAR) < 0.1 < going.lasts(FAR)
    assert found.error(np.array([FAR])).mean() == pytest.approx(-0.04, abs=0.005)


def test_noise_alone_is_no_trend():
    rng = np.random.default_rng(4)
    moved = []
    for seed in range(30):
        errors = 0.006 * rng.standard_normal(5) / RUNS**0.5
        found, _ = learnt(errors, noise=0.006, seed=seed)
        error = found.error(np.array([FAR]))[:, 0]
        moved.append(np.quantile(error, 0.05) <= 0 <= np.quantile(error, 0.95))
    assert np.mean(moved) > 0.85


def test_without_runs_the_prior_is_what_there_is():
    found, _ = learnt([])
    middle = np.array([np.sqrt(LADDER[0] * LADDER[-1])])
    error = found.error(middle)[:, 0]
    # few draws, evenly spread: chance moves neither the mean nor the width
    assert error.std() == pytest.approx(LEVEL, rel=0.05)
    assert error.mean() == pytest.approx(0.0, abs=LEVEL / 20)
    end = found.error(LADDER[-1:])[:, 0]
    assert end.std() == pytest.approx((LEVEL**2 + (2 * SLOPE) ** 2) ** 0.5, rel=0.1)
    far = found.error(np.array([FAR]))[:, 0]
    assert far.std() > 1.1 * end.std()
    # one budget takes most of the level's uncertainty away, and little of the slope's
    one, _ = learnt([-0.03], tokens=LADDER[2:], runs=RUNS[2:])
    assert one.error(LADDER[2:3]).std() < 0.2 * LEVEL
    assert one.error(np.array([FAR])).std() > SLOPE


def test_errors_that_curves_and_mixtures_share_cancel():
    """Draws whose curves lie too high or low at every budget are brought back by the runs."""
    found, level = learnt(np.zeros(5), noise=0.003, spread=0.02)
    plain = 1.7 * level
    better = plain * found.factor(np.full((1, 4), LADDER[-1] / 4))[:, 0]
    assert np.log(plain).std() == pytest.approx(0.02, rel=0.15)
    assert np.log(better).std() < 0.006


def test_one_source_and_the_control_are_a_mixture_too():
    found = learn(
        np.zeros((50, 0)),
        np.zeros(0),
        np.zeros(0, np.int64),
        np.zeros(0),
        noise=np.full(50, 0.01),
        sources=1,
        ladder=(1e5, 1e6),
        rng=np.random.default_rng(0),
    )
    np.testing.assert_allclose(found.part(np.array([[1.0, 0.0], [1.0, 1.0]])), [0.0, 1.0])
    assert np.isfinite(found.factor(np.array([[1e6, 1e6]]))).all()


def test_the_same_seed_gives_the_same_draws():
    first, second = learnt(-0.01 * (T - T[0]))[0], learnt(-0.01 * (T - T[0]))[0]
    np.testing.assert_array_equal(first.factor(EVEN), second.factor(EVEN))


@pytest.mark.statistical
def test_intervals_of_mixtures_hold_where_the_rule_does_not():
    """A small part of analysis/backtest_mixing.py: 12 worlds, the uniform mix at 16 times the
    largest run; a 90% interval should hold about 11, and with 8 it is below two standard errors."""
    seen = []
    for number in range(12):
        rng = np.random.default_rng([3, number])
        kind = ("effective", "qqt")[number % 2]
        seen.append(study(worlds.world(rng, kind, ("inside", "absent")[number % 3 == 0]), rng))
    rows = {kind: np.array([one[kind, "uniform"] for one in seen]) for kind in ("holds", "grows")}
    held = {kind: (r[:, 1].sum(), r[:, 4].sum()) for kind, r in rows.items()}
    assert held["holds"][1] >= 9, held
    assert held["grows"][1] >= 8 and held["grows"][1] > held["grows"][0], held
    width = rows["holds"][:, 5] / rows["holds"][:, 2]
    assert width.mean() < 1.3
