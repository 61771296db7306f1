"""From an allocation to phases: totals exact, caps kept, differences told."""

import pytest
from pydantic import ValidationError

from anneal.errors import PlanError
from anneal.plan.means import DeepSpeed, Gate, LongSequences, Means, Watch
from anneal.plan.pretraining import PhaseAsked, variants
from anneal.plan.schedule import learning_rate
from anneal.plan.values import Schedule
from anneal.sources.layout import Layout
from anneal.sources.values import Source, TreeReader
from tests.plan.asked import asked, bought, fixed, plan, supplies, tokens_by

# --- placement ----------------------------------------------------------------------------------


def test_parts_kinds_and_what_is_left():
    ask = asked(
        bought("main", part=0.75),
        bought("last", part=0.25, kinds=("synthetic",)),
    )
    allocated = {"books": 60_000, "web": 30_000, "made": 10_000}
    laid = plan(ask, allocated)
    want = {(r.phase, r.source): r.asked for r in laid.audit}
    assert want["last", "made"] == 10_000  # all of it
    assert ("main", "made") not in want
    assert want["last", "books"] == 10_000  # the rest in proportion
    assert want["last", "web"] == 5_000
    assert want["main", "books"] == 50_000
    assert want["main", "web"] == 25_000


def test_more_of_a_kind_than_its_phase_can_take_goes_elsewhere():
    ask = asked(bought("main", part=0.75), bought("last", part=0.25, kinds=("synthetic",)))
    laid = plan(ask, {"made": 80_000, "web": 20_000})
    want = {(r.phase, r.source): r.asked for r in laid.audit}
    assert want["last", "made"] == 25_000
    assert ("last", "web") not in want
    assert (want["main", "made"], want["main", "web"]) == (55_000, 20_000)


def test_a_phase_may_set_its_own_share_of_replay_and_the_decision_may_buy_more():
    one = plan(asked(bought(replay_share=0.5)), {"books": 64_000})
    assert tokens_by(one, "books") == tokens_by(one, "prose") == {"main": 64_000}
    more = plan(asked(bought()), {"books": 76_800, "prose": 25_600})
    # a quarter of source and replay, and on top what was bought
    assert tokens_by(more, "prose") == {"main": 25_600 + 25_600}
    exact = plan(asked(bought()), {"books": 76_800})
    assert all(not row.difference for row in exact.audit)


def test_fixed_shares_by_name_by_kind_and_by_replay():
    stock = supplies(web=300_000)
    stock["web2"] = stock["web"].model_copy(update={"name": "web2", "tokens": 100_000})
    ask = asked(fixed(mixture={"filtered": 0.5, "books": 0.25, "replay": 0.25}, tokens=256_000))
    by_stock = plan(ask, stock=stock)
    assert tokens_by(by_stock, "web") == {"first": 96_000}
    assert tokens_by(by_stock, "web2") == {"first": 32_000}
    assert tokens_by(by_stock, "books") == tokens_by(by_stock, "prose") == {"first": 64_000}
    by_decision = plan(ask, {"web": 10, "web2": 30}, stock=stock)
    assert tokens_by(by_decision, "web") == {"first": 32_000}
    one = plan(ask, {"web": 10}, stock=stock)
    assert tokens_by(one, "web2") == {}
    assert one.left_out["web2"] == "phase first: the decision buys none of it"


def test_what_is_left_out_is_named():
    laid = plan(asked(bought()), {"books": 64_000, "web": 0, "made": 3})
    assert laid.left_out == {
        "web": "the decision buys none of it",
        "made": "3 tokens make no sequence in any phase",
    }
    laid = plan(asked(fixed()), {"books": 64_000})
    assert "though the decision buys 64,000" in laid.left_out["books"]
    assert laid.left_out["web"] == "no phase asks for it"
    laid = plan(asked(fixed(mixture={"books": 0.0001, "replay": 0.9999})))
    assert "makes none" in laid.left_out["books"]


