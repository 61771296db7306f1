"""One worker process as the launcher sees it: how it is started, heard, stopped and mourned.

Everything here is non-blocking but `reap`. A process that ended without an answer is judged by how
it ended (`cause_of_death`): the kernel's out-of-memory killer leaves a count, and that count tells
a task that is too large (tried once more, smaller) from a machine that took its process back
(tried again as it is).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from anneal.launch.slots import Group, on_cores
from anneal.launch.values import Task
from anneal.plan.interrupts import PREEMPTED
from anneal.plan.memory import count_oom_kills
from anneal.plan.protocol import (
    Done,
    Failed,
    Progress,
    Ready,
    Request,
    Start,
    parse,
)
from anneal.plan.values import FailureClass

EXIT_SECONDS = 5.0
"""Between closing its standard output and ending, a process has this long."""
LOG_TAIL = 4000
"""Bytes read from the end of a log to say how a process died."""


class Worker:
    """A worker process of one group of slots and one verb.

    It leads a process group of its own, which `kill` and `reap` end. Whatever it starts, such as
    the other processes of a run on several slots, must stay in that group; `stop` speaks to the
    worker alone, which has to have the others save or end.

    Args:
        command: its words; never a shell.
        group: its slots, with their cores and environment.
        verb: what kind of task it carries out.
        log: file that gets its standard error while it has no task.
    """

    def __init__(self, command: Sequence[str], *, group: Group, verb: str, log: Path) -> None:
        self.group = group
        self.verb = verb
        self.log = log
        self.ready = False
        self.task: Task | None = None
        self.began = 0.0
        """When its task began, on the launcher's monotonic clock."""
        self.oom_kills = 0
        """Count of `count_oom_kills` when its task was handed over."""
        self.task_log = log
        self._buffer = b""
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as errors, on_cores(group.cores):
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=group.environment,
                # Ctrl-C in a terminal goes to the launcher alone, which lets workers save.
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in = self._process.stdin
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)

    def fileno(self) -> int:
        return self._out.fileno()

    @property
    def pid(self) -> int:
        return self._process.pid

    def hand(self, task: Task, *, log: Path, now: float) -> None:
        """Gives it a task; it need not be ready yet."""
        self.task, self.task_log, self.began = task, log, now
        self.oom_kills = count_oom_kills()
        request = Request(task=task.id, spec=task.spec, log=str(log))
        with suppress(BrokenPipeError):  # it died: its end of file says so
            self._in.write(request.model_dump_json().encode() + b"\n")
            self._in.flush()

    def messages(self) -> tuple[list[Ready | Start | Progress | Done | Failed], bool]:
        """What it has said since, and whether that was the last."""
        closed = False
        while True:
            try:
                chunk = os.read(self._out.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not chunk:
                closed = True
                break
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        heard = []
        for line in lines:
            try:
                heard.append(parse(line))
            except ValidationError:  # not of our protocol: keep it for whoever reads the log
                with open(self.task_log, "ab") as log:
                    log.write(line + b"\n")
        return heard, closed

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """No more tasks: it exits once it has none."""
        with suppress(BrokenPipeError):
            self._in.close()

    def stop(self) -> None:
        """Asks it to save its work and exit."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and whatever it started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self, seconds: float = EXIT_SECONDS) -> int:
        """Waits for its end, kills it after `seconds`, and returns its exit code."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self.kill()  # compilers and the like that it left behind
        self.close()
        self._out.close()
        return code


def cause_of_death(code: int, *, oom_kills: int) -> tuple[FailureClass, str]:
    """Class and description of a process that ended without an answer.

    Args:
        code: as of `subprocess`: minus the signal, or the exit code; wrappers such as containers
            and schedulers turn signal n into 128 + n.
        oom_kills: processes that the kernel killed for memory since the last look.
    """
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number == signal.SIGKILL and oom_kills > 0:
        return "out_of_memory", "killed by the kernel's out-of-memory killer"
    if number:
        with suppress(ValueError):
            return "killed", f"killed by {signal.Signals(number).name}"
    if code == PREEMPTED:
        return "preempted", "told to stop (SIGTERM) by someone other than the launcher"
    return "killed", f"exited with {code} without an answer"


def tail(log: Path) -> str:
    """The last line of a log that says something; empty when none does."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
