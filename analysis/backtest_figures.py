# %% [markdown]
# Figures of the back-tests, as SVG: `python -m analysis.backtest` draws them beside its table.
#
# A figure draws what the back-tests' rows carry (`analysis.rows`), so it shows what the table says.
# Where a part was left out, so are its figures.

# %%
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis import drawing, figures_sizes, figures_sources


class Figure(NamedTuple):
    """What to draw, the tables it takes in this order, and what is said above it."""

    chart: Callable[..., Any]
    tables: tuple[str, ...]
    title: str
    subtitle: str


FIGURES: dict[str, Figure] = {
    "coverage": Figure(
        figures_sources.coverage,
        ("coverage",),
        "Coverage of 50, 80 and 95% intervals of a new run",
        "Every table with held-out runs (how many); dashed: what was asked.",
    ),
    "truth_coverage": Figure(
        figures_sources.truth_coverage,
        ("truth coverage",),
        "Simulated truth: coverage of 90% intervals beyond the runs",
        "Mean over worlds with one standard error; the grey band is what is asked, 85 to 95%.",
    ),
    "truth_regret": Figure(
        figures_sources.truth_regret,
        ("truth regret",),
        "Simulated truth: score lost against the oracle",
        "Real budget 16 or 64 times the largest run; mean over worlds with one standard error.",
    ),
    "repetition_probe": Figure(
        figures_sources.probe,
        ("probe lines", "probe runs"),
        "Repetition probe: fitted up to 400k tokens, asked for 800k",
        "Average of forms, median and 90% band, where stdlib repeats its 60k tokens.",
    ),
    "regmix": Figure(
        figures_sources.regmix,
        ("regmix",),
        "regmix: Pile-CC loss of unseen mixtures, law fitted to 512 runs at 1M",
        "A law of order needs a rising cloud, not one on the diagonal.",
    ),
    "bimix": Figure(
        figures_sources.bimix,
        ("bimix",),
        "bimix: each of six mixtures held out in turn, error by domain",
        "Own-share law of every domain, beside the mean of the other mixtures at the same step.",
    ),
    "gadre_overtraining": Figure(
        figures_sizes.gadre,
        ("gadre lines", "gadre runs", "decisions"),
        "gadre_overtraining: 1.4B at 640 tokens per parameter from small runs",
        "Left: 1.4B and 6.9B were not seen. Right: from runs up to a budget, and by it alone.",
    ),
    "chinchilla_epoch": Figure(
        figures_sizes.chinchilla,
        ("chinchilla", "chinchilla parameters"),
        "chinchilla_epoch: runs above 1e21 FLOPs predicted from those below",
        "",
    ),
    "porian_isoflop": Figure(
        figures_sizes.porian,
        ("porian",),
        "porian_isoflop: compute-optimal size and held-out loss in 15 setups",
        "",
    ),
    "datablations": Figure(
        figures_sizes.datablations,
        ("datablations",),
        "datablations: 44 epochs, from the first epochs of all runs of a corpus",
        "Points are measured; lines are laws fitted left of the rule, to runs of every pool.",
    ),
    "learning_curves": Figure(
        figures_sizes.learning_curves,
        ("learning_curves",),
        "learning_curves: error of extrapolating an image classifier's curve",
        "Below the dashed line the law is better than the last value seen.",
    ),
    "dclm_database": Figure(
        figures_sizes.dclm,
        ("dclm",),
        "dclm_database: a corpus at the larger scale from the smaller one",
        "Shifted-power link between scales, fitted to the other corpora.",
    ),
    "steplaw": Figure(
        figures_sizes.steplaw,
        ("steplaw", "steplaw exponents"),
        "steplaw: best loss of the largest model, and how its settings scale",
        "Left: the smaller models are fitted. Right: learning rate and batch at the optimum.",
    ),
}

BESIDE = "figures"
"""Folder beside the table for the figures of `KEPT`."""
KEPT = ("coverage", "truth_coverage", "truth_regret", "gadre_overtraining", "repetition_probe")
"""Drawn beside the committed table too: small, and of data that may be redrawn. chinchilla_epoch
and steplaw state no licence, so figures with their points stay out of the repository."""


# %%
def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Vega-Lite specs by name, of the figures whose tables are all there."""
    return {
        name: drawing.spec(figure.chart(*(tables[t] for t in figure.tables)), *figure[2:])
        for name, figure in FIGURES.items()
        if all(t in tables for t in figure.tables)
    }


def write(figures: Mapping[str, dict[str, Any]], folder: Path) -> None:
    """One SVG a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, spec in figures.items():
        (folder / f"{name}.svg").write_text(drawing.svg(spec), encoding="utf-8")
