"""The table at the end: everything needed to look into a failure and to repeat it."""

from __future__ import annotations

import io
import shlex

import pytest
from rich.console import Console

from anneal.launch.failed import Failed, failed_table
from anneal.launch.live import Live
from anneal.launch.values import Outcome, Planned, Settled, Stumbled, Task
from anneal.plan.values import Failure


def failed(folder, name: str, kind: str, message: str, *, attempts=1, last="") -> Failed:
    log = folder / "store" / "sweeps" / "demo" / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"begin\n{last}\n\n")
    failure = Failure(run=name, kind=kind, message=message, log=str(log), attempts=attempts)
    spec = folder / "store" / "runs" / name / "task.json"
    again = f"python -m anneal run {shlex.quote(str(spec))}"
    return Failed(label=f"books {name}", failure=failure, again=again)


def test_every_failure_with_its_log_and_the_command_that_repeats_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = failed_table(
        [
            failed(tmp_path, "a" * 20, "non_finite", "loss nan at step 3 " * 9, last="Error: nan"),
            failed(tmp_path, "b" * 90, "out_of_memory", "no\nmemory", attempts=2, last="memory"),
        ]
    )
    lines = table.splitlines()
    assert lines[0] == "2 failed"
    assert lines[1].split() == ["books", "a" * 20, "non_finite", "1", "attempt"]
    assert lines[2].startswith("  said   loss nan at step 3 loss nan")
    assert lines[2].endswith("...")
    assert lines[3] == f"  log    store/sweeps/demo/logs/{'a' * 20}.log"
    assert lines[4] == "  last   Error: nan"
    assert lines[5] == f"  again  python -m anneal run store/runs/{'a' * 20}/task.json"
    assert lines[6].split()[-3:] == ["out_of_memory", "2", "attempts"]
    assert lines[7] == "  said   no memory"
    # longer than a line: whole, below its head, to be copied
    assert f"\n  log\nstore/sweeps/demo/logs/{'b' * 90}.log\n" in table
    assert table.endswith(f"  again\npython -m anneal run store/runs/{'b' * 90}/task.json")
    long = {number for number, line in enumerate(lines) if len(line) > 80}
    assert all("/" in lines[number] for number in long)
    assert len(long) == 2


@pytest.mark.parametrize("terminal", [True, False])
def test_it_is_printed_once_and_last_over_all_launches(tmp_path, terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=80, color_system=None, _environ={})
    fails = [failed(tmp_path, name, "bug", f"why {name}") for name in "ab"]
    with Live(console) as live:
        for number, one in enumerate(fails):
            name = one.failure.run
            task = Task(id=name, label=one.label, verb="run", spec="s", done="d")
            live(Planned(tasks=(task,), slots=1))
            for retry in (True, False):
                more = {"failure": one.failure, "retry": retry, "again": one.again}
                live(Stumbled(task=name, slot=number, **more))
            live(Settled(outcome=Outcome(task=name, ok=False, failure=one.failure)))
    said = text.getvalue()
    assert said.count("2 failed\n") == 1
    end = said[said.index("2 failed\n") :]
    assert [end.count(f"books {name} ") for name in "ab"] == [1, 1]
    assert end.index("books a") < end.index("books b")


def test_nothing_failed_nothing_is_said(tmp_path):
    text = io.StringIO()
    with Live(Console(file=text, width=80)) as live:
        task = Task(id="a", label="a", verb="run", spec="s", done="d")
        live(Planned(tasks=(task,), slots=1))
        live(Settled(outcome=Outcome(task="a", ok=True)))
    assert "failed" not in text.getvalue()
