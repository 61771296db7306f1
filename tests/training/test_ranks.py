"""Starting, hearing, stopping and mourning the processes that share a run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from anneal.plan.means import Means
from anneal.plan.protocol import Done, Failed, Progress, Request, parse
from anneal.plan.values import LlamaShape, Phase, Portion, RunSpec, RunTask
from anneal.store import Store, write_value

pytestmark = pytest.mark.integration
ENTRY = Path(__file__).with_name("ranks_entry.py")
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
"""Seconds after which something that should have come is said never to come."""


class Started:
    """A worker that was handed one run of two ranks."""

    def __init__(self, folder: Path, **task) -> None:
        self.folder = folder
        spec = folder / "task.json"
        spec.write_text(json.dumps(task))
        with open(folder / "errors", "wb") as errors:
            self.worker = subprocess.Popen(
                [sys.executable, str(ENTRY)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        request = Request(task="t", spec=str(spec), log=str(folder / "log"))
        self.worker.stdin.write(request.model_dump_json().encode() + b"\n")
        self.worker.stdin.flush()

    def until(self, kind) -> list:
        """Messages up to the first of a kind, or to the end."""
        heard = []
        for line in self.worker.stdout:
            heard.append(parse(line))
            if isinstance(heard[-1], kind):
                break
        return heard

    def ranks(self) -> list[psutil.Process]:
        pids = [int((self.folder / f"pid-{rank}").read_text()) for rank in (0, 1)]
        return [psutil.Process(pid) for pid in pids]

    def everything(self) -> list[psutil.Process]:
        """torchrun and its ranks."""
        return psutil.Process(self.worker.pid).children(recursive=True)

    def end(self) -> int:
        self.worker.stdin.close()
        code = self.worker.wait(PATIENCE)
        self.worker.stdout.close()
        return code


@pytest.fixture
def start(tmp_path):
    made = []

    def start(**task):
        made.append(Started(tmp_path, **task))
        return made[-1]

    yield start
    for run in made:
        if run.worker.poll() is None:
            os.killpg(run.worker.pid, signal.SIGKILL)
            run.worker.wait()
        run.worker.stdin.close()
        run.worker.stdout.close()


def gone(processes) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_progress_of_the_leading_rank_arrives_and_nothing_is_left(start):
    run = start(steps=20)
    heard = run.until(Progress)
    processes = run.everything()
    assert len(processes) >= 3
    heard += run.until(Done | Failed)
    progress = [m for m in heard if isinstance(m, Progress)]
    assert isinstance(heard[-1], Done)
    assert [m.done for m in progress] == sorted({m.done for m in progress})  # one rank's, in order
    assert progress[-1].done == progress[-1].total == 20
    assert progress[0].loss == 1.0 and progress[0].tokens_per_second == 2.0
    assert gone(processes)
    assert run.end() == 0


def test_told_to_stop_the_ranks_save_and_the_worker_leaves_with_75(start):
    run = start(steps=100_000)
    run.until(Progress)
    processes = run.everything()
    run.worker.send_signal(signal.SIGTERM)
    assert run.worker.wait(PATIENCE) == 75
    assert (run.folder / "checkpoint").exists()
    assert gone(processes)


def test_a_killed_worker_takes_its_ranks_along(start):
    run = start(steps=100_000)
    run.until(Progress)
    processes = run.everything()
    run.worker.kill()  # it alone: no process group, no farewell
    assert gone(processes)
    assert not (run.folder / "checkpoint").exists()  # two must never write


def test_ranks_notice_that_torchrun_is_gone(start):
    run = start(steps=100_000)
    run.until(Progress)
    ranks = run.ranks()
    ranks[0].parent().kill()
    heard = run.until(Failed)
    assert heard[-1].kind == "killed"
    assert gone(ranks)


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_rank_ends_the_others_as_killed(start, number):
    run = start(steps=100_000)
    run.until(Progress)
    processes = run.everything()
    run.ranks()[number].kill()
    heard = run.until(Failed)
    assert heard[-1].kind == "killed"
    assert gone(processes)
    assert run.end() == 0  # the worker itself goes on


@pytest.mark.parametrize("number", [0, 1])
def test_a_failure_comes_out_as_the_rank_that_failed_said_it(start, number):
    heard = start(steps=100_000, fail=number).until(Failed)
    assert (heard[-1].kind, heard[-1].message) == ("non_finite", "loss nan at step 3")


@pytest.mark.parametrize("number", [0, 1])
def test_a_crash_after_the_result_was_written_is_none(start, number):
    assert isinstance(start(steps=5, abort=number).until(Done | Failed)[-1], Done)


def test_started_by_a_person_a_rank_shows_progress_and_saves(tmp_path):
    (tmp_path / "task.json").write_text(json.dumps({"steps": 100_000}))
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
    with open(tmp_path / "said", "wb") as said:
        rank = subprocess.Popen(
            [sys.executable, str(ENTRY), str(tmp_path / "task.json")],
            stderr=said,
            env=os.environ | place | {"PYTHONPATH": str(ROOT)},
        )
    deadline = time.monotonic() + PATIENCE
    while "loss" not in (tmp_path / "said").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    rank.send_signal(signal.SIGTERM)
    assert rank.wait(PATIENCE) == 75
    assert (tmp_path / "checkpoint").exists()


def test_a_run_of_engine_deepspeed_goes_to_ranks_and_what_they_say_comes_back(tmp_path):
    phase = Phase(mixture=(Portion(source="a", content="absent", share=1.0),), tokens=256 * 8)
    spec = RunSpec(start=LlamaShape(), phases=(phase,), tokenizer="t", vocabulary=64)
    means = Means(engine="deepspeed", processes=2, device="cpu")
    path = Store(tmp_path).run(spec.id) / "task.json"
    write_value(path, RunTask(spec=spec, means=means, label="r", code="0"))
    done = subprocess.run(
        [sys.executable, "-m", "anneal", "run", str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert "bad_data" in done.stderr and "absent" in done.stderr  # the tokens are not there