def test_where_a_phase_lies_otherwise_its_portions_have_that_content():
    other = supplies()["books"].model_copy(update={"content": "by repository", "tokens": 50_000})
    ask = asked(bought("main"), bought("last"))
    laid = plan(ask, {"books": 64_000}, by_phase={"last": {"books": other}})
    contents = [p.mixture[0].content for p in laid.phases]
    assert contents == ["books", "by repository"]
    assert [r.unique for r in laid.audit if r.source == "books"] == [1_000_000, 50_000]


def test_epochs_draw_on_a_subset():
    laid = plan(asked(fixed(mixture={"books": 0.5, "replay": 0.5}, tokens=512_000, epochs=4)))
    books, prose = laid.phases[0].mixture
    assert (books.pool, books.tokens, prose.pool) == (64_000, 256_000, None)
    row = next(r for r in laid.audit if r.source == "books")
    assert (row.unique, row.epochs) == (64_000, 4)


# --- schedules ----------------------------------------------------------------------------------


def test_warm_up_in_steps_and_in_tokens():
    schedule = Schedule(kind="linear", peak=1.0)
    steps = fixed(tokens=256 * 250, schedule=schedule, warmup_steps=25)
    (phase,) = plan(asked(steps)).phases
    assert phase.schedule.warmup == 0.1
    step = phase.batch * phase.sequence
    assert learning_rate(phase.schedule, 25 * step, phase.tokens) == 1.0
    tokens = fixed(tokens=256 * 2500, schedule=schedule, warmup_tokens=256 * 250)
    (phase,) = plan(asked(tokens, scale=0.1)).phases
    assert (phase.steps, phase.schedule.warmup) == (250, 0.1)
    with pytest.raises(PlanError, match="a warm-up of 300 steps in 250 steps"):
        plan(asked(fixed(tokens=256 * 250, warmup_steps=300)))


# --- errors -------------------------------------------------------------------------------------


def test_a_source_beyond_its_epochs_over_all_phases_is_refused_by_name():
    ask = asked(
        fixed("one", 3_000_000, {"made": 0.5, "replay": 0.5}),
        fixed("two", 6_000_000, {"made": 0.5, "replay": 0.5}),
    )
    with pytest.raises(PlanError) as caught:
        plan(ask)
    assert caught.value.what == (
        "source `made`: 4,500,096 tokens asked (one 1,500,032, two 3,000,064), 1,000,000 exist "
        "(limit 4 epochs: 4,000,000)"
    )
    assert "max_epochs" in caught.value.hint
    laid = plan(ask, throw=False)
    assert {s.source for s in laid.shortages} == {"made", "prose"}
    short = laid.shortages[0]
    assert short.exist == 1_000_000
    assert short.needed == -(-short.asked // 4)


def test_what_the_base_was_trained_on_counts():
    ask = asked(fixed(tokens=64_000 * 16))
    assert plan(ask).phases
    with pytest.raises(PlanError, match=r"the base 3,000,000, first 1,024,000\), 1,000,000 exist"):
        plan(ask, before={"prose": 3_000_000})


def test_a_subset_larger_than_the_source_is_refused():
    ask = asked(fixed(mixture={"books": 1.0}, tokens=3_200_000, epochs=2))
    with pytest.raises(PlanError, match=r"source `books`: 3,200,000 .* \(limit 2 epochs"):
        plan(ask)
    (short,) = plan(ask, throw=False).shortages
    assert short.needed == 1_600_000


@pytest.mark.parametrize(
    ("ask", "allocated", "message"),
    [
        (asked(bought()), {}, "buys no source"),
        (asked(bought()), {"prose": 64_000}, "buys no source"),
        (asked(bought()), {"books": 63}, "less than one sequence of 64: it would get nothing"),
        (asked(bought()), {"maths": 63}, "buys `maths`, which the sweep does not have"),
        (asked(fixed(), scale=1e-4), {}, "less than half a step"),
        (asked(fixed(mixture={"boks": 1.0})), {}, "names `boks`, which is no source"),
        (asked(fixed(mixture={"books": 0.5, "high_quality": 0.5})), {}, "means `books` twice"),
        (asked(fixed(mixture={"general": 1.0})), {}, "no source of kind `general`"),
    ],
)
def test_one_clear_error(ask, allocated, message):
    with pytest.raises(PlanError, match=message) as caught:
        plan(ask, allocated)
    assert caught.value.hint


def test_without_replay_less_than_a_step_is_nothing():
    with pytest.raises(PlanError, match="less than one step of 4"):
        plan(asked(bought()), {"books": 3 * 64}, share=0.0)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"processes": 3}, "batch of 4 sequences does not divide among 3 processes"),
        ({"micro_batch": 3}, "micro_batch=3 does not divide the 4 sequences"),
        ({"processes": 2, "micro_batch": 4}, "micro_batch=4 does not divide the 2"),
        (
            {"processes": 6, "long": LongSequences(sequence_parallel=3)},
            "3 processes cannot share a sequence of 64",
        ),
    ],
)
def test_processes_must_divide(engine, message):
    with pytest.raises(PlanError, match=message):
        plan(asked(fixed(), engine=Means(engine="deepspeed", **engine)))
    fine = Means(engine="deepspeed", processes=4, long=LongSequences(sequence_parallel=2))
    assert plan(asked(fixed(), engine=fine)).phases


