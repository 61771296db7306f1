"""What a table can carry: what its runs reach, when a form is refused, and what a family lends.

A curve with two parameters of its own needs two budgets; the floor needs a third one somewhere. A
table that has less is `underdetermined`, which is an outcome and not a number. Where groups may
pool, a group with one budget still has a curve: its run says how high, the family says how steep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from anneal.laws.forms import Form, Frame, layout
from anneal.laws.points import Floats, Points

Outcome = Literal["ok", "not converged", "underdetermined", "constant"]


@dataclass(frozen=True)
class Support:
    """What one group's runs reach: smallest and largest tokens and epochs, runs and budgets."""

    label: str
    tokens: tuple[float, float]
    epochs: tuple[float, float]
    runs: int
    budgets: int


def support(points: Points) -> tuple[Support, ...]:
    """What each group's runs reach; (0, 0) for a group without runs."""
    out = []
    for code, label in enumerate(points.labels):
        here = points.group == code
        tokens = points.tokens[here]
        epochs = tokens / points.unique[here]
        out.append(
            Support(
                label,
                (float(tokens.min()), float(tokens.max())) if tokens.size else (0.0, 0.0),
                (float(epochs.min()), float(epochs.max())) if tokens.size else (0.0, 0.0),
                int(tokens.size),
                int(np.unique(tokens).size),
            )
        )
    return tuple(out)


def refusal(
    form: Form, points: Points, reached: tuple[Support, ...], *, pool: bool
) -> tuple[Outcome, str] | None:
    """Why a table cannot carry a form, if it cannot."""
    where = layout(form, points.labels)
    own = 1 if form.one_exponent else 2
    borrowed = 0
    for group in reached:
        if group.budgets >= own:
            continue
        if group.budgets == 0 or not (pool and form.falls):
            return (
                "underdetermined",
                f"`{group.label}` has {group.budgets} distinct budgets, "
                f"its curve has {own} parameters of its own",
            )
        borrowed += own - group.budgets
    most = max(group.budgets for group in reached)
    cells = np.unique(points.cells()).size
    needed = where.size - (where.repeats >= 0) - borrowed
    if form.falls and (most < own + 1 or cells < needed):
        return (
            "underdetermined",
            f"{cells} distinct cells and at most {most} budgets a group "
            f"cannot carry {where.size} parameters",
        )
    if points.score.max() <= points.score.min() * (1.0 + 1e-9) and form.falls:
        return "constant", f"all {points.score.size} scores are {points.score[0]:.6g}"
    return None


def lent(
    form: Form,
    frame: Frame,
    reached: tuple[Support, ...],
    information: Floats,
    precision: Floats,
) -> tuple[str, ...]:
    """Groups that have at most two budgets, and what their exponents rest on.

    The share that a group's own runs contribute to its exponent is 1 - var(posterior) / var(prior
    given the family): var(posterior) from all runs, the latter without what this group's runs say
    about its own parameters.

    Args:
        information, precision: (p, p) of the data and of the prior.
    """
    if not form.falls or form.one_exponent:
        return ()
    where, out = layout(form, frame.labels), []
    for code, group in enumerate(reached):
        if group.budgets > 2:
            continue
        word = "budget" if group.budgets == 1 else "budgets"
        if group.budgets == 1:
            out.append(f"`{group.label}`: 1 {word}; its exponent is the family's")
            continue
        mine = int(where.exponent[code])
        both = np.linalg.inv(information + precision)[mine, mine]
        without = information.copy()
        own = [mine, int(where.scale[code])]
        without[own, :] = without[:, own] = 0.0
        alone = np.linalg.inv(without + precision)[mine, mine]
        share = float(np.clip(1.0 - both / alone, 0.0, 1.0))
        out.append(
            f"`{group.label}`: 2 {word}; its exponent is {share:.0%} its own runs', "
            f"the rest the family's"
        )
    return tuple(out)
