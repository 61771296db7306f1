"""Provenance and forbidden licences from the sweep to the manifest."""

from __future__ import annotations

import json
import random

import pytest

from anneal.curation.plan import manifests, plan_preparation
from anneal.curation.steps import WriteExercises
from anneal.curation.values import CuratedSource, CuratedTarget, CurationRecord, TrainedTokenizer
from anneal.curation.worker import prepare
from anneal.errors import SourceError
from anneal.sources.documents import Document, read_documents
from anneal.sources.values import Counted
from anneal.store import Store, read_value

LICENCES = ("MIT", "GPL-3.0-only", "CC0-1.0", None)
TOKENIZER = TrainedTokenizer(vocabulary=300, sources=("rows",))


def silent(done: int, total: int) -> None:
    pass


def source(name: str, read: dict, **fields) -> CuratedSource:
    fields = {"clean": False, **fields}
    return CuratedSource.model_validate({"name": name, "kind": "general", "read": read, **fields})


@pytest.fixture
def rows(tmp_path) -> dict:
    rng = random.Random(0)
    with open(tmp_path / "rows.jsonl", "w") as file:
        for i in range(40):
            words = " ".join("".join(rng.choices("aeinorst", k=6)) for _ in range(40))
            row = {"text": words, "lic": LICENCES[i % 4], "lang": "en", "swhid": f"swh:1:cnt:{i}"}
            file.write(json.dumps(row) + "\n")
    return {
        "kind": "jsonl",
        "path": "rows.jsonl",
        "licence": "lic",
        "language": "lang",
        "identifier": "swhid",
    }


def test_what_documents_state_is_counted_in_the_manifest(tmp_path, rows):
    store = Store(tmp_path / "store")
    # what the reader leaves out is told as well
    with open(tmp_path / "rows.jsonl", "ab") as file:
        file.write(b"\xff\n" * 3)
    sources = [
        source("rows", {**rows, "errors": "skip"}, licence="mixed"),
        source("made", {"kind": "prepared", "source": "rows"}, max_tokens=200),
    ]
    steps = plan_preparation(
        sources, [], TOKENIZER, store, base=tmp_path, forbidden_licences=["gpl*"]
    )
    for step in steps:
        prepare(step, store, silent)
    found = manifests(sources, [], steps, store)
    assert set(found) == {"rows", "made"}
    manifest = found["rows"]
    assert {n: c.documents for n, c in manifest.evidence.licences.items()} == {
        "MIT": 10,
        "CC0-1.0": 10,
        "not stated": 10,
    }
    assert manifest.evidence.languages == {"en": Counted(documents=30, bytes=manifest.bytes)}
    assert {n: c.documents for n, c in manifest.evidence.origins.items()} == {"rows.jsonl": 30}
    assert manifest.evidence.identified == manifest.documents == 30
    assert manifest.dropped == {"forbidden licence": 10, "not UTF-8": 3}
    assert manifest.licence == "mixed"
    # what is made of it states the same; the counts are of all its documents
    assert found["made"].evidence == manifest.evidence
    assert found["made"].documents < 30


def test_forbidding_a_licence_makes_other_documents_and_targets_are_left_alone(tmp_path, rows):
    store = Store(tmp_path / "store")
    target = CuratedTarget.model_validate(
        {"name": "t", "read": rows, "split": {"part": "heldout", "fraction": 0.5}, "steps": []}
    )
    sources = [source("rows", rows, split={"part": "train", "fraction": 0.5})]

    def documents(*licences: str) -> dict:
        steps = plan_preparation(
            sources, [target], TOKENIZER, store, base=tmp_path, forbidden_licences=licences
        )
        return {step.label: step for step in steps if step.action == "documents"}

    free, bound = documents(), documents("GPL-3.0-only", "MIT", "MIT")
    assert free["documents of t"] == bound["documents of t"]
    assert free["documents of rows"].id != bound["documents of rows"].id
    assert bound == documents("MIT", "GPL-3.0-only")  # neither order nor repeats matter
    for step in bound.values():
        prepare(step, store, silent)
    kept = list(read_documents(store.documents(bound["documents of rows"].id)))
    assert {d.licence for d in kept} <= {"CC0-1.0", ""}
    held = list(read_documents(store.documents(bound["documents of t"].id)))
    assert "MIT" in {d.licence for d in held}
    record = read_value(bound["documents of rows"].done(store), CurationRecord)
    assert record.read == record.documents == len(kept)
    # split first: the forbidden ones that are counted are this side's own
    assert record.left_out["forbidden licence"] + len(kept) + len(held) == 40


def test_a_source_of_which_nothing_may_be_used_says_why(tmp_path, rows):
    store = Store(tmp_path / "store")
    (tmp_path / "rows.jsonl").write_text('{"text": "t", "lic": "MIT", "lang": "", "swhid": ""}\n')
    (step, *_) = plan_preparation(
        [source("rows", rows)], [], TOKENIZER, store, base=tmp_path, forbidden_licences=["MIT"]
    )
    with pytest.raises(SourceError, match=r"none of 0 .* is left \(forbidden licence: 1\)"):
        prepare(step, store, silent)


def test_a_source_under_a_forbidden_licence_is_refused_when_planned(tmp_path, rows):
    def plan(*sources: CuratedSource, others=(), tokenizer=TOKENIZER) -> None:
        plan_preparation(
            sources,
            [],
            tokenizer,
            Store(tmp_path / "store"),
            base=tmp_path,
            others=others,
            forbidden_licences=["CC-BY-NC*"],
        )

    clean = source("rows", rows)
    bad = source("bad", rows, licence="cc-by-nc-4.0")
    with pytest.raises(SourceError, match=r"source `bad`: its licence cc-by-nc-4\.0") as caught:
        plan(clean, bad)
    assert "forbidden_licences" in caught.value.hint
    made = source("made", {"kind": "prepared", "source": "bad"})
    with pytest.raises(SourceError, match="source `bad`, which `made` is made of: its licence"):
        plan(clean, made, others=[bad])
    with pytest.raises(SourceError, match="source `bad`: its licence"):
        plan(clean, others=[bad], tokenizer=TrainedTokenizer(sources=("rows", "bad")))
    # only compared with: nothing is trained on it
    after = {"kind": "deduplicate", "after": ["bad"]}
    plan(source("rows", rows, steps=[after]), others=[bad])


def test_a_target_is_the_same_documents_however_its_rows_are_labelled(tmp_path, rows):
    target = CuratedTarget.model_validate({"name": "t", "read": {**rows, "licence": None}})
    with pytest.raises(SourceError, match="it is also source `rows`"):
        plan_preparation(
            [source("rows", rows)], [target], TOKENIZER, Store(tmp_path / "s"), base=tmp_path
        )


def test_an_exercise_states_what_its_function_does(carry_out):
    text = (
        'def mean(xs):\n    """Return the mean of xs."""\n    total = sum(xs)\n    return total\n'
    )
    given = Document("m", text, "g", "m.py", licence="MIT", language="Python", identifier="swh:1")
    found, _ = carry_out(WriteExercises(), [given])
    (made,) = found
    assert (made.licence, made.language, made.identifier) == ("MIT", "Python", "swh:1")
    assert (made.group, made.origin) == ("g", "m.py: mean")
