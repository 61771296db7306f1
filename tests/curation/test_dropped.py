"""Cleaning, deduplication and decontamination as steps of a sweep: what they leave beside the
documents, what makes another recipe of them, and what happens when the disk is full."""

from __future__ import annotations

import errno
import json
import random

import pytest

from anneal.curation import dropped as dropped_module
from anneal.curation.chain import Tally
from anneal.curation.dropped import DROPPED_FILE, DroppedFile, read_dropped
from anneal.curation.plan import manifests, plan_preparation
from anneal.curation.signatures import SignatureFile
from anneal.curation.values import CuratedSource, CuratedTarget, CurationRecord, TrainedTokenizer
from anneal.curation.worker import prepare
from anneal.errors import SourceError, StoreError
from anneal.sources.documents import DOCUMENTS_FILE, Document, read_documents
from anneal.store import Store, read_value

TOKENIZER = TrainedTokenizer(vocabulary=400, sources=("web",))
STEPS = [{"kind": "clean", "min_characters": 100}]


def text_of(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(9000)}" for _ in range(count)]


def write(path, rows) -> None:
    path.write_text("".join(json.dumps({"id": k, "text": t}) + "\n" for k, t in rows.items()))


def source(name: str, path: str, steps: list[dict]) -> CuratedSource:
    read = {"kind": "jsonl", "path": path, "id": "id"}
    return CuratedSource.model_validate(
        {"name": name, "kind": "general", "read": read, "steps": steps}
    )


def nothing(done: int, total: int) -> None:
    pass


@pytest.fixture
def corpus(tmp_path):
    """Files web, books, exam and bench.txt with planted overlaps; the sources web and books, and
    books without what web has."""
    rng = random.Random(0)
    web = {f"web{i}": text_of(rng, 200) for i in range(30)}
    books = {f"book{i}": text_of(rng, 200) for i in range(20)}
    exam = {f"exam{i}": text_of(rng, 60) for i in range(5)}
    bench = text_of(rng, 60)
    books["same"] = web["web3"]
    books["near"] = [*web["web4"][:100], "changed", *web["web4"][101:]]
    books["copy"] = books["book1"]
    books["almost"] = [*books["book2"][:150], "changed", *books["book2"][151:]]
    books["short"] = ["too", "short"]
    books["leak"] = text_of(rng, 900) + exam["exam2"]
    books["quote"] = text_of(rng, 900) + bench
    for name, rows in (("web", web), ("books", books), ("exam", exam)):
        write(tmp_path / f"{name}.jsonl", {k: " ".join(t) for k, t in rows.items()})
    (tmp_path / "bench.txt").write_text(" ".join(bench))
    clear = {"kind": "decontaminate", "benchmarks": ["bench.txt"]}
    across = {"kind": "deduplicate", "after": ["web"]}
    target = CuratedTarget.model_validate(
        {"name": "exam", "read": {"kind": "jsonl", "path": "exam.jsonl", "id": "id"}}
    )
    return [
        source("web", "web.jsonl", STEPS),
        source("books", "books.jsonl", [*STEPS, {"kind": "deduplicate"}, clear]),
        source("books beside web", "books.jsonl", [*STEPS, across, clear]),
    ], [target]


def plan(corpus, store, base):
    return plan_preparation(*corpus, TOKENIZER, store, base=base)


