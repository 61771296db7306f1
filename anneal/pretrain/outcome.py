"""A full run in the report's records: what was asked, said, measured and spent.

Everything comes from records: the run as laid out, its phase ends (or, finished, its result), the
predictions on file and the log. A run that was aborted or is not done yet is described as far as
it came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

from anneal.plan.audit import AuditRow as Planned
from anneal.plan.budget import Prices
from anneal.plan.flops import training_flops, utilisation
from anneal.plan.means import Means
from anneal.plan.predictions import AIM, Calibration, NoPrediction
from anneal.plan.scores import aim
from anneal.plan.values import Phase, PhaseEnd, Result, RunSpec
from anneal.pretrain.assumptions import schedule_words
from anneal.pretrain.settle import Beside, measured_score
from anneal.report.decision import Decision
from anneal.report.law_rows import Interval
from anneal.report.pretrained import (
    AuditRow,
    Evaluation,
    Foretold,
    LossPoint,
    PhaseRow,
    Pretrained,
    SpentRow,
    State,
)

DRAWN = 600
"""Points of the training loss that are kept: more than a page has pixels for are none."""


@dataclass(frozen=True, kw_only=True)
class Went:
    """How a run went, beside what it was.

    Args:
        ends: phase ends reached, in order.
        result: what it measured; None where it did not finish.
        aborted: why it ended early; empty where it did not.
        attempts: launches, retries included.
        seconds: of wall-clock spent training and scoring, over all attempts.
        evaluations: held-out scores on the way.
        losses: training loss by tokens.
    """

    ends: tuple[PhaseEnd, ...]
    result: Result | None = None
    aborted: str = ""
    attempts: int = 1
    seconds: float = 0.0
    evaluations: tuple[Evaluation, ...] = ()
    losses: tuple[LossPoint, ...] = ()


def pretrained(
    spec: RunSpec,
    went: Went,
    beside: Sequence[Beside],
    *,
    name: str,
    question: str,
    decision: Decision | None,
    parameters: int,
    audit: Sequence[Planned],
    means: Means,
    prices: Prices,
    calibration: Calibration | None,
    start: str,
    command: str = "",
    warnings: Sequence[str] = (),
    reproduce: Mapping[str, str] | None = None,
) -> Pretrained:
    """Everything the report of a full run shows.

    Args:
        spec: the run, its phases laid out.
        went: how it went.
        beside: predictions with what was measured, from `settle_run`.
        name: of the full run.
        question: of the sweep.
        decision: whose allocation it carries out; None where it needed none.
        parameters: of the model.
        audit: tokens as asked and as laid out, by phase and source.
        means: how it was carried out.
        prices: of the sweep: what was asked in hours and USD, and what the spent ones cost.
        calibration: of the store, this run included.
        start: what it started from, in words.
        command: what was typed.
        warnings: what a reader must know first.
        reproduce: further rows of the provenance.
    """
    asked = {(row.phase, row.source): row for row in audit}
    result, ends = went.result, {end.index: end for end in went.ends}
    state: State = "aborted" if went.aborted else "unfinished" if result is None else "finished"
    parameters = parameters if result is None else result.parameters
    return Pretrained(
        name=name,
        sweep=name,
        question=question,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        run=spec.id,
        state=state,
        aborted=went.aborted,
        parameters=parameters,
        start=start,
        engine=_engine(means),
        processes=means.processes,
        device="" if result is None else result.device,
        precision=spec.precision,
        tokens_per_second=None if result is None else result.tokens_per_second,
        mfu=None
        if result is None
        else utilisation(parameters, result.tokens_per_second, result.device, means.processes),
        attempts=went.attempts,
        resumed=0 if result is None else result.resumed,
        phases=tuple(_phase(spec, i, p, ends.get(i)) for i, p in enumerate(spec.phases)),
        foretold=tuple(map(_foretold, beside)),
        audit=tuple(
            row for i, p in enumerate(spec.phases) for row in _audit(p, ends.get(i), asked)
        ),
        spent=_spent(spec, went, means, prices, parameters),
        evaluations=tuple(_weighted(spec, e) for e in went.evaluations),
        losses=thinned(went.losses),
        guard_limits={**(decision.guard_limits if decision else {}), **means.watch.guard_limits},
        calibration=calibration,
        allocation={r.source: r.share for r in decision.allocation if r.tokens} if decision else {},
        warnings=tuple(warnings),
        reproduce={
            "command": command,
            "run": spec.id,
            "analysis of the decision": decision.reproduce.get("analysis", "")
            if decision
            else "none",
            "weights": (result.weights or "") if result else "",
            "code": result.code if result else "",
            "versions": " ".join(f"{k} {v}" for k, v in sorted(result.versions.items()))
            if result
            else "",
            "host": result.host if result else "",
            **(reproduce or {}),
        },
    )


def _engine(means: Means) -> str:
    words: list[str] = [means.engine]
    if means.engine == "deepspeed":
        own = means.deepspeed
        words.append(f"ZeRO {own.stage}")
        words += [
            f"{what} offloaded to {where}"
            for what, where in (
                ("optimiser", own.offload_optimizer),
                ("weights", own.offload_param),
            )
            if where != "none"
        ]
    if means.long.sequence_parallel > 1:
        words.append(f"sequences over {means.long.sequence_parallel} processes")
    return ", ".join(words)


def _phase(spec: RunSpec, index: int, phase: Phase, end: PhaseEnd | None) -> PhaseRow:
    before = sum(p.tokens for p in spec.phases[:index])
    scores: dict[str, float] = {}
    if end is not None:
        weighted = measured_score(spec, end.scores)
        scores = {n: s.bpb for n, s in end.scores.items()} | ({AIM: weighted} if weighted else {})
    return PhaseRow(
        phase=phase.name,
        index=index,
        asked=phase.tokens,
        tokens=None if end is None else end.tokens - before,
        steps_asked=phase.steps,
        steps=None if end is None else end.steps,
        batch=phase.batch,
        sequence=phase.sequence,
        schedule=schedule_words(phase.schedule),
        learning_rate=None if end is None else end.learning_rate,
        loss=None if end is None else end.loss,
        scores=scores,
        seconds=None if end is None else end.seconds,
        finished="" if end is None else end.finished,
        boundary="" if end is None else end.boundary,
        verified=end.verified if end is not None and end.boundary else None,
        reused=end is not None and end.reused,
        weights="" if end is None else end.weights,
    )


def _foretold(beside: Beside) -> Foretold:
    said, settled = beside.said, beside.settled
    subject = said.subject
    given = {
        "phase": subject.phase,
        "index": subject.index,
        "tokens": subject.tokens,
        "score": said.score,
        "measured": beside.measured,
    }
    if isinstance(said, NoPrediction):
        return Foretold(predicted=None, reason=said.reason, inside=None, error=None, **given)
    measured = beside.measured
    return Foretold(
        predicted=Interval(value=said.value, low=said.low, high=said.high, level=said.level),
        inside=None if measured is None else said.inside(measured),
        error=None if measured is None else measured - said.value,
        counted=settled is not None and not said.known,
        known=said.known,
        broken=said.broken,
        basis=said.basis,
        extrapolation=said.extrapolation,
        made=said.made,
        address=said.address,
        **given,
    )


def _audit(
    phase: Phase, end: PhaseEnd | None, asked: Mapping[tuple[str, str], Planned]
) -> list[AuditRow]:
    rows = []
    for portion in phase.mixture:
        laid = portion.tokens or round(portion.share * phase.tokens)
        planned = asked.get((phase.name, portion.source))
        realised = None if end is None else end.source_tokens.get(portion.source, 0)
        wanted = laid if planned is None else planned.asked
        rows.append(
            AuditRow(
                phase=phase.name,
                source=portion.source,
                asked=wanted,
                laid_out=laid,
                reason="" if planned is None else planned.reason,
                realised=realised,
                unique=None if end is None else end.unique_tokens.get(portion.source, 0),
                difference=None if realised is None else realised - wanted,
            )
        )
    return rows


def _spent(
    spec: RunSpec, went: Went, means: Means, prices: Prices, parameters: int
) -> tuple[SpentRow, ...]:
    """Asked by the plan's formulas; spent as measured: device-hours are processes x wall-clock."""
    result = went.result
    asked = sum(p.tokens for p in spec.phases)
    reached = max((end.tokens for end in went.ends), default=0)
    tokens = reached if result is None else result.tokens
    steps = sum(end.steps for end in went.ends) if result is None else result.steps
    flops = training_flops(parameters, asked)
    hours = flops / prices.flops_per_second / 3600
    seconds = max(went.seconds, 0.0 if result is None else result.seconds)
    used = seconds * means.processes / 3600
    rate = f"{prices.usd_per_hour:g} USD a device-hour, training alone"
    so_far = "" if result is not None else "up to the last phase end"
    return (
        SpentRow(what="tokens", asked=asked, spent=tokens, note=so_far),
        SpentRow(what="steps", asked=sum(p.steps for p in spec.phases), spent=steps, note=so_far),
        SpentRow(
            what="FLOPs",
            asked=flops,
            spent=training_flops(parameters, tokens),
            note="6 x parameters x tokens",
        ),
        SpentRow(
            what="device-hours",
            asked=hours,
            spent=used,
            note=f"asked: FLOPs / {prices.flops_per_second:.3g} a second; spent: wall-clock x "
            f"{means.processes} with scoring and checkpoints",
        ),
        SpentRow(
            what="USD",
            asked=prices.training_usd(flops),
            spent=used * prices.usd_per_hour,
            note=rate,
        ),
    )


