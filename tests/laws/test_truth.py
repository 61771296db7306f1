"""A small part of analysis/backtest_truth.py, and that its worlds are what they say."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.backtest_truth import PLACES, table
from analysis.settled import study
from analysis.worlds import EPOCHS, LABELS, LADDER, NOISE, oracle, runs, world

FEW = ("shifted_power_one_exponent_repeated", "shifted_power_repeated", "power_repeated")
"""Of a sweep's forms; the whole set takes four times as long."""
KINDS = (
    ("effective", "beyond"),
    ("effective", "absent"),
    ("qqt", "inside"),
)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module", params=["effective", "qqt"])
def truth(request):
    return world(rng(1), request.param, "beyond")


def test_effective_tokens_are_the_published_formulas():
    """Both, written out as loops."""
    e, q = world(rng(2), "effective", "beyond"), world(rng(2), "qqt", "beyond")
    pool = 1e5
    for x in (3e4, 1e5, 2.5e5, 7e5):
        excess = max(x / pool - 1, 0)
        r = e.worth[0]
        expected = min(x, pool) + pool * r * (1 - np.exp(-excess / r))
        assert e.effective(0, x, pool) == pytest.approx(expected)
        product, before, k = 1.0, min(x, pool), 1
        while before < x * (1 - 1e-12):
            after = min((k + 1) * pool, x)
            product *= (after / before) ** (0.5 ** (k / q.worth[0]))
            before, k = after, k + 1
        assert q.effective(0, x, pool) == pytest.approx(min(x, pool) * product)


def test_a_mixture_of_one_source_is_its_curve_and_splitting_it_changes_nothing(truth):
    m = len(LABELS)
    amount = np.minimum(truth.real, truth.caps)
    own = truth.score(np.arange(m), amount, truth.pool)
    np.testing.assert_allclose(truth.mixture(np.diag(amount)), own, atol=1e-4)
    # `poor` becomes a second half of `plenty`
    twin = [0, 1, 2, 1, 4]
    columns = {c: getattr(truth, c)[twin] for c in ("exponent", "scale", "worth", "pool")}
    halves = np.array([[0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]]) * truth.real
    split, whole = replace(truth, **columns).mixture(halves)
    assert split == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("family", ["effective", "qqt"])
@pytest.mark.parametrize("place", PLACES)
def test_crossovers_lie_where_they_were_planted(family, place):
    for seed in range(5):
        w = world(rng(seed), family, place)
        x = np.geomspace(LADDER[0], w.limit, 4000)
        gap = w.score(0, x, w.pool[0]) - w.score(1, x, w.pool[1])
        turns = np.flatnonzero(np.diff(np.sign(gap)))
        if place == "absent":
            assert turns.size == 0
            assert w.crossing is None
            continue
        assert turns.size == 1
        assert w.crossing == pytest.approx(x[turns[0]], rel=0.01)
        assert (w.crossing < LADDER[-1]) == (place == "inside")
        assert gap[0] < 0 < gap[-1]
        assert w.crossing <= w.pool[0] * EPOCHS


def test_runs_are_laid_out_as_the_plan_does(truth):
    points = runs(truth, rng(3))
    assert (points.tokens <= points.unique * EPOCHS * (1 + 1e-9)).all()
    assert (points.unique <= np.maximum(truth.pool[points.group], points.tokens)).all()
    middle = points.tokens == LADDER[2]
    for group in range(len(LABELS)):
        cells = points.cells()[middle & (points.group == group)]
        assert np.bincount(cells).max() == 3
    scarce = (points.group == 0) & (points.tokens == LADDER[-1])
    assert np.unique(points.unique[scarce]).size == 2  # matched and natural
    clean = truth.score(points.group, points.tokens, points.unique)
    assert np.log(points.score / clean).std() == pytest.approx(NOISE, rel=0.5)


def test_no_mixture_beats_the_oracle():
    w = world(rng(4), "qqt", "beyond")
    best, value = oracle(w)
    assert best.sum() == pytest.approx(w.real)
    assert (best <= w.caps + 1).all()
    shares = np.concatenate([rng(5).dirichlet(np.full(5, a), 400) for a in (0.3, 1.0)])
    tokens = shares * w.real
    tokens = tokens[(tokens <= w.caps).all(axis=1)]
    assert tokens.shape[0] > 300
    assert w.mixture(tokens).min() >= value - 1e-6


@pytest.mark.statistical
def test_laws_and_allocations_on_worlds_with_known_truth():
    """Three worlds; the thresholds are what a wrong law, interval or search would miss."""
    seen = []
    for number, (family, place) in enumerate(KINDS):
        generator = rng([100, number])
        seen.append(study(world(generator, family, place), generator, forms=FEW))
    beyond, absent, inside = (s.crossing["ours"] for s in seen)
    assert absent.probability < 0.5
    assert beyond.probability > 0.5
    assert inside.probability > 0.5
    for crossing, s in ((beyond, seen[0]), (inside, seen[2])):
        assert crossing.at[1] <= s.truth.crossing <= crossing.at[2]
    curve = np.array([s.curve["ours"][:3] for s in seen])  # 1x, 4x, 16x: 15 curves each
    assert (curve.mean(axis=0) >= 0.75).all(), curve
    error = np.array([s.error["ours"][:2] for s in seen])
    assert error[:, 0].mean() < 0.01
    assert error[:, 1].mean() < 0.04
    regret = {name: np.mean([s.regret[name] for s in seen]) for name in seen[0].regret}
    assert regret["ours"] < 0.25 * regret["proportional"]
    assert regret["ours"] < 0.25 * regret["uniform"]
    assert regret["ours"] < regret["single-scale pick, natural runs"]
    assert all(value >= 0 for s in seen for value in s.regret.values())
    planted = seen[0].parameters
    assert planted["r_star"][1] < 0.5  # log error; the prior's own SD is 1
    rows = table(seen)
    assert {tuple(row) for row in rows} == {
        ("dataset", "question", "ours", "reference", "holds", "drawn")
    }
