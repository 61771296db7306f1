from __future__ import annotations

import io

import pytest
from rich.console import Console

from anneal.launch.live import Live, Row, time_left
from anneal.launch.values import (
    Advanced,
    Began,
    Outcome,
    Planned,
    Settled,
    Stopping,
    Stumbled,
    Task,
)
from anneal.plan.values import Failure


def task(name: str, size: float = 100.0, verb: str = "run", slots: int = 1) -> Task:
    return Task(
        id=name,
        label=f"[{name}] label",
        verb=verb,
        spec="s",
        done="d",
        size=size,
        total=int(size),
        slots=slots,
    )


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A `Live` on a terminal that is a string."""

    def __init__(self, *, terminal: bool) -> None:
        self.text = io.StringIO()
        self.clock = Clock()
        self.console = Console(
            file=self.text, force_terminal=terminal, width=110, color_system=None, _environ={}
        )
        self.live = Live(self.console, clock=self.clock)

    def table(self) -> list[str]:
        with self.console.capture() as captured:
            self.console.print(self.live.render())
        return [" ".join(line.split()) for line in captured.get().splitlines()]


FAILURE = Failure(run="a", kind="non_finite", message="loss [nan] at step 3", log="/x/a.log")


def test_rows_follow_events():
    screen = Screen(terminal=True)
    live = screen.live
    live(Planned(tasks=(task("a"), task("b"), task("c")), slots=3))
    live(Began(task="a", slot=0, attempt=1, warm=False))
    live(Began(task="b", slot=1, attempt=1, warm=True))
    screen.clock.now += 65
    live(Advanced(task="b", slot=1, done=40, total=100, loss=2.5, tokens_per_second=14_500.0))
    first, second, third, summary = screen.table()
    assert first == "0 [a] label starting up 1:05"
    assert second.startswith("1 [b] label ")
    assert second.endswith(" 40% 14,500 tokens/s 1:05 loss 2.500")
    assert third == "2 idle"
    # 65 s for 40% of b: 162.5 s a task; 97.5 s of b and all of a and c are left, on three slots
    assert summary == "0/3 finished, 1:05 elapsed, about 2:42 left"


def test_a_wide_task_is_shown_on_its_first_slot_and_named_on_the_others():
    screen = Screen(terminal=True)
    live = screen.live
    live(Planned(tasks=(task("a"), task("b", slots=2)), slots=4))
    live(Began(task="a", slot=1, attempt=1, warm=True))
    live(Began(task="b", slot=0, beside=(2,), attempt=1, warm=False))
    assert screen.table()[0] == "0 x2 [b] label starting up 0:00"
    screen.clock.now += 10
    live(Advanced(task="b", slot=0, done=0, total=100))
    screen.clock.now += 10
    live(Advanced(task="b", slot=0, done=50, total=100))
    wide, _, beside, idle, _ = screen.table()
    assert wide.startswith("0 x2 [b] label ")
    assert wide.endswith(" 50% 0:10")
    assert (beside, idle) == ("2 with slot 0", "3 idle")
    killed = Failure(run="b", kind="killed", message="killed by SIGKILL", log="/x/b.log")
    live(Stumbled(task="b", slot=0, failure=killed, retry=True, again="x"))
    assert [screen.table()[n] for n in (0, 2)] == ["0 idle", "2 idle"]


def test_starting_up_is_not_counted_as_work():
    screen = Screen(terminal=True)
    screen.live(Planned(tasks=(task("a"),), slots=1))
    screen.live(Began(task="a", slot=0, attempt=1, warm=False))
    screen.clock.now += 30
    screen.live(Advanced(task="a", slot=0, done=0, total=100))
    screen.clock.now += 10
    screen.live(Advanced(task="a", slot=0, done=50, total=100))
    assert screen.table()[-1] == "0/1 finished, 0:40 elapsed, about 0:10 left"


def test_failures_are_printed_as_they_occur_and_the_last_one_stays():
    screen = Screen(terminal=True)
    screen.live(Planned(tasks=(task("a"), task("b")), slots=1))
    screen.live(Began(task="a", slot=0, attempt=1, warm=True))
    again = "python -m anneal run s"
    screen.live(Stumbled(task="a", slot=0, failure=FAILURE, retry=False, again=again))
    screen.live(Settled(outcome=Outcome(task="a", ok=False, failure=FAILURE, attempts=1)))
    assert screen.text.getvalue() == (
        "failed: [a] label (non_finite): loss [nan] at step 3\n"
        "  log: /x/a.log\n  again: python -m anneal run s\n"
    )
    assert screen.table() == [
        "0 idle",
        "0/2 finished, 1 failed, 0:00 elapsed, time left unknown",
        "last failure: [a] label (non_finite): loss [nan] at step 3",
    ]
    screen.live(Stopping(workers=1, seconds=30.0))
    assert screen.table()[-1].startswith("stopping: 1 workers save their work, at most 30 s")


def test_a_retry_says_so():
    screen = Screen(terminal=False)
    screen.live(Planned(tasks=(task("a"),), slots=1))
    killed = Failure(run="a", kind="killed", message="killed by SIGKILL", log="/x/a.log")
    screen.live(Began(task="a", slot=0, attempt=1, warm=True))
    screen.live(Stumbled(task="a", slot=0, failure=killed, retry=True, again="x"))
    assert "retried: [a] label (killed): killed by SIGKILL\n" in screen.text.getvalue()
    assert "0/1 finished, 0:00" in screen.live.summary()


def test_without_a_terminal_lines_come_now_and_then():
    screen = Screen(terminal=False)
    with screen.live as live:
        live(Planned(tasks=(task("a"), task("b")), slots=1))
        live(Began(task="a", slot=0, attempt=1, warm=True))
        for done in range(100):
            screen.clock.now += 0.4
            live(Advanced(task="a", slot=0, done=done, total=100))
        live(Settled(outcome=Outcome(task="a", ok=True, attempts=1, seconds=40.0)))
        live(Settled(outcome=Outcome(task="b", ok=False, missing="not begun")))
    lines = screen.text.getvalue().splitlines()
    assert lines[0] == "2 tasks on 1 slots"
    assert len(lines) == 5  # 40 s: two lines between the first and the last two
    assert lines[-2:] == ["1/2 finished, 1 missing, 0:40 elapsed", "1 missing: not begun"]
    assert "\x1b" not in screen.text.getvalue()


def test_a_terminal_is_redrawn_and_left_tidy():
    screen = Screen(terminal=True)
    with screen.live as live:
        live(Planned(tasks=(task("a"),), slots=1))
        live(Settled(outcome=Outcome(task="a", ok=True, skipped=True)))
    text = screen.text.getvalue()
    assert "\x1b[?25l" in text  # cursor hidden
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # and shown again
    assert text.endswith("1/1 finished, 1 of them before, 0:00 elapsed\n")


def settled(name: str, seconds: float) -> Outcome:
    return Outcome(task=name, ok=True, attempts=1, seconds=seconds)


def test_time_left_is_by_size_and_verb():
    tasks = {t.id: t for t in (task("a"), task("b", 300), task("p", 10, "prepare"))}
    assert time_left(tasks, [], [], 1, now=0.0) is None
    assert time_left(tasks, [settled("a", 50.0)], [], 1, now=0.0) is None  # prepare: unknown
    known = [settled("a", 50.0), settled("p", 3.0)]
    assert time_left(tasks, known, [], 1, now=0.0) == 150.0
    assert time_left(tasks, known, [], 8, now=0.0) == 150.0  # one task cannot be divided
    row = Row(task=tasks["b"], began=0.0, warm=True, done=150, total=300)
    assert time_left(tasks, known, [row], 1, now=99.0) == 75.0
    assert time_left(tasks, [*known, settled("b", 1.0)], [], 1, now=0.0) == 0.0


def test_time_left_counts_the_slots_of_wide_tasks():
    tasks = {t.id: t for t in (task("a", slots=2), task("b", 300, slots=2), task("c", 40))}
    known = [settled("a", 50.0)]  # 100 slot-seconds for a size of 100
    assert time_left(tasks, known, [], 2, now=0.0) == 170.0
    assert time_left(tasks, known, [], 8, now=0.0) == 150.0  # b: 300 slot-seconds on two
    row = Row(task=tasks["b"], began=0.0, warm=True, done=150, total=300)
    assert time_left(tasks, known, [row], 2, now=99.0) == 95.0
    assert time_left(tasks, [], [row], 2, now=75.0) == 75.0 + (100 + 40) / 2


def test_skipped_and_failed_tasks_say_nothing_about_speed():
    tasks = {t.id: t for t in (task("a"), task("b"), task("c"))}
    outcomes = [
        Outcome(task="a", ok=True, skipped=True),
        Outcome(task="b", ok=False, failure=FAILURE, attempts=1, seconds=9.0),
    ]
    assert time_left(tasks, outcomes, [], 1, now=0.0) is None


@pytest.mark.parametrize("size", [0.0])
def test_tasks_without_size_take_no_time(size):
    assert time_left({"a": task("a", size)}, [], [], 2, now=0.0) == 0.0
