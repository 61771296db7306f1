"""A sweep seen from outside, by its files alone."""

from __future__ import annotations

import io
import os
import socket

import pytest
from rich.console import Console

from anneal.errors import StoreError
from anneal.sweep.watch import last_row, watch
from tests.sweep.standing import BASE, begin, finish, plan, spec

RUNS = [spec(seed=seed) for seed in range(4)]


def screen(*, terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=120, color_system=None, _environ={}
    )


def lines(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_states_come_from_files_and_the_watch_ends_when_all_is_finished(ask):
    store, console = plan(ask, *RUNS), screen(terminal=False)
    finish(store, BASE)
    old = begin(store, RUNS[0], tokens=128)
    os.utime(old / "log.jsonl", (1e9, 1e9))  # of another day
    looks = iter(range(9))

    def meanwhile(seconds: float) -> None:
        match next(looks):
            case 0:
                begin(store, RUNS[1], tokens=256)
            case 1:
                finish(store, RUNS[1])
            case 2:
                pass
            case 3:
                for made in RUNS:
                    finish(store, made)
            case _:
                raise AssertionError("watched on after all was finished")

    with store.lock("sweep question"):
        watch(ask, console=console, sleep=meanwhile)
    who = f"sweep question (process {os.getpid()} on {socket.gethostname()})"
    said = lines(console)
    assert len(said) == 4  # nothing had changed at the third look
    assert said[0] == f"1 of 5 runs finished, 1 begun and left, 3 missing; {who}"
    assert said[1].startswith("1 of 5 runs finished, 1 running, 1 begun and left, 2 missing, about")
    assert said[2].startswith("2 of 5 runs finished, 1 begun and left, 2 missing")
    assert said[3] == f"5 of 5 runs finished; {who}"


def test_a_terminal_shows_the_runs_under_way_until_ctrl_c(ask):
    store, console = plan(ask, *RUNS), screen(terminal=True)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with store.lock("sweep question"):
        begin(store, RUNS[2], tokens=256)
        watch(ask, console=console, sleep=interrupt)
    row = next(line for line in lines(console) if RUNS[2].id[:10] in line)
    assert "code 384 seed 2" in row
    assert "256" in row
    assert " 50%" in row
    assert "2.5000" in row
    assert "s ago" in row


def test_it_takes_no_lock_and_knows_a_dead_holder(ask):
    store, console = plan(ask, RUNS[0]), screen(terminal=False)
    (store.root / "lock").write_text(
        f"sweep question (process {2**22 + 1} on {socket.gethostname()})"
    )
    began = begin(store, RUNS[0], tokens=128)
    assert began.is_dir()

    def another(seconds: float) -> None:
        with store.lock("sweep question"):  # would be refused if the watcher held it
            raise KeyboardInterrupt

    watch(ask, console=console, sleep=another)
    assert lines(console)[0].endswith("1 begun and left, 1 missing; nothing runs here now")


def test_before_the_plan_it_says_what_goes_on(ask):
    with pytest.raises(StoreError, match="never started"):
        watch(ask, console=screen(terminal=False))
    console = screen(terminal=False)

    def planned_now(seconds: float) -> None:
        store = plan(ask, RUNS[0])
        finish(store, RUNS[0])
        finish(store, BASE)

    from anneal.store import Store

    with Store(ask.store).lock("sweep question"):
        watch(ask, console=console, sleep=planned_now)
    assert lines(console)[0].startswith("preparing sources and targets; sweep question")
    assert lines(console)[1].startswith("2 of 2 runs finished")


def test_a_plan_that_grows_is_seen(ask):
    store, console = plan(ask, RUNS[0]), screen(terminal=False)
    looks = iter(range(9))

    def meanwhile(seconds: float) -> None:
        if next(looks):
            raise KeyboardInterrupt
        plan(ask, *RUNS)
        path = store.sweep(ask.name) / "plan.json"
        os.utime(path, (path.stat().st_mtime + 5,) * 2)  # whatever the clock's grain

    watch(ask, console=console, sleep=meanwhile)
    assert [line.split(",")[0] for line in lines(console)] == [
        "0 of 2 runs finished",
        "0 of 5 runs finished",
    ]


def test_half_a_line_is_no_line(tmp_path):
    log = tmp_path / "log.jsonl"
    assert last_row(log) is None
    log.write_text('{"tokens": 12')
    assert last_row(log)[:2] == (0, None)
    log.write_text('{"tokens": 12, "loss": 1.5}\n{"tokens": 24, "lo')
    assert last_row(log)[:2] == (12, 1.5)
