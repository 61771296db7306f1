"""Bad input: one clear error, exit code 2, no traceback, nothing half-written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.integration.corpus import make

pytestmark = pytest.mark.integration


def anneal(folder: Path, *words: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "anneal", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


def refused(done: subprocess.CompletedProcess, *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr[done.stderr.rindex("anneal: ") :]
    assert "hint: " in last
    for part in parts:
        assert part in last, last


def nothing_half_written(store: Path) -> None:
    """No temporary files, and no folder of the store without the file that is written last."""
    assert not [p for p in store.rglob(".*") if p.is_file() or p.is_dir()]
    for kind, last in [
        ("documents", "curation.json"),
        ("tokenizers", "tokenizer_info.json"),
        ("tokens", "manifest.json"),
    ]:
        for folder in (store / kind).glob("*"):
            assert (folder / last).exists() or (folder / "tokenizer.json").exists(), folder


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make(folder)
    return folder


@pytest.fixture
def corpus(template, tmp_path) -> Path:
    shutil.copytree(template, tmp_path / "c")
    return tmp_path / "c"


def test_unknown_key(corpus):
    refused(
        anneal(corpus, "sweep", "small.yaml", "budget.seedz=2"), "seedz", "did you mean `seeds`"
    )


def test_unknown_source(corpus):
    refused(anneal(corpus, "sweep", "source=[stdlib,nowhere]"), "nowhere", "stdlib")


def test_nan_cost(corpus):
    words = ["sweep", "small.yaml", "source.tools.cost.usd_per_token=.nan"]
    refused(anneal(corpus, *words), "usd_per_token", "nan")


def test_runs_of_more_processes_than_the_launcher_has_slots(corpus):
    """Told before a source is prepared, since that may cost money."""
    words = ["engine=deepspeed", "engine.processes=3", "launcher.slots=2", "launcher.pin=false"]
    done = anneal(corpus, "sweep", "small.yaml", *words)
    refused(done, "a run of the sweep takes 3 slots, 2 exist", "engine.processes")
    assert not list((corpus / "store").glob("documents/*"))


def test_missing_folder(corpus):
    shutil.rmtree(corpus / "tools")
    refused(anneal(corpus, "sweep", "small.yaml"), "tools")


def test_empty_file_and_empty_source(corpus):
    for path in (corpus / "nets").iterdir():
        path.write_text("")
    refused(anneal(corpus, "sweep", "small.yaml"), "nets")
    nothing_half_written(corpus / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(corpus):
    next((corpus / "tools").iterdir()).chmod(0)
    refused(anneal(corpus, "sweep", "small.yaml"), "tools")


def test_a_folder_in_place_of_a_file(corpus):
    (corpus / "rows.jsonl").mkdir()
    words = ["sweep", "small.yaml", "source.tools.read={kind: jsonl, path: rows.jsonl}"]
    refused(anneal(corpus, *words), "rows.jsonl")


def test_bytes_that_are_not_utf8(corpus):
    path = corpus / "nets" / "bad.txt"
    path.write_bytes(b"fine so far \xff\xfe and no further")
    done = anneal(corpus, "sweep", "small.yaml")
    refused(done, "bad.txt", "12")
    nothing_half_written(corpus / "store")


def test_a_forbidden_licence(corpus):
    words = ["source.tools.licence=CC-BY-NC-4.0", "forbidden_licences=[CC-BY-NC*]"]
    refused(anneal(corpus, "plan", "small.yaml", *words), "source `tools`", "CC-BY-NC-4.0")
    assert not (corpus / "store" / "documents").exists()


def test_a_url_that_does_not_answer(corpus):
    words = ["sweep", "small.yaml", "source.tools.read={kind: tree, path: 'http://127.0.0.1:9/x'}"]
    refused(anneal(corpus, *words), "source `tools`: http://127.0.0.1:9/x: it does not answer")
    nothing_half_written(corpus / "store")


def test_a_budget_above_what_exists(corpus):
    words = ["budget.largest=400000", "budget.real.tokens=4000000", "budget.repetition=natural"]
    done = anneal(corpus, "sweep", "small.yaml", *words, "source.tools.max_epochs=1")
    refused(done, "source `tools`: 400,000 tokens asked", "exist (limit 1 epochs", "max_epochs")
    nothing_half_written(corpus / "store")
    assert not (corpus / "store" / "runs").exists()


def test_a_target_that_is_also_a_source(corpus):
    done = anneal(corpus, "sweep", "small.yaml", "target.aim.read.path=tools")
    refused(done, "aim", "tools")


def test_a_tokenizer_that_does_not_match_the_base(corpus):
    from anneal.plan.values import LlamaShape
    from anneal.training.model import llama

    shape = LlamaShape(hidden=32, layers=1, heads=1, kv_heads=1, feed_forward=64)
    llama(shape, vocabulary=300, seed=0).save_pretrained(corpus / "base")
    shape_line = next(
        li for li in (corpus / "small.yaml").read_text().splitlines() if "hidden" in li
    )
    text = (corpus / "small.yaml").read_text().replace(shape_line, "")
    (corpus / "small.yaml").write_text(
        text.replace("budget: smoke", "budget: smoke\n  - override model: checkpoint")
    )
    done = anneal(corpus, "sweep", "small.yaml", "model.path=base")
    refused(done, "base", "300 vocabulary entries", "512")


def test_a_full_disk(corpus):
    disk = corpus / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    try:
        done = anneal(corpus, "sweep", "small.yaml", f"store={disk}/store")
        refused(done, "disk full")
        nothing_half_written(disk / "store")
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_two_sweeps_on_one_store(corpus):
    from anneal.store import Store

    store = Store(corpus / "store")
    with store.lock("sweep first"):
        refused(anneal(corpus, "sweep", "small.yaml"), "in use by sweep first", "store=")


def test_status_of_a_sweep_that_never_was(corpus):
    refused(anneal(corpus, "status", "small.yaml"), "never started")
