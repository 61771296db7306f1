"""From a law and a file of costs to a split of the real budget.

The question is put to `anneal.allocation` as it stands; this module checks that the two files speak
of the same sources, refuses a budget that no purchase can meet and says which limits collide, and
puts the answer into the words that are printed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from anneal import allocation as alloc
from anneal.errors import TableError
from anneal.laws import HoldOut, Law
from anneal.report import bought
from anneal.report.decision import NextBest, Sensitivity
from anneal.sources.tiers import affords
from anneal.table.cells import near
from anneal.table.costs import Costs
from anneal.table.fit import guard_law
from anneal.table.measured import Measured
from anneal.table.read import CONTROL
from anneal.table.values import Allocated, Fitted, Licence


def match(measured: Measured, costs: Costs, name: str) -> None:
    """Whether a table and its costs fit together.

    Args:
        name: of the file of costs.

    Raises:
        TableError: a source without costs or without runs, a guard unknown or without a base, a
            current mix of other sources, a budget that cannot be spent or buys nothing.
    """
    _known(costs.sources, measured.labels, f"{name}: sources", f"has no runs in {measured.name}")
    for label in measured.sources:
        if label not in costs.sources:
            raise TableError(
                f"{name}: no costs of source `{label}`, which {measured.name} has runs of",
                hint=f"add `sources.{label}`, with `available` at least, or drop its rows",
            )
    _known(costs.current, costs.sources, f"{name}: current", "is not among the sources")
    _known(costs.guards, measured.guards, f"{name}: guards", f"is no guard of {measured.name}")
    for guard in costs.guards:
        if measured.guards[guard].anchor is None:
            raise TableError(
                f"{name}: guard `{guard}` may get worse than the base by "
                f"{costs.guards[guard]:g}, but {measured.name} has no score of the base on it",
                hint="add a row of the base (tokens 0) with this target",
            )
    _feasible(costs, name)


def problem_of(
    measured: Measured,
    law: Law,
    judged: HoldOut,
    costs: Costs,
    *,
    noise: float,
    single_scale_pick: str,
    rng: np.random.Generator,
) -> alloc.Problem:
    """The question in allocation's own words."""
    bought = _bought(costs)
    picks: dict[str, tuple[tuple[str, float], ...]] = {}
    if len(bought) > 1:
        picks = {f"{n} alone": ((n, 1.0),) for n in bought if n != CONTROL}
    if costs.current and set(costs.current) <= set(bought):
        picks["current mix"] = tuple(costs.current.items())
    if single_scale_pick in bought:
        picks["single-scale pick"] = ((single_scale_pick, 1.0),)
    guards = []
    for name, tolerance in costs.guards.items():
        points = measured.guards[name]
        assert points.anchor is not None
        guards.append(alloc.Guard(name, guard_law(points, rng), points.anchor + tolerance))
    return alloc.Problem(
        supplies=tuple(
            alloc.Supply(
                name=name,
                available=int(costs.sources[name].available),
                max_epochs=costs.sources[name].max_epochs,
                usd_fixed=costs.sources[name].usd_fixed,
                usd_per_token=costs.sources[name].usd_each,
                usd_tiers=costs.sources[name].usd_tiers,
                flops_fixed=costs.sources[name].flops_fixed,
                flops_per_token=costs.sources[name].flops_per_token,
            )
            for name in bought
        ),
        target=law,
        budget=costs.budget.amount,
        axis=costs.budget.axis,
        noise=noise,
        replay=costs.replay,
        usd_per_trained=costs.usd_each,
        flops_per_trained=costs.flops_each,
        guards=tuple(guards),
        confidence=costs.confidence,
        control=CONTROL if CONTROL in bought else "",
        hold_out_error=next((r.mae for r in judged.rows if r.chosen), None),
        picks=tuple(picks.items()),
        prior=tuple(costs.prior.items()),
        prior_limit=float("inf") if costs.prior_limit is None else costs.prior_limit,
        least_tokens=costs.least_tokens,
    )


