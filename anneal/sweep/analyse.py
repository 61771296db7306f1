"""From results to a decision: laws, allocation, and every number the report prints.

The steps are those of DESIGN's sentences 7 and 8. Nothing is chosen by looking at the answer: the
law is the average of its forms by how they predicted held-out budgets, the split is the one with
the least expected regret over the law's draws, and the verdict follows a stated rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anneal import allocation as alloc
from anneal.allocation.mixing import Mixing
from anneal.errors import LawError
from anneal.laws import (
    FORMS,
    HoldOut,
    Law,
    Points,
    blend,
    hold_out,
    noise_floor,
)
from anneal.plan.budget import Supply
from anneal.plan.flops import training_flops
from anneal.plan.runs import CONTROL, further_runs, run_flops
from anneal.report.decision import Decision
from anneal.report.law_rows import RuleError
from anneal.sweep import curves, effects, mixtures
from anneal.sweep.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd

LEAVABLE = 5
"""Budgets from which one can be left out to see what the others say."""
Ranks = dict[int, list[tuple[str, float]]]


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything found, before it is put into the report's words.

    Args:
        table: results with the aggregate score.
        points: those the law was fitted to: control and sources.
        law: the average of the forms with its draws.
        judged: how the forms predicted the held-out budget; None with a single budget.
        noise: noise floor of the score, bits per byte.
        ranks: sources by mean score at each single budget.
        allocation: the split and its comparisons.
        next_runs: what could be run next, ranked.
        guard_limits: largest allowed score by guard.
        base_score: the score of the base as it is.
        rule_errors: of the mixture rule, and what is said of the split for them.
    """

    table: pd.DataFrame
    points: Points
    law: Law
    judged: HoldOut | None
    noise: float
    ranks: Ranks
    allocation: alloc.Allocation
    next_runs: alloc.NextRuns
    guard_limits: dict[str, float]
    base_score: float
    rule_errors: tuple[RuleError, ...]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Laws of a sweep and the allocation's question about them.

    Args:
        table: results with the aggregate score.
        points: those the law was fitted to: control and sources.
        judged: how the forms predicted the held-out budget; None with a single budget.
        repeats: whether the real budget repeats a source.
        ranks: sources by mean score at each single budget.
        problem: the question; it holds the law, the guards' laws and the noise floor.
        rule_errors: of the mixture rule, by the score's and the guards' names.
    """

    table: pd.DataFrame
    points: Points
    judged: HoldOut | None
    repeats: bool
    ranks: Ranks
    problem: alloc.Problem
    rule_errors: dict[str, Mixing]


def analyse(evidence: Evidence, table: pd.DataFrame, *, key: str) -> Decision:
    """Fits, decides and describes.

    Args:
        evidence: the sweep after its runs.
        table: one row per finished run.
        key: address of everything this follows from.

    Raises:
        LawError: too few results to fit any law.
        PlanError: the real budget buys nothing.
    """
    from anneal.sweep.describe import describe

    rng = np.random.default_rng(evidence.ask.seed)
    fitted = fit_laws(evidence, table, rng=rng)
    points, problem = fitted.points, fitted.problem
    answer = alloc.allocate(
        problem, rng=rng, without=_without_scales(evidence, points, fitted.repeats, rng)
    )
    found = Analysis(
        table=fitted.table,
        points=points,
        law=problem.target,
        judged=fitted.judged,
        noise=problem.noise,
        ranks=fitted.ranks,
        allocation=answer,
        next_runs=_next_runs(evidence, problem),
        guard_limits={guard.name: guard.limit for guard in problem.guards},
        base_score=float(fitted.table.loc[table["arm"] == "base", effects.AIM].iloc[0]),
        rule_errors=mixtures.corrected(evidence, fitted.table, problem, fitted.rule_errors, answer),
    )
    return describe(evidence, found, key=key)


def fit_laws(evidence: Evidence, table: pd.DataFrame, *, rng: np.random.Generator) -> Fitted:
    """Everything before the allocation: laws of the score and the guards, and the question.

    The same results and an `rng` fresh from the sweep's seed give the same laws draw by draw, so
    whoever wants more of them than the decision says makes them anew.

    Raises:
        LawError: too few results to fit any law.
    """
    if not len(table) or not (table["arm"] == "base").any():
        raise LawError(
            f"sweep {evidence.ask.name}: the base has no score, so no curve can start from it",
            hint="see `python -m anneal status`, mend the cause and run again",
        )
    table = effects.with_score(table, evidence)
    labels = [CONTROL, *(s.name for s in evidence.design.sources)]
    labels = [name for name in labels if (table["source"] == name).any()]
    points = effects.points_of(table, labels, effects.AIM)
    judged, repeats = judge_forms(evidence, points, rng)
    law = blend(
        evidence.ask.law.forms, points, rng=rng, draws=evidence.ask.law.draws, repeats=repeats
    )
    noise = floor_of(points, law)
    ranks = effects.single_scale(table, evidence, [n for n in labels if n != CONTROL])
    guards = _guards(evidence, table, labels, rng)
    problem = _problem(evidence, law, noise, judged, guards, ranks)
    errors = mixtures.rule_errors(evidence, table, problem)
    return Fitted(table, points, judged, repeats, ranks, problem, errors)


def judge_forms(
    evidence: Evidence, points: Points, rng: np.random.Generator
) -> tuple[HoldOut | None, bool]:
    """How the forms predict the held-out largest budget, and whether the real budget repeats a
    source: then only forms that price repetition count."""
    forms = evidence.ask.law.forms
    unknown = [f for f in forms if f not in FORMS]
    if unknown:
        raise LawError(f"law: unknown form `{unknown[0]}`", hint=f"one of {', '.join(FORMS)}")
    arms = [arm for arm in curves.arms_of(evidence.design) if arm.bought]
    repeats = any(arm.real > arm.supply.tokens for arm in arms)
    if len(np.unique(points.tokens)) < 2:
        return None, repeats
    return hold_out(forms, points, rng=rng, repeats=repeats), repeats


def _without_scales(
    evidence: Evidence, points: Points, repeats: bool, rng: np.random.Generator
) -> dict[str, Law]:
    """The law without its smallest and without its largest budget: does one scale decide?"""
    ladder = evidence.design.budget.ladder
    if len(ladder) < LEAVABLE:
        return {}
    out: dict[str, Law] = {}
    for budget in (ladder[0], ladder[-1]):
        rest = points.rows(np.abs(points.tokens / budget - 1.0) > 0.25)
        forms = evidence.ask.law.forms
        name = f"runs at {budget:,} tokens"
        out[name] = blend(forms, rest, rng=rng, draws=100, repeats=repeats)
    return out


def floor_of(points: Points, law: Law) -> float:
    """Seed noise of one run, bits per byte; the law's residuals where no cell was repeated."""
    try:
        floor = noise_floor(points).sd
    except LawError:
        floor = law.fit.residual_sd * float(points.score.mean())
    return max(floor, 1e-6)


