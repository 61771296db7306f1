"""The whole sweep on planted truth: it must return the known optimum, and know when it cannot.

Real settings, planner, launcher, worker processes, ledger, laws, allocation and report; only what a
run would measure is computed from a known law (planted.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anneal import settings
from anneal.errors import SettingsError
from anneal.launch.local import Local, LocalLauncher
from anneal.plan.values import RunTask
from anneal.report.decision import Decision
from anneal.store import Store, read_value
from anneal.sweep.job import sweep
from tests.conftest import REPOSITORY
from tests.integration.planted import true_score

pytestmark = pytest.mark.integration

TRUTH = {
    "floor": 1.5,
    "base": 3.0,
    "alpha": 0.45,
    "r_star": 12.0,
    "noise": 0.001,
    "guard": -0.02,
    # books teach most per token and are scarce; web is plentiful; junk is junk
    "tau": {"books": 2.0e4, "web": 6.0e4, "junk": 6.0e5, "replay": 8.0e5},
    "tokens": {
        "books": 30_000,
        "web": 20_000_000,
        "junk": 20_000_000,
        "replay": 20_000_000,
        "target": 90_000,
        "guard": 90_000,
    },
}

SWEEP = """
defaults:
  - anneal
  - _self_
question: which planted source is best?
source:
  books: {kind: high_quality, read: {kind: tree, path: books}, max_epochs: 64}
  web: {kind: general, read: {kind: tree, path: web}}
  junk: {kind: general, read: {kind: tree, path: junk}}
replay:
  replay: {kind: general, read: {kind: tree, path: replay}}
target:
  target: {read: {kind: tree, path: target}}
  guard: {guard: true, read: {kind: tree, path: guard}}
tokenizer: {sources: [web]}
prices: {usd_per_hour: 1.0, flops_per_second: 1.0e+12}
law: {draws: 200}
"""


def ask_in(folder: Path, *overrides: str):
    for name in ("books", "web", "junk", "replay", "target", "guard"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "a.txt").write_text(f"some text of {name}")
    (folder / "question.yaml").write_text(SWEEP)
    return settings.load(folder / "question.yaml", [f"store={folder}/store", *overrides])


def answer(ask, truth, *, kind=LocalLauncher) -> tuple[int, Decision]:
    store = Store(ask.store)
    launcher = kind(
        store,
        Local(slots=2, pin=False),
        logs=store.root / "logs",
        command=(sys.executable, "-m", "tests.integration.planted"),
        environment={"PLANTED": json.dumps(truth), "PYTHONPATH": str(REPOSITORY)},
    )
    code = sweep(ask, launcher=launcher)
    path = store.sweep(ask.name) / "report" / "decision.json"
    return code, read_value(path, Decision)


def real_score(truth: dict, shares: dict[str, float], total: float) -> float:
    """The truth's own score of an allocation."""
    tokens = {("replay" if k == "replay only" else k): v * total for k, v in shares.items() if v}
    return true_score(truth, tokens, {k: float(truth["tokens"][k]) for k in tokens})


def test_the_planted_optimum_is_found(tmp_path, capsys):
    ask = ask_in(tmp_path)
    code, decision = answer(ask, TRUTH)
    assert code == 0
    total = decision.real_tokens
    assert total == 2_097_152
    assert sum(row.tokens for row in decision.allocation) == total
    ours = real_score(TRUTH, {r.source: r.share for r in decision.allocation}, total)
    mixes = np.random.default_rng(0).dirichlet(np.ones(3), 20_000)
    best = min(
        real_score(TRUTH, dict(zip(("books", "web", "junk"), m, strict=True)), total) for m in mixes
    )
    # within the noise of one run (0.1% of about 1.65) of the best of 20,000 mixtures
    assert ours - best < 0.002
    # the law's interval for what it recommends covers the truth
    assert decision.score.low <= ours <= decision.score.high
    assert decision.verdict in {"adopt", "adopt with hold-out"}
    # a point estimate on unrepeated data would have bought books alone
    assert {row.pick for row in decision.ranks if row.budget <= 65_536} <= {"books", "web"}
    books = real_score(TRUTH, {"books": 1.0}, total)
    assert books - ours > 0.005
    # what decides nothing is not asked for: junk is far behind
    found = decision.next_best
    assert not any(r.worthwhile for r in found.rows if r.source == "junk")
    assert found.stop == (not any(r.worthwhile for r in found.rows))
    assert max(r.tokens for r in found.rows) == pytest.approx(4 * 131_072, rel=0.01)
    report = (tmp_path / "store" / "sweeps" / "question" / "report" / "index.html").read_text()
    assert "which planted source is best?" in report
    assert "Next best experiment" in report
    out = capsys.readouterr().out
    assert decision.verdict in out
    assert "next: " in out


class Recording(LocalLauncher):
    """Keeps the tasks that it was given."""

    def run(self, tasks, **more):
        self.given = [*getattr(self, "given", []), *tasks]
        Recording.last = self.given
        return super().run(tasks, **more)


