"""Which runs a sweep plans, and what they cost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anneal.errors import PlanError
from anneal.plan.budget import Budget, Prices, Real, Supply, real_tokens
from anneal.plan.flops import llama_parameters, training_flops
from anneal.plan.runs import Anneal, Design, further_runs, plan_runs, run_flops
from anneal.plan.schedule import learning_rate
from anneal.plan.values import FromRun, LlamaShape, Schedule, Scored
from anneal.sources.values import Cost

N = 1_000_000
PRICES = Prices(usd_per_hour=3.6, flops_per_second=1e9)  # 1e-12 USD a FLOP
BUDGET = Budget(smallest=16_384, largest=262_144, count=5, real=Real(tokens=4_194_304))


def supply(name="web", tokens=10_000_000, **more):
    return Supply(name=name, kind="filtered", content=name, tokens=tokens, max_epochs=16, **more)


def design(sources=None, budget=BUDGET, **more):
    return Design(
        start=FromRun(run="base"),
        parameters=N,
        tokenizer="t",
        vocabulary=4096,
        replay=supply("general", 4_000_000),
        sources=sources or (supply(), supply("books", 1_048_576)),
        targets=(Scored(name="target", content="x"),),
        budget=budget,
        anneal=Anneal(batch=8, sequence=256),
        prices=PRICES,
        **more,
    )


def test_arms_budgets_and_seeds():
    runs = plan_runs(design())
    ids = [r.spec.id for r in runs]
    assert len(set(ids)) == len(ids)
    assert [r.arm for r in runs].count("base") == 1
    cells = {(r.arm, r.source, r.budget, r.seed, r.repetition) for r in runs}
    for budget in BUDGET.ladder:
        for seed in range(3 if budget == 65_536 else 1):
            for arm, name in [
                ("control", "replay only"),
                ("source", "web"),
                ("source", "books"),
                ("uniform", "uniform mix"),
            ]:
                assert (arm, name, budget, seed, "matched") in cells
    # natural differs only for the source that the real budget would repeat, at two budgets
    natural = {(c[1], c[2]) for c in cells if c[4] == "natural" and c[0] != "base"}
    assert natural == {("books", 65_536), ("books", 262_144)}


def test_further_runs_are_new_ones_up_to_four_times_the_ladder_within_the_caps():
    sources = (supply(), supply("books", 50_000))  # of books 16 x 50,000 tokens at most
    asked = design(sources)
    runs = further_runs(asked)
    assert not {r.spec.id for r in runs} & {r.spec.id for r in plan_runs(asked)}
    assert {r.repetition for r in runs} == {"matched"}
    budgets = {n: [r.budget for r in runs if r.source == n] for n in ("web", "books")}
    assert budgets["web"] == [*BUDGET.ladder, 524_288, 1_048_576]
    assert budgets["books"] == [*BUDGET.ladder, 524_288]
    assert all(r.epochs <= 16 * (1 + 1e-6) for r in runs)


def test_matched_runs_see_the_epochs_of_the_real_budget():
    for run in plan_runs(design()):
        if run.source == "books" and run.repetition == "matched":
            # 4 epochs, up to a pool rounded up to whole sequences of 256 tokens
            pool = run.spec.phases[0].mixture[0].pool
            assert pool % 256 == 0
            assert run.epochs == pytest.approx(4.0, abs=4.0 * 256 / pool)


def test_extending_a_grid_keeps_every_run():
    before = {r.spec.id for r in plan_runs(design())}
    seeds = {r.spec.id for r in plan_runs(design(budget=BUDGET.model_copy(update={"seeds": 5})))}
    assert before < seeds
    more = (*design().sources, supply("new"))
    singles = {r.spec.id for r in plan_runs(design()) if r.arm != "uniform"}
    assert singles < {r.spec.id for r in plan_runs(design(sources=more))}


def test_names_of_sweeps_do_not_move_identity_but_content_does():
    one = {r.spec.id for r in plan_runs(design())}
    other = design(
        sources=(supply(), supply("books", 1_048_576).model_copy(update={"content": "y"}))
    )
    assert one != {r.spec.id for r in plan_runs(other)}


def test_epochs_above_the_cap_are_refused_in_the_words_of_the_design():
    sources = (supply(), supply("math", 10_000))
    budget = BUDGET.model_copy(update={"repetition": "natural"})
    with pytest.raises(PlanError) as caught:
        plan_runs(design(sources=sources, budget=budget))
    assert "source `math`: 262,144 tokens asked, 10,000 exist (limit 16 epochs: 160,000)" in str(
        caught.value
    )
    assert "raise source.math.max_epochs or lower the budget" in str(caught.value)


def test_matched_pools_never_pass_the_cap():
    scarce = supply("math", 100_000)  # the real budget would be 42 epochs; 16 are allowed
    for run in plan_runs(
        design(sources=(scarce,), budget=BUDGET.model_copy(update={"repetition": "matched"}))
    ):
        if run.source == "math":
            assert run.epochs <= 16


def test_steps_are_whole_and_flops_are_6nd():
    plan = design()
    for run in plan_runs(plan):
        for phase in run.spec.phases:
            assert phase.steps * phase.batch * phase.sequence == phase.tokens
        assert run_flops(plan, run) == 6 * N * run.tokens


@pytest.mark.parametrize(
    "real",
    [Real(tokens=5_000_000), Real(flops=4e13), Real(usd=50.0), Real(flops=2e14), Real(usd=500.0)],
)
def test_the_real_budget_is_spent_exactly(real):
    cost = Cost(usd_fixed=2.0, usd_per_token=3e-6, flops_fixed=1e12, flops_per_token=2e6)
    books = supply("books", 4_000_000, cost=cost)
    x = real_tokens(real, books, prices=PRICES, parameters=N, replay_share=0.25)
    flops = training_flops(N, x / 0.75)
    unique = min(x, books.tokens)
    spent = {
        "tokens": x,
        "flops": flops + cost.flops(unique),
        "usd": PRICES.training_usd(flops) + cost.usd(unique),
    }[real.axis]
    asked = real.tokens or real.usd or real.flops
    assert spent == pytest.approx(asked, rel=1e-9)


@pytest.mark.parametrize("usd", [2.5, 8.0, 30.0, 50.0, 500.0])
def test_the_real_budget_is_spent_exactly_on_a_rising_price(usd):
    tiers = ((100_000, 0.0), (900_000, 4e-6), (1_000_000, 2e-5))
    cost = Cost(usd_fixed=2.0, usd_per_token=1e-6, usd_tiers=tiers, seconds_per_token=1e-4)
    books = supply("books", 2_500_000, cost=cost)
    x = real_tokens(Real(usd=usd), books, prices=PRICES, parameters=N, replay_share=0.25)
    unique = min(x, books.tokens)
    spent = PRICES.training_usd(training_flops(N, x / 0.75)) + PRICES.acquisition_usd(cost, unique)
    assert spent == pytest.approx(usd, abs=1e-9)
    hand = 2 + 1e-6 * unique + 1e-7 * unique
    hand += 4e-6 * min(max(unique - 1e5, 0), 9e5) + 2e-5 * max(unique - 1e6, 0)
    assert PRICES.acquisition_usd(cost, unique) == pytest.approx(hand)


def test_runs_are_priced_by_the_tiers_of_the_tokens_they_see():
    tiers = ((20_000, 0.0), (40_000, 1e-6), (1, 1e-4))
    books = supply("books", cost=Cost(usd_tiers=tiers))
    plan = design((books,), BUDGET.model_copy(update={"repetition": "natural"}))
    runs = [r for r in plan_runs(plan) if r.source == "books"]
    assert {r.budget: round(r.acquisition_usd, 9) for r in runs} == {
        16_384: 0.0,
        32_768: pytest.approx(0.012768),
        65_536: pytest.approx(0.04 + 0.5536),
        131_072: pytest.approx(0.04 + 7.1072),
        262_144: pytest.approx(0.04 + 20.2144),
    }


def test_exactly_one_real_budget():
    with pytest.raises(ValidationError, match="exactly one of tokens, usd and flops"):
        Real(tokens=1, usd=2.0)


@given(
    st.sampled_from(["constant", "linear", "cosine", "one_minus_sqrt", "wsd"]), st.floats(0, 0.5)
)
def test_schedules_start_end_and_stay_within_the_peak(kind, warmup):
    schedule = Schedule(kind=kind, peak=2.0, warmup=warmup)
    total = 1e6
    rates = [learning_rate(schedule, s * total / 1000, total) for s in range(1001)]
    assert all(-1e-12 <= r <= 2.0 + 1e-12 for r in rates)
    assert (
        rates[0] == pytest.approx(0.0 if warmup > 1e-3 else 2.0, abs=1e-2 if warmup else 1e-9)
        or warmup <= 1e-3
    )
    assert rates[-1] == pytest.approx(2.0 if kind == "constant" else 0.0, abs=1e-9)
    after = [r for s, r in enumerate(rates) if s / 1000 >= warmup]
    assert all(a >= b - 1e-12 for a, b in zip(after, after[1:], strict=False))


def test_schedule_values_by_hand():
    at = lambda kind, t: learning_rate(Schedule(kind=kind, peak=1.0), t, 1.0)  # noqa: E731
    assert at("linear", 0.25) == 0.75
    assert at("cosine", 0.5) == pytest.approx(0.5)
    assert at("one_minus_sqrt", 0.25) == 0.5
    assert at("wsd", 0.5) == 1.0 and at("wsd", 0.9) == pytest.approx(0.5)
    half = Schedule(kind="linear", peak=1.0, final=0.1)
    assert learning_rate(half, 1.0, 1.0) == pytest.approx(0.1)


def test_parameters_without_making_the_model():
    from anneal.training.model import llama, parameter_count

    for shape in (
        LlamaShape(),
        LlamaShape(hidden=64, layers=2, heads=4, kv_heads=2, feed_forward=100, tied=False),
    ):
        assert llama_parameters(shape, 512) == parameter_count(llama(shape, vocabulary=512, seed=0))


def test_ladders_are_geometric():
    ladder = BUDGET.ladder
    assert ladder[0] == 16_384 and ladder[-1] == 262_144
    ratios = {round(math.log2(b / a), 6) for a, b in zip(ladder, ladder[1:], strict=False)}
    assert ratios == {1.0}