def _guards(
    evidence: Evidence, table: pd.DataFrame, labels: list[str], rng: np.random.Generator
) -> tuple[alloc.Guard, ...]:
    """Guards with their laws; each may get worse than the base by its tolerance."""
    guards = []
    for target in evidence.ask.target:
        if not target.guard:
            continue
        points = effects.points_of(table, labels, f"bpb {target.name}")
        assert points.anchor is not None
        law = blend([evidence.ask.law.guard_form], points, rng=rng, draws=evidence.ask.law.draws)
        guards.append(alloc.Guard(target.name, law, points.anchor + target.tolerance))
    return tuple(guards)


def _problem(
    evidence: Evidence,
    law: Law,
    noise: float,
    judged: HoldOut | None,
    guards: tuple[alloc.Guard, ...],
    ranks: Ranks,
) -> alloc.Problem:
    """The allocation's question in its own words."""
    design, ask = evidence.design, evidence.ask
    real, prices = design.budget.real, design.prices
    fitted = [s for s in design.sources if s.name in law.labels]
    control = CONTROL if CONTROL in law.labels and design.anneal.replay_share > 0 else ""
    if ask.allocation.prior and CONTROL not in ask.allocation.prior:
        control = ""  # any of it would lie infinitely far from the prior
    supplies = [_supply(evidence, s) for s in fitted]
    if control:  # more replay costs nothing to acquire: it is there already
        supplies.append(
            alloc.Supply(CONTROL, int(design.replay.tokens), max_epochs=design.replay.max_epochs)
        )
    picks: dict[str, tuple[tuple[str, float], ...]] = {
        alone(s.name): ((s.name, 1.0),) for s in fitted
    }
    if control:
        picks[CONTROL] = ((CONTROL, 1.0),)
    if ask.allocation.current:
        picks["current mix"] = tuple(ask.allocation.current.items())
    if ranks:
        largest = ranks[max(ranks)]
        picks["single-scale pick"] = ((largest[0][0], 1.0),)
    error = None
    if judged is not None:
        error = next((r.mae for r in judged.rows if r.chosen), None)
    per_trained = training_flops(design.parameters, 1.0)
    return alloc.Problem(
        supplies=tuple(supplies),
        target=law,
        budget=float(real.tokens or real.usd or real.flops or 0.0),
        axis=real.axis,
        noise=noise,
        replay=design.anneal.replay_share,
        usd_per_trained=prices.training_usd(per_trained),
        flops_per_trained=per_trained,
        guards=guards,
        confidence=ask.allocation.guard_probability,
        control=control,
        hold_out_error=error,
        picks=tuple(picks.items()),
        **_limits(evidence, [s.name for s in supplies]),
    )


