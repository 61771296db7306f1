"""Tasks that take several slots of this machine: cores, devices, and which workers must leave."""

from __future__ import annotations

import json

import psutil
import pytest

from anneal.launch.values import Began, Event, LaunchError, Settled

from .contract import attempts, make_task, most_slots, shown
from .test_local import CORES, make_launcher, wait_until_none_alive

pytestmark = pytest.mark.integration


def launch(folder, tasks, **settings) -> list[Event]:
    events: list[Event] = []
    with make_launcher(folder, **settings) as launcher:
        assert all(outcome.ok for outcome in launcher.run(tasks, on_event=events.append))
    return events


@pytest.mark.skipif(CORES < 2, reason="one core cannot be divided")
def test_a_group_has_the_cores_of_all_its_slots_and_the_threads_of_one(tmp_path):
    names = ["OMP_NUM_THREADS"]
    wide = make_task(tmp_path, "wide", "show", names=names, slots=2, size=2)
    narrow = make_task(tmp_path, "narrow", "show", names=names)
    with make_launcher(tmp_path, pin=True) as launcher:
        one, two = (slot.cores for slot in launcher.slots)
        launcher.run([wide, narrow])
    assert set(shown(wide)["cores"]) == one | two
    assert set(shown(narrow)["cores"]) in (one, two)
    assert shown(wide)["environment"] == shown(narrow)["environment"] == {names[0]: "1"}


@pytest.mark.parametrize("devices", [("0", "1", "2"), ()])
def test_a_group_has_the_devices_of_all_its_slots(tmp_path, monkeypatch, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    name = "CUDA_VISIBLE_DEVICES"
    wide = make_task(tmp_path, "wide", "show", names=[name], slots=3, size=2)
    narrow = make_task(tmp_path, "narrow", "show", names=[name])
    launch(tmp_path, [wide, narrow], slots=3, devices=devices)
    assert shown(wide)["environment"][name] == (",".join(devices) or "7")
    assert shown(narrow)["environment"][name] in (devices or ("7",))


def test_no_device_is_used_twice_at_once(tmp_path):
    widths = [1, 3, 2, 1, 2, 2, 1, 3, 1, 1]
    tasks = [
        make_task(tmp_path, f"t{n}", "span", seconds=0.05, slots=width, size=99 - n)
        for n, width in enumerate(widths)
    ]
    launch(tmp_path, tasks, slots=4, devices=("0", "1", "2", "3"))
    assert most_slots(tasks) <= 4
    for task in tasks:
        own = shown(task)
        assert len(set(own["devices"])) == task.slots
        for other in (shown(t) for t in tasks if t is not task):
            if own["began"] < other["ended"] and other["began"] < own["ended"]:
                assert not set(own["devices"]) & set(other["devices"])


def test_slots_of_one_device_are_no_group(tmp_path):
    """Four slots pack two devices: a pair must get one slot of each, and three cannot be."""
    pairs = [make_task(tmp_path, f"t{n}", "span", seconds=0, slots=2) for n in range(3)]
    launch(tmp_path, pairs, slots=4, devices=("0", "1"))
    assert all(sorted(shown(pair)["devices"]) == ["0", "1"] for pair in pairs)
    with (
        make_launcher(tmp_path, slots=4, devices=("0", "1")) as launcher,
        pytest.raises(LaunchError, match="4 slots share 2: 0,1") as raised,
    ):
        launcher.run([make_task(tmp_path, "three", slots=3)])
    assert "launcher.devices" in raised.value.hint


def test_workers_of_another_group_leave_before_one_starts(tmp_path):
    """And those of the same group stay warm."""
    first = [make_task(tmp_path, f"a{n}", "span", seconds=0.2) for n in range(2)]
    wide = [make_task(tmp_path, f"w{n}", slots=2) for n in range(2)]
    with make_launcher(tmp_path) as launcher:
        launcher.run(first)
        narrow = {pid for task in first for pid, _ in attempts(task)}
        assert len(narrow) == 2
        assert all(psutil.pid_exists(pid) for pid in narrow)
        launcher.run(wide)
        assert not any(psutil.pid_exists(pid) for pid in narrow)
        (leader,) = {pid for task in wide for pid, _ in attempts(task)}
        launcher.run([last := make_task(tmp_path, "last")])
        assert not psutil.pid_exists(leader)
        assert attempts(last)[0][0] not in narrow
    assert (tmp_path / "logs/slot-0+1-run.log").exists()


def test_getting_ready_does_not_end_what_is_warm(tmp_path):
    """A pair waits while a third slot works; the warm workers of the pair's slots stay."""
    warm = [make_task(tmp_path, f"a{n}", "span", seconds=0.5) for n in range(3)]
    slow = make_task(tmp_path, "slow", "span", seconds=1)
    wide = make_task(tmp_path, "wide", slots=2, needs=["slow"], verb="prepare")
    with make_launcher(tmp_path, slots=3) as launcher:
        launcher.run(warm)
        narrow = {pid for task in warm for pid, _ in attempts(task)}
        alive_then = []

        def listen(event):
            if isinstance(event, Settled) and event.outcome.task == "slow":
                alive_then.extend(psutil.pid_exists(pid) for pid in narrow)

        launcher.run([slow, wide], on_event=listen)
    assert alive_then == [True, True, True]
    assert shown(slow)["ended"] < attempts(wide)[0][1]


def test_a_group_gets_ready_ahead(tmp_path):
    first = make_task(tmp_path, "first", "sleep", seconds=6)
    wide = make_task(tmp_path, "wide", slots=2, needs=("first",))
    events = launch(tmp_path, [first, wide], slots=3, environment={"TEST_WORKER_WARM": "3"})
    begun = {e.task: e for e in events if isinstance(e, Began)}
    assert begun["wide"].warm
    assert (begun["wide"].slot, begun["wide"].beside) == (1, (2,))


def test_the_processes_of_a_killed_group_die_with_it(tmp_path):
    task = make_task(tmp_path, "a", "ranks", processes=3, slots=2, steps=9, die_at=2)
    with make_launcher(tmp_path, retries=0) as launcher:
        (outcome,) = launcher.run([task])
        assert outcome.failure.kind == "killed"
        assert len(json.loads((tmp_path / "a.ranks").read_text())) == 3
        wait_until_none_alive(tmp_path, 5)
