"""Order, boundaries, fill-in-the-middle and packing: what comes out is what went in, elsewhere."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anneal.errors import SourceError
from anneal.sources.documents import Document
from anneal.sources.fill import arranged, cut
from anneal.sources.layout import FILL_FAMILIES, FILL_MARKS, Layout, Marks, find_marks
from anneal.sources.order import Keys
from anneal.sources.packing import best_fit
from anneal.sources.tokenize import Provenance, document_starts, open_tokens, tokenize
from anneal.sources.tokenizer import END_OF_TEXT, import_tokenizer, load_tokenizer, train_tokenizer
from anneal.store import Store
from anneal.training.data import Windows

WORDS = ["def", "import", "Größe", "☃", "<|fim_prefix|>", "<|endoftext|>", "x", "y", "=", ":\n"]
MARKS = Marks(begin=END_OF_TEXT, fill=FILL_MARKS)


@dataclass(frozen=True, slots=True)
class Code(Document):
    """A document that knows its language."""

    language: str = ""


def corpus(count: int = 90, seed: int = 0) -> list[Code]:
    rng = random.Random(seed)
    out = []
    for i in range(count):
        repository = f"r{i * 7 % 11}"
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 60)))
        out.append(Code(f"{repository}/{i}", text or "x", repository, "", language="cp"[i % 2]))
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([corpus()], folder, vocabulary=290, sample_bytes=10**6, marks=FILL_MARKS)
    return folder


@pytest.fixture
def made(trained, tmp_path):
    """`made(layout, ...)`: manifest, all tokens, and the documents between end-of-texts."""
    count = 0

    def done(layout: Layout, *, stream=None, **options):
        nonlocal count
        count += 1
        stream = corpus() if stream is None else stream
        store = Store(tmp_path)
        size = sum(len(d.text.encode()) for d in stream)
        manifest = tokenize(
            lambda: iter(stream),
            trained,
            store,
            f"{count:020d}",
            provenance=Provenance(name="code", kind="general", documents_address="d", bytes=size),
            layout=layout,
            marks=MARKS.needed(layout),
            **options,
        )
        shards = open_tokens(store.tokens(manifest.content), manifest, verify=True)
        return manifest, shards, document_starts(store.tokens(manifest.content))

    return done


def texts(trained, shards) -> list[str]:
    """Decoded documents, split at every end-of-text."""
    tokenizer, info = load_tokenizer(trained)
    tokens = np.concatenate(shards)
    ends = np.flatnonzero(tokens == info.end_of_text)
    firsts = [0, *(ends[:-1] + 1)]
    decode = tokenizer.decode
    return [
        decode(tokens[a:b].tolist(), skip_special_tokens=False)
        for a, b in zip(firsts, ends, strict=True)
    ]


@given(st.text(max_size=80), st.text(), st.floats(0, 1), st.integers(0, 9))
def test_pieces_of_a_document_are_its_text(text, identity, spm, seed):
    layout = Layout(fim_rate=1.0, spm_share=spm, seed=seed)
    pieces = cut(text, identity, layout)
    assert pieces is not None
    assert pieces.prefix + pieces.middle + pieces.suffix == text
    assert pieces == cut(text, identity, layout)
    assert cut(text, identity, Layout(seed=seed)) is None


@given(*[st.lists(st.integers(10, 20)) for _ in range(3)], st.booleans())
def test_an_arrangement_can_be_undone(prefix, middle, suffix, suffix_first):
    ids = arranged(prefix, middle, suffix, marks=(1, 2, 3), suffix_first=suffix_first)
    after, between = ids.index(2), ids.index(3)
    assert ids[0] == 1
    if suffix_first:
        assert (after, ids[2:between], ids[between + 1 :]) == (1, suffix, prefix + middle)
    else:
        assert (ids[1:after], ids[after + 1 : between]) == (prefix, suffix)
        assert ids[between + 1 :] == middle


def test_rates_are_those_asked_and_cuts_are_anywhere():
    layout = Layout(fim_rate=0.5, spm_share=0.9)
    cuts = [cut("x" * 100, str(i), layout) for i in range(4000)]
    found = [c for c in cuts if c is not None]
    assert len(found) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sum(c.suffix_first for c in found) / len(found) == pytest.approx(0.9, abs=0.03)
    assert np.mean([len(c.middle) for c in found]) == pytest.approx(100 / 3, abs=3)
    assert 0 in {len(c.prefix) for c in found} & {len(c.suffix) for c in found}


def test_rearranged_documents_decode_to_their_texts(made, trained):
    layout = Layout(fim_rate=0.6, spm_share=0.5)
    manifest, shards, starts = made(layout)
    before, after, between = FILL_MARKS
    _, info = load_tokenizer(trained)
    ids = np.concatenate(shards)
    tokenizer, _ = load_tokenizer(trained)
    marks = [tokenizer.token_to_id(mark) for mark in FILL_MARKS]
    orders = Counter()
    for document, first, last in zip(corpus(), starts, starts[1:], strict=False):
        pieces = cut(document.text, document.id, layout)
        own = ids[first : last - 1]
        text = tokenizer.decode(own.tolist(), skip_special_tokens=False)
        # a text that mentions a mark has none of its own
        assert sum((own == mark).sum() for mark in marks) == (0 if pieces is None else 3)
        if pieces is None:
            assert text == document.text
            orders["plain"] += 1
        elif pieces.suffix_first:
            whole = pieces.prefix + pieces.middle
            assert text == f"{before}{after}{pieces.suffix}{between}{whole}"
            orders["spm"] += 1
        else:
            assert text == f"{before}{pieces.prefix}{after}{pieces.suffix}{between}{pieces.middle}"
            orders["psm"] += 1
    assert len(orders) == 3
    assert manifest.bytes == sum(len(d.text.encode()) for d in corpus())
    assert manifest.layout == layout
    assert (ids == info.end_of_text).sum() == manifest.documents


@given(
    st.lists(st.tuples(st.sampled_from(["c", "py", ""]), st.integers(0, 4)), min_size=1),
    st.integers(0, 5),
)
def test_an_order_is_a_permutation_that_keeps_repositories_together(kinds, seed):
    keys = Keys(Layout(order="language_repository", boundary="repository", seed=seed))
    stream = [
        Code(str(i), "", f"r{group}" if group else "", "", language=language)
        for i, (language, group) in enumerate(kinds)
    ]
    for document in stream:
        keys.add(document)
    order = keys.order(np.arange(len(stream)))
    assert sorted(order) == list(range(len(stream)))
    languages = [stream[i].language for i in order]
    assert languages == sorted(languages)
    runs = [[stream[i] for i in order[a:b]] for a, b in itertools.pairwise(keys.runs(order))]
    for run in runs:
        assert len({(d.language, d.group) for d in run}) == 1
        assert len(run) == 1 or run[0].group
    grouped = [(run[0].language, run[0].group) for run in runs if run[0].group]
    assert len(grouped) == len(set(grouped))


def test_order_and_repository_boundaries_on_tokens(made, trained):
    stream = corpus()
    layout = Layout(order="language_repository", boundary="repository")
    manifest, shards, starts = made(layout)
    assert manifest.documents == len(stream)
    runs = texts(trained, shards)
    assert len(runs) == len({(d.language, d.group) for d in stream}) == len(starts) - 1
    whole = "".join(runs)
    assert len(whole) == sum(len(d.text) for d in stream)
    for run in runs:
        left = run
        inside = [d for d in stream if d.text in run]
        group = next(
            g
            for g in {(d.language, d.group) for d in inside}
            if sum(len(d.text) for d in stream if (d.language, d.group) == g) == len(run)
            and all(d.text in run for d in stream if (d.language, d.group) == g)
        )
        for document in sorted(stream, key=lambda d: -len(d.text)):
            if (document.language, document.group) == group:
                assert document.text in left
                left = left.replace(document.text, "", 1)
        assert left == ""
    again = made(layout)[0]
    other = made(Layout(order="language_repository", boundary="repository", seed=1))[0]
    assert again.content == manifest.content != other.content
    read = made(Layout(order="language_repository"), stream=stream[::-1])[0]
    assert read.content == made(Layout(order="language_repository"))[0].content


def test_begin_and_end(made, trained):
    manifest, shards, starts = made(Layout(boundary="begin_end"))
    plain = made(Layout())[0]
    ids, (_, info) = np.concatenate(shards), load_tokenizer(trained)
    assert (ids[starts[:-1]] == info.end_of_text).all()  # of a tokenizer trained here it is both
    assert (ids[starts[1:] - 1] == info.end_of_text).all()
    assert manifest.tokens == plain.tokens + plain.documents
    assert manifest.bytes == plain.bytes


@given(st.lists(st.integers(1, 70), min_size=1, max_size=60), st.integers(2, 24))
def test_packing_loses_and_repeats_no_token_and_cuts_none_that_fits(lengths, sequence):
    rows = best_fit(lengths, sequence)
    seen = Counter()
    at = 0
    for row in rows:
        for span in row:
            assert span.first < span.last
            seen.update((span.item, token) for token in range(span.first, span.last))
            length = lengths[span.item]
            inside = at // sequence == (at + span.last - span.first - 1) // sequence
            assert inside or length > sequence
            if length <= sequence:
                assert (span.first, span.last) == (0, length)
            else:  # whole windows of it begin where a window of training does
                assert at % sequence == 0 or span.first >= length - length % sequence
            at += span.last - span.first
        at += -at % sequence
    assert set(seen.values()) == {1}
    assert sum(seen.values()) == sum(lengths)
    # no two windows have room for one another: on average less than half stays empty
    assert at <= sum(lengths) + sequence * (len(rows) + 1) / 2


def test_best_fit_takes_the_fullest_window_that_holds_it():
    # 7 and 5 open windows with rooms 3 and 5; 3 goes where it leaves nothing
    rows = best_fit([5, 3, 7], 10)
    assert [[span.item for span in row] for row in rows] == [[0], [1, 2]]
    # the rest of a long document stays behind its whole window
    assert best_fit([13, 6], 10) == [[(0, 0, 13), (1, 0, 6)]]
    # of two rests in one window the second's whole windows come first
    assert best_fit([13, 24], 10) == [[(1, 0, 20), (0, 0, 13), (1, 20, 24)]]
    assert best_fit([20], 10) == [[(0, 0, 20)]]


@pytest.mark.parametrize("shard_tokens", [10**6, 700])
def test_windows_of_training_hold_whole_documents(made, trained, shard_tokens):
    layout = Layout(packing="best_fit", sequence=48)
    manifest, shards, starts = made(layout, shard_tokens=shard_tokens)
    plain, plain_shards, plain_starts = made(Layout())
    end = load_tokenizer(trained)[1].end_of_text
    assert sum(map(len, shards)) == manifest.tokens + manifest.padding
    assert manifest.tokens == plain.tokens
    assert (manifest.bytes, manifest.documents) == (plain.bytes, plain.documents)
    assert 0 < manifest.padding < 0.1 * manifest.tokens
    whole = np.concatenate(plain_shards)
    lost = len(shards) - 1  # a shard's last window has no next token
    windows = Windows(shards, 48)
    assert windows.count == (manifest.tokens + manifest.padding - 1) // 48 - lost
    rows = windows.read(np.arange(windows.count))
    seen = Counter()
    for row in rows:
        parts = "".join(map(chr, row[:-1])).split(chr(end))
        seen.update(part for part in parts if part)
    fitting = [
        "".join(map(chr, whole[a : b - 1]))
        for a, b in itertools.pairwise(plain_starts)
        if b - a <= 48
    ]
    missing = Counter(fitting) - seen
    assert not missing if not lost else missing.total() <= 48 * lost
    # all tokens but padding are there, as often as in the plain stream
    ours, theirs = (np.bincount(ids, minlength=290) for ids in (np.concatenate(shards), whole))
    theirs[end] += manifest.padding
    np.testing.assert_array_equal(ours, theirs)
    assert starts[-1] == manifest.tokens + manifest.padding


def test_every_option_at_once_is_deterministic_and_keeps_max_tokens(made):
    layout = Layout(
        order="language_repository",
        fim_rate=0.5,
        spm_share=0.5,
        packing="best_fit",
        sequence=64,
        boundary="begin_end",
    )
    one = made(layout, max_tokens=1500)[0]
    two = made(layout, max_tokens=1500)[0]
    assert one == two
    assert 1300 < one.tokens <= 1500
    assert one.content != made(layout.model_copy(update={"seed": 3}), max_tokens=1500)[0].content


BAD = {
    "no sequence": ({"packing": "best_fit"}, "needs the phase's `sequence`"),
    "sequence alone": ({"sequence": 128}, "needs the phase's `sequence`"),
    "no end to fill up to": ({"fim_rate": 0.5, "boundary": "repository"}, "middle is"),
    "rate": ({"fim_rate": 1.5}, "less than or equal to 1"),
    "unknown": ({"order": "random"}, "language_repository"),
}


@pytest.mark.parametrize("case", BAD)
def test_layouts_that_contradict_themselves_are_refused(case):
    fields, words = BAD[case]
    with pytest.raises(ValidationError, match=words):
        Layout(**fields)


def test_marks_of_existing_tokenizers(trained, tmp_path):
    file = trained / "tokenizer.json"
    assert find_marks(file, None, begin=True, fill=True) == MARKS
    content = json.loads(file.read_text())
    for family in FILL_FAMILIES:
        named = json.dumps(content, ensure_ascii=False)
        for old, new in zip(FILL_MARKS, family, strict=True):
            named = named.replace(old, new)
        (tmp_path / "tokenizer.json").write_text(named)
        found = find_marks(tmp_path / "tokenizer.json", None, begin=False, fill=True)
        assert found.fill == family
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(content).replace("<|fim_middle|>", "<|mitte|>"))
    with pytest.raises(SourceError, match="fim_rate asks") as caught:
        find_marks(other, None, begin=False, fill=True)
    assert "tokenizer.fim_tokens" in caught.value.hint
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|mitte|>")
    assert find_marks(other, names, begin=False, fill=True).fill == names
    with pytest.raises(SourceError, match="begin-of-text"):
        find_marks(other, names, begin=True, fill=True)
    other.write_text("[]")
    with pytest.raises(SourceError, match="no vocabulary"):
        find_marks(other, None, begin=False, fill=True)


def test_a_mark_that_is_not_there_is_an_error_before_anything_is_written(trained, tmp_path):
    content = (trained / "tokenizer.json").read_text().replace("<|fim_middle|>", "<|mitte|>")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(content)
    shutil.copy(trained / "tokenizer_config.json", tmp_path / "other")
    (tmp_path / "in").mkdir()
    import_tokenizer(tmp_path / "other", tmp_path / "in", end_of_text=None)
    layout = Layout(fim_rate=1.0)
    with pytest.raises(SourceError, match=r"no token '<\|fim_middle\|>'"):
        tokenize(
            lambda: iter(corpus()),
            tmp_path / "in",
            Store(tmp_path),
            "r" * 20,
            provenance=Provenance(name="a", kind="general", documents_address="d", bytes=1),
            layout=layout,
            marks=MARKS.needed(layout),
        )
    assert not (tmp_path / "tokens").exists()
