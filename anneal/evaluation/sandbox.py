"""A sandbox: one program that a model wrote, run where it can do little harm.

    who it is      another user (when we are root), without privileges, without our environment
    what it sees   its own PID and IPC namespaces and /proc, no network, no homes, a read-only disk,
                   and a small folder of its own in memory
    what it may    so many CPU seconds, bytes of memory, of disk, processes, open files
    how it ends    its process is waited for until a deadline, then everything it started is killed

Namespaces come from `unshare` (util-linux): as root directly, otherwise through a user namespace.
Where the kernel allows neither, limits and kills alone are left, and every record says so
(`Walls`). This keeps accidents and careless code in. It is no defence against an attack on the
kernel: such programs belong in a virtual machine.

A program counts as passed only when the driver around it hands back a random word after the last
line of its tests, and its process then ends by itself with status 0. Leaving early, by whatever
exit, is a failure. A program that goes through the open files of its own process could find the
word: the count is of models that do not attack their judge.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from anneal.errors import SettingsError
from anneal.evaluation.values import Ended, Limits, Ran, Walls

INSIDE = Path(__file__).with_name("sandbox_inside.py")
NAMESPACES = ("--net", "--pid", "--ipc", "--mount", "--fork", "--kill-child")
HIDDEN = ("/root", "/home", "/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108
"""Folders that programs find empty, besides our own home."""
FOLDER = "/tmp"  # noqa: S108
"""The program's own folder, where it has files of its own."""
FIRST_USER, USERS = 61_184, 4_000
"""User numbers that no distribution gives to anyone (systemd's range for passing services)."""
GRACE_SECONDS = 1.0
"""For the last output to arrive, after everything was killed."""
LIMITS = Limits()


def run_program(
    program: str, limits: Limits = LIMITS, *, allow_execution: bool = False, walls: bool = True
) -> Ran:
    """Runs one program to its end, or to its limits.

    Args:
        program: Python source; it passes when its last line is reached without an exception.
        limits: what it may use.
        allow_execution: must be True: someone has to answer for running what a model wrote.
        walls: False does without namespaces, as on a machine that has none.

    Raises:
        SettingsError: execution was not allowed, or no sandbox can be set up here.
    """
    if not allow_execution:
        raise SettingsError(
            "programs written by a model would be run, and nobody has allowed it",
            hint="see what the sandbox does and does not keep in, then give --run-programs",
        )
    return _run(program, limits, _rung() if walls else _Rung("limits"))


@dataclass(frozen=True)
class _Rung:
    """One way of setting the sandbox up, the strongest first in `_rung`."""

    kind: str

    @property
    def words(self) -> list[str]:
        if self.kind == "limits":
            return []
        user = ["--map-root-user"] if self.kind == "user namespace" else []
        return ["unshare", *user, *NAMESPACES, "--"]

    @property
    def walls(self) -> Walls:
        apart = bool(self.words)
        return Walls(
            network_cut=apart,
            own_processes=apart,
            own_files=apart,
            other_user=apart or os.getuid() == 0,
        )


@cache
def _rung() -> _Rung:
    """The strongest sandbox that runs a trivial program here."""
    kinds = ["namespaces" if os.getuid() == 0 else "user namespace", "limits"]
    if shutil.which("unshare") is None:
        kinds = kinds[1:]
    ran = None
    for kind in kinds:
        ran = _run("assert True", LIMITS, _Rung(kind))
        if ran.ended == "passed":
            return _Rung(kind)
    assert ran is not None
    raise SettingsError(
        f"sandbox: not even a program of one line runs in it ({ran.message})",
        hint="the Python that runs anneal must be readable by every user; or do not run as root",
    )


@dataclass
class _Watched:
    """What came out of the sandbox while it ran."""

    output: bytearray = field(default_factory=bytearray)
    report: bytearray = field(default_factory=bytearray)
    late: bool = False


def _run(program: str, limits: Limits, rung: _Rung) -> Ran:
    nonce = secrets.token_hex(16)
    began = time.monotonic()
    # with files of its own the program's folder is inside; this one then only gives a name
    with tempfile.TemporaryDirectory(prefix="anneal-program-", ignore_cleanup_errors=True) as made:
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as report:
            asked = _asked(program, limits, nonce, rung, writing, made)
            try:
                process = _start(rung, writing)
            finally:
                os.close(writing)
            try:
                seen = _watch(process, rung, asked, report, limits)
            finally:
                _kill(process, rung, int(asked["uid"]))
                assert process.stdout is not None
                process.stdout.close()
    told = json.loads(seen.report) if seen.report else {}
    ended, message = _judged(told, seen.late, nonce, limits)
    return Ran(
        ended=ended,
        message=message,
        output=bytes(seen.output).decode("utf-8", "replace"),
        seconds=time.monotonic() - began,
        walls=rung.walls,
    )


