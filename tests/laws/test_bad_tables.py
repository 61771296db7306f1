"""Tables that people really bring: each is a named outcome or one error that says what to do."""

import dataclasses

import numpy as np
import pytest
from worlds import measured, random_world

from anneal.errors import AnnealError, LawError
from anneal.laws import FORMS, Points, blend, bootstrap, fit, hold_out, noise_floor, predict
from anneal.laws.families import family


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def good():
    return measured(random_world(rng(1), groups=3), rng(2))


CURVES = [n for n, form in FORMS.items() if form.falls and not form.repeats]


@pytest.mark.parametrize("form", CURVES)
def test_two_budgets_carry_no_curve_with_a_floor_or_say_so(good, form):
    points = good.rows(np.isin(good.tokens, (1e5, 8e5)))
    found = fit(form, points, rng=rng(), starts=8)
    if "one_exponent" in form:  # 3 sources share it: 6 cells carry 5 parameters
        assert found.outcome == "ok"
        assert found.degrees < 4
        return
    assert found.outcome == "underdetermined"
    assert found.parameters == {}
    assert found.theta.size == 0
    assert "cannot carry" in found.message
    with pytest.raises(LawError, match="no intervals: underdetermined"):
        bootstrap(found, points, rng=rng())
    with pytest.raises(LawError, match="underdetermined") as refused:
        fit(form, points, rng=rng(), throw=True)
    assert "more budgets" in refused.value.hint


@pytest.mark.parametrize("form", FORMS)
def test_equal_budgets_say_which_source_lacks_what(good, form):
    points = good.rows(good.tokens == 2e5)
    found = fit(form, points, rng=rng(), starts=8)
    assert found.outcome == "underdetermined"
    assert "1 distinct budgets" in found.message or "cannot carry" in found.message
    with pytest.raises(LawError, match="every run has the same budget"):
        hold_out([form], points, rng=rng())
    with pytest.raises(LawError, match="underdetermined"):
        blend([form], points, rng=rng())
    if FORMS[form].falls:
        with pytest.raises(LawError, match="underdetermined"):
            family(form, points, rng=rng())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, r"row 4 \(a\): score must be a positive number, got nan"),
        (-2.5, r"row 4 \(a\): score must be a positive number, got -2.5"),
        (0.0, r"row 4 \(a\): score must be a positive number, got 0.0"),
        (np.inf, r"row 4 \(a\): score must be a positive number, got inf"),
    ],
)
def test_a_score_that_cannot_be_is_named_by_row(good, value, words):
    score = good.score.copy()
    score[4] = value
    with pytest.raises(LawError, match=words) as refused:
        dataclasses.replace(good, score=score)
    assert isinstance(refused.value, AnnealError)
    assert refused.value.hint == "leave failed runs out of the table"


def test_one_source_is_fitted_alone(good):
    rows = good.rows(good.group == 0)
    alone = dataclasses.replace(rows, labels=("a",))
    found = fit("shifted_power", alone, rng=rng())
    assert found.outcome == "ok"
    assert found.support[0].budgets == 5
    law = bootstrap(found, alone, draws=100, rng=rng())
    assert predict(law, 0, [1.6e6]).shape == (100, 1)
    judged = hold_out(["shifted_power"], alone, rng=rng(), draws=60)
    assert all(row.rank_correlation is None for row in judged.rows)
    # as one member of a table whose other sources have no runs, it is refused by their names
    with pytest.raises(LawError, match="`b` has 0 distinct budgets"):
        fit("shifted_power", rows, rng=rng(), throw=True)


def flat(generator, *, noise):
    """Nothing depends on anything: 3 sources, 5 budgets, 3 seeds."""
    g, x, s = (
        c.ravel() for c in np.meshgrid(np.arange(3), np.geomspace(5e4, 8e5, 5), np.arange(3))
    )
    score = 2.0 * np.exp(noise * generator.standard_normal(g.size))
    return Points(("a", "b", "c"), g, x, x, score, s, anchor=2.6)


def test_sources_within_noise_are_a_tie_by_name(good):
    points = flat(rng(3), noise=0.006)
    found = fit("power", points, rng=rng())
    assert found.outcome == "ok"
    assert len(found.notes) == 1
    assert "a tie by the runs" in found.notes[0]
    law = bootstrap(found, points, draws=200, rng=rng())
    scores = predict(law, np.arange(3), np.full(3, 8e5))
    assert np.ptp(np.median(scores, axis=0)) < 2 * noise_floor(points).sd
    assert fit("shifted_power", good, rng=rng(), starts=8).notes == ()


def test_scores_that_are_all_the_same_are_constant_by_name():
    points = flat(rng(4), noise=0.0)
    found = fit("power", points, rng=rng())
    assert (found.outcome, found.usable) == ("constant", False)
    assert found.message == "all 45 scores are 2"
    with pytest.raises(LawError, match="constant") as refused:
        fit("power", points, rng=rng(), throw=True)
    assert "nothing was learnt" in refused.value.hint
    with pytest.raises(LawError, match="constant"):
        blend(["power", "pure_power"], points, rng=rng())
