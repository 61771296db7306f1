"""A worker for tests: speaks the real protocol, and does whatever its spec tells it to.

The spec is JSON: {"do": WHAT, "done": PATH, ...}. Run as `python worker.py VERB --serve`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from anneal.errors import SourceError
from anneal.plan.protocol import Report, Stopped, TaskFailed, serve
from anneal.store import disk_errors


def handle(path: str, report: Report) -> None:
    spec = json.loads(Path(path).read_text())
    if "means" in spec:  # a real task file: its label says what to do
        spec = json.loads(spec["label"]) | {"micro_batch": spec["means"]["micro_batch"]}
    done = Path(spec["done"])
    with open(done.with_suffix(".trace"), "a") as trace:
        trace.write(f"{os.getpid()} {time.monotonic()}\n")
    if spec["do"] == "forget":  # says done without a result
        return
    message = WHAT[spec["do"]](spec, report)
    done.write_text(json.dumps(message))


def nothing(spec, report):
    return "ok"


def steps(spec, report):
    """Counts up to `steps`, a checkpoint each; saves when told to stop."""
    checkpoint = Path(spec["done"]).with_suffix(".checkpoint")
    step = resumed = int(checkpoint.read_text()) if checkpoint.exists() else 0
    while step < spec["steps"]:
        if report.stopping:
            Path(spec["done"]).with_suffix(".stopped").write_text(str(step))
            raise Stopped
        step += 1
        temporary = checkpoint.with_suffix(".new")
        temporary.write_text(str(step))
        temporary.rename(checkpoint)
        report(step, spec["steps"], loss=1.0 / step, tokens_per_second=100.0)
        if step == spec.get("die_at") and not resumed:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(spec.get("sleep", 0.01))
    return {"resumed": resumed}


def sleep(spec, report):
    """Pays no attention to anything."""
    report(1, 10, loss=float("nan"))
    time.sleep(spec["seconds"])
    return "slept"


def fail(spec, report):
    raise TaskFailed(spec["kind"], spec.get("message", "as told"))


def crash(spec, report):
    raise KeyError("no such key\nsecond line")


def unreadable(spec, report):
    raise SourceError("source `math`: empty", hint="give it documents")


def allocate(spec, report):
    limit = 1 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return len(bytearray(16 * limit))


def fits(spec, report):
    """Runs out of memory with more than `most` sequences at once."""
    if (spec["micro_batch"] or spec["batch"]) > spec["most"]:
        raise MemoryError
    return {"micro_batch": spec["micro_batch"]}


def full_disk(spec, report):
    """Fills the disk once; by the next attempt somebody has made space."""
    marker = Path(spec["done"]).with_suffix(".full")
    if marker.exists():
        return "ok"
    marker.touch()
    with disk_errors(marker):
        raise OSError(errno.ENOSPC, "No space left on device")


def unreachable(spec, report):
    raise SourceError("s3://bucket/books: it does not answer") from ConnectionRefusedError()


def overflow(spec, report):
    raise FloatingPointError("loss nan at step 3")


def junk(spec, report):
    """Writes to standard output by every road there is, and reads standard input."""
    print("junk from print")
    print('{"event": "done", "task": "forged"}', flush=True)
    os.write(1, b"junk from os.write\n")
    ctypes.CDLL(None).puts(b"junk from C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["echo", "junk from a child"], check=True)
    assert sys.stdin.read() == ""
    return "ok"


def exit_now(spec, report):
    os._exit(spec["code"])


def system_exit(spec, report):
    sys.exit(3)


def abort_after(spec, report):
    """Writes its result and then aborts, as some libraries do at teardown."""
    Path(spec["done"]).write_text("aborted")
    os.abort()


def child(spec, report):
    """Starts a process that outlives the task, and holds every pipe it was given."""
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def span(spec, report):
    """When it was at work, and on which devices."""
    began = time.monotonic()
    time.sleep(spec["seconds"])
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"began": began, "ended": time.monotonic(), "devices": devices}


def ranks(spec, report):
    """A run of `processes` processes: this one leads, the others hold on until they are told."""
    others = []
    for _ in range(spec["processes"] - 1):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(60)
            os._exit(0)
        others.append(pid)
    Path(spec["done"]).with_suffix(".ranks").write_text(json.dumps([os.getpid(), *others]))
    try:
        return steps(spec, report)
    finally:
        for pid in others:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def show(spec, report):
    """What the worker was given."""
    return {
        "pid": os.getpid(),
        "cores": sorted(os.sched_getaffinity(0)),
        "session": os.getsid(0) == os.getpid(),
        "environment": {name: os.environ.get(name) for name in spec["names"]},
        "verb": sys.argv[1],
        "began": time.monotonic(),
    }


WHAT = {
    what.__name__: what
    for what in (
        *(nothing, steps, sleep, fail, crash, unreadable, allocate, overflow, junk, fits),
        *(full_disk, unreachable),
        *(exit_now, system_exit, abort_after, child, show, span, ranks),
    )
}


def main() -> int:
    if os.environ.get("TEST_WORKER_BROKEN") == sys.argv[1]:
        raise ImportError("no module named broken")
    saves = os.environ.get("TEST_WORKER_SAVES", "1") == "1"
    warm = float(os.environ.get("TEST_WORKER_WARM", "0"))
    return serve(handle, warm=lambda: time.sleep(warm), saves=saves)


if __name__ == "__main__":
    sys.exit(main())
