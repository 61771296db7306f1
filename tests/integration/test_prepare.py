"""`prepare` and `synthesize` as a person uses them: names of sources, and what they cost."""

from pathlib import Path

import pytest

from anneal.store import Store
from tests.integration.corpus import make
from tests.integration.test_bad_input import anneal, nothing_half_written, refused

pytestmark = pytest.mark.integration


@pytest.fixture
def corpus(tmp_path) -> Path:
    make(tmp_path)
    return tmp_path


def test_one_source_is_prepared_told_of_and_found_again(corpus):
    done = anneal(corpus, "prepare", "tools", "small.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tools\n  read ")
    for word in (
        "deduplicate",
        "decontaminate",
        "kept ",
        "cost ",
        "documents     store/documents/",
    ):
        assert word in done.stdout
    store = Store(corpus / "store")
    made = list((store.root / "tokens").glob("*/manifest.json"))
    assert len(made) == 2  # the recipe's and the content's: of no other source
    nothing_half_written(store.root)
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("manifest.json")}
    again = anneal(corpus, "prepare", "tools", "small.yaml")
    assert again.stdout == done.stdout
    assert before == {p: p.stat().st_mtime_ns for p in store.root.rglob("manifest.json")}


def test_a_name_that_is_not_there_and_a_source_that_nobody_writes(corpus):
    refused(
        anneal(corpus, "prepare", "toosl", "small.yaml"), "no source or target `toosl`", "tools"
    )
    refused(anneal(corpus, "synthesize", "tools", "small.yaml"), "no step of kind `synthesize`")
    refused(anneal(corpus, "synthesize", "tools", "nets", "small.yaml"), "one source at a time")
    assert not (corpus / "store" / "tokens").exists()


def test_the_cost_is_what_a_sweep_pays_declared_prices_of_what_it_is_made_from_included(corpus):
    sweep = corpus / "small.yaml"
    bought = "nets: {kind: general, read: {kind: tree, path: nets}, cost: {usd_per_token: 1.0e-5}}"
    made = "half: {kind: filtered, read: {kind: prepared, source: nets}, max_tokens: 4000}"
    plain = "nets: {kind: general, read: {kind: tree, path: nets}}"
    sweep.write_text(sweep.read_text().replace(plain, f"{bought}\n  {made}"))
    done = anneal(corpus, "prepare", "nets", "half", "small.yaml")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("  cost ")]
    assert ["a million tokens: $10." in line for line in told] == [True, True], told
    assert "$10.00 a million tokens, $0.00 once, part of the cost above" in done.stdout