def _weighted(spec: RunSpec, evaluation: Evaluation) -> Evaluation:
    """The same with the weighted aim, where all its targets were scored."""
    weighted = aim(evaluation.scores, spec.targets)
    if AIM in evaluation.scores or weighted is None:
        return evaluation
    return evaluation.model_copy(update={"scores": evaluation.scores | {AIM: weighted}})


def thinned(losses: Sequence[LossPoint], most: int = DRAWN) -> tuple[LossPoint, ...]:
    """At most `most` points, each the mean of its neighbours: spikes are damped, not hidden, since
    the largest loss of the run keeps its own point."""
    if len(losses) <= most:
        return tuple(losses)
    edges = list(accumulate(len(losses) // most + (i < len(losses) % most) for i in range(most)))
    worst = max(losses, key=lambda p: p.loss)
    out = []
    for first, last in zip([0, *edges], edges, strict=False):
        part = losses[first:last]
        if worst in part and part[-1] is not losses[-1]:
            out.append(worst)
        elif worst in part:  # the end of the run keeps its place
            out.append(LossPoint(tokens=part[-1].tokens, loss=worst.loss))
        else:
            out.append(
                LossPoint(tokens=part[-1].tokens, loss=sum(p.loss for p in part) / len(part))
            )
    return tuple(out)


def read_losses(path: Path) -> tuple[LossPoint, ...]:
    """Training losses of a run's `log.jsonl`; rows of other kinds, and a last line cut by a kill,
    are passed over."""
    out = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if isinstance(row, dict) and "loss" in row and "tokens" in row:
            out.append(LossPoint(tokens=row["tokens"], loss=row["loss"]))
    return tuple(out)
