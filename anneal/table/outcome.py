"""The outcome of a fit and what to be careful with.

The outcome is a rule over the law's draws at the decision's budget (the largest asked for), with
eps the noise floor of the score:

    all within noise   the curves of all sources lie within eps of one another
    leads              the best source is the best in 90% of the draws
    tie                another source's curve lies within eps of the best one's
    undecided          otherwise; and wherever the law is no witness: it could not be judged on a
                       held-out budget, a plain baseline predicted that better, or the budget lies
                       over 100 times beyond the data

Where no run was repeated and no noise was given, eps is what the law leaves over. Misfit would then
pass for noise, so nothing is called a tie: the outcome is `leads` or `undecided`.
"""

from __future__ import annotations

from collections.abc import Sequence

from anneal.laws import HoldOut, Law
from anneal.report import format as show
from anneal.table.measured import FEWEST_BUDGETS, Measured
from anneal.table.read import CONTROL
from anneal.table.values import At, NoiseFloor, Outcome, Tie

SURE = 0.9
"""P(best) from which a source leads."""
FAR = 10.0
"""Extrapolation factor from which there is a warning: about as far as published data laws have been
checked (METHODS 4.16: 20-fold)."""
TOO_FAR = 100.0
"""Beyond this nothing is decided, as in `anneal.allocation`."""


def doubt_of(judged: HoldOut, at: At) -> str:
    """Why the law is no witness at a budget; empty where it is one."""
    if not judged.chosen:
        why = next((r.message for r in judged.rows if r.message), "too few budgets")
        return f"no form could be judged on the held-out budget: {why}"
    if judged.beaten_by:
        return f"`{judged.beaten_by}` predicted the held-out budget better than the law"
    if at.factor > TOO_FAR:
        return f"{at.factor:,.0f}-fold extrapolation, over {TOO_FAR:.0f}"
    return ""


def outcome_at(
    at: At, ties: tuple[Tie, ...], noise: NoiseFloor, *, doubt: str
) -> tuple[Outcome, str]:
    """The rule of the module's text and the line that says what decided.

    Args:
        doubt: why the law is no witness; empty where it is one.
    """
    if doubt:
        return "undecided", doubt
    rows = [r for r in at.rows if r.source != CONTROL]
    top, where = rows[0], f"at {show.count(at.tokens)} tokens"
    assert top.probability_best is not None
    spread = rows[-1].curve.value - top.curve.value
    if len(rows) == 1:
        better = top.probability_control or 0.0
        word: Outcome = "leads" if better >= SURE else "undecided"
        chance = f"in {show.probability(better)} of draws {where}"
        return word, f"`{top.source}` is better than the control {chance}"
    known = noise.origin != "residuals of the law"
    if known and spread < noise.sd.value:
        return "all within noise", (
            f"the curves of all {len(rows)} sources lie within {spread:.4f} {where}, below the "
            f"noise floor of {noise.sd.value:.4f}: no source is better"
        )
    shown = show.probability(top.probability_best)
    if round(top.probability_best, 2) == SURE:  # which side of the rule it lies on has to show
        shown = show.percent(top.probability_best)
    chance = f"best in {shown} of draws {where}"
    if top.probability_best >= SURE:
        return "leads", f"`{top.source}` is {chance}"
    level = [t.second for t in ties if t.first == top.source]
    if known and level:
        names = ", ".join(f"`{n}`" for n in level)
        return "tie", f"`{top.source}` ({chance}) and {names} differ by less than the noise floor"
    return "undecided", f"`{top.source}` is {chance}, below {SURE:.0%}"


def warnings_of(
    measured: Measured, law: Law, judged: HoldOut, looks: Sequence[At], noise: NoiseFloor
) -> tuple[str, ...]:
    """What a reader must know before believing the numbers."""
    out = []
    doubt = doubt_of(judged, looks[-1])
    if doubt:
        out.append(doubt)
    if len(measured.ladder) == FEWEST_BUDGETS:
        out.append(
            "3 budgets: the curves' shape cannot be tested, so intervals beyond them rest on "
            "assumed drift; 5 are better"
        )
    if noise.origin == "residuals of the law":
        out.append(
            "no run was repeated with another seed: the noise floor is what the law leaves over, "
            "misfit included, so ties are told generously; repeat one budget with 3 seeds, or give "
            "the noise"
        )
    far = looks[-1].factor
    if FAR < far <= TOO_FAR:
        out.append(f"{far:.1f}-fold extrapolation: data laws are seldom checked beyond {FAR:.0f}")
    if law.fit.outcome != "ok":
        out.append(f"the search of the heaviest form: {law.fit.outcome}: {law.fit.message}")
    if law.fit.on_bounds:
        out.append(f"parameters on a bound: {', '.join(law.fit.on_bounds)}")
    anchor = measured.points.anchor
    for label in measured.labels:
        own = measured.points.group == measured.labels.index(label)
        if anchor is not None and float(measured.points.score[own].max()) > anchor * 1.001:
            out.append(
                f"`{label}` scores worse than the base at some budget: no form here may rise, "
                "so its curve is too flat there"
            )
    hard = [r for r in looks[-1].rows if r.epochs > 4]
    out += [
        f"`{r.source}` alone would be passed over {r.epochs:.1f} times at "
        f"{show.count(looks[-1].tokens)} tokens"
        for r in hard
    ]
    return tuple(out)
