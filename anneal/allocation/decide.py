"""The decision: the purchase with the smallest expected regret, and everything said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from anneal.allocation.collide import collision
from anneal.allocation.explain import binding, guard_intervals, interval, verdict, versus
from anneal.allocation.flips import Neighbours, flips, sensitivity
from anneal.allocation.problem import Problem
from anneal.allocation.purchase import allowed, divergence, fill, whole
from anneal.allocation.search import candidates, comparisons, nearest_to_prior, optimise
from anneal.allocation.values import Allocation, Row
from anneal.allocation.view import Survey, View, survey, tail_weights
from anneal.errors import PlanError
from anneal.laws import Law, band
from anneal.laws.points import Floats, Ints

APART = 0.1
"""Total-variation distance of shares from which another purchase counts as a runner-up."""
CLOUD = 120
"""Purchases scattered about the optimum, from which draws' own optima begin."""


def allocate(
    problem: Problem,
    *,
    rng: np.random.Generator,
    explained: bool = True,
    without: Mapping[str, Law] | None = None,
) -> Allocation:
    """Split the real budget over the supplies.

    Args:
        problem: the question.
        rng: draws candidates; the same seed gives the same answer.
        explained: also compute limits, sensitivities and flips.
        without: laws fitted without some of the runs, by what was left out ("runs at 800,000"):
            each adds a line to the sensitivity.

    Raises:
        PlanError: limits that cannot be kept together: which, and by how much; a prior mix that
            no allowed purchase comes near.
        LawError: a supply without a curve, or a target law that may rise.
    """
    refused = collision(problem)
    if refused is not None:
        raise refused
    pool = candidates(problem, rng=rng)
    if len(pool) == 0:
        pool = nearest_to_prior(problem)
    found, _ = optimise(problem, pool)
    tokens = whole(problem, found)
    chosen = tokens.astype(np.float64)
    seen = _examined(problem, chosen, pool, rng)
    good = pool[np.argsort(seen.judged.key[1 : 1 + len(pool)], kind="stable")]
    ours = seen.judged.scores[:, 0]
    regret = np.maximum(ours - seen.least, 0.0)
    others = {**comparisons(problem), **_runner_up(problem, seen), **_picks(problem)}
    rows, unaffordable = versus(problem, ours, others)
    pick, spread = _alone(problem, chosen)
    near = Neighbours(problem, chosen, good) if explained else None
    total = int(tokens.sum())
    answer = Allocation(
        rows=_rows(problem, tokens, seen.optima),
        tokens=total,
        trained=total / (1.0 - problem.replay),
        usd=float(problem.spent(chosen[None, :], "usd")[0]),
        flops=float(problem.spent(chosen[None, :], "flops")[0]),
        score=interval(ours),
        expected_regret=float(regret.mean()),
        regret_95=float(np.quantile(regret, 0.95)),
        probability_best=float(np.mean(regret <= problem.noise)),
        probability_guard=float(seen.judged.kept[0]),
        guards=guard_intervals(problem, chosen),
        versus=rows,
        unaffordable=unaffordable,
        binding=binding(problem, chosen) if explained else (),
        sensitivity=sensitivity(near, without=without or {}) if near else (),
        law_pick=pick,
        extrapolation=total / problem.target.frame.high,
        examined=int(seen.judged.tokens.shape[0]),
        verdict="run more",
        reason="",
        objective=problem.objective,
        level=problem.level,
        regret_limit=problem.threshold,
        chance_over=float(np.mean(regret > problem.threshold)),
        cvar=float(tail_weights(regret.size, problem.level) @ np.sort(regret)),
        divergence=float(divergence(problem, chosen[None, :])[0]),
        flips=flips(near) if near else (),
    )
    word, reason = verdict(problem, answer, spread=spread)
    return replace(answer, verdict=word, reason=reason)


def _examined(problem: Problem, chosen: Floats, pool: Floats, rng: np.random.Generator) -> Survey:
    """Everything compared, on all draws: the choice first, the pool, a cloud about the choice."""
    share = chosen / chosen.sum()
    cloud = rng.dirichlet(20.0 * share + 0.2, CLOUD) + 1e-12
    cloud[cloud < 1e-3] = 0.0
    cloud[:, [s.max_share == 0 for s in problem.supplies]] = 0.0
    near, possible = fill(problem, cloud[cloud.sum(axis=1) > 0], clip=not problem.shares_limited)
    near = near[possible & allowed(problem, near)]
    return survey(View.of(problem), np.concatenate([chosen[None, :], pool, near]))


def _alone(problem: Problem, chosen: Floats) -> tuple[str, float]:
    """The best single source by expected score, and worst minus best.

    The largest part of the choice where the limits let no source be bought alone.
    """
    singles, possible = fill(problem, np.eye(len(problem.supplies)))
    if not possible.any():
        return problem.names[int(np.argmax(chosen))], 0.0
    alone = View.of(problem).scores(singles[possible]).mean(axis=0)
    names = np.array(problem.names)[possible]
    return str(names[int(np.argmin(alone))]), float(np.ptp(alone))


def _runner_up(problem: Problem, seen: Survey) -> dict[str, Floats]:
    """The best purchase that is really another one, guards first; none where all are alike."""
    judged = seen.judged
    share = judged.tokens / judged.tokens.sum(axis=1, keepdims=True)
    far = np.flatnonzero(0.5 * np.abs(share - share[0]).sum(axis=1) >= APART)
    if far.size == 0:
        return {}
    return {"runner-up": judged.tokens[far[int(np.argmin(judged.key[far]))]]}


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
        out[name] = problem.mix(shares)
    return out


def _rows(problem: Problem, tokens: Ints, optima: Floats) -> tuple[Row, ...]:
    shares = optima / optima.sum(axis=1, keepdims=True)
    low, high = band(shares)
    total = int(tokens.sum())
    rows = []
    for i, supply in enumerate(problem.supplies):
        n = int(tokens[i])
        unique = min(n, supply.available)
        usd, flops = (supply.acquired(axis, unique) if n else 0.0 for axis in ("usd", "flops"))
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
