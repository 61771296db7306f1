"""What an allocation says: plain records that the report maps onto its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["adopt", "adopt with hold-out", "run more", "not decidable"]


@dataclass(frozen=True)
class Interval:
    """A number with its interval."""

    value: float
    low: float
    high: float
    level: float = 0.9


@dataclass(frozen=True)
class Row:
    """One supply's part.

    Args:
        share, share_low, share_high: of source tokens; interval from the per-draw optima.
        tokens, unique, epochs, cap: tokens trained, of which unique; passes; most allowed tokens.
        usd, flops: acquisition and training on it, its part of the replay included.
        acquisition_usd, acquisition_flops: acquisition alone.
    """

    name: str
    share: float
    share_low: float
    share_high: float
    tokens: int
    unique: int
    epochs: float
    max_epochs: float
    cap: int
    available: int
    usd: float
    flops: float
    acquisition_usd: float
    acquisition_flops: float


@dataclass(frozen=True)
class Versus:
    """The recommendation against another allocation, draw by draw.

    Args:
        probability: P(the recommendation scores better).
        gain: the other's score minus ours: positive is ours better.
        tie: the median gain is below the noise floor.
        within_guards: whether the other keeps the guards with the asked confidence.
        within_limits: whether the other keeps the limits on shares; its caps and spending always.
    """

    name: str
    shares: dict[str, float]
    probability: float
    gain: Interval
    tie: bool
    within_guards: bool
    within_limits: bool = True


@dataclass(frozen=True)
class Limit:
    """A binding limit and what loosening it is worth.

    Args:
        value: score gained per unit, 0 or more; a finite difference at 10% more of the limit.
        unit: what `value` is per.
    """

    limit: str
    value: float
    unit: str

    @property
    def words(self) -> str:
        """The shadow price in words."""
        return f"{self.unit} is worth {self.value:.3g} of score"


@dataclass(frozen=True)
class Change:
    """One line of the sensitivity: another question's answer.

    `flips`: another source gets the largest share. `possible` is False where nothing could be
    bought, and the shares are then empty and the score that of the recommendation.
    """

    change: str
    shares: dict[str, float]
    score: float
    flips: bool
    possible: bool = True


@dataclass(frozen=True)
class Flip:
    """Where the mix flips: the factor of a limit or price at which another source leads.

    Args:
        change: what is scaled: `budget`, `acquisition costs` or `epochs cap`.
        factor: nearest to 1 at which the largest source is another; None where none in `searched`.
        to: the source that then leads; empty where none does.
        low, high: interval over the draws, each with its own optimum; None where that end of it
            does not flip within `searched`.
        probability: share of draws that flip within `searched`.
        searched: smallest and largest factor tried.
        level: of the interval.
    """

    change: str
    factor: float | None
    to: str
    low: float | None
    high: float | None
    probability: float
    searched: tuple[float, float]
    level: float = 0.9


@dataclass(frozen=True)
class Allocation:
    """The answer.

    Args:
        rows: one a supply, in the problem's order; tokens sum to `tokens` exactly.
        tokens: source tokens in all; `trained` with replay; `usd`, `flops` of the whole run.
        score: expected score with its interval over the draws (the law's, without run noise).
        expected_regret, regret_95: score minus the least that any purchase reaches, over the draws.
        probability_best: P(no purchase is better by more than the noise floor).
        probability_guard: P(every guard is kept); 1 without guards.
        guards: predicted guard scores by name.
        unaffordable: comparisons of which the fixed costs alone exceed the budget.
        chance_over: P(regret > `regret_limit`); `cvar`: mean of the worst 1 - `level` regrets.
        divergence: KL(shares || prior), nats; 0 without a prior.
        flips: where the mix flips.
        extrapolation: tokens over the largest budget any run tried.
        examined: number of purchases compared.
    """

    rows: tuple[Row, ...]
    tokens: int
    trained: float
    usd: float
    flops: float
    score: Interval
    expected_regret: float
    regret_95: float
    probability_best: float
    probability_guard: float
    guards: dict[str, Interval]
    versus: tuple[Versus, ...]
    unaffordable: tuple[str, ...]
    binding: tuple[Limit, ...]
    sensitivity: tuple[Change, ...]
    law_pick: str
    extrapolation: float
    examined: int
    verdict: Verdict
    reason: str
    objective: str = "mean"
    level: float = 0.9
    regret_limit: float = 0.0
    chance_over: float = 0.0
    cvar: float = 0.0
    divergence: float = 0.0
    flips: tuple[Flip, ...] = ()

    @property
    def shares(self) -> dict[str, float]:
        """Shares of source tokens by supply."""
        return {row.name: row.share for row in self.rows}
