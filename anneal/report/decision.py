"""`decision.json`: everything the report says, computed before a word of it is written.

The report computes nothing. It renders a `Decision`: every number with its interval, every table
row by row. This is also the file other programs read, so it carries a version.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from anneal.plan.predictions import Calibration
from anneal.report.law_rows import (
    Crossover,
    CurveLine,
    CurvePoint,
    FitRow,
    HoldOutRow,
    Interval,
    MixtureCheck,
    RuleError,
)
from anneal.values import Value

Verdict = Literal["adopt", "adopt with hold-out", "run more", "not decidable"]


class Beats(Value):
    """How the recommended allocation compares with another one under the same draws."""

    name: str
    """natural proportions, uniform, runner-up, single-scale pick, replay only."""
    shares: dict[str, float]
    probability: float
    """P(recommended scores better)."""
    gain: Interval
    """Its score minus ours, bits per byte: positive is ours better."""
    tie: bool
    """The difference is below the noise floor."""
    within_guards: bool = True
    """Whether the other keeps the guards with the asked confidence."""


class SourceRow(Value):
    """Source table (REPORT 2.3)."""

    name: str
    kind: str
    tokens: int
    documents: int
    dropped: dict[str, int]
    licence: str
    usd_fixed: float
    usd_per_million_tokens: float
    flops_per_token: float
    seconds_per_million_tokens: float
    max_epochs: float
    notes: dict[str, str | int | float]


class Evidence(Value):
    """Evidence ledger (REPORT 2.4)."""

    planned: int
    finished: int
    reused: int
    """Finished before this sweep started."""
    failed: dict[str, int]
    """By failure class."""
    missing: tuple[str, ...]
    """Runs without a result, named, with the reason."""
    excluded: tuple[str, ...]
    flops: float
    acquisition_flops: float
    seconds: float
    """Sum over runs of training and scoring."""
    usd: float
    share_of_real_budget: float
    """Training FLOPs of the evidence over those of the real budget."""


class NoiseRow(Value):
    """Noise floor of one target (REPORT 2.5)."""

    target: str
    guard: bool
    seeds: int
    """Seeds per arm at the repeated budgets."""
    degrees: int
    """Degrees of freedom of the pooled SD."""
    sd: Interval
    """Pooled seed SD, bits per byte."""
    signal: float
    """SD between arms at the largest repeated budget."""
    snr: float
    kept: bool
    reason: str


class EffectRow(Value):
    """One source against its matched control at one budget and target (REPORT 2.6)."""

    source: str
    target: str
    budget: int
    repetition: Literal["matched", "natural"]
    epochs: float
    lift: Interval
    """Control minus source, paired by seed, bits per byte: positive is better."""
    pairs: int
    per_billion_tokens: float
    per_usd: float | None
    """Lift per USD of acquisition and training; None when nothing was spent."""
    significant: bool


class RankRow(Value):
    """Ranking of the sources at one single budget: what a point estimate would have said."""

    budget: int
    ranking: tuple[str, ...]
    scores: tuple[float, ...]
    pick: str
    agrees: bool
    """With the law's pick at the real budget."""
    regret: Interval
    """Loss of buying this pick alone instead of the recommended allocation."""


class AllocationRow(Value):
    """Allocation (REPORT 2.9) of one source."""

    source: str
    share: float
    share_low: float
    share_high: float
    share_cap: float | None = None
    """Largest share the cap on its epochs allows; None when nothing caps it below 1."""
    tokens: int
    unique_tokens: int
    epochs: float
    epochs_cap: float
    usd: float
    flops: float
    acquisition_flops: float
    available: int


class BindingLimit(Value):
    """A limit that holds the allocation back, and what lifting it is worth."""

    limit: str
    """In words: `stdlib epochs 16`, `tokens 4,096,000`."""
    shadow_price: str
    """In words: `one more million tokens of stdlib is worth 0.004 bpb`."""
    value: float
    """Bits per byte gained per unit of the limit (positive is better)."""
    unit: str


class Sensitivity(Value):
    """Sensitivity (REPORT 2.10)."""

    change: str
    shares: dict[str, float]
    score: float
    flips: bool
    """Another source gets the largest share."""


