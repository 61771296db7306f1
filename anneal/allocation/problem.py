"""What can be bought: supplies, prices, limits, and the arithmetic of a purchase.

**Budget tokens are source tokens.** Replay is added on top: with replay share r a run of N source
tokens trains N / (1 - r) tokens. Money and FLOPs are those of the whole run, replay included:

    usd   = sum over bought (usd_fixed + usd_per_token * unique) + usd_per_trained * N / (1 - r)
    flops = the same with FLOPs

A source's tokens are unique up to what exists and repeated beyond it, up to `max_epochs` times;
all unique tokens are bought before any is repeated (repeating to save acquisition costs is not
considered). Fixed costs are paid when a source is bought at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anneal.errors import PlanError
from anneal.laws import Law
from anneal.laws.points import Floats, Ints

Axis = Literal["tokens", "usd", "flops"]

NOTHING = 1e-9
"""Share of a purchase below which a source is not bought."""


@dataclass(frozen=True)
class Supply:
    """One member of the mixture. The control, more replay, is a supply like any other.

    Args:
        name: the group of the laws that describes it, unless `group` says otherwise.
        available: unique tokens that exist.
        max_epochs: repetition cap.
        usd_fixed, flops_fixed: paid once if bought.
        usd_per_token, flops_per_token: per unique token bought.
        group: label of its curve; the name where empty.
    """

    name: str
    available: int
    max_epochs: float = 16.0
    usd_fixed: float = 0.0
    usd_per_token: float = 0.0
    flops_fixed: float = 0.0
    flops_per_token: float = 0.0
    group: str = ""

    @property
    def cap(self) -> int:
        """Most tokens that may be trained on: available x max_epochs, whole tokens."""
        return int(self.available * self.max_epochs)


@dataclass(frozen=True, eq=False)
class Guard:
    """A score that must not exceed `limit`, with the ensemble that predicts it."""

    name: str
    law: Law
    limit: float


@dataclass(frozen=True, eq=False)
class Problem:
    """The whole question.

    Args:
        supplies: m members.
        target: law of the aggregate score, a falling form with a curve for every supply.
        budget: the real budget, in units of `axis`.
        axis: tokens (source tokens), usd or flops.
        noise: noise floor of the score; smaller differences are ties.
        replay: share r of trained tokens that is replay, besides the control as a supply.
        usd_per_trained, flops_per_trained: price of training on one token (flops: about 6 N).
        guards: limits to keep with probability `confidence`.
        control: name of the supply that is more replay; it is left out of the natural and uniform
            comparisons. Empty where there is none.
        hold_out_error: mean absolute error of the form on the held-out largest budget, score.
        picks: other allocations to compare with, by name: shares by supply.

    Raises:
        PlanError: no supplies, a name twice, a budget or noise that is not positive, a replay share
            outside [0, 1), something that cannot be bought with any amount of the axis.
    """

    supplies: tuple[Supply, ...]
    target: Law
    budget: float
    noise: float
    axis: Axis = "tokens"
    replay: float = 0.0
    usd_per_trained: float = 0.0
    flops_per_trained: float = 0.0
    guards: tuple[Guard, ...] = ()
    confidence: float = 0.9
    control: str = ""
    hold_out_error: float | None = None
    picks: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()

    def __post_init__(self) -> None:
        names = self.names
        if not names or len(set(names)) != len(names):
            raise PlanError(f"allocation: supplies must have distinct names, got {list(names)}")
        if not (np.isfinite(self.budget) and self.budget > 0):
            raise PlanError(f"allocation: budget must be a positive number, got {self.budget}")
        if not (np.isfinite(self.noise) and self.noise > 0):
            raise PlanError(
                f"allocation: noise floor must be a positive number, got {self.noise}",
                hint="repeat one budget with 3 seeds: without noise no tie can be told",
            )
        if not 0 <= self.replay < 1:
            raise PlanError(f"allocation: replay share must lie in [0, 1), got {self.replay}")
        for s in self.supplies:
            if s.cap < 1:
                raise PlanError(
                    f"source `{s.name}`: {s.available} tokens x {s.max_epochs:g} epochs is nothing"
                )
        if self.axis != "tokens" and self._per_trained() <= 0:
            raise PlanError(
                f"allocation: a budget in {self.axis}, but training a token costs none",
                hint=f"give {self.axis}_per_trained, or the budget in tokens",
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.supplies)

    @property
    def available(self) -> Floats:
        """(m,) unique tokens."""
        return np.array([float(s.available) for s in self.supplies])

    @property
    def caps(self) -> Floats:
        """(m,) most tokens trained."""
        return np.array([float(s.cap) for s in self.supplies])

    def groups(self, law: Law) -> Ints:
        """(m,) codes of the supplies' curves in a law."""
        return np.array([law.code(s.group or s.name) for s in self.supplies], dtype=np.int64)

    def _per_trained(self) -> float:
        return self.usd_per_trained if self.axis == "usd" else self.flops_per_trained

    def spent(self, tokens: Floats, axis: Axis | None = None) -> Floats:
        """(c,) what purchases (c, m) cost on an axis; the budget's own where None."""
        kind = self.axis if axis is None else axis
        total = tokens.sum(axis=1)
        if kind == "tokens":
            return np.asarray(total)
        usd = kind == "usd"
        fixed = np.array([s.usd_fixed if usd else s.flops_fixed for s in self.supplies])
        each = np.array([s.usd_per_token if usd else s.flops_per_token for s in self.supplies])
        trained = self.usd_per_trained if usd else self.flops_per_trained
        unique = np.minimum(tokens, self.available)
        bought = (tokens > 0) @ fixed + unique @ each
        return np.asarray(bought + trained * total / (1.0 - self.replay))

    def without(self, name: str) -> Problem:
        """The same question without one supply."""
        return replace(self, supplies=tuple(s for s in self.supplies if s.name != name))

    def scaled_costs(self, factor: float) -> Problem:
        """The same question with acquisition costs times `factor`."""
        return replace(
            self,
            supplies=tuple(
                replace(
                    s,
                    usd_fixed=s.usd_fixed * factor,
                    usd_per_token=s.usd_per_token * factor,
                    flops_fixed=s.flops_fixed * factor,
                    flops_per_token=s.flops_per_token * factor,
                )
                for s in self.supplies
            ),
        )

    def scaled_epochs(self, factor: float) -> Problem:
        """The same question with epoch caps times `factor`, at least one token each."""
        return replace(
            self,
            supplies=tuple(
                replace(s, max_epochs=max(s.max_epochs * factor, 1.0 / s.available))
                for s in self.supplies
            ),
        )


