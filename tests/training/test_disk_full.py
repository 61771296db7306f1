"""A disk that fills up under a real run, and is freed: the run goes on from its checkpoint."""

from __future__ import annotations

import json
import subprocess

import pytest

from anneal.launch.local import Local, LocalLauncher
from anneal.launch.values import Advanced, Stumbled
from anneal.plan.values import Result
from anneal.store import read_value
from anneal.sweep.tasks import run_task
from tests.conftest import REPOSITORY
from tests.training import tiny

pytestmark = pytest.mark.integration


@pytest.fixture
def disk(tmp_path):
    """A disk of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.parametrize("freed", [True, False])
def test_a_full_disk_is_tried_again_and_goes_on_where_space_was_made(disk, tmp_path, freed):
    phase = tiny.phase("general", {"web": 1.0}, 200)
    asked, filler, events = tiny.spec(phase), disk / "filler", []
    store = tiny.store(disk)
    task = run_task(asked, tiny.means(checkpoint_seconds=0.0), "full", store)

    def listen(event) -> None:
        events.append(event)
        under_way = isinstance(event, Advanced) and event.done >= 3 * phase.batch * phase.sequence
        if under_way and not filler.exists():  # a checkpoint of the step before is there by now
            with open(filler, "wb", buffering=0) as file:
                try:
                    while file.write(b"x" * 4096):
                        pass
                except OSError:
                    return
        if isinstance(event, Stumbled) and freed:
            filler.write_bytes(b"")

    environment = {"PYTHONPATH": str(REPOSITORY)}
    with LocalLauncher(
        store, Local(slots=1, pin=False), logs=tmp_path / "logs", environment=environment
    ) as launcher:
        (outcome,) = launcher.run([task], on_event=listen)
    kinds = {e.failure.kind for e in events if isinstance(e, Stumbled)}
    assert kinds == {"disk_full"}
    assert (outcome.ok, outcome.attempts) == ((True, 2) if freed else (False, 3))
    if freed:
        found = read_value(store.run(asked.id) / "result.json", Result)
        assert found.resumed == 1
        log = (store.run(asked.id) / "log.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in log] == list(range(1, 201))
