"""The annotator's step as a whole: what it keeps, says and charges, with the linear kind."""

from __future__ import annotations

import json
import random
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from made import wrap
from pydantic import ValidationError

from anneal.curation.chain import Chain, Context, Meter
from anneal.curation.leaks import NOTE, same_input
from anneal.curation.linear import Linear
from anneal.curation.models import check_model
from anneal.curation.plan import plan_preparation
from anneal.curation.steps import Annotate
from anneal.curation.values import CuratedSource, CuratedTarget, TrainedTokenizer
from anneal.errors import SourceError
from anneal.sources.documents import DOCUMENTS_FILE, Document, write_documents
from anneal.sources.values import HuggingFaceReader, JsonlReader, TreeReader
from anneal.store import Store
from anneal.sweep.statements import _leaks


def text_of(rng: random.Random, count: int, stem: str, *, share: float = 1.0) -> str:
    stems = (stem if rng.random() < share else "dull" for _ in range(count))
    return " ".join(f"{s}{rng.randrange(200)}" for s in stems)


@pytest.fixture(scope="module")
def truth():
    """Good texts to learn from, and a pool of as many good as bad ones in six groups."""
    rng = random.Random(0)
    good = [text_of(rng, 60, "fine") for _ in range(60)]
    pool = [
        Document(str(i), text_of(rng, 30 + i % 50, ("poor", "fine")[i % 2]), f"g{i % 6 // 2}", "")
        for i in range(240)
    ]
    return wrap(good), pool


def test_a_threshold_is_a_probability_and_the_middle_is_between_the_kinds(carry_out, truth):
    good, pool = truth
    step = Annotate(positives="good", threshold=0.5, examples=60)
    bad = wrap([d.text for d in pool if "poor" in d.text])
    step = step.model_copy(update={"negatives": "bad"})
    kept, record = carry_out(step, pool, upstream={"good": good, "bad": bad})
    assert [d.id for d in kept] == [d.id for d in pool if "fine" in d.text]
    assert record.notes["threshold_asked"] == 0.5
    assert record.notes["negatives"] == "bad"
    assert record.notes["score_least_kept"] >= 0.5
    assert record.notes["annotator_roc_auc"] == 1.0
    low = float(str(record.notes["annotator_roc_auc_interval"]).split()[0])
    assert 0.5 < low < 1.0
    stricter = step.model_copy(update={"threshold": 1 - 1e-9})
    assert carry_out(stricter, pool, upstream={"good": good, "bad": bad})[0] == []


def test_within_groups_each_keeps_its_share_though_one_is_better(carry_out):
    rng = random.Random(1)
    stream = [
        Document(str(i), text_of(rng, 100, "fine", share=(0.2, 0.9)[i % 2]), f"g{i % 2}", "")
        for i in range(400)
    ]
    good = {"good": wrap([text_of(rng, 100, "fine") for _ in range(60)])}
    kept, record = carry_out(Annotate(positives="good", keep=0.25), stream, upstream=good)
    assert all(d.group == "g1" for d in kept)
    assert record.notes["keep_bytes_by_group"].startswith("g1 0.5")
    step = Annotate(positives="good", keep=0.25, within="group")
    kept, record = carry_out(step, stream, upstream=good)
    assert [d.group for d in kept].count("g0") == pytest.approx(50, abs=2)
    assert record.notes["keep_bytes"] == pytest.approx(0.25, abs=0.005)


def test_the_same_share_of_each_language(carry_out):
    if "language" not in {field.name for field in fields(Document)}:
        pytest.skip("documents carry no language")
    rng = random.Random(2)
    stream = [
        replace(d, language=("", "c", "go")[i % 3])
        for i, d in enumerate(wrap([text_of(rng, 80, "fine", share=i % 7 / 7) for i in range(300)]))
    ]
    good = {"good": wrap([text_of(rng, 80, "fine") for _ in range(60)])}
    step = Annotate(positives="good", keep=0.4, within="language")
    kept, record = carry_out(step, stream, upstream=good)
    for language in ("", "c", "go"):
        assert sum(d.language == language for d in kept) == pytest.approx(40, abs=3)
    assert "none 0.4" in record.notes["keep_bytes_by_language"]


def test_ranking_within_what_no_document_has_is_refused(carry_out, truth):
    good, pool = truth
    for what, stream in (("language", pool), ("group", wrap([d.text for d in pool]))):
        step = Annotate(positives="good", keep=0.5, within=what)
        with pytest.raises(SourceError, match=f"no document has a {what}") as caught:
            carry_out(step, stream, upstream={"good": good})
        assert caught.value.hint


