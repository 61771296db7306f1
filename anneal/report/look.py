"""The common look of the figures: colours, axes, type, and the way to SVG.

A colour is written as a CSS variable (`var(--source-2)`), never as a value: the page's style sheet
decides what it is in light, in dark and on paper, and a chart follows without being drawn again.
For the SVG files, which stand alone, the light values are put in. A source has one colour in every
figure and table; past eight sources the colours come round again with dashed lines.

The colours are told apart under the common colour blindnesses (hues of Okabe and Ito, "Color
Universal Design", 2008, with lightness changed for 3:1 contrast on either background).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from anneal.report.decision import Decision

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]

SOURCE_COLOURS: Final = (
    # light, dark
    ("#0b6fb8", "#62b3f0"),
    ("#cf5517", "#f2915a"),
    ("#0d8560", "#43c59c"),
    ("#954a9f", "#d49bdb"),
    ("#a67e00", "#e2bd4a"),
    ("#2c8cc4", "#a5d8f6"),
    ("#87274a", "#e88aa6"),
    ("#55606e", "#aab4c1"),
)
INK_COLOURS: Final = {
    # The page's own colours, used by axes, rules and labels too: light, dark.
    "ink": ("#16191d", "#e8eaed"),
    "muted": ("#59616b", "#a3abb6"),
    "line": ("#dfe3e8", "#2d333b"),
    "surface": ("#ffffff", "#14171b"),
    "raised": ("#f6f7f9", "#1b1f25"),
    "accent": ("#1c5fb0", "#7fb4f5"),
}
SVG_WIDTH = 760
"""Pixels; in the page a chart is as wide as its column."""

Row = dict[str, Any]
Layers: TypeAlias = "alt.LayerChart | alt.FacetChart"


class Axis(NamedTuple):
    """What the score can be drawn against."""

    field: Literal["tokens", "flops", "total_flops", "usd"]
    title: str
    ticks: str
    """Vega expression of a tick's label."""


AXES: Final = {
    "tokens": Axis("tokens", "tokens of the source", "replace(format(datum.value,'~s'),'G','B')"),
    "training-flops": Axis("flops", "training FLOPs", "replace(format(datum.value,'.0e'),'+','')"),
    "total-flops": Axis(
        "total_flops",
        "training and acquisition FLOPs",
        "replace(format(datum.value,'.0e'),'+','')",
    ),
    "usd": Axis("usd", "USD, acquisition and training", "format(datum.value,'~g')"),
}


def svg(spec: Spec) -> str:
    """One figure as a stand-alone SVG in the light colours."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(light(spec) | {"width": SVG_WIDTH}))


def light(spec: Spec) -> Spec:
    """The same figure with the light colours in place of the page's variables."""
    values = {f"source-{i}": pair[0] for i, pair in enumerate(SOURCE_COLOURS)}
    values |= {name: pair[0] for name, pair in INK_COLOURS.items()}
    text = re.sub(r"var\(--([a-z0-9-]+)\)", lambda m: values[m[1]], json.dumps(spec))
    plain: Spec = json.loads(text)
    return plain | {"background": values["surface"]}


def colours(decision: Decision) -> dict[str, str]:
    """Source -> CSS colour, in the order of the allocation, then of the source table."""
    order = dict.fromkeys(
        [row.source for row in decision.allocation] + [row.name for row in decision.sources]
    )
    named = {name: f"var(--source-{i % len(SOURCE_COLOURS)})" for i, name in enumerate(order)}
    others = dict.fromkeys(
        [p.source for p in decision.points] + [c.source for c in decision.curves]
    )
    return named | {name: "var(--muted)" for name in others if name not in named}


def finish(chart: Layers) -> Spec:
    """Adds the common look, and is as wide as its column."""
    spec: Spec = chart.properties(width="container").to_dict()
    return spec | {"config": config(), "padding": 4}


def config() -> Spec:
    """The common look: no frame, quiet grid, the page's own type."""
    label = {"labelColor": "var(--muted)", "titleColor": "var(--muted)"}
    font = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
    return {
        "background": None,
        "font": font,
        "view": {"stroke": None},
        "axis": label
        | {
            "gridColor": "var(--line)",
            "domain": False,
            "ticks": False,
            "labelPadding": 6,
            "titlePadding": 10,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelOverlap": True,
        },
        "legend": label
        | {
            "orient": "top",
            "direction": "horizontal",
            "columns": 5,
            "title": None,
            "labelFontSize": 12,
            "labelLimit": 135,
            "symbolSize": 90,
            "symbolOpacity": 1,
            "symbolStrokeWidth": 2,
            "layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 6}},
        },
        "text": {"fontSize": 12},
    }


def data(rows: Sequence[Row]) -> alt.InlineData:
    """Rows as data inside the spec."""
    import altair as alt

    return alt.InlineData(values=list(rows))


def colour(decision: Decision, *, legend: bool = True) -> alt.Color:
    """The encoding that gives every source its colour; the legend has those that are drawn."""
    import altair as alt

    drawn = {row.source for row in decision.allocation}
    drawn |= {p.source for p in decision.points} | {c.source for c in decision.curves}
    named = {name: value for name, value in colours(decision).items() if name in drawn}
    scale = alt.Scale(domain=list(named), range=list(named.values()))
    return alt.Color("source:N", scale=scale, legend=alt.Legend() if legend else None)


def dash(decision: Decision) -> dict[str, alt.StrokeDash]:
    """The encoding of dashes: none up to eight sources, then solid, dashed, dotted by eights."""
    import altair as alt

    named = list(colours(decision))
    if len(named) <= len(SOURCE_COLOURS):
        return {}
    dashes = [[1, 0], [6, 4], [2, 3]]
    chosen = [dashes[min(i // len(SOURCE_COLOURS), 2)] for i in range(len(named))]
    scale = alt.Scale(domain=named, range=chosen)
    return {"strokeDash": alt.StrokeDash("source:N", scale=scale)}


def x(axis: Axis, values: Sequence[float]) -> alt.X:
    """Logarithmic where every value allows it: what costs nothing needs a linear axis."""
    import altair as alt

    if min(values) > 0:
        scale = alt.Scale(type="log", nice=False)
        ticks = alt.Axis(labelExpr=axis.ticks, values=log_ticks(values), grid=False)
    else:
        scale = alt.Scale(zero=True)
        ticks = alt.Axis(labelExpr=axis.ticks, tickCount=6, grid=False)
    return alt.X(f"{axis.field}:Q", title=axis.title, scale=scale, axis=ticks)


def log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2, 5 of every decade over a short range, powers of ten over a long one."""
    low, high = min(values), max(values)
    decades = math.log10(high / low)
    steps = (1, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 3.5 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return [tick for tick in ticks if low <= tick <= high] or [low]
