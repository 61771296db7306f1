import numpy as np
import pytest
from planted import falling, guard_law
from scipy.integrate import solve_ivp

from anneal.allocation import guard_score, mixture_score
from anneal.errors import LawError
from anneal.laws import FORMS, Points, fit, predict
from anneal.laws.forms import Frame

EXPONENT = [0.25, 0.4, 0.6, 0.35]
SCALE = [4e3, 2e4, 9e4, 3e4]
UNIQUE = np.array([6e4, 1e9, 4e5, 2e5])


def law(ending, draws=40):
    more = {"r_star": 7.0} if ending == "repeated" else {}
    more = {"penalty": 0.01} if ending == "overfit" else more
    return falling(EXPONENT, SCALE, spread=0.2, draws=draws, **more)


@pytest.mark.parametrize("ending", ["", "repeated", "overfit"])
def test_a_mixture_of_one_source_is_that_source_s_curve(ending):
    ensemble = law(ending)
    for total in (3e4, 1e6, 5e7):
        alone = predict(ensemble, np.arange(4), np.full(4, total), UNIQUE)
        mixed = mixture_score(ensemble, np.eye(4) * total, UNIQUE)
        np.testing.assert_allclose(mixed, alone, rtol=1e-12)


@pytest.mark.parametrize("form", ["power", "power_repeated", "power_one_exponent_overfit"])
def test_a_power_law_s_vertices_are_its_curves_too(form):
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(3), 6), np.tile([5e4, 1e5, 2e5, 4e5, 8e5, 8e5], 3)
    u = np.where((g == 0) & (np.arange(18) % 6 == 5), 1e5, 1e9)
    y = 1.5 + np.array([30.0, 60.0, 90.0])[g] * x ** -np.array([0.33, 0.4, 0.42])[g]
    points = Points(tuple("abc"), g, x, u, y * np.exp(0.002 * rng.standard_normal(18)), g * 0)
    found = fit(form, points, rng=rng)
    pools = np.array([1e5, 1e9, 1e9])
    mixed = mixture_score(found, np.eye(3) * 2e6, pools)[0]
    np.testing.assert_allclose(mixed, predict(found, [0, 1, 2], [2e6] * 3, pools), rtol=1e-9)


@pytest.mark.parametrize("ending", ["", "repeated", "overfit"])
def test_a_source_split_in_two_is_worth_the_same(ending):
    ensemble = law(ending)
    whole = mixture_score(ensemble, np.array([[1e6, 3e6, 2e6, 5e5]]), UNIQUE)
    pools = np.array([2e4, 4e4, 1e9, 4e5, 2e5])
    tokens = np.array([[1e6 / 3, 2e6 / 3, 3e6, 2e6, 5e5]])
    halves = mixture_score(ensemble, tokens, pools, groups=np.array([0, 0, 1, 2, 3]))
    np.testing.assert_allclose(halves, whole, rtol=1e-12)


def test_the_order_of_sources_and_the_block_they_are_computed_in_change_nothing():
    ensemble = law("repeated")
    tokens = np.random.default_rng(1).dirichlet(np.ones(4), 150) * 4e6
    scores = mixture_score(ensemble, tokens, UNIQUE)
    order = np.array([2, 0, 3, 1])
    other = mixture_score(ensemble, tokens[:, order], UNIQUE[order], groups=order)
    np.testing.assert_allclose(other, scores, rtol=1e-12)
    np.testing.assert_allclose(mixture_score(ensemble, tokens[100:], UNIQUE), scores[:, 100:])


@pytest.mark.parametrize("r_star", [1e9, 5.0])
def test_the_steps_follow_the_differential_equation(r_star):
    ensemble = falling(EXPONENT, SCALE, r_star=r_star)
    floor, base = 1.4, 3.4
    a, tau = np.array(EXPONENT), np.array(SCALE)
    for tokens in np.random.default_rng(2).dirichlet(np.full(4, 0.5), 12) * 6e6:

        def slope(s, score, tokens=tokens):
            relative = (score[0] - floor) / (base - floor)
            rate = a / tau * (score[0] - floor) * relative ** (1 / a)
            excess = np.maximum(s * tokens / UNIQUE - 1, 0)
            return [-np.sum(rate * tokens * np.exp(-excess / r_star))]

        truth = solve_ivp(slope, (0, 1), [base], method="LSODA", rtol=1e-9, atol=1e-11).y[0, -1]
        assert mixture_score(ensemble, tokens[None, :], UNIQUE)[0, 0] == pytest.approx(
            truth, rel=5e-4
        )


def test_a_little_of_a_scarce_good_source_helps_and_too_much_repetition_does_not():
    ensemble = falling([0.4, 0.4], [5e3, 4e4], r_star=5.0)
    pools = np.array([2e5, 1e12])
    part = np.array([0.0, 0.2, 1.0])
    scores = mixture_score(ensemble, np.column_stack([part, 1 - part]) * 2e7, pools)[0]
    assert scores[1] < scores[0]
    assert scores[1] < scores[2]


def test_guards_mix_by_share_at_the_total_and_a_split_changes_nothing():
    guard = guard_law([2.0, 2.2], [0.05, -0.01])
    total, share = 8e5, np.array([0.25, 0.75])
    tokens, pools = share[None, :] * total, np.array([1e5, 1e9])
    curve = np.array([2.0, 2.2]) + np.array([0.05, -0.01]) * np.log2(1 + total / 1e5)
    assert guard_score(guard, tokens, pools)[0, 0] == pytest.approx(share @ curve)
    split = guard_score(
        guard,
        np.array([[1e5, 1e5, 6e5]]),
        np.array([5e4, 5e4, 1e9]),
        groups=np.array([0, 0, 1]),
    )
    assert split[0, 0] == pytest.approx(share @ curve)


def test_a_law_that_may_rise_has_no_mixture_rule():
    with pytest.raises(LawError, match="may rise"):
        mixture_score(guard_law([2.0], [0.1]), np.array([[1e5]]), np.array([1e9]))
    assert isinstance(guard_law([2.0], [0.1]).frame, Frame)
    assert not FORMS["log_linear"].falls
