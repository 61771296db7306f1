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
from anneal.launch.live import Live
from anneal.launch.local import Local, LocalLauncher
from anneal.launch.values import Began, LaunchError, Stumbled
from anneal.store import Store

from .contract import WORKER, LauncherContract, attempts, make_task

pytestmark = pytest.mark.integration
ROOT = str(Path(anneal.__file__).parents[1])
CORES = len(os.sched_getaffinity(0))


def make_launcher(folder: Path, *, environment=None, **settings) -> LocalLauncher:
    settings = {"slots": 2, "pin": False, **settings}
    return LocalLauncher(
        Store(folder / "store"),
        Local(**settings),
        logs=folder / "logs",
        command=WORKER,
        environment={"PYTHONPATH": ROOT, **(environment or {})},
    )


class TestLocalLauncher(LauncherContract):
    def make(self, folder, **settings):
        return make_launcher(folder, **settings)

    def test_a_descendant_that_holds_the_pipe_dies_with_its_worker(self, tmp_path):
        task = make_task(tmp_path, "a", "child")
        began = time.monotonic()
        outcomes, _ = self.launch(tmp_path, [task], retries=0)
        assert outcomes["a"].failure.kind == "killed"
        assert time.monotonic() - began < 20  # the descendant would live 60 s
        wait_until_none_alive(tmp_path, 5)

    def test_an_idle_worker_that_died_is_replaced(self, tmp_path):
        first, second = make_task(tmp_path, "a"), make_task(tmp_path, "b")
        with make_launcher(tmp_path, slots=1) as launcher:
            launcher.run([first])
            worker = attempts(first)[0][0]
            os.kill(worker, signal.SIGKILL)
            os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)  # dead, and left to the launcher
            (outcome,) = launcher.run([second])
        assert outcome.ok
        assert outcome.attempts == 1

    def test_a_worker_is_replaced_after_a_bug_and_kept_after_bad_data(self, tmp_path):
        for do, same in (
            ("crash", False),
            ("unreadable", True),
            ("overflow", True),
            ("fail", True),
        ):
            bad = make_task(tmp_path, f"bad-{do}", do, size=2, kind="aborted")
            good = make_task(tmp_path, f"good-{do}")
            self.launch(tmp_path, [bad, good], slots=1)
            assert (attempts(bad)[0][0] == attempts(good)[0][0]) is same

    def test_idle_slots_get_ready_for_what_waits(self, tmp_path):
        """Three seconds of loading go by while the first task runs, not after it."""
        first = make_task(tmp_path, "first", "sleep", seconds=6)
        later = [make_task(tmp_path, f"t{n}", needs=("first",)) for n in range(2)]
        _, events = self.launch(tmp_path, [first, *later], environment={"TEST_WORKER_WARM": "3"})
        begun = {e.task: e for e in events if isinstance(e, Began)}
        assert not begun["first"].warm
        assert begun["t0"].warm and begun["t1"].warm
        assert {begun["t0"].slot, begun["t1"].slot} == {0, 1}

    def test_a_worker_that_dies_getting_ready_is_not_started_over_and_over(self, tmp_path):
        first = make_task(tmp_path, "first", "sleep", seconds=3, verb="prepare")
        later = make_task(tmp_path, "later", needs=("first",))
        with pytest.raises(LaunchError, match="does not start"):
            self.launch(tmp_path, [first, later], environment={"TEST_WORKER_BROKEN": "run"})
        logs = (tmp_path / "logs").glob("slot-*-run.log")
        assert sum(log.read_text().count("Traceback") for log in logs) == 2  # ahead, in earnest

    def test_longest_first(self, tmp_path):
        tasks = [make_task(tmp_path, f"t{size}", size=size) for size in (1, 4, 2, 3)]
        self.launch(tmp_path, tasks, slots=1)
        moments = {t.size: attempts(t)[0][1] for t in tasks}
        assert sorted(moments, key=moments.get) == [4, 3, 2, 1]

    def test_slots_work_side_by_side_on_their_own_verb_workers(self, tmp_path):
        tasks = [
            make_task(tmp_path, f"{verb}{n}", "show", names=[], verb=verb)
            for verb in ("prepare", "run")
            for n in range(2)
        ]
        self.launch(tmp_path, tasks)
        shown = [json.loads(Path(t.done).read_text()) for t in tasks]
        assert [s["verb"] for s in shown] == [t.verb for t in tasks]
        assert all(s["session"] for s in shown)

    def test_environment_of_a_worker(self, tmp_path, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "64")
        monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        names = ["OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"]
        names += ["MALLOC_TOP_PAD_", "TORCHINDUCTOR_CACHE_DIR", "CUDA_VISIBLE_DEVICES", "EXTRA"]
        names += ["PATH"]
        tasks = [
            make_task(tmp_path, f"t{n}", "show", names=names, size=1 + n / 10) for n in range(2)
        ]
        self.launch(
            tmp_path,
            tasks,
            slots=1,
            threads=3,
            devices=("0,1", "2,3"),
            environment={"EXTRA": "yes"},
        )
        shown = json.loads(Path(tasks[0].done).read_text())["environment"]
        assert shown.pop("PATH").split(":")[0] == str(Path(sys.executable).parent)
        assert shown == {
            "OMP_NUM_THREADS": "3",
            "RAYON_NUM_THREADS": "3",
            "MALLOC_TRIM_THRESHOLD_": "8589934592",
            "MALLOC_TOP_PAD_": "1",  # a person's own setting stays
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "store/cache/inductor"),
            "CUDA_VISIBLE_DEVICES": "0,1",
            "EXTRA": "yes",
        }

    def test_secrets_are_not_written_down(self, tmp_path):
        secret = "hunter2-a-token"
        tasks = [make_task(tmp_path, "a", "crash"), make_task(tmp_path, "b", "exit_now", code=4)]
        _, events = self.launch(
            tmp_path, tasks, retries=0, environment={"WANDB_API_KEY": secret, "TEST": "x"}
        )
        assert len([e for e in events if isinstance(e, Stumbled)]) == 2
        assert secret not in repr(events)
        for path in tmp_path.glob("**/*"):
            assert path.is_dir() or secret not in path.read_text()

    @pytest.mark.skipif(CORES < 2, reason="one core cannot be divided")
    def test_slots_have_cores_of_their_own(self, tmp_path):
        tasks = [make_task(tmp_path, f"t{n}", "show", names=[]) for n in range(2)]
        before = os.sched_getaffinity(0)
        with make_launcher(tmp_path, pin=True) as launcher:
            assert launcher.slots[0].cores.isdisjoint(launcher.slots[1].cores)
            launcher.run(tasks)
        assert os.sched_getaffinity(0) == before
        cores = {tuple(json.loads(Path(t.done).read_text())["cores"]) for t in tasks}
        assert all(len(own) == 1 for own in cores)

    def test_more_cores_than_there_are(self, tmp_path):
        with pytest.raises(LaunchError, match=f"3 threads asked, {CORES} cores") as raised:
            make_launcher(tmp_path, slots=CORES, threads=3, pin=True)
        assert "pin=false" in raised.value.hint

    def test_devices_are_dealt_in_turn(self, tmp_path):
        launcher = make_launcher(tmp_path, slots=3, devices=("0", "1"))
        seen = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in launcher.slots]
        assert seen == ["0", "1", "0"]
        assert len(make_launcher(tmp_path, slots=None, devices=("0", "1", "2")).slots) == 3

    def test_a_command_that_does_not_exist(self, tmp_path):
        launcher = LocalLauncher(
            Store(tmp_path), Local(slots=1, pin=False), logs=tmp_path, command=["/no/such/python"]
        )
        with pytest.raises(LaunchError, match="No such file"):
            launcher.run([make_task(tmp_path, "a")])

    def test_a_command_that_does_not_speak_the_protocol(self, tmp_path):
        launcher = LocalLauncher(
            Store(tmp_path), Local(slots=1, pin=False), logs=tmp_path, command=["echo", "junk"]
        )
        with pytest.raises(LaunchError, match="exited with 0 without an answer"):
            launcher.run([make_task(tmp_path, "a")])
        assert (tmp_path / "a.log").read_text() == "junk run --serve\n"

    def test_a_listener_that_raises_leaves_no_worker(self, tmp_path):
        def listen(event):
            if event.__class__.__name__ == "Advanced" and event.done:
                raise RuntimeError("listener")

        with make_launcher(tmp_path) as launcher, pytest.raises(RuntimeError, match="listener"):
            launcher.run([make_task(tmp_path, "a", "steps", steps=1000)], on_event=listen)
        assert not alive(tmp_path)
        assert int((tmp_path / "a.stopped").read_text()) >= 1


