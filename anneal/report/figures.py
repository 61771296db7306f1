"""The figures: Vega-Lite charts, drawn by the page in the browser and by vl-convert as SVG.

Each plot is one function that takes the decision and returns a chart; `draw` says which exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from anneal.report import format as show
from anneal.report import look
from anneal.report.decision import Decision
from anneal.report.law_rows import CurveLine

if TYPE_CHECKING:
    import altair as alt


def draw(decision: Decision) -> dict[str, look.Spec]:
    """Every figure this decision has data for: name -> Vega-Lite spec.

    Names are `curves-<axis>`, `marginal-tokens`, `marginal-usd`, `allocation`, `epochs` and
    `predicted`. An axis on which everything is zero (nothing was spent) is left out.
    """
    charts: dict[str, Callable[[], look.Layers]] = {}
    for name, axis in look.AXES.items():
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
    return {name: look.finish(make()) for name, make in charts.items()}


def _line_rows(lines: Sequence[CurveLine]) -> list[look.Row]:
    fields = ("tokens", "flops", "total_flops", "usd", "score", "low", "high")
    return [
        {"source": line.source} | dict(zip(fields, values, strict=True))
        for line in lines
        for values in zip(*(getattr(line, field) for field in fields), strict=True)
    ]


def _curves(decision: Decision, axis: look.Axis) -> look.Layers:
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
    x = look.x(axis, [row[axis.field] for row in [*runs, *lines]])
    y = alt.Y("score:Q", title="score, bits per byte", scale=alt.Scale(zero=False))
    faded = alt.condition(picked, alt.value(1.0), alt.value(0.12))
    base = alt.Chart(look.data(lines)).encode(x=x, color=look.colour(decision))
    band = base.mark_area(aria=False).encode(
        y=alt.Y("low:Q", title="score, bits per byte"),
        y2="high:Q",
        opacity=alt.condition(picked, alt.value(0.13), alt.value(0.02)),
    )
    curve = base.mark_line(strokeWidth=2, aria=False).encode(
        y=y, **look.dash(decision), opacity=faded
    )
    dots = alt.Chart(look.data(runs)).encode(x=x, y=y, opacity=faded)
    ring = dots.mark_point(size=150, strokeWidth=1.2, color="var(--ink)", aria=False)
    ring = ring.transform_filter(alt.datum.largest)
    mark = dots.mark_point(size=58, filled=True, stroke="var(--surface)", strokeWidth=0.8)
    mark = mark.encode(
        color=look.colour(decision),
        shape=alt.Shape(
            "repetition:N",
            scale=alt.Scale(domain=["matched", "natural"], range=["circle", "triangle-up"]),
            legend=alt.Legend(
                labelExpr="datum.label + ' repetition'",
                symbolFillColor="var(--muted)",
                symbolStrokeColor="var(--muted)",
            ),
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
    ).add_params(picked)
    layers = [band, curve, *_reference(decision, axis), mark, ring]
    return alt.layer(*layers).properties(
        height=400, description="Score in bits per byte against " + axis.title
    )


def _reference(decision: Decision, axis: look.Axis) -> list[alt.Chart]:
    """The base's score, and on the axis of tokens the real budget."""
    import altair as alt

    base = [{"at": decision.base_score, "words": f"base {show.decimal(decision.base_score, 3)}"}]
    chart = alt.Chart(look.data(base)).encode(y=alt.Y("at:Q", title="score, bits per byte"))
    layers = [
        chart.mark_rule(strokeDash=[4, 4], color="var(--muted)", aria=False),
        chart.mark_text(align="right", baseline="bottom", dy=-3, color="var(--muted)").encode(
            x=alt.value("width"), text="words:N"
        ),
    ]
    if axis.field == "tokens":
        real = [{"tokens": decision.real_tokens, "words": "real budget"}]
        rule = alt.Chart(look.data(real)).encode(x=alt.X("tokens:Q", title=axis.title))
        layers += [
            rule.mark_rule(strokeDash=[4, 4], color="var(--accent)", aria=False),
            rule.mark_text(
                align="right", baseline="top", dx=-5, dy=4, color="var(--accent)"
            ).encode(y=alt.value(0), text="words:N"),
        ]
    return layers


def _marginal(decision: Decision, lines: Sequence[CurveLine], title: str) -> look.Layers:
    """Plot 2: what one more million tokens, or one more USD, buys."""
    import altair as alt

    rows = _line_rows(lines)
    lowest = min(row["score"] for row in rows)
    if lowest > 0:
        # A band that reaches zero has no place on a logarithm: it is drawn down to the edge.
        rows = [row | {"low": max(row["low"], lowest / 2)} for row in rows]
        scale = alt.Scale(type="log", domainMin=lowest / 2)
        ticks = look.log_ticks([lowest / 2, *(row["high"] for row in rows)])
        labels = alt.Axis(labelExpr="format(datum.value,'~r')", values=ticks)
    else:
        scale = alt.Scale(zero=False)
        labels = alt.Axis(labelExpr="format(datum.value,'~r')", tickCount=5)
    axis = look.AXES["tokens"]
    base = alt.Chart(look.data(rows)).encode(
        x=look.x(axis, [row["tokens"] for row in rows]), color=look.colour(decision)
    )
    band = base.mark_area(opacity=0.13, aria=False).encode(
        y=alt.Y("low:Q", title=title, scale=scale, axis=labels), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2, aria=False).encode(
        y=alt.Y("score:Q", title=title, scale=scale, axis=labels), **look.dash(decision)
    )
    return alt.layer(band, line).properties(
        height=300, description=f"Marginal gain, {title}, against {axis.title}"
    )


def _allocation(decision: Decision) -> look.Layers:
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
    base = alt.Chart(look.data(rows)).encode(y=_bars_y())
    bars = base.mark_bar(height={"band": 0.62}, cornerRadiusEnd=2).encode(
        x=alt.X("share:Q", title="share of the real budget's tokens", axis=percents),
        color=look.colour(decision, legend=False),
        tooltip=tooltip,
    )
    spread = base.mark_rule(strokeWidth=1.5, color="var(--ink)", aria=False).encode(
        x=alt.X("low:Q"), x2="high:Q"
    )
    ends = [
        base.mark_tick(thickness=1.5, size=9, color="var(--ink)", aria=False).encode(x=f"{end}:Q")
        for end in ("low", "high")
    ]
    caps = []
    if any(row.share_cap is not None for row in decision.allocation):
        cap = base.transform_filter("isValid(datum.cap)")
        tick = cap.mark_tick(thickness=2, size=27, color="var(--ink)", aria=False)
        caps.append(tick.encode(x="cap:Q"))
    return alt.layer(bars, spread, *ends, *caps).properties(
        height=_bars_height(decision), description="Share of the real budget by source"
    )


def _epochs(decision: Decision) -> look.Layers:
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
    base = alt.Chart(look.data(rows)).encode(y=_bars_y())
    bars = base.mark_bar(height={"band": 0.62}, cornerRadiusEnd=2).encode(
        x=alt.X("epochs:Q", title="epochs", axis=alt.Axis(tickCount=5)),
        color=look.colour(decision, legend=False),
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


def _predicted(decision: Decision) -> look.Layers:
    """Plot 6: observed score against the law's, held-out runs with their predicted interval."""
    import altair as alt

    rows: list[look.Row] = []
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
    equal = alt.Chart(look.data(diagonal)).mark_line(
        color="var(--muted)", strokeDash=[4, 4], aria=False
    )
    base = alt.Chart(look.data(rows)).encode(y=y, color=look.colour(decision))
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
