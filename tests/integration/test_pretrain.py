"""The full run for real: by two processes of DeepSpeed, by torch, changed, ended by its rules."""

import os
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from anneal.plan.predictions import Prediction
from anneal.report.decision import Decision
from anneal.store import Store, read_value
from anneal.training.tensors import read_tensors
from tests.integration.full_run import (
    LAST,
    TORCH,
    anneal,
    bits,
    close,
    ends,
    no_remains,
    pretrain,
    refused,
    report,
    result,
    trained,
)

pytestmark = pytest.mark.integration

PHASES = ("general", "high_quality", LAST)


def table(said: str) -> list[str]:
    """The last lines: the report's path, and before it predicted beside measured."""
    *lines, last = said.rstrip().splitlines()
    assert last == "report: store/pretrain/small/report/index.html"
    (head,) = [i for i, line in enumerate(lines) if line.split()[:2] == ["after", "predicted"]]
    return lines[head:]


def test_it_ends_with_predicted_beside_measured(undisturbed):
    rows = table((undisturbed / "said").read_text())
    assert [row.strip() for row in rows if len(row.split()) == 1] == list(PHASES)
    found = report(undisturbed)
    measured = {(row.phase, row.score): row.measured for row in found.foretold}
    assert len(measured) == 6
    for (_, score), number in measured.items():
        assert any(score in row and f"{number:.4f}" in row for row in rows)
    folder = undisturbed / "store" / "pretrain" / "small" / "report"
    for name in ("index.html", "report.md"):
        text = (folder / name).read_text()
        assert "which slice of the standard library?" in text
        assert f"{found.phases[-1].scores['aim']:.4f}" in text
    no_remains(undisturbed)


def test_three_boundaries_are_kept_and_were_read_back(undisturbed):
    found = report(undisturbed)
    assert (found.state, found.resumed, found.processes) == ("finished", 0, 2)
    assert found.engine.startswith("deepspeed")
    assert [row.phase for row in found.phases] == list(PHASES)
    store = Store(undisturbed / "store")
    for row in found.phases:
        assert row.verified and not row.reused
        assert (store.boundary(row.boundary) / "boundary.json").exists()
    assert result(undisturbed).weights == found.phases[-1].weights
    assert found.phases[0].scores["aim"] > found.phases[1].scores["aim"]


def test_tokens_are_those_of_the_decision_to_the_sequence(undisturbed):
    decision = read_value(
        undisturbed / "store" / "sweeps" / "small" / "report" / "decision.json", Decision
    )
    bought = {row.source: row.tokens for row in decision.allocation if row.tokens}
    assert set(bought) == {"tools", "nets"}
    realised = result(undisturbed).source_tokens
    for source, tokens in bought.items():
        # whole sequences of 64: never more than was bought, less by under one in each later phase
        assert 0 <= tokens - realised[source] < 64
    found = report(undisturbed)
    for row in found.audit:
        assert row.realised == row.laid_out
    for source in bought:
        assert realised[source] == sum(r.realised for r in found.audit if r.source == source)
    first_in = [r for r in found.audit if r.source == "nets"]
    assert [r.phase for r in first_in] == [LAST]  # synthetic sources come there first
    assert not any("prose" in warning for warning in found.warnings)  # replay is in every phase


def test_predictions_were_made_before_the_phases_ended(undisturbed):
    store = Store(undisturbed / "store")
    rows = [row for row in report(undisturbed).foretold if row.address]
    assert len(rows) == 6
    finished = {row.phase: row.finished for row in report(undisturbed).phases}
    for row in rows:
        said = read_value(store.prediction(row.address) / "prediction.json", Prediction)
        assert said.made == row.made
        assert datetime.fromisoformat(row.made) < datetime.fromisoformat(finished[row.phase])


def test_again_it_trains_nothing_and_says_the_same(done):
    before = trained(done)
    said = pretrain(done)
    assert said == (done / "said").read_text()
    assert trained(done) == before


def test_the_next_sweep_says_how_often_the_intervals_have_held(done):
    decision = done / "store" / "sweeps" / "small" / "report" / "decision.json"
    before = read_value(decision, Decision)
    held = report(done).calibration
    again = anneal(done, "sweep", "small.yaml")
    assert again.returncode == 0, again.stderr
    line = f"our 90% intervals have held {held.inside} of {held.n} times"
    assert line in again.stdout and "by full runs measured afterwards" in again.stdout
    after = read_value(decision, Decision)
    assert after.calibration == held
    assert after.allocation == before.allocation
    pretrain(done)  # what is decided has not changed: it still goes by it


def test_the_torch_engine_gives_the_same(undisturbed, fresh):
    pretrain(fresh, *TORCH)
    found = report(fresh)
    assert found.engine.startswith("torch") and found.processes == 1
    assert found.run == report(undisturbed).run
    close(fresh, undisturbed)


# changed


