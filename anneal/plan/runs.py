"""Which runs answer the question.

Arms of a sweep (METHODS 6.1):

- the **base** as it is, only scored: decay alone is a large effect (OLMo 2, table 11), so every
  other arm is a complete decay and this one says how large it is;
- a matched **control** at every budget and seed: the replay mixture alone;
- every **source** at every budget, with matched repetition, and at two budgets with natural
  repetition where that differs;
- the **uniform** mixture at every budget: the baseline no method beats everywhere (Aioli,
  arXiv 2411.05735), and the check of how curves of single sources add up to a mixture.

All runs of one budget and seed share their seed, so arms are compared in pairs.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from pydantic import Field

from anneal.errors import PlanError
from anneal.plan.budget import Budget, Prices, Supply, real_tokens
from anneal.plan.flops import training_flops
from anneal.plan.values import (
    Checkpoint,
    FromRun,
    Optimiser,
    Phase,
    Portion,
    RunSpec,
    Schedule,
    Scored,
)
from anneal.sources.values import Name
from anneal.values import Value

Arm = Literal["base", "control", "source", "uniform"]
Repetition = Literal["matched", "natural"]
CONTROL, UNIFORM, BASE = "replay only", "uniform mix", "base as it is"


class Anneal(Value):
    """What all micro-anneals of a sweep share."""

    batch: int = Field(8, gt=0)
    """Sequences a step."""
    sequence: int = Field(128, gt=1)
    replay_share: float = Field(0.25, ge=0, lt=1)
    """Share of the tokens that replay gets, against forgetting."""
    schedule: Schedule = Schedule()
    optimiser_state: Literal["kept", "reset"] = "kept"


class Design(Value):
    """Everything the runs of a sweep follow from."""

    start: FromRun | Checkpoint = Field(discriminator="kind")
    parameters: int = Field(gt=0)
    tokenizer: str
    vocabulary: int = Field(gt=0)
    replay: Supply
    sources: tuple[Supply, ...] = Field(min_length=1)
    targets: tuple[Scored, ...] = Field(min_length=1)
    budget: Budget
    anneal: Anneal
    optimiser: Optimiser = Optimiser()
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    score_sequence: int = Field(256, gt=1)
    prices: Prices
    seed: int = Field(0, ge=0)


class PlannedRun(Value):
    """One run with what it is for and what it will take."""

    spec: RunSpec
    arm: Arm
    source: Name
    """The source under test; for the other arms their name."""
    sources: tuple[Name, ...] = ()
    """Sources under test in the mixture: one, all (uniform) or none."""
    budget: int
    """Source tokens as asked; 0 for the base."""
    seed: int
    repetition: Repetition
    epochs: float
    """Passes over the scarcest pool of the source under test."""
    tested: float = Field(ge=0, le=1)
    """Share of the tokens that stands for the source under test (in the control: replay)."""
    acquisition_flops: float
    acquisition_usd: float

    @property
    def label(self) -> str:
        """For people."""
        if self.arm == "base":
            return self.source
        natural = " natural" if self.repetition == "natural" else ""
        return f"{self.source} {self.budget:,}{natural} seed {self.seed}"

    @property
    def tokens(self) -> int:
        return sum(p.tokens for p in self.spec.phases)

    @property
    def steps(self) -> int:
        return sum(p.steps for p in self.spec.phases)


def plan_runs(design: Design) -> tuple[PlannedRun, ...]:
    """Lays out every run of a sweep, largest first within an arm's repetition.

    Raises:
        PlanError: when a run would repeat a source beyond its cap, or nothing would be trained.
    """
    runs = [_base(design)]
    ladder = design.budget.ladder
    for index, budget in enumerate(ladder):
        for seed in range(design.seed, design.seed + design.budget.seeds_at(index)):
            runs.extend(_arms(design, budget, seed, _designs(design, index, seed)))
    unique = {run.spec.id: run for run in reversed(runs)}  # a natural run may equal a matched one
    return tuple(sorted(unique.values(), key=lambda r: (r.budget, r.seed, r.arm, r.source)))


def further_runs(design: Design) -> tuple[PlannedRun, ...]:
    """Runs that could come next: each source at every budget of the ladder with one more seed, and
    at two and four times the largest, with matched repetition, where the caps allow them."""
    ladder = design.budget.ladder
    budgets = (*ladder, 2 * ladder[-1], 4 * ladder[-1])
    runs = []
    for supply in design.sources:
        for budget in budgets:
            seed = design.seed + design.budget.seeds
            with suppress(PlanError):  # beyond a cap, the source's or the replay's
                runs.append(_run(design, "source", (supply,), budget, seed, "matched"))
    return tuple(runs)


def _designs(design: Design, index: int, seed: int) -> tuple[Repetition, ...]:
    """Which repetitions a budget and seed get: both means natural at the middle and the top."""
    match design.budget.repetition:
        case "matched":
            return ("matched",)
        case "natural":
            return ("natural",)
        case "both":
            extra = index in {design.budget.middle, design.budget.count - 1}
            first = seed == design.seed
            return ("matched", "natural") if extra and first else ("matched",)


def _arms(
    design: Design, budget: int, seed: int, repetitions: tuple[Repetition, ...]
) -> list[PlannedRun]:
    main = repetitions[0]
    runs = [_run(design, "control", (), budget, seed, main)]
    for source in design.sources:
        runs += [_run(design, "source", (source,), budget, seed, r) for r in repetitions]
    if len(design.sources) > 1:
        runs.append(_run(design, "uniform", design.sources, budget, seed, main))
    return runs


def _base(design: Design) -> PlannedRun:
    return PlannedRun(
        spec=_spec(design, (), design.seed),
        arm="base",
        source=BASE,
        budget=0,
        seed=design.seed,
        repetition="natural",
        epochs=0.0,
        tested=0.0,
        acquisition_flops=0.0,
        acquisition_usd=0.0,
    )


def _run(
    design: Design,
    arm: Arm,
    sources: tuple[Supply, ...],
    budget: int,
    seed: int,
    repetition: Repetition,
) -> PlannedRun:
    anneal = design.anneal
    step = anneal.batch * anneal.sequence
    steps = max(1, round(budget / (1 - anneal.replay_share) / step))
    tokens = steps * step
    share = (1 - anneal.replay_share) / len(sources) if sources else 0.0
    parts = [(s, share, budget / len(sources)) for s in sources]
    replay_share = 1 - share * len(sources)
    if replay_share > 0:
        # the control trains on replay instead of a source: budget tokens more of it
        parts.append((design.replay, replay_share, tokens * replay_share))
    mixture, epochs, unique = [], 0.0, {}
    for supply, portion, spent in parts:
        pool = _pool(design, supply, budget, spent, repetition)
        seen = min(float(pool or supply.tokens), spent)
        if supply is not design.replay or not sources:
            epochs = max(epochs, spent / seen)
            unique[supply.name] = (supply, seen)
        mixture.append(
            Portion(source=supply.name, content=supply.content, share=portion, pool=pool)
        )
        if spent / seen > supply.max_epochs * (1 + 1e-6):
            most = int(supply.limit)
            raise PlanError(
                f"source `{supply.name}`: {round(spent):,} tokens asked, {supply.tokens:,} exist "
                f"(limit {supply.max_epochs:g} epochs: {most:,})",
                hint=f"raise source.{supply.name}.max_epochs or lower the budget",
            )
    phase = Phase(
        mixture=tuple(mixture),
        tokens=tokens,
        batch=anneal.batch,
        sequence=anneal.sequence,
        schedule=anneal.schedule,
        optimiser_state=anneal.optimiser_state,
    )
    return PlannedRun(
        spec=_spec(design, (phase,), seed),
        arm=arm,
        source={"control": CONTROL, "uniform": UNIFORM}.get(arm) or sources[0].name,
        sources=tuple(s.name for s in sources),
        budget=budget,
        seed=seed,
        repetition=repetition,
        epochs=epochs,
        tested=1 - anneal.replay_share,
        acquisition_flops=sum(s.cost.flops(u) for s, u in unique.values()) if sources else 0.0,
        acquisition_usd=sum(design.prices.acquisition_usd(s.cost, u) for s, u in unique.values())
        if sources
        else 0.0,
    )


def _pool(
    design: Design, supply: Supply, budget: int, spent: float, repetition: Repetition
) -> int | None:
    """Tokens of a source's pool, or None for all of it.

    Matched: the pool shrinks as the budget does, f = budget / real budget, but never so far that a
    run would pass the cap: beyond it the real run would not go either.
    """
    if repetition == "natural":
        return None
    real = real_tokens(
        design.budget.real,
        supply,
        prices=design.prices,
        parameters=design.parameters,
        replay_share=design.anneal.replay_share,
    )
    scaled = max(supply.tokens * budget / max(real, 1.0), spent / supply.max_epochs)
    if scaled >= min(spent, supply.tokens):
        return None  # the real run would not repeat it either
    sequence = design.anneal.sequence
    return max(1, -(-int(scaled) // sequence)) * sequence


def _spec(design: Design, phases: tuple[Phase, ...], seed: int) -> RunSpec:
    return RunSpec(
        start=design.start,
        phases=phases,
        seed=seed if phases else 0,
        tokenizer=design.tokenizer,
        vocabulary=design.vocabulary,
        optimiser=design.optimiser,
        precision=design.precision,
        targets=design.targets,
        score_sequence=design.score_sequence,
    )


def run_flops(design: Design, run: PlannedRun) -> float:
    """Training FLOPs of a planned run."""
    return training_flops(design.parameters, run.tokens)
