"""The data order: a pure function of (seed, sample number)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anneal.errors import TrainingError
from anneal.plan.values import Phase, Portion
from anneal.training.data import PhaseData, Windows, interleave, largest_remainder, permute
from anneal.values import canonical

L = 16


def tokens(count: int, base: int) -> list[np.ndarray]:
    """Distinguishable tokens: value // 1e6 is the source, the rest the position."""
    return [base * 1_000_000 + np.arange(count, dtype=np.uint32)]


def phase(steps: int = 30, pool: int | None = None, batch: int = 4) -> Phase:
    return Phase(
        mixture=(
            Portion(source="a", content="a", share=0.75, pool=pool),
            Portion(source="b", content="b", share=0.25),
        ),
        tokens=steps * batch * L,
        batch=batch,
        sequence=L,
    )


TOKENS = {"a": tokens(50 * L + 1, 1), "b": tokens(200 * L + 1, 2)}


@given(st.integers(1, 400), st.integers(0, 2**63), st.integers(0, 5))
def test_permutations_are_bijections(size, key, epoch):
    out = permute(np.arange(size), size, key, np.full(size, epoch))
    assert sorted(out) == list(range(size))


def test_permutations_of_different_epochs_and_keys_differ():
    at = np.arange(1000)
    first = permute(at, 1000, 1, np.zeros(1000, int))
    for other in (permute(at, 1000, 1, np.ones(1000, int)), permute(at, 1000, 2, 0 * at)):
        assert (first == other).mean() < 0.02  # chance is 0.001


def test_permutations_look_random():
    # a window's mean place over 400 seeds: 499.5 +- 3 standard errors of 14.4
    places = [permute(np.array([123]), 1000, s, np.array([0]))[0] for s in range(400)]
    assert abs(np.mean(places) - 499.5) < 45
    assert len(set(places)) > 280  # 400 draws of 1000 give about 330 distinct ones


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.integers(0, 5000))
def test_largest_remainder_is_exact_and_within_one(shares, total):
    counts = largest_remainder(shares, total)
    assert sum(counts) == total
    exact = np.array(shares) / sum(shares) * total
    assert (np.abs(np.array(counts) - exact) < 1).all()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_interleaving_is_even_over_every_prefix(counts):
    sources, ranks = interleave(counts)
    for source, count in enumerate(counts):
        mine = sources == source
        assert list(ranks[mine]) == list(range(count))
        expected = (np.arange(len(sources)) + 1) * count / len(sources)
        # each source alone is within half a turn of its place, plus a turn per other source
        assert np.abs(np.cumsum(mine) - expected).max() <= len(counts)


def test_samples_do_not_depend_on_how_they_are_read():
    whole = PhaseData(phase(), TOKENS, seed=3).read(0, 120)
    other = PhaseData(phase(), TOKENS, seed=3)
    assert (
        np.concatenate([other.step(s) for s in (7, 2)]) == whole[[*range(28, 32), *range(8, 12)]]
    ).all()
    # another batch size (another world size) trains on the same samples in the same order
    wide = PhaseData(phase(steps=15, batch=8), TOKENS, seed=3)
    assert (np.concatenate([wide.step(s) for s in range(15)]) == whole).all()


def test_seeds_and_phases_change_the_order_not_the_counts():
    other = phase().model_copy(update={"sequence": 2 * phase().sequence})
    data = [
        PhaseData(phase(), TOKENS, seed=s, before=b) for s, b in [(0, ()), (1, ()), (0, (other,))]
    ]
    rows = [d.read(0, 120) for d in data]
    assert not (rows[0] == rows[1]).all() and not (rows[0] == rows[2]).all()
    assert all(d.source_tokens == {"a": 90 * L, "b": 30 * L} for d in data)


