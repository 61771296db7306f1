"""What runs inside the sandbox: it builds the walls, then lets one program run between them.

This file is handed to a bare interpreter as text (`python -I -S -c`) and never imported by
`anneal`: it needs nothing but the standard library. Its process is the first of its PID namespace,
so that when it ends, the kernel ends everything that the program may have left behind.

    stdin   a JSON object: program, limits, nonce, what walls to build
    stdout  the program's output, as it comes
    report  (a file descriptor) one JSON object: how the program ended, and what it answered

The program runs in a process of its own, under a driver of a few lines. The driver passes on the
nonce only after the last line of the tests. Until then the nonce lies in a pipe whose number is
drawn at random: code that tries hard to find it can, code that merely leaves early cannot.
"""

import ctypes
import json
import os
import random
import resource
import signal
import sys
import time
from typing import Any

DRIVER = """
import json, os, sys
with open(3, "rb") as pipe:
    nonce_at, answer_at = json.loads(pipe.readline())
    source = pipe.read()
def answer(word, read=os.read, write=os.write, leave=os._exit):
    try:
        sys.stdout.flush()
    except BaseException:
        pass
    write(answer_at, word if word else b"passed " + read(nonce_at, 64))
    leave(1 if word else 0)
try:
    exec(compile(source, "program.py", "exec"), {"__name__": "program"})
except MemoryError:
    word = b"memory"
except BaseException as error:
    try:
        text = "failed %s: %s" % (type(error).__name__, error)
    except BaseException:
        text = "failed with an error that cannot be shown"
    word = text.encode("utf-8", "replace")[:600]
else:
    word = b""
answer(word)
"""
ANSWER_BYTES = 4096
FIRST_HIDDEN_FD = 64

# linux/mount.h, linux/prctl.h, x86-64 and arm64 share the number of mount_setattr
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC = 2, 4, 8, 4096, 16384
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 24, 36, 38
CAPABILITIES = 64

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Builds the walls, runs the program, reports."""
    asked = json.loads(sys.stdin.buffer.read())
    report = int(asked["report"])
    os.set_inheritable(report, False)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.alarm(int(asked["wall_seconds"]) + 5)  # should whoever waits for us be killed
    try:
        if asked["walls"]:
            files(asked)
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # the nonce is in this memory
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        told = run(asked)
    except OSError as error:
        told = {"error": f"{error}"}
    os.write(report, json.dumps(told).encode())


def files(asked: dict[str, Any]) -> None:
    """Own /proc; homes, temporary and run-time folders hidden; the rest read-only; a small /tmp."""
    kept = [(path, os.open(path, os.O_PATH)) for path in asked["shown"]]
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:  # refused where parts of /proc are covered: an empty one will do
        mount("none", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "size=4k")
    for path in asked["hidden"]:
        if os.path.isdir(path) and not os.path.islink(path):
            mount("none", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755")
    for path, handle in kept:
        if not os.path.isdir(path):
            os.makedirs(path)
            os.fchdir(handle)
            mount(".", path, "", MS_BIND | MS_REC)
        os.close(handle)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    done = libc.syscall(
        SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attributes), size
    )
    check(done, "read-only files")
    owner = f"uid={asked['uid']},gid={asked['uid']}," if asked["uid"] else ""
    room = f"{owner}size={asked['disk_bytes']},mode=700"
    mount("none", asked["folder"], "tmpfs", MS_NOSUID | MS_NODEV, room)


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Runs the program in a process of its own and waits for its end."""
    hidden = random.Random(os.urandom(8))  # noqa: S311
    numbers = hidden.sample(range(FIRST_HIDDEN_FD, asked["open_files"]), 2)
    program, nonce, answer = os.pipe(), os.pipe(), os.pipe()
    os.write(nonce[1], asked["nonce"].encode())
    os.close(nonce[1])
    child = os.fork()
    if child == 0:
        try:
            inside(asked, {program[0]: 3, nonce[0]: numbers[0], answer[1]: numbers[1]})
        except OSError as error:
            os.write(answer[1], f"start {error}".encode())
        finally:
            os._exit(1)
    for mine in (program[0], nonce[0], answer[1]):
        os.close(mine)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        with open(program[1], "wb") as pipe:
            pipe.write(json.dumps(numbers).encode() + b"\n" + asked["program"].encode())
    except BrokenPipeError:
        pass
    ended, status, used = os.wait4(-1, 0)
    while ended != child:  # orphans come to the first process
        ended, status, used = os.wait4(-1, 0)
    if not asked["walls"]:
        end_children()
    os.set_blocking(answer[0], False)
    try:
        said = os.read(answer[0], ANSWER_BYTES).decode("utf-8", "replace")
    except BlockingIOError:  # something the program left behind holds the other end
        said = ""
    return {
        "answer": said,
        "code": os.waitstatus_to_exitcode(status),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "memory_bytes": used.ru_maxrss * 1024,
    }


def end_children() -> None:
    """Kills what the program left behind, and what comes to us from that, until nothing does."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = file.read().rpartition(b")")[2].split()[1]
                if int(parent) == os.getpid():
                    os.kill(int(name), signal.SIGKILL)
            except OSError:  # gone already
                pass
        time.sleep(0.001)


def inside(asked: dict[str, Any], pipes: dict[int, int]) -> None:
    """The child, up to the driver: limits, no privileges, no files open but its own."""
    limits = {
        resource.RLIMIT_CPU: (asked["cpu_seconds"], asked["cpu_seconds"] + 1),
        resource.RLIMIT_AS: (asked["memory_bytes"],) * 2,
        resource.RLIMIT_FSIZE: (asked["file_bytes"],) * 2,
        resource.RLIMIT_NOFILE: (asked["open_files"],) * 2,
        resource.RLIMIT_NPROC: (asked["processes"],) * 2,
        resource.RLIMIT_CORE: (0, 0),
    }
    os.chdir(asked["folder"])
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    # first out of the way of each other's numbers
    moved = {os.dup(old): new for old, new in pipes.items()}
    for old, new in moved.items():
        if old != new:
            os.dup2(old, new)
        os.set_inheritable(new, True)
    for old in moved:
        if old not in moved.values():
            os.close(old)
    for kind, limit in limits.items():
        resource.setrlimit(kind, limit)
    if asked["uid"]:
        os.setgroups([])
        os.setresgid(*(asked["uid"],) * 3)
        os.setresuid(*(asked["uid"],) * 3)
    for capability in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in (signal.SIGALRM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(0)
    python = asked["python"]
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    environment |= dict.fromkeys(("HOME", "TMPDIR"), asked["folder"])
    os.execve(python, [python, "-I", "-X", "utf8", "-c", DRIVER], environment)  # noqa: S606


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    words = (source.encode(), target.encode(), kind.encode())
    check(libc.mount(*words, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def check(done: int, what: str) -> None:
    """Raises what the kernel said."""
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