def test_moments_of_embeddings_alone_cannot_be_kept_under_deepspeed():
    def ask(engine, state):
        return asked(
            fixed("words", trainable="embeddings"),
            fixed("all", optimiser_state=state),
            engine=Means(engine=engine, deepspeed=DeepSpeed()),
        )

    with pytest.raises(PlanError, match="phase `all`: it keeps the moments of `words`"):
        plan(ask("deepspeed", "kept"))
    assert plan(ask("deepspeed", "reset")).phases[0].trainable == "embeddings"
    assert plan(ask("torch", "kept")).phases


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": 5}, "tokens follow from the decision"),
        ({"mixture": "replay"}, "tokens are needed"),
        ({"mixture": {"a": 0.5}, "tokens": 5}, "must sum to 1"),
        ({"mixture": {"a": 1.5, "b": -0.5}, "tokens": 5}, "below 0"),
        ({"mixture": "replay", "tokens": 5, "part": 2.0}, "belong to mixture: allocation"),
        ({"mixture": "replay", "tokens": 5, "epochs": 2}, "only replay"),
        ({"warmup_steps": 3, "warmup_tokens": 5}, "not both"),
        ({"layout": Layout(packing="best_fit", sequence=32)}, "packs windows of 32"),
    ],
)
def test_phases_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        PhaseAsked(**{"name": "p", "mixture": "allocation"} | fields)


def test_names_of_phases_and_gates_are_checked():
    with pytest.raises(ValidationError, match="share a name"):
        asked(fixed("p"), fixed("p"))
    watch = Watch(gates=(Gate(phase="q", target="t", at_most=1.0),))
    with pytest.raises(ValidationError, match="a gate names no phase: q"):
        asked(fixed("p"), engine=Means(engine="deepspeed", watch=watch))


# --- layouts ------------------------------------------------------------------------------------


def test_variants_are_what_a_phase_wants_otherwise():
    def source(name, kind, **more):
        return Source(name=name, kind=kind, read=TreeReader(path=name), **more)

    grouped = Layout(order="language_repository")
    packed = Layout(packing="best_fit", sequence=64)
    prose = source("prose", "general")
    sources = [
        source("books", "high_quality"),
        source("web", "filtered", layout=grouped),
        source("made", "synthetic", layout=packed),
    ]
    ask = asked(
        fixed("plain"),
        bought("grouped", layout=grouped),
        PhaseAsked(name="longer", mixture={"synthetic": 1.0}, tokens=10**5, sequence=128),
        bought("as they are"),
    )
    found = {(v.phase, v.source): v.layout for v in variants(ask, sources, prose)}
    assert found == {
        ("grouped", "books"): grouped,
        ("grouped", "made"): grouped,
        ("grouped", "prose"): grouped,
        ("longer", "made"): packed.model_copy(update={"sequence": 128}),
    }
