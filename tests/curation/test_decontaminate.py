"""Decontamination: leaks planted in every shape that leaks have, and clean files beside them."""

from __future__ import annotations

import gzip
import json
import math
import random

import pytest
from made import wrap

from anneal.curation.benchmarks import benchmark_documents, benchmarks_address
from anneal.curation.decontaminate import TargetIndex
from anneal.curation.shingles import words
from anneal.curation.steps import Decontaminate
from anneal.errors import SourceError
from anneal.sources.documents import Document
from anneal.sources.values import JsonlReader
from anneal.store import Store
from tests.conftest import REPOSITORY

CORPORA = REPOSITORY.parent / "shared" / "corpora"
OCCURS, CONTAINS = "occurs in a target", "contains a target document"
RUN = "has a long run of words in common with a target"


def words_of(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(100_000)}" for _ in range(count)]


def lines(text: list[str]) -> str:
    return "\n".join(" ".join(text[i : i + 8]) for i in range(0, len(text), 8))


def one_in(every: int, text: list[str]) -> list[str]:
    return [f"changed{i}" if i % every == every // 2 else word for i, word in enumerate(text)]


@pytest.fixture(scope="module")
def target() -> list[str]:
    return words_of(random.Random(0), 200)


@pytest.mark.parametrize(
    ("leak", "reason"),
    [
        (lines, OCCURS),
        (lambda t: "\n".join("        " + x for x in lines(t).split("\n")), OCCURS),
        (lambda t: ", ".join(t).upper() + ".", OCCURS),
        (lambda t: " ".join(t[80:110]), OCCURS),
        (lambda t: " ".join(words_of(random.Random(1), 9000) + t), CONTAINS),
        (lambda t: " ".join(words_of(random.Random(2), 9000) + t[50:100]), CONTAINS),
        (lambda t: " ".join(one_in(20, t)), OCCURS),
        (lambda t: " ".join(words_of(random.Random(3), 9000) + one_in(20, t)), CONTAINS),
    ],
    ids=[
        *("verbatim", "reindented", "capitals and commas", "excerpt", "bundle"),
        *("excerpt in a bundle", "one word in 20 changed", "that in a bundle"),
    ],
)
def test_a_planted_leak_is_caught_and_its_clean_neighbours_stay(carry_out, target, leak, reason):
    rng = random.Random(9)
    clean = [" ".join(words_of(rng, 300)) for _ in range(30)]
    clean[7] += " ".join(target[:12])  # twelve words in a row are no 13-gram
    stream = wrap([*clean[:15], leak(target), *clean[15:]])
    targets = {"other": wrap([" ".join(words_of(rng, 400))]), "exam": wrap([" ".join(target)])}
    kept, record = carry_out(Decontaminate(), stream, targets=targets)
    assert [d.text for d in kept] == clean
    assert record.dropped == {reason: 1}
    assert record.notes["compared_with_documents"] == 2


def test_what_thirteen_words_cannot_see_a_shorter_ngram_can(carry_out, target):
    """A paraphrase with one word in ten changed has no 13 words in a row left."""
    stream = wrap([" ".join(one_in(10, target))])
    targets = {"exam": wrap([" ".join(target)])}
    assert carry_out(Decontaminate(), stream, targets=targets)[1].dropped == {}
    assert carry_out(Decontaminate(ngram=8), stream, targets=targets)[1].dropped == {OCCURS: 1}


def longest_run(one: list[str], other: list[str]) -> int:
    """Words of the longest common run, by the textbook's quadratic table."""
    best, row = 0, [0] * (len(other) + 1)
    for a in one:
        row = [0] + [row[j] + 1 if a == b else 0 for j, b in enumerate(other)]
        best = max(best, *row)
    return best


def test_a_long_common_run_is_found_as_by_brute_force():
    """Small alphabets, so that runs repeat, overlap and begin anywhere."""
    rng = random.Random(11)
    found = 0
    for _ in range(400):
        alphabet = [f"v{i}" for i in range(rng.choice([2, 6, 60]))]
        targets = [rng.choices(alphabet, k=rng.randrange(3, 40)) for _ in range(3)]
        text = rng.choices(alphabet, k=rng.randrange(3, 60))
        piece = rng.choice(targets)
        text[5:5] = piece[rng.randrange(3) : rng.randrange(3, len(piece) + 1)]
        longest = rng.choice([0.3, 0.6, 0.9, 1.0])
        ngram = rng.choice([2, 3, 5])
        index = TargetIndex([" ".join(t) for t in targets], ngram)
        number = index.with_common_run(" ".join(text), longest)
        needed = [max(ngram, math.ceil(longest * min(len(text), len(t)))) for t in targets]
        enough = [longest_run(text, t) >= n for t, n in zip(targets, needed, strict=True)]
        # a text shorter than an n-gram touches only as a whole
        enough = [e or (t == text and len(t) < ngram) for e, t in zip(enough, targets, strict=True)]
        assert (number >= 0) == any(enough)
        assert number < 0 or enough[number]
        found += number >= 0
    assert 50 < found < 350


def test_the_longest_run_decides_where_shares_of_ngrams_do_not(carry_out):
    rng = random.Random(12)
    target = words_of(rng, 100)
    step = Decontaminate(max_overlap=0.9)
    stream = [
        Document("65", " ".join(target[20:85] + words_of(rng, 900)), "", ""),
        Document("55", " ".join(target[20:75] + words_of(rng, 900)), "", ""),
        Document("twice 40", " ".join([*target[:40], "x", *target[45:85]]), "", ""),
    ]
    targets = {"exam": wrap([" ".join(target)])}
    kept, record = carry_out(step, stream, targets=targets)
    assert [d.id for d in kept] == ["55", "twice 40"]
    assert record.dropped == {RUN: 1}
    # 65 of 100 words are no run of 0.7
    kept, _ = carry_out(step.model_copy(update={"longest": 0.7}), stream, targets=targets)
    assert len(kept) == 3


def test_files_of_one_word_repeated_are_compared_at_once():
    """What compares positions with positions would take hours here."""
    index = TargetIndex(["0 " * 200_000, "0 " * 300 + "one " + "0 " * 300], 13)
    assert index.with_common_run("0 " * 150_000, 0.6) == 0
    assert index.with_common_run("1 " * 1000 + "0 " * 20 + "1 " * 1000, 0.6) == -1
    (overlap,) = index.overlaps(["0 " * 150_000])
    assert (overlap.of_document, overlap.of_target) == (1.0, 1.0)


def rows(path, texts, **more):
    data = "".join(json.dumps({"question": t, "answer": f"so {t}", **more}) + "\n" for t in texts)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data.encode()))
    elif path.suffix == ".zst":
        import zstandard

        path.write_bytes(zstandard.compress(data.encode()))
    else:
        path.write_text(data)


