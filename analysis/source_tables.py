# %% [markdown]
# Published runs cut into questions of source choice: the same sources at a ladder of budgets.

# %%
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from anneal.laws import Points


@dataclass(frozen=True, eq=False)
class Problem:
    """Sources at a ladder of budgets, one target; the largest budget is the question.

    Args:
        dataset: the row's first column.
        target: what is scored, and what is held fixed.
        points: all runs; `tokens` is the ladder's axis.
        unit: words for a budget: `unit(budget)`.
    """

    dataset: str
    target: str
    points: Points
    unit: str = "{:.3g}"

    @property
    def held(self) -> np.ndarray:
        """(n,) runs at the largest budget."""
        return self.points.tokens >= self.points.largest / 1.05


def problem_of(
    dataset: str, target: str, table: pd.DataFrame, axis: str, score: str, unit: str = "{:.3g}"
) -> Problem:
    """A problem from rows with a `source`; budgets beyond the last that all sources have are left
    out, and sources with none of that budget too."""
    table = table.dropna(subset=[score])
    labels = tuple(sorted(table["source"].unique()))
    have = table.groupby(axis)["source"].nunique()
    last = have[have == len(labels)].index.max()
    table = table[table[axis] <= last]
    group = table["source"].map({name: i for i, name in enumerate(labels)}).to_numpy(np.int64)
    tokens = table[axis].to_numpy(np.float64)
    values = table[score].to_numpy(np.float64)
    points = Points(labels, group, tokens, tokens, values, np.zeros(group.size, dtype=np.int64))
    return Problem(dataset, target, points, unit)


def gadre(folder: Path) -> list[Problem]:
    """Three corpora along tokens at a model size, and along compute at 20 tokens a parameter."""
    table = pd.read_csv(folder / "gadre_overtraining" / "runs.csv")
    losses = [c for c in table if c.startswith("loss_") and not c.endswith("95")]
    out = []
    for size, runs in table.groupby("n_params"):
        if runs["token_multiplier"].nunique() < 5:
            continue
        for loss in losses:
            name = f"{loss} at {size / 1e6:.0f}M parameters"
            unit = "{:.0f} tokens per parameter"
            out.append(problem_of("gadre, tokens", name, runs, "token_multiplier", loss, unit))
    at20 = table[table["token_multiplier"] == 20].assign(
        compute=lambda t: t.groupby("n_params")["flops_6nd"].transform("mean")
    )
    for loss in losses:
        unit = "{:.2g} FLOPs"
        out.append(problem_of("gadre, compute", loss, at20, "compute", loss, unit))
    return out


def dclm(folder: Path) -> list[Problem]:
    """Corpora with runs at 7B-1x and at both smaller scales; error = 1 - CORE."""
    table = pd.read_csv(folder / "dclm_database" / "models.csv")
    scales = ["400m-1x", "1b-1x", "7b-1x"]
    table = table[table["scale"].isin(scales) & table["core_centered_acc"].notna()]
    counts = table.groupby("source")["scale"].nunique()
    table = table[table["source"].isin(counts[counts == len(scales)].index)].assign(
        error=lambda t: 1 - t["core_centered_acc"],
        compute=lambda t: t.groupby("scale")["flops_6nd"].transform("mean"),
    )
    unit = "{:.2g} FLOPs"
    return [problem_of("dclm_database", "1 - CORE", table, "compute", "error", unit)]


def mixtures(folder: Path) -> list[Problem]:
    """Nine C4 + Python mixtures at five checkpoints, about doublings: text, code, both."""
    table = pd.read_csv(folder / "datablations" / "c4_python_mix_curves.csv")
    ladder = (5.24288e9, 1.048576e10, 2.62144e10, 4.194304e10, 8.3999326208e10)
    near = [table["d_tokens"].sub(x).abs() <= 1e-4 * x for x in ladder]
    table = table[np.logical_or.reduce(near)]
    wide = table.pivot_table(
        index=["w_c4", "d_tokens"], columns="eval_set_code", values="loss"
    ).reset_index()
    wide = wide.assign(
        source="C4 " + wide["w_c4"].map("{:.0%}".format),
        text=wide[1],
        code=wide[2],
        both=(wide[1] + wide[2]) / 2,
    )
    unit = "{:.2g} tokens"
    return [
        problem_of("c4 + python", target, wide, "d_tokens", target, unit)
        for target in ("text", "code", "both")
    ]
