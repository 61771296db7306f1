"""The sweeps that ship: each composes; with its corpora at hand, its preparation is planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from anneal import settings
from anneal.store import Store
from anneal.sweep.prepare import steps_of
from tests.conftest import REPOSITORY

CORPORA = REPOSITORY.parent / "shared" / "corpora"


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "sweeps").glob("*.yaml")), ids=lambda p: p.stem
)
def test_it_composes_and_says_what_it_costs(path: Path, monkeypatch):
    monkeypatch.setenv("ANNEAL_CORPORA", "/elsewhere")
    ask = settings.load(path)
    assert ask.name == path.stem
    head = path.read_text().split("defaults:")[0]
    for word in ("# Question", "# Cost", "# Command"):
        assert word in head


def test_the_mathematics_sweep_plans_its_preparation(tmp_path, monkeypatch):
    if not CORPORA.is_dir():
        pytest.skip(f"no corpora in {CORPORA}")
    monkeypatch.setenv("ANNEAL_CORPORA", str(CORPORA))
    ask = settings.load(REPOSITORY / "sweeps" / "math.yaml")
    steps = steps_of(ask, Store(tmp_path))
    made = {s.work.name for s in steps if s.work.kind == "tokens"}
    assert made == {"general", "textbook", "word_problems", "templates", "gsm8k", "prose"}
    filtered = next(s for s in steps if s.label == "documents of word_problems")
    labels = {s.id: s.label for s in steps}
    needs = {labels[need] for need in filtered.needs}
    assert {"documents of heap", "documents of solved", "documents of gsm8k"} <= needs
