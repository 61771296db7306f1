"""The Slurm launcher on a real cluster of one node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import anneal
from anneal.launch.jobs import jobs
from anneal.launch.slurm import Slurm, SlurmLauncher
from anneal.launch.values import LaunchError
from anneal.store import Store
from tests.integration import corpus

from .cluster import absent, cluster
from .contract import WORKER, LauncherContract, attempts, make_task, shown

ROOT = str(Path(anneal.__file__).parents[1])
WHY_NOT = absent()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no Slurm: {WHY_NOT}"),
]


@pytest.fixture(scope="module", autouse=True)
def slurm():
    with pytest.MonkeyPatch.context() as patch, cluster() as conf:
        patch.setenv("SLURM_CONF", conf)
        # What a job inherits from a developer's shell must not be what makes it work.
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(autouse=True)
def nothing_left():
    """Jobs of the former test have ended: the node has two cores."""
    wait(lambda: not queue())
    yield
    subprocess.run(["scancel", "--quiet", "--me"], check=False)


def queue() -> list[str]:
    words = ["squeue", "--noheader", "--me", "--format=%i %T"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


def wait(until, seconds=60):
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, queue()
        time.sleep(0.1)


def make_launcher(folder: Path, *, environment=None, **settings) -> SlurmLauncher:
    quick = {"poll_seconds": 0.5, "heartbeat_seconds": 1, "lease_seconds": 30, "memory": "1G"}
    settings = {"jobs": 1, "slots": 2, "linger_seconds": 20, **quick, **settings}
    return SlurmLauncher(
        Store(folder / "store"),
        Slurm(**settings),
        logs=folder / "sweep" / "logs",
        command=WORKER,
        environment={"PYTHONPATH": ROOT, **(environment or {})},
    )


def leftovers(folder: Path) -> list[str]:
    leases = folder / "store" / "leases"
    return [p.name for p in leases.iterdir() if p.name != ".beats"]


class TestSlurmLauncher(LauncherContract):
    def make(self, folder, **settings):
        return make_launcher(folder, **settings)

    @pytest.mark.parametrize("warned", [True, False])
    def test_a_shift_that_ends_in_mid_run_is_made_up_for_by_another(self, tmp_path, warned):
        """By scancel, and by SIGKILL without a word: what it had saved is gone on with."""
        tasks = [
            make_task(tmp_path, f"t{n}", "steps", steps=80, sleep=0.05, size=9 - n)
            for n in range(3)
        ]
        ended: list[str] = []

        def listen(event):
            if getattr(event, "done", 0) >= 10 and not ended:
                ended.extend(line.split()[0] for line in queue())
                if warned:
                    subprocess.run(["scancel", ended[0]], check=True)
                else:
                    shift_process(tmp_path).kill()

        with make_launcher(tmp_path) as launcher:
            outcomes = launcher.run(tasks, on_event=listen)
        assert ended
        assert all(o.ok and not o.skipped for o in outcomes)
        assert [len(attempts(t)) for t in tasks] == [2, 2, 1]
        assert all(shown(t)["resumed"] for t in tasks[:2])
        assert [o.attempts for o in outcomes] == ([1, 1, 1] if warned else [2, 2, 1])
        assert len(notes(tmp_path)) == 2
        assert not leftovers(tmp_path)

    def test_a_job_whose_time_is_over_goes_on_in_its_next_life(self, tmp_path):
        task = make_task(tmp_path, "t", "steps", steps=100, sleep=0.05)

        def listen(event):
            if getattr(event, "done", 0) >= 10 and not told:
                told.append(queue()[0].split()[0])
                subprocess.run(["scancel", "--signal=USR1", "--batch", told[0]], check=True)

        told: list[str] = []
        with make_launcher(tmp_path, slots=1) as launcher:
            (outcome,) = launcher.run([task], on_event=listen)
        assert outcome.ok
        assert outcome.attempts == 1
        assert len(attempts(task)) == 2
        assert shown(task)["resumed"] >= 10
        lives = [p.stem.rpartition("-")[2] for p in notes(tmp_path)]
        assert lives == [f"{told[0]}.0", f"{told[0]}.1"]

    def test_a_coordinator_that_was_killed_finds_its_jobs_again(self, tmp_path):
        tasks = [make_task(tmp_path, f"t{n}", "steps", steps=60, sleep=0.1) for n in range(2)]
        (tmp_path / "tasks").write_text(json.dumps([t.model_dump() for t in tasks]))
        first = subprocess.Popen(
            [sys.executable, "-c", COORDINATOR, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        wait(lambda: all(attempts(t) for t in tasks))
        before = queue()
        first.send_signal(signal.SIGKILL)
        first.wait()
        with make_launcher(tmp_path) as launcher:
            outcomes = launcher.run(tasks)
            assert queue() == before
        assert all(o.ok and o.attempts == 1 for o in outcomes)
        assert [len(attempts(t)) for t in tasks] == [1, 1]
        assert len(notes(tmp_path)) == 1

    def test_sigterm_leaves_the_jobs_alone_and_ctrl_c_stops_them(self, tmp_path):
        tasks = [make_task(tmp_path, f"t{n}", "steps", steps=100, sleep=0.1) for n in range(2)]
        (tmp_path / "tasks").write_text(json.dumps([t.model_dump() for t in tasks]))
        for number, left in ((signal.SIGTERM, True), (signal.SIGINT, False)):
            coordinator = subprocess.Popen(
                [sys.executable, "-c", COORDINATOR, str(tmp_path)],
                env={**os.environ, "PYTHONPATH": ROOT},
                stderr=subprocess.DEVNULL,
            )
            wait(lambda: all(attempts(t) for t in tasks))
            time.sleep(1)
            coordinator.send_signal(number)
            assert coordinator.wait(60) == 7
            if left:
                assert queue()
        wait(lambda: not queue())
        assert [len(attempts(t)) for t in tasks] == [1, 1]
        assert all(Path(t.done).with_suffix(".stopped").exists() for t in tasks)
        assert not any(Path(t.done).exists() for t in tasks)

    def test_several_shifts_share_the_work(self, tmp_path):
        tasks = [make_task(tmp_path, f"t{n}", "steps", steps=20, sleep=0.05) for n in range(8)]
        outcomes, _ = self.launch(tmp_path, tasks, jobs=2, slots=1)
        assert all(o.ok and o.attempts == 1 for o in outcomes.values())
        assert [len(attempts(t)) for t in tasks] == [1] * 8
        assert len(notes(tmp_path)) == 2
        assert len({pid for t in tasks for pid, _ in attempts(t)}) == 2
        assert not leftovers(tmp_path)

    @pytest.mark.parametrize(
        ("settings", "said", "hint"),
        [
            ({"partition": "nowhere"}, "invalid partition specified: nowhere", "partition"),
            ({"gpus": 64}, "generic resource", "launcher.gpus"),
            ({"memory": "9000G"}, "Memory specification can not be satisfied", "launcher.memory"),
            ({"threads": 400}, "PartitionConfig", "sinfo"),
        ],
    )
    def test_what_the_cluster_refuses(self, tmp_path, settings, said, hint):
        with (
            make_launcher(tmp_path, **settings) as launcher,
            pytest.raises(LaunchError, match=said) as raised,
        ):
            launcher.run([make_task(tmp_path, "t")])
        assert hint in raised.value.hint
        assert not jobs((tmp_path / "sweep" / "cluster" / "name").read_text().strip())

    def test_a_cluster_that_does_not_answer(self, tmp_path, monkeypatch):
        conf = Path(os.environ["SLURM_CONF"]).read_text()
        (tmp_path / "slurm.conf").write_text(conf.replace("SlurmctldPort=16827", "SlurmctldPort=9"))
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        with (
            make_launcher(tmp_path) as launcher,
            pytest.raises(LaunchError, match="Unable to contact slurm controller") as raised,
        ):
            launcher.run([make_task(tmp_path, "t")])
        assert "sinfo" in raised.value.hint

    def test_jobs_that_end_before_they_begin(self, tmp_path):
        with (
            make_launcher(tmp_path, setup=("echo no such module >&2; exit 1",)) as launcher,
            pytest.raises(LaunchError, match=r"before their shift begins [(]no such module"),
        ):
            launcher.run([make_task(tmp_path, "t")])


def test_a_sweep_on_the_cluster_measures_what_it_does_here(tmp_path):
    """The same file, run by run the same scores to the last bit; nothing of the launch is left."""
    small = ["budget.seeds=2", "launcher.threads=1", "launcher.slots=2"]
    there = ["launcher=slurm", "launcher.gpus=0", "launcher.jobs=1", "launcher.poll_seconds=1"]
    there += ["launcher.memory=6G", "launcher.linger_seconds=20"]
    scores = []
    for place, words in (("there", there), ("here", ["launcher.pin=false"])):
        folder = tmp_path / place
        folder.mkdir()
        corpus.make(folder)
        command = [sys.executable, "-m", "anneal", "sweep", "small.yaml", *words, *small]
        environment = {**os.environ, "PYTHONPATH": ROOT}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        results = sorted((folder / "store" / "runs").glob("*/result.json"))
        scores.append({p.parent.name: json.loads(p.read_text())["scores"] for p in results})
    assert scores[0] == scores[1]
    assert len(scores[0]) > 5
    left = [p.name for p in (tmp_path / "there" / "store" / "leases").iterdir()]
    assert left == [".beats"]


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="`squeue` is not installed here"):
        make_launcher(tmp_path).run([make_task(tmp_path, "t")])


def shift_process(folder: Path) -> psutil.Process:
    desk = str(folder / "sweep" / "cluster")
    (found,) = (
        p
        for p in psutil.process_iter(["cmdline"])
        if (p.info["cmdline"] or [])[-2:] == ["shift", desk]
    )
    return found


def notes(folder: Path) -> list[Path]:
    return sorted((folder / "sweep" / "cluster" / "notes").iterdir())


COORDINATOR = """
import json, sys
from pathlib import Path
from anneal.launch.values import Task
from tests.launch.test_slurm import make_launcher
folder = Path(sys.argv[1])
tasks = [Task.model_validate(t) for t in json.loads((folder / "tasks").read_text())]
try:
    with make_launcher(folder) as launcher:
        launcher.run(tasks)
except KeyboardInterrupt:
    sys.exit(7)
"""
