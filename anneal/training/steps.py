"""The steps of one phase: train, read the losses, look at held-out text, save when it is time."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anneal.plan.schedule import learning_rate
from anneal.plan.scores import aim
from anneal.plan.values import Phase
from anneal.training import checkpoint
from anneal.training.checkpoint import Progress
from anneal.training.data import PhaseData
from anneal.training.watch import (
    Aborted,
    Interrupted,
    NonFinite,
    must_keep_guards,
    remember,
    spiked,
)

if TYPE_CHECKING:
    from anneal.training.loop import Run

LOGGED = 200
"""Rows of log.jsonl a phase, at most about: short phases log every step."""
READ = {"cpu": 1, "cuda": 10}
"""Steps whose losses are read together: on a GPU, reading waits for it."""


class Steps:
    """The steps of one phase."""

    def __init__(self, run: Run, index: int, phase: Phase, data: PhaseData) -> None:
        self.run, self.engine, self.means = run, run.engine, run.means
        self.index, self.phase, self.data = index, phase, data
        self.step_tokens = phase.batch * phase.sequence
        self.before = sum(p.tokens for p in run.spec.phases[:index])
        self.every = max(1, phase.steps // LOGGED)
        self.tail = run.total - max(run.total // 10, self.step_tokens)
        self.phase_tail = phase.steps - max(phase.steps // 10, 1)
        self.unread: list[tuple[int, float, Tensor, Tensor]] = []

    def train(self, progress: Progress) -> Progress:
        """All steps from where `progress` stands to the end of the phase."""
        phase, seed = self.phase, self.run.spec.seed
        for step in range(progress.step, phase.steps):
            began = time.monotonic()
            torch.manual_seed(seed * 1_000_003 + self.before // self.step_tokens + step)  # dropout
            rate = learning_rate(phase.schedule, (step + 0.5) * self.step_tokens, phase.tokens)
            loss, norm = self.engine.step(self.data.step(step), rate)
            self.unread.append((step + 1, rate, loss, norm))
            last = step + 1 == phase.steps
            progress = progress.model_copy(
                update={
                    "step": step + 1,
                    "tokens": self.before + (step + 1) * self.step_tokens,
                    "learning_rate": rate,
                }
            )
            if last or len(self.unread) >= READ[self.engine.device.type]:
                progress = self._read(progress)
            seconds = time.monotonic() - began
            progress = progress.model_copy(
                update={
                    "train_seconds": progress.train_seconds + seconds,
                    "phase_seconds": progress.phase_seconds + seconds,
                }
            )
            progress = self._look(progress, last=last)
            if not last:
                progress = self._save_when_due(progress)
        return progress

    def _read(self, progress: Progress) -> Progress:
        """Reads the losses since the last time: logs, sums and asks the rules."""
        losses = torch.stack([row[2].reshape(()).float() for row in self.unread]).tolist()
        norms = torch.stack([row[3].reshape(()).float() for row in self.unread]).tolist()
        values = progress.model_dump()
        for (step, rate, _, _), loss, norm in zip(self.unread, losses, norms, strict=True):
            seen = self.before + step * self.step_tokens
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise NonFinite(
                    f"loss {loss}, gradient norm {norm} at step {step} of {self.phase.steps} of "
                    f"phase `{self.phase.name}`, learning rate {rate:.3g}"
                )
            if seen > self.tail:
                values["tail_loss"] += loss
                values["tail_steps"] += 1
            if step > self.phase_tail:
                values["phase_loss"] += loss
                values["phase_steps"] += 1
            if self.means.watch.spike is not None:
                values["recent"] = remember(tuple(values["recent"]), loss)
                if why := spiked(values["recent"], self.means.watch.spike):
                    raise Aborted(f"{why}; step {step} of phase `{self.phase.name}`")
            if (step - 1) % self.every == 0 or step == self.phase.steps or seen > self.tail:
                self.run.log.write(
                    phase=self.index,
                    step=step,
                    tokens=seen,
                    loss=loss,
                    learning_rate=rate,
                    norm=norm,
                )
        self.unread.clear()
        reused = sum(sum(e.source_tokens.values()) for e in self.run.ends if e.reused)
        speed = (progress.tokens - reused) / max(progress.train_seconds, 1e-9)
        self.run.report(progress.tokens, self.run.total, losses[-1], speed)
        return Progress.model_validate(values)

    def _look(self, progress: Progress, *, last: bool) -> Progress:
        """Scores held-out text and keeps weights, when enough tokens went by."""
        every, keep = self.means.watch.evaluate_tokens, self.means.keep
        tokens, before = progress.tokens, progress.tokens - self.step_tokens
        if keep.every and tokens // keep.every > before // keep.every:
            self._keep_weights(f"{tokens:015d}")
        if not every or last or tokens // every == before // every:
            return progress
        scores = self.run.scores()
        bpb = {name: found.bpb for name, found in scores.items()}
        self.run.evaluations.write(
            phase=self.index,
            step=progress.step,
            tokens=tokens,
            scores=bpb,
        )
        must_keep_guards(scores, self.means.watch, f"after {tokens:,} tokens")
        score_now = aim(bpb, self.run.spec.targets)
        if score_now is not None and (progress.best is None or score_now < progress.best):
            progress = progress.model_copy(update={"best": score_now})
            if keep.best:
                self._keep_weights(f"best-{tokens:015d}")
        return progress

    def _keep_weights(self, name: str) -> None:
        weights = self.engine.weights()
        if self.engine.leader:
            folder = self.run.folder / "kept" / name
            checkpoint.save_weights(folder, self.engine.model, weights, {})
            if name.startswith("best-"):
                checkpoint.drop_others(folder)

    def _save_when_due(self, progress: Progress) -> Progress:
        run = self.run
        stop = run.stopping()
        due = self.engine.leader and (time.monotonic() - run.saved >= self.means.checkpoint_seconds)
        if not self.engine.agree(stop or due):
            return progress
        stop = self.engine.agree(stop)
        began = time.monotonic()
        if self.unread:
            progress = self._read(progress)
        rows = self.data.step(progress.step)
        found = checkpoint.check(self.engine, rows, run.spec.score_sequence)
        progress = progress.model_copy(update={"check": found})
        checkpoint.save(run.folder, progress, self.engine, keep=self.means.keep.newest)
        run.saved = time.monotonic()
        if stop:
            raise Interrupted(f"stopped at step {progress.step} of phase `{self.phase.name}`")
        seconds = progress.save_seconds + run.saved - began
        return progress.model_copy(update={"save_seconds": seconds})