def test_benchmark_files_of_every_kind_are_compared_with(carry_out, tmp_path):
    import pyarrow
    from pyarrow import parquet

    rng = random.Random(13)
    texts = [" ".join(words_of(rng, 60)) for _ in range(9)]
    (tmp_path / "bench").mkdir()
    rows(tmp_path / "bench" / "a.jsonl", texts[:2])
    rows(tmp_path / "bench" / "b.jsonl.gz", texts[2:4])
    rows(tmp_path / "bench" / "c [1].jsonl.zst", texts[4:6])
    (tmp_path / "bench" / "d.txt").write_text(texts[6])
    table = {"question": [texts[7], ""], "answer": ["", texts[8]]}
    parquet.write_table(pyarrow.table(table), tmp_path / "bench" / "e.parquet")
    step = Decontaminate(benchmarks=("bench/*",), fields=("question", "answer"))
    found = list(benchmark_documents(step, tmp_path))
    assert [d.text for _, d in found] == [*(f"{t}\nso {t}" for t in texts[:6]), *texts[6:]]
    assert {name for name, _ in found} == {p.name for p in (tmp_path / "bench").iterdir()}
    clean = " ".join(words_of(rng, 60))
    stream = wrap([*texts, clean])
    kept, record = carry_out(step, stream, base=tmp_path, targets={"t": wrap(["other text"])})
    assert [d.text for d in kept] == [clean]
    assert record.notes["compared_with_documents"] == 10