def test_runs_of_two_processes_take_two_slots(tmp_path):
    """And are the same runs: how a run is carried out is no part of what it is."""
    few = ["budget.largest=32_768", "budget.seeds=2", "law.draws=40"]
    ask = ask_in(tmp_path, *few, "engine=deepspeed", "launcher.threads=1")
    code, _ = answer(ask, TRUTH, kind=Recording)
    assert code == 0
    assert {(t.verb, t.slots) for t in Recording.last} == {("prepare", 1), ("run", 2)}
    for task in Recording.last:
        if task.verb == "run":
            means = read_value(Path(task.spec), RunTask).means
            assert (means.engine, means.processes, means.threads) == ("deepspeed", 2, 1)
            assert means.deepspeed.stage == 1
    runs = {task.id for task in Recording.last if task.verb == "run"}
    answer(ask_in(tmp_path, *few), TRUTH, kind=Recording)
    assert {task.id for task in Recording.last if task.verb == "run"} == runs


def written(root: Path) -> dict[str, int]:
    """When each file of a store was written, but for caches of fingerprints and the lock."""
    return {
        str(p.relative_to(root)): p.stat().st_mtime_ns
        for p in root.rglob("*")
        if p.is_file() and p.name != "lock" and "fingerprints" not in p.parts
    }


def test_again_starts_nothing_and_changes_nothing(tmp_path):
    ask = ask_in(tmp_path)
    _, first = answer(ask, TRUTH)
    store = Store(ask.store)
    before = written(store.root)
    _, second = answer(ask, TRUTH)
    assert second == first
    after = written(store.root)
    assert {p for p in after if after[p] != before.get(p)} <= {"sweeps/question/plan.json"}


def test_more_seeds_start_only_the_new_runs(tmp_path):
    _, first = answer(ask_in(tmp_path), TRUTH)
    _, more = answer(ask_in(tmp_path, "budget.seeds=4"), TRUTH)
    assert more.evidence.planned == first.evidence.planned + 5
    assert more.evidence.reused == first.evidence.planned


def test_equal_sources_are_a_tie_and_not_a_discovery(tmp_path):
    truth = TRUTH | {
        "tau": dict.fromkeys(("books", "web", "junk", "replay"), 1.0e5),
        "tokens": TRUTH["tokens"] | {"books": 20_000_000},
    }
    _, decision = answer(ask_in(tmp_path), truth)
    uniform = next(b for b in decision.beats if b.name.startswith("uniform"))
    assert uniform.gain.low < 0 < uniform.gain.high
    assert decision.verdict != "adopt"
    assert not any(
        c.found for c in decision.crossovers if c.axis == "tokens" and c.probability > 0.9
    )


def test_a_source_that_fails_leaves_a_partial_answer(tmp_path, capsys):
    code, decision = answer(ask_in(tmp_path), TRUTH | {"fail": "junk"})
    assert code == 3
    assert decision.partial
    assert decision.evidence.failed["non_finite"] >= 7
    assert all("junk" in line or "uniform" in line for line in decision.evidence.missing)
    assert "PARTIAL" in capsys.readouterr().out


def test_the_command_exits_with_2_and_one_message(tmp_path):
    ask_in(tmp_path)
    (tmp_path / "books" / "a.txt").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "anneal", "sweep", "question.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "books" in done.stderr and "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_limits_and_objective_of_the_sweep_file_are_kept(tmp_path):
    ask = ask_in(
        tmp_path,
        "allocation.objective=cvar",
        "allocation.shares.junk=[0.1,1.0]",
        "allocation.shares.books=[0.0,0.05]",
        "allocation.min_replay=0.4",
    )
    code, decision = answer(ask, TRUTH)
    assert code == 0
    rows = {row.source: row for row in decision.allocation}
    total = sum(row.tokens for row in decision.allocation)
    assert rows["junk"].tokens >= 0.1 * total - 1
    assert rows["books"].tokens <= 0.05 * total + 1
    # replay of the phase and the control, which is more replay, over everything trained
    share = ask.phase.replay_share
    trained = total / (1 - share)
    assert (trained * share + rows["replay only"].tokens) / trained >= 0.4 - 1e-6
    assert "minimised: cvar" in decision.statements["large regrets"]
    assert any("runs at" in change.change for change in decision.sensitivity)


def test_the_split_stays_as_near_to_the_prior_as_the_sweep_file_says(tmp_path):
    prior = {"books": 0.1, "web": 0.1, "junk": 0.8}
    given = ",".join(f"{name}:{share}" for name, share in prior.items())
    ask = ask_in(tmp_path, f"allocation.prior={{{given}}}", "allocation.prior_limit=0.1")
    code, decision = answer(ask, TRUTH)
    assert code == 0
    share = {row.source: row.share for row in decision.allocation}
    assert set(share) == set(prior)  # more replay is not in the prior: it is not offered
    nats = sum(v * np.log(v / prior[n]) for n, v in share.items() if v > 0)
    assert 0.09 < nats <= 0.1001
    assert any("prior within 0.1 nats" in limit.limit for limit in decision.binding)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("allocation.shares.nothing=[0.1,1.0]", "names no source: nothing"),
        ("allocation.prior={books: 1.0}", "must name every source"),
        ("allocation.prior_limit=0.2", "no allocation.prior to stay near"),
        ("allocation.least_tokens=0", "allocation.least_tokens"),
        ("allocation.licences={secret: 0.1}", "no source has secret"),
    ],
)
def test_limits_that_name_nothing_are_refused(tmp_path, override, message):
    with pytest.raises(SettingsError, match=message):
        ask_in(tmp_path, override)