def test_another_share_of_the_same_annotator_scores_nothing_and_costs_the_same(
    carry_out, truth, monkeypatch, tmp_path
):
    good, pool = truth
    first, paid = carry_out(Annotate(positives="good", keep=0.3), pool, upstream={"good": good})

    def score(self, texts):
        raise AssertionError(f"{len(texts)} texts scored again")

    monkeypatch.setattr(Linear, "score", score)
    again, same = carry_out(Annotate(positives="good", keep=0.3), pool, upstream={"good": good})
    assert again == first
    assert same.flops == paid.flops
    (segment,) = tmp_path.glob("store/cache/scores/*/*.npy")
    assert same.seconds >= np.load(segment, allow_pickle=False)["seconds"].sum() > 0
    more, wider = carry_out(Annotate(positives="good", keep=0.5), pool, upstream={"good": good})
    assert {d.id for d in first} < {d.id for d in more}
    assert (wider.flops, wider.flops_fixed) == (paid.flops, paid.flops_fixed)
    with pytest.raises(AssertionError, match="scored again"):  # another annotator
        carry_out(Annotate(positives="good", keep=0.3, ngrams=1), pool, upstream={"good": good})


def test_a_chain_may_have_two_annotators(truth, tmp_path):
    good, pool = truth
    for name, stream in (("good", good), ("bad", [d for d in pool if "poor" in d.text])):
        (tmp_path / name).mkdir()
        write_documents(tmp_path / name / DOCUMENTS_FILE, stream)
    (tmp_path / "scratch").mkdir()
    folders = {name: tmp_path / name for name in ("good", "bad")}
    context = Context(Store(tmp_path / "s"), tmp_path / "scratch", tmp_path, folders, {})
    first = Annotate(positives="good", negatives="bad", keep=0.8)
    steps = [first, first.model_copy(update={"keep": 0.5})]
    chain = Chain(steps, Meter(pool), context)
    kept = list(chain)
    assert all("fine" in d.text for d in kept)
    one, two = chain.records()
    assert (one.documents, one.kept, two.kept) == (len(pool), two.documents, len(kept))
    assert two.flops < one.flops


def test_notes_tell_how_far_the_mean_length_moved(carry_out):
    rng = random.Random(3)
    stream = wrap([text_of(rng, *((40, "poor"), (160, "fine"))[i % 2]) for i in range(200)])
    good = {"good": wrap([text_of(rng, 100, "fine") for _ in range(60)])}
    step = Annotate(positives="good", keep=0.5, examples=40, ngrams=1)
    kept, record = carry_out(step, stream, upstream=good)
    mean = sum(len(d.text) for d in stream) / 200
    assert record.notes["mean_bytes"] == pytest.approx(mean, abs=0.1)
    ratio = sum(len(d.text) for d in kept) / len(kept) / mean
    assert record.notes["mean_bytes_ratio"] == pytest.approx(ratio, abs=1e-4)
    assert ratio > 1.5
    assert record.notes["score_quantiles"].startswith("5% ")


def test_positives_like_a_target_are_told(carry_out, truth):
    good, pool = truth
    clean, leaky = wrap([d.text[::-1] for d in good]), wrap([d.text + " end" for d in good[:30]])
    step = Annotate(positives="good", keep=0.5)
    for targets in ({}, {"aim": clean}):
        _, record = carry_out(step, pool, upstream={"good": good}, targets=targets)
        assert NOTE not in record.notes
    _, record = carry_out(step, pool, upstream={"good": good}, targets={"a": clean, "aim": leaky})
    told = record.notes[NOTE]
    assert "share 50.0% of their 13-grams with target `aim`" in told
    assert "likeness to the target" in told
    assert "`a`" not in told


def test_a_target_that_scores_as_high_as_the_positives_is_told(carry_out, truth):
    """No file and no n-gram in common, and yet the annotator's quality is likeness to the aim."""
    good, pool = truth
    rng = random.Random(5)
    alike = wrap([text_of(rng, 60, "fine") for _ in range(30)])
    unlike = wrap([text_of(rng, 60, "poor") for _ in range(30)])
    bad = [d for d in pool if "poor" in d.text]
    step = Annotate(positives="good", negatives="bad", keep=0.5)
    _, record = carry_out(
        step, pool, upstream={"good": good, "bad": bad}, targets={"aim": alike, "guard": unlike}
    )
    assert record.notes[NOTE].startswith(
        "positives `good` are told from other documents hardly better than target `aim` is"
        " (ROC-AUC 1.000 and 1.000): "
    )
    assert record.notes["annotator_roc_auc_of_targets"].startswith("aim 1.000, guard ")
    plain = carry_out(step, pool, upstream={"good": good, "bad": bad})[1]
    assert (record.flops, record.flops_fixed) == (plain.flops, plain.flops_fixed)


def test_the_report_passes_the_warning_on():
    told = SimpleNamespace(manifests={
        "plain": SimpleNamespace(notes={}), "web": SimpleNamespace(notes={NOTE: "much like `aim`"}),
    })  # fmt: skip
    assert list(_leaks(told)) == ["`web` was filtered by an annotator: much like `aim`"]


