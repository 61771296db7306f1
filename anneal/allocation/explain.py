"""Why this allocation: against others, what binds it, when it would change, and the verdict.

The verdict is a rule, in this order (eps is the noise floor):

    not decidable         no purchase keeps the guards; or the extrapolation is over 100-fold; or
                          the law's hold-out error exceeds the whole spread between the single
                          sources while the expected regret is above eps
    run more              expected regret > eps, or P(best within eps) < 0.5, or the law's search
                          had not converged
    adopt with hold-out   P(best within eps) < 0.9, or 95th-percentile regret > 3 eps, or the
                          extrapolation is over 10-fold, or there is no hold-out error or it is
                          over 3 eps
    adopt                 otherwise

The limits are conventions (assumed), stated so that they can be argued with. 10-fold is about as
far as published data laws have been checked beyond their largest run (METHODS 4.16: 20-fold).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anneal.allocation.mixture import guard_score
from anneal.allocation.problem import Problem, fill
from anneal.allocation.search import THIN, Judged, candidates, judge, optimise, refine
from anneal.allocation.values import Allocation, Change, Interval, Limit, Verdict, Versus
from anneal.laws import band
from anneal.laws.points import Floats

LOOSENED = 0.1
"""By how much a limit is loosened for its shadow price."""
NOTHING = 1e-6
"""A gain of score that the search's tolerance cannot tell from none."""


def interval(samples: Floats, *, level: float = 0.9) -> Interval:
    """Mean of the draws with equal-tailed quantiles."""
    low, high = band(samples, level=level)
    return Interval(float(samples.mean()), float(low), float(high), level)


def versus(
    problem: Problem, ours: Floats, others: dict[str, Floats]
) -> tuple[tuple[Versus, ...], tuple[str, ...]]:
    """Compare our scores (draws,) with other directions (m,), filled to the same budget.

    Returns the comparisons and the names of those that cannot be afforded.
    """
    rows: list[Versus] = []
    unaffordable: list[str] = []
    for name, direction in others.items():
        tokens, possible = fill(problem, direction[None, :])
        if not possible[0]:
            unaffordable.append(name)
            continue
        other = judge(problem, tokens)
        gain = other.scores[:, 0] - ours
        share = tokens[0] / tokens[0].sum()
        rows.append(
            Versus(
                name=name,
                shares=dict(zip(problem.names, map(float, share), strict=True)),
                probability=float(np.mean(gain > 0)),
                gain=interval(gain),
                tie=bool(abs(np.median(gain)) < problem.noise),
                within_guards=bool(other.kept[0] >= problem.confidence),
            )
        )
    return tuple(rows), tuple(unaffordable)


def binding(problem: Problem, tokens: Floats) -> tuple[Limit, ...]:
    """Limits that hold the allocation back, each with its shadow price.

    The price is a finite difference: the limit is loosened by 10% (a guard's by 1% of its score),
    the allocation refined again from where it stands, and the gain divided by what was added; both
    on the same thinned draws. A limit that is reached but gains nothing loosened does not bind.
    """
    here = refine(problem, tokens, draws=THIN, coarsest=0.02)
    base = float(here.scores[:, 0].mean())

    def gain(other: Problem) -> float:
        return max(base - float(_again(other, here.tokens[0]).scores[:, 0].mean()), 0.0)

    out: list[Limit] = []
    if problem.spent(tokens[None, :])[0] >= problem.budget * 0.999:
        per = gain(replace(problem, budget=problem.budget * (1 + LOOSENED)))
        per /= problem.budget * LOOSENED
        size, unit = {
            "tokens": (1e6, "one more million tokens of budget"),
            "usd": (1.0, "one more USD of budget"),
            "flops": (1e15, "1e15 more FLOPs of budget"),
        }[problem.axis]
        out.append(Limit(f"budget {problem.budget:,.6g} {problem.axis}", per * size, unit))
    for i, supply in enumerate(problem.supplies):
        if tokens[i] <= supply.available and tokens[i] < supply.cap - 1:
            continue
        capped = tokens[i] >= supply.cap - 1
        more = int(np.ceil(supply.available * LOOSENED))
        wider = replace(supply, available=supply.available + more)
        changed = tuple(wider if s is supply else s for s in problem.supplies)
        won = gain(replace(problem, supplies=changed))
        if won <= NOTHING:
            continue
        text = (
            f"{supply.name} epochs {supply.max_epochs:g}"
            if capped
            else f"{supply.name} unique tokens {supply.available:,}"
        )
        unit = f"one more million unique tokens of {supply.name}"
        out.append(Limit(text, won / more * 1e6, unit))
    for guard in problem.guards:
        step = 0.01 * guard.limit
        looser = tuple(
            replace(g, limit=g.limit + step) if g is guard else g for g in problem.guards
        )
        won = gain(replace(problem, guards=looser))
        if won > NOTHING:
            unit = "one more unit of the guard's score"
            out.append(Limit(f"guard {guard.name} {guard.limit:.6g}", won / step, unit))
    return tuple(out)


