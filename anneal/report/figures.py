"""The figures: Vega-Lite charts, drawn by the page in the browser and by vl-convert as SVG.

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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from anneal.report import format as show
from anneal.report.decision import CurveLine, Decision

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


def draw(decision: Decision) -> dict[str, Spec]:
    """Every figure this decision has data for: name -> Vega-Lite spec.

    Names are `curves-<axis>`, `marginal-tokens`, `marginal-usd`, `allocation`, `epochs` and
    `predicted`. An axis on which everything is zero (nothing was spent) is left out.
    """
    charts: dict[str, Callable[[], alt.LayerChart]] = {}
    for name, axis in AXES.items():
        if decision.points and any(getattr(p, axis.field) > 0 for p in decision.points):
            charts[f"curves-{name}"] = lambda axis=axis: _curves(decision, axis)  # type: ignore[misc]
    if decision.marginal:
        charts["marginal-tokens"] = lambda: _marginal(
            decision, decision.marginal, "bpb per million tokens"
        )
    if decision.marginal_per_usd:
        charts["marginal-usd"] = lambda: _marginal(
            decision, decision.marginal_per_usd, "bpb per USD"
        )
    if decision.allocation:
        charts["allocation"] = lambda: _allocation(decision)
        charts["epochs"] = lambda: _epochs(decision)
    if decision.points:
        charts["predicted"] = lambda: _predicted(decision)
    return {name: _finish(make()) for name, make in charts.items()}


def svg(spec: Spec) -> str:
    """One figure as a stand-alone SVG in the light colours."""
    import vl_convert

    light = {f"source-{i}": pair[0] for i, pair in enumerate(SOURCE_COLOURS)}
    light |= {name: pair[0] for name, pair in INK_COLOURS.items()}
    text = re.sub(r"var\(--([a-z0-9-]+)\)", lambda m: light[m[1]], json.dumps(spec))
    plain = json.loads(text) | {"width": SVG_WIDTH, "background": light["surface"]}
    return str(vl_convert.vegalite_to_svg(plain))


def colours(decision: Decision) -> dict[str, str]:
    """Source -> CSS colour, in the order of the allocation, then of the source table."""
    order = dict.fromkeys(
        [row.source for row in decision.allocation] + [row.name for row in decision.sources]
    )
    named = {name: f"var(--source-{i % len(SOURCE_COLOURS)})" for i, name in enumerate(order)}
    others = dict.fromkeys([p.source for p in decision.points] + [c.source for c in decision.curves])
    return named | {name: "var(--muted)" for name in others if name not in named}


def _finish(chart: alt.LayerChart) -> Spec:
    """Adds the common look: no frame, quiet grid, the page's own type."""
    label = {"labelColor": "var(--muted)", "titleColor": "var(--muted)"}
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
    spec: Spec = chart.properties(width="container").to_dict()
    spec["config"] = {
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
            "columns": {"expr": "max(1, floor(width / 150))"},
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
    spec["padding"] = 4
    return spec


def _data(rows: Sequence[Row]) -> alt.InlineData:
    import altair as alt

    return alt.InlineData(values=list(rows))


def _colour(decision: Decision, *, legend: bool = True) -> alt.Color:
    import altair as alt

    named = colours(decision)
    scale = alt.Scale(domain=list(named), range=list(named.values()))
    return alt.Color("source:N", scale=scale, legend=alt.Legend() if legend else None)


def _dash(decision: Decision) -> alt.StrokeDash:
    """Solid for the first eight sources, dashed for the next eight, dotted for the rest."""
    import altair as alt

    named = list(colours(decision))
    dashes = [[1, 0], [6, 4], [2, 3]]
    chosen = [dashes[min(i // len(SOURCE_COLOURS), 2)] for i in range(len(named))]
    return alt.StrokeDash("source:N", scale=alt.Scale(domain=named, range=chosen), legend=None)


def _x(axis: Axis, values: Sequence[float]) -> alt.X:
    """Logarithmic where every value allows it: what costs nothing needs a linear axis."""
    import altair as alt

    if min(values) > 0:
        scale = alt.Scale(type="log", nice=False)
        ticks = alt.Axis(labelExpr=axis.ticks, values=_log_ticks(values), grid=False)
    else:
        scale = alt.Scale(zero=True)
        ticks = alt.Axis(labelExpr=axis.ticks, tickCount=6, grid=False)
    return alt.X(f"{axis.field}:Q", title=axis.title, scale=scale, axis=ticks)


def _log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2, 5 of every decade over a short range, powers of ten over a long one."""
    low, high = min(values), max(values)
    decades = math.log10(high / low)
    steps = (1, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 3.5 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _line_rows(lines: Sequence[CurveLine]) -> list[Row]:
    fields = ("tokens", "flops", "total_flops", "usd", "score", "low", "high")
    return [
        {"source": line.source} | dict(zip(fields, values, strict=True))
        for line in lines
        for values in zip(*(getattr(line, field) for field in fields), strict=True)
    ]


def _curves(decision: Decision, axis: Axis) -> alt.LayerChart:
    """Plot 1: runs, fitted curves, bands; the largest budget ringed."""
    import altair as alt

    runs = [
        {
            "source": p.source,
            axis.field: getattr(p, axis.field),
            "score": p.score,
            "repetition": p.repetition,
            "largest": p.largest,
            "run": p.run[:10],
            "seed": p.seed,
            "shown tokens": show.count(p.tokens),
            "shown unique": show.count(p.unique),
            "shown USD": show.usd(p.usd),
            "shown score": show.decimal(p.score, 4),
            "shown fit": show.decimal(p.predicted, 4),
        }
        for p in decision.points
    ]
    lines = _line_rows(decision.curves)
    picked = alt.selection_point(fields=["source"], bind="legend", name="picked")
    x = _x(axis, [row[axis.field] for row in [*runs, *lines]])
    y = alt.Y("score:Q", title="score, bits per byte", scale=alt.Scale(zero=False))
    faded = alt.condition(picked, alt.value(1.0), alt.value(0.12))
    base = alt.Chart(_data(lines)).encode(x=x, color=_colour(decision))
    band = base.mark_area(aria=False).encode(
        y=alt.Y("low:Q", title="score, bits per byte"),
        y2="high:Q",
        opacity=alt.condition(picked, alt.value(0.13), alt.value(0.02)),
    )
    curve = base.mark_line(strokeWidth=2, aria=False).encode(
        y=y, strokeDash=_dash(decision), opacity=faded
    )
    dots = alt.Chart(_data(runs)).encode(x=x, y=y, opacity=faded)
    ring = dots.mark_point(size=150, strokeWidth=1.2, color="var(--ink)", aria=False)
    ring = ring.transform_filter(alt.datum.largest)
    mark = dots.mark_point(size=58, filled=True, stroke="var(--surface)", strokeWidth=0.8)
    mark = mark.encode(
        color=_colour(decision),
        shape=alt.Shape(
            "repetition:N",
            scale=alt.Scale(domain=["matched", "natural"], range=["circle", "triangle-up"]),
            legend=alt.Legend(labelExpr="datum.label + ' repetition'", symbolFillColor="var(--muted)", symbolStrokeColor="var(--muted)"),
        ),
        tooltip=[
            alt.Tooltip("source:N"),
            alt.Tooltip("shown score:N", title="score"),
            alt.Tooltip("shown fit:N", title="fitted"),
            alt.Tooltip("shown tokens:N", title="tokens"),
            alt.Tooltip("shown unique:N", title="unique tokens"),
            alt.Tooltip("shown USD:N", title="USD"),
            alt.Tooltip("repetition:N"),
            alt.Tooltip("seed:Q"),
            alt.Tooltip("run:N"),
        ],
    ).add_params(picked)  # fmt: skip
    layers = [band, curve, *_reference(decision, axis), mark, ring]
    return alt.layer(*layers).properties(
        height=400, description="Score in bits per byte against " + axis.title
    )


def _reference(decision: Decision, axis: Axis) -> list[alt.Chart]:
    """The base's score, and on the axis of tokens the real budget."""
    import altair as alt

    base = [{"at": decision.base_score, "words": f"base {show.decimal(decision.base_score, 3)}"}]
    chart = alt.Chart(_data(base)).encode(y=alt.Y("at:Q", title="score, bits per byte"))
    layers = [
        chart.mark_rule(strokeDash=[4, 4], color="var(--muted)", aria=False),
        chart.mark_text(align="right", baseline="bottom", dy=-3, color="var(--muted)").encode(
            x=alt.value("width"), text="words:N"
        ),
    ]
    if axis.field == "tokens":
        real = [{"tokens": decision.real_tokens, "words": "real budget"}]
        rule = alt.Chart(_data(real)).encode(x=alt.X("tokens:Q", title=axis.title))
        layers += [
            rule.mark_rule(strokeDash=[4, 4], color="var(--accent)", aria=False),
            rule.mark_text(align="right", baseline="top", dx=-5, dy=4, color="var(--accent)").encode(
                y=alt.value(0), text="words:N"
            ),
        ]
    return layers


def _marginal(decision: Decision, lines: Sequence[CurveLine], title: str) -> alt.LayerChart:
    """Plot 2: what one more million tokens, or one more USD, buys."""
    import altair as alt

    rows = _line_rows(lines)
    lowest = min(row["score"] for row in rows)
    if lowest > 0:
        scale = alt.Scale(type="log", domainMin=lowest / 2, clamp=True)
        ticks = _log_ticks([lowest / 2, *(row["high"] for row in rows)])
        labels = alt.Axis(labelExpr="format(datum.value,'~r')", values=ticks)
    else:
        scale = alt.Scale(zero=False)
        labels = alt.Axis(labelExpr="format(datum.value,'~r')", tickCount=5)
    axis = AXES["tokens"]
    base = alt.Chart(_data(rows)).encode(
        x=_x(axis, [row["tokens"] for row in rows]), color=_colour(decision)
    )
    band = base.mark_area(opacity=0.13, aria=False).encode(
        y=alt.Y("low:Q", title=title, scale=scale, axis=labels), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2, aria=False).encode(
        y=alt.Y("score:Q", title=title, scale=scale, axis=labels), strokeDash=_dash(decision)
    )
    return alt.layer(band, line).properties(
        height=300, description=f"Marginal gain, {title}, against {axis.title}"
    )


def _allocation(decision: Decision) -> alt.LayerChart:
    """Plot 4: share of each source, its interval, and the share its cap allows."""
    import altair as alt

    rows = [
        {
            "source": row.source,
            "share": row.share,
            "low": row.share_low,
            "high": row.share_high,
            "cap": row.share_cap,
            "shown share": show.percent(row.share),
            "shown interval": f"{show.percent(row.share_low)} to {show.percent(row.share_high)}",
            "shown cap": show.NONE if row.share_cap is None else show.percent(row.share_cap),
        }
        for row in decision.allocation
    ]
    tooltip = [
        alt.Tooltip("source:N"),
        alt.Tooltip("shown share:N", title="share"),
        alt.Tooltip("shown interval:N", title="interval"),
        alt.Tooltip("shown cap:N", title="cap"),
    ]
    percents = alt.Axis(format="%", tickCount=5)
    base = alt.Chart(_data(rows)).encode(y=_bars_y())
    bars = base.mark_bar(height={"band": 0.62}, cornerRadiusEnd=2).encode(
        x=alt.X("share:Q", title="share of the real budget's tokens", axis=percents),
        color=_colour(decision, legend=False),
        tooltip=tooltip,
    )
    spread = base.mark_rule(strokeWidth=1.5, color="var(--ink)", aria=False).encode(
        x=alt.X("low:Q"), x2="high:Q"
    )
    ends = [
        base.mark_tick(thickness=1.5, size=9, color="var(--ink)", aria=False).encode(x=f"{end}:Q")
        for end in ("low", "high")
    ]
    cap = base.transform_filter("isValid(datum.cap)").mark_tick(
        thickness=2, size=27, color="var(--ink)", aria=False
    )
    return alt.layer(bars, spread, *ends, cap.encode(x="cap:Q")).properties(
        height=_bars_height(decision), description="Share of the real budget by source"
    )


def _epochs(decision: Decision) -> alt.LayerChart:
    """Plot 5: how often each source is repeated, against its cap."""
    import altair as alt

    rows = [
        {
            "source": row.source,
            "epochs": row.epochs,
            "cap": row.epochs_cap,
            "shown epochs": show.epochs(row.epochs),
            "shown cap": show.epochs(row.epochs_cap),
        }
        for row in decision.allocation
    ]
    base = alt.Chart(_data(rows)).encode(y=_bars_y())
    bars = base.mark_bar(height={"band": 0.62}, cornerRadiusEnd=2).encode(
        x=alt.X("epochs:Q", title="epochs", axis=alt.Axis(tickCount=5)),
        color=_colour(decision, legend=False),
        tooltip=[
            alt.Tooltip("source:N"),
            alt.Tooltip("shown epochs:N", title="epochs"),
            alt.Tooltip("shown cap:N", title="cap"),
        ],
    )
    cap = base.mark_tick(thickness=2, size=27, color="var(--ink)", aria=False)
    return alt.layer(bars, cap.encode(x="cap:Q")).properties(
        height=_bars_height(decision), description="Epochs by source against the cap"
    )


def _bars_y() -> alt.Y:
    import altair as alt

    axis = alt.Axis(labelLimit=120, labelColor="var(--ink)", grid=False)
    return alt.Y("source:N", title=None, sort=None, axis=axis)


def _bars_height(decision: Decision) -> int:
    return 34 * len(decision.allocation)


def _predicted(decision: Decision) -> alt.LayerChart:
    """Plot 6: observed score against the law's, held-out runs with their predicted interval."""
    import altair as alt

    rows = []
    for p in decision.points:
        held = p.held_out_prediction
        rows.append(
            {
                "source": p.source,
                "predicted": held.value if held else p.predicted,
                "low": held.low if held else None,
                "high": held.high if held else None,
                "observed": p.score,
                "runs": "held out" if held else "fitted",
                "shown predicted": show.interval(held, 4) if held else show.decimal(p.predicted, 4),
                "shown observed": show.decimal(p.score, 4),
                "shown tokens": show.count(p.tokens),
                "run": p.run[:10],
            }
        )
    ends = [row[key] for row in rows for key in ("predicted", "observed")]
    diagonal = [{"predicted": end, "observed": end} for end in (min(ends), max(ends))]
    scale, ticks = alt.Scale(zero=False), alt.Axis(tickCount=6)
    x = alt.X("predicted:Q", title="predicted, bits per byte", scale=scale, axis=ticks)
    y = alt.Y("observed:Q", title="observed, bits per byte", scale=scale, axis=ticks)
    equal = alt.Chart(_data(diagonal)).mark_line(color="var(--muted)", strokeDash=[4, 4], aria=False)
    base = alt.Chart(_data(rows)).encode(y=y, color=_colour(decision))
    spread = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1, aria=False)
    encoded = base.encode(
        x=x,
        shape=alt.Shape(
            "runs:N",
            scale=alt.Scale(domain=["fitted", "held out"], range=["circle", "diamond"]),
            legend=alt.Legend(symbolStrokeColor="var(--muted)", symbolFillColor="transparent"),
        ),
        tooltip=[
            alt.Tooltip("source:N"),
            alt.Tooltip("shown observed:N", title="observed"),
            alt.Tooltip("shown predicted:N", title="predicted"),
            alt.Tooltip("shown tokens:N", title="tokens"),
            alt.Tooltip("runs:N"),
            alt.Tooltip("run:N"),
        ],
    )
    fitted = encoded.transform_filter(alt.datum.runs == "fitted")
    held_out = encoded.transform_filter(alt.datum.runs == "held out")
    return alt.layer(
        equal.encode(x=x, y=y),
        spread.encode(x=alt.X("low:Q"), x2="high:Q"),
        fitted.mark_point(size=46, filled=True, opacity=0.85),
        held_out.mark_point(size=80, strokeWidth=1.8),
    ).properties(height=340, description="Observed against predicted score, one mark a run")
