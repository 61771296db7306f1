"""Full runs for real: a decided sweep of two sources, and ways to start, watch and kill a run.

The sweep buys all of one source and some of another, so the last phase, which takes synthetic
sources first, has a mixture of its own. A whole run is 160 steps of 512 tokens.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from anneal.plan.values import PhaseEnd, Result
from anneal.report.pretrained import Pretrained
from anneal.store import Store, read_value
from anneal.training.processes import prepare_environment
from tests.conftest import REPOSITORY
from tests.integration.corpus import SWEEP, make

# DeepSpeed's C++ part is built once in the environment, not once in every store
ENVIRONMENT = prepare_environment(os.environ) | {"PYTHONPATH": str(REPOSITORY)}
PATIENCE = 180.0
"""Seconds after which something that should have come is said never to come."""
LAST = "synthetic"
TORCH = (
    "pretrain.engine.engine=torch",
    "pretrain.engine.processes=1",
    "pretrain.engine.compile=off",
)
ALONE = ("pretrain.engine.processes=1",)
EVERY_STEP = ("pretrain.engine.checkpoint_seconds=0",)


def write_corpus(folder: Path) -> None:
    """Sources and `small.yaml`, of which the decision buys two sources."""
    make(folder)
    text = SWEEP
    for before, after in (
        (
            "tools: {kind: high_quality, read: {kind: tree, path: tools}}",
            "tools: {kind: high_quality, max_epochs: 1, "
            "read: {kind: tree, path: tools, glob: 'argparse*'}}",
        ),
        ("nets: {kind: general", "nets: {kind: synthetic"),
        (
            "base: {",
            "budget: {real: {tokens: 49152}, smallest: 2048, largest: 8192}\nbase: {",
        ),
    ):
        assert before in text
        text = text.replace(before, after)
    (folder / "small.yaml").write_text(text)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "anneal", *words]


def anneal(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*words),
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def pretrain(folder: Path, *words: str, code: int = 0) -> str:
    """Runs the full run to its end; returns what it printed."""
    done = anneal(folder, "pretrain", "small.yaml", *words)
    assert done.returncode == code, done.stdout + done.stderr + logs(folder)
    assert "Traceback" not in done.stderr
    return done.stdout


def logs(folder: Path) -> str:
    found = (folder / "store" / "pretrain" / "small" / "logs").glob("*.log")
    return "\n".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in found)


def refused(done: subprocess.CompletedProcess, *parts: str) -> None:
    """One clear error, with what to do, and nothing else after it."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("anneal: ") == 1, done.stderr
    said = done.stderr[done.stderr.index("anneal: ") :]
    assert said.count("hint: ") == 1, said
    for part in parts:
        assert part in said, said


def report(folder: Path) -> Pretrained:
    path = folder / "store" / "pretrain" / "small" / "report" / "pretrained.json"
    return read_value(path, Pretrained)


def result(folder: Path) -> Result:
    store = Store(folder / "store")
    return read_value(store.run(report(folder).run) / "result.json", Result)


def bits(folder: Path) -> tuple:
    """What must be the same bit for bit after a kill: weights, moments, losses, scores, tokens."""
    found = result(folder)
    ends = [e.model_dump(exclude={"seconds", "finished", "reused", "start"}) for e in found.phases]
    told = [(row.weights, row.loss, row.scores) for row in report(folder).phases]
    return found.weights, found.scores, found.final_loss, found.source_tokens, ends, told


def training(folder: Path) -> Path:
    """The run's folder; of several, the one that was last written to."""
    runs = [p.parent for p in (folder / "store" / "runs").glob("*/task.json")]
    return max(runs, key=lambda p: p.stat().st_mtime)


def ends(folder: Path) -> dict[str, PhaseEnd]:
    """Phase ends on record of runs that may have no result, by phase."""
    found = (folder / "store" / "runs").glob("*/phase-*.json")
    return {end.phase: end for end in (read_value(p, PhaseEnd) for p in found)}


