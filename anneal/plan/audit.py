"""The account of a full run: every token asked for, laid out, and not to be had."""

from __future__ import annotations

from anneal.plan.values import Phase
from anneal.sources.values import Name
from anneal.values import Value


class AuditRow(Value):
    """One source in one phase: what was asked for and what is laid out."""

    phase: Name
    source: Name
    asked: int
    """Tokens, as allocated or as the fixed share says."""
    tokens: int
    """Trained tokens: whole sequences."""
    unique: int
    """Tokens there are to draw on: of the source, or of the subset that the phase takes."""
    reason: str = ""
    """Why the two differ."""

    @property
    def difference(self) -> int:
        return self.tokens - self.asked

    @property
    def epochs(self) -> float:
        """Passes over what it draws on."""
        return self.tokens / self.unique


class Shortage(Value):
    """A source that does not hold what the phases ask of it."""

    source: Name
    asked: int
    """Trained tokens."""
    exist: int
    """Unique tokens."""
    needed: int
    """Unique tokens that would do."""
    limit: float
    """Epochs allowed, by the source or by the phase that asks for so many."""
    phases: dict[str, int]
    """Trained tokens by phase; `the base` stands for what was trained before."""

    @property
    def message(self) -> str:
        where = ", ".join(f"{name} {tokens:,}" for name, tokens in self.phases.items())
        return (
            f"source `{self.source}`: {self.asked:,} tokens asked ({where}), {self.exist:,} exist "
            f"(limit {self.limit:g} epochs: {int(self.exist * self.limit):,})"
        )


class LaidOut(Value):
    """The phases of a full run, and the account of them."""

    phases: tuple[Phase, ...]
    audit: tuple[AuditRow, ...]
    left_out: dict[str, str] = {}
    """Why a source is in no phase, or not in one that could have had it."""
    shortages: tuple[Shortage, ...] = ()
    """Only where they were not to be errors."""

    @property
    def tokens(self) -> int:
        return sum(phase.tokens for phase in self.phases)
