"""Layouts in the preparation plan: hashed where they say something, refused where they cannot."""

from __future__ import annotations

import json

import pytest
from made import wrap

from anneal import settings
from anneal.curation.plan import manifests, plan_preparation
from anneal.curation.token_steps import RECIPE
from anneal.curation.values import CuratedSource, CuratedTarget, ExistingTokenizer, TrainedTokenizer
from anneal.curation.worker import prepare
from anneal.errors import SettingsError, SourceError
from anneal.sources.layout import FILL_MARKS, Layout, Marks
from anneal.sources.tokenizer import train_tokenizer
from anneal.sources.values import TreeReader
from anneal.store import Store
from anneal.values import address

TOKENIZER = TrainedTokenizer(vocabulary=300)


@pytest.fixture
def ask(tmp_path):
    """`ask(code=Layout(...))`: the steps of two sources and a target, by label."""
    for name in ("code", "prose", "heldout"):
        for i in range(6):
            file = tmp_path / name / f"r{i % 2}" / f"{i}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(" ".join(f"{name}{(i * j * j) % 97}" for j in range(1, 60)))

    def asked(tokenizer=TOKENIZER, **layouts):
        sources = [
            CuratedSource(
                name=name,
                kind="general",
                read=TreeReader(path=name),
                layout=layouts.get(name, Layout()),
            )
            for name in ("code", "prose")
        ]
        targets = [CuratedTarget(name="heldout", read=TreeReader(path="heldout"))]
        store = Store(tmp_path / "store")
        steps = plan_preparation(sources, targets, tokenizer, store, base=tmp_path)
        return sources, targets, steps, store

    return asked


def by_label(asked) -> dict[str, str]:
    return {step.label: step.id for step in asked[2]}


def test_a_plain_layout_leaves_every_recipe_as_it_was_before_there_were_layouts(ask):
    ids = by_label(ask())
    for name in ("code", "prose", "heldout"):
        recipe = ["tokens", RECIPE, ids[f"documents of {name}"], ids["tokenizer"], None]
        expected = 100_000 if name == "heldout" else None
        assert ids[f"tokens of {name}"] == address([*recipe[:4], expected])
    fields = {"kind": "bpe", "vocabulary": 300, "sample_bytes": 4_000_000}
    documents = sorted([ids["documents of code"], ids["documents of prose"]])
    assert ids["tokenizer"] == address(["tokenizer", RECIPE, "bpe", [fields, documents]])


def test_an_option_changes_the_tokens_of_its_source_and_no_others(ask):
    before = by_label(ask())
    for layout in (
        Layout(order="language_repository"),
        Layout(boundary="repository"),
        Layout(boundary="begin_end"),
        Layout(packing="best_fit", sequence=32),
    ):
        after = by_label(ask(code=layout))
        assert {k for k in before if before[k] != after[k]} == {"tokens of code"}
    filled = by_label(ask(code=Layout(fim_rate=0.5)))
    # the tokenizer has three more tokens, so everything behind it is another
    assert {k for k in before if before[k] != filled[k]} == {
        *("tokenizer", "tokens of code", "tokens of prose", "tokens of heldout"),
    }
    assert filled["tokens of code"] != by_label(ask(code=Layout(fim_rate=0.9)))["tokens of code"]


def test_targets_stay_plain_and_manifests_say_what_was_done(ask):
    layout = Layout(fim_rate=1.0, packing="best_fit", sequence=32)
    sources, targets, steps, store = ask(code=layout)
    for step in steps:
        prepare(step, store, lambda done, total: None)
    found = manifests(sources, targets, steps, store)
    assert found["code"].layout == layout
    assert found["code"].padding > 0
    assert found["prose"].layout == found["heldout"].layout == Layout()
    assert found["heldout"].padding == 0
    work = {s.work.name: s.work for s in steps if s.work.kind == "tokens"}
    assert work["code"].marks == Marks(fill=FILL_MARKS)
    assert work["prose"].marks == work["heldout"].marks == Marks()


def test_an_existing_tokenizer_without_the_marks_is_refused_before_anything_is_done(ask, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    train_tokenizer([wrap(["a b c d"] * 9)], folder, vocabulary=258, sample_bytes=10**6)
    theirs = ExistingTokenizer(path="theirs")
    plain = by_label(ask(theirs))
    with pytest.raises(SourceError, match="fim_rate asks for fill-in-the-middle tokens"):
        ask(theirs, code=Layout(fim_rate=0.5))
    named = theirs.model_copy(update={"fim_tokens": ("a", "b", "c")})
    after = by_label(ask(named, code=Layout(fim_rate=0.5)))
    assert {k for k in plain if plain[k] != after[k]} == {"tokens of code"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    with pytest.raises(SourceError, match="begin-of-text"):
        ask(theirs, code=Layout(boundary="begin_end"))


def test_windows_of_another_length_than_the_phase_s_are_refused():
    layout = "source.stdlib.layout={packing: best_fit, sequence: %s}"
    ask = settings.load(None, [layout % "${phase.sequence}"])
    assert ask.source[0].layout.sequence == ask.phase.sequence
    with pytest.raises(SettingsError, match="packs windows of 99, phase"):
        settings.load(None, [layout % 99])
