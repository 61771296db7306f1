# %% [markdown]
# Figures of mixtures, of the choice of sources, of simulated truth, and the overview of coverage:
# each takes the tables that the back-tests' rows carry, and returns a chart without title.

# %%
from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis import drawing
from analysis.backtest_points import LEVELS
from analysis.backtest_truth import WANTED
from analysis.drawing import BESIDE, FOURTH, KNOWN, OURS, QUIET, colour, heading, near


# %%
def probe(lines: pd.DataFrame, runs: pd.DataFrame) -> Any:
    """Two sources, one scarce, and what happened beyond the runs."""
    x = alt.X("tokens:Q", title="source tokens", **drawing.tokens(lines.tokens))
    y = alt.Y(**near("bpb", "score, bits per byte"))
    by = colour({"stdlib": OURS, "raw": BESIDE}, "source")
    words = {"natural": "natural pool", "matched": "matched pool", "target": "target, not seen"}
    runs = runs.assign(design=runs.design.map(words))
    shapes = dict(zip(words.values(), ("triangle-up", "circle", "diamond"), strict=True))
    base = alt.Chart(lines).encode(x, by)
    bands = base.mark_area(opacity=0.15).encode(
        alt.Y(**near("low", "score, bits per byte")), y2="high:Q"
    )
    size = alt.condition("datum.design == 'target, not seen'", alt.value(150), alt.value(50))
    marks = alt.Chart(runs).mark_point(filled=True, opacity=0.9)
    return alt.layer(
        bands,
        base.mark_line().encode(y),
        marks.encode(x, y, by, drawing.shape(shapes, "design"), size=size),
    ).properties(width=600, height=340)


# %%
def regmix(clouds: pd.DataFrame) -> Any:
    """Predicted at 1M against measured at three sizes: a law of order needs a rising cloud."""
    panels = []
    for size in ("1M", "60M", "1B"):
        some = clouds[clouds["size"] == size]
        points = alt.Chart(some).mark_circle(size=28, opacity=0.6, color=OURS)
        points = points.encode(
            alt.X(**near("predicted", "predicted at 1M, nats")),
            alt.Y(**near("measured", f"measured at {size}, nats")),
        )
        title = heading(f"{len(some)} mixtures at {size}")
        panels.append(points.properties(width=190, height=210, title=title))
    return alt.hconcat(*panels)


# %%
def bimix(errors: pd.DataFrame) -> Any:
    """Mean error of each domain's loss on a mixture left out."""
    ways = {"law": OURS, "mean of the other mixtures": BESIDE}
    long = errors.melt(["dataset", "domain"], list(ways), "by", "value")
    long = long.assign(value=100 * long.value)
    panels = []
    for name in ("slimpajama", "pile"):
        some = long[long.dataset == name]
        order = list(some[some.by == "law"].sort_values("value").domain)
        chart = drawing.ranges(
            some,
            "domain",
            "value",
            "mean error of the loss, %",
            [colour(ways), drawing.apart(ways)],
            order=order,
            domain=(0, None),
        )
        size = {"width": 230, "height": 20 * len(order)}
        panels.append(chart.properties(**size, title=heading(name)))
    return alt.hconcat(*panels)


# %%
LAWS = {"ours": OURS, "heaviest form": BESIDE, "true form": KNOWN}
FAMILIES = {"effective": "truth among the forms", "qqt": "truth outside the forms"}


def truth_coverage(found: pd.DataFrame) -> Any:
    """Coverage of 90% intervals by how far beyond the largest run, and the band that is asked."""
    found = found.assign(low=found["mean"] - found.error, high=found["mean"] + found.error)
    found = found.assign(high=found.high.clip(upper=1.0), factor=found.factor.astype(int))
    rows = []
    for what in found.what.unique():
        columns = []
        for family, words in FAMILIES.items():
            some = found[(found.what == what) & (found.family == family)]
            title = f"{words}, interval {what}"
            columns.append(_coverage_panel(some).properties(title=heading(title)))
        rows.append(alt.hconcat(*columns))
    return alt.vconcat(*rows)


def _coverage_panel(some: pd.DataFrame) -> alt.LayerChart:
    x = alt.X("factor:O", title="times the largest run").axis(
        labelAngle=0, labelExpr="datum.label + 'x'"
    )
    scale = alt.Scale(domain=[0.3, 1.0])
    y = alt.Y("mean:Q", title="coverage of 90% intervals", scale=scale).axis(format="%")
    band = alt.Chart(pd.DataFrame({"low": [WANTED[0]], "high": [WANTED[1]]}))
    band = band.mark_rect(color=QUIET, opacity=0.15)
    band = band.encode(
        y=alt.Y("low:Q", scale=scale, title="coverage of 90% intervals"), y2="high:Q"
    )
    base = alt.Chart(some).encode(x, colour(LAWS))
    return alt.layer(
        band,
        base.mark_rule(strokeWidth=1.5, opacity=0.5).encode(
            alt.Y("low:Q", scale=scale), y2="high:Q"
        ),
        base.mark_line().encode(y),
        base.mark_point(filled=True, size=60).encode(y),
    ).properties(width=300, height=190)


def truth_regret(found: pd.DataFrame) -> Any:
    """What our allocation and simpler ones lose against the oracle, by how far away it is asked."""
    found = found.drop_duplicates(["by", "family", "factor"])
    found = found.assign(low=found["mean"] - found.error, high=found["mean"] + found.error)
    names = ["ours", "single-scale pick, matched runs", "single-scale pick, natural runs"]
    order = [*names, "uniform", "proportional"]
    top = float(found.high.max())
    rows = []
    for factor in sorted(found.factor.unique()):
        columns = []
        for column, (family, words) in enumerate(FAMILIES.items()):
            some = found[(found.factor == factor) & (found.family == family)]
            some = some.assign(kind=np.where(some.by == "ours", "ours", "other"))
            marks = [colour({"ours": OURS, "other": BESIDE}, "kind").legend(None)]
            chart = drawing.ranges(
                some,
                "by",
                "mean",
                "regret, score",
                marks,
                ends=("low", "high"),
                order=order,
                domain=(0, top),
                labels=column == 0,
            )
            title = heading(f"{words}, {factor:g}x the largest run")
            columns.append(chart.properties(width=260, height=110, title=title))
        rows.append(alt.hconcat(*columns))
    return alt.vconcat(*rows)


# %%
def coverage(found: pd.DataFrame) -> Any:
    """Measured coverage of 50, 80 and 95% intervals on every table, and what was asked."""
    shades = dict(zip((f"{q:.0%} interval" for q in LEVELS), (KNOWN, OURS, FOURTH), strict=True))
    found = found.assign(
        by=found.level.map({q: f"{q:.0%} interval" for q in LEVELS}),
        row=found.name + "  (" + found.n.astype(str) + ")",
    )
    order = list(dict.fromkeys(found.row))
    title = "share of held-out scores inside"
    marks = [colour(shades), drawing.apart(shades)]
    points = drawing.ranges(found, "row", "share", title, marks, order=order, domain=(0, 1))
    goals = pd.DataFrame({"at": LEVELS, "by": list(shades)})
    rules = alt.Chart(goals).mark_rule(strokeDash=[4, 3], strokeWidth=1.5)
    rules = rules.encode(alt.X("at:Q").axis(format="%"), marks[0])
    return alt.layer(rules, points).properties(width=380, height=24 * len(order))
