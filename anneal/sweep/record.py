"""plan.json: the runs of a sweep as last planned, so that `status` need not plan again."""

from __future__ import annotations

from pathlib import Path

from anneal.errors import StoreError
from anneal.plan.runs import PlannedRun
from anneal.store import read_value, write_value
from anneal.values import Value


class PlanRecord(Value):
    """Every planned run."""

    runs: tuple[PlannedRun, ...]


def keep(folder: Path, runs: tuple[PlannedRun, ...]) -> None:
    """Writes the plan of the sweep whose folder this is."""
    write_value(folder / "plan.json", PlanRecord(runs=runs))


def planned(folder: Path) -> tuple[PlannedRun, ...]:
    """The runs of a sweep as last planned.

    Raises:
        StoreError: when it was never started.
    """
    path = folder / "plan.json"
    if not path.exists():
        raise StoreError(
            f"{path}: this sweep was never started here",
            hint="start it with `python -m anneal sweep`, or name its store=FOLDER",
        )
    return read_value(path, PlanRecord).runs
