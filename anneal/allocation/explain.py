"""Why this allocation: against others, what binds it, and the verdict.

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

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from anneal.allocation.flips import again
from anneal.allocation.mixture import guard_score
from anneal.allocation.problem import Problem
from anneal.allocation.purchase import allowed, divergence, fill, share_rows
from anneal.allocation.values import Allocation, Interval, Limit, Verdict, Versus
from anneal.allocation.view import View
from anneal.laws import band
from anneal.laws.points import Floats

LOOSENED = 0.1
"""By how much a limit is loosened for its shadow price."""
SHARE = 0.02
"""By how much a limit on a share is loosened."""
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
        other = View.of(problem).judge(tokens)
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
                within_limits=bool(allowed(problem, tokens, slack=1e-6)[0]),
            )
        )
    return tuple(rows), tuple(unaffordable)


def binding(problem: Problem, tokens: Floats) -> tuple[Limit, ...]:
    """Limits that hold the allocation back, each with its shadow price.

    The price is a finite difference: the limit is loosened (by 10%; a share by 0.02, a guard by 1%
    of its score, the prior's by 10%), the allocation searched again from where it stands, and the
    gain of expected score divided by what was added; both on the same few draws. A limit that
    is reached but gains nothing loosened does not bind.
    """
    plain = replace(problem, objective="mean", prior_weight=0.0)
    here = again(plain, tokens, tokens[None, :])
    if here is None:
        return ()
    start, base = here
    out: list[Limit] = []
    for name, loosened, added, unit in _reached(plain, tokens):
        there = again(loosened, start, tokens[None, :])
        gain = 0.0 if there is None else base - there[1]
        if gain > NOTHING or name.startswith("budget"):
            out.append(Limit(name, max(gain, 0.0) / added, unit))
    return tuple(out)


def _reached(problem: Problem, tokens: Floats) -> Iterator[tuple[str, Problem, float, str]]:
    """Limits that a purchase (m,) reaches: name, problem with it loosened, by how many units of
    what."""
    sizes = {
        "tokens": (1e6, "one more million tokens of budget"),
        "usd": (1.0, f"one more {problem.currency.upper()} of budget"),
        "flops": (1e15, "1e15 more FLOPs of budget"),
    }
    for axis, limit in problem.most.items():
        if problem.spent(tokens[None, :], axis)[0] < limit * 0.999:
            continue
        size, unit = sizes[axis]
        added = limit * LOOSENED / size
        if axis == problem.axis:
            wider = replace(problem, budget=limit * (1 + LOOSENED))
            yield f"budget {limit:,.6g} {axis}", wider, added, unit
        else:
            ceilings = tuple(
                (a, v * (1 + LOOSENED) if a == axis else v) for a, v in problem.ceilings
            )
            wider = replace(problem, ceilings=ceilings)
            yield f"ceiling {limit:,.6g} {axis}", wider, added, unit
    for i, supply in enumerate(problem.supplies):
        if tokens[i] <= supply.available and tokens[i] < supply.cap - 1:
            continue
        capped = tokens[i] >= supply.cap - 1
        more = int(np.ceil(supply.available * LOOSENED))
        richer = replace(supply, available=supply.available + more)
        changed = tuple(richer if s is supply else s for s in problem.supplies)
        text = (
            f"{supply.name} epochs {supply.max_epochs:g}"
            if capped
            else f"{supply.name} unique tokens {supply.available:,}"
        )
        unit = f"one more million unique tokens of {supply.name}"
        yield text, replace(problem, supplies=changed), more / 1e6, unit
    yield from _reached_shares(problem, tokens)
    for guard in problem.guards:
        step = 0.01 * guard.limit
        looser = tuple(
            replace(g, limit=g.limit + step) if g is guard else g for g in problem.guards
        )
        text, unit = f"guard {guard.name} {guard.limit:.6g}", "one more unit of the guard's score"
        yield text, replace(problem, guards=looser), step, unit
    limit = problem.prior_limit
    if limit < float("inf") and divergence(problem, tokens[None, :])[0] > 0.98 * limit:
        added = max(limit * LOOSENED, 1e-3)
        wider = replace(problem, prior_limit=limit + added)
        yield f"prior within {limit:g} nats", wider, added, "one more nat from the prior"


def _reached_shares(problem: Problem, tokens: Floats) -> Iterator[tuple[str, Problem, float, str]]:
    """Limits on shares that a purchase reaches, loosened by `SHARE` of the tokens."""
    names, rows = share_rows(problem)
    tight = set(np.array(names)[rows @ tokens > -1e-3 * tokens.sum()]) if names else set()
    unit = "one more hundredth of the tokens"
    for i, s in enumerate(problem.supplies):
        for field, value in (
            ("min_share", s.min_share - SHARE),
            ("max_share", s.max_share + SHARE),
        ):
            text = f"share of {s.name} at {'least' if field == 'min_share' else 'most'} "
            text += f"{getattr(s, field):g}"
            if text in tight and s.max_share > 0:
                changed = list(problem.supplies)
                changed[i] = replace(s, **{field: float(np.clip(value, 0, 1))})  # type: ignore[arg-type]
                yield text, replace(problem, supplies=tuple(changed)), SHARE * 100, unit
    for i, t in enumerate(problem.together):
        for field, value in (("least", t.least - SHARE), ("most", t.most + SHARE)):
            text = f"share of {t.name} at {field} {getattr(t, field):g}"
            if text in tight:
                limits = list(problem.together)
                limits[i] = replace(t, **{field: float(np.clip(value, 0, 1))})  # type: ignore[arg-type]
                yield text, replace(problem, together=tuple(limits)), SHARE * 100, unit
    if f"replay at least {problem.min_replay:g}" in tight:
        lower = replace(problem, min_replay=max(problem.min_replay - SHARE, 0.0))
        yield f"replay at least {problem.min_replay:g}", lower, SHARE * 100, unit


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
