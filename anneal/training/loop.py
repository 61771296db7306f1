"""One loop for every kind of training: micro-anneal, base, and all phases of a full run.

`train` takes what (`RunSpec`), how (`Means`) and where (`Store`), and returns what was measured.
The only state is (weights, moments, step): learning rate and data order follow from the step, so a
run that was killed and resumed ends with the same bits as one that was not.

An engine may be several processes, each of which runs this loop on the same batches; what decides
is the same in all of them, and the leading one alone writes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from anneal.errors import StoreError
from anneal.plan.values import PhaseEnd, Result, RunTask, Score
from anneal.store import Store, holding, read_value, sweep_up, write_value
from anneal.training import boundaries, checkpoint
from anneal.training.boundaries import Boundary
from anneal.training.checkpoint import Progress
from anneal.training.data import PhaseData
from anneal.training.engine import Engine
from anneal.training.evaluate import score
from anneal.training.records import Rows, now, result_of
from anneal.training.steps import Steps
from anneal.training.tensors import sha256
from anneal.training.watch import NonFinite, must_keep_guards, must_pass_gates
from anneal.training.workbench import Workbench

HALF_WRITTEN = (
    *(("", name) for name in ("checkpoint-", "weights", "phase-", "result")),
    ("kept", ""),
)
"""Where in its folder a run that was killed may have left something half written."""


def train(
    task: RunTask,
    store: Store,
    *,
    bench: Workbench,
    report: Callable[[int, int, float, float], None] = lambda *_: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Result:
    """Carries out one run and writes its result, unless it is there already; only one at a time.

    Args:
        task: spec, means and where the tokens lie.
        store: everything is read from it and written to it.
        bench: engines kept warm between runs.
        report: called with tokens trained, tokens in all, loss and tokens/s.
        stopping: asked at every step; when true, a checkpoint is saved.

    Raises:
        NonFinite, Interrupted, Aborted, TrainingError, StoreError.
    """
    folder, started = store.run(task.spec.id), time.monotonic()
    run = Run(task, store, bench, report, stopping)
    with ExitStack() as held:
        if run.engine.leader:  # what a killed launcher left may still save its work there
            held.enter_context(holding(folder))
        if run.engine.agree(run.engine.leader and (folder / "result.json").exists()):
            return read_value(folder / "result.json", Result)
        return _carry_out(run, started)


def _carry_out(run: Run, started: float) -> Result:
    task, spec, folder = run.task, run.spec, run.folder
    progress = run.begin()
    ready = time.monotonic()
    run.open(progress)
    try:
        for index in range(len(spec.phases)):
            progress = run.phase(index, progress)
    finally:
        run.close()
    trained = time.monotonic()
    scores = run.ends[-1].scores if run.ends else run.scores()
    weights, moments = run.engine.weights(), _moments(task, run.engine)
    result = result_of(
        task,
        parameters=run.engine.parameters,
        device=run.engine.device,
        progress=progress,
        source_tokens=run.source_tokens,
        unique_tokens=run.unique_tokens,
        scores=scores,
        weights=sha256(weights),
        phases=tuple(run.ends),
        seconds={
            "startup": ready - started,
            "score": time.monotonic() - trained,
            "all": time.monotonic() - ready,
        },
    )
    if run.engine.leader:
        if task.means.keep_weights:
            checkpoint.save_weights(folder / "weights", run.engine.model, weights, moments)
        write_value(folder / "result.json", result)
        checkpoint.discard(folder)
    run.engine.wait()
    return result


def _moments(task: RunTask, engine: Engine) -> dict[str, Tensor]:
    return engine.moments() if task.means.keep_weights else {}


class Run:
    """One run on its way through its phases."""

    def __init__(
        self,
        task: RunTask,
        store: Store,
        bench: Workbench,
        report: Callable[[int, int, float, float], None],
        stopping: Callable[[], bool],
    ) -> None:
        self.task, self.spec, self.means = task, task.spec, task.means
        self.store, self.bench, self.report, self.stopping = store, bench, report, stopping
        self.folder = store.run(task.spec.id)
        self.shards: Mapping[str, list[Any]] = bench.tokens(task, store)
        self.engine: Engine = bench.engine(task, store)
        self.saved = time.monotonic()
        self.total = sum(p.tokens for p in task.spec.phases)
        self.source_tokens: dict[str, int] = {}
        self.unique_tokens: dict[str, int] = {}
        self.ends: list[PhaseEnd] = []
        self.handed = len(task.spec.phases) > 1 or task.means.keep.boundaries
        """Whether ends of phases are measured and recorded."""
        self._read_back = -1
        """Number of the phase whose kept state the engine holds, fresh from disk."""

    # how a run begins

    def begin(self) -> Progress:
        """Puts the furthest state there is into the engine: a checkpoint of the run's own, the end
        of a phase that it shares with another run, or its start."""
        if self.engine.leader:
            for place, name in HALF_WRITTEN:
                sweep_up(self.folder / place, name)
        progress = self._resume() or Progress(phase=0, step=0)
        shared = boundaries.furthest(self.spec, self.store) if self.handed else 0
        if shared > progress.phase:
            tokens = sum(p.tokens for p in self.spec.phases[:shared])
            progress = Progress(phase=shared, step=0, tokens=tokens, resumed=progress.resumed)
        elif not progress.phase and not progress.step:
            leader = self.engine.leader
            self.engine.load(*(self.bench.start(self.task, self.store) if leader else ({}, None)))
        if self.engine.leader and self.spec.phases:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.must_fit(
                self.folder,
                self.engine.parameters,
                self.means.keep,
                phases=len(self.spec.phases),
                tokens=self.total,
            )
        return progress

    def _resume(self) -> Progress | None:
        """The newest readable checkpoint; damaged ones are left behind."""
        for path in reversed(checkpoint.checkpoints(self.folder)):
            try:
                progress = read_value(path / "progress.json", Progress)
                self.engine = self.bench.engine(self.task, self.store, progress.phase)
                progress = checkpoint.restore(path, self.engine)
                if progress.check is not None:
                    rows = self._data(progress.phase).step(progress.step)
                    found = checkpoint.check(self.engine, rows, self.spec.score_sequence)
                    checkpoint.must_agree(path, found, progress.check, self.spec.precision)
            except StoreError as error:
                # damaged by the disk, not by a kill: the one before it still serves
                print(f"left behind: {error}", flush=True)
                continue
            return progress
        return None

    def _data(self, index: int) -> PhaseData:
        phases = self.spec.phases
        return PhaseData(phases[index], self.shards, seed=self.spec.seed, before=phases[:index])

    def open(self, progress: Progress) -> None:
        """Opens the logs, without what a kill left beyond `progress`."""
        leader = self.engine.leader
        self.log = Rows(self.folder / "log.jsonl" if leader else None, progress)
        self.evaluations = Rows(self.folder / "evaluations.jsonl" if leader else None, progress)

    def close(self) -> None:
        self.log.close()
        self.evaluations.close()

    # one phase

    def phase(self, index: int, progress: Progress) -> Progress:
        """Trains one phase from where `progress` stands; returns the start of the next."""
        phase = self.spec.phases[index]
        data = self._data(index)
        self._audit(data)
        if index < progress.phase:  # done before the run was resumed, or by another run
            self._recall(index, data)
            if index + 1 == len(self.spec.phases):
                self._take_up(index, data)
            return progress
        if not progress.step:
            if index:
                self._hand_over(index)
            if self.means.watch.gates:
                start = self.ends[-1].scores if self.ends else self.scores()
                progress = progress.model_copy(update={"start": start})
        progress = Steps(self, index, phase, data).train(progress)
        if self.handed:
            self._end(index, data, progress)
        return progress.model_copy(
            update={
                "phase": index + 1,
                "step": 0,
                "phase_loss": 0.0,
                "phase_steps": 0,
                "phase_seconds": 0.0,
            }
        )

    def _hand_over(self, index: int) -> None:
        """Gives the state of the phase before to the engine of this one, by way of the disk where
        it is kept."""
        reset = self.spec.phases[index].optimiser_state == "reset"
        kept = (self.store.boundary(self.spec.boundary(index - 1)) / boundaries.FILE).exists()
        alike = self.bench.alike(self.task, self.store, index - 1, index)
        if alike and not reset and (not kept or self._read_back == index - 1):
            return
        state = ({}, {}) if kept else (self.engine.weights(), self.engine.moments())
        if not alike:
            del self.engine  # its memory is the next one's
            self.engine = self.bench.engine(self.task, self.store, index)
        if kept:
            self._take_up(index - 1, self._data(index - 1), fresh=reset)
        else:
            self.engine.load(state[0], None if reset else state[1])

    def _take_up(self, index: int, data: PhaseData, *, fresh: bool = False) -> None:
        """Reads the kept state after a phase back into the engine, and checks it."""
        boundaries.take_up(
            self.store.boundary(self.spec.boundary(index)),
            self.engine,
            data.step(data.phase.steps - 1),
            self.spec.score_sequence,
            place=boundaries.place_of(self.spec, index),
            fresh=fresh,
        )
        self._read_back = index

    def _end(self, index: int, data: PhaseData, progress: Progress) -> None:
        """Measures the end of a phase, keeps its state, reads it back, and asks the gates."""
        phase, keep = self.spec.phases[index], self.means.keep.boundaries
        scores = self.scores()
        weights, moments = sha256(self.engine.weights()), sha256(self.engine.moments())
        end = PhaseEnd(
            phase=phase.name,
            index=index,
            tokens=progress.tokens,
            steps=phase.steps,
            source_tokens=data.source_tokens,
            unique_tokens=data.unique_tokens,
            scores=scores,
            start=progress.start if not index else {},
            loss=progress.phase_loss / max(progress.phase_steps, 1),
            learning_rate=progress.learning_rate,
            weights=weights,
            moments=moments,
            boundary=self.spec.boundary(index) if keep else "",
            verified=keep,  # stands only once `_keep` has read it back: it raises otherwise
            seconds=progress.phase_seconds,
            finished=now(),
        )
        if keep:
            self._keep(end, data)
        self._note(end)
        self._ask_rules(end)

    def _ask_rules(self, end: PhaseEnd) -> None:
        """Ends the run at the end of a phase, also one that was trained before: who tries again
        with the same rules is told the same."""
        before = self.ends[-2].scores if len(self.ends) > 1 else end.start
        must_keep_guards(end.scores, self.means.watch, f"at the end of phase `{end.phase}`")
        must_pass_gates(end.phase, end.scores, before, self.means.watch)

    def _keep(self, end: PhaseEnd, data: PhaseData) -> None:
        rows = data.step(data.phase.steps - 1)
        boundary = Boundary(
            end=end,
            targets={t.name: t.content for t in self.spec.targets},
            data=boundaries.digest(rows),
            check=checkpoint.check(self.engine, rows, self.spec.score_sequence),
            precision=self.spec.precision,
            run=self.spec.id,
        )
        boundaries.keep(self.store, boundary, self.engine)
        self._take_up(end.index, data)

    def _recall(self, index: int, data: PhaseData) -> None:
        """The end of a phase that is not trained now, by the run's own record or a kept state."""
        path = self.folder / f"phase-{index:02d}.json"
        if path.exists():
            self.ends.append(read_value(path, PhaseEnd))
            self._ask_rules(self.ends[-1])
            return
        folder = self.store.boundary(self.spec.boundary(index))
        if not self.handed or not (folder / boundaries.FILE).exists():
            return
        boundary = read_value(folder / boundaries.FILE, Boundary)
        end = boundary.end.model_copy(update={"reused": boundary.run != self.spec.id})
        if boundary.targets != {t.name: t.content for t in self.spec.targets}:
            self.engine = self.bench.engine(self.task, self.store, index)
            self._take_up(index, data)
            end = end.model_copy(update={"scores": self.scores()})
        self._note(end)
        self._ask_rules(end)

    def _note(self, end: PhaseEnd) -> None:
        self.ends.append(end)
        if self.engine.leader:
            write_value(self.folder / f"phase-{end.index:02d}.json", end)

    def _audit(self, data: PhaseData) -> None:
        for total, part in (
            (self.source_tokens, data.source_tokens),
            (self.unique_tokens, data.new_tokens),
        ):
            for source, tokens in part.items():
                total[source] = total.get(source, 0) + tokens

    def scores(self) -> dict[str, Score]:
        """Scores of all targets.

        Raises:
            NonFinite: one of them is NaN or infinite.
        """
        spec, bench = self.spec, self.bench
        batch = spec.phases[-1].batch if spec.phases else 8
        found = {}
        for target in spec.targets:
            found[target.name] = score(
                self.engine,
                self.shards[target.content],
                bytes_=bench.manifest(target.content, self.store).bytes,
                sequence=spec.score_sequence,
                batch=self.engine.at_once or batch,
                end_of_text=bench.end_of_text(spec.tokenizer, self.store),
            )
            if not math.isfinite(found[target.name].loss):
                raise NonFinite(f"score on `{target.name}` is {found[target.name].loss}")
        return found


def make_repeatable() -> None:
    """Makes a worker's arithmetic repeatable; called once, before anything is computed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # That also fills fresh memory, to expose kernels that read what they never wrote: 2% of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