def test_a_changed_last_phase_trains_the_last_phase_alone(done):
    """By torch, from what DeepSpeed left: a boundary is of no engine."""
    before = trained(done)
    first = report(done)
    pretrain(done, *TORCH, f"pretrain.phases.{LAST}.schedule.peak=1e-3")
    changed = report(done)
    assert changed.run != first.run
    assert [row.reused for row in changed.phases] == [True, True, False]
    assert [row.weights for row in changed.phases[:2]] == [r.weights for r in first.phases[:2]]
    assert changed.phases[2].weights != first.phases[2].weights
    assert changed.phases[1].scores == first.phases[1].scores
    pretrain(done, *TORCH, "--from", LAST, f"pretrain.phases.{LAST}.schedule.peak=2e-3")
    assert report(done).run not in {changed.run, first.run}
    after = trained(done)
    assert {name: after[name] for name in before} == before
    assert len([name for name in after if name.startswith("boundaries")]) == 5
    no_remains(done)
    shutil.rmtree(done / "store" / "boundaries" / first.phases[1].boundary)
    before = trained(done)
    words = ("--from", LAST, f"pretrain.phases.{LAST}.schedule.peak=4e-3")
    refused(
        anneal(done, "pretrain", "small.yaml", *words),
        f"the state after phase `{PHASES[1]}` is missing",
        first.phases[1].boundary,
    )
    assert trained(done) == before


def test_the_end_of_a_phase_is_exported_and_loads(done):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = report(done)
    made = anneal(
        done, "export", found.run, "model", "--phase", "high_quality", "--dtype", "float32"
    )
    assert made.returncode == 0, made.stderr
    model = AutoModelForCausalLM.from_pretrained(done / "model", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(done / "model", local_files_only=True)
    kept = Store(done / "store").boundary(found.phases[1].boundary) / "model.safetensors"
    state = model.state_dict()
    for name, weight in read_tensors(kept).items():
        assert (state[name] == weight).all(), name
    ids = tokenizer("def f(x):\n", return_tensors="pt").input_ids
    assert model(ids).logits.shape == (1, ids.shape[1], 512)


# ended by a rule


def ended(folder: Path, *words: str) -> str:
    """A full run that a rule of its own ends; what the report says of it."""
    pretrain(folder, *words, code=3)
    found = report(folder)
    assert found.state == "aborted"
    text = (folder / "store" / "pretrain" / "small" / "report" / "report.md").read_text()
    assert "`" in found.aborted and found.aborted.split("`")[1] in text
    assert not list((folder / "store" / "runs" / found.run).glob("result.json"))
    return found.aborted


def boundaries(folder: Path) -> dict[str, str]:
    return {n: d for n, d in trained(folder).items() if n.startswith("boundaries")}


def test_a_gate_that_is_not_passed_ends_it(undisturbed, fresh):
    """In both processes of DeepSpeed; and again, for who gives the same command once more."""
    gate = "pretrain.engine.watch.gates=[{phase: high_quality, target: aim, at_most: %s}]"
    why = ended(fresh, gate % 1.0)
    assert "gate of phase `high_quality`: `aim` is" in why
    kept = boundaries(fresh)
    assert len(kept) == 2
    assert set(ends(fresh)) >= set(PHASES[:2]) and LAST not in ends(fresh)
    assert ended(fresh, gate % 1.0, *TORCH) == why  # not passed by trying again
    assert boundaries(fresh) == kept
    pretrain(fresh, gate % 9.0)
    assert report(fresh).state == "finished"
    after = boundaries(fresh)
    assert {name: after[name] for name in kept} == kept and len(after) == 3
    assert bits(fresh) == bits(undisturbed)


def test_a_gate_of_the_first_phase_asks_for_progress(fresh):
    gate = "pretrain.engine.watch.gates=[{phase: general, target: aim, better_by: %s}]"
    why = ended(fresh, gate % 99, *TORCH)
    assert "gate of phase `general`" in why
    assert ended(fresh, gate % 99, *TORCH) == why
    pretrain(fresh, gate % 0.5, *TORCH)
    assert report(fresh).state == "finished"


def test_a_guard_above_its_limit_ends_it(fresh):
    limit = "pretrain.engine.watch.guard_limits={guard: %s}"
    why = ended(fresh, limit % 1.0, "pretrain.engine.watch.evaluate_tokens=4096", *TORCH)
    assert "guard `guard` is" in why and "after 4,096 tokens" in why
    assert not boundaries(fresh)
    why = ended(fresh, limit % 5.4, *TORCH)
    assert "at the end of phase `general`" in why
    kept = boundaries(fresh)
    assert len(kept) == 1
    assert ended(fresh, limit % 5.4, *TORCH) == why
    pretrain(fresh, limit % 9.0, *TORCH)
    assert boundaries(fresh).items() >= kept.items()


def test_a_spike_of_the_loss_ends_it(done):
    hot = (f"pretrain.phases.{LAST}.schedule.peak=1.0", *TORCH)
    shutil.rmtree(done / "store" / "boundaries" / report(done).phases[1].boundary)
    why = ended(done, "pretrain.engine.watch.spike=0.5", *hot)
    assert why.startswith("aborted: spike: the last 10 losses average")
    kept = boundaries(done)
    pretrain(done, *hot)
    assert boundaries(done).items() >= kept.items()


def test_numbers_that_are_no_numbers_end_it(done):
    hot = (f"pretrain.phases.{LAST}.schedule.peak=1e30", *TORCH)
    pretrain(done, *hot, code=3)
    found = report(done)
    assert "non_finite" in found.aborted
    assert [row.tokens is None for row in found.phases] == [False, False, True]
    assert os.listdir(done / "store" / "boundaries")
