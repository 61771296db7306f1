"""What is found in a table: every number that is printed, drawn or written as JSON.

Nothing downstream computes; the terminal, the page and the JSON file show these values. Scores are
in the table's own unit, smaller is better. `null` in JSON is "there is none", never a number.
"""

from __future__ import annotations

from typing import Literal

from anneal.report.decision import (
    AllocationRow,
    Beats,
    BindingLimit,
    NextBest,
    Sensitivity,
    Verdict,
)
from anneal.report.law_rows import Interval
from anneal.values import Value

Outcome = Literal["leads", "tie", "undecided", "all within noise"]


class SourceRow(Value):
    """A source as the table has it."""

    source: str
    runs: int
    budgets: tuple[float, ...]
    """Tokens, ascending."""
    seeds: int
    """Most runs of one cell."""
    pool: float | None
    """Unique tokens that exist; None: every token is taken as new."""
    epochs: float
    """Most passes of any run over its pool."""
    best: float
    """Smallest score."""


class NoiseFloor(Value):
    """How much a score moves when only the seed changes."""

    sd: Interval
    relative: float
    degrees: int
    """Degrees of freedom; 0 where it is not from repeats."""
    origin: Literal["repeats", "given", "residuals of the law"]


class HeldRow(Value):
    """How one approach predicted the held-out largest budget."""

    approach: str
    mae: float | None
    rank_correlation: float | None
    top1_regret: float | None
    coverage: float | None
    """Share of the held-out runs inside their 90% interval; None for baselines."""
    parameters: int
    used: bool
    message: str


class HeldOut(Value):
    """The back-test."""

    budget: float
    runs: int
    rows: tuple[HeldRow, ...]
    reason: str
    beaten_by: str
    """The baseline that predicts better by more than noise; empty where none does."""


class FormRow(Value):
    """A form in the average."""

    form: str
    formula: str
    weight: float


class Parameter(Value):
    """A parameter of the heaviest form: the fit's value and the draws' interval."""

    name: str
    value: Interval


class AtRow(Value):
    """One source's curve at a budget."""

    source: str
    unique: float
    epochs: float
    curve: Interval
    """Of the law: what many runs would average."""
    new_run: Interval
    """Of one run: the law's and its own noise."""
    probability_best: float | None
    """P(no other source is better); None for the control."""
    probability_within: float | None
    """P(no other source is better by more than the noise floor)."""
    probability_control: float | None
    """P(better than the control); None without one."""


class At(Value):
    """All curves at one budget."""

    tokens: float
    factor: float
    """Over the largest budget tried: how far the law is stretched."""
    rows: tuple[AtRow, ...]
    """The best first."""


class RankRow(Value):
    """What a single budget would have said."""

    budget: float
    sources: tuple[str, ...]
    scores: tuple[float, ...]
    agrees: bool
    """Its first is the law's first at the decision's budget."""
    clear: bool
    """The first leads by more than the noise floor."""


class Crossing(Value):
    """Where one source overtakes another."""

    first: str
    second: str
    axis: Literal["tokens", "flops", "usd"]
    found: bool
    at: Interval | None
    probability: float
    """Share of draws that cross inside the range."""
    first_ahead: float
    """Share of draws in which the first is better at the range's end."""
    tie: bool
    low: float
    high: float


class Tie(Value):
    """Two sources that the noise floor does not tell apart at the decision's budget."""

    first: str
    second: str
    gap: Interval
    """Score of the second minus that of the first."""


class Line(Value):
    """A curve with its band."""

    source: str
    tokens: tuple[float, ...]
    score: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Dot(Value):
    """One run beside the law."""

    source: str
    tokens: float
    unique: float
    seed: int
    score: float
    fitted: float
    smaller: bool
    """Whether its pool was smaller than the curve's at these tokens."""
    predicted: Interval | None
    """From the smaller budgets alone, where it was held out."""


class GuardRow(Value):
    """A guard target after the decision's budget of one source alone."""

    guard: str
    source: str
    base: float | None
    score: Interval


class Fitted(Value):
    """Everything `fit` finds."""

    version: Literal[1] = 1
    table: str
    unit: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    runs: int
    targets: tuple[str, ...]
    base: float | None
    sources: tuple[SourceRow, ...]
    control: bool
    noise: NoiseFloor
    held_out: HeldOut
    forms: tuple[FormRow, ...]
    parameters: tuple[Parameter, ...]
    drift: tuple[float, float]
    """SD per doubling beyond the data, relative: common to all sources, each source's own."""
    draws: int
    seed: int
    at: tuple[At, ...]
    """Ascending; the last is the decision's budget."""
    ranks: tuple[RankRow, ...]
    crossings: tuple[Crossing, ...]
    ties: tuple[Tie, ...]
    guards: tuple[GuardRow, ...]
    lines: tuple[Line, ...]
    dots: tuple[Dot, ...]
    outcome: Outcome
    reason: str
    doubt: str
    """Why the law is no witness at the decision's budget; empty where it is one."""


class Licence(Value):
    """What one licence group gets."""

    licence: str
    sources: tuple[str, ...]
    tokens: int
    usd: float
    excluded: bool


class Allocated(Value):
    """Everything `allocate` finds beside the law."""

    version: Literal[1] = 1
    fitted: Fitted
    costs: str
    axis: Literal["tokens", "usd", "flops"]
    budget: float
    tokens: int
    trained: float
    usd: float
    flops: float
    replay: float
    verdict: Verdict
    reason: str
    score: Interval
    expected_regret: float
    regret_95: float
    probability_best: float
    probability_guard: float
    guards: dict[str, Interval]
    guard_limits: dict[str, float]
    rows: tuple[AllocationRow, ...]
    beats: tuple[Beats, ...]
    unaffordable: tuple[str, ...]
    binding: tuple[BindingLimit, ...]
    sensitivity: tuple[Sensitivity, ...]
    next_best: NextBest | None = None
    licences: tuple[Licence, ...]
    law_pick: str
    single_scale_pick: str
    extrapolation: float
    examined: int
    warnings: tuple[str, ...]
