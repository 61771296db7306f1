"""The worker's half alone: a real process, with pipes held by hand."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import fsspec.exceptions
import httpx2
import pytest
import requests
from pydantic import ValidationError

from anneal.errors import SourceError, StoreError
from anneal.plan.protocol import (
    Done,
    Failed,
    Progress,
    Ready,
    Request,
    Start,
    TaskFailed,
    failure_class,
    parse,
)

from .contract import WORKER, make_task
from .test_local import ROOT

pytestmark = pytest.mark.integration


@pytest.fixture
def worker(tmp_path):
    with (
        open(tmp_path / "worker.err", "wb") as errors,
        subprocess.Popen(
            [*WORKER, "run", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": ROOT},
        ) as process,
    ):
        yield process
        process.kill()


def hear(worker):
    return parse(worker.stdout.readline())


def hand(worker, folder: Path, name: str, do: str, **spec) -> Path:
    task = make_task(folder, name, do, **spec)
    request = Request(task=name, spec=task.spec, log=str(folder / f"{name}.log"))
    worker.stdin.write(request.model_dump_json().encode() + b"\n")
    worker.stdin.flush()
    return Path(task.done)


def test_a_conversation(worker, tmp_path):
    began = time.monotonic()
    ready = hear(worker)
    assert isinstance(ready, Ready)
    assert 0 < ready.seconds < time.monotonic() - began + 5
    hand(worker, tmp_path, "a", "steps", steps=1)
    assert hear(worker) == Start(task="a")
    assert hear(worker) == Progress(task="a", done=1, total=1, loss=1.0, tokens_per_second=100.0)
    assert hear(worker) == Done(task="a")
    hand(worker, tmp_path, "b", "fail", kind="bad_data", message="two\nlines")
    assert hear(worker) == Start(task="b")
    assert hear(worker) == Failed(task="b", kind="bad_data", message="two lines")
    worker.stdin.close()
    assert worker.wait(10) == 0
    assert worker.stdout.read() == b""


def test_progress_is_thinned_but_its_end_arrives(worker, tmp_path):
    hear(worker)
    hand(worker, tmp_path, "a", "steps", steps=400, sleep=0.001)
    heard = [hear(worker)]
    while not isinstance(heard[-1], Done):
        heard.append(hear(worker))
    progress = [m.done for m in heard if isinstance(m, Progress)]
    assert progress == sorted(progress)
    assert progress[-1] == 400
    assert len(progress) < 100


def test_a_loss_that_is_not_finite_is_not_sent(worker, tmp_path):
    hear(worker)
    hand(worker, tmp_path, "a", "sleep", seconds=0)
    hear(worker)
    assert hear(worker) == Progress(task="a", done=1, total=10, loss=None)


def test_sigterm_ends_an_idle_worker_at_once(worker):
    hear(worker)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 75


def test_sigterm_lets_a_task_save(worker, tmp_path):
    hear(worker)
    done = hand(worker, tmp_path, "a", "steps", steps=10_000)
    hear(worker)
    hear(worker)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 75
    assert not done.exists()
    assert done.with_suffix(".stopped").read_text() == done.with_suffix(".checkpoint").read_text()


def test_a_task_handed_over_by_a_launcher_that_died_is_not_begun(worker, tmp_path):
    """Request and hang-up arrive while the worker is stopped, so both are there when it looks."""
    hear(worker)
    worker.send_signal(signal.SIGSTOP)
    done = hand(worker, tmp_path, "a", "steps", steps=10_000)
    worker.stdin.close()
    worker.send_signal(signal.SIGCONT)
    assert worker.wait(10) in (0, 75)
    assert not done.exists()


def test_what_no_launcher_reads_does_not_hold_up_saving(worker, tmp_path):
    hear(worker)
    done = hand(worker, tmp_path, "a", "steps", steps=10_000)
    hear(worker)
    worker.stdout.close()
    assert worker.wait(10) == 75
    assert done.with_suffix(".stopped").exists()


@pytest.mark.parametrize(
    "line",
    [
        b"junk",
        b"",
        b"[]",
        b'{"event": "dance"}',
        b'{"event": "done"}',
        b'{"event": "done", "task": "a", "more": 1}',
        b'{"event": "progress", "task": "a", "done": 1, "total": 2, "loss": NaN}',
        b'{"event": "failed", "task": "a", "kind": "sad", "message": ""}',
    ],
)
def test_what_is_no_message(line):
    with pytest.raises(ValidationError):
        parse(line)


def test_messages_survive_the_wire():
    message = Failed(task="a", kind="bug", message='quote " newline \n and \u2028 é')
    line = message.model_dump_json()
    assert "\n" not in line
    assert parse(line.encode()) == message
    assert json.loads(line)["event"] == "failed"


def caused(error: Exception, cause: Exception) -> Exception:
    """As `raise error from cause` leaves it."""
    error.__cause__ = cause
    return error


def safetensors(text: str) -> Exception:
    from safetensors import SafetensorError

    return SafetensorError(text)


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TaskFailed("killed", "lost a peer"), "killed"),
        (MemoryError(), "out_of_memory"),
        (OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            ),
            "out_of_memory",
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "bug"),
        (FloatingPointError("loss nan"), "non_finite"),
        (StoreError("lock held"), "bad_data"),
        (ValueError("x"), "bug"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (caused(StoreError("shards: disk full"), OSError(errno.EDQUOT, "quota")), "disk_full"),
        (safetensors("I/O error: No space left on device (os error 28)"), "disk_full"),
        (OSError("100000 requested and 25584 written"), "disk_full"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5"), "disk_full"),
        (ConnectionResetError(), "network"),
        (BrokenPipeError(), "bug"),
        (TimeoutError(), "network"),
        (OSError(errno.EHOSTUNREACH, "no route"), "network"),
        (socket.gaierror(-2, "Name or service not known"), "network"),
        (caused(SourceError("s3://b/x: no answer"), ConnectionRefusedError()), "network"),
        (caused(SourceError("x: no such file"), FileNotFoundError()), "bad_data"),
        (httpx2.ConnectTimeout("slow"), "network"),
        (requests.ConnectionError("refused"), "network"),
        (requests.HTTPError("404"), "bug"),
        (aiohttp.ServerDisconnectedError(), "network"),
        (fsspec.exceptions.FSTimeoutError(), "network"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("std::bad_alloc"), "out_of_memory"),
        (caused(RuntimeError("step failed"), MemoryError()), "out_of_memory"),
    ],
)
def test_failure_class(error, kind):
    assert failure_class(error) == kind


def test_a_worker_is_lean():
    """The worker's half must not load what a training image may lack."""
    program = (
        "import sys, anneal.plan.protocol;"
        "print([m for m in ('torch', 'numpy', 'rich', 'psutil', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
