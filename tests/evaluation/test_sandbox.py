"""Real hostile programs in the real sandbox."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from anneal.errors import SettingsError
from anneal.evaluation.sandbox import run_program
from anneal.evaluation.values import Limits
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.integration

LIMITS = Limits(wall_seconds=120, cpu_seconds=2, output_bytes=10_000)

HOSTILE = {
    "infinite loop": ("while True:\n    pass", "timed_out", "2 s of CPU"),
    "ignores the CPU limit": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        "timed_out",
        "CPU",
    ),
    "10 GB": ("bytearray(10 * 10**9)", "out_of_memory", "bytes of memory"),
    "many small allocations": (
        "kept = []\nwhile True:\n    kept.append(bytes(10**6))",
        "out_of_memory",
        "bytes of memory",
    ),
    "huge file": (
        "with open('big', 'wb') as file:\n    while True:\n        file.write(bytes(2**20))",
        "failed",
        "File too large",
    ),
    "fork in vain": (
        "import os\nfor i in range(100):\n    if os.fork() == 0:\n"
        "        import time\n        time.sleep(60)",
        "failed",
        "BlockingIOError",
    ),
    "leaves early": ("import os\nos._exit(0)\nassert False", "failed", "before its tests"),
    "exits": ("import sys\nsys.exit(0)\nassert False", "failed", "SystemExit"),
    "quits": ("quit(0)", "failed", ""),
    "says that it passed": (
        "import os\nfor fd in range(3, 256):\n    try:\n        os.write(fd, b'passed 0')\n"
        "    except OSError:\n        pass\nos._exit(0)",
        "failed",
        "before its tests",
    ),
    "wrong": ("assert 1 + 1 == 3, 'no'", "failed", "AssertionError: no"),
    "raises": ("{}['x']", "failed", "KeyError"),
    "error that cannot be shown": (
        "class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E",
        "failed",
        "cannot be shown",
    ),
    "not Python": ("def f(:", "failed", "SyntaxError"),
    "null byte": ("x = '\0'", "failed", ""),
    "recursion": ("def f():\n    f()\nf()", "failed", "RecursionError"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "crashed", "SIGSEGV"),
    "aborts": ("import os\nos.abort()", "crashed", "SIGABRT"),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)", "crashed", "SIGKILL"),
    "input": ("input()", "failed", "EOFError"),
}
GOOD = {
    "plain": "assert sum(range(4)) == 6",
    "own files": "open('a', 'w').write('x')\nassert open('a').read() == 'x'",
    "temporary files": "import tempfile\nwith tempfile.TemporaryFile() as f:\n    f.write(b'x')",
    "threads": "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
    "closes its output": "import sys\nsys.stdout.close()",
    "a main block": "if __name__ == '__main__':\n    raise SystemExit(1)",
}


def run(program: str, limits: Limits = LIMITS):
    return run_program(program, limits, allow_execution=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_end_as_what_they_are(name):
    program, ended, message = HOSTILE[name]
    ran = run(program)
    assert (ran.ended, message in ran.message) == (ended, True), ran


@pytest.mark.parametrize("name", GOOD)
def test_good_programs_pass(name):
    ran = run(GOOD[name])
    assert ran.ended == "passed", ran


def test_nothing_runs_unless_someone_allowed_it():
    with pytest.raises(SettingsError, match="nobody has allowed it") as caught:
        run_program("assert True", LIMITS)
    assert "--run-programs" in caught.value.hint


def test_sleeping_is_ended_by_the_wall_clock():
    ran = run("import time\ntime.sleep(600)", LIMITS.model_copy(update={"wall_seconds": 1.0}))
    assert (ran.ended, "wall-clock" in ran.message) == ("timed_out", True)


def test_a_fork_bomb_is_bounded_and_leaves_nothing():
    before = set(psutil.pids())
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    ran = run(bomb, LIMITS.model_copy(update={"wall_seconds": 2.0}))
    assert ran.ended == "timed_out"
    mine = [p for p in set(psutil.pids()) - before if "program.py" in command(p)]
    assert not mine


def command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def test_what_it_leaves_in_the_background_is_ended():
    mark = uuid.uuid4().hex
    ran = run(
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  # {mark}'],"
        " start_new_session=True)"
    )
    assert ran.ended == "passed", ran
    assert not [pid for pid in psutil.pids() if mark in command(pid)]


def test_it_cannot_end_its_parent():
    ran = run("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nassert False, 'went on'")
    assert ran.ended in ("failed", "crashed")
    run("import os, signal\nos.kill(-1, signal.SIGKILL)")
    assert run("assert True").ended == "passed"


def test_output_is_bounded():
    ran = run("for i in range(1600):\n    print('x' * 2**16)")
    assert ran.ended == "passed"
    assert ran.output == "x" * 10_000


def test_output_of_a_failure_is_kept():
    assert run("print('so far')\nassert False").output == "so far\n"


def test_secrets_of_the_environment_are_not_there(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "hunter2-hunter2")
    ran = run(
        "import glob, os\n"
        "found = str(dict(os.environ))\n"
        "for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline'):\n"
        "    try:\n"
        "        found += open(path, 'rb').read().decode('latin-1')\n"
        "    except OSError:\n"
        "        pass\n"
        "print(sorted(os.environ))\n"
        "assert 'hunter2' not in found"
    )
    assert ran.ended == "passed", ran
    assert "API_TOKEN" not in ran.output


def test_no_network_not_even_to_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        ran = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).send(b'x')")
        if not ran.walls.network_cut:
            pytest.skip("no network namespaces here, and the record says so")
        assert (ran.ended, "unreachable" in ran.message) == ("failed", True)
        with pytest.raises(TimeoutError):
            server.accept()


def test_files_of_the_machine_are_hidden_or_read_only(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    tmp_path.chmod(0o777)
    ran = run(
        "import os\n"
        f"assert not os.path.exists({str(secret)!r})\n"
        "assert os.listdir('.') == [] and os.getcwd() == os.environ['HOME']\n"
        "for path in ('/etc/x', '/usr/x', '/var/x', '/run/x', '/dev/shm/x'):\n"
        "    try:\n"
        "        open(path, 'w')\n"
        "    except OSError:\n"
        "        continue\n"
        "    raise AssertionError(path)\n"
    )
    if not ran.walls.own_files:
        pytest.skip("no mount namespaces here, and the record says so")
    assert ran.ended == "passed", ran


def test_all_its_files_together_are_bounded():
    ran = run("for i in range(100):\n    open(str(i), 'wb').write(bytes(10**7))")
    if not ran.walls.own_files:
        pytest.skip("no mount namespaces here, and the record says so")
    assert (ran.ended, "No space left" in ran.message) == ("failed", True)


def test_it_has_no_privileges():
    ran = run(
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.umount2(b'/tmp', 2) != 0\n"
        "assert libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) != 0\n"
        "caps = [l for l in open('/proc/self/status') if l.startswith('CapEff')]\n"
        "assert int(caps[0].split()[1], 16) == 0, caps\n"
        "import resource\n"
        "try:\n"
        "    resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))\n"
        "except ValueError:\n"
        "    pass\n"
        "else:\n"
        "    raise AssertionError('limits can be raised')\n"
    )
    assert ran.ended == "passed", ran


AS_USER = """
P={python}
mount --rbind $P /mnt && mount -t tmpfs none /root -o mode=755 && mkdir -p $P || exit 1
mount --rbind /mnt $P && exec setpriv --reuid 1234 --regid 1234 --clear-groups "$@"
"""
SEVERAL = """
import sys
from anneal.evaluation.sandbox import run_program
from anneal.evaluation.values import Limits
limits = Limits(wall_seconds=120, cpu_seconds=1)
mark = sys.argv[1]
background = (
    "import subprocess, sys\\n"
    f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  # {mark}'],"
    " start_new_session=True)"
)
programs = ["assert True", "import os\\nos._exit(0)", "while True: pass", "bytearray(10**10)"]
for walls in (True, False):
    for program in [*programs, background]:
        ran = run_program(program, limits, allow_execution=True, walls=walls)
        print(ran.ended, ran.walls.own_processes)
"""


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="needs to be root")
def test_the_same_as_an_ordinary_user_and_without_namespaces():
    """Through a user namespace, then with limits and kills alone."""
    script = AS_USER.format(python=sys.base_prefix)
    mark = uuid.uuid4().hex
    words = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", SEVERAL, mark]
    home = {"HOME": "/nonexistent", "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, env=os.environ | home, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    ends = ["passed", "failed", "timed_out", "out_of_memory", "passed"]
    assert [line.split()[0] for line in lines] == ends * 2
    assert [line.split()[1] for line in lines[5:]] == ["False"] * 5
    time.sleep(0.1)
    assert not [pid for pid in psutil.pids() if mark in command(pid)]
