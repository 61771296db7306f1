"""Why nothing can be bought: the limits that collide, and by how much.

Where no purchase keeps every limit, some of them cannot be kept together though any fewer could: a
smallest set of colliding limits. It is found by deletion: drop one limit after another, and leave
out for good each without which the rest still collide (Chinneck and Dravnieks 1991). Then every
limit of the set is loosened alone, by bisection, until something can be bought; that is what the
error says, since it is what a person can act on.

Each question "can anything be bought?" is a mixed-integer feasibility programme (`pieces`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from anneal.allocation.pieces import feasible
from anneal.allocation.problem import Axis, Problem
from anneal.errors import PlanError

ENDLESS = 2.0**60
"""A limit that limits nothing, as a factor of itself."""
HALVINGS = 24


@dataclass(frozen=True)
class Handle:
    """One limit that can be loosened.

    Args:
        name: as the error says it, with its value.
        value, free: as it is, and where it limits nothing.
        set: the problem with another value.
        words: the value with its unit.
    """

    name: str
    value: float
    free: float
    set: Callable[[Problem, float], Problem]
    words: Callable[[float], str]

    def at(self, part: float) -> float:
        """Value on the way to `free`: by factors for amounts, evenly for shares."""
        if self.free > 1.0:
            return float(self.value * (self.free / self.value) ** part)
        return self.value + (self.free - self.value) * part


def handles(problem: Problem) -> list[Handle]:
    """Every linear limit of a problem, the most particular first."""
    out: list[Handle] = []
    for i, s in enumerate(problem.supplies):
        out.append(_epochs(i, s.name, s.max_epochs))
        if s.min_share > 0:
            name = f"share of {s.name} at least {s.min_share:g}"
            out.append(Handle(name, s.min_share, 0.0, _supply(i, "min_share"), _share))
        if s.max_share < 1:
            name = f"share of {s.name} at most {s.max_share:g}"
            out.append(Handle(name, s.max_share, 1.0, _supply(i, "max_share"), _share))
    for i, t in enumerate(problem.together):
        if t.most < 1:
            name = f"share of {t.name} at most {t.most:g}"
            out.append(Handle(name, t.most, 1.0, _together(i, "most"), _share))
        if t.least > 0:
            name = f"share of {t.name} at least {t.least:g}"
            out.append(Handle(name, t.least, 0.0, _together(i, "least"), _share))
    if problem.min_replay > problem.replay:
        name = f"replay at least {problem.min_replay:g}"
        change = _plain("min_replay")
        out.append(Handle(name, problem.min_replay, problem.replay, change, _share))
    if problem.least_tokens > 1:
        name = f"at least {problem.least_tokens:,.6g} tokens"
        change = _plain("least_tokens")
        out.append(Handle(name, problem.least_tokens, 1.0, change, _amount("tokens")))
    for axis, limit in problem.ceilings:
        out.append(
            Handle(
                f"ceiling {limit:,.6g} {axis}",
                limit,
                limit * ENDLESS,
                _ceiling(axis),
                _amount(axis),
            )
        )
    name = f"budget {problem.budget:,.6g} {problem.axis}"
    words = _amount(problem.axis)
    out.append(Handle(name, problem.budget, problem.budget * ENDLESS, _plain("budget"), words))
    return out


def collision(problem: Problem) -> PlanError | None:
    """The error that says which limits collide and by how much; None where a purchase exists."""
    if feasible(problem):
        return None
    left = handles(problem)
    rest, needed = problem, []
    for handle in left:
        without = handle.set(rest, handle.free)
        if feasible(without):
            needed.append(handle)
        else:
            rest = without
    # one collision may hide another: what mends this one is asked with the others out of the way
    ways = [f"{h.name}: {h.words(_enough(rest, h))} would do" for h in needed]
    names = " + ".join(h.name for h in needed)
    mended = problem
    for handle in needed:
        mended = handle.set(mended, handle.free)
    more = "" if feasible(mended) else "; further limits collide apart from these"
    told = f"limits that cannot be kept together: {names}"
    if len(needed) == 1:
        told = f"{names} buys no token of any source"
    return PlanError(
        f"allocation: {told}{more}",
        hint="loosen one: " + "; or ".join(ways),
    )


def _enough(problem: Problem, handle: Handle) -> float:
    """The value nearest to the limit's own with which something can be bought."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS + 8):
        middle = 0.5 * (low + high)
        if feasible(handle.set(problem, handle.at(middle))):
            high = middle
        else:
            low = middle
    return handle.free if high > 1.0 - 1e-4 else handle.at(high)


def _plain(field: str) -> Callable[[Problem, float], Problem]:
    def change(problem: Problem, value: float) -> Problem:
        return replace(problem, **{field: value})  # type: ignore[arg-type]

    return change


def _supply(index: int, field: str) -> Callable[[Problem, float], Problem]:
    def change(problem: Problem, value: float) -> Problem:
        supplies = list(problem.supplies)
        supplies[index] = replace(supplies[index], **{field: value})  # type: ignore[arg-type]
        return replace(problem, supplies=tuple(supplies))

    return change


def _together(index: int, field: str) -> Callable[[Problem, float], Problem]:
    def change(problem: Problem, value: float) -> Problem:
        limits = list(problem.together)
        limits[index] = replace(limits[index], **{field: value})  # type: ignore[arg-type]
        return replace(problem, together=tuple(limits))

    return change


def _ceiling(axis: Axis) -> Callable[[Problem, float], Problem]:
    def change(problem: Problem, value: float) -> Problem:
        changed = tuple((a, value if a == axis else v) for a, v in problem.ceilings)
        return replace(problem, ceilings=changed)

    return change


def _epochs(index: int, source: str, epochs: float) -> Handle:
    name = f"{source} at most {epochs:g} epochs"
    words: Callable[[float], str] = lambda value: f"{value:.6g} epochs"  # noqa: E731
    return Handle(name, epochs, epochs * ENDLESS, _supply(index, "max_epochs"), words)


def _share(value: float) -> str:
    return f"{value:.4g}"


def _amount(axis: Axis) -> Callable[[float], str]:
    return lambda value: f"{value:,.6g} {axis}"