def fill(problem: Problem, direction: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Largest purchases along directions: n_i = min(cap_i, lambda d_i), the budget kept.

    Args:
        direction: (c, m) non-negative weights, each row with a positive entry; a share below 1e-9
            is none, so that it pays no fixed cost.

    Returns:
        tokens (c, m), and (c,) whether anything can be bought at all: not so where the fixed costs
        alone, or a single token, exceed the budget.
    """
    caps = problem.caps
    unit = direction / direction.sum(axis=1, keepdims=True)
    unit[unit < NOTHING] = 0.0
    most = np.where(unit > 0, caps / np.maximum(unit, NOTHING), 0.0).max(axis=1)
    full = np.minimum(caps, most[:, None] * unit)
    fits = problem.spent(full) <= problem.budget
    # the amount lies between 1 token and everything; bisection in the logarithm, then it is exact
    low, high = np.zeros_like(most), np.log(np.maximum(most, 1.0))
    for _ in range(64):
        middle = 0.5 * (low + high)
        tokens = np.minimum(caps, np.exp(middle)[:, None] * unit)
        over = problem.spent(tokens) > problem.budget
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    tokens = np.where(fits[:, None], full, np.minimum(caps, np.exp(low)[:, None] * unit))
    possible = (problem.spent(tokens) <= problem.budget * (1 + 1e-12)) & (
        tokens.sum(axis=1) >= 1 - 1e-9
    )
    return tokens, possible


def whole(problem: Problem, tokens: Floats) -> Ints:
    """(m,) whole tokens by largest remainder: the total is kept, and so are caps and budget.

    The total is the budget itself where it is given in tokens and `tokens` fills it; otherwise the
    sum rounded down, less the few tokens by which rounding up could overspend.
    """
    total = int(np.floor(tokens.sum() + 1e-6 * max(1.0, tokens.sum() * 1e-6)))
    if problem.axis == "tokens" and tokens.sum() >= problem.budget * (1 - 1e-12):
        total = int(problem.budget)
    caps = problem.caps
    while True:
        out = np.minimum(np.floor(tokens + 1e-9), caps)
        fraction = tokens - out
        short = total - int(out.sum())
        while short > 0:
            room = np.flatnonzero((caps > out) & (tokens > 0))
            if room.size == 0:
                break
            first = room[np.argsort(-fraction[room], kind="stable")][:short]
            out[first] += 1.0
            short -= first.size
        while short < 0:  # only after `total` was lowered to stay within the budget
            out[int(np.argmax(out))] -= 1.0
            short += 1
        if problem.spent(out[None, :])[0] <= problem.budget * (1 + 1e-12) or total <= 1:
            return np.asarray(out, dtype=np.int64)
        total -= 1
