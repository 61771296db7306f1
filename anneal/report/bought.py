"""What an allocation says, in the report's records: one mapping for a sweep and for a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anneal.report.decision import AllocationRow, Beats, BindingLimit, NextBest, NextRun
from anneal.report.law_rows import Interval

if TYPE_CHECKING:
    from anneal.allocation.next_runs import NextRuns
    from anneal.allocation.values import Allocation
    from anneal.allocation.values import Interval as AllocationInterval


def interval(value: AllocationInterval) -> Interval:
    """A number with its interval."""
    return Interval(value=value.value, low=value.low, high=value.high, level=value.level)


def rows(answer: Allocation) -> tuple[AllocationRow, ...]:
    """Each source's part."""
    return tuple(
        AllocationRow(
            source=row.name,
            share=row.share,
            share_low=row.share_low,
            share_high=row.share_high,
            share_cap=row.cap / answer.tokens if row.cap < answer.tokens else None,
            tokens=row.tokens,
            unique_tokens=row.unique,
            epochs=row.epochs,
            epochs_cap=row.max_epochs,
            usd=row.usd,
            flops=row.flops,
            acquisition_flops=row.acquisition_flops,
            available=row.available,
        )
        for row in answer.rows
    )


def beats(answer: Allocation) -> tuple[Beats, ...]:
    """How it compares with the others."""
    return tuple(
        Beats(
            name=v.name,
            shares=v.shares,
            probability=v.probability,
            gain=interval(v.gain),
            tie=v.tie,
            within_guards=v.within_guards,
        )
        for v in answer.versus
    )


def binding(answer: Allocation) -> tuple[BindingLimit, ...]:
    """The limits that hold it back."""
    return tuple(
        BindingLimit(limit=b.limit, shadow_price=b.words, value=b.value, unit=b.unit)
        for b in answer.binding
    )


def next_best(found: NextRuns, *, speed: float | None, priced: bool = True) -> NextBest:
    """What to run next.

    Args:
        speed: FLOPs a second of one device.
        priced: whether the candidates' FLOPs are FLOPs; else they are tokens.
    """
    price = 1e9
    if priced:
        price = 1e18 if speed is None else speed * 3600.0
    return NextBest(
        rows=tuple(
            NextRun(
                source=row.candidate.source,
                tokens=row.candidate.tokens,
                unique=row.candidate.unique,
                flops=row.candidate.flops if priced else None,
                usd=row.candidate.usd,
                hours=row.candidate.flops / speed / 3600.0 if priced and speed else None,
                gain=interval(row.gain),
                per_price=row.gain.value / row.candidate.flops * price,
                changes=row.changes,
                worthwhile=row.worthwhile,
            )
            for row in found.rows
        ),
        stop=found.stop,
        reason=found.reason,
        regret=found.regret,
        price="1e9 tokens" if not priced else "device-hour" if speed else "1e18 FLOPs",
    )