def test_every_window_is_seen_once_an_epoch_and_pools_hold():
    data = PhaseData(phase(steps=40, pool=20 * L), TOKENS, seed=0)
    rows = data.read(0, 160)
    mine = rows[rows[:, 0] // 1_000_000 == 1]
    starts = (mine[:, 0] % 1_000_000) // L
    assert len(mine) == 120
    assert data.unique_tokens == {"a": 20 * L, "b": 40 * L}
    for epoch in range(6):
        assert len(set(starts[epoch * 20 : epoch * 20 + 20])) == 20
    assert len(set(starts)) == 20
    assert not (starts[:20] == starts[20:40]).all()
    assert (np.diff(mine, axis=1) == 1).all()  # windows are whole


def test_shards_are_one_stream_of_windows():
    parts = [np.arange(0, 33), np.arange(100, 110), np.arange(200, 250)]
    windows = Windows(parts, L)
    assert windows.count == 2 + 0 + 3
    read = windows.read(np.array([0, 1, 2, 4]))
    assert list(read[:, 0]) == [0, 16, 200, 232] and list(read[:, -1]) == [16, 32, 216, 248]


def test_a_share_that_rounds_to_nothing_is_an_error():
    small = Phase(
        mixture=(
            Portion(source="a", content="a", share=0.999),
            Portion(source="b", content="b", share=0.001),
        ),
        tokens=64,
        batch=4,
        sequence=L,
    )
    with pytest.raises(TrainingError, match=r"source `b`: share 0.001 of 4 samples rounds to none"):
        PhaseData(small, TOKENS, seed=0)


def test_too_little_text_is_an_error():
    with pytest.raises(TrainingError, match="hold no sequence of 16"):
        Windows([np.arange(16)], L)


def test_exact_tokens_are_exact_and_need_no_share():
    shares = (0.5001, 0.4999)  # would round otherwise
    plain = Phase(
        mixture=(
            Portion(source="a", content="a", share=shares[0]),
            Portion(source="b", content="b", share=shares[1]),
        ),
        tokens=40 * L,
        batch=4,
        sequence=L,
    )
    told = [23 * L, 17 * L]
    exact = plain.model_copy(
        update={
            "mixture": tuple(
                p.model_copy(update={"tokens": t}) for p, t in zip(plain.mixture, told, strict=True)
            )
        }
    )
    assert PhaseData(plain, TOKENS, seed=0).counts == [20, 20]
    data = PhaseData(exact, TOKENS, seed=0)
    assert data.source_tokens == {"a": 23 * L, "b": 17 * L}
    rows = np.concatenate([data.step(i) for i in range(exact.steps)])
    assert [int((rows[:, 0] // 1_000_000 == s).sum()) for s in (1, 2)] == [23, 17]
    # tokens that say what the shares say change nothing but the run's address
    same = plain.model_copy(
        update={"mixture": tuple(p.model_copy(update={"tokens": 20 * L}) for p in plain.mixture)}
    )
    one, other = PhaseData(plain, TOKENS, seed=3), PhaseData(same, TOKENS, seed=3)
    assert all((one.step(i) == other.step(i)).all() for i in range(plain.steps))


def test_a_portion_without_exact_tokens_is_addressed_as_ever():
    portion = Portion(source="a", content="a", share=1.0)
    assert canonical(portion) == '{"content":"a","pool":null,"share":1.0,"source":"a"}'
    assert "trainable" not in canonical(phase())


def test_a_source_goes_on_in_a_later_phase_where_an_earlier_one_left_it():
    """Split over phases, one epoch is still one epoch: every window once."""
    first = phase(steps=30)  # 90 samples of a's 50 windows: 1.8 epochs
    parts = [phase(steps=10), phase(steps=8), phase(steps=12)]
    data = [
        PhaseData(part, TOKENS, seed=5, before=parts[:number]) for number, part in enumerate(parts)
    ]
    whole = PhaseData(first, TOKENS, seed=5)

    def windows_of(source: int, *of: PhaseData) -> list[int]:
        rows = np.concatenate([d.read(0, len(d.source_of))[:, 0] for d in of])
        return [int(r) for r in rows if r // 1_000_000 == source]

    for source in (1, 2):
        assert windows_of(source, *data) == windows_of(source, whole)
    assert sum(d.new_tokens["a"] for d in data) == 50 * L == whole.unique_tokens["a"]
    assert data[2].new_tokens["a"] == 0
    # windows of another length, or another pool, are another order
    longer = parts[0].model_copy(update={"sequence": 2 * L})
    other = PhaseData(parts[1], TOKENS, seed=5, before=[longer])
    assert not (other.read(0, 32) == data[1].read(0, 32)).all()
    assert other.new_tokens == other.unique_tokens
