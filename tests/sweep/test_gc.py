"""What nothing needs goes, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from anneal.curation.values import DocumentsWork, PrepareStep
from anneal.errors import StoreError
from anneal.sources.values import Manifest, Shard, TreeReader
from anneal.store import Store, write, write_value
from anneal.sweep.gc import QUIET_SECONDS, collect
from tests.sweep.standing import BASE, begin, finish, plan, spec

ADDRESSES = ("web", "code", "written", "aim", "guard", "old", "decided")


def put(path: Path, count: int = 10) -> Path:
    write(path, b"x" * count)
    return path


def documents_step(address: str, **upstream: str) -> PrepareStep:
    work = DocumentsWork(
        name=address,
        read=TreeReader(path="."),
        split=None,
        steps=(),
        upstream=upstream,
        against={},
        base=".",
        fingerprint="",
    )
    return PrepareStep(id=f"documents-{address}", label=address, work=work)


@pytest.fixture
def store(ask) -> Store:
    """Tokens of seven sources; two are used by runs that stay, `decided` by a decision, `old` by
    none; the documents of `code` were made from those of `seed`."""
    used, finished = spec("code"), spec("written")
    store = plan(ask, used)
    for name in ADDRESSES:
        manifest = Manifest(
            name=name,
            kind="general",
            documents_address=f"documents-{name}",
            tokenizer="made",
            vocabulary=9,
            dtype="uint16",
            tokens=9,
            bytes=9,
            documents=1,
            shards=(Shard(file="0.bin", tokens=9, sha256=""),),
            content=name,
        )
        for folder in (store.tokens(name), store.tokens(f"recipe-{name}")):
            put(folder / "0.bin")
            write_value(folder / "manifest.json", manifest)
        put(store.documents(f"documents-{name}") / "documents.jsonl.zst")
    put(store.documents("documents-seed") / "documents.jsonl.zst")
    put(store.documents("documents-lost") / "documents.jsonl.zst")
    write_value(store.step("documents-code"), documents_step("code", seed="documents-seed"))
    finish(store, BASE)
    put(finish(store, finished) / "checkpoint-00-000000003" / "model.safetensors", 3000)
    put(begin(store, used, tokens=1) / "checkpoint-00-000000001" / "model.safetensors")
    for address in (used.boundary(0), BASE.boundary(0), "unknown"):
        put(store.boundary(address) / "boundary.json")
    decision = {"reproduce": {"data": "code code, books decided"}}
    write(store.sweep(ask.name) / "report" / "decision.json", json.dumps(decision))
    put(store.prediction("old") / "prediction.json")
    put(store.cache("inductor") / "kernel.so", 2000)
    put(store.tokenizer("old") / "tokenizer.json")
    return store


def everything(store: Store) -> set[str]:
    return {str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file()}


GONE = {
    "tokens/old",
    "tokens/recipe-old",
    "documents/documents-old",
    "documents/documents-lost",
    "boundaries/unknown",
}


def test_a_dry_run_lists_and_a_run_deletes_that_and_no_more(ask, store, capsys):
    for name in ("books", "web", "junk", "replay", "target", "guard"):
        assert (Path(ask.folder) / name).is_dir()  # its sources can be planned: none is prepared
    gone = {*GONE, f"runs/{spec('written').id}/checkpoint-00-000000003"}
    before = everything(store)
    found = collect(ask)
    assert {str(w.path.relative_to(store.root)) for w in found} == gone
    assert everything(store) >= before
    out = capsys.readouterr().out
    assert "    3.0 kB  runs/" in out
    assert "(checkpoint of a finished run)" in out
    assert out.splitlines()[-1].startswith("6 things, ")
    assert out.splitlines()[-1].endswith("that nothing needs: --delete deletes them")

    collect(ask, delete=True)
    left = everything(store)
    assert {n for n in before - left} == {
        n for n in before if n.startswith(tuple(f"{g}/" for g in gone))
    }
    assert "cache/inductor/kernel.so" in left
    assert collect(ask, delete=True) == []
    assert [w.why for w in collect(ask, delete=True, cache=True)] == ["cache"]
    assert not store.cache("inductor").exists()


def test_what_is_being_written_stays_and_what_was_left_goes(ask, store):
    left = [
        store.root / "tokens" / ".new.0123abcd",
        store.run(spec("code").id) / ".checkpoint-00-000000002.writing",
        store.run(spec("code").id) / ".result.json.89abcdef",
    ]
    put(left[0] / "0.bin")
    put(left[1] / "model.safetensors")
    put(left[2])
    mine = store.root / "cache" / ".kernel.0123abcd"
    put(mine)
    paths = {w.path for w in collect(ask)}
    assert not paths & {*left, mine}
    for path in left:
        for inner in [path, *path.rglob("*")]:
            old = inner.stat().st_mtime - QUIET_SECONDS - 1
            os.utime(inner, (old, old))
    found = [w for w in collect(ask, delete=True) if "killed" in w.why]
    assert [w.path for w in found] == sorted(left)
    assert not any(path.exists() for path in left)


def test_a_run_that_somebody_trains_by_hand_keeps_its_tokens(ask, store):
    """It is in no plan, and holds no lock."""
    folder = begin(store, spec("old"), tokens=1)
    assert store.tokens("old") not in {w.path for w in collect(ask)}
    for path in [folder, *folder.iterdir()]:
        os.utime(path, (1e9, 1e9))
    assert store.tokens("old") in {w.path for w in collect(ask)}


def test_a_full_run_keeps_what_it_is_laid_out_over(ask, store):
    folder = store.pretrain("big")
    folder.mkdir(parents=True)
    assert store.tokens("old") not in {w.path for w in collect(ask)}  # never laid out
    write(folder / "plan.json", json.dumps({"spec": spec("old").model_dump(mode="json")}))
    listed = {w.path for w in collect(ask)}
    assert store.tokens("old") not in listed
    assert store.documents("documents-lost") in listed
    write(folder / "plan.json", json.dumps({"spec": {}}))
    with pytest.raises(StoreError, match="not the plan of a full run"):
        collect(ask)


def test_sources_prepared_and_not_yet_planned_stay(ask, store, capsys):
    (store.sweep("another") / "logs").mkdir(parents=True)
    found = collect(ask)
    assert not [w for w in found if w.path.parent.name in {"tokens", "documents"}]
    assert (
        "note: all tokens and documents stay: another was never planned" in capsys.readouterr().out
    )


def test_sources_of_the_sweep_at_hand_stay(ask, store, tmp_path):
    """A source was added and prepared since the sweep was planned."""
    from anneal.sweep.prepare import steps_of

    steps = steps_of(ask, store)
    for step in steps:
        if step.work.kind == "documents":
            put(step.done(store))
    kept = {step.done(store).parent for step in steps if step.work.kind == "documents"}
    assert not kept & {w.path for w in collect(ask)}
    (tmp_path / "books" / "a.txt").unlink()
    found = collect(ask)  # nobody can say what it needs
    assert not [w for w in found if w.path.parent.name in {"tokens", "documents"}]


def test_it_refuses_while_the_store_is_held_or_cannot_be_read(ask, store):
    with store.lock("sweep question"):
        for delete in (False, True):
            with pytest.raises(StoreError, match="in use by sweep question"):
                collect(ask, delete=delete)
    (store.sweep(ask.name) / "plan.json").write_text("{")
    before = everything(store)
    with pytest.raises(StoreError, match=r"plan\.json: not a PlanRecord"):
        collect(ask, delete=True)
    assert everything(store) == before
    with pytest.raises(StoreError, match="there is none"):
        collect(ask.model_copy(update={"store": str(store.root / "nowhere")}))
