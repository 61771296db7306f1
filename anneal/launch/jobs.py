"""Slurm's own commands: submit an array, ask after all jobs at once, cancel.

Commands are lists of words, never a shell's text, and what Slurm says against them stands in the
error. Jobs are known by a name that is made once for a folder, so one `squeue` tells of all of
them, whoever submitted them and however long ago; job numbers begin anew with a new cluster.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from anneal.launch.values import LaunchError

ANSWER_SECONDS = 90.0
"""Slurm's commands try to reach their controller for about as long, then give up by themselves."""
HOPELESS = frozenset(
    {
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionConfig",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSUsageThreshold",
    }
)
"""Reasons of a waiting job (squeue(1), JOB REASON CODES) that waiting does not mend."""
_ADVICE = {
    "partition": "set launcher.partition to one that `sinfo` lists",
    "account": "set launcher.account to one that `sacctmgr show associations user=$USER` lists",
    "generic resource": "lower launcher.gpus to what one node has: `sinfo -o '%P %G'`",
    "not available": "no node has that much: see `sinfo -o '%P %c %m %G %f'`, lower launcher.gpus,"
    " launcher.slots x launcher.threads or launcher.memory, or correct launcher.constraint",
    "memory": "lower launcher.memory: see `sinfo -o '%P %m'`",
    "time limit": "lower launcher.time_limit: see `sinfo -o '%P %l'`",
    "contact": "the cluster does not answer: try `sinfo`, and run this again once it does",
    "configuration": "Slurm is not set up on this machine: run this on a login node of the cluster",
}
"""What to do, by a word of Slurm's message."""


class Unreachable(LaunchError):
    """The cluster does not answer, for now."""


class Job(NamedTuple):
    """One element of an array."""

    state: str
    """PENDING, RUNNING, COMPLETING and so on."""
    reason: str


def submit(script: Path, words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submits a script; returns the number of its job.

    Args:
        script: to run.
        words: options of `sbatch`.
        environment: added to this process's; the job gets both.

    Raises:
        LaunchError: `sbatch` refused, with its own words; `Unreachable` when nobody answered.
    """
    answer = _ask(["sbatch", "--parsable", *words, str(script)], environment)
    return answer.strip().splitlines()[-1].partition(";")[0]


def jobs(name: str) -> dict[str, Job]:
    """Every element of this user's jobs of that name that waits, runs or ends, as `123_4`.

    Raises:
        LaunchError: as of `submit`.
    """
    words = ["squeue", "--noheader", "--me", "--array", f"--name={name}", "--format=%i|%T|%r"]
    rows = [line.split("|", 2) for line in _ask(words).splitlines() if line.count("|") >= 2]
    return {row[0].strip(): Job(row[1], row[2].strip()) for row in rows}


def cancel(name: str, *words: str) -> None:
    """Cancels or signals this user's jobs of that name.

    Args:
        name: of the jobs.
        words: further options of `scancel`, such as `--state=PENDING`.

    Raises:
        LaunchError: as of `submit`.
    """
    _ask(["scancel", "--quiet", "--me", f"--name={name}", *words])


def _ask(words: list[str], environment: Mapping[str, str] | None = None) -> str:
    program = shutil.which(words[0])
    if program is None:
        raise LaunchError(
            f"launcher: `{words[0]}` is not installed here: there is no Slurm to launch on",
            hint="run this on a login node of the cluster, or choose launcher=local",
        )
    try:
        done = subprocess.run(
            [program, *words[1:]],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(
            f"launcher: `{words[0]}` got no answer in {ANSWER_SECONDS:.0f} s",
            hint=_ADVICE["contact"],
        ) from None
    if done.returncode:
        raise _refused(words, done.stderr)
    return done.stdout


def _refused(words: list[str], errors: str) -> LaunchError:
    said = [line.partition("rror: ")[2] or line for line in errors.splitlines() if line.strip()]
    text = "; ".join(dict.fromkeys(said)) or "failed without a word"
    near = [advice for word, advice in _ADVICE.items() if word in text.lower()]
    away = any(word in text.lower() for word in ("contact", "connect", "socket timed out"))
    return (Unreachable if away else LaunchError)(
        f"launcher: {words[0]} says: {text}",
        hint=(near or [f"what was asked: {shlex.join(words)}"])[0],
    )
