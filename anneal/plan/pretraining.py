"""The full run as a person asks for it: phases, their mixtures, their layouts.

A micro-anneal is one phase; pretraining is several (arXiv 2409.02326: general, high-quality,
synthetic-enhanced), on one RunSpec. What a phase trains on is the replay source alone, shares that
were fixed beforehand, or its part of what the allocation bought. `lay_out` makes phases of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from pydantic import Field, model_validator

from anneal.errors import PlanError
from anneal.plan.means import Means
from anneal.plan.values import Schedule
from anneal.sources.layout import Layout
from anneal.sources.values import Kind, Name, Source
from anneal.values import Value

REPLAY = "replay"
"""In a fixed mixture: the replay source, whatever its name."""


class PhaseAsked(Value):
    """One phase as a person asks for it."""

    name: Name
    mixture: Literal["replay", "allocation"] | dict[str, float]
    """replay: the replay source alone; allocation: a part of what the decision buys, with its
    replay; or fixed shares of tokens, by a source's name, by `replay`, or by a kind (then divided
    among its sources as the allocation divides them, or by their tokens where it buys none of
    them). A share of 0 says nothing, so that an override can take one out."""
    tokens: int | None = Field(None, gt=0)
    """Trained tokens, before `scale`; needed unless the mixture is the allocation's."""
    part: float = Field(1.0, gt=0)
    """mixture allocation: this phase's part of the source tokens bought, relative to the parts of
    the other such phases."""
    kinds: tuple[Kind, ...] = ()
    """mixture allocation: sources of these kinds come in this phase before any other phase gets
    some of them, as far as its part goes."""
    replay_share: float | None = Field(None, ge=0, lt=1)
    """mixture allocation: replay's share of this phase's tokens; None is the decision's."""
    epochs: float | None = Field(None, ge=1)
    """Passes over what this phase draws from its sources (replay apart): it then draws on only
    tokens / epochs unique tokens of each, a seeded subset; None draws on all there is."""
    batch: int = Field(8, gt=0)
    """Sequences a step, over all devices."""
    sequence: int = Field(128, gt=1)
    schedule: Schedule = Schedule()
    warmup_steps: int | None = Field(None, gt=0)
    """Steps of warm-up as they will be, instead of the schedule's share."""
    warmup_tokens: int | None = Field(None, gt=0)
    """Tokens of warm-up before `scale`, instead of either: a recipe's 1000 steps of 512 x 8192 are
    4,194,304,000, and keep their part of the phase at any scale and batch."""
    optimiser_state: Literal["kept", "reset"] = "kept"
    trainable: Literal["all", "embeddings"] = "all"
    layout: Layout | None = None
    """How its sources are laid out in tokens (order by repository, packing); None is as the sweep
    has them."""

    @model_validator(mode="after")
    def _sized(self) -> PhaseAsked:
        bought = self.mixture == "allocation"
        if bought == (self.tokens is not None):
            raise ValueError(
                "tokens follow from the decision where the mixture is the allocation's: leave them "
                "out, or fix the mixture"
                if bought
                else "tokens are needed, unless the mixture is the allocation's"
            )
        if not bought and (self.part != 1 or self.kinds or self.replay_share is not None):
            raise ValueError("part, kinds and replay_share belong to mixture: allocation")
        if self.mixture == REPLAY and self.epochs is not None:
            raise ValueError("epochs say how often sources repeat, and this phase has only replay")
        if self.warmup_steps is not None and self.warmup_tokens is not None:
            raise ValueError("give warmup_steps or warmup_tokens, not both")
        return self

    @model_validator(mode="after")
    def _shares(self) -> PhaseAsked:
        if not isinstance(self.mixture, dict):
            return self
        if any(share < 0 for share in self.mixture.values()):
            raise ValueError(f"a share below 0 in {self.mixture}")
        if abs(sum(self.mixture.values()) - 1.0) > 1e-6:
            raise ValueError(f"the shares of a mixture must sum to 1, got {self.mixture}")
        return self

    @model_validator(mode="after")
    def _packs_its_windows(self) -> PhaseAsked:
        if self.layout is not None and self.layout.sequence not in {None, self.sequence}:
            raise ValueError(
                f"layout.sequence packs windows of {self.layout.sequence}, the phase's sequence is "
                f"{self.sequence}"
            )
        return self


