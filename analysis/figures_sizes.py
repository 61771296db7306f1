# %% [markdown]
# Figures of the laws of size, tokens and epochs (`analysis.backtest_size`): each takes the tables
# that the back-tests' rows carry, and returns a chart without title.

# %%
from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis import drawing
from analysis.drawing import BESIDE, FOURTH, KNOWN, OURS, QUIET, colour, heading, near

HELD = {"fitted": QUIET, "held out": OURS}


def _held(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(by=np.where(table.held.astype(bool), "held out", "fitted"))


# %%
def chinchilla(runs: pd.DataFrame, parameters: pd.DataFrame) -> Any:
    """Predicted against measured, the error along compute, and the parameters of all runs."""
    runs = _held(runs).assign(off=100 * (runs.predicted / runs.measured - 1))
    marks = [colour(HELD)]
    size = {"width": 320, "height": 280}
    left = drawing.against(runs, "loss, nats per token", marks).properties(**size)
    x = alt.X("flops:Q", title="training FLOPs", **drawing.flops(runs.flops))
    error = alt.Chart(runs).mark_point(filled=True, size=45, opacity=0.8)
    error = error.encode(x, alt.Y("off:Q", title="predicted over measured, % off"), *marks)
    right = alt.layer(drawing.asked({"right": 0}, "y"), error).properties(**size)
    by = [colour({"ours": OURS, "published": KNOWN}).legend(None)]
    names = {"E": "E, nats per token", "alpha": "alpha", "beta": "beta"}
    panels = [
        drawing.ranges(
            parameters[parameters.parameter == key], "by", "value", title, by, ends=("low", "high")
        ).properties(width=185, height=55)
        for key, title in names.items()
    ]
    below = alt.hconcat(*panels, title=heading("Parameters from all runs, 95% intervals"))
    return alt.vconcat(alt.hconcat(left, right), below).resolve_scale(color="independent")


# %%
def gadre(lines: pd.DataFrame, runs: pd.DataFrame, decisions: pd.DataFrame) -> Any:
    """The law of five small runs up to the over-trained 1.4B; who decides better, by budget."""
    kinds = {20: "20 tokens per parameter", 320: "320", 640: "640"}
    lines, runs = (t.assign(by=t.multiple.map(kinds)) for t in (lines, runs))
    runs = runs.assign(run=np.where(runs.seen.astype(bool), "fitted (5 runs)", "not seen"))
    x = alt.X("flops:Q", title="training FLOPs", **drawing.flops(lines.flops))
    y = alt.Y(**near("loss", "C4 loss, nats per token"))
    by = colour(dict(zip(kinds.values(), (OURS, BESIDE, KNOWN), strict=True)))
    shapes = {"fitted (5 runs)": "circle", "not seen": "diamond"}
    marks = alt.Chart(runs).mark_point(filled=True, size=70, opacity=0.9)
    left = alt.layer(
        alt.Chart(lines).mark_line(strokeWidth=1.5).encode(x, y, by),
        marks.encode(x, y, by, drawing.shape(shapes, "run")),
    ).properties(width=330, height=330, title=heading("RedPajama, law fitted to 5 small runs"))
    units = {
        "gadre, tokens": ("tokens per parameter", drawing.log),
        "gadre, compute": ("training FLOPs", drawing.flops),
    }
    panels = [
        _decisions(decisions[decisions.dataset == name], f"runs up to, {unit}", axis)
        for name, (unit, axis) in units.items()
    ]
    panels[0] = panels[0].properties(title=heading("Which corpus is better? Pairs in right order"))
    right = alt.vconcat(*panels)
    return alt.hconcat(left, right).resolve_scale(color="independent", shape="independent")


def _decisions(found: pd.DataFrame, title: str, axis: Any) -> alt.LayerChart:
    """Share of pairs in the right order at the largest budget, from runs up to each budget."""
    x = alt.X("budget:Q", title=title, **axis(found.budget))
    y = alt.Y(**near("accuracy", "right pairs")).axis(format="%", tickCount=4)
    by = colour({"law": OURS, "single-scale ranking": BESIDE})
    base = alt.Chart(found).encode(x, y, by)
    return alt.layer(base.mark_line(), base.mark_point(filled=True, size=60)).properties(
        width=280, height=115
    )


# %%
def porian(setups: pd.DataFrame) -> Any:
    """Exponents of the best size in compute beside the published; errors at held-out budgets."""
    setups = setups.sort_values("published")
    order = list(setups.setup)
    ways = {"published": KNOWN, "Akima minima": OURS, "beta / (alpha + beta)": FOURTH}
    values = [setups.published] + [setups.published + setups[c] for c in ("akima", "law")]
    exponents = pd.concat(
        pd.DataFrame({"setup": setups.setup, "value": v, "by": by})
        for by, v in zip(ways, values, strict=True)
    )
    others = {"law of the smaller budgets": OURS, "best of the last one": BESIDE}
    errors = pd.concat(
        pd.DataFrame({"setup": setups.setup, "value": 100 * setups[c], "by": by})
        for by, c in zip(others, ("error", "naive"), strict=True)
    )
    left = drawing.ranges(
        exponents,
        "setup",
        "value",
        "exponent of N* in compute",
        [colour(ways), drawing.apart(ways)],
        order=order,
    )
    marks = [colour(others), drawing.apart(others)]
    title = "loss at 2 largest budgets, % off"
    right = drawing.ranges(
        errors, "setup", "value", title, marks, order=order, domain=(0, None), labels=False
    )
    size = {"width": 240, "height": 23 * len(order)}
    both = alt.hconcat(left.properties(**size), right.properties(**size))
    return both.resolve_scale(color="independent", yOffset="independent")


# %%
def datablations(curves: pd.DataFrame) -> Any:
    """Losses along 44 epochs, and two laws of what all runs show in their first epochs."""
    sizes = {2.81e9: "2.8B parameters", 4.2465e9: "4.2B", 8.67e9: "8.7B"}
    curves = curves.assign(by=curves.n_params.map(sizes))
    x = alt.X("epochs:Q", title="epochs", **drawing.log(curves.epochs, "format(datum.value,'~g')"))
    by = colour(dict(zip(sizes.values(), (OURS, BESIDE, KNOWN), strict=True)))
    dash = alt.StrokeDash(
        "law:N",
        title=None,
        scale=alt.Scale(domain=["annealed_overfit", "effective_data"], range=[[1, 0], [5, 3]]),
    ).legend(symbolStrokeColor=QUIET)
    rows = []
    for limit in sorted(curves.limit.unique()):
        columns = []
        for source in sorted(curves.source.unique()):
            some = curves[(curves.limit == limit) & (curves.source == source)]
            base = alt.Chart(some).encode(x, by)
            y = alt.Y(**near("measured", "loss, nats per token"))
            once = some.drop_duplicates(["n_params", "epochs"])  # not again for every law
            points = alt.Chart(once).mark_circle(size=14, opacity=0.7).encode(x, y, by)
            lines = base.mark_line(strokeWidth=1.5).encode(alt.Y("predicted:Q"), dash)
            title = heading(f"{source}, laws of the first {limit} epochs")
            seen = drawing.asked({"seen": float(limit)}, "x")
            columns.append(
                alt.layer(points, lines, seen).properties(width=310, height=210, title=title)
            )
        rows.append(alt.hconcat(*columns))
    return alt.vconcat(*rows)


# %%
def learning_curves(errors: pd.DataFrame) -> Any:
    """Each curve's error by the law against that of its last value."""
    tasks = {"bird": "Birds", "c": "CIFAR-100", "cal": "Caltech-101", "inet": "ImageNet"}
    errors = errors.assign(by=errors.curve.str.extract(r"\|(\w+?)_", expand=False).map(tasks))
    both = np.concatenate([errors["law"], errors["last value"]])
    ends = pd.DataFrame({"law": [both.min(), both.max()], "last value": [both.min(), both.max()]})
    axis = drawing.log(both, "format(datum.value,'~g')")
    x = alt.X("last value:Q", title="RMSE of the last training value, error rate", **axis)
    y = alt.Y("law:Q", title="RMSE of the law, error rate", **axis)
    line = alt.Chart(ends).mark_line(color=QUIET, strokeWidth=1, strokeDash=[4, 3]).encode(x, y)
    points = alt.Chart(errors).mark_point(filled=True, size=60, opacity=0.85)
    shapes = alt.Shape("by:N", title=None, scale=alt.Scale(domain=list(tasks.values())))
    by = colour({task: f"var(--source-{i})" for i, task in enumerate(tasks.values())})
    return alt.layer(line, points.encode(x, y, by, shapes)).properties(width=420, height=380)


# %%
def dclm(links: pd.DataFrame) -> Any:
    """A corpus's CORE error at the larger scale from that at the smaller, the corpus left out."""
    charts = []
    for link in links.link.unique():
        chart = drawing.against(links[links.link == link], "1 - CORE", [])
        charts.append(chart.properties(width=310, height=280, title=heading(link)))
    return alt.hconcat(*charts, bounds="flush", spacing=90)


# %%
def steplaw(cells: pd.DataFrame, exponents: pd.DataFrame) -> Any:
    """Best loss of every (N, D), the largest model held out; how its settings scale."""
    cells = _held(cells)
    left = drawing.against(cells, "loss, nats per token", [colour(HELD)])
    long = exponents.melt("exponent", ["ours", "published", "plain"], "by", "value")
    long = long.assign(by=long.by.replace({"plain": "plain argmin"}))
    ways = {"ours": OURS, "published": KNOWN, "plain argmin": BESIDE}
    marks = [colour(ways), drawing.apart(ways)]
    order = list(exponents.exponent)
    right = drawing.ranges(long, "exponent", "value", "exponent", marks, order=order)
    both = alt.hconcat(
        left.properties(width=310, height=290), right.properties(width=260, height=110)
    )
    return both.resolve_scale(color="independent")
