"""Curation's steps one by one, each on documents with a planted truth."""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made import wrap

from anneal.curation.decontaminate import TargetIndex
from anneal.curation.exercises import functions
from anneal.curation.quality import best
from anneal.curation.shingles import ngrams, shingles, words
from anneal.curation.signatures import RECALL, band_rows
from anneal.curation.steps import Annotate, Decontaminate, Deduplicate, WriteExercises
from anneal.errors import SourceError
from anneal.sources.documents import Document, documents
from anneal.sources.values import InstalledReader


def text_of(rng: random.Random, count: int, vocabulary: int = 5000, stem: str = "w") -> str:
    return " ".join(f"{stem}{rng.randrange(vocabulary)}" for _ in range(count))


@pytest.fixture(scope="module")
def library() -> list[Document]:
    return list(documents(InstalledReader(what="stdlib"), base=Path(), prepared={}))


def test_words_are_the_words_whatever_is_between_them():
    a = words("Alpha, (beta_1)  GAMMA é")
    assert a.tolist() == words("alpha beta_1\n\ngamma-é").tolist()
    assert a.tolist() != words("beta_1 alpha gamma é").tolist()
    assert words(" ,.; ").size == 0
    # against a plain regular expression, on real text
    text = Path(ast.__file__).read_text()
    plain = [w.lower() for w in re.findall(rb"[A-Za-z0-9_\x80-\xff]+", text.encode())]
    hashes = words(text)
    assert len(hashes) == len(plain)
    assert len(set(hashes.tolist())) == len(set(plain))
    seen = dict(zip(plain, hashes.tolist(), strict=True))
    assert [seen[w] for w in plain] == hashes.tolist()


def test_ngrams_depend_on_words_and_order_alone():
    a, b = words("a b c d e"), words("x y b c d z")
    assert len(ngrams(a, 3)) == 3
    assert set(ngrams(a, 3).tolist()) & set(ngrams(b, 3).tolist()) == {ngrams(a, 3)[1]}
    assert len(ngrams(words("too short"), 13)) == 1
    assert shingles("", 13).shape == (1,)
    assert ngrams(words("a b"), 2)[0] != ngrams(words("b a"), 2)[0]


def test_planted_copies_are_dropped_and_different_texts_stay(carry_out):
    rng = random.Random(1)
    originals = [text_of(rng, 400) for _ in range(150)]
    near = []
    for text in originals[:60]:
        parts = text.split()
        parts[rng.randrange(len(parts))] = "changed"
        near.append(" ".join(parts))  # Jaccard (388 - 13) / (388 + 13) or more: above 0.93
    half = [" ".join(t.split()[:200] + text_of(rng, 200).split()) for t in originals[60:120]]
    stream = wrap(originals + near + originals[:25] + half)
    kept, record = carry_out(Deduplicate(), stream)
    assert record.dropped == {"exact duplicate": 25, "near duplicate": 60}
    assert [d.text for d in kept] == originals + half
    _, record = carry_out(Deduplicate(jaccard=1), stream)
    assert record.dropped == {"exact duplicate": 25}


