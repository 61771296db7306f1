"""Sources that a phase wants laid out otherwise: the same documents, tokenised a second way."""

from __future__ import annotations

import pytest

from anneal import settings
from anneal.curation.worker import prepare
from anneal.errors import PlanError
from anneal.plan.lay_out import lay_out
from anneal.pretrain import supplies
from anneal.pretrain.show import dry_run
from anneal.sources.layout import Layout
from anneal.store import Store


@pytest.fixture
def sweep(tmp_path):
    """`sweep(word, ...)`: a sweep over a few small files, with those overrides."""
    for name in ("code", "prose", "heldout"):
        for i in range(12):
            file = tmp_path / name / f"r{i % 3}" / f"{i}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(" ".join(f"{name}{(i * j * j) % 97}" for j in range(1, 120)))
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - anneal\n  - override pretrain: null\n  - _self_\nquestion: mine?\n"
        "source: {code: {kind: high_quality, read: {kind: tree, path: code}}}\n"
        "replay: {prose: {kind: general, read: {kind: tree, path: prose}}}\n"
        "target: {heldout: {read: {kind: tree, path: heldout}}}\n"
        "prices: {usd_per_hour: 1, flops_per_second: 1e12}\n"
        "tokenizer: {vocabulary: 300, sources: [code, prose]}\n"
        "pretrain:\n  start: scratch\n  phases:\n"
        "    first: {mixture: replay, tokens: 4096, batch: 2, sequence: 32}\n"
        "    then: {mixture: {code: 0.5, replay: 0.5}, tokens: 4096, batch: 2, sequence: 32}\n"
    )
    return lambda *words: settings.load(
        tmp_path / "mine.yaml", [f"store={tmp_path / 'store'}", *words]
    )


GROUPED = "pretrain.phases.then.layout.order=language_repository"


def carry_out(ask) -> Store:
    store = Store(ask.store)
    for step in supplies.all_steps(ask, store):
        if not step.done(store).exists():
            prepare(step, store, lambda done, total: None)
    return store


def test_a_layout_of_a_phase_adds_its_tokens_and_no_documents(sweep):
    plain, grouped = sweep(), sweep(GROUPED)
    store = Store(plain.store)
    before, after = ({s.id: s for s in supplies.all_steps(a, store)} for a in (plain, grouped))
    new = [step for key, step in after.items() if key not in before]
    assert set(before) < set(after)
    assert sorted(step.label for step in new) == ["tokens of code", "tokens of prose"]
    assert {s.work.layout for s in new} == {Layout(order="language_repository")}
    assert supplies.phase_sweeps(plain) == {}


def test_portions_have_the_content_that_their_phase_wants(sweep):
    ask = sweep(GROUPED)
    prepared = supplies.read(ask, carry_out(ask))
    assert set(prepared.by_phase) == {"then"}
    mine, own = prepared.by_phase["then"], prepared.supplies
    assert {n: s.tokens for n, s in mine.items()} == {n: s.tokens for n, s in own.items()}
    laid = lay_out(
        ask.pretrain,
        supplies=own,
        replay="prose",
        replay_share=0.25,
        by_phase=prepared.by_phase,
        before=supplies.trained_before(ask),
    )
    first, then = laid.phases
    assert first.mixture[0].content == own["prose"].content
    contents = {p.source: p.content for p in then.mixture}
    assert contents == {n: s.content for n, s in mine.items()}
    assert not set(contents.values()) & {s.content for s in own.values()}
    assert prepared.relaid["then"]["code"].layout.order == "language_repository"
    found, notes = dry_run(ask)
    assert not found.lacks
    assert "phase then: code is laid out again for it" in notes
    assert found.vocabulary == 300
    assert all(part.epochs for phase in found.phases for part in phase.mixture)


def test_windows_packed_for_the_sweep_are_packed_again_for_another_length(sweep):
    packed = "source.code.layout={packing: best_fit, sequence: 128}"
    (like,) = supplies.phase_sweeps(sweep(packed)).values()
    assert like.source[0].layout == Layout(packing="best_fit", sequence=32)
    assert like.replay[0].layout == Layout()


def test_filling_in_the_middle_needs_a_tokenizer_with_its_marks(sweep):
    fill = "pretrain.phases.then.layout.fim_rate=0.5"
    with pytest.raises(PlanError, match="phase `then`: its layout rearranges documents") as caught:
        supplies.all_steps(sweep(fill), Store(sweep().store))
    assert "fim_rate" in caught.value.hint
    there = sweep(fill, "source.code.layout.fim_rate=0.1")
    assert supplies.all_steps(there, Store(there.store))


def test_a_store_where_text_is_short_says_of_what(sweep):
    ask = sweep("pretrain.phases.then.tokens=4_000_000")
    carry_out(ask)
    found, _ = dry_run(ask)
    assert {lack.source for lack in found.lacks} == {"code", "prose"}
    for lack in found.lacks:
        assert lack.exist is not None
        assert lack.exist < lack.needed


def test_what_the_base_was_trained_on_is_known(sweep):
    ask = sweep("pretrain.start=base", "base.tokens=10000")
    assert supplies.trained_before(ask) == {"prose": 10_240}
    assert supplies.trained_before(sweep()) == {}