def test_the_address_of_benchmarks_is_their_content(tmp_path):
    rows(tmp_path / "a.jsonl", ["one", "two"])
    store = Store(tmp_path / "store")
    step = Decontaminate(benchmarks=("a.jsonl",))
    first = benchmarks_address(step, store, tmp_path)
    assert first
    (tmp_path / "moved").mkdir()
    (tmp_path / "a.jsonl").rename(tmp_path / "moved" / "b.jsonl")
    moved = Decontaminate(benchmarks=("moved/*.jsonl",))
    assert benchmarks_address(moved, store, tmp_path) == first
    rows(tmp_path / "moved" / "b.jsonl", ["one", "three"])
    assert benchmarks_address(moved, store, tmp_path) != first
    assert benchmarks_address(Decontaminate(), store, tmp_path) == ""


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda p: None, r"path bad\*: no such file"),
        (lambda p: (p / "bad.csv").write_text("a,b"), r"bad\.csv: not \.jsonl"),
        (lambda p: rows(p / "bad.jsonl", ["x"]), "field `text` holds nothing, not text"),
        (lambda p: (p / "bad.jsonl").write_text("{"), "not JSON"),
        (lambda p: (p / "bad.jsonl").write_text('{"text": "good"}\n["bad"]\n'), "JSON object|row"),
        (lambda p: (p / "bad.txt").write_bytes(b"caf\xe9 au lait"), "not UTF-8"),
        (lambda p: (p / "bad.parquet").write_bytes(b"PAR1 and no more"), "not readable"),
        (lambda p: (p / "bad.jsonl.zst").write_bytes(b"no zstandard"), "cannot be read"),
        (lambda p: (p / "bad.jsonl").write_text(""), "empty"),
    ],
    ids=["absent", "ending", "field", "json", "one row", "bytes", "parquet", "zst", "empty"],
)
def test_a_benchmark_that_cannot_be_compared_with_is_one_clear_error(
    carry_out, tmp_path, write, what
):
    write(tmp_path)
    step = Decontaminate(benchmarks=("bad*",))
    with pytest.raises(SourceError, match=f"^benchmark .*{what}") as caught:
        benchmarks_address(step, Store(tmp_path / "store"), tmp_path)
        carry_out(step, wrap(["text"]), base=tmp_path)
    assert caught.value.hint


def test_word_problems_planted_in_real_text_are_found_and_none_else(carry_out):
    if not CORPORA.exists():
        pytest.skip(f"no corpora in {CORPORA}")
    from anneal.sources.documents import documents

    def read(name: str, count: int) -> list[Document]:
        reader = JsonlReader(path=str(CORPORA / name / "data.jsonl.zst"), id="id")
        found = documents(reader, base=CORPORA, prepared={})
        return [document for document, _ in zip(found, range(count), strict=False)]

    problems = [d for d in read("target_gsm8k", 400) if words(d.text).size >= 40]
    text = read("general", 300)
    planted = [
        Document(f"planted {i}", f"{page.text}\n{problem.text}\n{page.text[:500]}", "", "")
        for i, (page, problem) in enumerate(zip(text, problems, strict=False))
    ]
    targets = {"gsm8k": problems}
    kept, _ = carry_out(Decontaminate(), text + planted, targets=targets)
    assert [d.id for d in kept] == [d.id for d in text]
