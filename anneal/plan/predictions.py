"""What a law says of a run before it is run, and what was then measured.

A prediction is about one phase end of one run: the state after that phase, by its address, and one
number there, the weighted score of the targets or a guard's. It is hashed and dated before the
phase starts, so it cannot move with the result. Where no law covers a phase end nothing is
invented, and the reason stands in its place.

Counted over all runs of a store, predictions and measurements say whether the intervals are worth
their name: a 90% interval that held in five of ten cases was no 90% interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from pydantic import Field, model_validator

from anneal.values import Value, address

AIM = "score"
"""Name of the weighted mean of the targets that are not guards, bits per byte."""
RATE_LEVEL = 0.9
"""Level of the interval of a rate, as of every interval in a report."""


class Subject(Value):
    """The end of one phase of one run."""

    boundary: str = Field(min_length=1)
    """`RunSpec.boundary`: address of the state there."""
    phase: str
    index: int = Field(ge=0)
    tokens: int = Field(gt=0)
    """Trained tokens of the run so far."""


class Prediction(Value):
    """One number, before it was measured."""

    subject: Subject
    score: str = AIM
    """The weighted aim, or a guard's name."""
    value: float
    """Bits per byte."""
    low: float
    high: float
    """Interval of one measured run: what the law may be there, and the run's own noise."""
    level: float = Field(gt=0, lt=1)
    basis: str
    """What it follows from, in words."""
    broken: tuple[str, ...] = ()
    """Assumptions of the law that do not hold of this run, in words: the interval does not know
    them."""
    decision: str
    """Address of the decision whose law it is."""
    analysis: str
    """Address of everything that law was fitted to."""
    extrapolation: float = Field(ge=1)
    """Source tokens over the largest budget that was tried; 1 within."""
    known: bool = False
    """The run repeats, seed and all, one whose score was known: it says nothing of the intervals
    and is not counted."""
    made: str
    """UTC time, ISO 8601."""

    @model_validator(mode="after")
    def _ordered(self) -> Prediction:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"value {self.value} outside its interval {self.low} to {self.high}")
        return self

    @property
    def address(self) -> str:
        """Content address of all of it, its date too."""
        return address(self)

    def same(self, other: Prediction) -> bool:
        """Whether it says what `other` says, dates apart."""
        return self == other.model_copy(update={"made": self.made})

    def inside(self, measured: float) -> bool:
        """Whether the interval holds a measured value."""
        return self.low <= measured <= self.high


class NoPrediction(Value):
    """A phase end that no law covers."""

    subject: Subject
    score: str = AIM
    reason: str = Field(min_length=1)


Said = Prediction | NoPrediction
"""What is said of a phase end beforehand."""


class Measurement(Value):
    """What became of a prediction."""

    prediction: str
    """Its address."""
    measured: float
    """Bits per byte."""
    inside: bool
    error: float
    """Measured minus predicted: positive is worse than predicted."""
    run: str
    finished: str
    """When the phase ended, UTC, ISO 8601."""


class Held(Value):
    """How often intervals of one level held."""

    level: float
    n: int = Field(gt=0)
    inside: int
    low: float
    high: float
    """Wilson interval of the rate; see `wilson`."""


class Calibration(Value):
    """All settled predictions of a store."""

    n: int = Field(ge=0)
    inside: int = Field(ge=0)
    runs: int = Field(ge=0)
    """Different runs among them. Scores of one run lean the same way, so the intervals of the rate
    below, which take all `n` as independent, are too narrow where runs are few."""
    low: float
    high: float
    """Wilson interval of the rate `inside / n`."""
    level: float = RATE_LEVEL
    """Of that interval."""
    levels: tuple[Held, ...]
    """By the level of the predictions' own intervals."""
    mean_error: float
    """Mean absolute error, bits per byte."""
    mean_width: float
    """Mean width of the intervals, bits per byte."""
    broken: int = Field(0, ge=0)
    """How many were made where an assumption of the law did not hold."""
    oldest: str
    newest: str
    """Dates on which the first and the last of them were made."""


def wilson(inside: int, n: int, level: float = RATE_LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a rate (1927): it never leaves [0, 1] and holds its level well
    even for small n, where inside +/- SD collapses to a point at 0 of n and n of n.

    >>> [round(end, 3) for end in wilson(9, 10, 0.95)]
    [0.596, 0.982]
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate, spread = inside / n, z * z / n
    centre = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / n + spread / n / 4)
    # exact at the ends, where rounding would leave a dust of 1e-17
    return (centre - half if inside else 0.0), (centre + half if inside < n else 1.0)


def calibrate(settled: Sequence[tuple[Prediction, Measurement]]) -> Calibration | None:
    """Counts settled predictions; None where there is none. The order does not matter.

    Args:
        settled: predictions that count, each with its measurement.
    """
    if not settled:
        return None
    # summed in one order, so that equal records give equal bits
    rows = sorted(settled, key=lambda pair: (pair[0].made, pair[0].address))
    n, inside = len(rows), sum(m.inside for _, m in rows)
    low, high = wilson(inside, n)
    held = []
    for level in sorted({p.level for p, _ in rows}):
        own = [m.inside for p, m in rows if p.level == level]
        ends = wilson(sum(own), len(own))
        held.append(Held(level=level, n=len(own), inside=sum(own), low=ends[0], high=ends[1]))
    return Calibration(
        n=n,
        inside=inside,
        runs=len({m.run for _, m in rows}),
        low=low,
        high=high,
        levels=tuple(held),
        mean_error=math.fsum(abs(m.error) for _, m in rows) / n,
        mean_width=math.fsum(p.high - p.low for p, _ in rows) / n,
        broken=sum(bool(p.broken) for p, _ in rows),
        oldest=rows[0][0].made,
        newest=rows[-1][0].made,
    )


def held_words(calibration: Calibration) -> str:
    """`our 90% intervals have held 7 of 9 times [50%, 92%]`, level by level."""
    return "; ".join(
        f"our {held.level:.0%} intervals have held {held.inside} of {held.n} "
        f"{'time' if held.n == 1 else 'times'} [{held.low:.0%}, {held.high:.0%}]"
        for held in calibration.levels
    )