def _next_runs(evidence: Evidence, problem: alloc.Problem) -> alloc.NextRuns:
    """Runs that could come next, ranked; priced by training alone: their tokens are there."""
    design = evidence.design
    runs = []
    for run in further_runs(design):
        if run.source in problem.target.labels:
            flops = run_flops(design, run)
            usd = design.prices.training_usd(flops)
            tokens = run.tokens * run.tested
            runs.append(alloc.Candidate(run.source, tokens, tokens / run.epochs, flops, usd))
    return alloc.next_runs(problem, runs, rng=np.random.default_rng(evidence.ask.seed))


def _limits(evidence: Evidence, names: list[str]) -> dict[str, Any]:
    """The sweep's further limits and its objective, as the allocation's problem takes them."""
    ask = evidence.ask.allocation
    licence = {s.name: s.licence for s in evidence.ask.source}
    groups = {name: tuple(n for n in names if licence.get(n) == name) for name in ask.licences}
    return {
        "objective": ask.objective,
        "level": ask.level,
        "regret_limit": ask.regret_limit,
        "ceilings": tuple(ask.ceilings.items()),
        "min_replay": ask.min_replay,
        "together": tuple(
            alloc.Together(f"licence {name}", members, most=ask.licences[name])
            for name, members in groups.items()
            if members
        ),
        "prior": tuple((n, w) for n, w in ask.prior.items() if n in names),
        "prior_weight": ask.prior_weight,
        "prior_limit": float("inf") if ask.prior_limit is None else ask.prior_limit,
        "least_tokens": ask.least_tokens,
    }


def alone(source: str) -> str:
    """Name of the comparison that buys one source alone."""
    return f"{source} alone"


def _supply(evidence: Evidence, supply: Supply) -> alloc.Supply:
    prices = evidence.design.prices
    least, most = evidence.ask.allocation.shares.get(supply.name, (0.0, 1.0))
    return alloc.Supply(
        name=supply.name,
        available=supply.tokens,
        max_epochs=supply.max_epochs,
        usd_fixed=prices.acquisition_usd(supply.cost, 0.0),
        usd_per_token=prices.acquisition_each(supply.cost),
        usd_tiers=supply.cost.usd_tiers,
        flops_fixed=supply.cost.flops_fixed,
        flops_per_token=supply.cost.flops_per_token,
        min_share=least,
        max_share=most,
    )
