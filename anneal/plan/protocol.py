"""How a launcher and its workers talk: JSON lines, and the worker's half of the conversation.

A worker is a process that loads what is slow to load once and then carries out one task after
another. The launcher writes a `Request` a line to the worker's standard input; the worker writes
messages a line to what was its standard output:

    launcher                       worker
                                   ready {seconds}              everything slow is loaded
    {task, spec, log}  ----------> start {task}
                                   progress {task, done, total, loss?, tokens_per_second?} ...
                                   done {task}  or  failed {task, kind, message}
    end of file        ----------> exits with 0

This file imports pydantic and the standard library alone, so that a lean training image can run
it. Three things can go wrong around it, and `serve` deals with each:

* Libraries print. The real standard output is kept for messages alone, and file descriptor 1 is
  pointed at the log, so no stray print, not even one from C, can corrupt a message.
* The machine wants the process back (SIGTERM). A handle that saves its work looks at
  `report.stopping` after each step, saves and raises `Stopped`; the worker then exits with
  75 (EX_TEMPFAIL of sysexits.h): try again later.
* The launcher dies, perhaps by SIGKILL. The kernel then closes the worker's standard input. A
  thread waits for that hang-up and sends the process the same SIGTERM, and ends it if that does
  not help. Linux's PR_SET_PDEATHSIG would add nothing: it fires when the *thread* that started
  the worker ends, which may be long before the launcher does.
"""

from __future__ import annotations

import faulthandler
import math
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, Protocol

from pydantic import Field, TypeAdapter

from anneal.errors import AnnealError
from anneal.plan.failures import class_of
from anneal.plan.interrupts import PREEMPTED
from anneal.plan.values import FailureClass
from anneal.values import Value

ORPHAN_SECONDS = 30.0
"""How long a worker whose launcher died may take to save its work."""
PROGRESS_SECONDS = 0.1
"""Progress is sent at most this often: a person reads it, and pipes and wake-ups cost."""
MESSAGE_LENGTH = 2000
"""Characters kept of a failure's message; the log holds the rest."""


class Request(Value):
    """Launcher to worker: carry out this task."""

    task: str
    spec: str
    """Path of the JSON file that says what to do."""
    log: str
    """Path of the task's own log: standard output and error go there meanwhile."""


class Ready(Value):
    """Everything slow is loaded."""

    event: Literal["ready"] = "ready"
    seconds: float
    """Since the process started, or since `serve` was called where the system does not say."""


class Start(Value):
    """The task was read and is being carried out."""

    event: Literal["start"] = "start"
    task: str


class Progress(Value):
    """How far the task is."""

    event: Literal["progress"] = "progress"
    task: str
    done: int
    """Tokens (or whatever the task counts) behind it."""
    total: int
    loss: float | None = None
    """Nats per token; None where there is none or it is not finite."""
    tokens_per_second: float | None = None


class Done(Value):
    """The task is finished and its result is written."""

    event: Literal["done"] = "done"
    task: str


class Failed(Value):
    """The task has no result, and why."""

    event: Literal["failed"] = "failed"
    task: str
    kind: FailureClass
    message: str
    """One line for a person; the traceback is in the log."""


Message = Annotated[Ready | Start | Progress | Done | Failed, Field(discriminator="event")]
"""What a worker says."""
_MESSAGE: TypeAdapter[Ready | Start | Progress | Done | Failed] = TypeAdapter(Message)


def parse(line: bytes) -> Ready | Start | Progress | Done | Failed:
    """The message in one line.

    Raises:
        pydantic.ValidationError: the line is no message.
    """
    return _MESSAGE.validate_json(line)


class Stopped(Exception):
    """Raised by a handle that saw `report.stopping` and has saved its work."""


class TaskFailed(Exception):
    """Raised by a handle that knows the class of its failure.

    Args:
        kind: the class; only `killed` will be tried again.
        message: one line: what, where, got.
    """

    def __init__(self, kind: FailureClass, message: str) -> None:
        super().__init__(message)
        self.kind: FailureClass = kind


class Listener(Protocol):
    """Who hears a report, and knows whether it is time to stop."""

    stopping: bool

    def say(self, message: Value) -> None: ...


class Report:
    """What a handle is given to say how far it is, and to learn that it should stop."""

    def __init__(self, listener: Listener, task: str, pause: float = PROGRESS_SECONDS) -> None:
        self._listener = listener
        self._task = task
        self._pause = pause
        self._sent = 0.0

    @property
    def stopping(self) -> bool:
        """Whether to save and raise `Stopped` now."""
        return self._listener.stopping

    def __call__(
        self,
        done: int,
        total: int,
        *,
        loss: float | None = None,
        tokens_per_second: float | None = None,
    ) -> None:
        """Says that `done` of `total` tokens are behind; cheap enough to call every step, since it
        is said once a `pause` of seconds at most."""
        now = time.monotonic()
        if now - self._sent < self._pause and done < total:
            return
        self._sent = now
        self._listener.say(
            Progress(
                task=self._task,
                done=done,
                total=total,
                loss=_finite(loss),
                tokens_per_second=_finite(tokens_per_second),
            )
        )


Handle = Callable[[str, Report], None]
"""Carries out the task of one spec file; returns when its result is written, raises otherwise."""


