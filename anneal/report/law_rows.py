"""What a decision says of its law: runs, curves, fits, crossovers and checks, with intervals."""

from __future__ import annotations

from typing import Literal

from anneal.values import Value


class Interval(Value):
    """A number with its interval."""

    value: float
    low: float
    high: float
    level: float = 0.9


class CurvePoint(Value):
    """One run on the curves: where it lies on every axis, what it scored, what the law says."""

    source: str
    run: str
    tokens: float
    unique: float
    flops: float
    total_flops: float
    usd: float
    score: float
    seed: int
    repetition: Literal["matched", "natural"]
    predicted: float
    held_out_prediction: Interval | None = None
    """Predicted by the law fitted without this budget, where it is the held-out one."""
    largest: bool = False


class CurveLine(Value):
    """One source's curve with its band, sampled along every axis: all tuples equally long."""

    source: str
    tokens: tuple[float, ...]
    flops: tuple[float, ...]
    total_flops: tuple[float, ...]
    usd: tuple[float, ...]
    score: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class SourceFit(Value):
    """One source's parameters with intervals."""

    source: str
    parameters: dict[str, Interval]
    at_real_budget: Interval
    """Score if all of the real budget went to it, capped as it is."""
    probability_best: float


class FormRow(Value):
    """One form of the average that the law is."""

    form: str
    formula: str
    weight: float
    """Its share of the draws; all sum to 1."""
    error: float | None
    """RMS error of the budgets it predicted from smaller ones, as a share of the score; None where
    there were too few budgets."""
    predicted: int
    """How many budgets that were."""


class FitRow(Value):
    """The law (REPORT 2.7): an average of forms; parameters are those of the heaviest."""

    form: str
    formula: str
    reason: str
    """Hold-out errors of the candidates."""
    forms: tuple[FormRow, ...] = ()
    drift: str = ""
    """How much wider the intervals get beyond the largest budget, and why, in words."""
    shared: dict[str, Interval]
    sources: tuple[SourceFit, ...]
    converged: bool
    agreeing_starts: int
    starts: int
    on_bounds: tuple[str, ...]
    residual_sd: float
    draws: int
    failed_draws: int
    bounded_draws: int
    method: str
    """How intervals were made, in words."""
    message: str = ""


class Crossover(Value):
    """Where two sources' curves cross, on one axis."""

    first: str
    second: str
    axis: Literal["tokens", "training_flops", "total_flops", "usd"]
    found: bool
    """False prints: no crossover in range."""
    at: Interval | None
    probability: float
    """Share of draws with a crossing inside the range."""
    low: float
    high: float
    """The range searched."""


class HoldOutRow(Value):
    """Model check (REPORT 2.8): the largest budget predicted by one approach."""

    approach: str
    """A form's name, `last budget`, `mean` or `constant`."""
    mae: float
    rank_correlation: float | None
    top1_regret: float
    coverage: float | None
    """Share of held-out points inside the 90% interval; None for baselines."""
    chosen: bool = False


class MixtureCheck(Value):
    """The mixture rule against measured mixtures."""

    budget: int
    predicted: Interval
    measured: float


class RuleError(Value):
    """How wrong the mixture rule was where the uniform mix was run, and what follows for what is
    bought. Shares of the score: -0.02 is 2% better (lower) than the rule says."""

    score: str
    """`score` or a guard's name."""
    budgets: tuple[int, ...]
    """At which the uniform mix was run; empty where it was not, and all is then assumed."""
    runs: tuple[int, ...]
    off: tuple[float, ...]
    """Measured over the rule, minus 1, by budget: medians over the draws."""
    slope: Interval
    """Of the trend, per doubling of the source tokens."""
    lasts: float
    """P(the trend goes on to the real budget)."""
    part: float
    """Part of the uniform mix's error that the allocation gets: 0 for a single source."""
    change: Interval
    """Corrected over the rule's score of the allocation, minus 1."""
    rule: Interval
    """What the rule alone says of the allocation."""
    corrected: Interval
    """What the decision says of it."""
