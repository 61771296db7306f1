"""The search against exhaustive ones: patterns, dense grids, differences, other objectives."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from planted import LABELS, PLENTY, falling

from anneal.allocation import Problem, Supply, allocate, mixture_score, mixture_slope
from anneal.allocation import convex as convex_module
from anneal.allocation.convex import optimum
from anneal.allocation.pieces import pieces
from anneal.allocation.purchase import fill
from anneal.allocation.search import candidates, optimise
from anneal.allocation.view import View, survey, tail_weights
from anneal.laws import Blend, fit
from anneal.laws.points import Points
from anneal.laws.rolling import Rolled

POOLS = np.array([6e4, 1e9, 4e5, 2e5])


def quick(problem):
    return allocate(problem, rng=np.random.default_rng(0), explained=False)


def laws():
    exponent, scale = [0.25, 0.4, 0.6, 0.35], [4e3, 2e4, 9e4, 3e4]
    for more in ({}, {"r_star": 7.0}, {"penalty": 0.01}):
        yield falling(exponent, scale, spread=0.2, draws=5, **more)
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(4), 6), np.tile(np.geomspace(5e4, 1.6e6, 6), 4)
    y = 1.5 + np.array([30, 60, 90, 50.0])[g] * x ** -np.array([0.33, 0.4, 0.42, 0.38])[g]
    u = np.where(x > 8e5, 4e5, 1e9)
    points = Points(tuple("abcd"), g, x, u, y * np.exp(0.002 * rng.standard_normal(24)), g * 0)
    found = fit("power_repeated", points, rng=rng)
    yield found
    member = falling(exponent, scale, spread=0.2, draws=5, r_star=7.0)
    none = Rolled(*(np.zeros(0),) * 4, expected=np.zeros((0, 0)))
    drift = 0.01 * rng.standard_normal((10, 4))
    yield Blend((member, member), (0.5, 0.5), drift, (none, none), none, 0.01, 0.005, (0.01, 0.005))


@pytest.mark.parametrize(
    "law", list(laws()), ids=["plain", "repeated", "overfit", "power", "blend"]
)
def test_slopes_are_those_of_the_scores(law):
    tokens = np.array([1e6, 3e6, 2e6, 0.0])
    score, slope = mixture_slope(law, tokens, POOLS)
    np.testing.assert_allclose(score, mixture_score(law, tokens[None, :], POOLS)[:, 0], rtol=1e-12)
    step = 20.0
    up = mixture_score(law, tokens + step * np.eye(4), POOLS)
    down = mixture_score(law, np.maximum(tokens - step * np.eye(4), 0), POOLS)
    np.testing.assert_allclose(slope, (up - down) / np.array([2, 2, 2, 1]) / step, rtol=2e-4)
    rows = np.random.default_rng(1).dirichlet(np.ones(4), len(score)) * 3e6
    own, _ = mixture_slope(law, rows, POOLS)
    np.testing.assert_allclose(own, np.diag(mixture_score(law, rows, POOLS)), rtol=1e-12)


def priced(seed, m=4):
    rng = np.random.default_rng(seed)
    law = falling(
        rng.uniform(0.3, 0.5, m), np.exp(rng.uniform(9, 10.5, m)), r_star=8, spread=0.1, draws=40
    )
    supplies = tuple(
        Supply(
            LABELS[i],
            int(10 ** rng.uniform(4.5, 6.5)),
            max_epochs=8.0,
            usd_fixed=float(rng.choice([0.3, 1.0])),
            usd_per_token=float(rng.choice([0.0, 3e-6])),
        )
        for i in range(m)
    )
    return Problem(supplies, law, budget=6.0, noise=0.003, axis="usd", usd_per_trained=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_outer_approximation_finds_the_best_of_all_patterns(seed, monkeypatch):
    problem = priced(seed)
    parts, pool = pieces(problem), candidates(problem, rng=np.random.default_rng(0), count=80)
    assert parts.patterns > convex_module.FEW
    found, value = optimise(problem, pool)
    proposed = optimum(View.of(problem), parts, pool[:3])
    assert len(proposed) <= convex_module.PROPOSALS
    monkeypatch.setattr(convex_module, "FEW", 10**6)
    every = optimum(View.of(problem), parts, pool[:1])
    assert len(every) > 2
    best = View.of(problem).judge(every).key.min()
    assert value == pytest.approx(best, abs=1e-7)
    # and an exhaustive grid over what is bought knows nothing better
    rng = np.random.default_rng(seed)
    rows = [
        np.where(on, rng.dirichlet(np.ones(len(on))), 0)
        for on in product([False, True], repeat=len(found))
        if any(on)
        for _ in range(40)
    ]
    tokens, possible = fill(problem, np.array(rows))
    assert value <= View.of(problem).scores(tokens[possible]).mean(axis=0).min() + 1e-9


def test_planted_fixed_costs_buy_exactly_the_sources_that_pay():
    law = falling([0.4] * 3, [1e4, 1.2e4, 4e4], r_star=4.0)
    supplies = (
        Supply("a", 150_000, max_epochs=8.0, usd_fixed=0.2),
        Supply("b", 150_000, max_epochs=8.0, usd_fixed=2.5),
        Supply("c", PLENTY),
    )
    problem = Problem(supplies, law, budget=3.0, noise=0.003, axis="usd", usd_per_trained=1e-6)
    answer = quick(problem)
    assert answer.shares["a"] > 0
    assert answer.shares["b"] == 0
    cheap = replace(
        problem, supplies=(supplies[0], replace(supplies[1], usd_fixed=0.2), supplies[2])
    )
    assert min(quick(cheap).shares.values()) > 0


def gambles():
    """A source that is better on average and one that is surely middling."""
    law = falling([0.4, 0.4], [1.2e4, 1.5e4], draws=200)
    luck = np.random.default_rng(3).standard_normal(200)
    theta = law.thetas.copy()
    theta[:, 3] += 0.5 * luck  # the log scale of `a` alone
    return replace(law, thetas=theta)


def test_a_tail_objective_buys_less_of_a_gamble():
    law = gambles()
    plain = Problem(
        (Supply("a", PLENTY), Supply("b", PLENTY)), law, budget=2e6, noise=0.003, regret_limit=0.03
    )
    share = np.linspace(0, 1, 201)
    tokens = np.column_stack([share, 1 - share]) * 2e6
    seen = survey(View.of(plain), tokens)
    regret = seen.judged.scores - seen.least[:, None]
    tail = tail_weights(200, 0.9) @ np.sort(regret, axis=0)
    over = (regret > 0.03).mean(axis=0)
    answers = {o: quick(replace(plain, objective=o)) for o in ("mean", "cvar", "chance")}
    assert answers["mean"].expected_regret <= regret.mean(axis=0).min() + 1e-4
    assert answers["cvar"].cvar <= tail.min() + 1e-4
    assert answers["chance"].chance_over <= over.min() + 0.005
    assert answers["cvar"].cvar < answers["mean"].cvar - 0.001
    assert answers["chance"].chance_over <= answers["mean"].chance_over
    assert answers["cvar"].shares["a"] < answers["mean"].shares["a"]


def test_the_mean_of_a_tail_is_that_of_its_draws():
    values = np.sort(np.random.default_rng(0).standard_normal(10))
    assert tail_weights(10, 0.8) @ values == pytest.approx(values[-2:].mean())
    assert tail_weights(10, 0.75) @ values == pytest.approx(
        (0.5 * values[-3] + values[-2] + values[-1]) / 2.5
    )


def test_every_draw_s_own_optimum_is_what_that_draw_alone_would_buy():
    law = falling([0.4, 0.4, 0.4], [8e3, 1e4, 9e3], r_star=8.0, spread=0.15, draws=6)
    supplies = (Supply("a", 80_000), Supply("b", 300_000), Supply("c", 150_000))
    problem = Problem(supplies, law, budget=3e6, noise=0.003)
    pool = candidates(problem, rng=np.random.default_rng(0), count=60)
    seen = survey(View.of(problem), pool)
    for draw in range(6):
        alone = replace(law, thetas=law.thetas[[draw]], noise=law.noise[[draw]])
        _, value = optimise(replace(problem, target=alone), pool)
        assert value <= seen.least[draw] + 1e-7
        assert seen.least[draw] == pytest.approx(value, abs=2e-4)


def test_a_flip_is_where_asking_again_gives_another_leader():
    law = falling([0.4, 0.4], [8e3, 3e4], r_star=4.0, spread=0.05, draws=60)
    supplies = (Supply("a", 100_000, max_epochs=12.0), Supply("b", PLENTY))
    problem = Problem(supplies, law, budget=1e6, noise=0.003)
    answer = allocate(problem, rng=np.random.default_rng(0))
    ups = [f for f in answer.flips if f.change == "budget" and f.searched[1] > 1]
    assert [(f.to, f.probability) for f in ups] == [("b", 1.0)]
    flip = ups[0]
    assert flip.low <= flip.factor <= flip.high
    below = quick(problem.scaled_budget(flip.factor * 0.94)).shares
    above = quick(problem.scaled_budget(flip.factor * 1.06)).shares
    assert below["a"] > 0.5 > above["a"]
    assert all(f.factor is None for f in answer.flips if f.change == "budget" and f not in ups)


def test_a_law_without_some_runs_is_one_more_line_of_the_sensitivity():
    law = falling([0.4, 0.4], [8e3, 3e4], spread=0.05, draws=40)
    other = falling([0.4, 0.4], [3e4, 8e3], spread=0.05, draws=40)
    problem = Problem(tuple(Supply(n, PLENTY) for n in "ab"), law, budget=1e6, noise=0.003)
    answer = allocate(problem, rng=np.random.default_rng(0), without={"runs at 800,000": other})
    row = next(c for c in answer.sensitivity if c.change == "without runs at 800,000")
    assert row.flips
    assert row.shares["b"] == pytest.approx(1.0)


def test_a_question_that_leaves_the_answer_allowed_has_the_same_answer():
    law = falling([0.4, 0.4, 0.4], [2e4, 2.5e4, 4e6], spread=0.02, draws=60)
    supplies = tuple(Supply(name, 10**9) for name in "abc")
    problem = Problem(supplies, law, budget=4e6, noise=0.003)
    answer = allocate(problem, rng=np.random.default_rng(0))
    assert answer.shares["c"] == 0
    rows = {change.change: change for change in answer.sensitivity}
    same = rows["acquisition costs +50%"]  # nothing costs anything
    for change in ("acquisition costs -50%", "epochs cap -50%", "without c"):
        assert rows[change].score == same.score
        assert {**rows[change].shares, "c": 0.0} == same.shares
    assert rows["without a"].score > same.score
    assert rows["without a"].flips


def test_two_sources_at_the_same_cap_do_not_lead_one_another():
    law = falling([0.4, 0.4, 0.4], [2e4, 2e4, 4e6], spread=0.02, draws=60)
    supplies = tuple(Supply(name, 10**9, max_share=0.45) for name in "abc")
    problem = Problem(supplies, law, budget=4e6, noise=0.003)
    answer = allocate(problem, rng=np.random.default_rng(0))
    assert answer.shares["a"] == pytest.approx(answer.shares["b"], abs=1e-3)
    told = {c.change: c.flips for c in answer.sensitivity if not c.change.startswith("without")}
    assert not any(told.values())
    assert all(flip.factor is None for flip in answer.flips)
