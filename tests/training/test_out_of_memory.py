"""A run that does not fit at first: half the micro-batch, the same losses, and a record of it."""

from __future__ import annotations

import json
import sys

import pytest

from anneal.launch.local import Local, LocalLauncher
from anneal.plan.values import Result
from anneal.store import read_value
from anneal.sweep.tasks import run_task
from anneal.training.loop import train
from anneal.training.workbench import Workbench
from tests.conftest import REPOSITORY
from tests.training import tiny

pytestmark = pytest.mark.integration


def losses(folder) -> list[float]:
    return [json.loads(row)["loss"] for row in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("most", "ok"), [(2, True), (1, False)])
def test_a_run_that_does_not_fit_trains_with_half_the_micro_batch(tmp_path, most, ok):
    asked = tiny.spec(tiny.GENERAL)
    store = tiny.store(tmp_path)
    task = run_task(asked, tiny.MEANS, "crowded", store)
    with LocalLauncher(
        store,
        Local(slots=1, pin=False),
        logs=tmp_path / "logs",
        command=(sys.executable, "-m", "tests.training.crowded"),
        environment={"CROWDED": str(most), "PYTHONPATH": str(REPOSITORY)},
    ) as launcher:
        (outcome,) = launcher.run([task])
    assert (outcome.ok, outcome.attempts, outcome.micro_batch) == (ok, 2, 2)
    if not ok:
        assert outcome.failure.kind == "out_of_memory"
        return
    found = read_value(store.run(asked.id) / "result.json", Result)
    assert found.means.micro_batch == 2

    roomy = tiny.store(tmp_path / "roomy")
    whole = train(tiny.task(asked), roomy, bench=Workbench())
    assert whole.means.micro_batch is None
    ours, theirs = losses(store.run(asked.id)), losses(roomy.run(asked.id))
    assert len(ours) == asked.phases[0].steps
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert found.scores["aim"].bpb == pytest.approx(whole.scores["aim"].bpb, rel=1e-5)
    assert found.steps == whole.steps
