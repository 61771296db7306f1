# %% [markdown]
# What the figures draw, as tables: made by the back-tests out of what they have computed, carried
# by their rows (`analysis.rows`), drawn by `analysis.backtest_figures`.

# %%
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from anneal.laws import Law, band, predict
from anneal.laws.surface_fits import SurfaceFit

LEVELS = (0.5, 0.8, 0.95)
Tables = dict[str, pd.DataFrame]


def coverage_points(name: str, shares: Sequence[float] | np.ndarray, n: int) -> Tables:
    """Share of `n` held-out scores inside each interval of `LEVELS`, for the overview."""
    return {"coverage": pd.DataFrame({"name": name, "n": n, "level": LEVELS, "share": shares})}


def within(runs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(levels, n) whether each score lies in each interval of (draws, n) runs."""
    tails = [np.quantile(runs, [0.5 - a / 2, 0.5 + a / 2], axis=0) for a in LEVELS]
    return np.array([(low <= truth) & (truth <= high) for low, high in tails])


def mixture_points(law: SurfaceFit, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Tables:
    """Predicted at 1M beside measured, of the test mixtures (shares, losses) at each size."""
    parts = [
        pd.DataFrame({"size": size, "predicted": law.curve({"shares": x}), "measured": t})
        for size, (x, t) in zip(("1M", "60M", "1B"), pairs, strict=True)
    ]
    return {"regmix": pd.concat(parts)}


def decision_points(dataset: str, budget: float, law: float | None, single: float) -> Tables:
    """Share of pairs in the right order from runs up to a budget, by the law and by it alone."""
    found = {"single-scale ranking": single} | ({} if law is None else {"law": law})
    table = pd.DataFrame({"by": list(found), "accuracy": list(found.values())})
    return {"decisions": table.assign(dataset=dataset, budget=budget)}


def overtraining_points(law: SurfaceFit, runs: pd.DataFrame, seen: pd.Series, score: str) -> Tables:
    """A corpus's runs of the multiples that five runs were fitted to or asked for, and the law's
    curve of each multiple from the smallest to the largest compute."""
    lines = []
    for multiple in (20, 320, 640):
        flops = np.geomspace(runs.flops.min(), runs.flops.max(), 60)
        where = {"flops": flops, "tokens_per_param": np.full(flops.size, float(multiple))}
        lines.append(pd.DataFrame({"flops": flops, "loss": law.curve(where), "multiple": multiple}))
    kept = runs[runs.token_multiplier.isin((20, 320, 640))]
    points = pd.DataFrame(
        {
            "flops": kept.flops,
            "loss": kept[score],
            "multiple": kept.token_multiplier.astype(int),
            "arch": kept.arch,
            "seen": seen[kept.index],
        }
    )
    return {"gadre lines": pd.concat(lines), "gadre runs": points}


def probe_curves(runs: pd.DataFrame, law: Law, smallest: float) -> Tables:
    """Two sources, one scarce: the probe's runs, and the law's median and 90% band where each
    source has all of its tokens, so that `stdlib` repeats its 60k."""
    grid = np.geomspace(smallest, 8e5, 60)
    parts = []
    for code, (name, pool) in enumerate((("stdlib", 6e4), ("raw", 1e9))):
        draws = predict(law, code, grid, np.minimum(grid, pool))
        low, high = band(draws)
        middle = np.median(draws, axis=0)
        parts.append(
            pd.DataFrame({"source": name, "tokens": grid, "bpb": middle, "low": low, "high": high})
        )
    kept = runs[runs["design"] != "none"].rename(columns={"d_tokens": "tokens"})
    return {"probe lines": pd.concat(parts), "probe runs": kept}


def means(name: str, values: Mapping[str, np.ndarray], **same: Any) -> Tables:
    """Mean over worlds of each law's values, with one standard error of that mean."""
    rows = [
        {
            "by": by,
            "mean": found.mean(),
            "error": found.std(ddof=1) / np.sqrt(found.size) if found.size > 1 else 0.0,
        }
        for by, found in values.items()
    ]
    return {name: pd.DataFrame(rows).assign(**same)}
