"""Preparation as a whole: planned ahead, carried out step by step, on real text in small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from anneal.curation.plan import manifests, plan_preparation, tokenizer_info
from anneal.curation.shingles import ngrams, words
from anneal.curation.values import (
    CuratedSource,
    CuratedTarget,
    CurationRecord,
    PrepareStep,
    TokenizerSettings,
    TrainedTokenizer,
)
from anneal.curation.worker import Worker, prepare
from anneal.errors import SourceError
from anneal.sources.documents import read_documents
from anneal.sources.tokenize import open_tokens
from anneal.store import Store, read_value, write_value

TOKENIZER = TrainedTokenizer(vocabulary=500, sources=("general",))
TOKENIZER_OF_ALL = TrainedTokenizer(vocabulary=500)
LIBRARY = {"kind": "installed", "what": "stdlib", "max_bytes": 20_000}


def source(name: str, read: dict, **fields) -> CuratedSource:
    return CuratedSource.model_validate({"name": name, "kind": "general", "read": read, **fields})


def target(name: str, read: dict, **fields) -> CuratedTarget:
    return CuratedTarget.model_validate({"name": name, "read": read, **fields})


def sweep(**price) -> tuple[list[CuratedSource], list[CuratedTarget]]:
    packages = {"kind": "installed", "what": "packages", "packages": ["networkx", "jinja2"]}
    sources = [
        source("general", {"kind": "tree", "path": "prose"}),
        source("stdlib", LIBRARY, split={"part": "train"}, licence="PSF-2.0"),
        source("packages", {**packages, "max_total_bytes": 1_000_000}, cost=price),
        source(
            "filtered",
            {"kind": "prepared", "source": "packages"},
            kind="filtered",
            steps=[{"kind": "annotate", "positives": "stdlib", "keep": 0.3}],
        ),
        source(
            "exercises",
            {"kind": "prepared", "source": "packages"},
            kind="synthetic",
            steps=[{"kind": "exercises"}],
            max_tokens=20_000,
        ),
    ]
    return sources, [target("heldout", LIBRARY, split={"part": "heldout"}, max_tokens=20_000)]


def write_prose(base: Path) -> None:
    (base / "prose").mkdir(parents=True)
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(300)])
    for i in range(30):
        (base / "prose" / f"{i:02d}.txt").write_text(" ".join(rng.choice(words, 200)))


def silent(done: int, total: int) -> None:
    assert done >= 0
    assert total == 0 or done <= total


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    base = tmp_path_factory.mktemp("sweep")
    write_prose(base)
    store = Store(base / "store")
    sources, targets = sweep(usd_per_token=2.0)
    steps = plan_preparation(sources, targets, TOKENIZER, store, base=base)
    for step in steps:
        write_value(store.step(step.id), step)
        Worker()(str(store.step(step.id)), silent)
    return base, store, sources, targets, steps


def test_every_step_is_finished_and_comes_after_what_it_needs(prepared):
    _, store, *_, steps = prepared
    seen: set[str] = set()
    for step in steps:
        assert set(step.needs) <= seen
        assert step.done(store).exists()
        seen.add(step.id)
    assert len(seen) == len(steps)
    assert not [p for p in store.root.rglob(".*")]


def test_planning_again_is_the_same_and_quick_and_nothing_is_redone(prepared):
    base, store, sources, targets, steps = prepared
    started = time.perf_counter()
    assert plan_preparation(sources, targets, TOKENIZER, store, base=base) == steps
    assert time.perf_counter() - started < 1.0
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("*") if p.is_file()}
    for step in steps:
        prepare(step, store, silent)
    assert before == {p: p.stat().st_mtime_ns for p in store.root.rglob("*") if p.is_file()}


def test_another_store_gets_the_same_tokens(prepared, tmp_path):
    base, store, sources, targets, steps = prepared
    other = Store(tmp_path)
    for step in plan_preparation(sources, targets, TOKENIZER, other, base=base):
        prepare(PrepareStep.model_validate_json(step.model_dump_json()), other, silent)
    ours, theirs = (manifests(sources, targets, steps, s) for s in (store, other))
    assert {n: m.content for n, m in ours.items()} == {n: m.content for n, m in theirs.items()}


def test_manifests_tell_what_is_there(prepared):
    _, store, sources, targets, steps = prepared
    found = manifests(sources, targets, steps, store)
    assert set(found) == {"general", "stdlib", "packages", "filtered", "exercises", "heldout"}
    assert {found[n].kind for n in ("filtered", "exercises", "heldout")} == {
        *("filtered", "synthetic", "target"),
    }
    assert found["stdlib"].licence == "PSF-2.0"
    assert found["exercises"].tokens <= 20_000
    info = tokenizer_info(steps, store)
    assert info.vocabulary == 500
    for manifest in found.values():
        shards = open_tokens(store.tokens(manifest.content), manifest, verify=True)
        assert sum(map(len, shards)) == manifest.tokens
        assert max(int(s.max()) for s in shards) < 500
        assert manifest.tokenizer == info.content
    assert found["filtered"].notes["annotator_roc_auc"] > 0.9
    # what it learns from is the other side of the target's split
    told = found["filtered"].notes["annotator_warning"]
    assert "come from the same files as target `heldout`" in str(told)
    assert (store.tokenizer(info.content) / "tokenizer.json").exists()


def test_the_filter_is_charged_for_every_candidate(prepared):
    _, store, sources, targets, steps = prepared
    found = manifests(sources, targets, steps, store)
    filtered, packages = found["filtered"], found["packages"]
    assert filtered.cost.flops_fixed > 0
    assert filtered.cost.seconds_fixed > 0
    step = next(s for s in steps if s.label == "documents of filtered")
    record = read_value(step.done(store), CurationRecord)
    assert [s.step for s in record.steps] == ["annotate", "deduplicate", "decontaminate"]
    total = record.steps[0].flops
    assert filtered.cost.flops_per_token * filtered.tokens == pytest.approx(total)
    candidates = next(s for s in steps if s.label == "documents of packages")
    expected = 0  # a multiplication and an addition for each distinct word and pair of words
    for document in read_documents(store.documents(candidates.id)):
        hashes = words(document.text)
        expected += 2 * (len(set(hashes.tolist())) + len(set(ngrams(hashes, 2).tolist())))
    assert 0.98 * expected < total <= expected  # two features can share a bucket
    # a price of the packages is paid for what was read, not only for what was kept
    assert packages.cost.usd_per_token == 2.0
    ratio = record.read_bytes / record.bytes
    assert ratio > 2.5
    assert filtered.cost.usd_per_token == pytest.approx(2.0 * ratio)


def test_no_source_overlaps_the_target_or_shares_its_groups(prepared):
    from anneal.curation.decontaminate import TargetIndex

    _, store, *_, steps = prepared
    folders = {s.label: store.documents(s.id) for s in steps if s.action == "documents"}
    heldout = list(read_documents(folders["documents of heldout"]))
    stdlib = list(read_documents(folders["documents of stdlib"]))
    assert len(heldout) > 5
    assert not {d.group for d in heldout} & {d.group for d in stdlib}
    index = TargetIndex([d.text for d in heldout], 13)
    for name in ("stdlib", "packages", "filtered", "exercises"):
        texts = [d.text for d in read_documents(folders[f"documents of {name}"])]
        assert max(max(overlap[:2]) for overlap in index.overlaps(texts)) <= 0.1


def test_a_changed_input_changes_the_steps_behind_it_and_no_others(prepared, tmp_path):
    _, _, sources, targets, _ = prepared
    write_prose(tmp_path)
    store = Store(tmp_path / "store")

    def ids(sources=sources, targets=targets) -> dict[str, str]:
        steps = plan_preparation(sources, targets, TOKENIZER, store, base=tmp_path)
        return {step.label: step.id for step in steps}

    before = ids()
    renamed = [s.model_copy(update={"licence": "other", "max_epochs": 3.0}) for s in sources]
    assert ids(renamed) == before
    extra = [*sources, source("more", {"kind": "tree", "path": "prose", "glob": "0*.txt"})]
    with_more = ids(extra)
    assert {k: v for k, v in with_more.items() if not k.endswith(" more")} == before
    (tmp_path / "prose" / "00.txt").write_text("another text")
    changed = {k for k, v in ids().items() if v != before[k]}
    assert changed == {"documents of general", "tokenizer"} | {
        k for k in before if k.startswith("tokens of")
    }


def test_mistakes_are_refused_before_anything_is_done(tmp_path):
    write_prose(tmp_path)
    tree = {"kind": "tree", "path": "prose"}
    half = {"part": "train"}
    other = {"part": "heldout"}
    (tmp_path / "empty").mkdir()

    default = TrainedTokenizer()

    def mistake(sources, targets=(), tokenizer=default) -> SourceError:
        with pytest.raises(SourceError) as caught:
            plan_preparation(sources, targets, tokenizer, Store(tmp_path / "s"), base=tmp_path)
        assert caught.value.hint
        assert not (tmp_path / "s" / "documents").exists()
        return caught.value

    a = source("a", {"kind": "prepared", "source": "b"})
    b = source("b", {"kind": "prepared", "source": "a"})
    assert "a -> b -> a" in mistake([a, b]).what
    assert "source `b`: unknown, named by `a`" in mistake([a]).what
    judge = {"kind": "annotate", "positives": "nobody", "keep": 0.5}
    assert "source `nobody`: unknown" in mistake([source("a", tree, steps=[judge])]).what
    whole, t = source("a", tree), target("t", tree, split=other)
    assert "target `t`: it is also source `a`" in mistake([whole], [t]).what
    assert "also source" in mistake([source("a", tree, split=other)], [t]).what
    salted = source("a", tree, split={**half, "salt": "else"})
    assert "also source" in mistake([salted], [t]).what
    plan_preparation(
        [source("a", tree, split=half)],
        [t],
        TrainedTokenizer(),
        Store(tmp_path / "t"),
        base=tmp_path,
    )
    assert "source `a`: path nowhere" in mistake([source("a", {**tree, "path": "nowhere"})]).what
    assert "no file to read" in mistake([source("a", {**tree, "path": "empty"})]).what
    assert "`a`: named twice" in mistake([whole, whole]).what
    assert "the same as tokens of a" in mistake([whole, source("b", tree)]).what
    assert (
        "a target reads its own"
        in mistake([whole], [target("t", {"kind": "prepared", "source": "a"})]).hint
    )
    assert "unknown" in mistake([whole], tokenizer=TrainedTokenizer(sources=("c",))).what
    existing = TypeAdapter(TokenizerSettings).validate_python(
        {"kind": "huggingface", "path": "prose"}
    )
    assert "no tokenizer.json there" in mistake([whole], tokenizer=existing).what


def test_sources_that_are_only_named_are_prepared_but_not_tokenised(tmp_path):
    write_prose(tmp_path)
    helper = source("helper", {"kind": "tree", "path": "prose"})
    unused = source("unused", {"kind": "tree", "path": "nowhere"})
    user = source("user", {"kind": "prepared", "source": "helper"})
    steps = plan_preparation(
        [user],
        [],
        TrainedTokenizer(),
        Store(tmp_path / "s"),
        base=tmp_path,
        others=[helper, unused],
    )
    assert [s.label for s in steps] == [
        "documents of helper",
        "documents of user",
        "tokenizer",
        "tokens of user",
    ]


def test_nothing_left_and_changed_input_are_errors_of_the_step(tmp_path):
    write_prose(tmp_path)
    tree = {"kind": "tree", "path": "prose"}
    store = Store(tmp_path / "s")
    sources = [source("a", tree, steps=[{"kind": "exercises"}]), source("b", tree)]
    steps = plan_preparation(sources, [], TrainedTokenizer(), store, base=tmp_path)
    with pytest.raises(SourceError, match="documents of a: none of 30 documents is left"):
        prepare(steps[0], store, silent)
    (tmp_path / "prose" / "00.txt").write_text("changed in between")
    with pytest.raises(SourceError, match="documents of b: the input changed"):
        prepare(steps[1], store, silent)
    left = [p for p in (store.root / "documents").iterdir()]
    assert left == []


def test_a_step_killed_at_any_instant_is_done_right_the_next_time(prepared, tmp_path):
    _, whole, _, _, steps = prepared
    step = next(s for s in steps if s.label == "documents of packages")
    for needed in step.needs:
        other = next(s for s in steps if s.id == needed)
        prepare(other, Store(tmp_path), silent)
    spec = Store(tmp_path).step(step.id)
    write_value(spec, step)
    code = (
        "import sys; from anneal.curation.worker import Worker\n"
        "print('go', flush=True); Worker()(sys.argv[1], lambda done, total: None)"
    )
    for delay in (0.05, 0.3, 0.6):
        process = subprocess.Popen([sys.executable, "-c", code, str(spec)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if step.done(Store(tmp_path)).exists():
            break
        assert not Store(tmp_path).documents(step.id).exists()
    prepare(step, Store(tmp_path), silent)
    ours, theirs = (list(read_documents(s.documents(step.id))) for s in (whole, Store(tmp_path)))
    assert ours == theirs


def test_a_tokenizer_without_a_kind_is_a_trained_one():
    settings: TypeAdapter[object] = TypeAdapter(TokenizerSettings)
    assert settings.validate_python({"sources": ["a"]}) == TrainedTokenizer(sources=("a",))
    assert settings.validate_json(TOKENIZER.model_dump_json()) == TOKENIZER


def test_planning_imports_nothing_heavy():
    code = (
        "import sys, json, anneal.curation.plan, anneal.curation.values\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'datasets', 'tokenizers', 'pyarrow', 'rensa'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(done.stdout) == []
