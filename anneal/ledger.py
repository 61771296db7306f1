"""The ledger: the record of what was run. Results in, one table out.

The record lies in the store as one folder a run (`task.json` what was asked, `result.json` what was
measured). The ledger reads it; it recomputes nothing, and a run without a result is missing,
whatever else lies in its folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from anneal.errors import StoreError
from anneal.plan.runs import PlannedRun
from anneal.plan.values import Result
from anneal.store import Store, read_value

EXPORTS = {".parquet": "Parquet", ".csv": "CSV"}


class Ledger:
    """Results of one store.

    Args:
        store: where runs lie.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def result(self, run_id: str) -> Result | None:
        """One run's result; None while it has none."""
        path = self.store.run(run_id) / "result.json"
        return read_value(path, Result) if path.exists() else None

    def missing(self, run_ids: Iterable[str]) -> list[str]:
        """Those of `run_ids` without a result, in order."""
        return [r for r in run_ids if not (self.store.run(r) / "result.json").exists()]

    def results(self, runs: Iterable[PlannedRun]) -> pd.DataFrame:
        """One row per planned run that is finished, with what it was for and its evidence.

        Columns: run, label, arm, source, budget, seed, repetition, epochs, source_tokens,
        unique_tokens, tokens, steps, flops, acquisition_flops, acquisition_usd, seconds,
        tokens_per_second, device, code, finished, resumed, final_loss, and `bpb TARGET`,
        `loss TARGET` for every target.
        """
        rows = []
        for run in runs:
            result = self.result(run.spec.id)
            if result is not None:
                rows.append(_row(run, result))
        return pd.DataFrame(rows, columns=None if rows else [*_COLUMNS])


_COLUMNS = ("run", "label", "arm", "source", "budget", "seed", "repetition")


def _row(run: PlannedRun, result: Result) -> dict[str, Any]:
    tested = [name for name in result.source_tokens if name in run.sources]
    if run.arm == "control":  # replay stands in for the source under test
        spent = result.tokens * run.tested
        unique = sum(result.unique_tokens.values()) * run.tested
    else:
        spent = float(sum(result.source_tokens[s] for s in tested))
        unique = float(sum(result.unique_tokens[s] for s in tested))
    row: dict[str, Any] = {
        "run": run.spec.id,
        "label": run.label,
        "arm": run.arm,
        "source": run.source,
        "budget": run.budget,
        "seed": run.seed,
        "repetition": run.repetition,
        "epochs": run.epochs,
        "source_tokens": spent,
        "unique_tokens": unique,
        "tokens": result.tokens,
        "steps": result.steps,
        "flops": result.flops,
        "acquisition_flops": run.acquisition_flops,
        "acquisition_usd": run.acquisition_usd,
        "seconds": result.seconds,
        "startup_seconds": result.startup_seconds,
        "tokens_per_second": result.tokens_per_second,
        "final_loss": result.final_loss,
        "resumed": result.resumed,
        "device": result.device,
        "code": result.code,
        "versions": " ".join(f"{k} {v}" for k, v in sorted(result.versions.items())),
        "shares": " ".join(
            f"{k}={v / max(result.tokens, 1):.4f}" for k, v in sorted(result.source_tokens.items())
        ),
        "weights": result.weights or "",
        "finished": result.finished,
    }
    for name, score in result.scores.items():
        row[f"bpb {name}"] = score.bpb
        row[f"loss {name}"] = score.loss
    return row


def export(table: pd.DataFrame, path: Path) -> None:
    """Writes the table as Parquet or CSV, by the file's suffix.

    Raises:
        StoreError: for another suffix, or a folder that is not there.
    """
    if path.suffix not in EXPORTS or not path.parent.is_dir():
        raise StoreError(
            f"{path}: cannot export there", hint="give FILE.parquet or FILE.csv in a folder"
        )
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)
