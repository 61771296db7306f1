"""Shifts without a cluster: several processes on one folder share its tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import anneal
from anneal.launch.board import Board
from anneal.launch.follow import Follower
from anneal.launch.leases import Leases
from anneal.launch.orders import Desk, Note, Orders, Stumble, Work, hopeless
from anneal.launch.shift import shift, shift_name
from anneal.launch.slurm import element
from anneal.launch.values import Advanced, Began, LaunchError, Stumbled
from anneal.plan.interrupts import PREEMPTED
from anneal.plan.values import Failure
from anneal.store import Store

from .contract import WORKER, attempts, make_task, shown

ROOT = str(Path(anneal.__file__).parents[1])
WORK = Work(slots=1, linger_seconds=1, heartbeat_seconds=0.5, lease_seconds=4)


def order(folder: Path, tasks, **work) -> tuple[Desk, Orders]:
    desk = Desk(folder / "desk")
    orders = Orders(
        launch="one",
        tasks=tuple(tasks),
        work=WORK.model_copy(update=work),
        store=str(folder / "store"),
        logs=str(folder / "logs"),
        command=WORKER,
    )
    desk.write(orders)
    return desk, orders


def start(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "anneal", "shift", str(folder / "desk")],
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        stderr=subprocess.DEVNULL,
    )


def wait(until, seconds=60):
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def step(task) -> int:
    path = Path(task.done).with_suffix(".checkpoint")
    return int(path.read_text()) if path.exists() else 0


def leases(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "store" / "leases").iterdir() if p.name != ".beats")


@pytest.mark.integration
class TestShifts:
    def test_three_share_the_tasks(self, tmp_path):
        tasks = [make_task(tmp_path, f"t{n}", "steps", steps=10, sleep=0.03) for n in range(9)]
        tasks.append(make_task(tmp_path, "last", needs=[t.id for t in tasks], size=99))
        order(tmp_path, tasks)
        shifts = [start(tmp_path) for _ in range(3)]
        assert [s.wait(60) for s in shifts] == [0, 0, 0]
        assert [len(attempts(t)) for t in tasks] == [1] * 10
        assert len({pid for t in tasks for pid, _ in attempts(t)}) > 1
        assert leases(tmp_path) == []

    def test_one_that_is_told_to_stop_gives_back(self, tmp_path):
        task = make_task(tmp_path, "t", "steps", steps=100, sleep=0.05)
        desk, _ = order(tmp_path, [task])
        for number in (signal.SIGTERM, signal.SIGUSR1):
            before = step(task)
            first = start(tmp_path)
            wait(lambda before=before: step(task) > before + 3)
            first.send_signal(number)
            assert first.wait(30) == PREEMPTED
            assert [note.kind for _, note in desk.news()][-1] == "back"
        assert start(tmp_path).wait(60) == 0
        assert shown(task)["resumed"] > 3
        assert not desk.stumbles("one")

    def test_one_that_vanished_loses_its_task_to_another(self, tmp_path):
        """No cluster says that it is gone: its silence does."""
        task = make_task(tmp_path, "t", "steps", steps=60, sleep=0.05)
        desk, orders = order(tmp_path, [task], linger_seconds=15)
        first = start(tmp_path)
        wait(lambda: step(task) > 3)
        first.kill()
        first.wait()
        second = start(tmp_path)
        wait(lambda: Path(task.done).exists())
        desk.write(orders.model_copy(update={"state": "closed"}))
        assert second.wait(60) == 0
        assert shown(task)["resumed"] >= 3
        ((_, stumble),) = desk.stumbles("one")["t"]
        assert "gave no sign of life" in stumble.failure.message

    def test_the_next_life_of_a_job_takes_over_at_once(self, tmp_path):
        task = make_task(tmp_path, "t", "steps", steps=60, sleep=0.05)
        order(tmp_path, [task], lease_seconds=1000)
        job = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
        first = start(tmp_path, **job)
        wait(lambda: step(task) > 3)
        first.kill()
        first.wait()
        assert start(tmp_path, **job, SLURM_RESTART_COUNT="1").wait(60) == 0
        assert shown(task)["resumed"] >= 3

    def test_orders_to_stop(self, tmp_path):
        task = make_task(tmp_path, "t", "steps", steps=1000, sleep=0.05)
        desk, orders = order(tmp_path, [task])
        first = start(tmp_path)
        wait(lambda: step(task) > 3)
        desk.write(orders.model_copy(update={"state": "stop"}))
        assert first.wait(30) == PREEMPTED
        assert Path(task.done).with_suffix(".stopped").exists()

    def test_a_task_that_kills_its_workers_is_given_up(self, tmp_path):
        bad = make_task(tmp_path, "bad", "exit_now", code=9, size=9)
        good = make_task(tmp_path, "good")
        desk, _ = order(tmp_path, [bad, good], retries=1)
        assert start(tmp_path).wait(60) == 0
        assert len(attempts(bad)) == 2
        assert hopeless(desk.stumbles("one")["bad"], 1)
        assert Path(good.done).exists()

    def test_without_orders(self, tmp_path):
        with pytest.raises(LaunchError, match=r"no tasks\.json there"):
            shift(tmp_path)


def follow(folder: Path, tasks, **settings):
    desk, orders = order(folder, tasks)
    board, events = Board(tasks, **settings), []
    return desk, board, Follower(desk, orders, tasks, board, events.append), events


def failed(task: str, kind="killed", attempts=1) -> Stumble:
    failure = Failure(run=task, kind=kind, message="as told", log="log", attempts=attempts)
    return Stumble(failure=failure, seconds=2.0)


def test_notes_become_events_and_outcomes(tmp_path):
    task = make_task(tmp_path, "t")
    desk, board, follower, events = follow(tmp_path, [task])
    desk.note("a-1_0.0", Note(kind="began", task="t", slot=0, warm=False))
    desk.note("a-1_0.0", Note(kind="advanced", task="t", done=3, total=9, loss=1.5))
    desk.note("a-1_0.0", Note(kind="ended", task="t", seconds=2.5))
    follower.read(set())
    assert [type(event) for event in events] == [Began, Advanced]
    (outcome,) = board.outcomes()
    assert (outcome.ok, outcome.attempts, outcome.seconds) == (True, 1, 2.5)


def test_what_was_saved_and_given_back_is_no_attempt(tmp_path):
    task = make_task(tmp_path, "t")
    desk, board, follower, events = follow(tmp_path, [task], retries=0)
    for life in range(3):
        desk.note(f"a-1_0.{life}", Note(kind="began", task="t"))
        if life < 2:
            desk.note(f"a-1_0.{life}", Note(kind="back", task="t", seconds=1.0))
    desk.note("a-1_0.2", Note(kind="ended", task="t", seconds=1.0))
    follower.read(set())
    (outcome,) = board.outcomes()
    assert (outcome.ok, outcome.attempts, outcome.seconds) == (True, 1, 3.0)
    assert [event.attempt for event in events if isinstance(event, Began)] == [1, 1, 1]


def test_a_failure_without_a_note_counts(tmp_path):
    task = make_task(tmp_path, "t")
    desk, board, follower, events = follow(tmp_path, [task], retries=1)
    desk.stumble("one", failed("t"))
    follower.read(set())
    assert not board.finished
    desk.note("b", Note(kind="advanced", task="t", done=1, total=2))
    desk.stumble("one", failed("t", attempts=2))
    desk.stumble("another", failed("t", kind="bug"))
    follower.read(set())
    (outcome,) = board.outcomes()
    assert outcome.failure.kind == "killed"
    assert outcome.attempts == 2
    assert [event.retry for event in events if isinstance(event, Stumbled)] == [True, False]


def test_the_failure_that_stopped_others_is_heard_first(tmp_path):
    tasks = [make_task(tmp_path, name) for name in ("bad", "slow", "rest")]
    desk, board, follower, _ = follow(tmp_path, tasks, max_failures=1)
    for name in ("bad", "slow"):
        desk.note("a", Note(kind="began", task=name))
    desk.note("a", Note(kind="back", task="slow"))
    desk.stumble("one", failed("bad", kind="bug"))
    follower.read(set())
    _, slow, rest = board.outcomes()
    assert slow.missing == "stopped while under way"
    assert rest.missing == "not begun: gave up after 1 failed"


def test_a_need_is_settled_by_what_began_after_it(tmp_path):
    tasks = [make_task(tmp_path, "a"), make_task(tmp_path, "b", needs=["a"])]
    desk, board, follower, _ = follow(tmp_path, tasks)
    desk.note("one", Note(kind="ended", task="b"))
    follower.read(set())
    assert [outcome.ok for outcome in board.outcomes()] == [True, True]


def test_results_decide_without_notes(tmp_path):
    task = make_task(tmp_path, "t")
    _, board, follower, _ = follow(tmp_path, [task])
    Path(task.done).write_text("made elsewhere")
    follower.settle_done()
    assert not board.finished  # its note may be on its way
    follower.settle_done()
    assert board.outcomes()[0].ok


def test_what_nobody_holds_is_free_again(tmp_path):
    task = make_task(tmp_path, "t")
    desk, board, follower, _ = follow(tmp_path, [task])
    desk.note("a", Note(kind="began", task="t"))
    follower.read(set())
    follower.close_unheld({"t"})
    follower.close_unheld(set())
    assert not board.ready
    follower.close_unheld(set())
    assert board.ready == [task]


def test_shifts_of_living_jobs_have_rows_of_their_own(tmp_path):
    tasks = [make_task(tmp_path, f"t{n}") for n in range(4)]
    desk, _, follower, events = follow(tmp_path, tasks)
    for n, (name, alive) in enumerate(
        [
            ("j-1_0.0", {"1_0"}),
            ("j-1_1.0", {"1_0", "1_1"}),
            ("j-1_0.1", {"1_0", "1_1"}),
            ("j-2_0.0", {"2_0", "1_1"}),
        ]
    ):
        desk.note(name, Note(kind="began", task=f"t{n}"))
        follower.read(alive)
    assert [event.slot for event in events] == [0, 1, 0, 0]


def test_a_line_cut_by_a_kill_is_passed_over(tmp_path):
    desk = Desk(tmp_path)
    desk.note("a", Note(kind="present"))
    path = tmp_path / "notes" / "a.jsonl"
    with open(path, "ab") as file:
        file.write(b'{"kind": "beg')
    assert [note.kind for _, note in desk.news()] == ["present"]
    with open(path, "ab") as file:
        file.write(b"\n")
    desk.note("a", Note(kind="ended", task="t"))
    assert [note.kind for _, note in desk.news()] == ["ended"]


def test_names_of_shifts(tmp_path):
    desk = Desk(tmp_path)
    (tmp_path / "name").write_text("anneal-ab")
    job = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "4"}
    assert shift_name(desk, job) == "anneal-ab-12_3.4"
    assert element("anneal-ab-12_3.4", "anneal-ab") == ("12_3", True)
    assert element("anneal-other-12_3.4", "anneal-ab") == ("", False)
    assert str(os.getpid()) in shift_name(desk, {})


def test_leases_lie_in_the_store(tmp_path):
    assert Leases(Store(tmp_path).leases, "a").claim("t")
    assert (tmp_path / "leases" / "t").is_dir()
