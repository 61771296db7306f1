"""What the analysis is given: the question, what was planned, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from anneal.launch.values import Outcome
from anneal.plan.runs import Design, PlannedRun
from anneal.report.decision import Registration
from anneal.sources.values import Manifest
from anneal.store import read_value, write_value
from anneal.sweep.values import Sweep
from anneal.values import address

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD = 2.0
"""Noise SDs of a difference below which it is a tie, fixed before the first result."""

ANALYSIS = 5
"""Raised when the same results would be read differently: finished sweeps are then read again."""


@dataclass(frozen=True)
class Evidence:
    """A sweep after its runs.

    Args:
        ask: the question.
        design: what its runs follow from.
        runs: every planned run.
        outcomes: what became of each, in the same order.
        manifests: of every source and target, by name.
        registration: what was fixed before the first result.
        changed: addresses of other registrations of this sweep, oldest first.
        reused: runs finished before this sweep started.
        command: what was typed.
    """

    ask: Sweep
    design: Design
    runs: tuple[PlannedRun, ...]
    outcomes: tuple[Outcome, ...]
    manifests: Mapping[str, Manifest]
    registration: Registration
    changed: tuple[str, ...]
    reused: int
    command: str


def register(ask: Sweep, design: Design, folder: Path) -> tuple[Registration, tuple[str, ...]]:
    """Fixes metric, threshold, budget and stop rule before the first result.

    The first registration of these terms keeps its date; other terms are registered beside it, and
    the report says so.

    Returns:
        The registration in force, and the addresses of this sweep's others.
    """
    aims = [t for t in design.targets if not t.guard]
    weights = ", ".join(f"{t.name} x {t.weight:g}" for t in aims)
    guards = ", ".join(f"{t.name} within {t.tolerance:g}" for t in ask.target if t.guard)
    real = design.budget.real
    amount = f"{real.tokens or real.usd or real.flops:,} {real.axis}"
    ladder = ", ".join(f"{b:,}" for b in design.budget.ladder)
    terms = {
        "metric": f"bits per byte on {weights}; guards: {guards or 'none'}",
        "threshold": f"{THRESHOLD:g} SD of the seed noise of a difference",
        "budget": f"real {amount}; runs at {ladder} source tokens, {design.budget.seeds} seeds",
        "stop": "all planned runs finished, or failed for good",
    }
    law = ask.law.model_dump(mode="json")
    key = address([terms, law, ask.allocation.model_dump(mode="json"), [t.content for t in aims]])
    path = folder / "registrations" / f"{key}.json"
    if not path.exists():
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_value(path, Registration(**terms, address=key, date=now))
    known = [read_value(p, Registration) for p in sorted(path.parent.glob("*.json"))]
    known.sort(key=lambda r: r.date)
    others = tuple(f"{r.address} of {r.date}" for r in known if r.address != key)
    return read_value(path, Registration), others


def analysis_address(evidence: Evidence, table: pd.DataFrame) -> str:
    """Address of everything a decision follows from: equal addresses, equal decisions."""
    ask = evidence.ask
    return address(
        [
            ANALYSIS,
            ask.question,
            ask.law.model_dump(mode="json"),
            ask.allocation.model_dump(mode="json"),
            ask.seed,
            evidence.design.model_dump(mode="json"),
            [s.model_dump(mode="json", exclude={"read"}) for s in ask.source],
            [t.model_dump(mode="json", exclude={"read"}) for t in ask.target],
            {n: m.model_dump(mode="json") for n, m in evidence.manifests.items()},
            evidence.registration.model_dump(mode="json"),
            sorted(zip(table["run"], table["finished"], strict=True)) if len(table) else [],
            [o.failure.model_dump(mode="json") for o in evidence.outcomes if o.failure],
        ]
    )
