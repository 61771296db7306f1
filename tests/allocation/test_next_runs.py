"""The value of runs not yet done: against binned truth, and the rules for stopping."""

from dataclasses import replace

import numpy as np
import pytest
from planted import PLENTY, falling

from anneal.allocation import Candidate, Problem, Supply, next_runs
from anneal.allocation.next_runs import _purchases
from anneal.errors import LawError, PlanError
from anneal.laws import predict


def two(spread=0.15, draws=400, noise=0.005, **more):
    law = falling([0.4, 0.4], [2e4, 2.1e4], spread=spread, draws=draws)
    law = replace(law, noise=np.full(draws, noise))
    return Problem((Supply("a", PLENTY), Supply("b", PLENTY)), law, budget=4e6, noise=0.003, **more)


def ask(problem, *runs, **more):
    return next_runs(problem, runs, rng=np.random.default_rng(0), **more)


def run(source="a", tokens=8e5, flops=1e15, **more):
    return Candidate(source, tokens, tokens, flops, **more)


@pytest.mark.parametrize(("tokens", "noise"), [(8e5, 0.005), (8e5, 0.03), (1e5, 0.01)])
def test_the_gain_of_a_run_is_that_of_deciding_after_it(tokens, noise):
    problem = two(draws=4000, noise=noise)
    answer = ask(problem, run(tokens=tokens))
    # the truth by binning 4000 worlds by what the run measured in them
    rng = np.random.default_rng(1)
    scores, _ = _purchases(problem, rng)
    curve = np.log(predict(problem.target, [0], [tokens])[:, 0])
    bins = np.array_split(np.argsort(curve + noise * rng.standard_normal(4000)), 80)
    told = scores.mean(axis=0).min() - np.mean([scores[b].mean(axis=0).min() for b in bins])
    gain = answer.rows[0].gain
    assert answer.draws == 400
    assert gain.low - 0.1 * told <= told <= gain.high + 0.1 * told
    assert 0 < gain.value < answer.regret


def test_an_exact_run_beats_a_noisy_one_and_a_fraction_of_its_price_beats_both():
    answer = ask(
        two(noise=0.03),
        run(name="once"),
        run(seeds=9, name="nine times"),
        run(flops=1e14, name="cheap"),
        run(tokens=50.0, name="nothing"),
    )
    rows = {r.candidate.label: r for r in answer.rows}
    assert answer.rows[0].candidate.label == "cheap"
    assert rows["nine times"].gain.value > rows["once"].gain.value == rows["cheap"].gain.value
    assert abs(rows["nothing"].gain.value) < 0.1 * rows["once"].gain.value
    assert not rows["nothing"].worthwhile
    assert rows["once"].low < 0 < rows["once"].high  # a single noisy run may mislead
    assert rows["cheap"].per_exaflop == pytest.approx(10 * rows["once"].per_exaflop)
    assert not answer.stop
    assert answer.plan[0] == answer.rows[0]


def test_the_second_run_is_planned_given_the_first():
    answer = ask(two(), run("a"), run("a", name="a again"), run("b", flops=1.1e15), count=2)
    assert [w.candidate.source for w in answer.plan] == ["a", "b"]
    ranked = [w.candidate.label for w in answer.rows]
    assert ranked.index("a again") < 2  # alone it is worth as much as the first
    assert sum(w.gain.value for w in answer.plan) < answer.regret


def test_what_cannot_be_paid_is_not_planned():
    dear, cheap = run(flops=1e16, usd=5.0), run("b", tokens=1e5, flops=1e14, usd=0.1)
    answer = ask(two(), dear, cheap, count=2, flops=1e15)
    assert [w.candidate for w in answer.plan] == [cheap]
    assert {w.candidate.source: w.affordable for w in answer.rows} == {"a": False, "b": True}
    none = ask(two(), dear, usd=1.0)
    assert none.stop
    assert none.reason == "no candidate is affordable"


def test_stop_where_nothing_is_worth_its_price():
    problem = two()
    gain = ask(problem, run()).rows[0].gain.value
    priced = run(usd=10.0)
    buys = ask(problem, priced, worth=10.0 / gain * 1.05)
    assert not buys.stop
    assert buys.rows[0].net == pytest.approx(0.5, rel=1e-6)
    stops = ask(problem, priced, worth=10.0 / gain * 0.95)
    assert stops.stop
    assert "no more than its price of 10" in stops.reason
    sure = ask(two(spread=0.003), run())
    assert sure.stop
    assert "within the noise floor" in sure.reason
    useless = ask(two(), run(tokens=50.0))
    assert useless.stop
    assert "less than 10%" in useless.reason


@pytest.mark.parametrize(
    ("runs", "error", "words"),
    [
        ((), PlanError, "no candidates"),
        ((run(flops=0.0),), PlanError, "must be positive"),
        ((run(tokens=float("nan")),), PlanError, "must be positive"),
        ((run(usd=-1.0),), PlanError, "negative"),
        ((run("z"),), LawError, "no curve for `z`"),
    ],
)
def test_a_run_that_cannot_be_is_refused(runs, error, words):
    with pytest.raises(error, match=words):
        ask(two(draws=20), *runs)


def test_the_same_seed_gives_the_same_plan():
    problem = two(draws=60)
    assert ask(problem, run(), run("b")) == ask(problem, run(), run("b"))


def test_a_tie_between_two_of_three_sources_asks_for_those_two():
    law = falling([0.4, 0.4, 0.4], [2e4, 2.1e4, 4e5], spread=0.12, draws=400)
    supplies = tuple(Supply(name, PLENTY) for name in "abc")
    problem = Problem(supplies, law, budget=4e6, noise=0.003)
    runs = [run(name, tokens, flops=6e6 * tokens) for name in "abc" for tokens in (4e5, 8e5, 1.6e6)]
    answer = ask(problem, *runs)
    assert not answer.stop
    assert answer.rows[0].candidate.source in {"a", "b"}
    gains = {n: max(r.gain.value for r in answer.rows if r.candidate.source == n) for n in "abc"}
    assert min(gains["a"], gains["b"]) > 10 * max(gains["c"], 0.0)
    assert not any(r.worthwhile for r in answer.rows if r.candidate.source == "c")
