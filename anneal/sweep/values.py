"""The sweep: the question asked, everything in one value."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from anneal.curation.values import CuratedSource, CuratedTarget, TokenizerSettings, TrainedTokenizer
from anneal.launch.local import Local
from anneal.launch.slurm import Slurm
from anneal.plan.budget import Budget, Prices
from anneal.plan.means import Means
from anneal.plan.pretraining import Pretraining
from anneal.plan.runs import CONTROL, Anneal
from anneal.plan.values import Checkpoint, LlamaShape, Optimiser, Schedule
from anneal.values import Value


class BaseTraining(Value):
    """How a base made here is trained: on replay text, warm-up then constant, kept undecayed."""

    tokens: int = Field(1_200_000, gt=0)
    batch: int = Field(8, gt=0)
    sequence: int = Field(128, gt=1)
    schedule: Schedule = Schedule(kind="constant", warmup=0.02)


class LawSettings(Value):
    """Which laws are tried, and how their uncertainty is made."""

    forms: tuple[str, ...] = Field(min_length=1)
    """Names from `laws.FORMS`; averaged by how they predict held-out budgets."""
    draws: int = Field(400, ge=20)
    """Bootstrap draws."""
    guard_form: str = "log_linear"
    level: float = Field(0.9, gt=0.5, lt=1)
    """Level of every interval."""


class AllocationSettings(Value):
    """How the real budget is to be split."""

    objective: Literal["mean", "cvar", "chance"] = "mean"
    """What is minimised: expected regret; the mean regret of the worst draws (see `level`); or the
    chance of a regret above `regret_limit`."""
    level: float = Field(0.9, gt=0, lt=1)
    """cvar: the draws beyond this quantile of regret count."""
    regret_limit: float | None = Field(None, gt=0)
    """Score; None is three noise floors."""
    ceilings: dict[Literal["tokens", "usd", "flops"], float] = {}
    """Largest spending on further axes, beside the real budget."""
    min_replay: float = Field(0.0, ge=0, lt=1)
    """Least share of trained tokens that is replay."""
    shares: dict[str, tuple[float, float]] = {}
    """Least and largest share of source tokens, by source."""
    licences: dict[str, float] = {}
    """Largest share of source tokens from sources of a licence, by the licence's name."""
    prior: dict[str, float] = {}
    """A mix to stay near, as shares of source tokens of every source. More replay is then bought
    only where the mix names it too, as `replay only`."""
    prior_weight: float = Field(0.0, ge=0)
    """Score per nat of KL(shares || prior) that staying near is worth."""
    prior_limit: float | None = Field(None, ge=0)
    """Largest KL(shares || prior), nats; None for no limit."""
    least_tokens: float = Field(1.0, ge=1)
    """Source tokens that must be bought at least."""
    guard_probability: float = Field(0.9, gt=0, lt=1)
    """Every guard must stay within its limit with at least this probability."""
    current: dict[str, float] = {}
    """The mix in use today, as shares of source tokens: compared with the recommendation."""


class Sweep(Value):
    """One question with everything needed to answer it."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[\w.-]+$")
    question: str = Field(min_length=1)
    folder: str
    """Folder of the sweep file: what relative paths are relative to."""
    store: str = "store"
    seed: int = Field(0, ge=0)
    source: tuple[CuratedSource, ...] = Field(min_length=1)
    replay: tuple[CuratedSource, ...] = Field(min_length=1, max_length=1)
    helper: tuple[CuratedSource, ...] = ()
    """Sources that others are made from (`prepared`, `positives`) without being candidates."""
    forbidden_licences: tuple[str, ...] = ()
    """What may not be trained on; `*` stands for anything. A source under one of these is refused,
    and documents that state one themselves are dropped and counted."""
    target: tuple[CuratedTarget, ...] = Field(min_length=1)
    tokenizer: TokenizerSettings = TrainedTokenizer()
    model: LlamaShape | Checkpoint = Field(discriminator="kind")
    base: BaseTraining = BaseTraining()
    budget: Budget
    phase: Anneal = Anneal()
    optimiser: Optimiser = Optimiser()
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    score_sequence: int = Field(128, gt=1)
    prices: Prices
    law: LawSettings
    allocation: AllocationSettings = AllocationSettings()
    launcher: Local | Slurm = Field(Local(), discriminator="kind")
    engine: Means = Means()
    pretrain: Pretraining | None = None
    """The full run, which the decision is for; no part of what the sweep itself does."""

    @model_validator(mode="after")
    def _names(self) -> Sweep:
        sources = (*self.source, *self.replay, *self.helper)
        names = [s.name for s in sources] + [t.name for t in self.target]
        double = {n for n in names if names.count(n) > 1}
        if double:
            raise ValueError(f"named twice: {', '.join(sorted(double))}")
        if all(t.guard for t in self.target):
            raise ValueError("every target is a guard: there is nothing to aim at")
        for source in (*self.source, *self.replay):
            packed = source.layout.sequence
            if packed not in {None, self.phase.sequence}:
                raise ValueError(
                    f"source.{source.name}.layout.sequence packs windows of {packed}, "
                    f"phase.sequence trains on {self.phase.sequence}"
                )
        own, asked = {s.name for s in self.source}, self.allocation
        for key, given in (("current", asked.current), ("shares", asked.shares)):
            if unknown := set(given) - own:
                raise ValueError(f"allocation.{key} names no source: {', '.join(sorted(unknown))}")
        if asked.prior and set(asked.prior) - {CONTROL} != own:
            raise ValueError(f"allocation.prior must name every source: {', '.join(sorted(own))}")
        if not all(share > 0 for share in asked.prior.values()):
            raise ValueError(f"allocation.prior: shares must be above 0, got {asked.prior}")
        if asked.prior_limit is not None and not asked.prior:
            raise ValueError("allocation.prior_limit has no allocation.prior to stay near")
        if unknown := set(asked.licences) - {s.licence for s in self.source}:
            raise ValueError(f"allocation.licences: no source has {', '.join(sorted(unknown))}")
        return self

    @model_validator(mode="after")
    def _watched(self) -> Sweep:
        if self.pretrain is not None:
            watch = self.pretrain.engine.watch
            named = {*watch.guard_limits, *(gate.target for gate in watch.gates)}
            if unknown := named - {t.name for t in self.target}:
                raise ValueError(
                    f"pretrain.engine.watch names no target: {', '.join(sorted(unknown))} "
                    f"(of {', '.join(t.name for t in self.target)})"
                )
        return self
