"""From an allocation to phases, whatever is asked: totals exact, caps kept."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from anneal.errors import PlanError
from anneal.plan.place import split
from anneal.plan.pretraining import PhaseAsked
from tests.plan.asked import asked, fixed, plan, supplies, tokens_by

phases_asked = st.lists(
    st.tuples(
        st.floats(0.05, 4),
        st.sampled_from([16, 32, 64, 128]),
        st.integers(1, 6),
        st.sampled_from([(), ("synthetic",), ("high_quality", "filtered")]),
    ),
    min_size=1,
    max_size=4,
)
amounts = st.dictionaries(
    st.sampled_from(["books", "web", "made"]), st.integers(4_000, 900_000), min_size=1
)


@settings(max_examples=150, deadline=None)
@given(phases_asked, amounts, st.floats(0.05, 0.9))
def test_sources_are_trained_on_as_allocated_to_the_whole_sequence(rows, allocated, share):
    ask = asked(
        *(
            PhaseAsked(
                name=f"p{i}",
                mixture="allocation",
                part=part,
                sequence=sequence,
                batch=batch,
                kinds=kinds,
            )
            for i, (part, sequence, batch, kinds) in enumerate(rows)
        )
    )
    try:
        laid = plan(ask, allocated, share=share, stock=supplies(prose=10**9))
    except PlanError as error:
        assert "would get nothing" in str(error)  # a small part, a long sequence
        return
    for phase in laid.phases:
        assert phase.tokens == sum(p.tokens for p in phase.mixture)
        assert phase.tokens % (phase.batch * phase.sequence) == 0
        # replay is within a step of its share of what was asked for
        mine = [r for r in laid.audit if r.phase == phase.name]
        own = sum(r.asked for r in mine if r.source != "prose")
        replay = sum(p.tokens for p in phase.mixture if p.source == "prose")
        longest = phase.sequence * len(mine)
        assert abs(replay - own * share / (1 - share)) <= phase.batch * phase.sequence + longest
    for name, amount in allocated.items():
        asks = sum(r.asked for r in laid.audit if r.source == name)
        got = sum(tokens_by(laid, name).values())
        held = {r.phase for r in laid.audit if r.source == name}
        shortest = min(p.sequence for p in laid.phases)
        longest = max(p.sequence for p in laid.phases)
        assert 0 <= amount - got < (shortest if len(held) == len(rows) else longest)
        assert asks <= amount
        if len(held) == len(rows):
            assert asks == amount  # to the token
    for row in laid.audit:
        assert (row.difference == 0) == (not row.reason)


@settings(max_examples=100, deadline=None)
@given(amounts, st.integers(1, 40), st.sampled_from([16, 64]))
def test_without_replay_only_what_lies_beyond_the_last_whole_step_is_given_up(
    allocated, batch, sequence
):
    ask = asked(PhaseAsked(name="p", mixture="allocation", sequence=sequence, batch=batch))
    laid = plan(ask, allocated, share=0.0)
    (phase,) = laid.phases
    whole = sum(amount // sequence for amount in allocated.values())
    assert phase.tokens == whole // batch * batch * sequence
    for row in laid.audit:
        assert row.asked - row.tokens < sequence * (batch + 1)
        assert row.tokens <= allocated[row.source]
        if whole % batch and row.difference:
            assert "no replay" in row.reason
    assert "prose" not in tokens_by(laid, "prose")


@given(st.integers(0, 10_000), st.lists(st.integers(1, 5_000), min_size=1, max_size=6))
def test_split_is_exact_within_one_and_never_above_whole_weights(total, weights):
    parts = split(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(total * weight, sum(weights))) < 1
        if total <= sum(weights):
            assert part <= weight


@settings(max_examples=100, deadline=None)
@given(
    st.floats(0.01, 1),
    st.integers(20_000, 400_000),
    st.floats(1e-3, 3),
)
def test_fixed_mixtures_are_whole_steps_nearest_to_what_was_asked(share, tokens, scale):
    mixture = {"books": share, "replay": 1 - share}
    ask = asked(fixed(mixture=mixture, tokens=tokens), scale=scale)
    try:
        laid = plan(ask, stock=supplies(prose=10**9, books=10**9))
    except PlanError as error:
        assert tokens * scale <= 129  # half a step
        assert "half a step" in str(error)
        return
    (phase,) = laid.phases
    assert abs(phase.tokens - tokens * scale) <= 128.5
    for part in phase.mixture:
        wanted = {"books": share, "prose": 1 - share}[part.source]
        assert abs(part.tokens - wanted * phase.tokens) < 64 + 1e-6 * phase.tokens