def decide(problem: alloc.Problem, rng: np.random.Generator) -> alloc.Allocation:
    """The split: every call to the search for one is here."""
    return alloc.allocate(problem, rng=rng)


def following(
    problem: alloc.Problem, measured: Measured, costs: Costs, rng: np.random.Generator
) -> NextBest:
    """Runs that could come next: each source at the table's budgets again, and at two and four
    times the largest, within its cap. Their price is training, in tokens where that is all there
    is."""
    ladder = measured.ladder
    each = costs.flops_each or 1.0
    runs = []
    for source in _bought(costs):
        for tokens in (*ladder, 2 * ladder[-1], 4 * ladder[-1]):
            if tokens <= costs.sources[source].cap:
                trained = tokens / (1 - costs.replay)
                unique = measured.pool(source, tokens)
                usd = costs.usd_each * trained
                runs.append(alloc.Candidate(source, tokens, unique, each * trained, usd))
    found = alloc.next_runs(problem, runs, rng=rng)
    return bought.next_best(found, speed=costs.flops_per_second, priced=costs.flops_each > 0)


def told(
    answer: alloc.Allocation,
    problem: alloc.Problem,
    costs: Costs,
    *,
    fitted: Fitted,
    next_best: NextBest,
    name: str,
    single_scale_pick: str,
) -> Allocated:
    """The answer as values.

    Args:
        name: of the file of costs.
    """
    verdict, reason = answer.verdict, answer.reason
    if verdict == "adopt" and fitted.doubt:  # the search takes the law's word; its judge did not
        verdict, reason = "adopt with hold-out", fitted.doubt
    return Allocated(
        fitted=fitted,
        costs=name,
        axis=problem.axis,
        budget=problem.budget,
        tokens=answer.tokens,
        trained=answer.trained,
        usd=answer.usd,
        flops=answer.flops,
        replay=problem.replay,
        verdict=verdict,
        reason=reason,
        score=bought.interval(answer.score),
        expected_regret=answer.expected_regret,
        regret_95=answer.regret_95,
        probability_best=answer.probability_best,
        probability_guard=answer.probability_guard,
        guards={n: bought.interval(v) for n, v in answer.guards.items()},
        guard_limits={g.name: g.limit for g in problem.guards},
        rows=bought.rows(answer),
        beats=bought.beats(answer),
        unaffordable=answer.unaffordable,
        binding=bought.binding(answer),
        sensitivity=tuple(
            Sensitivity(
                change=s.change if s.possible else f"{s.change}: buys nothing",
                shares=s.shares,
                score=s.score,
                flips=s.flips,
            )
            for s in answer.sensitivity
        ),
        next_best=next_best,
        licences=_licences(answer, costs),
        law_pick=answer.law_pick,
        single_scale_pick=single_scale_pick,
        extrapolation=answer.extrapolation,
        examined=answer.examined,
        warnings=_warnings(answer, problem, costs, fitted),
    )


def decision_budget(costs: Costs) -> float:
    """Source tokens that the budget could buy at most: where the law will be asked.

    In USD and FLOPs: of the source that gives the most of them alone, within its cap.
    """
    axis, amount = costs.budget.axis, costs.budget.amount
    if axis == "tokens":
        return amount
    most = []
    for name in _bought(costs):
        source = costs.sources[name]
        usd = axis == "usd"
        fixed = source.usd_fixed if usd else source.flops_fixed
        train = (costs.usd_each if usd else costs.flops_each) / (1 - costs.replay)
        prices = source.prices(axis)
        buys = affords(amount - fixed, prices, exist=source.available, train=train)
        most.append(min(buys, float(source.cap)))
    return max(most)


def repeats(costs: Costs, measured: Measured) -> bool:
    """Whether a purchase might repeat a source, or a run did: then repetition must be priced."""
    budget = decision_budget(costs)
    scarce = any(
        min(budget, costs.sources[n].cap) > costs.sources[n].available for n in _bought(costs)
    )
    return scarce or measured.repeats


