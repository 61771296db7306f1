"""A real Slurm of one node for tests: started on loopback, stopped at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SCRIPT = Path(__file__).with_name("slurm_up.sh")


def absent() -> str:
    """Why no cluster can be started here; empty when one can."""
    programs = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "munged", "mariadbd")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid():
        return "a Slurm of one's own has to be started as root"
    return ""


@contextmanager
def cluster() -> Iterator[str]:
    """Starts one; yields the path of its `slurm.conf`."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # pytest's own are closed to mysql
    folder.chmod(0o755)
    with open(folder / "up.log", "wb") as log:
        done = subprocess.run(
            [str(SCRIPT), str(folder)], stdout=log, stderr=log, timeout=120, check=False
        )
    try:
        assert done.returncode == 0, (folder / "up.log").read_text()
        yield str(folder / "slurm.conf")
    finally:
        for name in ("run/slurmd.pid", "run/slurmctld.pid", "run/slurmdbd.pid", "mysql/my.pid"):
            stop(folder / name)
        shutil.rmtree(folder, ignore_errors=True)


def stop(path: Path) -> None:
    """Ends the process whose number is in a file."""
    with suppress(OSError, ValueError):
        pid = int(path.read_text())
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.1)
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
