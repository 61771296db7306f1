"""The real sweep at smoke size: real text, real workers, real training; then again, then killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from anneal.plan.values import Result
from anneal.report.decision import Decision
from anneal.store import Store, read_value
from tests.conftest import REPOSITORY
from tests.integration.corpus import make

pytestmark = pytest.mark.integration

ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "anneal", *words]


def anneal(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*words), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def results(folder: Path) -> dict[str, Result]:
    store = Store(folder / "store")
    found = {}
    for run in store.runs():
        path = store.run(run) / "result.json"
        if path.exists():
            found[run] = read_value(path, Result)
    return found


def measured(folder: Path) -> dict[str, tuple]:
    """What must be the same bit for bit: weights, scores, losses and shares."""
    return {
        run: (r.weights, r.scores, r.final_loss, r.source_tokens, r.unique_tokens, r.tokens)
        for run, r in results(folder).items()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An undisturbed sweep."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make(folder)
    done = anneal(folder, "sweep", "small.yaml")
    assert done.returncode == 0, done.stderr
    assert "decision: " in done.stdout
    assert done.stdout.rstrip().endswith("store/sweeps/small/report/index.html")
    return folder


def test_everything_is_there(finished):
    folder = finished / "store" / "sweeps" / "small" / "report"
    decision = read_value(folder / "decision.json", Decision)
    assert not decision.partial
    assert decision.evidence.finished == decision.evidence.planned > 15
    assert sum(row.tokens for row in decision.allocation) == decision.real_tokens == 131_072
    for name in ("index.html", "report.md"):
        assert "which slice of the standard library?" in (folder / name).read_text()
    base = [r for r in results(finished).values() if r.tokens == 16_384 and r.resumed == 0]
    assert any(r.weights for r in base)


def test_training_lowered_the_loss(finished):
    store = Store(finished / "store")
    for run, result in results(finished).items():
        rows = [json.loads(li) for li in (store.run(run) / "log.jsonl").read_text().splitlines()]
        if result.tokens > 16_384:
            assert rows[-1]["loss"] < rows[0]["loss"]


def test_realised_shares_are_audited(finished):
    for result in results(finished).values():
        if result.tokens:
            for source, share in result.asked_shares.items():
                # largest remainder: within one sample of 64 tokens
                assert abs(result.source_tokens[source] - share * result.tokens) < 64
            assert sum(result.source_tokens.values()) == result.tokens


def test_again_starts_no_run(finished):
    before = measured(finished)
    times = {r.finished for r in results(finished).values()}
    done = anneal(finished, "sweep", "small.yaml")
    assert done.returncode == 0, done.stderr
    assert measured(finished) == before
    assert {r.finished for r in results(finished).values()} == times


def test_plan_and_status_and_export(finished):
    plan = anneal(finished, "plan", "small.yaml")
    assert plan.returncode == 0, plan.stderr
    assert " 0 to run" in plan.stdout and "6 x parameters x tokens" in plan.stdout
    status = anneal(finished, "status", "small.yaml", "--export", "out.parquet")
    assert status.returncode == 0, status.stderr
    table = pd.read_parquet(finished / "out.parquet")
    assert len(table) == len(results(finished)) - 1  # all but the base's own training
    assert {"bpb aim", "bpb guard", "weights", "shares", "code"} <= set(table)


def test_watch_why_gc_and_cancel_of_a_finished_sweep(finished):
    watched = anneal(finished, "status", "small.yaml", "--watch")
    assert watched.returncode == 0, watched.stderr
    assert watched.stdout.endswith(" runs finished; nothing runs here now\n")
    run = Store(finished / "store").runs()[0]
    why = anneal(finished, "why", run[:12], "small.yaml")
    assert why.returncode == 0, why.stderr
    assert why.stdout.startswith(f"run {run} (") and "nearest finished run: " in why.stdout
    before = measured(finished)
    gc = anneal(finished, "gc", "small.yaml", "--delete")
    assert gc.returncode == 0, gc.stderr
    assert "0 things, 0 B deleted" in gc.stdout  # a finished sweep leaves nothing behind
    assert measured(finished) == before
    cancel = anneal(finished, "cancel", "small.yaml")
    assert cancel.returncode == 2 and "nothing runs here" in cancel.stderr


def test_a_new_source_starts_only_its_own_runs(finished, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(finished, folder)
    before = measured(folder)
    text = (folder / "small.yaml").read_text()
    more = "  prose2: {kind: general, read: {kind: tree, path: prose, glob: '*0.txt'}}\nreplay:"
    (folder / "small.yaml").write_text(text.replace("replay:", more, 1))
    done = anneal(folder, "sweep", "small.yaml")
    assert done.returncode == 0, done.stderr
    after = measured(folder)
    assert {r: v for r, v in after.items() if r in before} == before
    runs = {r for r in after if r not in before}
    store = Store(folder / "store")
    specs = [json.loads((store.run(r) / "task.json").read_text()) for r in runs]
    assert specs
    for spec in specs:
        sources = {p["source"] for phase in spec["spec"]["phases"] for p in phase["mixture"]}
        assert "prose2" in sources  # itself, or the uniform mixture that now holds it


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_instants_the_results_are_the_same_bits(finished, tmp_path, seed):
    """SIGKILL to the sweep and all its workers, again and again, until it gets through."""
    folder = tmp_path / "c"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("store", "out.parquet"))
    rng = random.Random(seed)
    words = ["sweep", "small.yaml", "engine.checkpoint_seconds=0"]
    for _ in range(8):
        sweep = subprocess.Popen(
            command(*words),
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            sweep.wait(timeout=rng.uniform(1.0, 9.0))
            break
        except subprocess.TimeoutExpired:
            kill_tree(sweep.pid, signal.SIGKILL)
            sweep.wait()
    done = anneal(folder, *words)
    assert done.returncode == 0, done.stderr
    assert measured(folder) == measured(finished)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_stopped_halfway_resumes_to_the_same_bits(finished, tmp_path, number):
    """One run as its own command, stopped while it trains, then started again."""
    folder = tmp_path / "c"
    shutil.copytree(finished, folder)
    store = Store(folder / "store")
    longest = max(results(folder).values(), key=lambda r: (r.steps, r.run))
    expected = (longest.weights, longest.scores, longest.final_loss)
    run = store.run(longest.run)
    (run / "result.json").unlink()
    (run / "log.jsonl").unlink()
    shutil.rmtree(run / "weights", ignore_errors=True)
    task = json.loads((run / "task.json").read_text())
    task["means"]["checkpoint_seconds"] = 0.0
    (run / "task.json").write_text(json.dumps(task))
    worker = subprocess.Popen(command("run", str(run / "task.json")), env=ENVIRONMENT, cwd=folder)
    deadline = time.monotonic() + 60
    while not list(run.glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.send_signal(number)
    assert worker.wait(timeout=60) == {signal.SIGTERM: 75, signal.SIGKILL: -9}[number]
    assert not (run / "result.json").exists()
    done = anneal(folder, "run", str(run / "task.json"))
    assert done.returncode == 0, done.stderr
    again = read_value(run / "result.json", Result)
    assert again.resumed == 1
    assert (again.weights, again.scores, again.final_loss) == expected
    steps = [json.loads(li)["step"] for li in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))  # no step twice, none backwards


def test_a_run_that_diverges_is_a_row_and_not_the_end(finished, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("store", "out.parquet"))
    # a learning rate of 1e30 overflows within a step or two
    done = anneal(folder, "sweep", "small.yaml", "phase.schedule.peak=1e30")
    assert done.returncode == 3
    assert "non_finite" in done.stderr
    assert "Traceback" not in done.stderr
    assert "python -m anneal run" in done.stderr


def kill_tree(pid: int, number: int) -> None:
    import psutil

    parent = psutil.Process(pid)
    for child in [*parent.children(recursive=True), parent]:
        try:
            child.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def test_a_checkpoint_of_ones_own_is_a_base(finished, tmp_path):
    """The base that the sweep trained, as a Hugging Face folder with its tokenizer."""
    folder = tmp_path / "c"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("store", "out.parquet"))
    (weights,) = (finished / "store" / "runs").glob("*/weights")
    shutil.copytree(weights, folder / "base", ignore=shutil.ignore_patterns("optimiser*"))
    (tokenizer,) = (finished / "store" / "tokenizers").glob("*/tokenizer.json")
    for path in tokenizer.parent.glob("*.json"):
        shutil.copy(path, folder / "base")
    text = (folder / "small.yaml").read_text()
    text = text.replace(
        "override budget: smoke", "override budget: smoke\n  - override model: checkpoint"
    )
    lines = [li for li in text.splitlines() if not li.startswith(("model:", "base:", "tokenizer:"))]
    lines += ["model: {path: base}", "tokenizer: {kind: huggingface, path: base}"]
    (folder / "small.yaml").write_text("\n".join(lines) + "\n")
    done = anneal(folder, "sweep", "small.yaml")
    assert done.returncode == 0, done.stderr
    # the base as it is scores the same, whichever way it came
    scores = [
        {r.scores["aim"].bpb for r in results(f).values() if r.tokens == 0}
        for f in (finished, folder)
    ]
    assert scores[0] == scores[1]
