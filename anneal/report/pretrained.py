"""`pretrained.json`: a full run as it went, computed before a word of its report is written.

What was predicted of every phase end stands beside what was measured, what was asked for beside
what was spent, and the tokens of every source as allocated beside those that were trained.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from anneal.plan.predictions import Calibration
from anneal.report.law_rows import Interval
from anneal.values import Value

State = Literal["finished", "aborted", "unfinished"]


class Foretold(Value):
    """One score at one phase end: what was said before, what was measured."""

    phase: str
    index: int
    tokens: int
    """Trained tokens of the run by then."""
    score: str
    """`score` (the weighted aim) or a guard."""
    predicted: Interval | None
    """Bits per byte; None where no law covers it."""
    reason: str = ""
    """Why nothing was predicted."""
    measured: float | None
    """Bits per byte; None where the run did not come so far."""
    inside: bool | None
    error: float | None
    """Measured minus predicted."""
    counted: bool = False
    """Whether it is in the calibration: settled in time, and not known beforehand."""
    known: bool = False
    """The run repeats one whose score was known."""
    broken: tuple[str, ...] = ()
    """Assumptions of the law that do not hold here."""
    basis: str = ""
    extrapolation: float | None = None
    made: str = ""
    """When it was predicted, UTC, ISO 8601."""
    address: str = ""
    """Of the prediction on record."""


class PhaseRow(Value):
    """One phase, and the boundary behind it."""

    phase: str
    index: int
    asked: int
    """Tokens of this phase as laid out."""
    tokens: int | None
    """As trained; None where it did not end."""
    steps_asked: int
    steps: int | None
    batch: int
    """Sequences a step."""
    sequence: int
    schedule: str
    """Learning rate in words."""
    learning_rate: float | None
    """Of the last step."""
    loss: float | None
    """Mean training loss of its last tenth, nats per token."""
    scores: dict[str, float] = {}
    """Bits per byte at its end, by target; `score` is the weighted aim."""
    seconds: float | None
    finished: str
    """UTC, ISO 8601; empty where it did not end."""
    boundary: str
    """Address of the state kept behind it; empty where none is."""
    verified: bool | None
    """The kept state was read back whole; None where none is kept."""
    reused: bool = False
    """Trained by an earlier run that began alike."""
    weights: str = ""


class AuditRow(Value):
    """Tokens of one source in one phase."""

    phase: str
    source: str
    asked: int
    """As the allocation, or the fixed share, says."""
    laid_out: int
    """Whole sequences of it."""
    reason: str = ""
    """Why those two differ."""
    realised: int | None
    """None where the phase did not end."""
    unique: int | None
    """Different tokens among them."""
    difference: int | None
    """Realised minus asked; what is realised is what was laid out, or something is wrong."""


class SpentRow(Value):
    """One quantity of the whole run, as asked for and as spent."""

    what: Literal["tokens", "steps", "FLOPs", "device-hours", "USD"]
    asked: float
    spent: float
    note: str = ""


class Evaluation(Value):
    """Held-out scores at some point of the run."""

    tokens: int
    phase: int
    scores: dict[str, float]
    """Bits per byte by target; `score` is the weighted aim."""


class LossPoint(Value):
    """Training loss at some point of the run."""

    tokens: int
    loss: float
    """Nats per token."""


class Pretrained(Value):
    """A full run, with everything its report shows."""

    version: Literal[1] = 1
    name: str
    sweep: str
    question: str
    made: str
    """UTC, ISO 8601."""
    run: str
    """Identifier of the run."""
    state: State
    aborted: str = ""
    """What ended it early."""
    parameters: int
    start: str
    """What it started from, in words."""
    engine: str
    """In words: engine, ZeRO stage, offload."""
    processes: int
    device: str
    precision: str
    tokens_per_second: float | None
    mfu: float | None
    """Share of the devices' peak; None where the peak is not known."""
    attempts: int
    """Launches, retries included."""
    resumed: int
    """Times it went on from a checkpoint."""
    phases: tuple[PhaseRow, ...] = Field(min_length=1)
    foretold: tuple[Foretold, ...]
    audit: tuple[AuditRow, ...]
    spent: tuple[SpentRow, ...]
    evaluations: tuple[Evaluation, ...] = ()
    losses: tuple[LossPoint, ...] = ()
    guard_limits: dict[str, float] = {}
    calibration: Calibration | None = None
    """Over every full run of the store, this one included."""
    allocation: dict[str, float] = {}
    """Shares of source tokens that the decision buys."""
    warnings: tuple[str, ...] = ()
    reproduce: dict[str, str] = {}
    """Command, addresses, versions."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of what was predicted, the aim first."""
        return tuple(dict.fromkeys(row.score for row in self.foretold))

    @property
    def settled(self) -> tuple[Foretold, ...]:
        """Rows that say something of the intervals: predicted in time, measured, and not known."""
        return tuple(row for row in self.foretold if row.counted)
