"""`decision.json`: everything the report says, computed before a word of it is written.

The report computes nothing. It renders a `Decision`: every number with its interval, every table
row by row. This is also the file other programs read, so it carries a version.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from anneal.plan.predictions import Calibration
from anneal.values import Value

Verdict = Literal["adopt", "adopt with hold-out", "run more", "not decidable"]


class Interval(Value):
    """A number with its interval."""

    value: float
    low: float
    high: float
    level: float = 0.9


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
