"""Whatever holds the store is asked to stop, and waited for."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from anneal.errors import StoreError
from anneal.store import Store
from anneal.sweep.cancel import cancel
from tests.integration.corpus import make
from tests.integration.test_sweep import ENVIRONMENT, anneal, command, results
from tests.sweep.standing import finish, plan, spec

HOLD = """
import signal, sys, time
from anneal.store import Store
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
with Store(sys.argv[1]).lock("sweep question"):
    print("held", flush=True)
    while not told:
        time.sleep(0.01)
    time.sleep(0.3)
    open(sys.argv[1] + "/saved", "w").close()
"""


def test_it_waits_until_the_work_is_saved(ask, capsys):
    runs = [spec(seed=seed) for seed in range(2)]
    store = plan(ask, *runs)
    finish(store, runs[0])
    (store.run(runs[1].id) / "checkpoint-00-000000001").mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        cancel(ask)
        assert (store.root / "saved").exists()
        assert holder.wait(10) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"stopped: sweep question (process {holder.pid} on ")
    assert second == (
        "1 of 3 runs finished, 1 saved on their way; the same command goes on from here"
    )


def test_nothing_runs_or_it_ran_and_was_killed(ask):
    store = Store(ask.store)
    with pytest.raises(StoreError, match="nothing runs here"):
        cancel(ask)
    store.root.mkdir(parents=True)
    # a process of that number may live, and is not the one that wrote this: nobody holds the lock
    (store.root / "lock").write_text(f"sweep question (process 1 on {socket.gethostname()})")
    with pytest.raises(StoreError, match="nothing runs here"):
        cancel(ask)


def test_another_machine_is_told_of_and_left_alone(ask, monkeypatch):
    store = Store(ask.store)
    monkeypatch.setattr(socket, "gethostname", lambda: "far-away")
    with store.lock("sweep question"):
        monkeypatch.undo()
        with pytest.raises(StoreError, match=r"\(process \d+ on far-away\) holds it") as raised:
            cancel(ask)
    assert "far-away" in raised.value.hint


@pytest.mark.integration
def test_a_real_sweep_saves_and_goes_on(tmp_path):
    make(tmp_path)
    slow = ["engine.checkpoint_seconds=1e9", "base.tokens=3_000_000"]
    words = ["small.yaml", *slow, "replay.prose.max_epochs=1e6"]
    with subprocess.Popen(
        command("sweep", *words), cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as sweep:
        store, deadline = Store(tmp_path / "store"), time.monotonic() + 120
        while not any(store.root.glob("runs/*/log.jsonl")):
            assert time.monotonic() < deadline
            assert sweep.poll() is None, sweep.stderr.read()
            time.sleep(0.1)
        done = anneal(tmp_path, "cancel", *words)
        assert done.returncode == 0, done.stderr
        assert sweep.wait(30) == 75
        said = sweep.stderr.read()
    assert "stopped (SIGTERM); the same command goes on from here" in said
    assert "stopped: sweep small" in done.stdout
    assert " 1 saved on their way" in done.stdout
    assert not results(tmp_path)
    again = anneal(tmp_path, "cancel", *words)
    assert again.returncode == 2
    assert "nothing runs here" in again.stderr
