"""Budgets and prices: how many tokens runs spend, how many the real run will, and what both cost.

The **real budget** is what the decision is about; micro-anneals are its miniatures. A run with a
budget of x source tokens, where the real one is X, is a world scaled by f = x / X: each source's
pool is scaled by f as well, so that the miniature repeats its data exactly as often as the real run
would (`matched` repetition). A `natural` run draws on everything there is, and so flatters scarce
sources: at a small budget it never repeats them (arXiv 2606.07597; METHODS 6.13).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from anneal.plan.flops import training_flops
from anneal.sources.tiers import affords, steps
from anneal.sources.values import Cost, Name
from anneal.values import Value


class Real(Value):
    """The real budget: source tokens, or money or FLOPs for everything.

    Tokens count source tokens; replay comes on top. USD and FLOPs count training on both, and
    acquiring the unique tokens.
    """

    tokens: int | None = Field(None, gt=0)
    usd: float | None = Field(None, gt=0)
    flops: float | None = Field(None, gt=0)

    @property
    def axis(self) -> Literal["tokens", "usd", "flops"]:
        """What the budget is given in."""
        return "tokens" if self.tokens else "usd" if self.usd else "flops"

    @model_validator(mode="after")
    def _one(self) -> Real:
        if sum(v is not None for v in (self.tokens, self.usd, self.flops)) != 1:
            raise ValueError("give exactly one of tokens, usd and flops")
        return self


class Budget(Value):
    """The ladder of budgets of a sweep."""

    smallest: int = Field(16_384, gt=0)
    """Source tokens of the smallest budget."""
    largest: int = Field(262_144, gt=0)
    count: int = Field(5, gt=0)
    """Budgets, log-spaced; a law with three parameters wants five or more."""
    seeds: int = Field(3, gt=0)
    """Seeds at the repeated budgets; one elsewhere."""
    repeated: tuple[int, ...] = ()
    """Indices of the budgets with all seeds; empty is the middle one. Small budgets are cheap to
    repeat, and are where a run's noise is largest."""
    repetition: Literal["matched", "natural", "both"] = "both"
    """both: matched at every budget, natural at two, so that one law can learn what repeating
    costs."""
    real: Real

    @model_validator(mode="after")
    def _ladder(self) -> Budget:
        if self.largest < self.smallest or (self.count > 1) != (self.largest > self.smallest):
            raise ValueError("a ladder needs smallest < largest, or count 1 with both equal")
        if any(not 0 <= index < self.count for index in self.repeated):
            raise ValueError("repeated must hold indices from 0, below count")
        return self

    @property
    def ladder(self) -> tuple[int, ...]:
        """Source tokens of each budget, ascending."""
        if self.count == 1:
            return (self.smallest,)
        ratio = (self.largest / self.smallest) ** (1 / (self.count - 1))
        return tuple(round(self.smallest * ratio**i) for i in range(self.count))

    @property
    def middle(self) -> int:
        """Index of the largest budget with all seeds: where noise and signal are compared."""
        return max(self.repeated, default=self.count // 2)

    def seeds_at(self, index: int) -> int:
        """Seeds of the budget with this index."""
        return self.seeds if index in (self.repeated or (self.middle,)) else 1


class Prices(Value):
    """What computing costs, so that money and FLOPs can stand on one axis."""

    usd_per_hour: float = Field(ge=0)
    """Of one device (a GPU, or a CPU core)."""
    flops_per_second: float = Field(gt=0)
    """Training FLOPs a device does a second, realistically (peak x utilisation)."""

    @property
    def usd_per_flop(self) -> float:
        return self.usd_per_hour / 3600 / self.flops_per_second

    def acquisition_usd(self, cost: Cost, unique: float) -> float:
        """USD to acquire `unique` tokens: declared prices and the measured seconds of curation."""
        seconds = cost.seconds_fixed + cost.seconds_per_token * unique
        return cost.usd(unique) + seconds * self.usd_per_hour / 3600

    def acquisition_each(self, cost: Cost) -> float:
        """USD of one more unique token, tiers apart."""
        return cost.usd_per_token + cost.seconds_per_token * self.usd_per_hour / 3600

    def training_usd(self, flops: float) -> float:
        return flops * self.usd_per_flop


class Supply(Value):
    """A source as the plan and the allocation see it: how much, how often, at what price."""

    name: Name
    kind: str
    content: str
    tokens: int = Field(gt=0)
    """Unique tokens that exist."""
    max_epochs: float = Field(gt=0)
    cost: Cost = Cost()

    @property
    def limit(self) -> float:
        """Most tokens of it that a run may train on."""
        return self.tokens * self.max_epochs


def real_tokens(
    real: Real, supply: Supply, *, prices: Prices, parameters: int, replay_share: float
) -> float:
    """Source tokens the real budget would buy if all of it went to `supply`, cap apart.

    With acquisition a per unique token and f fixed, and training t per source token (replay
    included), a budget B buys X = (B - f) / (t + a) while that is below the U that exist, and
    X = (B - f - a U) / t beyond it; where a rises, it is so from tier to tier. A source that costs
    nothing at all is bought as far as its cap.
    """
    if real.tokens is not None:
        return float(real.tokens)
    train = training_flops(parameters, 1.0) / (1 - replay_share)
    cost = supply.cost
    if real.flops is not None:
        left, prices_each = real.flops - cost.flops_fixed, steps((), cost.flops_per_token)
    else:
        assert real.usd is not None
        train = prices.training_usd(train)
        left = real.usd - prices.acquisition_usd(cost, 0.0)
        prices_each = steps(cost.usd_tiers, prices.acquisition_each(cost))
    buys = affords(left, prices_each, exist=float(supply.tokens), train=train)
    return buys if buys < float("inf") else supply.limit
