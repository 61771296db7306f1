"""What every launcher must do, whatever carries its tasks out.

A launcher's tests subclass `LauncherContract` and say how to make one that runs the test worker.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from anneal.launch.values import (
    Advanced,
    Began,
    Event,
    Launcher,
    LaunchError,
    Outcome,
    Planned,
    Settled,
    Stumbled,
    Task,
)
from anneal.plan.means import Means
from anneal.plan.values import LlamaShape, Phase, Portion, RunSpec, RunTask
from anneal.store import read_value, write_value

WORKER = (sys.executable, str(Path(__file__).with_name("worker.py")))


def make_task(
    folder: Path, name: str, do: str = "nothing", *, needs=(), size=1.0, verb="run", slots=1, **spec
) -> Task:
    """A task whose spec tells the test worker what to do."""
    path = folder / f"{name}.spec"
    done = folder / f"{name}.done"
    path.write_text(json.dumps({"do": do, "done": str(done), **spec}))
    return Task(
        id=name,
        label=f"task {name}",
        verb=verb,
        spec=str(path),
        done=str(done),
        needs=tuple(needs),
        size=size,
        total=spec.get("steps", 0),
        slots=slots,
    )


def make_run(folder: Path, name: str, *, most: int, batch: int = 8, micro: int | None = None):
    """A task with a real task file, that runs out of memory above `most` sequences at once."""
    task = make_task(folder, name)
    phase = Phase(
        mixture=(Portion(source="web", content="web", share=1.0),),
        tokens=batch * 16,
        batch=batch,
        sequence=16,
    )
    label = {"do": "fits", "done": task.done, "most": most, "batch": batch}
    run = RunTask(
        spec=RunSpec(start=LlamaShape(), phases=(phase,), tokenizer="t", vocabulary=99),
        means=Means(micro_batch=micro),
        label=json.dumps(label),
        code="test",
    )
    write_value(Path(task.spec), run)
    return task


def shown(task: Task):
    """What the test worker wrote as the task's result."""
    return json.loads(Path(task.done).read_text())


def most_slots(tasks: list[Task]) -> int:
    """Slots in use at once at the busiest instant of tasks that did `span`."""
    changes = []
    for task in tasks:
        changes += [(shown(task)["began"], task.slots), (shown(task)["ended"], -task.slots)]
    used = most = 0
    for _, change in sorted(changes):
        used += change
        most = max(most, used)
    return most


def attempts(task: Task) -> list[tuple[int, float]]:
    """Process and moment of every attempt that a worker made."""
    trace = Path(task.done).with_suffix(".trace")
    if not trace.exists():
        return []
    lines = [line.split() for line in trace.read_text().splitlines()]
    return [(int(pid), float(moment)) for pid, moment in lines]