def trained(folder: Path) -> dict[str, str]:
    """Every run and boundary of a store with a digest of its files: whatever trains changes it."""
    out = {}
    for kind in ("runs", "boundaries"):
        for place in sorted((folder / "store" / kind).glob("*")):
            digest = hashlib.sha256()
            for path in sorted(p for p in place.rglob("*") if p.is_file()):
                digest.update(f"{path.name} {path.stat().st_mtime_ns} ".encode())
                digest.update(path.read_bytes())
            out[f"{kind}/{place.name}"] = digest.hexdigest()
    return out


def no_remains(folder: Path) -> None:
    """Neither processes nor half-written files nor checkpoints of what is finished."""
    store = folder / "store"
    assert not [p for p in store.rglob(".*") if "cache" not in p.parts]
    assert not list((store / "runs").glob("*/checkpoint-*"))
    for boundary in (store / "boundaries").iterdir():
        assert (boundary / "boundary.json").exists()
    assert not alive(folder)


def alive(folder: Path) -> list[psutil.Process]:
    """Processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


class Started:
    """A full run under way.

    Args:
        folder: of its sweep.
        words: further ones of the command.
        background: as a shell starts it with `&`: SIGINT is ignored.
    """

    def __init__(self, folder: Path, *words: str, background: bool = False) -> None:
        self.folder = folder
        ignore = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if background else []
        self.process = subprocess.Popen(
            [*ignore, *command("pretrain", "small.yaml", *words)],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def until(self, there: Callable[[], object], seconds: float = PATIENCE) -> bool:
        """Waits for something, or for the end of the run; whether it came."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if there():
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        return False

    def steps(self, phase: int, step: int) -> Callable[[], bool]:
        """Whether a step of a phase has been logged."""
        seen = f'"phase": {phase}, "step": {step},'

        def there() -> bool:
            files = (self.folder / "store" / "runs").glob("*/log.jsonl")
            return any(seen in path.read_text() for path in files if phases_of(path))

        return there

    def kill(self) -> None:
        """SIGKILL to all of it at once."""
        processes = [psutil.Process(self.process.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        gone(self.folder)

    def strike(self, there: Callable[[], object]) -> None:
        """SIGKILL to all of it at the very moment something is there, once it trains."""
        self.until(lambda: len(psutil.Process(self.process.pid).children(recursive=True)) >= 4)
        self.until(
            lambda: (
                list((self.folder / "store" / "runs").glob("*/phase-*.json"))
                or list((self.folder / "store" / "runs").glob("*/checkpoint-*"))
            )
        )
        known = psutil.Process(self.process.pid).children(recursive=True)
        pids = [process.pid for process in reversed(known)]
        self.until(there)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def phases_of(log: Path) -> bool:
    """Whether a log is of a run of several phases."""
    return (log.parent / "task.json").read_text().count('"schedule"') > 1


def gone(folder: Path) -> None:
    """Waits until no process works in a folder any more."""
    deadline = time.monotonic() + PATIENCE
    while alive(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(folder)


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


SAME = 1e-4
"""Bits per byte, and nats per token, by which fp32 runs may differ whose sums were made in another
order: another engine or another number of processes. Between the two engines 2e-6 were measured."""


def close(one: Path, other: Path) -> None:
    """The same run, but for the order of sums: losses and scores of every phase."""
    mine, theirs = report(one), report(other)
    assert [row.boundary for row in mine.phases] == [row.boundary for row in theirs.phases]
    for row, like in zip(mine.phases, theirs.phases, strict=True):
        assert row.loss == pytest.approx(like.loss, abs=SAME)
        assert row.scores == pytest.approx(like.scores, abs=SAME)
        assert (row.tokens, row.steps, row.learning_rate) == (
            like.tokens,
            like.steps,
            like.learning_rate,
        )
    assert result(one).source_tokens == result(other).source_tokens
