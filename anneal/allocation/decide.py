"""The decision: the purchase with the smallest expected regret, and everything said about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anneal.allocation.explain import (
    binding,
    guard_intervals,
    interval,
    sensitivity,
    verdict,
    versus,
)
from anneal.allocation.problem import Problem, fill, whole
from anneal.allocation.search import Judged, candidates, comparisons, judge, optimise
from anneal.allocation.values import Allocation, Row
from anneal.errors import PlanError
from anneal.laws import band
from anneal.laws.points import Floats, Ints

APART = 0.1
"""Total-variation distance of shares from which another purchase counts as a runner-up."""
CLOUD = 200
"""Purchases scattered about the optimum, so that per-draw optima are not a coarse grid's."""


def allocate(problem: Problem, *, rng: np.random.Generator, explained: bool = True) -> Allocation:
    """Split the real budget over the supplies.

    Args:
        problem: the question.
        rng: draws candidates; the same seed gives the same answer.
        explained: also compute limits and sensitivities (two thirds of the time).

    Raises:
        PlanError: the budget buys nothing at all.
        LawError: a supply without a curve, or a target law that may rise.
    """
    pool = candidates(problem, rng=rng)
    if pool.shape[0] == 0:
        raise PlanError(
            f"allocation: {problem.budget:,.6g} {problem.axis} buys no token of any source",
            hint="raise the budget, or declare lower fixed costs",
        )
    found, _ = optimise(problem, pool)
    tokens = whole(problem, found)
    chosen = tokens.astype(np.float64)
    examined = _examined(problem, chosen, pool, rng)
    ours = examined.scores[:, 0]
    fair = np.flatnonzero(examined.kept >= min(problem.confidence, float(examined.kept[0])))
    least = examined.scores[:, fair].min(axis=1)
    regret = ours - least
    optima = examined.tokens[fair][examined.scores[:, fair].argmin(axis=1)]
    others = {**comparisons(problem), **_runner_up(problem, examined), **_picks(problem)}
    rows, unaffordable = versus(problem, ours, others)
    singles, possible = fill(problem, np.eye(len(problem.supplies)))
    alone = judge(problem, singles[possible]).scores.mean(axis=0)
    pick = problem.names[int(np.flatnonzero(possible)[int(np.argmin(alone))])]
    total = int(tokens.sum())
    answer = Allocation(
        rows=_rows(problem, tokens, optima),
        tokens=total,
        trained=total / (1.0 - problem.replay),
        usd=float(problem.spent(chosen[None, :], "usd")[0]),
        flops=float(problem.spent(chosen[None, :], "flops")[0]),
        score=interval(ours),
        expected_regret=float(regret.mean()),
        regret_95=float(np.quantile(regret, 0.95)),
        probability_best=float(np.mean(regret <= problem.noise)),
        probability_guard=float(examined.kept[0]),
        guards=guard_intervals(problem, chosen),
        versus=rows,
        unaffordable=unaffordable,
        binding=binding(problem, chosen) if explained else (),
        sensitivity=sensitivity(problem, chosen, rng=rng) if explained else (),
        law_pick=pick,
        extrapolation=total / problem.target.frame.high,
        examined=int(examined.tokens.shape[0]),
        verdict="run more",
        reason="",
    )
    word, reason = verdict(problem, answer, spread=float(np.ptp(alone)))
    return replace(answer, verdict=word, reason=reason)


def _examined(problem: Problem, chosen: Floats, pool: Floats, rng: np.random.Generator) -> Judged:
    """Everything compared, on all draws: the choice first, the pool, a cloud about the choice."""
    share = chosen / chosen.sum()
    cloud = rng.dirichlet(20.0 * share + 0.2, CLOUD) + 1e-12
    cloud[cloud < 1e-3] = 0.0
    near, possible = fill(problem, cloud)
    return judge(problem, np.concatenate([chosen[None, :], pool, near[possible]]))


def _runner_up(problem: Problem, examined: Judged) -> dict[str, Floats]:
    """The best purchase that is really another one, guards first; none where all are alike."""
    share = examined.tokens / examined.tokens.sum(axis=1, keepdims=True)
    far = np.flatnonzero(0.5 * np.abs(share - share[0]).sum(axis=1) >= APART)
    if far.size == 0:
        return {}
    return {"runner-up": examined.tokens[far[int(np.argmin(examined.key[far]))]]}


def _picks(problem: Problem) -> dict[str, Floats]:
    """Caller's comparisons as directions (m,)."""
    out: dict[str, Floats] = {}
    for name, shares in problem.picks:
        given = dict(shares)
        unknown = set(given) - set(problem.names)
        if unknown or not any(v > 0 for v in given.values()):
            raise PlanError(
                f"allocation: comparison `{name}` has shares {given}, "
                f"supplies are {', '.join(problem.names)}"
            )
        out[name] = np.array([max(given.get(n, 0.0), 0.0) for n in problem.names])
    return out


def _rows(problem: Problem, tokens: Ints, optima: Floats) -> tuple[Row, ...]:
    shares = optima / optima.sum(axis=1, keepdims=True)
    low, high = band(shares)
    total = int(tokens.sum())
    rows = []
    for i, supply in enumerate(problem.supplies):
        n = int(tokens[i])
        unique = min(n, supply.available)
        usd = supply.usd_fixed + supply.usd_per_token * unique if n else 0.0
        flops = supply.flops_fixed + supply.flops_per_token * unique if n else 0.0
        trained = n / (1.0 - problem.replay)
        rows.append(
            Row(
                name=supply.name,
                share=n / total,
                # the choice belongs to its own interval: draws may agree on a neighbour of it
                share_low=min(float(low[i]), n / total),
                share_high=max(float(high[i]), n / total),
                tokens=n,
                unique=unique,
                epochs=n / supply.available if n > supply.available else float(n > 0),
                max_epochs=supply.max_epochs,
                cap=supply.cap,
                available=supply.available,
                usd=usd + problem.usd_per_trained * trained,
                flops=flops + problem.flops_per_trained * trained,
                acquisition_usd=usd,
                acquisition_flops=flops,
            )
        )
    return tuple(rows)
