"""The main job: from a question to a decision.

`sweep` reads as DESIGN's sentences 2 to 9: sources are curated into tokens, runs are planned and
priced, those without a result are launched, laws turn results into curves, the allocation splits
the real budget, the report says what to buy. Running it again is how it is resumed: whatever has
a result is not done again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from anneal.calibration import calibration
from anneal.errors import LawError, TrainingError
from anneal.launch.choose import launcher_for
from anneal.launch.live import Live
from anneal.launch.values import Event, Launcher, Outcome, Settled
from anneal.ledger import Ledger
from anneal.plan.predictions import Calibration
from anneal.plan.runs import PlannedRun, plan_runs
from anneal.plan.values import RunSpec
from anneal.report import write_report
from anneal.report.decision import Decision
from anneal.store import Store, read_value, write
from anneal.sweep.analyse import analyse
from anneal.sweep.base import base_spec, start_from
from anneal.sweep.console import summary
from anneal.sweep.evidence import Evidence, analysis_address, register
from anneal.sweep.prepare import prepare
from anneal.sweep.record import keep
from anneal.sweep.tasks import design_of, run_tasks
from anneal.sweep.values import Sweep

PARTIAL = 3
"""Exit code of a sweep some of whose runs failed."""


def sweep(
    ask: Sweep, *, command: str = "python -m anneal sweep", launcher: Launcher | None = None
) -> int:
    """Answers a sweep's question, or goes on from where it was left.

    Args:
        ask: the question.
        command: what was typed, for the report.
        launcher: where runs execute; None is as the settings say.

    Returns:
        0, or 3 when runs are missing from the fit.

    Raises:
        AnnealError: for what the user can mend.
    """
    store = Store(ask.store)
    folder = store.sweep(ask.name)
    clock = Clock()
    with (
        store.lock(f"sweep {ask.name}"),
        Live() as live,
        launcher or launcher_for(ask.launcher, store, logs=folder / "logs") as workers,
    ):
        held = calibration(store)  # a damaged record is told before anything is spent
        live.say("preparing sources and targets")
        manifests = prepare(ask, store, workers, live)
        clock.lap("prepare")
        base = base_spec(ask, manifests)
        design = design_of(ask, manifests, start_from(ask, base, manifests, store))
        runs = plan_runs(design)
        keep(folder, runs)
        registration, changed = register(ask, design, folder)
        missing = len(Ledger(store).missing(r.spec.id for r in runs))
        live.say(f"runs: {len(runs)} planned, {len(runs) - missing} finished before")
        outcomes = _run(ask, base, runs, store, workers, live, clock)
        evidence = Evidence(
            ask=ask,
            design=design,
            runs=runs,
            outcomes=tuple(outcomes),
            manifests=manifests,
            registration=registration,
            changed=changed,
            reused=len(runs) - missing,
            command=command,
        )
        live.say("fitting laws, allocating the real budget, writing the report")
        try:
            decision = _decide(evidence, Ledger(store), folder, held)
        except LawError as error:
            if all(outcome.ok for outcome in outcomes):
                raise
            failed = sum(not outcome.ok for outcome in outcomes)
            live.say(f"PARTIAL: {failed} runs have no result, and the others carry no law: {error}")
            return PARTIAL
        clock.lap("decide")
        if missing:
            write(folder / "timing.json", json.dumps(clock.laps))
    _say(decision, folder / "report" / "index.html")
    return PARTIAL if decision.partial else 0


def _run(
    ask: Sweep,
    base: RunSpec | None,
    runs: Sequence[PlannedRun],
    store: Store,
    workers: Launcher,
    live: Live,
    clock: Clock,
) -> list[Outcome]:
    """The base where it is trained here, then the runs: one launch, so that idle slots get ready
    for the runs while the base trains."""
    tasks = run_tasks(ask, runs, store)
    if base is None:
        outcomes = workers.run(tasks, on_event=live)
        clock.lap("runs")
        return outcomes
    live.say(f"base: {base.phases[0].tokens:,} tokens")
    (first,) = run_tasks(ask, [base], store)

    def listen(event: Event) -> None:
        live(event)
        if isinstance(event, Settled) and event.outcome.task == first.id:
            clock.lap("base")

    after = [task.model_copy(update={"needs": (first.id,)}) for task in tasks]
    trained, *outcomes = workers.run([first, *after], on_event=listen)
    _must(trained, "the base was not trained")
    clock.lap("runs")
    return outcomes


class Clock:
    """Seconds of each stage of a sweep, for `timing.json`."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        """Ends a stage."""
        now = time.monotonic()
        self.laps[stage] = now - self._last
        self._last = now


def _must(outcome: Outcome, what: str) -> None:
    if outcome.ok:
        return
    failure = outcome.failure
    raise TrainingError(
        f"{what}: {failure.kind}: {failure.message}" if failure else f"{what}: {outcome.missing}",
        hint=f"see {failure.log}" if failure else "",
    )


def _decide(evidence: Evidence, ledger: Ledger, folder: Path, held: Calibration | None) -> Decision:
    """The decision; made anew only when something it follows from has changed.

    How often earlier intervals held is printed beside it and moves nothing: where that alone is
    new, the report is written again around the same decision.
    """
    table = ledger.results(evidence.runs)
    key = analysis_address(evidence, table)
    path = folder / "report" / "decision.json"
    if path.exists() and (path.parent / "index.html").exists():
        known = read_value(path, Decision)
        if known.reproduce.get("analysis") == key:
            if known.calibration == held:
                return known
            decision = known.model_copy(update={"calibration": held})
            write_report(decision, folder / "report")
            return decision
    decision = analyse(evidence, table, key=key).model_copy(update={"calibration": held})
    write_report(decision, folder / "report")
    return decision


def _say(decision: Decision, path: Path) -> None:
    """The last lines of a sweep: the decision and where the report lies."""
    sys.stderr.flush()
    print(summary(decision))
    here = Path.cwd()
    print(f"report: {path.relative_to(here) if path.is_relative_to(here) else path}")
