"""Runs on a Slurm cluster: a job array of shifts, and a coordinator that only looks on.

What runs on the cluster are *shifts* (`shift`), which find their own work in the orders, by leases.
The coordinator writes the orders, submits as many shifts as there is work for, and reads what they
wrote down: it tells no shift what to do next. So it may be closed, or killed, while they go on, and
one started again on the same folder finds them by their name and adopts them. Outcomes follow the
rules of every launcher (`board`); a result on disk decides before anything else.

It looks at files often and at Slurm seldom: one `squeue` in `poll_seconds`, for all its jobs. A
lease whose job is gone from there, or waits to run again, is ended at once; the rest is for the
observers of its heartbeat. Where ready tasks remain and too few shifts are left, it submits more.

* Ctrl-C: shifts save their work, give it back and end; waiting jobs are cancelled.
* SIGTERM, or the coordinator's end in any other way: jobs go on.

A run stays inside one node: several processes of one run take slots of one shift. Several nodes a
run would take one `srun` over the nodes of an allocation, where now is one worker; not built yet.
"""

from __future__ import annotations

import math
import shlex
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from pydantic import Field

from anneal.launch import jobs
from anneal.launch.board import Board, board_for
from anneal.launch.follow import Follower
from anneal.launch.orders import Desk, Orders, Work, take_away
from anneal.launch.process import tail
from anneal.launch.values import (
    Launcher,
    LaunchError,
    Listener,
    Outcome,
    Planned,
    Settled,
    Stopping,
    Task,
    ignore,
)
from anneal.store import Store, write

TICK_SECONDS = 1.0
"""Between two looks at what shifts wrote down; less where Slurm is asked as often."""
STUCK_SECONDS = 10.0
"""A job that waits for what never comes is given up after this time: a cluster that has just been
started or configured anew says so of any job for a moment."""
OUTAGE = 20
"""So many looks in a row Slurm may leave without an answer."""
BARREN = 2
"""So many arrays in a row may end before any of their shifts began."""


class Slurm(Work):
    """Settings of the Slurm launcher. Slots, threads and GPUs are those of one job."""

    kind: Literal["slurm"] = "slurm"
    jobs: int = Field(8, gt=0)
    """Elements of the job array at most: shifts side by side."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features of nodes, as `sbatch --constraint` has them."""
    gpu_type: str | None = None
    """As the cluster's generic resources name it: `h100`."""
    memory: str | None = None
    """Of one job, as `sbatch --mem` has it: `64G`."""
    time_limit: str | None = None
    """Of one job, as `sbatch --time` has it: `4:00:00`. A run may take longer: it is saved and goes
    on in the next."""
    save_seconds: int = Field(60, gt=0)
    """A job is told to save so long before its time is over."""
    sbatch: tuple[str, ...] = ()
    """Further options: `--exclude=node7`, `--reservation=pretraining`."""
    setup: tuple[str, ...] = ()
    """Lines of the job's script before the shift: `module load cuda/12.4`."""
    poll_seconds: float = Field(15.0, gt=0)
    """Between two questions to Slurm."""