def test_readers_of_one_file_or_dataset_are_kin(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n')
    one, other = JsonlReader(path="a.jsonl"), JsonlReader(path="b.jsonl", id="text")
    assert same_input(one, JsonlReader(path="?.jsonl", group="text"), base=tmp_path)
    assert same_input(one, TreeReader(path=str(tmp_path)), base=tmp_path)
    assert not same_input(one, other, base=tmp_path)
    train = HuggingFaceReader(path="org/set", split="train")
    assert same_input(train, train.model_copy(update={"split": "test"}), base=tmp_path)
    assert not same_input(train, one, base=tmp_path)


def test_kin_are_found_through_prepared_sources(tmp_path):
    for name in ("all", "pool"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    whole = {"kind": "jsonl", "path": "all.jsonl"}
    sources = [
        CuratedSource(name="half", kind="general", read=whole, split={"part": "train"}),
        CuratedSource(
            name="good", kind="high_quality", read={"kind": "prepared", "source": "half"}
        ),
        CuratedSource(
            name="filtered",
            kind="filtered",
            read={"kind": "jsonl", "path": "pool.jsonl"},
            steps=[{"kind": "annotate", "positives": "good", "keep": 0.5}],
            clean=False,
        ),
    ]
    targets = [CuratedTarget(name="aim", read=whole, split={"part": "heldout"})]
    steps = plan_preparation(
        sources[1:], targets, TrainedTokenizer(), Store(tmp_path / "s"), base=tmp_path,
        others=sources[:1],
    )  # fmt: skip
    (step,) = (step for step in steps if step.label == "documents of filtered")
    assert step.work.kin == {"good": ("aim",)}
    assert set(step.work.against) == {"aim"}


def model(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    given = {"architectures": ["BertForSequenceClassification"], "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(given | config))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_model_that_cannot_serve_is_refused_before_anything_is_done(tmp_path):
    step = Annotate(annotator="hf", model="judge", threshold=0.5)

    def refused(step: Annotate = step) -> str:
        with pytest.raises(SourceError) as caught:
            check_model(step, base=tmp_path)
        assert caught.value.hint
        return caught.value.what

    assert "annotator model judge: no such folder (looked in" in refused()
    folder = model(tmp_path / "judge", id2label={"0": "bad", "1": "good"})
    assert "no label `` (it has: bad, good)" in refused()
    assert "no label `fine`" in refused(step.model_copy(update={"label": "fine"}))
    right = step.model_copy(update={"label": "good"})
    assert check_model(right, base=tmp_path) == folder
    long = right.model_copy(update={"section_tokens": 513})
    assert "section_tokens 513 asked, it reads 512 at most" in refused(long)
    model(folder, id2label={"0": "anything"})
    assert check_model(step, base=tmp_path) == folder
    model(folder, architectures=["BertModel"])
    assert "no sequence classifier (BertModel)" in refused()
    encoder = Annotate(annotator="encoder", model="judge", positives="good", keep=0.5)
    assert check_model(encoder, base=tmp_path) == folder
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in refused()
    (folder / "config.json").unlink()
    assert "no config.json there" in refused()
    model(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "no weights in safetensors (found pytorch_model.bin)" in refused()
    model(folder)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer there" in refused()


def test_a_model_is_told_by_its_content_and_not_by_where_it_lies(tmp_path):
    (tmp_path / "pool.jsonl").write_text('{"text": "x"}\n')
    model(tmp_path / "judge", id2label={"0": "good"})

    def address(where: str) -> str:
        source = CuratedSource(
            name="filtered",
            kind="filtered",
            read={"kind": "jsonl", "path": "pool.jsonl"},
            steps=[{"kind": "annotate", "annotator": "hf", "model": where, "threshold": 0.5}],
        )
        store = Store(tmp_path / "s")
        (step, *_) = plan_preparation([source], [], TrainedTokenizer(), store, base=tmp_path)
        return step.id

    before = address("judge")
    (tmp_path / "judge" / "README.md").write_text("a card")
    (tmp_path / "judge" / "pytorch_model.bin").write_bytes(b"never read")
    (tmp_path / "judge").rename(tmp_path / "moved")
    assert address("moved") == before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"others!")
    assert address("moved") != before
    with pytest.raises(SourceError, match="source `filtered`: annotator model judge: no such"):
        address("judge")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"threshold": 0.5, "within": "group"}, "`within` is for `keep`"),
        ({"threshold": 1.5}, "a probability"),
        ({"keep": 0.5, "label": "good"}, "`label` is for `hf`"),
        ({"keep": 0.5, "threshold": 0.5}, "one of `keep` and `threshold`"),
        ({"keep": 0.5, "annotator": "encoder"}, "`model` is for"),
        ({"keep": 0.5, "annotator": "hf", "model": "m"}, "takes no examples"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, what):
    with pytest.raises(ValidationError, match=what):
        Annotate(positives="good", **settings)


def test_too_few_negatives_are_named(carry_out, truth):
    good, pool = truth
    step = Annotate(positives="good", negatives="bad", keep=0.5)
    with pytest.raises(SourceError, match="60 positives and 5 negatives") as caught:
        carry_out(step, pool, upstream={"good": good, "bad": pool[:5]})
    assert "`bad`" in caught.value.hint