def serve(handle: Handle, *, warm: Callable[[], None] | None = None, saves: bool = True) -> int:
    """Carries out tasks until standard input ends. To be called in the main thread.

    Args:
        handle: called with the path of each spec and a `Report`. Its exceptions become failures:
            `TaskFailed` as it says, others by `failure_class`.
        warm: loads what is slow to load, before the first task and after standard output is safe.
        saves: whether `handle` looks at `report.stopping` and saves. Otherwise SIGTERM raises
            SystemExit inside it, so that it leaves through its `finally` clauses.

    Returns:
        The exit code: 0 at the end of input, 75 when told to stop.
    """
    worker = _Worker(saves)
    try:
        if warm is not None:
            warm()
        worker.say(Ready(seconds=worker.age()))
        while (request := worker.listen()) is not None:
            worker.carry_out(handle, request)
            if worker.stopping:
                return PREEMPTED
    except Stopped:
        return PREEMPTED
    return 0


def alone(handle: Handle, spec: str) -> int:
    """Carries out one task for a person, who sees progress on standard error.

    SIGTERM and Ctrl-C have it save its work, as a launcher's SIGTERM would.

    Returns:
        0, or 75 when it was told to stop.

    Raises:
        Whatever the handle raises; `TaskFailed` as an `AnnealError`.
    """
    listener = _Person()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, listener.stop)
    try:
        handle(spec, Report(listener, "task"))
    except Stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return PREEMPTED
    except TaskFailed as error:
        raise AnnealError(f"{spec}: {error.kind}: {error}") from error
    return 0


class _Person:
    """Shows progress once a second."""

    def __init__(self) -> None:
        self.stopping = False
        self._said = 0.0

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def say(self, message: Value) -> None:
        now = time.monotonic()
        if isinstance(message, Progress) and now - self._said >= 1.0:
            self._said = now
            part = f"{message.done / message.total:.0%}" if message.total else f"{message.done:,}"
            loss = f", loss {message.loss:.4f}" if message.loss is not None else ""
            rate = message.tokens_per_second
            speed = f", {rate:,.0f} tokens/s" if rate is not None else ""
            print(f"{part}{loss}{speed}", file=sys.stderr)


def failure_class(error: BaseException) -> FailureClass:
    """The class of a failure by its exception: as a `TaskFailed` says, otherwise `class_of`."""
    return error.kind if isinstance(error, TaskFailed) else class_of(error)


class _Worker:
    """The process's side of the pipes, and its reaction to signals."""

    def __init__(self, saves: bool) -> None:
        self._began = time.monotonic()
        self._saves = saves
        self._interruptible = True  # SIGTERM raises at once, rather than set `stopping`
        self._busy = True
        self._orphan = False
        self.stopping = False
        sys.stdout.flush()
        self._out = os.fdopen(os.dup(1), "wb")
        self._in = os.fdopen(os.dup(0), "rb")
        os.dup2(2, 1)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        self._log = os.dup(2)
        faulthandler.enable()  # a crash in native code leaves a stack in the task's log
        signal.signal(signal.SIGTERM, self._on_term)
        threading.Thread(target=self._watch, name="launcher hang-up", daemon=True).start()
        with suppress(OSError):
            # Should memory run out, the kernel is to take a worker, not the launcher.
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")

    def age(self) -> float:
        """Seconds since the process started."""
        try:
            stat = Path("/proc/self/stat").read_text(encoding="utf-8")
            ticks = int(stat.rpartition(")")[2].split()[19])  # field 22 of proc(5): starttime
            born = ticks / os.sysconf("SC_CLK_TCK")
            return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - born)
        except (OSError, AttributeError):
            return time.monotonic() - self._began

    def say(self, message: Value) -> None:
        if isinstance(message, Ready | Done | Failed):
            self._busy = False  # before the launcher can know of it and hang up
        try:
            self._out.write(message.model_dump_json().encode() + b"\n")
            self._out.flush()
        except BrokenPipeError:  # the launcher died: save what there is
            self.stopping = True

    def listen(self) -> Request | None:
        """The next request; None at the end of input."""
        line = self._in.readline()
        if not line.endswith(b"\n"):  # the end; still not busy, so nothing stops what is over
            return None
        # Busy first, then look: the watching thread sets `orphan` first and then looks at busy,
        # so one of the two always notices a launcher that died just now.
        self._busy = True
        if self._orphan:
            return None
        return Request.model_validate_json(line)

    def carry_out(self, handle: Handle, request: Request) -> None:
        try:
            self._redirect(request.log)
            self.say(Start(task=request.task))
            self._interruptible = not self._saves
            handle(request.spec, Report(self, request.task))
        except Stopped:
            raise
        except SystemExit as leaving:
            if self.stopping:
                raise
            self._fail(request.task, TaskFailed("bug", f"called sys.exit({leaving.code!r})"))
        except Exception as error:
            self._fail(request.task, error)
        else:
            self.say(Done(task=request.task))
        finally:
            self._interruptible = True
            self._redirect(None)

    def _fail(self, task: str, error: Exception) -> None:
        traceback.print_exception(error)
        if isinstance(error, AnnealError | TaskFailed):
            text = " ".join(str(error).splitlines())
        else:
            text = " ".join([f"{type(error).__name__}:", *str(error).splitlines()])
        message = text[:MESSAGE_LENGTH]
        self.say(Failed(task=task, kind=failure_class(error), message=message))

    def _redirect(self, log: str | None) -> None:
        """Points standard output and error at the task's log, or back at the worker's own."""
        sys.stdout.flush()
        sys.stderr.flush()
        if log is None:
            target = self._log
        else:
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        if log is not None:
            os.close(target)

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        if self._interruptible:
            raise SystemExit(PREEMPTED)

    def _watch(self) -> None:
        """Waits until the launcher hangs up; when a task is under way, stops it."""
        poll = select.poll()
        poll.register(self._in.fileno(), 0)  # nothing but hang-up and error
        poll.poll()
        self._orphan = True
        if self._busy:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(ORPHAN_SECONDS)
            os._exit(PREEMPTED)


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
