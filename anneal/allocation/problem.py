"""What can be bought: supplies, prices and limits.

**Budget tokens are source tokens.** Replay is added on top: with replay share r a run of N source
tokens trains N / (1 - r) tokens. Money and FLOPs are those of the whole run, replay included:

    usd   = sum over bought (usd_fixed + usd_per_token * unique) + usd_per_trained * N / (1 - r)
    flops = the same with FLOPs

A price in USD may rise from tier to tier; the cheap tokens are bought first. Of a source that may
be repeated this too means that the dear tiers are bought before the cheap ones are repeated: where
that is not what is wanted, each tier can be a supply of its own under one `group`.

A source's tokens are unique up to what exists and repeated beyond it, up to `max_epochs` times;
all unique tokens are bought before any is repeated (repeating to save acquisition costs is not
considered). Fixed costs are paid when a source is bought at all.

Limits hold together: the budget on its own axis, ceilings on the other axes, caps, smallest and
largest shares of a source or of a set of sources (a licence), of replay, and the distance from a
mix that is known to work. Guards limit other scores, with a probability.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from anneal.errors import PlanError
from anneal.laws import Law
from anneal.laws.points import Floats, Ints
from anneal.sources import tiers
from anneal.sources.tiers import Tier

Axis = Literal["tokens", "usd", "flops"]
AXES: tuple[Axis, ...] = ("tokens", "usd", "flops")
Objective = Literal["mean", "cvar", "chance"]
Step = tuple[float, float, float]


@dataclass(frozen=True)
class Supply:
    """One member of the mixture. The control, more replay, is a supply like any other.

    Args:
        name: the group of the laws that describes it, unless `group` says otherwise.
        available: unique tokens that exist.
        max_epochs: repetition cap.
        usd_fixed, flops_fixed: paid once if bought.
        usd_per_token, flops_per_token: per unique token bought.
        usd_tiers: (tokens, USD per token) besides, cheapest first; the last price holds beyond.
        group: label of its curve; the name where empty.
        min_share, max_share: of source tokens.
        currency: of its two prices; it must be the problem's where they are not 0.
    """

    name: str
    available: int
    max_epochs: float = 16.0
    usd_fixed: float = 0.0
    usd_per_token: float = 0.0
    usd_tiers: tuple[Tier, ...] = ()
    flops_fixed: float = 0.0
    flops_per_token: float = 0.0
    group: str = ""
    min_share: float = 0.0
    max_share: float = 1.0
    currency: str = "usd"

    @property
    def cap(self) -> int:
        """Most tokens that may be trained on: available x max_epochs, whole tokens."""
        return int(self.available * self.max_epochs)

    def fixed(self, axis: Axis) -> float:
        """Paid once, on an axis."""
        return {"tokens": 0.0, "usd": self.usd_fixed, "flops": self.flops_fixed}[axis]

    def steps(self, axis: Axis) -> tuple[Step, ...]:
        """What unique tokens cost on an axis: (first, last, price of each), up to `available`."""
        each = {"tokens": 0.0, "usd": self.usd_per_token, "flops": self.flops_per_token}[axis]
        out: list[Step] = []
        first = 0.0
        for tokens, price in tiers.steps(self.usd_tiers if axis == "usd" else (), each):
            last = min(first + tokens, float(self.available))
            if last > first:
                out.append((first, last, price))
            first = last
        return tuple(out)

    def acquired(self, axis: Axis, unique: float) -> float:
        """Paid for unique tokens on an axis, the fixed part too."""
        parts = ((min(unique, last) - first, each) for first, last, each in self.steps(axis))
        return self.fixed(axis) + sum(tokens * each for tokens, each in parts if tokens > 0)


@dataclass(frozen=True, eq=False)
class Guard:
    """A score that must not exceed `limit`, with the law that predicts it."""

    name: str
    law: Law
    limit: float


@dataclass(frozen=True)
class Together:
    """A limit on the share of source tokens from a set of supplies: a licence, a language.

    Args:
        name: what the sources have in common.
        sources: names of supplies.
        most, least: share of source tokens.
    """

    name: str
    sources: tuple[str, ...]
    most: float = 1.0
    least: float = 0.0


@dataclass(frozen=True, eq=False)
class Problem:
    """The whole question.

    Args:
        supplies: m members.
        target: law of the aggregate score, a falling form with a curve for every supply.
        budget: the real budget, in units of `axis`.
        noise: noise floor of the score; smaller differences are ties.
        axis: tokens (source tokens), usd or flops.
        replay: share r of trained tokens that is replay, besides the control as a supply.
        usd_per_trained, flops_per_trained: price of training on one token (flops: about 6 N).
        guards: limits to keep with probability `confidence`, all together.
        control: name of the supply that is more replay; it is left out of the natural and uniform
            comparisons. Empty where there is none.
        hold_out_error: mean absolute error of the form on the held-out largest budget, score.
        picks: other allocations to compare with, by name: shares by supply.
        ceilings: largest spending on further axes, by axis: `(("usd", 500.0),)`.
        least_tokens: source tokens that must be bought at least.
        together: limits on the share of several sources.
        min_replay: least share of trained tokens that is replay, the control's tokens included.
        prior: mix to stay near, shares by supply, all above 0; empty for none.
        prior_weight: score per nat of KL(shares || prior), added to what is minimised.
        prior_limit: largest KL(shares || prior), nats; infinite for none.
        objective: `mean`: expected score (so expected regret); `cvar`: mean of the worst
            1 - `level` of the draws' regrets; `chance`: P(regret > `regret_limit`).
        level: of `cvar`.
        regret_limit: of `chance`, score; also reported for the other objectives.
        currency: what `usd` stands for, if it is not US dollars.

    Raises:
        PlanError: no supplies, a name twice, a number outside its range, names that no supply has,
            two currencies, something that any amount of the axis buys.
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
    ceilings: tuple[tuple[Axis, float], ...] = ()
    least_tokens: float = 1.0
    together: tuple[Together, ...] = ()
    min_replay: float = 0.0
    prior: tuple[tuple[str, float], ...] = ()
    prior_weight: float = 0.0
    prior_limit: float = field(default=float("inf"))
    objective: Objective = "mean"
    level: float = 0.9
    regret_limit: float | None = None
    currency: str = "usd"

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)
        _check_money(self)

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

    @property
    def most(self) -> dict[Axis, float]:
        """Largest spending by axis: the budget and the ceilings."""
        out: dict[Axis, float] = {self.axis: self.budget}
        for axis, limit in self.ceilings:
            out[axis] = min(limit, out.get(axis, float("inf")))
        return out

    @property
    def threshold(self) -> float:
        """Regret that counts as large: `regret_limit`, else three noise floors."""
        return 3.0 * self.noise if self.regret_limit is None else self.regret_limit

    @property
    def shares_limited(self) -> bool:
        """Whether anything limits shares, so that not every direction is allowed.

        A source that may not be bought at all (`max_share` 0) limits no other's share.
        """
        return (
            any(s.min_share > 0 or 0 < s.max_share < 1 for s in self.supplies)
            or bool(self.together)
            or self.min_replay > self.replay
            or self.prior_limit < float("inf")
        )

    def groups(self, law: Law) -> Ints:
        """(m,) codes of the supplies' curves in a law."""
        return np.array([law.code(s.group or s.name) for s in self.supplies], dtype=np.int64)

    def mix(self, shares: tuple[tuple[str, float], ...]) -> Floats:
        """(m,) shares by supply as a direction."""
        given = dict(shares)
        return np.array([max(given.get(name, 0.0), 0.0) for name in self.names])

    def per_trained(self, axis: Axis) -> float:
        """Price of one source token's training, its replay included."""
        price = {"tokens": 0.0, "usd": self.usd_per_trained, "flops": self.flops_per_trained}
        return price[axis] / (1.0 - self.replay) if axis != "tokens" else 1.0

    def spent(self, tokens: Floats, axis: Axis | None = None) -> Floats:
        """(c,) what purchases (c, m) cost on an axis; the budget's own where None."""
        kind = self.axis if axis is None else axis
        total = tokens.sum(axis=1)
        if kind == "tokens":
            return np.asarray(total)
        fixed = np.array([s.fixed(kind) for s in self.supplies])
        owner, first, last, each = self.steps(kind)
        bought = (tokens > 0) @ fixed + (np.clip(tokens[:, owner], first, last) - first) @ each
        return np.asarray(bought + self.per_trained(kind) * total)

    def steps(self, axis: Axis) -> tuple[Ints, Floats, Floats, Floats]:
        """Prices of unique tokens: each step's supply, where it begins and ends, price; (s,)."""
        rows = [(i, *step) for i, s in enumerate(self.supplies) for step in s.steps(axis)]
        owner, first, last, each = (np.array(column) for column in zip(*rows, strict=True))
        return owner, first, last, each

    def without(self, name: str) -> Problem:
        """The same question with one supply not to be bought; the others keep their places."""
        return replace(
            self,
            supplies=tuple(
                replace(s, min_share=0.0, max_share=0.0) if s.name == name else s
                for s in self.supplies
            ),
        )

    def scaled_budget(self, factor: float) -> Problem:
        """The same question with the budget times `factor`; ceilings on other axes stay."""
        return replace(self, budget=self.budget * factor)

    def scaled_costs(self, factor: float) -> Problem:
        """The same question with acquisition costs times `factor`."""
        return replace(
            self,
            supplies=tuple(
                replace(
                    s,
                    usd_fixed=s.usd_fixed * factor,
                    usd_per_token=s.usd_per_token * factor,
                    usd_tiers=tuple((tokens, each * factor) for tokens, each in s.usd_tiers),
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


def _check_names(problem: Problem) -> None:
    names = problem.names
    if not names or len(set(names)) != len(names):
        raise PlanError(f"allocation: supplies must have distinct names, got {list(names)}")
    named = [(f"limit `{t.name}`", t.sources) for t in problem.together]
    named.append(("prior mix", tuple(name for name, _ in problem.prior)))
    for what, given in named:
        unknown = [name for name in given if name not in names]
        if unknown:
            raise PlanError(
                f"allocation: {what} names `{unknown[0]}`, supplies are {', '.join(names)}"
            )
    pulled = problem.prior_weight > 0 or problem.prior_limit < float("inf")
    if pulled and not (problem.mix(problem.prior) > 0).all():
        raise PlanError(
            f"allocation: the prior mix must give every supply a share above 0, "
            f"got {dict(problem.prior)}",
            hint="a share of 0 makes any purchase of that supply infinitely far from the prior",
        )
    if problem.min_replay > problem.replay and problem.control not in names:
        raise PlanError(
            f"allocation: min_replay {problem.min_replay:g} is above replay {problem.replay:g}, "
            "and no supply is the control that could bring more",
            hint="raise replay, or name the control among the supplies",
        )


def _check_numbers(problem: Problem) -> None:
    amounts = [("budget", problem.budget), *((f"{a} ceiling", v) for a, v in problem.ceilings)]
    for what, limit in amounts:
        if not (np.isfinite(limit) and limit > 0):
            raise PlanError(f"allocation: {what} must be a positive number, got {limit}")
    if not (np.isfinite(problem.noise) and problem.noise > 0):
        raise PlanError(
            f"allocation: noise floor must be a positive number, got {problem.noise}",
            hint="repeat one budget with 3 seeds: without noise no tie can be told",
        )
    if not 0 <= problem.replay < 1:
        raise PlanError(f"allocation: replay share must lie in [0, 1), got {problem.replay}")
    shares = [(f"source `{s.name}` share", s.min_share, s.max_share) for s in problem.supplies]
    shares += [(f"limit `{t.name}` share", t.least, t.most) for t in problem.together]
    shares += [("min_replay", problem.min_replay, 1.0), ("level", problem.level, 1.0)]
    for what, least, most in shares:
        if not 0 <= least <= most <= 1:
            raise PlanError(
                f"allocation: {what}: least {least:g} and most {most:g} must be ordered in [0, 1]"
            )
    if not problem.level < 1 or not problem.threshold > 0 or not problem.prior_limit >= 0:
        raise PlanError(
            f"allocation: level {problem.level:g} must be below 1, regret_limit "
            f"{problem.threshold:g} above 0, prior_limit {problem.prior_limit:g} not below 0"
        )
    for s in problem.supplies:
        if s.cap < 1:
            raise PlanError(
                f"source `{s.name}`: {s.available} tokens x {s.max_epochs:g} epochs is nothing"
            )


def _check_money(problem: Problem) -> None:
    for s in problem.supplies:
        try:
            tiers.rising(s.usd_tiers)
        except ValueError as error:
            raise PlanError(f"allocation: source `{s.name}`: {error}") from None
        if s.acquired("usd", s.available) and s.currency != problem.currency:
            raise PlanError(
                f"allocation: costs in two currencies: source `{s.name}` is priced in "
                f"{s.currency}, the problem in {problem.currency}",
                hint=f"convert the prices of `{s.name}` to {problem.currency} at a rate you state",
            )
    if problem.axis != "tokens" and problem.per_trained(problem.axis) <= 0:
        raise PlanError(
            f"allocation: a budget in {problem.axis}, but training a token costs none",
            hint=f"give {problem.axis}_per_trained, or the budget in tokens",
        )
