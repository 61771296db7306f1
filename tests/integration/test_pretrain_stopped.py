"""The full run killed and told to stop at every instant: it goes on to the same bits."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anneal.store import Store
from tests.integration.full_run import (
    ALONE,
    ENVIRONMENT,
    EVERY_STEP,
    PATIENCE,
    Started,
    bits,
    close,
    gone,
    no_remains,
    pretrain,
    report,
    result,
)

pytestmark = pytest.mark.integration


# killed


def test_killed_at_random_instants_it_ends_with_the_same_bits(undisturbed, fresh):
    """SIGKILL to everything: some fall into start-up, the others into training, which saves at
    every step; so into saves, and into the hand-over from phase to phase."""
    rng = random.Random(0)
    run = Started(fresh, *EVERY_STEP)
    run.until(lambda: False, rng.uniform(2.0, 8.0))
    run.kill()
    for phase, step in ((0, rng.randint(2, 31)), (1, rng.randint(2, 95)), (2, rng.randint(2, 20))):
        run = Started(fresh, *EVERY_STEP)
        run.until(run.steps(phase, step))
        run.kill()
    pretrain(fresh)
    assert result(fresh).resumed >= 1
    assert bits(fresh) == bits(undisturbed)
    no_remains(fresh)


@pytest.mark.parametrize("what", ["boundaries/.*", "runs/*/.checkpoint-*.writing"])
def test_killed_while_it_writes_it_ends_with_the_same_bits(undisturbed, fresh, what):
    """The half-written folder that the kill leaves is never loaded, and goes away."""
    left = []
    for _ in range(4):  # a kill may come too late, just after the folder was renamed
        run = Started(fresh, *EVERY_STEP)
        run.strike(lambda: list((fresh / "store").glob(what)))
        left = list((fresh / "store").glob(what))
        if left:
            break
    assert left
    pretrain(fresh)
    assert bits(fresh) == bits(undisturbed)
    no_remains(fresh)


def test_a_killed_coordinator_leaves_nothing_that_writes_beside_the_next(undisturbed, fresh):
    """It alone is killed, and the command given again at once: the old processes may still save."""
    run = Started(fresh, *EVERY_STEP)
    assert run.until(run.steps(1, 5))
    run.process.kill()
    run.process.wait()
    pretrain(fresh)
    assert bits(fresh) == bits(undisturbed)
    gone(fresh)
    no_remains(fresh)


def test_a_kill_after_the_result_was_written_leaves_no_checkpoint(done):
    run = Store(done / "store").run(report(done).run)
    (run / "checkpoint-02-000000030").mkdir()
    (run / "checkpoint-02-000000030" / "progress.json").write_text("{}")
    pretrain(done)
    no_remains(done)


def test_what_a_killed_process_left_of_building_stops_nobody(tmp_path):
    """torch waits for ever for a file that a process killed while loading DeepSpeed leaves."""
    built = Path(ENVIRONMENT["TORCH_EXTENSIONS_DIR"])
    shutil.copytree(built, tmp_path / "built")
    (tmp_path / "built" / "deepspeed_shm_comm").mkdir(exist_ok=True)
    (tmp_path / "built" / "deepspeed_shm_comm" / "lock").touch()
    join = (
        "import torch; from anneal.training.processes import Processes; "
        "print('joined', Processes(torch.device('cpu')).count)"
    )
    done = subprocess.run(
        [sys.executable, "-c", join],
        env=ENVIRONMENT | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "built")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert "joined 1" in done.stdout, done.stderr


# stopped


def test_told_to_stop_it_saves_leaves_with_75_and_goes_on(undisturbed, fresh):
    run = Started(fresh)
    assert run.until(run.steps(1, 5))
    assert run.stop() == 75
    gone(fresh)
    folder = Store(fresh / "store").run(report(undisturbed).run)
    (checkpoint,) = folder.glob("checkpoint-*")
    assert json.loads((checkpoint / "progress.json").read_text())["phase"] == 1
    assert not (folder / "result.json").exists()
    pretrain(fresh)
    assert result(fresh).resumed == 1
    assert bits(fresh) == bits(undisturbed)
    steps = [json.loads(li) for li in (folder / "log.jsonl").read_text().splitlines()]
    at = [(row["phase"], row["step"]) for row in steps]
    assert at == sorted(set(at))  # no step twice, none backwards
    no_remains(fresh)


@pytest.mark.parametrize("background", [False, True])
def test_told_to_stop_before_anything_trains(fresh, background):
    run = Started(fresh, background=background)
    assert run.until(lambda: list((fresh / "store" / "pretrain").glob("small/plan.json")))
    assert run.stop() == 75
    gone(fresh)


@pytest.mark.parametrize("stage", [1, 3])
def test_it_goes_on_with_another_number_of_processes(undisturbed, fresh, stage):
    """Two processes, then one, then two again, by DeepSpeed's universal checkpoints."""
    zero = (f"pretrain.engine.deepspeed.stage={stage}",)
    run = Started(fresh, *zero, *EVERY_STEP)
    assert run.until(run.steps(0, 20))
    assert run.stop() == 75
    run = Started(fresh, *zero, *EVERY_STEP, *ALONE)
    assert run.until(run.steps(1, 30))
    assert run.stop() == 75
    pretrain(fresh, *zero)
    found = result(fresh)
    assert (found.resumed, found.means.processes) == (2, 2)
    close(fresh, undisturbed)
    no_remains(fresh)
