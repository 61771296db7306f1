"""A price that rises in tiers: exact to the cent, and bought up to the tier that pays."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import LABELS, PLENTY, falling

from anneal.allocation import Problem, Supply, allocate, mixture_score
from anneal.allocation.collide import collision
from anneal.allocation.pieces import pieces, solve
from anneal.allocation.purchase import fill, whole
from anneal.errors import PlanError


def quick(problem):
    return allocate(problem, rng=np.random.default_rng(0), explained=False)


def tokens_of(answer):
    return np.array([[float(r.tokens) for r in answer.rows]])


@st.composite
def questions(draw):
    m = draw(st.integers(1, 4))
    supplies = []
    for i in range(m):
        sizes = draw(st.lists(st.integers(1, 10**6), max_size=4))
        prices = sorted(draw(st.floats(0, 3e-6)) for _ in sizes)
        supplies.append(
            Supply(
                LABELS[i],
                available=draw(st.integers(10, 3 * 10**6)),
                max_epochs=draw(st.sampled_from([0.5, 1.0, 4.0])),
                usd_fixed=draw(st.sampled_from([0.0, 0.3])),
                usd_per_token=draw(st.sampled_from([0.0, 1e-6])),
                usd_tiers=tuple(zip(map(float, sizes), prices, strict=True)),
            )
        )
    problem = Problem(
        tuple(supplies),
        falling(np.full(m, 0.4), np.full(m, 2e4)),
        budget=draw(st.floats(0.5, 20.0)),
        noise=0.01,
        axis="usd",
        replay=draw(st.sampled_from([0.0, 0.25])),
        usd_per_trained=1e-6,
    )
    weights = st.lists(st.floats(0.0, 1.0), min_size=m, max_size=m)
    return problem, np.array(draw(weights.filter(lambda w: sum(w) > 1e-3)))


def by_hand(problem, tokens):
    """USD of whole tokens, tier by tier."""
    usd = problem.per_trained("usd") * sum(tokens)
    for supply, n in zip(problem.supplies, tokens, strict=True):
        new = min(n, supply.available)
        usd += (supply.usd_fixed + supply.usd_per_token * new) if n else 0.0
        for number, (size, price) in enumerate(supply.usd_tiers):
            part = new if number == len(supply.usd_tiers) - 1 else min(new, size)
            usd, new = usd + part * price, new - part
    return usd


@given(questions())
@settings(max_examples=60, deadline=None)
def test_the_largest_purchase_along_a_direction_spends_the_budget_to_the_cent(question):
    problem, direction = question
    tokens, possible = fill(problem, direction[None, :])
    if not possible[0]:
        return
    assert by_hand(problem, tokens[0]) == pytest.approx(problem.spent(tokens)[0], rel=1e-9)
    assert problem.spent(tokens)[0] <= problem.budget * (1 + 1e-9)
    capped = (tokens[0] >= problem.caps * (1 - 1e-9))[tokens[0] > 0].all()
    assert capped or problem.spent(tokens)[0] >= problem.budget - 1e-9
    bought = whole(problem, tokens[0])
    assert by_hand(problem, bought) <= problem.budget * (1 + 1e-9)
    dearest = max(problem.steps("usd")[3]) + problem.per_trained("usd")
    if not capped:
        assert by_hand(problem, bought) >= problem.budget - (len(bought) + 2) * dearest
    # and the programme over pieces knows of a purchase that is at least as large
    parts = pieces(problem)
    assert parts is not None
    assert -solve(parts, -np.ones(parts.m)).value * parts.unit >= tokens.sum() * (1 - 1e-6)


def test_money_for_tiers_by_hand():
    tiered = Supply("a", 100, usd_fixed=5, usd_per_token=0.01, usd_tiers=((20, 0.0), (30, 0.1)))
    problem = Problem(
        (tiered,), falling([0.4], [2e4]), budget=100, noise=0.01, usd_per_trained=0.001
    )
    for tokens, usd in [(10, 5.1), (20, 5.2), (50, 8.5), (100, 14.0), (300, 14.0)]:
        spent = problem.spent(np.array([[float(tokens)]]), "usd")[0]
        assert spent - 0.001 * tokens == pytest.approx(usd)
    assert tiered.acquired("usd", 50) == pytest.approx(8.5)
    doubled = problem.scaled_costs(2.0).supplies[0]
    assert doubled.acquired("usd", 50) == pytest.approx(17.0)
    with pytest.raises(PlanError, match=r"source `a`: usd_tiers must rise: tier 2 at 0.01"):
        replace(problem, supplies=(replace(tiered, usd_tiers=((20, 0.1), (30, 0.01))),))
    with pytest.raises(PlanError, match="two currencies"):
        replace(problem, supplies=(replace(tiered, usd_fixed=0, usd_per_token=0, currency="eur"),))


def edge_question(dear=3e-5, budget=2.0):
    """50,000 free tokens of a good source, then dear ones; plenty of a worse one."""
    law = falling([0.4, 0.4], [8e3, 2.2e4], draws=3, spread=0.02)
    good = Supply("a", 500_000, max_epochs=1.0, usd_tiers=((50_000.0, 0.0), (1.0, dear)))
    return Problem(
        (good, Supply("b", PLENTY, max_epochs=1.0)),
        law,
        budget=budget,
        noise=0.003,
        axis="usd",
        usd_per_trained=1e-6,
    )


def on_a_grid(problem, points=4001):
    """Best score and tokens of the first of two supplies, over all splits of the budget."""
    most = problem.supplies[0].cap
    grid = np.unique(np.concatenate([np.linspace(0, most, points), [50_000.0, 150_000.0]]))
    left = problem.budget - np.array([by_hand(problem, [n, 0]) for n in grid])
    grid, left = grid[left >= 0], left[left >= 0]
    tokens = np.column_stack([grid, left / problem.per_trained("usd")])
    score = mixture_score(problem.target, tokens, problem.available).mean(axis=0)
    return score.min(), grid[int(np.argmin(score))]


def test_a_planted_optimum_on_a_tier_s_edge_is_found():
    problem = edge_question()
    answer = quick(problem)
    best, at = on_a_grid(problem)
    assert at == 50_000
    assert answer.rows[0].tokens == 50_000
    assert answer.rows[0].acquisition_usd == 0.0
    assert answer.score.value == pytest.approx(best, abs=1e-6)
    assert answer.usd == pytest.approx(problem.budget, abs=2e-6)


@pytest.mark.parametrize("dear", [1e-7, 2e-6, 6e-6, 3e-5])
def test_tiers_are_worth_what_one_supply_a_tier_is(dear):
    problem = edge_question(dear)
    good = problem.supplies[0]
    tiers = ((50_000.0, 0.0), (100_000.0, dear / 2), (1.0, dear))
    problem = replace(problem, supplies=(replace(good, usd_tiers=tiers), problem.supplies[1]))
    split = replace(
        problem,
        supplies=(
            Supply("a0", 50_000, max_epochs=1.0, group="a"),
            Supply("a1", 100_000, max_epochs=1.0, group="a", usd_per_token=dear / 2),
            Supply("a2", 350_000, max_epochs=1.0, group="a", usd_per_token=dear),
            problem.supplies[1],
        ),
    )
    one, many = quick(problem), quick(split)
    best, at = on_a_grid(problem)
    assert one.score.value == pytest.approx(best, abs=2e-6)
    assert one.score.value == pytest.approx(many.score.value, abs=2e-5)
    apart = tokens_of(many)[0]
    assert tokens_of(one)[0, 0] == pytest.approx(at, abs=0.002 * 500_000)
    assert apart[:3].sum() == pytest.approx(at, abs=0.02 * 500_000)


def test_tiers_with_fixed_costs_repeats_and_many_patterns_beat_a_grid_of_purchases():
    rng = np.random.default_rng(1)
    law = falling([0.35, 0.42, 0.4], [1e4, 2e4, 1.4e4], r_star=6.0, spread=0.1, draws=30)
    supplies = tuple(
        Supply(
            LABELS[i],
            200_000,
            max_epochs=6.0,
            usd_fixed=0.2,
            usd_tiers=((40_000.0, 0.0), (60_000.0, 2e-6), (1.0, 9e-6)),
        )
        for i in range(3)
    )
    problem = Problem(supplies, law, budget=2.0, noise=0.003, axis="usd", usd_per_trained=1e-6)
    answer = quick(problem)
    rows = rng.dirichlet(np.ones(3), 3000) * (rng.random((3000, 3)) < 0.7)
    tokens, possible = fill(problem, rows[rows.sum(axis=1) > 0])
    score = mixture_score(law, tokens[possible], problem.available).mean(axis=0)
    assert answer.score.value <= score.min() + 1e-4
    assert answer.usd <= problem.budget * (1 + 1e-9)


def test_limits_that_collide_on_a_rising_price_are_named():
    problem = edge_question(dear=1.0, budget=1.0)
    only = replace(
        problem, supplies=(replace(problem.supplies[0], min_share=1.0),), least_tokens=60_000
    )
    refused = collision(replace(only, target=falling([0.4], [8e3])))
    assert refused is not None
    assert "budget 1 usd" in refused.what
    assert "usd would do" in refused.hint