def test_bands_find_a_pair_at_the_threshold_and_no_fewer_rows_are_needed():
    for jaccard in (0.5, 0.8, 0.95):
        rows = band_rows(jaccard, 128)
        assert 1 - (1 - jaccard**rows) ** (128 // rows) >= RECALL
        assert 1 - (1 - jaccard ** (rows + 1)) ** (128 // (rows + 1)) < RECALL


def test_a_vendored_copy_of_a_held_out_module_is_dropped_and_clean_files_survive(
    library, carry_out
):
    """What setuptools, pip and torch do: ship an edited copy of a standard-library module."""
    modules = {d.id: d.text for d in library}
    target = modules["textwrap.py"]
    lines = target.split("\n")
    edited = [re.sub(r"\bself\b", "this", x) if i % 7 == 0 else x for i, x in enumerate(lines)]
    long = (
        "argparse.py",
        "datetime.py",
        "textwrap.py",
        "pdb.py",
        "shutil.py",
        "tarfile.py",
        "ast.py",
    )
    planted = {
        "vendored": '"""Vendored."""\nimport os\n' + "\n".join(edited),
        "excerpt": "\n".join(lines[len(lines) // 2 : len(lines) // 2 + 40]),
        "bundle": "\n\n".join(modules[n] for n in long),
        "reindented": "\n".join("        " + line for line in lines),
    }
    clean = {name: modules[name] for name in ("argparse.py", "shutil.py", "csv.py", "heapq.py")}
    stream = [Document(k, text, "", k) for k, text in (planted | clean).items()]
    targets = {"held out": wrap([target, modules["calendar.py"]])}
    kept, record = carry_out(Decontaminate(), stream, targets=targets)
    assert [d.id for d in kept] == list(clean)
    assert record.dropped == {"occurs in a target": 3, "contains a target document": 1}


def test_overlap_is_the_share_of_ngrams():
    rng = random.Random(2)
    one, two = text_of(rng, 113), text_of(rng, 213)
    index = TargetIndex([one, two, one], 13)
    other = text_of(rng, 87)
    both, nothing, second = index.overlaps([one + " " + other, other, text_of(rng, 900) + two])
    assert both.of_document == pytest.approx(101 / 188)  # of 200 words, 101 of 188 are one's
    assert (both.of_target, both.target) == (1.0, 0)
    assert nothing == (0.0, 0.0, -1)
    assert (second.of_target, second.target) == (pytest.approx(200 / 201), 1)
    assert TargetIndex([], 13).overlaps([one]) == [(0.0, 0.0, -1)]


def test_the_annotator_finds_what_looks_like_the_positives(carry_out):
    rng = random.Random(3)
    good = [text_of(rng, 150, 300, "good") for _ in range(60)]
    bad = [text_of(rng, 150, 300, "bad") for _ in range(240)]
    stream = wrap(bad[:120] + good[:40] + bad[120:])
    step = Annotate(positives="fine", keep=0.18)
    kept, record = carry_out(step, stream, upstream={"fine": wrap(good[40:] * 2)})
    found = [d.text for d in kept]
    sizes = {d.text: len(d.text) for d in stream}
    assert len([t for t in found if t in good]) == 40
    assert found == [d.text for d in stream if d.text in found]
    # the keep rate is of bytes
    assert sum(map(len, found)) == pytest.approx(0.18 * sum(sizes.values()), rel=0.03)
    assert record.notes["annotator_roc_auc"] > 0.8
    # every candidate's features are charged: at most a word and a bigram for each word
    assert 0.5 * 2 * 280 * 150 < record.flops <= 2 * 280 * 2 * 150
    assert record.flops_fixed > 0
    assert record.documents == 280
    assert record.dropped["low quality score"] == 280 - record.kept


def test_an_annotator_with_nothing_to_learn_has_no_opinion(carry_out):
    rng = random.Random(4)
    stream = wrap([text_of(rng, 100, 200) for _ in range(400)])
    step = Annotate(positives="same", keep=0.5)
    given = wrap([text_of(rng, 100, 200) for _ in range(400)])
    _, record = carry_out(step, stream, upstream={"same": given})
    assert 0.3 < record.notes["annotator_roc_auc"] < 0.7
    with pytest.raises(SourceError, match="at least 20 of each"):
        carry_out(step, stream, upstream={"same": given[:5]})


def test_best_takes_the_highest_scores_until_the_bytes_are_reached():
    scores, sizes = np.array([1.0, 3.0, 2.0, 0.0]), np.array([10, 40, 30, 20])
    assert best(scores, sizes, 0.4).tolist() == [False, True, False, False]
    assert best(scores, sizes, 0.41).tolist() == [False, True, True, False]
    assert best(scores, sizes, 1.0).all()


MODULE = '''
class Queue:
    """A queue."""

    def take(self, count: int = 1, *, wait: bool = False) -> list[str]:
        """Returns the next items of the queue. They are removed from it.

        Args:
            count: how many.
        """
        if count < 1:
            raise ValueError("count")
        return [self.items.pop() for _ in range(count)]


def helper(x):
    """The helper of the module that is no task."""
    y = x + 1
    return y


def undocumented(x):
    y = x + 1
    return y


def abstract(x):
    """Return the thing that was asked for."""
    raise NotImplementedError
'''


def test_a_function_becomes_facts_and_nothing_is_invented():
    (facts,) = functions(MODULE, WriteExercises())
    assert (facts.owner, facts.name) == ("Queue", "take")
    assert facts.task == "return the next items of the queue"
    assert facts.details == "They are removed from it."
    assert facts.arguments == (("count", "int", "1"), ("wait", "bool", "False"))
    assert facts.returns == "list[str]"
    assert any("ValueError" in remark for remark in facts.remarks)
    tree = ast.parse(facts.solution)
    original = ast.parse(MODULE).body[0].body[1]
    del original.body[0]
    assert ast.dump(tree.body[0]) == ast.dump(original)


def test_exercises_from_the_standard_library_are_varied_and_hold_the_code(library, carry_out):
    stream = [d for d in library if d.id in ("shutil.py", "heapq.py", "statistics.py", "ast.py")]
    stream += [d for d in library if d.group in ("asyncio", "importlib", "http", "logging")]
    step = WriteExercises()
    found, _ = carry_out(step, stream)
    assert len(found) > 80
    assert len({d.id for d in found}) == len(found)
    openings = Counter(" ".join(d.text.split()[:1]) for d in found)
    assert len(openings) >= 8
    assert max(openings.values()) < 0.3 * len(found)
    by_name = {d.id: d for d in stream}
    for exercise in found[:40]:
        parent = by_name[exercise.id.rpartition("#")[0]]
        code = [x.strip() for x in exercise.text.split("\n") if x.strip().startswith("def ")]
        assert any(line in parent.text for line in code)
        assert exercise.group == parent.group
    again, _ = carry_out(step, stream)
    assert again == found
    assert carry_out(WriteExercises(seed=1), stream)[0] != found
