"""The analysis in the report's words: a `Decision`, field by field."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from anneal.laws import FORMS, Blend, Law, band, predict, probability_best
from anneal.plan.flops import training_flops
from anneal.report import bought
from anneal.report.decision import Decision, RankRow, Sensitivity, SourceRow
from anneal.report.decision import Evidence as EvidenceRow
from anneal.report.law_rows import FitRow, FormRow, HoldOutRow, Interval, SourceFit
from anneal.sweep import curves, effects
from anneal.sweep.analyse import Analysis, alone
from anneal.sweep.evidence import Evidence
from anneal.sweep.statements import mixture_checks, points, repetition, reproduce, said, warnings

if TYPE_CHECKING:
    pass


def describe(evidence: Evidence, found: Analysis, *, key: str) -> Decision:
    """Every field of the decision."""
    ask, design, answer = evidence.ask, evidence.design, found.allocation
    level = ask.law.level
    marginal, marginal_per_usd = curves.marginals(design, found.law, level=level)
    labels = list(found.points.labels)
    evidence_row = _evidence(evidence, found)
    said_of = {row.score: row.corrected for row in found.rule_errors}
    return Decision(
        sweep=ask.name,
        question=ask.question,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=answer.verdict,
        reason=answer.reason,
        score=said_of[effects.AIM],
        base_score=found.base_score,
        expected_regret=answer.expected_regret,
        regret_95=answer.regret_95,
        probability_best=answer.probability_best,
        probability_guard=answer.probability_guard,
        guards={name: said_of[name] for name in answer.guards},
        guard_limits=found.guard_limits,
        beats=bought.beats(answer),
        law_pick=answer.law_pick,
        real_tokens=answer.tokens,
        real_usd=answer.usd,
        real_flops=answer.flops,
        axis=design.budget.real.axis,
        replay_share=design.anneal.replay_share,
        extrapolation=answer.extrapolation,
        extrapolation_note=_extrapolation(answer.extrapolation, design.parameters),
        parameters=design.parameters,
        partial=bool(evidence_row.missing),
        registration=evidence.registration,
        sources=_sources(evidence),
        evidence=evidence_row,
        noise=tuple(effects.noise_rows(found.table, evidence, labels)),
        effects=tuple(effects.effect_rows(found.table, evidence)),
        ranks=_ranks(found, level),
        rank_stability=effects.rank_stability(found.ranks),
        points=tuple(points(evidence, found)),
        curves=tuple(curves.lines(design, found.law, level=level)),
        fit=_fit(evidence, found),
        crossovers=tuple(curves.crossovers(design, found.law, noise=found.noise, level=level)),
        hold_out=_hold_out(found),
        mixture_checks=tuple(mixture_checks(evidence, found)),
        rule_errors=found.rule_errors,
        allocation=bought.rows(answer),
        binding=bought.binding(answer),
        sensitivity=tuple(
            Sensitivity(change=c.change, shares=c.shares, score=c.score, flips=c.flips)
            for c in answer.sensitivity
            if c.possible
        ),
        next_best=bought.next_best(found.next_runs, speed=design.prices.flops_per_second),
        marginal=tuple(marginal),
        marginal_per_usd=tuple(marginal_per_usd),
        repetition=repetition(evidence),
        warnings=tuple(warnings(evidence, found)),
        statements=said(evidence, found),
        reproduce=reproduce(evidence, found) | {"analysis": key},
    )


def _extrapolation(ratio: float, parameters: int) -> str:
    size = f"same model size ({parameters:,} parameters): 1x in parameters"
    told = f"{ratio:.1f}x the largest budget tried, in source tokens; {size}"
    if ratio > 100:
        return f"refuse: {told}. Beyond 100x no law here is to be trusted."
    if ratio > 10:
        return f"warn: {told}. Published data laws were rarely checked beyond 20x."
    return told


def _sources(evidence: Evidence) -> tuple[SourceRow, ...]:
    rows = []
    prices = evidence.design.prices
    for source in (*evidence.ask.source, *evidence.ask.replay):
        manifest = evidence.manifests[source.name]
        fixed = prices.acquisition_usd(manifest.cost, 0.0)
        rows.append(
            SourceRow(
                name=source.name,
                kind=source.kind,
                tokens=manifest.tokens,
                documents=manifest.documents,
                dropped=manifest.dropped,
                licence=source.licence,
                usd_fixed=fixed,
                # of all there are: a price that rises is told as its average
                usd_per_million_tokens=1e6
                * (prices.acquisition_usd(manifest.cost, manifest.tokens) - fixed)
                / manifest.tokens,
                flops_per_token=manifest.cost.flops_per_token,
                seconds_per_million_tokens=manifest.cost.seconds_per_token * 1e6,
                max_epochs=source.max_epochs,
                notes=manifest.notes,
            )
        )
    return tuple(rows)


def _evidence(evidence: Evidence, found: Analysis) -> EvidenceRow:
    design, table = evidence.design, found.table
    failed = Counter(o.failure.kind for o in evidence.outcomes if o.failure and not o.ok)
    names = {run.spec.id: run.label for run in evidence.runs}
    missing = tuple(
        f"{names[o.task]}: "
        + (f"{o.failure.kind}: {o.failure.message}" if o.failure else o.missing)
        for o in evidence.outcomes
        if not o.ok
    )
    prices = design.prices
    acquired = [evidence.manifests[s.name] for s in evidence.ask.source]
    flops = float(table["flops"].sum())
    acquisition = sum(m.cost.flops(m.tokens) for m in acquired)
    usd = sum(prices.acquisition_usd(m.cost, m.tokens) for m in acquired)
    real = training_flops(
        design.parameters, found.allocation.tokens / (1 - design.anneal.replay_share)
    )
    return EvidenceRow(
        planned=len(evidence.runs),
        finished=len(table),
        reused=evidence.reused,
        failed=dict(failed),
        missing=missing,
        excluded=(),
        flops=flops,
        acquisition_flops=acquisition,
        seconds=float(table["seconds"].sum()),
        usd=prices.training_usd(flops) + usd,
        share_of_real_budget=flops / real,
    )


def _ranks(found: Analysis, level: float) -> tuple[RankRow, ...]:
    regrets = {other.name: other.gain for other in found.allocation.versus}
    nothing = Interval(value=0.0, low=0.0, high=0.0, level=level)
    rows = []
    for budget, ranking in found.ranks.items():
        pick = ranking[0][0]
        gain = regrets.get(alone(pick))
        rows.append(
            RankRow(
                budget=budget,
                ranking=tuple(name for name, _ in ranking),
                scores=tuple(score for _, score in ranking),
                pick=pick,
                agrees=pick == found.allocation.law_pick,
                regret=bought.interval(gain) if gain is not None else nothing,
            )
        )
    return tuple(rows)


def _fit(evidence: Evidence, found: Analysis) -> FitRow:
    law, level = found.law, evidence.ask.law.level
    own: dict[str, dict[str, Interval]] = {label: {} for label in law.labels}
    shared: dict[str, Interval] = {}
    for name, draws in law.parameters().items():
        low, high = band(draws, level=level)
        value = Interval(
            value=float(law.fit.parameters[name]), low=float(low), high=float(high), level=level
        )
        kind, _, label = name.removesuffix("]").partition("[")
        if label in own:
            own[label][kind] = value
        else:
            shared[name] = value
    arms = {arm.name: arm for arm in curves.arms_of(evidence.design)}
    names = [n for n in law.labels if n in arms]
    real = np.array([arms[n].real for n in names])
    unique = np.minimum(real, [arms[n].supply.tokens for n in names])
    scores = predict(law, np.array([law.code(n) for n in names]), real, unique)
    best = probability_best(scores)
    low, high = band(scores, level=level)
    fits = tuple(
        SourceFit(
            source=name,
            parameters=own[name],
            at_real_budget=Interval(
                value=float(np.median(scores[:, i])),
                low=float(low[i]),
                high=float(high[i]),
                level=level,
            ),
            probability_best=float(best[i]),
        )
        for i, name in enumerate(names)
    )
    return FitRow(
        form=law.form.name,
        formula=FORMS[law.form.name].formula,
        reason=found.judged.reason if found.judged else "the only budget leaves no choice",
        forms=_forms(law),
        drift=_drift(law),
        shared=shared,
        sources=fits,
        converged=law.fit.converged,
        agreeing_starts=law.fit.agreeing,
        starts=law.fit.starts,
        on_bounds=law.fit.on_bounds,
        residual_sd=law.fit.residual_sd * float(found.points.score.mean()),
        draws=law.draws,
        failed_draws=law.failed,
        bounded_draws=law.bounded,
        method="smoothed wild bootstrap by run, noise SD and priors redrawn in each draw; forms by "
        "their weights; drift beyond the largest budget",
        message=law.fit.message,
    )


def _forms(law: Law) -> tuple[FormRow, ...]:
    if not isinstance(law, Blend):
        return ()
    return tuple(
        FormRow(
            form=member.form.name,
            formula=member.form.formula,
            weight=weight,
            error=rolled.mse**0.5 if rolled.cells else None,
            predicted=rolled.cells,
        )
        for member, weight, rolled in zip(law.members, law.weights, law.rolls, strict=True)
    )


def _drift(law: Law) -> str:
    if not isinstance(law, Blend):
        return ""
    return (
        f"beyond {law.frame.high:,.0f} tokens the score may leave the curves by "
        f"{law.common_sd:.2%} (SD) a doubling for all sources together and {law.own_sd:.2%} for "
        f"each by itself: what {law.rolled.cells} predictions of larger budgets from smaller ones "
        f"were off by beyond expectation, drawn towards {law.assumed[0]:.2%} and "
        f"{law.assumed[1]:.2%} (assumed)"
    )


def _hold_out(found: Analysis) -> tuple[HoldOutRow, ...]:
    if found.judged is None:
        return ()
    return tuple(
        HoldOutRow(
            approach=row.approach,
            mae=row.mae,
            rank_correlation=row.rank_correlation,
            top1_regret=row.top1_regret,
            coverage=row.coverage,
            chosen=row.chosen,
        )
        for row in found.judged.rows
        if np.isfinite(row.mae)
    )