PARENT = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup inherit that it is ignored
from anneal.launch.live import Live
from anneal.store import Store
sys.path.insert(0, {tests!r})
from launch.contract import make_task
from launch.test_local import make_launcher
folder = Path({folder!r})
tasks = [make_task(folder, f"t{{n}}", {do!r}, slots={width}, **{spec!r}) for n in range(3)]
with Live() as live, make_launcher(folder, **{settings!r}) as launcher:
    try:
        launcher.run(tasks, on_event=live)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start_parent(folder: Path, do: str, spec: dict, *, width=1, **settings) -> subprocess.Popen:
    """A process that launches tasks of `width` slots, once all its slots are at work."""
    tests = str(Path(__file__).parents[1])
    program = PARENT.format(
        tests=tests, folder=str(folder), do=do, spec=spec, width=width, settings=settings
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while len(list(folder.glob("*.trace" if width == 1 else "*.ranks"))) < 2 // width:
        assert time.monotonic() < deadline
        assert parent.poll() is None, parent.stderr.read()
        time.sleep(0.02)
    time.sleep(0.3)
    return parent


def alive(folder: Path) -> list[int]:
    """Processes that run in the session of a worker which carried out a task of `folder`."""
    sessions = {pid for task in folder.glob("*.trace") for pid in traced(task)}
    running = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                running.append(process.pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return running


def traced(path: Path) -> list[int]:
    return [int(line.split()[0]) for line in path.read_text().splitlines()]


def wait_until_none_alive(folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while alive(folder):
        assert time.monotonic() < deadline, f"still running: {alive(folder)}"
        time.sleep(0.05)


class TestInterrupts:
    def test_ctrl_c_lets_workers_save_and_leaves_nothing_running(self, tmp_path):
        parent = start_parent(tmp_path, "steps", {"steps": 10_000})
        parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate(timeout=20)
        assert parent.returncode == 130
        assert "Traceback" not in errors
        assert "stopping: 2 workers save their work" in errors
        assert not alive(tmp_path)
        stopped = list(tmp_path.glob("*.stopped"))
        assert len(stopped) == 2
        for path in stopped:  # resumable: the checkpoint is where it stopped
            assert path.with_suffix(".checkpoint").read_text() == path.read_text()
            path.with_suffix(".checkpoint").write_text("9999")
        assert not list(tmp_path.glob("*.done"))
        tasks = [make_task(tmp_path, path.stem, "steps", steps=10_000) for path in stopped]
        with make_launcher(tmp_path) as launcher:
            assert all(outcome.ok for outcome in launcher.run(tasks))
        assert all(json.loads(Path(t.done).read_text()) == {"resumed": 9999} for t in tasks)

    def test_workers_that_do_not_listen_are_killed_after_the_grace(self, tmp_path):
        parent = start_parent(tmp_path, "sleep", {"seconds": 60}, grace_seconds=0.5)
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=20)
        assert parent.returncode == 130
        assert not alive(tmp_path)

    def test_a_second_ctrl_c_does_not_wait(self, tmp_path):
        parent = start_parent(tmp_path, "sleep", {"seconds": 60}, grace_seconds=60)
        parent.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert parent.poll() is None
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=20)
        assert parent.returncode == 130
        assert not alive(tmp_path)

    def test_a_handle_that_cannot_save_leaves_at_once(self, tmp_path):
        parent = start_parent(
            tmp_path, "sleep", {"seconds": 60}, environment={"TEST_WORKER_SAVES": "0"}
        )
        began = time.monotonic()
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=20)
        assert time.monotonic() - began < 10  # the grace is 30 s
        assert not alive(tmp_path)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
    def test_workers_save_and_end_when_the_launcher_dies(self, tmp_path, number):
        parent = start_parent(tmp_path, "steps", {"steps": 10_000})
        os.kill(parent.pid, number)
        parent.communicate(timeout=20)
        assert parent.returncode == -number
        wait_until_none_alive(tmp_path, 10)
        assert len(list(tmp_path.glob("*.stopped"))) == 2

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_a_group_saves_and_ends_with_all_its_processes(self, tmp_path, number):
        spec = {"steps": 10_000, "processes": 3}
        parent = start_parent(tmp_path, "ranks", spec, width=2)
        (ranks,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.ranks"))
        assert set(ranks) <= set(alive(tmp_path))
        os.kill(parent.pid, number)
        parent.communicate(timeout=20)
        assert parent.returncode == (130 if number == signal.SIGINT else -number)
        wait_until_none_alive(tmp_path, 10)
        assert len(list(tmp_path.glob("*.stopped"))) == 1

    def test_workers_that_load_end_when_the_launcher_dies(self, tmp_path):
        program = PARENT.format(
            tests=str(Path(__file__).parents[1]),
            folder=str(tmp_path),
            do="nothing",
            spec={},
            width=1,
            settings={"environment": {"TEST_WORKER_WARM": "60"}},
        )
        parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        workers: list[psutil.Process] = []
        deadline = time.monotonic() + 30
        while len(workers) < 2 and time.monotonic() < deadline:
            workers = psutil.Process(parent.pid).children()
            time.sleep(0.02)
        assert len(workers) == 2
        time.sleep(1.5)
        parent.kill()
        parent.wait()
        _, left = psutil.wait_procs(workers, timeout=10)
        assert not left


def test_live_follows_a_real_launch(tmp_path, capsys):
    tasks = [
        make_task(tmp_path, "good", "steps", steps=20, size=20),
        make_task(tmp_path, "bad", "fail", kind="non_finite", message="loss [nan] at step 3"),
        make_task(tmp_path, "orphan", needs=["bad"]),
    ]
    with Live() as live, make_launcher(tmp_path) as launcher:
        launcher.run(tasks, on_event=live)
    out, err = capsys.readouterr()
    assert out == ""
    assert "failed: task bad (non_finite): loss [nan] at step 3\n" in err
    assert f"  log: {tmp_path}/logs/bad.log\n" in err
    assert f"  again: python -m anneal run {tmp_path}/bad.spec\n" in err
    assert "1/3 finished, 1 failed, 1 missing" in err
    assert "1 missing: needs `task bad`, which failed (non_finite)" in err
    end = err[err.index("\n1 failed\n") :]
    assert end.split()[:5] == ["1", "failed", "task", "bad", "non_finite"]
    assert (
        "anneal.plan.protocol.TaskFailed: loss [nan] at step 3"
        in Path(tmp_path / "logs" / "bad.log").read_text()
    )
    assert end.endswith(f"python -m anneal run {tmp_path}/bad.spec\n")
