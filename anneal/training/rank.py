"""One process of a run that several share: its line to the worker, and how it leaves.

See `ranks`, the other end. Without a worker (a person started torchrun) the leading rank talks to
standard error.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Literal

from anneal.errors import AnnealError
from anneal.plan.interrupts import PREEMPTED
from anneal.plan.protocol import (
    MESSAGE_LENGTH,
    PROGRESS_SECONDS,
    Done,
    Failed,
    Handle,
    Progress,
    Report,
    Stopped,
    TaskFailed,
    failure_class,
)
from anneal.values import Value

LINE = "ANNEAL_RANKS"
"""Environment variable with the path of the worker's socket."""
PARENT_SECONDS = 0.5


class Left(Value):
    """Rank to worker: the work is saved, I leave."""

    event: Literal["stopped"] = "stopped"


def is_rank() -> bool:
    """Whether this process was started as one of several."""
    return "RANK" in os.environ


def run_as_rank(handle: Handle, spec: str) -> int:
    """Carries out a task as one of several processes, and ends this process.

    SIGTERM and SIGINT have it save its work. The process ends without Python's own clean-up, in
    which DeepSpeed has been seen to crash, after everything was written.

    Returns:
        Never: it leaves with 0, with 75 when told to stop, 2 for an error of the user's, or 1.
    """
    faulthandler.enable()
    line = _Line(os.environ.get(LINE))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, line.stop)
    with suppress(OSError):  # should memory run out, the kernel is to take a rank
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    try:
        handle(spec, Report(line, "task", PROGRESS_SECONDS if line.joined else 1.0))
    except Stopped:
        line.say(Left())
        code = PREEMPTED
    except Exception as error:
        code = _say_failure(line, error)
    else:
        line.say(Done(task="task"))
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _say_failure(line: _Line, error: Exception) -> int:
    known = isinstance(error, AnnealError | TaskFailed)
    text = " ".join(str(error).splitlines())
    if not known:
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, AnnealError) and not line.joined:
        if line.leads:
            print(f"anneal: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    line.say(Failed(task="task", kind=failure_class(error), message=text[:MESSAGE_LENGTH]))
    return error.exit_code if isinstance(error, AnnealError) else 1


class _Line:
    """A rank's end of the socket; without one (no worker) it talks to a person.

    Args:
        path: of the socket, or None.
    """

    def __init__(self, path: str | None) -> None:
        self.stopping = False
        self.leads = os.environ.get("RANK") == "0"
        self.joined = path is not None
        self._socket = socket.socket(socket.AF_UNIX)
        if path is not None:
            try:
                self._socket.connect(path)
            except OSError:
                os._exit(1)  # the worker is gone
            threading.Thread(target=self._listen, name="worker", daemon=True).start()
        if path is not None or "TORCHELASTIC_RUN_ID" in os.environ:
            threading.Thread(target=watch_parent, name="torchrun", daemon=True).start()

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def say(self, message: Value) -> None:
        if isinstance(message, Progress) and not self.leads:
            return  # all ranks are equally far
        if self.joined:
            with suppress(OSError):
                self._socket.sendall(message.model_dump_json().encode() + b"\n")
        elif isinstance(message, Progress):
            part = f"{message.done / message.total:.0%}" if message.total else f"{message.done:,}"
            loss = f", loss {message.loss:.4f}" if message.loss is not None else ""
            print(f"{part}{loss}", file=sys.stderr)
        elif self.leads and isinstance(message, Left):
            print("stopped; the same command goes on from here", file=sys.stderr)

    def _listen(self) -> None:
        heard = b""
        while True:
            try:
                chunk = self._socket.recv(1 << 10)
            except OSError:
                chunk = b""
            heard += chunk
            if b"stop\n" in heard:
                self.stopping = True
            if not chunk or b"end\n" in heard:
                os._exit(1)


def watch_parent() -> None:
    """Ends this process when the one that started it (in a session of its own, perhaps) is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)