def _bought(costs: Costs) -> list[str]:
    """Sources of which something may be bought."""
    return [n for n, s in costs.sources.items() if s.licence not in costs.exclude_licences]


def _known(names: Iterable[str], known: Iterable[str], where: str, what: str) -> None:
    options = list(known)
    for name in names:
        if name not in options:
            close = near(name, options)
            raise TableError(
                f"{where}: `{name}` {what}",
                hint=f"did you mean `{close}`?" if close else f"known are {', '.join(options)}",
            )


def _feasible(costs: Costs, name: str) -> None:
    """Refuses a budget that no purchase can meet, and says which limits collide and by how much."""
    bought = _bought(costs)
    if not bought:
        raise TableError(
            f"{name}: exclude_licences ({', '.join(costs.exclude_licences)}) leaves no source",
            hint="allow one of the licences, or add a source with another",
        )
    axis, amount = costs.budget.axis, costs.budget.amount
    if axis == "tokens":
        caps = {n: costs.sources[n].cap for n in bought}
        if sum(caps.values()) < amount:
            held = ", ".join(
                f"{n} {costs.sources[n].available:,.0f} x {costs.sources[n].max_epochs:g} epochs"
                for n in bought
            )
            out = (
                f"; exclude_licences {', '.join(costs.exclude_licences)}"
                if (costs.exclude_licences)
                else ""
            )
            raise TableError(
                f"{name}: budget {amount:,.0f} tokens collides with what may be trained on, "
                f"{sum(caps.values()):,} ({held}{out}): {amount - sum(caps.values()):,.0f} short",
                hint="lower the budget, raise max_epochs, or add a source",
            )
        return
    usd = axis == "usd"
    needed = {
        n: (costs.sources[n].usd_fixed if usd else costs.sources[n].flops_fixed)
        + costs.sources[n].prices(axis)[0][1]
        + (costs.usd_each if usd else costs.flops_each) / (1 - costs.replay)
        for n in bought
    }
    cheapest = min(needed, key=lambda n: needed[n])
    if needed[cheapest] > amount:
        raise TableError(
            f"{name}: budget {amount:,.6g} {axis} collides with fixed costs: the first token of "
            f"the cheapest source, `{cheapest}`, costs {needed[cheapest]:,.6g}: "
            f"{needed[cheapest] - amount:,.6g} {axis} short",
            hint=f"raise the budget, or lower `sources.{cheapest}.{axis}_fixed`",
        )


def _licences(answer: alloc.Allocation, costs: Costs) -> tuple[Licence, ...]:
    rows = {row.name: row for row in answer.rows}
    out = []
    for licence in costs.licences:
        names = tuple(n for n, s in costs.sources.items() if s.licence == licence)
        own = [rows[n] for n in names if n in rows]
        out.append(
            Licence(
                licence=licence,
                sources=names,
                tokens=sum(r.tokens for r in own),
                usd=sum(r.usd for r in own),
                excluded=licence in costs.exclude_licences,
            )
        )
    return tuple(out)


def _warnings(
    answer: alloc.Allocation, problem: alloc.Problem, costs: Costs, fitted: Fitted
) -> tuple[str, ...]:
    out = [f"comparison `{name}` is not affordable" for name in answer.unaffordable]
    out += [
        f"guard `{name}` has no limit in the costs: nothing keeps it"
        for name in dict.fromkeys(g.guard for g in fitted.guards)
        if name not in costs.guards
    ]
    spent = float(problem.spent(np.array([[float(r.tokens) for r in answer.rows]]))[0])
    if spent < 0.99 * problem.budget:
        out.append(
            f"{problem.budget - spent:,.6g} of the {problem.budget:,.6g} {problem.axis} stay "
            "unspent: every source that helps is at its cap"
        )
    if fitted.control and CONTROL not in costs.sources:
        out.append(
            "the costs do not list `control`: more replay in place of sources is not considered"
        )
    gone = [n for n in costs.current if costs.sources[n].licence in costs.exclude_licences]
    if gone:
        out.append(f"today's mix is not compared: `{gone[0]}` has an excluded licence")
    return tuple(out)
