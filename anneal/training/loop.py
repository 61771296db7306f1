"""One loop for every kind of training: micro-anneal, base and, later, all phases of a full run.

`train` takes what (`RunSpec`), how (`Means`) and where (`Store`), and returns what was measured.
The only state is (weights, moments, step): learning rate and data order follow from the step, so a
run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import platform
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from anneal.errors import StoreError
from anneal.plan.flops import training_flops
from anneal.plan.schedule import learning_rate
from anneal.plan.values import Result, RunTask, Score
from anneal.store import Store, write_value
from anneal.training import checkpoint
from anneal.training.checkpoint import Progress
from anneal.training.data import PhaseData
from anneal.training.engine import Engine
from anneal.training.evaluate import score
from anneal.training.tensors import sha256
from anneal.training.workbench import Workbench

LOGGED = 200
"""Rows of log.jsonl a phase, at most about: short phases log every step."""


class NonFinite(Exception):
    """Loss or gradient is NaN or infinite: the run fails, and is never retried."""


class Interrupted(Exception):
    """Asked to stop: a checkpoint was saved, the run goes on later."""


def train(
    task: RunTask,
    store: Store,
    *,
    bench: Workbench,
    report: Callable[[int, int, float, float], None] = lambda *_: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Result:
    """Carries out one run and writes its result, unless it is there already.

    Args:
        task: spec, means and where the tokens lie.
        store: everything is read from it and written to it.
        bench: engines kept warm between runs.
        report: called with tokens trained, tokens in all, loss and tokens/s.
        stopping: asked at every step; when true, a checkpoint is saved.

    Raises:
        NonFinite, Interrupted, TrainingError, StoreError.
    """
    spec, folder = task.spec, store.run(task.spec.id)
    started = time.monotonic()
    shards = bench.tokens(task, store)
    engine = bench.engine(task, store)
    progress = resume(folder, engine) or Progress(phase=0, step=0)
    if not progress.step and not progress.phase:
        engine.load(*bench.start(task, store))
    ready = time.monotonic()
    log = _Log(folder / "log.jsonl", progress)
    trainer = _Trainer(task, folder, engine, shards, report, stopping, log)
    try:
        for index in range(len(spec.phases)):
            progress = trainer.phase(index, progress)
    finally:
        log.close()
    trained = time.monotonic()
    scores = _scores(task, engine, shards, bench, store)
    result = _result(task, engine, progress, trainer, scores).model_copy(
        update={
            "startup_seconds": ready - started,
            "score_seconds": time.monotonic() - trained,
            "seconds": time.monotonic() - ready,
        }
    )
    if task.means.keep_weights:
        checkpoint.save_weights(
            folder / "weights", engine.model, engine.weights(), engine.moments()
        )
    write_value(folder / "result.json", result)
    checkpoint.discard(folder)
    return result


def resume(folder: Path, engine: Engine) -> Progress | None:
    """Puts the newest readable checkpoint into the engine; None where there is none."""
    for path in reversed(checkpoint.checkpoints(folder)):
        try:
            progress, weights, moments = checkpoint.load(path)
        except StoreError:
            continue  # damaged by the disk, not by a kill: the one before it still serves
        engine.load(weights, moments)
        return progress.model_copy(update={"resumed": progress.resumed + 1})
    return None


class _Trainer:
    """Carries one run through its phases."""

    def __init__(
        self,
        task: RunTask,
        folder: Path,
        engine: Engine,
        shards: dict[str, list[Any]],
        report: Callable[[int, int, float, float], None],
        stopping: Callable[[], bool],
        log: _Log,
    ) -> None:
        self.task, self.folder, self.engine, self.shards = task, folder, engine, shards
        self.report, self.stopping, self.log = report, stopping, log
        self.saved = time.monotonic()
        self.total = sum(p.tokens for p in task.spec.phases)
        self.source_tokens: dict[str, int] = {}
        self.unique_tokens: dict[str, int] = {}

    def phase(self, index: int, progress: Progress) -> Progress:
        """Trains one phase from where `progress` stands; returns the start of the next."""
        spec = self.task.spec
        phase = spec.phases[index]
        data = PhaseData(phase, self.shards, seed=spec.seed, number=index)
        self._audit(data)
        if index < progress.phase:
            return progress  # done before the run was resumed
        if not progress.step and index and phase.optimiser_state == "reset":
            self.engine.load(self.engine.weights(), None)
        step_tokens = phase.batch * phase.sequence
        before = sum(p.tokens for p in spec.phases[:index])
        every = max(1, phase.steps // LOGGED)
        tail = self.total - max(self.total // 10, step_tokens)
        for step in range(progress.step, phase.steps):
            began = time.monotonic()
            torch.manual_seed(spec.seed * 1_000_003 + before // step_tokens + step)  # dropout
            rate = learning_rate(phase.schedule, (step + 0.5) * step_tokens, phase.tokens)
            loss, norm = self.engine.step(data.step(step), rate)
            seen = before + (step + 1) * step_tokens
            in_tail = seen > tail
            last = step + 1 == phase.steps
            value = float(loss) if in_tail or step % every == 0 or last else None
            seconds = time.monotonic() - began
            progress = progress.model_copy(
                update={
                    "step": step + 1,
                    "tail_loss": progress.tail_loss + (value or 0.0) * in_tail,
                    "tail_steps": progress.tail_steps + in_tail,
                    "train_seconds": progress.train_seconds + seconds,
                }
            )
            if value is not None:
                if not math.isfinite(value) or not math.isfinite(float(norm)):
                    raise NonFinite(
                        f"loss {value}, gradient norm {float(norm)} at step {step + 1} "
                        f"of {phase.steps}, learning rate {rate:.3g}"
                    )
                self.log.write(index, step + 1, seen, value, rate, float(norm))
                self.report(seen, self.total, value, seen / max(progress.train_seconds, 1e-9))
            if not last:
                self._save_when_due(progress)
        return progress.model_copy(update={"phase": index + 1, "step": 0})

    def _save_when_due(self, progress: Progress) -> None:
        stop = self.stopping()
        if stop or time.monotonic() - self.saved >= self.task.means.checkpoint_seconds:
            checkpoint.save(self.folder, progress, self.engine.weights(), self.engine.moments())
            self.saved = time.monotonic()
        if stop:
            raise Interrupted(f"stopped at step {progress.step}")

    def _audit(self, data: PhaseData) -> None:
        for total, part in (
            (self.source_tokens, data.source_tokens),
            (self.unique_tokens, data.unique_tokens),
        ):
            for source, tokens in part.items():
                total[source] = total.get(source, 0) + tokens


class _Log:
    """log.jsonl: training losses; rows past the step resumed from are dropped first."""

    def __init__(self, path: Path, progress: Progress) -> None:
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    break  # a kill cut the last line
                if (row["phase"], row["step"]) <= (progress.phase, progress.step):
                    kept.append(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        self.file.writelines(f"{line}\n" for line in kept)

    def write(
        self, phase: int, step: int, tokens: int, loss: float, rate: float, norm: float
    ) -> None:
        row = {"phase": phase, "step": step, "tokens": tokens, "loss": loss}
        self.file.write(json.dumps(row | {"learning_rate": rate, "norm": norm}) + "\n")

    def close(self) -> None:
        self.file.close()


def _scores(
    task: RunTask, engine: Engine, shards: dict[str, list[Any]], bench: Workbench, store: Store
) -> dict[str, Score]:
    spec = task.spec
    batch = spec.phases[-1].batch if spec.phases else 8
    scores = {}
    for target in spec.targets:
        scores[target.name] = score(
            engine,
            shards[target.content],
            bytes_=bench.manifest(target.content, store).bytes,
            sequence=spec.score_sequence,
            batch=task.means.micro_batch or batch,
            end_of_text=bench.end_of_text(spec.tokenizer, store),
        )
        if not math.isfinite(scores[target.name].loss):
            raise NonFinite(f"score on `{target.name}` is {scores[target.name].loss}")
    return scores


def _result(
    task: RunTask, engine: Engine, progress: Progress, trainer: _Trainer, scores: dict[str, Score]
) -> Result:
    spec = task.spec
    weights = sha256(engine.weights())
    shares: dict[str, float] = {}
    for phase in spec.phases:
        for portion in phase.mixture:
            part = portion.share * phase.tokens / trainer.total
            shares[portion.source] = shares.get(portion.source, 0.0) + part
    return Result(
        run=spec.id,
        scores=scores,
        tokens=trainer.total,
        steps=sum(p.steps for p in spec.phases),
        flops=training_flops(engine.parameters, trainer.total),
        parameters=engine.parameters,
        source_tokens=trainer.source_tokens,
        unique_tokens=trainer.unique_tokens,
        asked_shares=shares,
        final_loss=progress.tail_loss / progress.tail_steps if progress.tail_steps else None,
        seconds=0.0,
        train_seconds=progress.train_seconds,
        score_seconds=0.0,
        startup_seconds=0.0,
        tokens_per_second=trainer.total / progress.train_seconds if trainer.total else 0.0,
        resumed=progress.resumed,
        weights=weights,
        device=device_name(engine.device),
        host=socket.gethostname(),
        versions=versions(),
        code=task.code,
        means=task.means,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {platform.processor() or platform.machine()} x{torch.get_num_threads()}"


def versions() -> dict[str, str]:
    """Versions of what moves results."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "numpy", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def make_repeatable() -> None:
    """Makes a worker's arithmetic repeatable; called once, before anything is computed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # That also fills fresh memory, to expose kernels that read what they never wrote: 2% of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
