"""Runs on this machine: warm workers, one a group of slots and verb, handed one task after another.

A run of the demo takes seconds; loading PyTorch and a base takes as long, and compiling takes
longer. So a worker is started when a slot first needs it, loads everything once, and is kept until
the launcher is closed; a slot with nothing to do, because what remains waits for a task under way,
starts its worker ahead. The launcher itself is one thread around one `select`: it hands the longest
ready task to free slots, listens, and settles what became of it. A task of several slots goes to
one worker with the cores and devices of all of them (`pool`).

What ends a worker, and what follows:

* it answers `failed`: the task failed. After the classes of `SOUND` the worker goes on; after
  anything else it is replaced, since its memory or device may be in any state. What ran out of
  memory is tried once more with half the micro-batch (`shrink`);
* it dies without an answer: its result decides if it exists (some libraries abort at exit, after
  the work is done), otherwise `process.cause_of_death` does;
* it dies before it was ever ready, by itself: no task of its verb can run. When no worker of that
  verb ever was ready, the launch ends with a `LaunchError` instead of failing task by task;
* Ctrl-C: nothing more is begun, busy workers get SIGTERM, save and exit; after `grace_seconds`,
  or at a second Ctrl-C, SIGKILL. Then KeyboardInterrupt is raised: run the sweep again to resume.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

from pydantic import Field

from anneal.launch.board import Bookkeeping, board_for
from anneal.launch.pool import Pool
from anneal.launch.process import Worker, cause_of_death, tail
from anneal.launch.shrink import shrink
from anneal.launch.slots import available_cores, choose, make_slots, worker_environment
from anneal.launch.values import (
    Advanced,
    Began,
    Launcher,
    LaunchError,
    Listener,
    Outcome,
    Planned,
    Settled,
    Stopping,
    Stumbled,
    Task,
    ignore,
)
from anneal.plan.interrupts import PREEMPTED
from anneal.plan.memory import count_oom_kills
from anneal.plan.protocol import Done, Failed, Progress, Ready, Start
from anneal.plan.values import FailureClass
from anneal.store import Store
from anneal.values import Value

TICK_SECONDS = 0.2
"""Longest wait between two looks at signals and at processes that died without a word."""
SOUND: frozenset[FailureClass] = frozenset({"non_finite", "bad_data", "aborted", "network"})
"""Failures that leave a worker as it was."""


class Local(Value):
    """Settings of the local launcher."""

    kind: Literal["local"] = "local"
    slots: int | None = Field(None, gt=0)
    """Tasks side by side, or processes of one run; None is one a device, or as many as the cores
    allow."""
    threads: int = Field(1, gt=0)
    """CPU threads of one slot."""
    devices: tuple[str, ...] = ()
    """Values of CUDA_VISIBLE_DEVICES, dealt to the slots in turn: "0", "1", or "0,1" for two."""
    pin: bool = True
    """Give each slot CPU cores of its own."""
    retries: int = Field(2, ge=0)
    """How often a task is tried again that was killed, preempted, or let down by node, network or
    disk. What ran out of memory is tried once more, with half the micro-batch; nothing else is."""
    fail_fast: bool = False
    """At the first failure begin nothing more, and stop what is under way."""
    max_failures: int | None = Field(None, gt=0)
    """After this many failures begin nothing more; what is under way goes on."""
    grace_seconds: float = Field(30.0, ge=0)
    """How long workers may take to save their work when told to stop."""


class LocalLauncher(Launcher):
    """Carries tasks out in processes on this machine.

    Args:
        store: whose cache holds compiled kernels.
        settings: slots, threads, retries and the like.
        logs: folder of logs: `TASK.log`, and `slot-N-VERB.log` (`slot-N+M-VERB.log` of a group)
            for what has no task.
        slot_logs: another folder for the latter.
        command: words before `VERB --serve`.
        environment: added to the inherited environment of the workers; never logged.

    Raises:
        LaunchError: more cores asked than there are.
    """

    def __init__(
        self,
        store: Store,
        settings: Local | None = None,
        *,
        logs: Path,
        slot_logs: Path | None = None,
        command: Sequence[str] = (sys.executable, "-m", "anneal"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings if settings is not None else Local()
        threads, devices = self.settings.threads, self.settings.devices
        count = self.settings.slots or len(devices) or max(1, len(available_cores()) // threads)
        self.slots = make_slots(
            count,
            threads=threads,
            devices=devices,
            pin=self.settings.pin,
            environment=worker_environment(
                store, executable=command[0], inherited=os.environ, extra=environment or {}
            ),
        )
        self._logs = logs.absolute()
        slot_logs = slot_logs.absolute() if slot_logs else self._logs
        self._pool = Pool(self.slots, command=command, logs=slot_logs)
        self._served: set[str] = set()
        self._interrupts = 0

    def run(self, tasks: Sequence[Task], *, on_event: Listener = ignore) -> list[Outcome]:
        """Carries out `tasks`; see `Launcher.run`."""
        board = board_for(tasks, self, self.settings)
        on_event(Planned(tasks=tuple(tasks), slots=len(self.slots)))
        self.carry_out(board, on_event)
        return board.outcomes()

    def carry_out(self, board: Bookkeeping, on_event: Listener) -> None:
        """Carries out what a board gives until it is finished; raises as `run` does."""
        _announce(board, on_event)
        with self._catching_interrupts():
            try:
                while not board.finished and not self._interrupts:
                    self._hand_out(board, on_event)
                    self._listen(board, on_event)
                    if self.settings.fail_fast and board.failures:
                        self._stop_busy(board, on_event)
                if self._interrupts:
                    raise KeyboardInterrupt
            except BaseException:
                self._stop_busy(board, on_event)
                self.close()
                raise

    def admit(self, slots: int, *, what: str) -> None:
        """Checks that a task of so many slots could be carried out; see `Launcher.admit`."""
        if choose(self.slots, slots) is not None:
            return
        devices = {device for slot in self.slots for device in slot.devices}
        if len(self.slots) < slots:
            raise LaunchError(
                f"launcher: {what} takes {slots} slots, {len(self.slots)} exist",
                hint="raise launcher.slots (each has launcher.threads cores, and a device where"
                " there are any), or lower engine.processes",
            )
        raise LaunchError(
            f"launcher: {what} takes {slots} slots with a device each, "
            f"{len(self.slots)} slots share {len(devices)}: {','.join(sorted(devices))}",
            hint="name more in launcher.devices, or lower engine.processes; an empty"
            " CUDA_VISIBLE_DEVICES makes slots of CPU cores alone",
        )

    def close(self) -> None:
        """Ends the warm workers: they exit when their standard input ends."""
        self._pool.close()

    def _hand_out(self, board: Bookkeeping, on_event: Listener) -> None:
        while (task := board.next) is not None:
            group = self._pool.place(task)
            if group is None:
                return  # what is free is kept for it
            board.take()
            worker = self._pool.worker(group, task.verb)
            worker.hand(task, log=self._logs / f"{task.id}.log", now=time.monotonic())
            on_event(
                Began(
                    task=task.id,
                    slot=group.first,
                    beside=group.numbers[1:],
                    attempt=board.attempt(task),
                    warm=worker.ready,
                )
            )
        self._pool.get_ready(board.waiting())

    def _listen(self, board: Bookkeeping, on_event: Listener) -> None:
        """Waits a little for messages and deaths, and settles them."""
        self._pool.wait(TICK_SECONDS)
        for worker in self._pool.workers:
            # Asked first, so that what it said last is read below; asked at all, because
            # something that it forked may hold its pipe open after its death.
            dead = not worker.alive
            messages, closed = worker.messages()
            for message in messages:
                self._hear(worker, message, board, on_event)
            if (dead or closed) and worker in self._pool:
                self._mourn(worker, board, on_event)
            _announce(board, on_event)

    def _hear(
        self,
        worker: Worker,
        message: Ready | Start | Progress | Done | Failed,
        board: Bookkeeping,
        on_event: Listener,
    ) -> None:
        task = worker.task
        if isinstance(message, Ready):
            worker.ready = True
            self._served.add(worker.verb)
        if task is None or isinstance(message, Ready):
            return
        if isinstance(message, Start):
            worker.began = time.monotonic()
            slot = worker.group.first
            on_event(Advanced(task=task.id, slot=slot, done=0, total=task.total))
        elif isinstance(message, Progress):
            news = message.model_dump(exclude={"event"})
            on_event(Advanced(slot=worker.group.first, **news))
        elif isinstance(message, Failed):
            self._fail(worker, message.kind, message.message, board, on_event)
            if message.kind not in SOUND:
                worker.kill()
                self._pool.remove(worker)
        elif Path(task.done).exists():
            board.succeed(task, time.monotonic() - worker.began)
            worker.task = None
        else:
            problem = f"the worker said done and wrote no {task.done}"
            self._fail(worker, "bug", problem, board, on_event)

    def _mourn(self, worker: Worker, board: Bookkeeping, on_event: Listener) -> None:
        """Settles the task of a worker that ended, or is ending, by itself."""
        code = self._pool.remove(worker)
        task = worker.task
        if task is None:
            return
        if Path(task.done).exists():
            board.succeed(task, time.monotonic() - worker.began)
            worker.task = None
            return
        kind, cause = cause_of_death(code, oom_kills=count_oom_kills() - worker.oom_kills)
        if not worker.ready and 0 <= code < 128 and code != PREEMPTED:
            kind, cause = "bug", f"the worker does not start: {cause}: {tail(worker.log)}"
            if worker.verb not in self._served:
                raise LaunchError(
                    f"worker `{worker.verb}`: does not start ({tail(worker.log) or cause})",
                    hint=f"its log says why: {worker.log}",
                )
        self._fail(worker, kind, cause, board, on_event)

    def _fail(
        self,
        worker: Worker,
        kind: FailureClass,
        message: str,
        board: Bookkeeping,
        on_event: Listener,
    ) -> None:
        task = worker.task
        if task is None:
            return
        worker.task = None
        log = worker.task_log if worker.task_log.exists() else worker.log
        seconds = time.monotonic() - worker.began
        micro = shrink(task) if kind == "out_of_memory" and board.may_shrink(task) else None
        failure, retry = board.fail(
            task, kind, message, log=str(log), seconds=seconds, micro_batch=micro
        )
        on_event(
            Stumbled(
                task=task.id,
                slot=worker.group.first,
                failure=failure,
                retry=retry,
                again=task.again,
                micro_batch=micro if retry else None,
            )
        )

    def _stop_busy(self, board: Bookkeeping, on_event: Listener) -> None:
        """Stops every task under way, letting workers save; those tasks are missing."""
        board.halt("not begun: the launch was stopped")
        busy = self._pool.busy
        if busy:
            seconds = self.settings.grace_seconds
            on_event(Stopping(workers=len(busy), seconds=seconds))
        for worker in busy:
            worker.stop()
        interrupts = self._interrupts
        deadline = time.monotonic() + self.settings.grace_seconds
        while busy:
            impatient = time.monotonic() > deadline or self._interrupts > interrupts
            for worker in busy.copy():
                worker.messages()  # nobody is interested now, but a full pipe would block it
                if impatient:
                    worker.kill()
                if impatient or not worker.alive:
                    busy.remove(worker)
                    self._drop(worker, board)
            _announce(board, on_event)
            self._pool.wait(TICK_SECONDS if busy else 0)

    def _drop(self, worker: Worker, board: Bookkeeping) -> None:
        """Settles the task of a worker that was stopped on purpose."""
        self._pool.remove(worker)
        task, worker.task = worker.task, None
        if task is None:
            return
        seconds = time.monotonic() - worker.began
        if Path(task.done).exists():
            board.succeed(task, seconds)
        else:
            board.abandon(task, "stopped while under way", seconds=seconds)

    @contextmanager
    def _catching_interrupts(self) -> Iterator[None]:
        """Counts Ctrl-C instead of raising in the middle of whatever goes on."""
        self._interrupts = 0
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def count(number: int, frame: FrameType | None) -> None:
            self._interrupts += 1

        before = signal.signal(signal.SIGINT, count)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _announce(board: Bookkeeping, on_event: Listener) -> None:
    for outcome in board.news():
        on_event(Settled(outcome=outcome))


def on_gpus(settings: Local) -> Local:
    """`settings` with the machine's GPUs dealt to the slots, where none are named.

    CUDA_VISIBLE_DEVICES says which, else `nvidia-smi`; without either, slots are CPU cores.
    """
    if settings.devices:
        return settings
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        named = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    devices = tuple((named or "").replace("\n", ",").replace(" ", "").strip(",").split(","))
    return settings.model_copy(update={"devices": tuple(d for d in devices if d)})