def sensitivity(
    problem: Problem, tokens: Floats, *, rng: np.random.Generator
) -> tuple[Change, ...]:
    """The answers to neighbouring questions, on the thinned draws, and where the mix flips."""
    questions: list[tuple[str, Problem]] = [
        ("budget -50%", replace(problem, budget=problem.budget * 0.5)),
        ("budget +50%", replace(problem, budget=problem.budget * 1.5)),
        ("acquisition costs -50%", problem.scaled_costs(0.5)),
        ("acquisition costs +50%", problem.scaled_costs(1.5)),
        ("epochs cap -50%", problem.scaled_epochs(0.5)),
        ("epochs cap +50%", problem.scaled_epochs(1.5)),
    ]
    if len(problem.supplies) > 1:
        questions += [(f"without {name}", problem.without(name)) for name in problem.names]
    largest = problem.names[int(np.argmax(tokens))]
    score = float(judge(problem, tokens[None, :], draws=THIN).scores.mean())
    rows: list[Change] = []
    for label, question in questions:
        keep = [problem.names.index(name) for name in question.names]
        pool = candidates(question, rng=rng, count=120)
        own = tokens[keep]
        if own.sum() > 0:
            here, possible = fill(question, own[None, :])
            pool = np.concatenate([pool, here[possible]])
        if pool.shape[0] == 0:
            rows.append(Change(label, {}, score, False, possible=False))
            continue
        found, value = optimise(question, pool, starts=2, full=False)
        share = found / found.sum()
        first = question.names[int(np.argmax(found))]
        shares = dict(zip(question.names, map(float, share), strict=True))
        rows.append(Change(label, shares, value, first != largest))
    return tuple(rows)


def verdict(problem: Problem, found: Allocation, *, spread: float) -> tuple[Verdict, str]:
    """The rule of the module's text, and the line that says which part of it decided.

    Args:
        spread: worst minus best expected score of the single sources.
    """
    eps, error, fit = problem.noise, problem.hold_out_error, problem.target.fit
    regret, best, far = found.expected_regret, found.probability_best, found.extrapolation
    missed = f"hold-out error {0.0 if error is None else error:.4f}"
    rules: list[tuple[Verdict, bool, str]] = [
        (
            "not decidable",
            bool(problem.guards) and found.probability_guard < problem.confidence,
            f"no examined purchase keeps the guards with probability {problem.confidence:g}: "
            f"this one does with {found.probability_guard:.2f}",
        ),
        ("not decidable", far > 100, f"{far:.0f}-fold extrapolation, over 100"),
        (
            "not decidable",
            error is not None and error > spread and regret > eps,
            f"{missed} exceeds the spread of the single sources, {spread:.4f}",
        ),
        ("run more", fit.outcome != "ok", f"the law's search: {fit.outcome}: {fit.message}"),
        (
            "run more",
            regret > eps,
            f"expected regret {regret:.4f} is above the noise floor {eps:.4f}",
        ),
        ("run more", best < 0.5, f"P(best within the noise floor) is {best:.2f}, below 0.5"),
        (
            "adopt with hold-out",
            best < 0.9,
            f"P(best within the noise floor) is {best:.2f}, below 0.9",
        ),
        (
            "adopt with hold-out",
            found.regret_95 > 3 * eps,
            f"95th-percentile regret {found.regret_95:.4f} is over 3 noise floors of {eps:.4f}",
        ),
        ("adopt with hold-out", far > 10, f"{far:.0f}-fold extrapolation, over 10"),
        ("adopt with hold-out", error is None, "the law was not tested on a held-out budget"),
        (
            "adopt with hold-out",
            error is not None and error > 3 * eps,
            f"{missed} is over 3 noise floors of {eps:.4f}",
        ),
    ]
    for word, holds, text in rules:
        if holds:
            return word, text
    return "adopt", (
        f"P(best within the noise floor) is {best:.2f}, expected regret {regret:.4f} against a "
        f"noise floor of {eps:.4f}, {far:.1f}-fold extrapolation"
    )


def guard_intervals(problem: Problem, tokens: Floats) -> dict[str, Interval]:
    """Predicted guard scores of one purchase (m,)."""
    return {
        guard.name: interval(
            guard_score(
                guard.law, tokens[None, :], problem.available, groups=problem.groups(guard.law)
            )[:, 0]
        )
        for guard in problem.guards
    }


def _again(problem: Problem, tokens: Floats) -> Judged:
    filled, possible = fill(problem, tokens[None, :])
    start = filled[0] if possible[0] else tokens
    return refine(problem, start, draws=THIN, coarsest=0.05)
