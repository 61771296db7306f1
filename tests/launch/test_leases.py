"""Leases: one of many wins, whatever the clocks say and wherever a process ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import anneal
from anneal.errors import StoreError
from anneal.launch.leases import Holder, Leases

ROOT = str(Path(anneal.__file__).parents[1])


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(folder: Path, owner: str, clock: Clock | None = None) -> Leases:
    return Leases(folder, owner, seconds=60, heartbeat=10, clock=clock or Clock())


def held(leases: Leases, task: str) -> Holder:
    holder = leases.holder(task)
    assert holder is not None
    return holder


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_one_claims_and_the_other_after_it_is_given_back(tmp_path):
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    assert a.claim("t")
    assert not b.claim("t")
    assert not a.claim("t")
    assert held(b, "t").owner == "a"
    assert a.claimed() == b.claimed() == {"t"}
    assert a.give_back("t")
    assert b.claim("t")
    assert a.claimed() == {"t"}
    assert held(a, "t").owner == "b"


def test_a_finished_task_leaves_nothing(tmp_path):
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    a.claim("t.u")
    a.give_back("t.u")
    b.claim("t.u")
    b.claim("t")
    b.give_back("t")
    b.give_back("t.u", finished=True)
    a.tidy({"t"})
    assert [name for name in names(tmp_path) if name.startswith(".t.u.")]
    assert len(names(tmp_path)) == 2
    a.tidy({"t.u"})
    a.leave()
    b.leave()
    assert names(tmp_path) == [".beats"]
    assert not names(tmp_path / ".beats")


@pytest.mark.parametrize("ahead", [-1e9, 0.0, 1e9])
def test_expiry_is_by_the_observers_own_clock(tmp_path, ahead):
    owner, observer = Clock(5.0), Clock(5.0 + ahead)
    a, b = make(tmp_path, "a", owner), make(tmp_path, "b", observer)
    a.claim("t")
    for _ in range(20):  # alive: beats now and then
        owner.now += 30
        observer.now += 30
        a.beat()
        assert not b.expired(held(b, "t"))
    observer.now += 59
    assert not b.expired(held(b, "t"))
    observer.now += 1
    assert b.expired(held(b, "t"))


def test_a_clock_jump_of_the_owner_does_not_silence_it(tmp_path):
    owner, observer = Clock(1e6), Clock()
    a, b = make(tmp_path, "a", owner), make(tmp_path, "b", observer)
    a.claim("t")
    assert not b.expired(held(b, "t"))
    owner.now = 0.0
    observer.now += 59
    a.beat()
    assert not b.expired(held(b, "t"))


def test_two_observers_judge_for_themselves(tmp_path):
    early, late = Clock(), Clock()
    a, b, c = make(tmp_path, "a"), make(tmp_path, "b", early), make(tmp_path, "c", late)
    a.claim("t")
    b.expired(held(b, "t"))
    early.now = 61
    late.now = 61
    assert b.expired(held(b, "t"))
    assert not c.expired(held(c, "t"))  # its first look
    assert b.take_away("t", held(b, "t"))
    assert b.claim("t")


def test_an_old_belief_ends_no_new_lease(tmp_path):
    a, b, c = (make(tmp_path, name) for name in "abc")
    a.claim("t")
    old = held(c, "t")
    assert b.take_away("t", old)
    assert b.claim("t")
    assert not c.take_away("t", old)
    assert held(c, "t").owner == "b"
    assert a.lost() == ["t"]
    assert a.held == {}


def test_an_owner_that_woke_up_gives_nothing_of_another_back(tmp_path):
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    a.claim("t")
    b.take_away("t", held(b, "t"))
    b.claim("t")
    assert not a.give_back("t")
    assert held(a, "t").owner == "b"
    assert not b.lost()


def test_a_crash_before_the_rename_holds_nothing(tmp_path, monkeypatch):
    a, b = make(tmp_path, "a"), make(tmp_path, "b")

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            a.claim("t")
    assert b.claimed() == set()
    assert b.claim("t")
    b.give_back("t", finished=True)
    b.tidy({"t"})
    assert names(tmp_path) == [".beats"]


def test_a_crash_between_taking_away_and_claiming_frees_the_task(tmp_path):
    a, b, c = (make(tmp_path, name) for name in "abc")
    a.claim("t")
    b.take_away("t", held(b, "t"))  # and dies
    assert c.claim("t")


def test_a_rename_whose_answer_was_lost_still_counts(tmp_path, monkeypatch):
    a = make(tmp_path, "a")
    rename = os.rename

    def twice(source, target):
        rename(source, target)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", twice)
        assert a.claim("t")
    assert held(a, "t").owner == "a"
    assert a.give_back("t")


def test_a_damaged_lease_expires(tmp_path):
    clock = Clock()
    a, b = make(tmp_path, "a"), make(tmp_path, "b", clock)
    a.claim("t")
    (tmp_path / "t" / "holder.json").write_text("{")
    assert not b.expired(held(b, "t"))
    clock.now = 61
    assert b.expired(held(b, "t"))
    assert b.take_away("t", held(b, "t"))
    assert b.claim("t")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "leases").write_text("a file")
    with pytest.raises((StoreError, FileExistsError, NotADirectoryError)):
        make(tmp_path / "leases", "a").claim("t")


RACE = """
import json, sys, time
from pathlib import Path
from anneal.launch.leases import Leases
folder, name = Path(sys.argv[1]), sys.argv[2]
leases = Leases(folder, name, seconds=0)
olds = {t: leases.holder(t) for t in sorted(leases.claimed())}
(folder.parent / f"{name}.ready").touch()
while not (folder.parent / "go").exists():
    time.sleep(0.001)
took = [t for t, old in olds.items() if leases.take_away(t, old)]
made = [t for t in olds if leases.claim(t)]
print(json.dumps([took, made]))
"""


@pytest.mark.integration
def test_a_race_of_many_processes_has_one_winner_each(tmp_path):
    folder, count, tasks = tmp_path / "leases", 6, [f"t{n:02}" for n in range(40)]
    dead = make(folder, "dead")
    for task in tasks:
        assert dead.claim(task)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(folder), f"racer-{n}"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        for n in range(count)
    ]
    while len(list(tmp_path.glob("*.ready"))) < count:
        assert all(racer.poll() is None for racer in racers)
    (tmp_path / "go").touch()
    results = [json.loads(racer.communicate()[0]) for racer in racers]
    assert sorted(t for took, _ in results for t in took) == tasks
    assert sorted(t for _, made in results for t in made) == tasks
    assert sorted(dead.lost()) == tasks
