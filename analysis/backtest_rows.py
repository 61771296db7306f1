"""Shared by the backtests: rows, fits of published tables, held-out coverage, decisions.

In a row (`analysis.rows`), ours is measured here, reference is published
or the plain refit in the dataset's SOURCE.md (or a baseline measured here, which is then said),
holds is None where there is nothing to hold against.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.backtest_points import LEVELS, coverage_points, within
from analysis.rows import Row, row
from anneal.laws.catalogue import SURFACES
from anneal.laws.surface_draws import SurfaceEnsemble, bootstrap_surface
from anneal.laws.surface_drift import Drift, measure_drift
from anneal.laws.surface_fits import SurfaceFit, fit_surface

RUNS = Path(__file__).parents[1] / "../shared/runs"
REALISED = {
    "chinchilla_epoch": 1.76,
    "gadre_overtraining": 0.11,
    "porian_isoflop": 1.73,
    "learning_curves": 1.53,
    "steplaw": 4.94,
}
"""What `realised` measured on each table: no table's intervals may use its own."""
Table = pd.DataFrame


def read(dataset: str, file: str) -> Table:
    return pd.read_csv(RUNS / dataset / file)


def columns(name: str, table: Table) -> dict[str, np.ndarray]:
    return {c.name: table[c.name].to_numpy(float) for c in SURFACES[name].inputs}


def fit(name: str, table: Table, score: str, *, seed: int = 0, **options: Any) -> SurfaceFit:
    rng = np.random.default_rng(seed)
    scores = table[score].to_numpy(float)
    return fit_surface(SURFACES[name], columns(name, table), scores, rng=rng, **options)


def draws(
    found: SurfaceFit, table: Table, score: str, method: str = "pairs", **options: Any
) -> SurfaceEnsemble:
    where, scores = columns(found.surface.name, table), table[score].to_numpy(float)
    rng = np.random.default_rng(1)
    return bootstrap_surface(found, where, scores, rng=rng, method=method, **options)


def inside(
    ensemble: SurfaceEnsemble, table: Table, score: str, drift: Drift | None = None
) -> np.ndarray:
    """(levels, n) whether each held-out score lies in each interval of a new run."""
    where = columns(ensemble.fit.surface.name, table)
    runs = ensemble.outcomes(where, rng=np.random.default_rng(2))
    if drift is not None:
        runs = drift.apply(runs, where, rng=np.random.default_rng(4))
    return within(runs, table[score].to_numpy(float))


def drifts(
    dataset: str, name: str, table: Table, score: str, by: tuple[str, ...], **options: Any
) -> Drift:
    """Drift learnt inside the small runs, with the prior that the other tables teach."""
    prior = float(np.median([v for other, v in REALISED.items() if other != dataset]))
    where, scores = columns(name, table), table[score].to_numpy(float)
    rng = np.random.default_rng(3)
    return measure_drift(SURFACES[name], where, scores, by=by, rng=rng, prior=prior, **options)


def realised(found: SurfaceFit, drift: Drift, table: Table, score: str) -> float:
    """Root mean square error beyond the table, per e-fold, in residual SDs of the fit."""
    where = columns(found.surface.name, table)
    off = np.log(found.curve(where) / table[score].to_numpy(float))
    reach = drift.reach(where)
    return float(np.sqrt(np.mean(off**2) / np.mean(reach**2)) / found.residual_sd)


def covered(parts: list[np.ndarray]) -> tuple[str, bool]:
    """Coverage in words, and whether no level falls short by more than two binomial SDs."""
    every = np.concatenate(parts, axis=1)
    share, n = every.mean(axis=1), every.shape[1]
    short = [s < a - 2 * np.sqrt(a * (1 - a) / n) for s, a in zip(share, LEVELS, strict=True)]
    return f"{' / '.join(f'{s:.0%}' for s in share)} of {n}", not any(short)


def coverage_row(
    dataset: str,
    question: str,
    parts: list[np.ndarray],
    noise_only: list[np.ndarray] | None = None,
    wrong: list[float] | None = None,
) -> Row:
    text, holds = covered(parts)
    if noise_only is not None:
        text += f" with drift; {covered(noise_only)[0]} by noise alone"
    if wrong is not None:
        text += f"; wrong by {np.median(wrong):.2f} residual SDs per e-fold"
    short = question.partition(" (")[0]
    question = f"coverage of 50 / 80 / 95% intervals, {question}"
    reference = "50% / 80% / 95%, short by at most two binomial SDs"
    every = np.concatenate(parts, axis=1)
    drawn = coverage_points(f"{dataset}: {short}", every.mean(axis=1), every.shape[1])
    return row(dataset, question, text, reference, holds, drawn=drawn)


def predicted(found: SurfaceFit, table: Table, score: str, **more: Any) -> Table:
    """What a figure draws of a fit: `predicted` and `measured` score of every row, and `more`."""
    curve = found.curve(columns(found.surface.name, table))
    return pd.DataFrame({"predicted": curve, "measured": table[score].to_numpy(float)} | more)


def relative(found: SurfaceFit, table: Table, score: str) -> np.ndarray:
    """(n,) predicted over measured minus one."""
    return found.curve(columns(found.surface.name, table)) / table[score].to_numpy(float) - 1.0


def agreements(ours: np.ndarray, truth: np.ndarray) -> list[bool]:
    """For each pair, whether its order is right."""
    pairs = combinations(range(truth.size), 2)
    return [bool(np.sign(ours[a] - ours[b]) == np.sign(truth[a] - truth[b])) for a, b in pairs]
