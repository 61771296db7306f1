"""Limits together: every one is kept exactly, and those that collide are named."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import LABELS, PLENTY, falling, guard_law

from anneal.allocation import (
    Guard,
    Problem,
    Supply,
    Together,
    allocate,
    mixture_score,
    mixture_slope,
)
from anneal.allocation.purchase import allowed, divergence, fill, whole
from anneal.errors import PlanError


def quick(problem):
    return allocate(problem, rng=np.random.default_rng(0), explained=False)


def bought(answer):
    return np.array([[float(r.tokens) for r in answer.rows]])


def question(*supplies, budget=4e6, **more):
    m = len(supplies)
    law = falling(np.full(m, 0.4), np.full(m, 2e4))
    return Problem(supplies, law, budget=budget, noise=0.01, **more)


@pytest.mark.parametrize(
    ("problem", "words", "hints"),
    [
        (
            question(Supply("a", PLENTY, min_share=0.7), Supply("b", PLENTY, min_share=0.5)),
            "share of a at least 0.7 + share of b at least 0.5",
            ["at least 0.7: 0.5 would do", "at least 0.5: 0.3 would do"],
        ),
        (
            question(
                Supply("a", PLENTY, min_share=0.5),
                Supply("b", PLENTY),
                together=(Together("cc-by", ("a",), most=0.3),),
            ),
            "share of a at least 0.5 + share of cc-by at most 0.3",
            ["at least 0.5: 0.3 would do", "at most 0.3: 0.5 would do"],
        ),
        (
            question(
                Supply("a", 100_000, max_epochs=4.0),
                Supply("b", 100_000, max_epochs=4.0),
                least_tokens=1e6,
            ),
            "a at most 4 epochs + b at most 4 epochs + at least 1e+06 tokens",
            ["6 epochs would do", "800,000 tokens would do"],
        ),
        (
            question(
                Supply("a", PLENTY),
                usd_per_trained=1e-3,
                ceilings=(("usd", 500.0),),
                least_tokens=4e6,
            ),
            "at least 4e+06 tokens + ceiling 500 usd",
            ["500,000 tokens would do", "4,000 usd would do"],
        ),
        (
            question(Supply("a", PLENTY, usd_fixed=9), budget=4, axis="usd", usd_per_trained=1e-6),
            "budget 4 usd buys no token",
            ["9 usd would do"],
        ),
    ],
)
def test_limits_that_collide_are_named_with_what_would_do(problem, words, hints):
    with pytest.raises(PlanError) as error:
        quick(problem)
    assert words in error.value.what
    for hint in hints:
        assert hint in error.value.hint


def test_what_the_error_says_would_do_does():
    problem = question(
        Supply("a", PLENTY, usd_fixed=100.0, min_share=0.2),
        Supply("b", PLENTY),
        usd_per_trained=1e-6,
        ceilings=(("usd", 50.0),),
    )
    with pytest.raises(PlanError, match="ceiling 50 usd: 100 usd would do"):
        quick(problem)
    mended = quick(replace(problem, ceilings=(("usd", 101.0),)))
    assert mended.usd <= 101.0
    assert mended.rows[0].share >= 0.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"supplies": (Supply("a", 9, usd_fixed=1.0, currency="eur"),)}, "two currencies"),
        ({"together": (Together("x", ("z",)),)}, "names `z`"),
        ({"prior": (("a", 0.0),), "prior_weight": 1.0}, "share above 0"),
        ({"min_replay": 0.3}, "no supply is the control"),
        ({"supplies": (Supply("a", 9, min_share=0.6, max_share=0.5),)}, "must be ordered"),
        ({"ceilings": (("usd", -1.0),)}, "usd ceiling"),
        ({"level": 1.0}, "below 1"),
        ({"objective": "chance", "regret_limit": 0.0}, "regret_limit"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(PlanError, match=words):
        Problem(
            **{"supplies": (Supply("a", 5),), "target": falling([0.4], [2e4]), "noise": 0.1}
            | {"budget": 9}
            | change
        )


@st.composite
def questions(draw):
    m = draw(st.integers(2, 4))
    exponent = [draw(st.floats(0.25, 0.6)) for _ in range(m)]
    scale = [draw(st.floats(3e3, 1e5)) for _ in range(m)]
    law = falling(exponent, scale, r_star=8.0, spread=0.1, draws=16)
    supplies = tuple(
        Supply(
            LABELS[i],
            draw(st.integers(10_000, 3_000_000)),
            max_epochs=draw(st.floats(1.0, 12.0)),
            usd_fixed=draw(st.sampled_from([0.0, 0.5])),
            usd_per_token=draw(st.sampled_from([0.0, 5e-7])),
            min_share=draw(st.sampled_from([0.0, 0.0, 0.1])),
            max_share=draw(st.sampled_from([1.0, 0.7, 1 / 3])),
        )
        for i in range(m)
    )
    axis = draw(st.sampled_from(["tokens", "usd"]))
    budget = draw(st.integers(1_000, 5_000_000)) if axis == "tokens" else draw(st.floats(2.0, 12.0))
    ceiling = ("usd", draw(st.floats(2.0, 9.0))) if axis == "tokens" else ("tokens", 2_000_001.0)
    names = LABELS[:m]
    return Problem(
        supplies,
        law,
        budget=budget,
        noise=0.005,
        axis=axis,
        usd_per_trained=1e-6,
        ceilings=(ceiling,),
        together=(Together("licence", names[:2], most=draw(st.sampled_from([1.0, 0.6]))),),
        replay=0.2,
        control=names[-1],
        min_replay=draw(st.sampled_from([0.0, 0.3])),
        prior=tuple((n, 1.0) for n in names),
        prior_weight=draw(st.sampled_from([0.0, 0.01])),
        objective=draw(st.sampled_from(["mean", "cvar", "chance"])),
    )


@pytest.mark.integration
@given(questions())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_limit_is_kept_together_or_the_collision_is_named(problem):
    try:
        answer = quick(problem)
    except PlanError as error:
        assert any(w in error.what for w in ("kept together", "buys no token", "whole number"))
        assert "would do" in error.hint or "less than a token" in error.hint
        return
    tokens = bought(answer)
    total = tokens.sum()
    share = dict(zip(problem.names, tokens[0] / total, strict=True))
    assert total == answer.tokens
    assert allowed(problem, tokens)[0]
    for axis, most in problem.most.items():
        assert problem.spent(tokens, axis)[0] <= most * (1 + 1e-9)
    for supply in problem.supplies:
        assert supply.min_share - 1e-9 <= share[supply.name] <= supply.max_share + 1e-9
    assert sum(share[n] for n in problem.together[0].sources) <= problem.together[0].most + 1e-9
    replay = problem.replay + (1 - problem.replay) * share[problem.control]
    assert replay >= problem.min_replay - 1e-9
    # never worse than natural or uniform proportions, where the limits allow these
    plain, possible = fill(problem, np.vstack([problem.available, np.ones(len(share))]))
    plain = plain[possible & allowed(problem, plain)]
    if len(plain) and problem.objective == "mean":
        law, pools = problem.target, problem.available
        price = mixture_score(law, plain, pools).mean(axis=0)
        price = price + problem.prior_weight * divergence(problem, plain)
        ours = answer.score.value + problem.prior_weight * answer.divergence
        # whole tokens within limits on shares may lie a few tokens from the best fractions of them
        _, slope = mixture_slope(law, tokens[0], pools)
        few = (1 + len(share)) * np.abs(slope.mean(axis=0)).max() if problem.shares_limited else 0.0
        assert ours <= price.min() + 1e-6 + few


def test_whole_tokens_keep_a_share_of_a_third_of_a_few():
    supplies = tuple(Supply(n, 100, max_share=1 / 3 + 1e-12) for n in "abc")
    problem = question(*supplies, budget=10)
    tokens = whole(problem, np.full(3, 10 / 3))
    assert tokens.tolist() == [3, 3, 3]  # ten would give one source four
    assert whole(replace(problem, budget=12), np.full(3, 4.0)).tolist() == [4, 4, 4]


def test_a_prior_limit_is_reached_and_a_weight_pulls_towards_the_prior():
    law = falling([0.4, 0.4, 0.4], [8e3, 3e4, 5e4])
    plain = Problem(tuple(Supply(n, PLENTY) for n in "abc"), law, budget=2e6, noise=0.003)
    prior = (("a", 0.2), ("b", 0.3), ("c", 0.5))
    near = quick(replace(plain, prior=prior, prior_limit=0.1))
    assert near.divergence == pytest.approx(0.1, abs=1e-3)
    assert near.shares["a"] > 0.3
    pulls = [quick(replace(plain, prior=prior, prior_weight=w)).divergence for w in (0.02, 0.2, 20)]
    assert pulls[0] > pulls[1] > pulls[2]
    assert pulls[2] < 1e-3
    free = np.array([[float(r.tokens) for r in quick(plain).rows]])
    assert divergence(replace(plain, prior=prior), free)[0] == pytest.approx(np.log(5))


def test_a_prior_that_the_caps_keep_out_of_reach_is_named():
    law = falling([0.4, 0.4], [8e3, 3e4])
    supplies = (Supply("a", PLENTY), Supply("b", PLENTY, max_share=0.1))
    problem = Problem(supplies, law, budget=2e6, noise=0.003)
    with pytest.raises(PlanError, match=r"lies 0\.36"):
        # KL((.9, .1) || (.5, .5)) is 0.368 nats
        quick(replace(problem, prior=(("a", 0.5), ("b", 0.5)), prior_limit=0.01))


def test_shadow_prices_of_shares_ceilings_and_licences_are_named():
    law = falling([0.4, 0.4, 0.4], [8e3, 3e4, 5e4])
    supplies = (Supply("a", PLENTY), Supply("b", PLENTY), Supply("c", PLENTY, min_share=0.1))
    problem = Problem(
        supplies,
        law,
        budget=2e6,
        noise=0.003,
        usd_per_trained=1e-6,
        ceilings=(("usd", 1.5),),
        together=(Together("nc", ("a",), most=0.5),),
    )
    answer = allocate(problem, rng=np.random.default_rng(0))
    assert answer.shares == pytest.approx({"a": 0.5, "b": 0.4, "c": 0.1}, abs=1e-6)
    assert answer.tokens == 1_500_000
    prices = {x.limit: x for x in answer.binding}
    assert set(prices) == {
        "ceiling 1.5 usd",
        "share of nc at most 0.5",
        "share of c at least 0.1",
    }
    wider = replace(problem, together=(Together("nc", ("a",), most=0.52),))
    won = answer.score.value - quick(wider).score.value
    assert prices["share of nc at most 0.5"].value == pytest.approx(won / 2, rel=0.05)


def test_several_guards_share_the_confidence():
    law = falling([0.4, 0.4], [8e3, 4e4], spread=0.02, draws=100)
    guards = tuple(
        Guard(n, guard_law([2.0, 2.0], [0.08, 0.0], spread=0.004, draws=100, seed=i), 2.15)
        for i, n in enumerate(["prose", "code"])
    )
    supplies = (Supply("a", PLENTY), Supply("b", PLENTY))
    problem = Problem(supplies, law, budget=2e6, noise=0.003, guards=guards)
    both, one = quick(problem), quick(replace(problem, guards=guards[:1]))
    assert both.probability_guard >= 0.9
    assert 0.2 < both.shares["a"] < one.shares["a"]