def test_local_and_global_deduplication_are_two_arms_with_lists_of_what_went(corpus, tmp_path):
    store = Store(tmp_path / "store")
    steps = plan(corpus, store, tmp_path)
    for step in steps:
        prepare(step, store, nothing)
    folders = {s.work.name: store.documents(s.id) for s in steps if s.action == "documents"}
    found = manifests(*corpus, steps, store)
    assert found["books"].content != found["books beside web"].content

    local = {row["id"]: row for row in read_dropped(folders["books"])}
    assert {k: (v["step"], v["reason"]) for k, v in local.items()} == {
        "short": ("clean", "too short"),
        "copy": ("deduplicate", "exact duplicate"),
        "almost": ("deduplicate", "near duplicate"),
        "leak": ("decontaminate", "contains a target document"),
        "quote": ("decontaminate", "contains a target document"),
    }
    assert local["short"]["measured"] == len("too short")
    assert (local["leak"]["target"], local["leak"]["target_document"]) == ("exam", "exam2")
    assert local["leak"]["share"] == 1.0
    assert local["quote"]["target"] == "bench.txt"
    assert local["almost"]["copy_of"] == "book2"
    assert local["almost"]["similarity"] > 0.8
    assert local["almost"]["origin"].startswith("books.jsonl")

    both = {row["id"]: row for row in read_dropped(folders["books beside web"])}
    assert both["same"]["reason"] == "exact duplicate of an earlier source"
    assert both["near"]["reason"] == "near duplicate of an earlier source"
    assert both["near"]["copy_of"] == "web4"
    assert set(both) == {*local, "same", "near"}

    for folder in folders.values():
        record = read_value(folder / "curation.json", CurationRecord)
        listed = list(read_dropped(folder))
        assert sum(record.dropped.values()) == len(listed) == record.read - record.documents
        kept = {d.id for d in read_documents(folder)}
        assert not kept & {row["id"] for row in listed}
        assert not any("w" + str(i) in json.dumps(listed).split() for i in range(9000))


def test_the_same_input_leaves_the_same_bytes(corpus, tmp_path):
    made = []
    for place in ("one", "two"):
        store = Store(tmp_path / place)
        steps = [s for s in plan(corpus, store, tmp_path) if s.action == "documents"]
        for step in steps:
            prepare(step, store, nothing)
        files = (DOCUMENTS_FILE, DROPPED_FILE)
        made.append([(store.documents(s.id) / f).read_bytes() for s in steps for f in files])
    assert made[0] == made[1]


def test_what_a_benchmark_holds_is_part_of_the_recipe(corpus, tmp_path):
    store = Store(tmp_path / "store")
    before = {s.label: s.id for s in plan(corpus, store, tmp_path)}
    (tmp_path / "bench.txt").write_text("another question that nobody has asked before")
    after = {s.label: s.id for s in plan(corpus, store, tmp_path)}
    changed = {label for label in before if before[label] != after[label]}
    assert changed == {
        f"{what} of {name}"
        for what in ("documents", "tokens")
        for name in ("books", "books beside web")
    }
    steps = plan(corpus, store, tmp_path)
    (tmp_path / "bench.txt").write_text("changed in between")
    for step in steps:
        if step.action == "documents" and step.label in changed:
            with pytest.raises(SourceError, match="the input changed"):
                prepare(step, store, nothing)
        elif step.action == "documents":
            prepare(step, store, nothing)
    (tmp_path / "bench.txt").unlink()
    with pytest.raises(SourceError, match=r"source `books`: benchmark path bench\.txt: no such"):
        plan(corpus, store, tmp_path)


def test_a_full_disk_is_one_error_and_leaves_nothing(corpus, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path / "store")
    step = next(s for s in plan(corpus, store, tmp_path) if s.label == "documents of web")
    needed = [s for s in plan(corpus, store, tmp_path) if s.id in step.needs]
    for other in needed:
        prepare(other, store, nothing)
    with monkeypatch.context() as patch:
        patch.setattr(SignatureFile, "add", full)
        with pytest.raises(StoreError, match="disk full"):
            prepare(step, store, nothing)
    assert len(list((store.root / "documents").iterdir())) == len(needed)
    prepare(step, store, nothing)
    assert step.done(store).exists()


def test_the_list_has_an_end_and_says_how_much_is_behind_it(tmp_path, monkeypatch):
    monkeypatch.setattr(dropped_module, "MOST", 3)
    document = Document("an id " * 200, "the text", "group", "an origin " * 200)
    with DroppedFile(tmp_path / DROPPED_FILE) as file:
        tally = Tally(listed=lambda d, why, detail: file.add("clean", d, why, detail))
        for _ in range(7):
            tally.drop(document, "too short", measured=8)
        tally.drop(document, "too long")
    rows = list(read_dropped(tmp_path))
    assert tally.dropped == {"too short": 7, "too long": 1}
    assert [row["reason"] for row in rows] == [*["too short"] * 3, "too long", "too short"]
    assert rows[-1] == {"step": "clean", "reason": "too short", "not_listed": 4}
    assert rows[0]["measured"] == 8
    assert max(len(row.get("id", "")) for row in rows) == dropped_module.LONGEST
    assert "the text" not in json.dumps(rows)
