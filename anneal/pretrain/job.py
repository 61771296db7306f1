"""The second job: carries a full run out."""

from __future__ import annotations

from pathlib import Path

from anneal.sweep.values import Sweep


def pretrain(
    ask: Sweep,
    *,
    decision: Path | None = None,
    begin: str | None = None,
    command: str = "python -m anneal pretrain",
) -> int:
    """Carries out the full run of a sweep."""
    raise NotImplementedError