class SlurmLauncher(Launcher):
    """Carries tasks out in shifts on a Slurm cluster.

    Args:
        store: on a file system that every node sees under the same path.
        settings: of the jobs and of the shifts in them.
        logs: folder of logs: `TASK.log`, and `slurm-JOB_N.log` of the shifts; orders and notes lie
            beside it in `cluster/`.
        command: words before `VERB --serve`.
        environment: added to the inherited environment of the jobs; never logged.
    """

    def __init__(
        self,
        store: Store,
        settings: Slurm | None = None,
        *,
        logs: Path,
        command: Sequence[str] = (sys.executable, "-m", "anneal"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings if settings is not None else Slurm()
        self._store = store
        self._logs = logs.absolute()
        self._command = tuple(command)
        self._environment = dict(environment or {})
        self._desk = Desk(self._logs.parent / "cluster")
        self._orders: Orders | None = None
        self._unfinished = False
        self._interrupts = 0
        self._leaving = False
        self._alive: dict[str, jobs.Job] = {}
        self._submitted: list[str] = []
        self._stuck: dict[str, float] = {}
        self._barren = 0
        self._outage = 0

    def run(self, tasks: Sequence[Task], *, on_event: Listener = ignore) -> list[Outcome]:
        """Carries out `tasks`; see `Launcher.run`."""
        board = board_for(tasks, self, self.settings)
        on_event(Planned(tasks=tuple(tasks), slots=self.settings.jobs * self.settings.slots))
        if board.finished:  # says nothing to shifts that may be at work on other tasks
            _announce(board, on_event)
            return board.outcomes()
        self._open(tasks)
        follower = Follower(self._desk, self._ordered, tasks, board, on_event)
        with self._catching_signals():
            try:
                _announce(board, on_event)
                self._go_on(tasks, board, follower, on_event)
                if self._leaving:
                    raise KeyboardInterrupt
                if self._interrupts:
                    self._cancel(board, follower, on_event)
                    raise KeyboardInterrupt
            except LaunchError:
                self._give_up()
                raise
        self._unfinished = False
        follower.leases.tidy({task.id for task in tasks if Path(task.done).exists()})
        return board.outcomes()

    def admit(self, slots: int, *, what: str) -> None:
        """Checks that a task of so many slots could be carried out; see `Launcher.admit`."""
        most = self.settings.slots
        if self.settings.gpus:  # two processes of one run on one GPU: NCCL refuses them
            most = min(most, self.settings.gpus)
        if slots > most:
            raise LaunchError(
                f"launcher: {what} takes {slots} slots, {most} exist in one job",
                hint="raise launcher.slots (and launcher.gpus, a GPU for each), or lower"
                " engine.processes; a run does not reach over several nodes yet",
            )

    def close(self) -> None:
        """Has shifts end that have nothing left to do; those of an unfinished launch go on."""
        if self._orders is not None and not self._unfinished and self._orders.state == "open":
            self._write(self._orders.model_copy(update={"state": "closed"}))

    @property
    def _ordered(self) -> Orders:
        assert self._orders is not None
        return self._orders

    def _open(self, tasks: Sequence[Task]) -> None:
        """Writes the orders; an unfinished launch whose jobs live is gone on with."""
        name = self._desk.folder / "name"
        if not name.exists():
            write(name, f"anneal-{uuid.uuid4().hex[:12]}")
        self._name = name.read_text(encoding="utf-8").strip()
        self._alive = jobs.jobs(self._name)
        before = self._desk.orders() if self._orders is None else None
        adopted = before is not None and before.state == "open" and bool(self._alive)
        if not adopted:
            self._desk.skip()
        self._submitted, self._barren, self._outage = [], 0, 0
        self._unfinished = True
        work = Work.model_validate(self.settings.model_dump(include=set(Work.model_fields)))
        self._write(
            Orders(
                launch=before.launch if before and adopted else uuid.uuid4().hex[:12],
                tasks=tuple(tasks),
                work=work,
                store=str(self._store.root),
                logs=str(self._logs),
                command=self._command,
            )
        )

    def _write(self, orders: Orders) -> None:
        self._orders = orders
        self._desk.write(orders)

    def _go_on(
        self, tasks: Sequence[Task], board: Board, follower: Follower, on_event: Listener
    ) -> None:
        looked = -math.inf
        while not board.finished and not self._interrupts:
            follower.read(self._alive)
            if not board.finished and time.monotonic() - looked >= self.settings.poll_seconds:
                self._look(tasks, board, follower)
                looked = time.monotonic()
            _announce(board, on_event)
            if not board.finished:
                time.sleep(min(TICK_SECONDS, self.settings.poll_seconds / 4))

    def _look(self, tasks: Sequence[Task], board: Board, follower: Follower) -> None:
        """Asks Slurm, ends leases of jobs that are gone, settles, submits what is missing."""
        follower.settle_done()
        leases = follower.leases
        claimed = leases.claimed()
        held = {task.id: leases.holder(task.id) for task in tasks if task.id in claimed}
        # Leases first: a job that Slurm does not know afterwards cannot make one any more.
        try:
            self._alive = jobs.jobs(self._name)
            self._outage = 0
        except jobs.Unreachable:
            self._outage += 1
            if self._outage >= OUTAGE:
                raise
            return
        for task, holder in held.items():
            if holder is None:
                continue
            job, ours = element(holder.owner, self._name)
            state = self._alive[job].state if job in self._alive else ""
            if ours and state in ("", "PENDING"):
                message = f"job {job} was ended by the cluster"
            elif leases.expired(holder):
                message = f"{holder.owner} gave no sign of life"
            else:
                continue
            take_away(self._desk, self._ordered, leases, task, message)
        follower.close_unheld({task for task, holder in held.items() if holder})
        self._check_waiting()
        self._submit_missing(board, follower)

    def _check_waiting(self) -> None:
        now = time.monotonic()
        for name, job in self._alive.items():
            if job.state != "PENDING" or job.reason not in jobs.HOPELESS:
                self._stuck.pop(name, None)
            elif now - self._stuck.setdefault(name, now) >= STUCK_SECONDS:
                raise LaunchError(
                    f"launcher: job {name} cannot start: Slurm says {job.reason}",
                    hint="ask for what a node has: see `sinfo -o '%P %c %m %G %f %l'`",
                )
        arrays = {name.partition("_")[0] for name in self._alive}
        for number in [n for n in self._submitted if n not in arrays]:
            self._submitted.remove(number)
            began = any((self._desk.folder / "notes").glob(f"{self._name}-{number}_*.jsonl"))
            self._barren = 0 if began else self._barren + 1
            if self._barren >= BARREN:
                log = self._logs / f"slurm-{number}_0.log"
                raise LaunchError(
                    f"launcher: jobs end before their shift begins ({tail(log) or 'no log'})",
                    hint=f"see {log} and `sacct -j {number}`; is the environment of this program"
                    " on every node under the same path?",
                )

    def _submit_missing(self, board: Board, follower: Follower) -> None:
        if board.halted:
            return
        alive = len(self._alive)  # one that is COMPLETING may be about to wait again
        wanted = sum(t.slots for t in (*board.ready, *follower.under_way))
        missing = min(self.settings.jobs, math.ceil(wanted / self.settings.slots)) - alive
        if missing > 0 and board.ready:
            number = self._submit(missing)
            self._submitted.append(number)
            for n in range(missing):
                self._alive[f"{number}_{n}"] = jobs.Job("PENDING", "")

    def _submit(self, count: int) -> str:
        asked = self.settings
        self._logs.mkdir(parents=True, exist_ok=True)
        script = self._desk.folder / "shift.sh"
        words = [sys.executable, "-m", "anneal", "shift", str(self._desk.folder)]
        # `exec`: the batch process, which Slurm signals, is then the shift itself.
        write(script, "\n".join(["#!/bin/bash", *asked.setup, f"exec {shlex.join(words)}", ""]))
        options: dict[str, object] = {
            "job-name": self._name,
            "array": f"0-{count - 1}",
            "nodes": 1,
            "ntasks": 1,
            "cpus-per-task": asked.slots * asked.threads,
            "signal": f"B:USR1@{asked.save_seconds}",
            "output": f"{self._logs}/slurm-%A_%a.log",
            "open-mode": "append",
            "export": "ALL",
            "partition": asked.partition,
            "account": asked.account,
            "qos": asked.qos,
            "constraint": asked.constraint,
            "mem": asked.memory,
            "time": asked.time_limit,
            "gres": None,
        }
        if asked.gpus:
            kind = f"{asked.gpu_type}:" if asked.gpu_type else ""
            options["gres"] = f"gpu:{kind}{asked.gpus}"
        given = [f"--{key}={value}" for key, value in options.items() if value is not None]
        return jobs.submit(script, ["--requeue", *given, *asked.sbatch], self._environment)

    def _cancel(self, board: Board, follower: Follower, on_event: Listener) -> None:
        """Stops every shift, letting workers save; a second Ctrl-C ends them at once."""
        board.halt("not begun: the launch was stopped")
        self._write(self._ordered.model_copy(update={"state": "stop"}))
        seconds, interrupts = self.settings.grace_seconds, self._interrupts
        busy = len(follower.under_way)
        if busy:
            on_event(Stopping(workers=busy, seconds=seconds))
        jobs.cancel(self._name, "--state=PENDING")
        jobs.cancel(self._name, "--signal=TERM", "--batch")
        deadline = time.monotonic() + seconds
        while follower.under_way and self._interrupts == interrupts:
            follower.read(self._alive)
            _announce(board, on_event)
            if time.monotonic() > deadline:
                break
            time.sleep(min(TICK_SECONDS, self.settings.poll_seconds / 4))
        jobs.cancel(self._name)
        follower.settle_done(at_once=True)
        follower.abandon()
        _announce(board, on_event)

    def _give_up(self) -> None:
        """No shift could do anything: ends them all."""
        self._write(self._ordered.model_copy(update={"state": "stop"}))
        try:
            jobs.cancel(self._name)
        except LaunchError:  # the first error is the one to tell
            return

    @contextmanager
    def _catching_signals(self) -> Iterator[None]:
        """Counts Ctrl-C instead of raising; SIGTERM leaves the jobs alone."""
        self._interrupts, self._leaving = 0, False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def count(number: int, frame: FrameType | None) -> None:
            self._interrupts += 1

        def leave(number: int, frame: FrameType | None) -> None:
            self._leaving = True
            self._interrupts += 1
            former = before[signal.SIGTERM]
            if callable(former):  # it knows what exit code follows
                former(number, frame)

        before: dict[int, Any] = {}
        for caught, handler in ((signal.SIGINT, count), (signal.SIGTERM, leave)):
            before[caught] = signal.signal(caught, handler)
        try:
            yield
        finally:
            for number, former in before.items():
                signal.signal(number, former)


def element(owner: str, name: str) -> tuple[str, bool]:
    """Of which array element (`123_4`) the owner of a lease is, and whether it is of these jobs."""
    ours = owner.startswith(f"{name}-")
    return (owner[len(name) + 1 :].rpartition(".")[0] if ours else ""), ours


def _announce(board: Board, on_event: Listener) -> None:
    for outcome in board.news():
        on_event(Settled(outcome=outcome))