class NextRun(Value):
    """One run that could come next, and what it is expected to bring."""

    source: str
    tokens: float
    unique: float
    flops: float | None
    """Training; None where nobody said what a token costs."""
    usd: float
    hours: float | None
    """Of one device; None where its speed is unknown."""
    gain: Interval
    """Expected fall of the expected regret, score; the interval is that of the estimate."""
    per_price: float
    """Gain per device-hour; per 1e18 FLOPs without a speed, per 1e9 tokens without FLOPs."""
    changes: float
    """P(the run changes what is bought)."""
    worthwhile: bool


class NextBest(Value):
    """Next best experiment (REPORT 2.13): what to run next, or that nothing is worth running."""

    rows: tuple[NextRun, ...]
    """The best gain for its price first, worthwhile ones before the others."""
    stop: bool
    reason: str
    regret: float
    """Expected regret now, over the purchases compared: what perfect knowledge would save."""
    price: Literal["device-hour", "1e18 FLOPs", "1e9 tokens"]
    """What `per_price` is per."""


class Registration(Value):
    """What was fixed before the first result (REPORT 2.2)."""

    metric: str
    threshold: str
    budget: str
    stop: str
    address: str
    date: str


class Decision(Value):
    """The decision, its evidence and everything the report shows."""

    version: Literal[1] = 1
    sweep: str
    question: str
    made: str
    """UTC time, ISO 8601."""
    verdict: Verdict
    reason: str
    """One line."""
    score: Interval
    """Predicted score of the recommended allocation at the real budget."""
    base_score: float
    expected_regret: float
    regret_95: float
    probability_best: float
    """P(no other examined allocation is better by more than the noise floor)."""
    probability_guard: float
    """P(every guard stays within its limit)."""
    guards: dict[str, Interval] = Field(default_factory=dict)
    """Predicted guard scores at the recommended allocation."""
    guard_limits: dict[str, float] = Field(default_factory=dict)
    beats: tuple[Beats, ...]
    law_pick: str
    """The single source the law would buy with all of the real budget."""
    real_tokens: int
    real_usd: float
    real_flops: float
    axis: Literal["tokens", "usd", "flops"]
    """What the real budget was given in."""
    replay_share: float
    extrapolation: float
    """Real source tokens over the largest budget tried."""
    extrapolation_note: str
    parameters: int
    partial: bool
    registration: Registration
    sources: tuple[SourceRow, ...]
    evidence: Evidence
    noise: tuple[NoiseRow, ...]
    effects: tuple[EffectRow, ...]
    ranks: tuple[RankRow, ...]
    rank_stability: float | None
    """Mean Spearman correlation between neighbouring budgets."""
    points: tuple[CurvePoint, ...]
    curves: tuple[CurveLine, ...]
    fit: FitRow
    crossovers: tuple[Crossover, ...]
    hold_out: tuple[HoldOutRow, ...]
    mixture_checks: tuple[MixtureCheck, ...] = ()
    rule_errors: tuple[RuleError, ...] = ()
    """Of the score and every guard; `score` and `guards` above are corrected by them. Shares,
    regrets, comparisons and probabilities are the rule's own. Empty in decisions made before."""
    allocation: tuple[AllocationRow, ...]
    binding: tuple[BindingLimit, ...]
    sensitivity: tuple[Sensitivity, ...] = ()
    next_best: NextBest | None = None
    marginal: tuple[CurveLine, ...] = ()
    """Marginal gain (bits per byte per million tokens, per USD) by tokens; `score` holds it."""
    marginal_per_usd: tuple[CurveLine, ...] = ()
    repetition: str
    """Which runs had matched, which natural repetition."""
    warnings: tuple[str, ...] = ()
    statements: dict[str, str] = Field(default_factory=dict)
    """Further statements of uncertainty (REPORT 4), by subject: interval coverage on simulated
    truth, the number of comparisons and its correction, decision accuracy at this scale."""
    reproduce: dict[str, str] = Field(default_factory=dict)
    """Command, hashes, commit, versions, seeds."""
    calibration: Calibration | None = None
    """How often earlier intervals held, by full runs measured since; the decision rests on none."""
