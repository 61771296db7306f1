"""The full run: phases as they are asked for, and as they are laid out over an allocation.

A micro-anneal is one phase; pretraining is several (arXiv 2409.02326: general, high-quality,
synthetic-enhanced), on one RunSpec. What a phase trains on is the replay source alone, shares that
were fixed beforehand, or its part of what the allocation bought.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from anneal.plan.means import Means
from anneal.plan.values import Schedule
from anneal.sources.layout import Layout
from anneal.sources.values import Kind, Name
from anneal.values import Value


class PhaseAsked(Value):
    """One phase as a person asks for it."""

    name: Name
    mixture: Literal["replay", "allocation"] | dict[str, float] = "allocation"
    """replay: the replay source alone; allocation: a part of what the decision buys, with its
    replay; or fixed shares of tokens, by a source's name or by a kind (then divided among its
    sources as the allocation divides them, or by their tokens where it buys none of them)."""
    tokens: int | None = Field(None, gt=0)
    """Trained tokens, before `scale`; needed unless the mixture is the allocation's."""
    part: float = Field(1.0, gt=0)
    """mixture allocation: this phase's part of the source tokens bought, relative to the parts of
    the other such phases."""
    kinds: tuple[Kind, ...] = ()
    """mixture allocation: sources of these kinds come in this phase before any other phase gets
    some of them, as far as its part goes."""
    batch: int = Field(8, gt=0)
    """Sequences a step, over all devices."""
    sequence: int = Field(128, gt=1)
    schedule: Schedule = Schedule()
    warmup_steps: int | None = Field(None, gt=0)
    """Steps of warm-up instead of the schedule's share."""
    optimiser_state: Literal["kept", "reset"] = "kept"
    trainable: Literal["all", "embeddings"] = "all"
    layout: Layout | None = None
    """How its sources are laid out in tokens (order by repository, packing); None is as the sweep
    has them."""

    @model_validator(mode="after")
    def _sized(self) -> PhaseAsked:
        if (self.mixture == "allocation") == (self.tokens is not None):
            raise ValueError("tokens are needed, unless the mixture is the allocation's")
        if isinstance(self.mixture, dict) and abs(sum(self.mixture.values()) - 1.0) > 1e-6:
            raise ValueError(f"the shares of a mixture must sum to 1, got {self.mixture}")
        return self


class Pretraining(Value):
    """The full run as a person asks for it."""

    phases: tuple[PhaseAsked, ...] = Field(min_length=1)
    scale: float = Field(1.0, gt=0)
    """Of every phase's `tokens`: a recipe of 500 billion at a thousandth is 0.001."""
    start: Literal["scratch", "base"] = "scratch"
    """base: from the sweep's base, so that what it was trained on is not trained again."""
    engine: Means = Means(engine="deepspeed")

    @model_validator(mode="after")
    def _named_apart(self) -> Pretraining:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("two phases share a name")
        return self
