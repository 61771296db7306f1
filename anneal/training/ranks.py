"""A run of several processes: starting them, hearing them, and leaving none behind.

A worker that is handed such a run starts torchrun, and torchrun starts the **ranks**: one process a
device, each `python -m anneal run SPEC` with its place in the environment. A person may do the same
with torchrun or the `deepspeed` launcher, over several machines; then there is no worker.

Between the worker and its ranks is a Unix socket, named in an environment variable:

    rank (`rank`)               worker
    progress, done, failed ---> the words of `plan.protocol`, a JSON line each
    stopped                --->
                           <--- stop: save at the next step and leave with 75
                           <--- end, or the socket closes: leave at once

So a stop does not go through torchrun, which would kill after 30 seconds; a worker that is killed
takes its ranks along, since the kernel closes its sockets, and they must not go on, because the run
may be started again at once and two must never write; and a rank that is killed is noticed at once
for the same reason. Ranks that torchrun left behind notice that it is gone.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from anneal.plan.memory import count_oom_kills
from anneal.plan.protocol import Done, Failed, Progress, Report, Stopped, TaskFailed
from anneal.training.rank import LINE, Left

GRACE_SECONDS = 2.0
"""Between a rank's failure and the end of the others: time to say what they saw."""
EXIT_SECONDS = 30.0
"""How long ranks and torchrun may take to leave once the work is over."""
COMPLAINT_SECONDS = 1.0
"""A rank whose neighbour vanished fails too, with what looks like a bug or a network's failure, and
may say so before the neighbour's line is seen to close."""
LOOK_SECONDS = 0.2

_WORD: TypeAdapter[Progress | Done | Failed | Left] = TypeAdapter(Progress | Done | Failed | Left)


def rank_command(spec: Path, processes: int) -> list[str]:
    """Words that start the ranks of a run on this machine."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes", "1"),
        *("--nproc-per-node", str(processes), "-m", "anneal", "run", str(spec)),
    ]


def run_ranks(
    command: Sequence[str], *, result: Path, environment: Mapping[str, str], report: Report
) -> None:
    """Carries out a run in ranks; returns when its result is written and they are gone.

    Args:
        command: starts them; never a shell. Its output goes where this process's goes.
        result: the file whose existence means that the run is done, whatever the exit codes: ranks
            have been seen to crash in taking themselves down.
        environment: of the ranks; the socket's path is added.
        report: hears the leading rank's progress, and says when to stop.

    Raises:
        Stopped: they were told to stop, and saved.
        TaskFailed: as the rank that failed first said, or `killed`.
    """
    with tempfile.TemporaryDirectory(prefix="anneal-") as folder:
        path = Path(folder) / "line"  # short: a socket's path has at most 108 bytes
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(128)
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                env={**environment, LINE: str(path)},
                start_new_session=True,  # Ctrl-C is for this process to pass on
            )
            ranks = _Ranks(listener, process, result, report)
            try:
                ranks.watch()
            finally:
                ranks.close()
    ranks.judge()


class _Ranks:
    """The ranks as the worker hears them."""

    def __init__(
        self,
        listener: socket.socket,
        process: subprocess.Popen[bytes],
        result: Path,
        report: Report,
    ) -> None:
        self._process, self._result, self._report = process, result, report
        self._listener = listener
        self._heard: dict[socket.socket, bytes] = {}
        self._answered: set[socket.socket] = set()
        self._left = False
        self._stop_sent = False
        self._deadline: float | None = None
        self._failure: TaskFailed | None = None
        self._failed = 0.0
        self._oom_kills = count_oom_kills()
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def watch(self) -> None:
        """Listens until torchrun has ended."""
        while self._process.poll() is None:
            ready = [key.fileobj for key, _ in self._selector.select(LOOK_SECONDS)]
            for line in ready:
                if line is self._listener:
                    self._accept()
                elif isinstance(line, socket.socket):
                    self._read(line)
            if self._report.stopping and not self._stop_sent:
                self._stop_sent = True
                self._tell(b"stop\n", list(self._heard))
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._tell(b"end\n", list(self._heard))
                self._deadline = time.monotonic() + GRACE_SECONDS
                if not self._heard:
                    self._process.kill()
        for line in list(self._heard):  # what was said last
            self._read(line)

    def close(self) -> None:
        """Nothing of it is left: ranks whose line closes leave."""
        for line in list(self._heard):
            line.close()
        self._selector.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def judge(self) -> None:
        """By the written result first, and what was said next.

        Raises:
            Stopped, TaskFailed.
        """
        if self._result.exists():
            return
        if self._left and (self._stop_sent or self._failure is None):
            raise Stopped("the ranks saved their work")
        if self._failure is not None:
            raise self._failure
        code = self._process.returncode
        raise TaskFailed("killed", f"torchrun exited with {code} and the ranks said nothing")

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            line, _ = self._listener.accept()
            line.setblocking(False)
            self._heard[line] = b""
            self._selector.register(line, selectors.EVENT_READ)
            if self._stop_sent:
                self._tell(b"stop\n", [line])

    def _read(self, line: socket.socket) -> None:
        closed = False
        while True:
            try:
                chunk = line.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                chunk = b""
            if not chunk:
                closed = True
                break
            self._heard[line] += chunk
        *words, self._heard[line] = self._heard[line].split(b"\n")
        for word in words:
            self._understand(line, word)
        if closed:
            self._hang_up(line)

    def _understand(self, line: socket.socket, word: bytes) -> None:
        try:
            message = _WORD.validate_json(word)
        except ValidationError:  # not one of ours
            sys.stderr.write(f"a rank said {word!r}\n")
            return
        if isinstance(message, Progress):
            self._report(
                message.done,
                message.total,
                loss=message.loss,
                tokens_per_second=message.tokens_per_second,
            )
            return
        self._answered.add(line)
        if isinstance(message, Failed):
            self._fail(TaskFailed(message.kind, message.message))
        elif isinstance(message, Left):
            self._left = True
            self._leave_within(EXIT_SECONDS)
        elif self._result.exists():
            self._leave_within(EXIT_SECONDS)

    def _hang_up(self, line: socket.socket) -> None:
        self._selector.unregister(line)
        del self._heard[line]
        line.close()
        if line not in self._answered:
            if count_oom_kills() > self._oom_kills:
                failure = TaskFailed("out_of_memory", "a rank was killed for want of memory")
            else:
                failure = TaskFailed("killed", "a rank ended without an answer")
            self._fail(failure, vanished=True)
        if not self._heard:
            self._leave_within(EXIT_SECONDS)

    def _fail(self, failure: TaskFailed, *, vanished: bool = False) -> None:
        now = time.monotonic()
        first = self._failure
        complaint = first is not None and first.kind in {"bug", "network"} and vanished
        # the others complain of the one that failed first
        if first is None or (complaint and now - self._failed < COMPLAINT_SECONDS):
            self._failure, self._failed = failure, now
        self._leave_within(GRACE_SECONDS)

    def _leave_within(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._deadline = min(self._deadline or deadline, deadline)

    @staticmethod
    def _tell(word: bytes, lines: Sequence[socket.socket]) -> None:
        for line in lines:
            with suppress(OSError):
                line.send(word)