class LauncherContract:
    """Subclasses define `make`."""

    def make(self, folder: Path, **settings) -> Launcher:
        """A launcher of 2 slots that runs `WORKER`; settings as of `Local`, and `environment`."""
        raise NotImplementedError

    def launch(self, folder: Path, tasks: list[Task], **settings):
        events: list[Event] = []
        with self.make(folder, **settings) as launcher:
            outcomes = launcher.run(tasks, on_event=events.append)
        assert [o.task for o in outcomes] == [t.id for t in tasks]
        assert sorted(e.outcome.task for e in events if isinstance(e, Settled)) == sorted(
            t.id for t in tasks
        )
        return dict(zip([t.id for t in tasks], outcomes, strict=True)), events

    def fails(self, folder: Path, expected: str, do: str, **spec) -> tuple[Outcome, list[Event]]:
        """Launches one task that fails beside one that does not."""
        tasks = [make_task(folder, "bad", do, **spec), make_task(folder, "good")]
        outcomes, events = self.launch(folder, tasks)
        bad = outcomes["bad"]
        assert outcomes["good"].ok
        assert not bad.ok
        assert bad.failure is not None
        assert bad.failure.kind == expected
        return bad, events

    def test_nothing_to_do(self, tmp_path):
        assert self.launch(tmp_path, [])[0] == {}

    def test_finishes_every_task(self, tmp_path):
        tasks = [make_task(tmp_path, f"t{n}", "steps", steps=3) for n in range(6)]
        outcomes, events = self.launch(tmp_path, tasks)
        assert all(o.ok and o.attempts == 1 and not o.skipped for o in outcomes.values())
        assert all(Path(t.done).exists() for t in tasks)
        assert isinstance(events[0], Planned)
        assert {e.task for e in events if isinstance(e, Began)} == set(outcomes)
        last = {e.task: e for e in events if isinstance(e, Advanced)}
        assert all(e.done == e.total == 3 and e.loss == 1 / 3 for e in last.values())

    def test_needs_come_first(self, tmp_path):
        a = make_task(tmp_path, "a", "steps", steps=5, verb="prepare")
        b = make_task(tmp_path, "b", "steps", steps=5, needs=["a"])
        c = make_task(tmp_path, "c", needs=["a", "b"], size=99)
        self.launch(tmp_path, [c, b, a])
        assert attempts(a)[0][1] < attempts(b)[0][1] < attempts(c)[0][1]

    def test_what_is_done_is_skipped(self, tmp_path):
        tasks = [make_task(tmp_path, "a"), make_task(tmp_path, "b", needs=["a"])]
        self.launch(tmp_path, tasks)
        Path(tasks[1].done).unlink()
        outcomes, _ = self.launch(tmp_path, tasks)
        assert outcomes["a"].skipped
        assert outcomes["a"].ok
        assert outcomes["b"].ok
        assert not outcomes["b"].skipped
        assert len(attempts(tasks[0])) == 1
        assert len(attempts(tasks[1])) == 2

    def test_killed_is_retried_on_a_fresh_worker_and_resumes(self, tmp_path):
        task = make_task(tmp_path, "a", "steps", steps=6, die_at=4)
        outcomes, events = self.launch(tmp_path, [task])
        assert outcomes["a"].ok
        assert outcomes["a"].attempts == 2
        assert json.loads(Path(task.done).read_text()) == {"resumed": 4}
        (first, _), (second, _) = attempts(task)
        assert first != second
        (stumble,) = [e for e in events if isinstance(e, Stumbled)]
        assert stumble.retry
        assert stumble.failure.kind == "killed"
        assert "SIGKILL" in stumble.failure.message

    def test_retries_are_bounded(self, tmp_path):
        task = make_task(tmp_path, "a", "exit_now", code=9)
        other = make_task(tmp_path, "b", "exit_now", code=9)
        outcomes, _ = self.launch(tmp_path, [task], retries=1)
        assert outcomes["a"].failure.kind == "killed"
        assert outcomes["a"].failure.attempts == outcomes["a"].attempts == 2
        assert len(attempts(task)) == 2
        self.launch(tmp_path, [other], retries=0)
        assert len(attempts(other)) == 1

    def test_what_the_infrastructure_failed_is_retried(self, tmp_path):
        full = make_task(tmp_path, "full", "full_disk")
        far = make_task(tmp_path, "far", "unreachable")
        outcomes, events = self.launch(tmp_path, [full, far], retries=1)
        assert outcomes["full"].ok
        assert outcomes["far"].failure.kind == "network"
        assert [outcomes[name].attempts for name in ("full", "far")] == [2, 2]
        stumbles = [e for e in events if isinstance(e, Stumbled) and e.task == "full"]
        assert [(e.failure.kind, e.retry) for e in stumbles] == [("disk_full", True)]

    def test_out_of_memory_is_retried_once_with_half_the_micro_batch(self, tmp_path):
        fits, never = make_run(tmp_path, "a", most=4), make_run(tmp_path, "b", most=1)
        given, single = make_run(tmp_path, "c", most=1, micro=2), make_run(tmp_path, "d", most=0)
        outcomes, events = self.launch(tmp_path, [fits, never, given, single], retries=0)
        assert shown(fits) == {"micro_batch": 4}
        assert shown(given) == {"micro_batch": 1}
        assert [(o.ok, o.attempts, o.micro_batch) for o in outcomes.values()] == [
            (True, 2, 4),
            (False, 2, 4),
            (True, 2, 1),
            (False, 2, 4),
        ]
        assert outcomes["b"].failure.kind == "out_of_memory"
        told = [e.micro_batch for e in events if isinstance(e, Stumbled) and e.task == "b"]
        assert told == [4, None]
        assert read_value(Path(never.spec), RunTask).means.micro_batch == 4

    @pytest.mark.parametrize(
        ("kind", "do", "spec", "message"),
        [
            ("non_finite", "overflow", {}, "loss nan at step 3"),
            ("non_finite", "fail", {"kind": "non_finite"}, "as told"),
            ("out_of_memory", "allocate", {}, "MemoryError"),
            ("bad_data", "unreadable", {}, "source `math`: empty hint: give it documents"),
            ("aborted", "fail", {"kind": "aborted"}, "as told"),
            ("bug", "crash", {}, "KeyError: 'no such key\\nsecond line'"),
            ("bug", "system_exit", {}, "called sys.exit(3)"),
            ("bug", "forget", {}, "wrote no"),
        ],
    )
    def test_other_classes_are_never_retried(self, tmp_path, kind, do, spec, message):
        bad, events = self.fails(tmp_path, kind, do, **spec)
        assert bad.attempts == 1
        assert message in bad.failure.message
        assert "\n" not in bad.failure.message
        (stumble,) = [e for e in events if isinstance(e, Stumbled)]
        assert not stumble.retry
        assert stumble.again == f"python -m anneal run {tmp_path}/bad.spec"

    def test_the_log_holds_what_the_task_said(self, tmp_path):
        bad, _ = self.fails(tmp_path, "bug", "crash")
        log = Path(bad.failure.log).read_text()
        assert "Traceback" in log
        assert "no such key" in log

    def test_a_failed_task_takes_those_that_need_it_along(self, tmp_path):
        tasks = [
            make_task(tmp_path, "a", "crash"),
            make_task(tmp_path, "b", needs=["a"]),
            make_task(tmp_path, "c", needs=["b"]),
            make_task(tmp_path, "d"),
        ]
        outcomes, _ = self.launch(tmp_path, tasks)
        for name in "bc":
            assert not outcomes[name].ok
            assert outcomes[name].failure is None
            assert outcomes[name].missing == "needs `task a`, which failed (bug)"
        assert outcomes["d"].ok
        assert not attempts(tasks[1])

    def test_junk_on_standard_output_is_harmless(self, tmp_path):
        tasks = [make_task(tmp_path, "a", "junk"), make_task(tmp_path, "b", needs=["a"])]
        outcomes, _ = self.launch(tmp_path, tasks)
        assert all(o.ok for o in outcomes.values())
        log = "".join(p.read_text() for p in tmp_path.glob("**/*.log"))
        for junk in ("print", "os.write", "C", "a child"):
            assert f"junk from {junk}\n" in log

    def test_a_result_counts_whatever_happens_after_it(self, tmp_path):
        outcomes, _ = self.launch(tmp_path, [make_task(tmp_path, "a", "abort_after")])
        assert outcomes["a"].ok
        assert outcomes["a"].attempts == 1

    def test_max_failures_begins_nothing_more(self, tmp_path):
        tasks = [make_task(tmp_path, f"t{n}", "crash", size=9 - n) for n in range(8)]
        outcomes, _ = self.launch(tmp_path, tasks, max_failures=2)
        failed = [o for o in outcomes.values() if o.failure]
        assert len(failed) in (2, 3)  # another may have been under way
        assert {o.missing for o in outcomes.values()} >= {"not begun: gave up after 2 failed"}
        assert len([t for t in tasks if attempts(t)]) == len(failed)

    def test_fail_fast_stops_what_is_under_way(self, tmp_path):
        slow = make_task(tmp_path, "slow", "steps", steps=10_000, size=9)
        bad = make_task(tmp_path, "bad", "crash", size=8)
        rest = make_task(tmp_path, "rest")
        outcomes, _ = self.launch(tmp_path, [slow, bad, rest], fail_fast=True)
        assert outcomes["bad"].failure.kind == "bug"
        assert outcomes["slow"].missing == "stopped while under way"
        assert outcomes["slow"].failure is None
        assert not outcomes["rest"].ok
        assert not attempts(rest)

    def test_a_worker_that_cannot_start_ends_the_launch(self, tmp_path):
        tasks = [make_task(tmp_path, "p", verb="prepare"), make_task(tmp_path, "r", needs=["p"])]
        with (
            self.make(tmp_path, environment={"TEST_WORKER_BROKEN": "run"}) as launcher,
            pytest.raises(LaunchError, match="ImportError: no module named broken"),
        ):
            launcher.run(tasks)
        assert Path(tasks[0].done).exists()

    def test_workers_stay_warm(self, tmp_path):
        tasks = [make_task(tmp_path, f"t{n}", "steps", steps=1) for n in range(8)]
        with self.make(tmp_path) as launcher:
            launcher.run(tasks[:4])
            launcher.run(tasks[4:])
        assert len({pid for t in tasks for pid, _ in attempts(t)}) <= 2

    def test_wide_tasks_run_beside_others_as_slots_allow(self, tmp_path):
        widths = [2, 1, 1, 2, 1, 2, 1, 1]
        tasks = [
            make_task(tmp_path, f"t{n}", "span", seconds=0.1, slots=width, size=9 - n)
            for n, width in enumerate(widths)
        ]
        outcomes, events = self.launch(tmp_path, tasks)
        assert all(o.ok and o.attempts == 1 for o in outcomes.values())
        assert most_slots(tasks) == 2
        begun = {e.task: (e.slot, *e.beside) for e in events if isinstance(e, Began)}
        assert all(len(set(begun[t.id])) == t.slots for t in tasks)
        assert {slot for slots in begun.values() for slot in slots} <= {0, 1}

    def test_a_wide_task_does_not_starve_behind_small_ones(self, tmp_path):
        wide = make_task(tmp_path, "wide", "span", seconds=0, slots=2, size=5)
        long = [make_task(tmp_path, f"l{n}", "span", seconds=n, size=9) for n in range(2)]
        small = [make_task(tmp_path, f"s{n}", "span", seconds=0) for n in range(6)]
        self.launch(tmp_path, [*small, wide, *long])
        assert all(shown(task)["ended"] < shown(wide)["began"] for task in long)
        assert all(shown(task)["began"] > shown(wide)["ended"] for task in small)

    def test_a_task_that_needs_a_wide_one_and_the_other_way_round(self, tmp_path):
        a = make_task(tmp_path, "a", verb="prepare")
        b = make_task(tmp_path, "b", slots=2, needs=["a"])
        c = make_task(tmp_path, "c", needs=["b"])
        d = make_task(tmp_path, "d", slots=2, needs=["c"], size=99)
        self.launch(tmp_path, [d, c, b, a])
        moments = [attempts(task)[0][1] for task in (a, b, c, d)]
        assert moments == sorted(moments)

    def test_a_killed_wide_task_is_retried_with_all_its_slots(self, tmp_path):
        task = make_task(tmp_path, "a", "ranks", processes=2, slots=2, steps=6, die_at=4)
        others = [make_task(tmp_path, f"t{n}", "steps", steps=3, size=0.5) for n in range(4)]
        outcomes, events = self.launch(tmp_path, [task, *others])
        assert all(o.ok for o in outcomes.values())
        assert outcomes["a"].attempts == 2
        assert shown(task) == {"resumed": 4}
        begun = [e for e in events if isinstance(e, Began) and e.task == "a"]
        assert [sorted((e.slot, *e.beside)) for e in begun] == [[0, 1], [0, 1]]

    def test_more_slots_than_there_are_is_told_before_anything_starts(self, tmp_path):
        tasks = [make_task(tmp_path, "a"), make_task(tmp_path, "b", slots=3, needs=["a"])]
        events: list[Event] = []
        with (
            self.make(tmp_path) as launcher,
            pytest.raises(LaunchError, match="task `task b` takes 3 slots, 2 exist") as raised,
        ):
            launcher.run(tasks, on_event=events.append)
        assert "launcher.slots" in raised.value.hint
        assert "engine.processes" in raised.value.hint
        assert not events
        assert not attempts(tasks[0])
        Path(tasks[1].done).write_text("done elsewhere")
        outcomes, _ = self.launch(tmp_path, tasks)
        assert outcomes["a"].ok
        assert outcomes["b"].skipped

    def test_admits_what_fits(self, tmp_path):
        with self.make(tmp_path) as launcher:
            launcher.admit(2, what="a run")
            with pytest.raises(LaunchError, match="a run takes 3 slots, 2 exist"):
                launcher.admit(3, what="a run")

    def test_refuses_impossible_needs(self, tmp_path):
        a, b = (
            make_task(tmp_path, "a", needs=["b"]),
            make_task(tmp_path, "b", needs=["a"]),
        )
        with self.make(tmp_path) as launcher:
            with pytest.raises(ValueError, match="circle"):
                launcher.run([a, b])
            with pytest.raises(ValueError, match="not among the tasks"):
                launcher.run([a])
            with pytest.raises(ValueError, match="share an identifier"):
                launcher.run([make_task(tmp_path, "c")] * 2)
