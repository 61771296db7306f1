"""A shift: carries tasks out inside one allocation, for as long as there are any.

`python -m anneal shift FOLDER` is what a job of a cluster runs. It looks at the orders (`orders`),
claims one ready task after another (`shared`), and has the warm workers of the local launcher carry
it out. Many small runs thus share one allocation, one start of Python and one compilation.

It ends when nothing has been there to do for a while, when it is told to by the orders, or by a
signal: SIGTERM (the job is cancelled or preempted) and SIGUSR1 (its time is nearly over). Workers
then save, leases are given back, and it exits with 75. After SIGUSR1 it asks Slurm to queue the
job again, so that work goes on while no coordinator is there to look.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from anneal.launch.leases import Leases
from anneal.launch.local import Local, LocalLauncher, on_gpus
from anneal.launch.orders import (
    Desk,
    Note,
    Orders,
    leases_of,
    take_away,
)
from anneal.launch.shared import Shared
from anneal.launch.values import Advanced, Began, Event, LaunchError
from anneal.plan.interrupts import PREEMPTED, interrupt
from anneal.store import Store

NOTE_SECONDS = 1.0
"""Between two notes of how far one task is."""
QUEUE_AGAIN_SECONDS = 30.0
"""How long Slurm may take to answer."""


def shift(folder: Path) -> int:
    """Carries tasks out until there are none or it is told to stop.

    Args:
        folder: holds `tasks.json`.

    Returns:
        The exit code: 0, or 75 when it was told to stop.

    Raises:
        LaunchError: no orders, or workers that cannot be started.
    """
    desk = Desk(folder)
    orders = desk.orders()
    if orders is None:
        raise LaunchError(
            f"shift {folder}: no tasks.json there", hint="a launcher writes it and starts shifts"
        )
    name = shift_name(desk, os.environ)
    leases = leases_of(orders, name)
    board: Shared | None = None
    stop = _listen()
    try:
        desk.note(name, Note(kind="present"))
        _end_former(desk, orders, leases, name)
        with _launcher(desk, orders, name) as launcher:
            board = Shared(desk, orders, leases, name, stop)
            launcher.carry_out(board, Teller(desk, name))
    except KeyboardInterrupt:
        pass
    except LaunchError as error:
        desk.note(name, Note(kind="broken", message=error.what, hint=error.hint))
        raise
    finally:
        leases.leave()
    if signal.SIGUSR1 in stop and (board is None or board.left):
        _queue_again()
    return PREEMPTED if stop else 0


class Teller:
    """Writes the events of the local launcher down as notes."""

    def __init__(self, desk: Desk, shift: str) -> None:
        self._desk = desk
        self._shift = shift
        self._told: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Began):
            known = event.model_dump(include={"task", "slot", "beside", "warm"})
            self._desk.note(self._shift, Note(kind="began", **known))
        elif isinstance(event, Advanced):
            now = time.monotonic()
            early = now - self._told.get(event.task, -1e9) < NOTE_SECONDS
            if early and event.done < event.total:
                return
            self._told[event.task] = now
            self._desk.note(self._shift, Note(kind="advanced", **event.model_dump()))


def shift_name(desk: Desk, environment: Mapping[str, str]) -> str:
    """A name unlike any other shift's: `JOBS-123_4.5` is the fifth restart of element 4 of job 123.

    Args:
        desk: its folder knows what the jobs are called.
        environment: of the process.
    """
    job = environment.get("SLURM_ARRAY_JOB_ID")
    if job is None:
        return f"{socket.gethostname()}-{os.getpid()}"
    path = desk.folder / "name"
    jobs = path.read_text(encoding="utf-8").strip() if path.exists() else "anneal"
    restart = environment.get("SLURM_RESTART_COUNT", "0")
    return f"{jobs}-{job}_{environment['SLURM_ARRAY_TASK_ID']}.{restart}"


def _end_former(desk: Desk, orders: Orders, leases: Leases, name: str) -> None:
    """Takes the leases of this very job from before Slurm queued it again: that process is gone."""
    job, _, restart = name.rpartition(".")
    if not restart.isdecimal():
        return
    for task in leases.claimed():
        holder = leases.holder(task)
        if holder is not None and holder.owner.rpartition(".")[0] == job:
            take_away(desk, orders, leases, task, f"{holder.owner} was ended by the cluster")


def _launcher(desk: Desk, orders: Orders, name: str) -> LocalLauncher:
    """The local launcher over what this allocation has."""
    work = orders.work
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    # Without a task plugin Slurm binds nothing. Then the first cores are not ours more than those
    # of the other shifts on this node, and pinning to them would have all of them share.
    bound = hasattr(os, "sched_getaffinity") and cores == str(len(os.sched_getaffinity(0)))
    settings = Local(
        slots=work.slots,
        threads=work.threads,
        pin=bound and work.slots * work.threads <= int(cores or 0),
        retries=work.retries,
        fail_fast=work.fail_fast,
        max_failures=work.max_failures,
        grace_seconds=work.grace_seconds,
    )
    logs = Path(orders.logs)
    logs.mkdir(parents=True, exist_ok=True)
    return LocalLauncher(
        Store(orders.store),
        on_gpus(settings) if work.gpus else settings,
        logs=logs,
        slot_logs=desk.folder / "slots" / name,
        command=orders.command,
    )


def _listen() -> list[int]:
    """Has SIGTERM and SIGUSR1 stop the local launcher once, as Ctrl-C would."""
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if len(told) == 1:  # a second one would have workers killed
            interrupt(frame)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
    return told


def _queue_again() -> None:
    """Asks Slurm to run this job again; where it refuses, a coordinator submits another."""
    job, scontrol = os.environ.get("SLURM_JOB_ID"), shutil.which("scontrol")
    if job is None or scontrol is None:
        return
    try:
        subprocess.run([scontrol, "requeue", job], timeout=QUEUE_AGAIN_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"shift: not queued again: {error}", file=sys.stderr)