class Pretraining(Value):
    """The full run as a person asks for it."""

    phases: tuple[PhaseAsked, ...] = Field(min_length=1)
    scale: float = Field(1.0, gt=0)
    """Of every phase's `tokens` and `warmup_tokens`: a recipe of 500 billion at a thousandth is
    0.001. What the allocation bought is not scaled."""
    start: Literal["scratch", "base"] = "scratch"
    """base: from the sweep's base, so that what it was trained on is not trained again."""
    engine: Means = Means(engine="deepspeed")

    @model_validator(mode="after")
    def _named(self) -> Pretraining:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("two phases share a name")
        for gate in self.engine.watch.gates:
            if gate.phase not in names:
                raise ValueError(f"a gate names no phase: {gate.phase} (of {', '.join(names)})")
        return self


class Variant(Value):
    """A source's tokens laid out as one phase wants them, unlike the sweep's own."""

    phase: Name
    source: Name
    layout: Layout


def variants(asked: Pretraining, sources: Sequence[Source], replay: Source) -> tuple[Variant, ...]:
    """Which sources must be tokenised a second way, and for which phase.

    A phase with a `layout` wants its sources so. Besides, windows that a source packs for the
    sweep's sequence are packed again where the phase's sequence is another.

    Args:
        asked: the full run.
        sources: all sources under test.
        replay: the replay source.

    Raises:
        PlanError: a mixture that names what there is not.
    """
    by_name = {source.name: source for source in (*sources, replay)}
    kinds = {name: source.kind for name, source in by_name.items()}
    found = []
    for phase in asked.phases:
        for name in drawn(phase, kinds, replay.name):
            own = by_name[name].layout
            layout = phase.layout if phase.layout is not None else own
            if layout.sequence is not None:
                layout = layout.model_copy(update={"sequence": phase.sequence})
            if layout != own:
                found.append(Variant(phase=phase.name, source=name, layout=layout))
    return tuple(found)


def drawn(phase: PhaseAsked, kinds: Mapping[str, str], replay: str) -> tuple[str, ...]:
    """Sources that a phase may draw on, replay the last of them.

    Args:
        phase: as it is asked for.
        kinds: kind of every source by name, replay among them.
        replay: the replay source's name.

    Raises:
        PlanError: a mixture that names what there is not.
    """
    if phase.mixture == "replay":
        return (replay,)
    if isinstance(phase.mixture, dict):
        return tuple(n for names in members(phase, kinds, replay).values() for n in names)
    return (*(name for name in kinds if name != replay), replay)


def members(phase: PhaseAsked, kinds: Mapping[str, str], replay: str) -> dict[str, tuple[str, ...]]:
    """The sources behind each key of a fixed mixture: a name comes before `replay`, and that
    before a kind, which stands for all its sources but replay.

    Raises:
        PlanError: a key that is none of these, or a source that two keys mean.
    """
    assert isinstance(phase.mixture, dict)
    found: dict[str, tuple[str, ...]] = {}
    for key, share in phase.mixture.items():
        if not share:
            continue
        if key in kinds:
            found[key] = (key,)
        elif key == REPLAY:
            found[key] = (replay,)
        else:
            found[key] = tuple(n for n, kind in kinds.items() if kind == key and n != replay)
        if not found[key]:
            _refuse(phase, key, kinds)
    meant = [name for names in found.values() for name in names]
    if double := {name for name in meant if meant.count(name) > 1}:
        raise PlanError(
            f"phase `{phase.name}`: its mixture means `{min(double)}` twice",
            hint="a kind stands for all its sources: name each of them instead",
        )
    return found


def _refuse(phase: PhaseAsked, key: str, kinds: Mapping[str, str]) -> None:
    there = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if key in get_args(Kind):
        raise PlanError(
            f"phase `{phase.name}`: the sweep has no source of kind `{key}`",
            hint=f"it has {there}: change pretrain.phases.{phase.name}.mixture",
        )
    near = difflib.get_close_matches(key, [*kinds, REPLAY, *get_args(Kind)], n=3, cutoff=0.5)
    raise PlanError(
        f"phase `{phase.name}`: its mixture names `{key}`, which is no source and no kind",
        hint=f"did you mean {' or '.join(near)}?" if near else f"the sweep has {there}",
    )
