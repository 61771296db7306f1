"""Deduplication against brute force: planted similarities, order, precedence, batches."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from made import wrap

from anneal.curation import dedup, signatures
from anneal.curation.dedup import Seen
from anneal.curation.shingles import batch_ngrams, ngrams, words
from anneal.curation.signatures import SignatureFile, minhash
from anneal.curation.steps import Deduplicate

EARLIER = " of an earlier source"


def words_of(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(100_000)}" for _ in range(count)]


def changed(rng: random.Random, text: list[str], similarity: float, ngram: int) -> list[str]:
    """A copy with Jaccard similarity of about `similarity`: a stretch in the middle is new."""
    size = len(text) - ngram + 1
    lost = round(size * (1 - similarity) / (1 + similarity)) - ngram + 1
    at = rng.randrange(ngram, len(text) - ngram - lost)
    return text[:at] + words_of(rng, lost) + text[at + lost :]


def jaccard(one: str, other: str, ngram: int) -> float:
    a, b = (set(ngrams(words(text), ngram).tolist()) for text in (one, other))
    return len(a & b) / len(a | b)


def test_many_texts_at_once_have_the_ngrams_they_have_alone():
    rng = random.Random(0)
    texts = ["", "a", " ,. ", "é漢字 ü", "a b c d"] + [
        " ".join(words_of(rng, rng.choice([1, 5, 12, 13, 14, 200]))) for _ in range(60)
    ]
    texts.insert(7, "x" * 200_000 + " tail of a text whose first word has no end")
    for n in (1, 2, 13, 50):
        hashes, offsets = batch_ngrams(texts, n)
        for i, text in enumerate(texts):
            assert hashes[offsets[i] : offsets[i + 1]].tolist() == ngrams(words(text), n).tolist()
        assert offsets[-1] == hashes.size


@pytest.mark.parametrize("ngram", [5, 13])
def test_pairs_well_above_the_threshold_go_and_pairs_well_below_stay(carry_out, ngram):
    """0.8 with a standard error of 0.035: three of them on either side."""
    rng = random.Random(ngram)
    texts, above = [], set()
    for similarity in (0.4, 0.6, 0.69, 0.91, 0.95, 0.99):
        for _ in range(25):
            one = words_of(rng, 600)
            other = changed(rng, one, similarity, ngram)
            if jaccard(" ".join(one), " ".join(other), ngram) > 0.8:
                above.add(len(texts) + 1)
            texts += [" ".join(one), " ".join(other)]
    assert len(above) == 75
    kept, record = carry_out(Deduplicate(ngram=ngram), wrap(texts))
    assert {int(d.id) for d in kept} == set(range(len(texts))) - above
    assert record.dropped == {"near duplicate": 75}


def test_the_estimate_is_jaccard_within_its_error():
    rng = random.Random(3)
    errors = []
    for similarity in np.linspace(0.3, 0.95, 60):
        one = words_of(rng, 800)
        pair = [" ".join(one), " ".join(changed(rng, one, similarity, 5))]
        a, b = minhash(*batch_ngrams(pair, 5), 128)
        errors.append((a == b).mean() - jaccard(*pair, 5))
    assert abs(np.mean(errors)) < 3 * 0.042 / 60**0.5  # sqrt(J (1 - J) / 128), at most 0.044
    assert np.std(errors) < 0.055


def greedy(rows: np.ndarray, jaccard: float, first: int) -> list[int]:
    """By comparing all with all."""
    copy_of = [-1] * len(rows)
    for j in range(first, len(rows)):
        for i in range(j):
            if copy_of[i] < 0 and (rows[i] == rows[j]).mean() >= jaccard:
                copy_of[j] = i
                break
    return copy_of


@pytest.mark.parametrize("blocks", [None, 8 * 21 * 7])
@pytest.mark.parametrize("first", [0, 40])
def test_copies_are_those_of_comparing_all_with_all(tmp_path, monkeypatch, blocks, first):
    if blocks:  # many blocks and many rounds, as a large corpus has
        monkeypatch.setattr(signatures, "BLOCK_BYTES", blocks)
        monkeypatch.setattr(signatures, "PAIRS", 5)
    rng = np.random.default_rng(first)
    rows = rng.integers(0, 2**32, (300, 128), dtype=np.uint32)
    for j in range(100, 300):  # copies, copies of copies, and likenesses that are none
        rows[j] = rows[rng.integers(0, j)]
        share = rng.choice([0.05, 0.12, 0.4, 0.7])
        at = rng.permutation(128)[: int(128 * share)]
        rows[j, at] = rng.integers(0, 2**32, at.size, dtype=np.uint32)
    file = SignatureFile(tmp_path, 0.8, 128)
    file.block = min(file.block, 64) if blocks else file.block
    for part in np.split(rows, [1, 17, 150]):
        file.add(part)
    copy_of, similarity = file.copies(first)
    assert copy_of.tolist() == greedy(rows, 0.8, first)
    for j in np.flatnonzero(copy_of >= 0):
        agreement = (rows[j] == rows[copy_of[j]]).mean()
        assert similarity[j] == pytest.approx(agreement, abs=2 / 128)  # 16 bits agree by chance


def test_a_copy_of_a_dropped_copy_stays_where_nothing_near_it_stays(carry_out):
    """Clusters would keep one document of a chain in which the ends have nothing in common."""
    rng = random.Random(5)
    text = words_of(rng, 400)
    chain = [" ".join(text)]
    for step in range(8):  # each has 0.9 of the one before
        text = text[:]
        text[step * 45 : step * 45 + 10] = words_of(rng, 10)
        chain.append(" ".join(text))
    kept, _ = carry_out(Deduplicate(ngram=5), wrap(chain))
    texts = [d.text for d in kept]
    assert 2 <= len(texts) < 9
    for one, other in itertools.combinations(texts, 2):
        assert jaccard(one, other, 5) < 0.9
    for text in set(chain) - set(texts):
        assert max(jaccard(text, other, 5) for other in texts) > 0.7


def test_hundreds_of_one_template_leave_one(carry_out):
    rng = random.Random(6)
    text = words_of(rng, 500)
    texts = []
    for i in range(300):
        one = text[:]
        one[rng.randrange(500)] = f"number{i}"
        texts.append(" ".join(one))
    kept, record = carry_out(Deduplicate(ngram=5), wrap(texts))
    assert [d.id for d in kept] == ["0"]
    assert record.dropped == {"near duplicate": 299}


def test_sources_that_come_first_take_precedence(carry_out):
    rng = random.Random(7)
    theirs = [words_of(rng, 300) for _ in range(20)]
    mine = [words_of(rng, 300) for _ in range(20)]
    near = [changed(rng, text, 0.95, 13) for text in theirs[:6] + mine[:3]]
    stream = wrap(" ".join(t) for t in [*mine, *theirs[10:14], *near, *mine[:2]])
    upstream = {
        "first": wrap(" ".join(t) for t in theirs[:12]),
        "second": wrap(" ".join(t) for t in theirs[12:]),
    }
    local, record = carry_out(Deduplicate(), stream, upstream=upstream)
    assert record.dropped == {"exact duplicate": 2, "near duplicate": 3}
    assert len(local) == 20 + 4 + 6
    both, record = carry_out(Deduplicate(after=("first", "second")), stream, upstream=upstream)
    assert record.dropped == {
        "exact duplicate": 2,
        "near duplicate": 3,
        "exact duplicate" + EARLIER: 4,
        "near duplicate" + EARLIER: 6,
    }
    assert [d.text for d in both] == [" ".join(t) for t in mine]
    exact, record = carry_out(Deduplicate(after=("first",), jaccard=1), stream, upstream=upstream)
    assert record.dropped == {"exact duplicate": 2, "exact duplicate" + EARLIER: 2}
    assert len(exact) == 20 + 2 + 9


def test_what_is_kept_depends_on_no_batch(carry_out, monkeypatch):
    rng = random.Random(8)
    texts = [words_of(rng, 200) for _ in range(40)]
    texts += [changed(rng, t, 0.9, 5) for t in texts] + texts[:9]
    stream = wrap(" ".join(t) for t in texts)
    step = Deduplicate(ngram=5, after=("a",))
    upstream = {"a": wrap(" ".join(t) for t in texts[20:25])}
    kept, record = carry_out(step, stream, upstream=upstream)
    monkeypatch.setattr(dedup, "BATCH_CHARACTERS", 1)
    again, other = carry_out(step, stream, upstream=upstream)
    assert again == kept
    assert other.dropped == record.dropped


def test_nothing_in_gives_nothing_out_and_texts_without_words_are_equal(carry_out):
    assert carry_out(Deduplicate(), [])[0] == []
    kept, record = carry_out(Deduplicate(), wrap(["...", "?!", "word", " word\n"]))
    assert [d.text for d in kept] == ["...", "word"]
    assert record.dropped == {"near duplicate": 1, "exact duplicate": 1}


def test_numbers_are_remembered_past_the_size_of_the_small_set():
    seen = Seen()
    numbers = np.arange(1, 150_001, dtype=np.uint64) * np.uint64(2**40 + 7)
    for part in np.split(numbers, 10):
        assert seen.add(part).all()
    assert seen.sorted.size
    assert seen.has(numbers).all()
    assert not seen.add(numbers[::100]).any()
    assert not seen.has(numbers + np.uint64(1)).any()
    assert seen.add(np.array([5, 5, 6], dtype=np.uint64)).tolist() == [True, False, True]
