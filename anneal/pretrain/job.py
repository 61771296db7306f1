"""The second job: from a decision to a trained model, measured beside predicted.

`pretrain` reads as DESIGN's sentence 10: the decision's sources are those that were decided about,
phases are laid out over its allocation, what the law says of every phase end is written down, the
run is launched, and what was measured is set beside it. Running it again is how it is resumed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anneal.calibration import calibration
from anneal.errors import PlanError, TrainingError
from anneal.launch.choose import launcher_for
from anneal.launch.live import Live
from anneal.launch.values import Launcher, Outcome
from anneal.ledger import Ledger
from anneal.plan.audit import AuditRow
from anneal.plan.lay_out import lay_out
from anneal.plan.predictions import NoPrediction, Said, Subject
from anneal.plan.runs import plan_runs
from anneal.plan.values import PhaseEnd, RunSpec
from anneal.pretrain.outcome import Went, pretrained, read_losses
from anneal.pretrain.predict import predictions, refit
from anneal.pretrain.settle import Beside, settle_run, write_down
from anneal.pretrain.size import check_model
from anneal.pretrain.supplies import (
    Prepared,
    allocated,
    asked_of,
    find_decision,
    prepare,
    trained_before,
)
from anneal.report.decision import Decision
from anneal.report.pretrained import Evaluation, Pretrained
from anneal.report.pretrained_console import summary
from anneal.report.pretrained_page import write_pretrained
from anneal.store import Store, read_value, write_value
from anneal.sweep.base import Base, base_spec, scored, start_from
from anneal.sweep.tasks import design_of, run_task
from anneal.sweep.values import Sweep
from anneal.values import Value

UNFINISHED = 3
"""Exit code of a full run that ended early."""


class PretrainRecord(Value):
    """What a full run was laid out to be."""

    spec: RunSpec
    audit: tuple[AuditRow, ...]
    left_out: dict[str, str]
    decision: str
    """Address of the analysis behind the decision; empty without one."""
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Plan:
    """A full run before it starts.

    Args:
        ask: the sweep, with the full run that it asks for.
        decision: whose allocation it carries out; None where no phase needs one.
        prepared: its sources.
        base: what the sweep's micro-anneals started from.
        spec: the run.
        audit: every token as asked and as laid out.
        left_out: why a source is in no phase.
    """

    ask: Sweep
    decision: Decision | None
    prepared: Prepared
    base: Base
    spec: RunSpec
    audit: tuple[AuditRow, ...]
    left_out: dict[str, str]


def pretrain(
    ask: Sweep,
    *,
    decision: Path | None = None,
    begin: str | None = None,
    command: str = "python -m anneal pretrain",
    launcher: Launcher | None = None,
) -> int:
    """Carries out the full run of a sweep, or goes on from where it was left.

    Args:
        ask: the sweep.
        decision: another decision than the sweep's own.
        begin: the phase to begin with: those before must have been trained.
        command: what was typed, for the report.
        launcher: where the run executes; None is as the settings say.

    Returns:
        0, or 3 when the run ended early.

    Raises:
        AnnealError: for what the user can mend, before anything is trained.
    """
    asked_of(ask)
    check_model(ask)
    made = find_decision(ask, decision)
    store = Store(ask.store)
    folder = store.pretrain(ask.name)
    with (
        store.lock(f"pretrain {ask.name}"),
        Live() as live,
        launcher or launcher_for(ask.launcher, store, logs=folder / "logs") as workers,
    ):
        workers.admit(asked_of(ask).engine.processes, what="the full run")
        live.say("preparing sources and targets")
        plan = lay(ask, made, prepare(ask, store, workers, live), store)
        must_begin(begin, plan.spec, store)
        live.say("writing down what the law says of every phase end")
        said = write_down(store, _said(plan, store))
        record = PretrainRecord(
            spec=plan.spec,
            audit=plan.audit,
            left_out=plan.left_out,
            decision=made.reproduce.get("analysis", "") if made else "",
            said=said,
        )
        write_value(folder / "plan.json", record)
        live.say(_begins(plan, store))
        outcome = _carry_out(plan, store, workers, live)
        found = report_of(plan, said, outcome, store, command=command)
        page = write_pretrained(found, folder / "report")
    print(summary(found))
    here = Path.cwd()
    print(f"report: {page.relative_to(here) if page.is_relative_to(here) else page}")
    return 0 if found.state == "finished" else UNFINISHED


def lay(ask: Sweep, decision: Decision | None, prepared: Prepared, store: Store) -> Plan:
    """Lays the phases out over the allocation.

    Raises:
        PlanError: sources that are not those of the decision, a budget beyond what there is.
    """
    asked, manifests, replay = asked_of(ask), prepared.manifests, ask.replay[0].name
    if decision is not None:
        must_be_decided(decision, {n: m.content for n, m in manifests.items()})
    base_run = base_spec(ask, manifests)
    base = start_from(ask, base_run, manifests, store)
    laid = lay_out(
        asked,
        supplies=prepared.supplies,
        replay=replay,
        replay_share=decision.replay_share if decision else ask.phase.replay_share,
        allocated=allocated(decision, replay) if decision else {},
        by_phase=prepared.by_phase,
        before=trained_before(ask),
    )
    if asked.start == "base" and base_run is not None:
        _must_have_weights(base_run, store)
    spec = RunSpec(
        start=ask.model if asked.start == "scratch" else base.start,
        phases=laid.phases,
        seed=ask.seed,
        tokenizer=manifests[replay].tokenizer,
        vocabulary=manifests[replay].vocabulary,
        optimiser=ask.optimiser,
        precision=ask.precision,
        targets=scored(ask, manifests),
        score_sequence=ask.score_sequence,
    )
    return Plan(ask, decision, prepared, base, spec, laid.audit, laid.left_out)


def must_be_decided(decision: Decision, contents: Mapping[str, str]) -> None:
    """Refuses sources or targets whose tokens are not those that were decided about.

    Args:
        decision: names the content address of everything it was made from.
        contents: by name, as they are now.

    Raises:
        PlanError: naming everything that differs.
    """
    told = decision.reproduce.get("data", "")
    then = dict(pair.split(" ", 1) for pair in told.split(", ") if " " in pair)
    rows = []
    for name in sorted({*then, *contents}):
        before, now = then.get(name, "absent"), contents.get(name, "absent")
        if before != now:
            rows.append(f"  {name}: decided about {before}, now {now}")
    if rows:
        raise PlanError(
            f"decision {decision.sweep} of {decision.made}: its sources have changed since:\n"
            + "\n".join(rows),
            hint="decide again with `python -m anneal sweep` (finished runs are kept), or restore "
            "the sources",
        )


def must_begin(begin: str | None, spec: RunSpec, store: Store) -> None:
    """Makes sure that the phases before `begin` have been trained.

    Raises:
        PlanError: an unknown phase, or one before it whose state is not kept.
    """
    if begin is None:
        return
    names = [phase.name for phase in spec.phases]
    if begin not in names:
        raise PlanError(
            f"pretrain --from {begin}: no such phase", hint=f"the phases are {', '.join(names)}"
        )
    index = names.index(begin)
    if not index:
        return
    folder = store.boundary(spec.boundary(index - 1))
    if not (folder / "boundary.json").exists():
        raise PlanError(
            f"pretrain --from {begin}: the state after phase `{names[index - 1]}` is missing: "
            f"{folder}",
            hint="leave --from out to train the phases before, or restore that folder (it is kept "
            "with pretrain.engine.keep.boundaries=true; other settings have another address)",
        )


def _must_have_weights(base: RunSpec, store: Store) -> None:
    folder = store.run(base.id)
    if not (folder / "weights").is_dir():
        raise TrainingError(
            f"the sweep's base: its weights are not in the store ({folder})",
            hint="run `python -m anneal sweep` first: it trains the base, or set "
            "pretrain.start=scratch",
        )


def _said(plan: Plan, store: Store) -> tuple[Said, ...]:
    """What is said of every phase end beforehand."""
    if plan.decision is None:
        seen, out = 0, []
        for index, phase in enumerate(plan.spec.phases):
            seen += phase.tokens
            at = plan.spec.boundary(index)
            subject = Subject(boundary=at, phase=phase.name, index=index, tokens=seen)
            out.append(NoPrediction(subject=subject, reason="no sweep has been decided"))
        return tuple(out)
    manifests = plan.prepared.manifests
    design = design_of(plan.ask, manifests, plan.base)
    basis = refit(
        plan.ask,
        design,
        plan_runs(design),
        manifests,
        base=base_spec(plan.ask, manifests),
        decision=plan.decision,
        ledger=Ledger(store),
    )
    return predictions(basis, plan.spec)


def _begins(plan: Plan, store: Store) -> str:
    """One line: what is about to run, and from where."""
    done = 0
    for index in range(len(plan.spec.phases)):
        if (store.boundary(plan.spec.boundary(index)) / "boundary.json").exists():
            done = index + 1
    names = [phase.name for phase in plan.spec.phases]
    tokens = sum(phase.tokens for phase in plan.spec.phases[done:])
    line = f"full run {plan.spec.id}: {' -> '.join(names)}, {tokens:,} tokens to train"
    return f"{line}; trained before: {', '.join(names[:done])}" if done else line


def _carry_out(plan: Plan, store: Store, workers: Launcher, live: Live) -> Outcome:
    means = asked_of(plan.ask).engine.model_copy(
        update={"threads": plan.ask.launcher.threads, "keep_weights": True}
    )
    task = run_task(plan.spec, means, f"full run {plan.ask.name}", store)
    (outcome,) = workers.run([task], on_event=live)
    if outcome.ok:  # killed between the result and its tidying up, a run leaves them
        for left in store.run(plan.spec.id).glob("checkpoint-*"):
            shutil.rmtree(left, ignore_errors=True)
    return outcome


def report_of(
    plan: Plan, said: Sequence[Said], outcome: Outcome, store: Store, *, command: str
) -> Pretrained:
    """Everything the report of a full run shows; measurements are put on record.

    Raises:
        TrainingError: the run failed before its first phase ended, for a reason of the machine's.
    """
    folder = store.run(plan.spec.id)
    result = Ledger(store).result(plan.spec.id)
    ends = result.phases if result else _ends(folder)
    failure = outcome.failure
    if result is None and failure is not None and failure.kind != "aborted" and not ends:
        message, _, hint = failure.message.partition(" hint: ")  # in one line, from the worker
        see = f"see {failure.log}"
        raise TrainingError(
            f"full run: {failure.kind}: {message}", hint=f"{hint}; {see}" if hint else see
        )
    beside: tuple[Beside, ...] = settle_run(store, plan.spec, said, ends)
    asked = asked_of(plan.ask)
    return pretrained(
        plan.spec,
        Went(
            ends=ends,
            result=result,
            aborted=f"{failure.kind}: {failure.message}" if failure else outcome.missing,
            attempts=max(1, outcome.attempts),
            seconds=sum(end.seconds for end in ends if not end.reused),
            evaluations=_evaluations(folder / "evaluations.jsonl"),
            losses=read_losses(folder / "log.jsonl"),
        ),
        beside,
        name=plan.ask.name,
        question=plan.ask.question,
        decision=plan.decision,
        parameters=plan.base.parameters,
        audit=plan.audit,
        means=asked.engine,
        prices=plan.ask.prices,
        calibration=calibration(store),
        start=_start(plan),
        command=command,
        warnings=[f"`{name}` is in no phase: {why}" for name, why in plan.left_out.items()],
        reproduce={"seed": str(plan.ask.seed), "tokenizer": plan.spec.tokenizer},
    )


def _start(plan: Plan) -> str:
    if asked_of(plan.ask).start == "scratch":
        return f"new weights (seed {plan.spec.seed})"
    return f"the sweep's base ({getattr(plan.spec.start, 'path', '') or plan.spec.start.kind})"


def _ends(folder: Path) -> tuple[PhaseEnd, ...]:
    """Phase ends on record of a run that has no result."""
    return tuple(read_value(path, PhaseEnd) for path in sorted(folder.glob("phase-*.json")))


def _evaluations(path: Path) -> tuple[Evaluation, ...]:
    """Held-out scores on the way; a last line cut by a kill is passed over."""
    out = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        out.append(Evaluation(tokens=row["tokens"], phase=row["phase"], scores=row["scores"]))
    return tuple(out)