def _asked(
    program: str, limits: Limits, nonce: str, rung: _Rung, report: int, made: str
) -> dict[str, Any]:
    """What the inside is told."""
    python = getattr(sys, "_base_executable", sys.executable)
    uid = FIRST_USER + secrets.randbelow(USERS) if os.getuid() == 0 else 0
    home = os.path.expanduser("~")  # `Path.home` raises where there is none
    apart = rung.walls.own_files
    if not apart and uid:
        os.chown(made, uid, uid)
    return limits.model_dump() | {
        "program": program,
        "nonce": nonce,
        "report": report,
        "walls": apart,
        "folder": FOLDER if apart else made,
        "uid": uid,
        # where users are not counted apart, our own processes count too
        "processes": limits.processes + (0 if apart or uid else _own_processes()),
        "python": python,
        "hidden": [*HIDDEN, *([home] if len(Path(home).parts) > 1 else [])],
        "shown": [sys.base_prefix],
    }


def _own_processes() -> int:
    """Processes and threads of our user."""
    import psutil

    count = 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        if process.info["uids"] and process.info["uids"].real == os.getuid():
            count += process.info["num_threads"] or 1
    return count


def _start(rung: _Rung, report: int) -> subprocess.Popen[bytes]:
    python = getattr(sys, "_base_executable", sys.executable)
    return subprocess.Popen(
        [*rung.words, python, "-I", "-S", "-X", "utf8", "-c", INSIDE.read_text(encoding="utf-8")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(report,),
        start_new_session=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"},
    )


def _watch(
    process: subprocess.Popen[bytes],
    rung: _Rung,
    asked: dict[str, Any],
    report: IO[bytes],
    limits: Limits,
) -> _Watched:
    """Hands the program in, and takes what comes out until the report is in or time is up."""
    seen = _Watched()
    deadline = time.monotonic() + limits.wall_seconds
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):  # it ended at once; the report will be missing
        process.stdin.write(json.dumps(asked).encode())
        process.stdin.close()
    os.set_blocking(process.stdout.fileno(), False)
    os.set_blocking(report.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ, (seen.output, limits.output_bytes))
        ready.register(report, selectors.EVENT_READ, (seen.report, 2**16))
        while _open(ready, report):
            left = deadline - time.monotonic()
            if left <= 0:
                seen.late = True
                break
            _take(ready, left)
        # all is decided: end it, then take the output that is still in the pipe
        _kill(process, rung, int(asked["uid"]))
        until = time.monotonic() + GRACE_SECONDS
        while _open(ready, process.stdout) and time.monotonic() < until:
            if not _take(ready, 0.05):
                break
    return seen


def _open(ready: selectors.BaseSelector, file: object) -> bool:
    return any(key.fileobj is file for key in ready.get_map().values())


def _take(ready: selectors.BaseSelector, seconds: float) -> bool:
    """Reads what is there; whether anything was."""
    events = ready.select(seconds)
    for key, _ in events:
        data = os.read(key.fd, 2**16)
        if not data:
            ready.unregister(key.fileobj)
        kept, room = key.data
        kept += data[: max(0, room - len(kept))]
    return bool(events)


def _kill(process: subprocess.Popen[bytes], rung: _Rung, uid: int) -> None:
    """Ends everything. A PID namespace dies with its first process; without one, what descends from
    the program is looked for, and what runs under its user."""
    import psutil

    if process.returncode is not None:
        return
    others = []
    if not rung.walls.own_processes:
        with suppress(psutil.NoSuchProcess):
            others = psutil.Process(process.pid).children(recursive=True)
        if uid:
            others += [
                other
                for other in psutil.process_iter(["uids"])
                if other.info["uids"] and other.info["uids"].real == uid
            ]
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in others:
        with suppress(psutil.NoSuchProcess):
            other.kill()
    process.wait()


def _judged(told: dict[str, Any], late: bool, nonce: str, limits: Limits) -> tuple[Ended, str]:
    """How it ended, and why: the first of these that is so."""
    if late:
        return "timed_out", f"more than {limits.wall_seconds:g} s of wall-clock"
    if "answer" not in told:
        return "crashed", str(told.get("error", "the sandbox itself was ended"))
    answer, code = str(told["answer"]), int(told["code"])
    killed = code == -signal.SIGKILL
    word, _, rest = answer.partition(" ")
    signalled = f"ended by {signal.Signals(-code).name}" if code < 0 else ""
    cases: tuple[tuple[bool, Ended, str], ...] = (
        (answer == f"passed {nonce}" and code == 0, "passed", ""),
        (
            code == -signal.SIGXCPU or (killed and told["cpu_seconds"] >= limits.cpu_seconds),
            "timed_out",
            f"more than {limits.cpu_seconds} s of CPU time",
        ),
        (
            word == "memory" or (killed and told["memory_bytes"] >= 0.9 * limits.memory_bytes),
            "out_of_memory",
            f"more than {limits.memory_bytes:,} bytes of memory",
        ),
        (code < 0, "crashed", signalled),
        (word == "failed", "failed", rest),
        (word == "start", "crashed", f"it could not be started: {rest}"),
        (True, "failed", f"left with status {code} before its tests were through"),
    )
    return next((ended, message) for is_so, ended, message in cases if is_so)
