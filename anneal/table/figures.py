"""The two figures: curves with their runs, and the split. The look is the report's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anneal.report import format as show
from anneal.report import look
from anneal.table.values import Allocated, Fitted

if TYPE_CHECKING:
    import altair as alt


def colours(fitted: Fitted) -> dict[str, str]:
    """Source -> CSS colour, in the table's order; the control is grey."""
    names = [s.source for s in fitted.sources]
    own = names[:-1] if fitted.control else names
    count = len(look.SOURCE_COLOURS)
    named = {name: f"var(--source-{i % count})" for i, name in enumerate(own)}
    return named | ({names[-1]: "var(--muted)"} if fitted.control else {})


def _colour(fitted: Fitted, *, legend: bool = True) -> alt.Color:
    import altair as alt

    named = colours(fitted)
    scale = alt.Scale(domain=list(named), range=list(named.values()))
    return alt.Color("source:N", scale=scale, legend=alt.Legend() if legend else None)


def _dash(fitted: Fitted) -> alt.StrokeDash:
    """The control dashed; sources solid up to eight, then dotted, as the colours come round."""
    import altair as alt

    named, count = list(colours(fitted)), len(look.SOURCE_COLOURS)
    chosen = [[1, 0] if i < count else [2, 3] for i in range(len(named))]
    if fitted.control:
        chosen[-1] = [6, 4]
    scale = alt.Scale(domain=named, range=chosen)
    return alt.StrokeDash("source:N", scale=scale)


def curves(fitted: Fitted) -> look.Spec:
    """Runs, curves and bands against tokens."""
    import altair as alt

    axis, unit = look.AXES["tokens"], f"{fitted.unit}, lower is better"
    lines: list[look.Row] = [
        {"source": line.source, "tokens": x, "score": y, "low": low, "high": high}
        for line in fitted.lines
        for x, y, low, high in zip(line.tokens, line.score, line.low, line.high, strict=True)
    ]
    runs: list[look.Row] = [
        {
            "source": d.source,
            "tokens": d.tokens,
            "score": d.score,
            "held": d.predicted is not None,
            "pool": "smaller" if d.smaller else "full",
            "shown score": show.decimal(d.score, 4),
            "shown fit": show.decimal(d.fitted, 4),
            "shown before": show.NONE if d.predicted is None else show.interval(d.predicted, 4),
            "shown tokens": show.count(d.tokens),
            "shown unique": show.count(d.unique),
            "seed": d.seed,
        }
        for d in fitted.dots
    ]
    picked = alt.selection_point(fields=["source"], bind="legend", name="picked")
    x = look.x(axis, [row["tokens"] for row in [*runs, *lines]])
    y = alt.Y("score:Q", title=unit, scale=alt.Scale(zero=False))
    faded = alt.condition(picked, alt.value(1.0), alt.value(0.12))
    base = alt.Chart(look.data(lines)).encode(x=x, color=_colour(fitted))
    band = base.mark_area(aria=False).encode(
        y=alt.Y("low:Q", title=unit),
        y2="high:Q",
        opacity=alt.condition(picked, alt.value(0.13), alt.value(0.02)),
    )
    curve = base.mark_line(strokeWidth=2, aria=False).encode(
        y=y, opacity=faded, strokeDash=_dash(fitted)
    )
    tooltip = [
        alt.Tooltip("source:N"),
        alt.Tooltip("shown score:N", title="score"),
        alt.Tooltip("shown fit:N", title="fitted"),
        alt.Tooltip("shown before:N", title="held out"),
        alt.Tooltip("shown tokens:N", title="tokens"),
        alt.Tooltip("shown unique:N", title="unique tokens"),
        alt.Tooltip("seed:Q"),
    ]
    shape = alt.Shape(
        "pool:N",
        scale=alt.Scale(domain=["full", "smaller"], range=["circle", "triangle-up"]),
        legend=None,
    )
    dots = alt.Chart(look.data(runs)).encode(
        x=x, y=y, opacity=faded, color=_colour(fitted), shape=shape, tooltip=tooltip
    )
    fitted_dots = dots.transform_filter(~alt.datum.held).mark_point(size=52, filled=True)
    held = dots.transform_filter(alt.datum.held).mark_point(size=64, strokeWidth=1.8)
    layers = [band, curve, *_reference(fitted), fitted_dots.add_params(picked), held]
    return look.finish(
        alt.layer(*layers).properties(height=400, description="Score against tokens")
    )


def _reference(fitted: Fitted) -> list[alt.Chart]:
    """The base's score, and rules at the largest budget tried and at the decision's."""
    import altair as alt

    layers: list[alt.Chart] = []
    top = max(max(line.high) for line in fitted.lines)
    if fitted.base is not None and fitted.base < 1.25 * top:  # otherwise it would squash the rest
        row = [{"at": fitted.base, "words": f"base {show.decimal(fitted.base, 3)}"}]
        chart = alt.Chart(look.data(row)).encode(y=alt.Y("at:Q"))
        layers += [
            chart.mark_rule(strokeDash=[4, 4], color="var(--muted)", aria=False),
            chart.mark_text(align="left", baseline="bottom", dy=-3, color="var(--muted)").encode(
                x=alt.value(4), text="words:N"
            ),
        ]
    last = fitted.at[-1]
    if last.factor > 1:
        row = [{"tokens": last.tokens, "words": f"decision {show.count(last.tokens)}"}]
        rule = alt.Chart(look.data(row)).encode(x=alt.X("tokens:Q"))
        layers += [
            rule.mark_rule(strokeDash=[4, 4], color="var(--accent)", aria=False),
            rule.mark_text(
                align="right", baseline="bottom", dx=-5, dy=-4, color="var(--accent)"
            ).encode(y=alt.value("height"), text="words:N"),
        ]
    return layers


def split(found: Allocated) -> look.Spec:
    """Shares with their intervals and caps."""
    import altair as alt

    rows: list[look.Row] = [
        {
            "source": r.source,
            "share": r.share,
            "low": r.share_low,
            "high": r.share_high,
            "cap": r.share_cap,
            "shown share": show.percent(r.share),
            "shown interval": f"{show.percent(r.share_low)} to {show.percent(r.share_high)}",
        }
        for r in found.rows
    ]
    names = alt.Axis(labelLimit=160, labelColor="var(--ink)", grid=False)
    base = alt.Chart(look.data(rows)).encode(y=alt.Y("source:N", title=None, sort=None, axis=names))
    percents = alt.Axis(format="%", tickCount=5)
    bars = base.mark_bar(height={"band": 0.62}, cornerRadiusEnd=2).encode(
        x=alt.X("share:Q", title="share of the budget's tokens", axis=percents),
        color=_colour(found.fitted, legend=False),
        tooltip=[
            alt.Tooltip("source:N"),
            alt.Tooltip("shown share:N", title="share"),
            alt.Tooltip("shown interval:N", title="interval"),
        ],
    )
    spread = base.mark_rule(strokeWidth=1.5, color="var(--ink)", aria=False).encode(
        x=alt.X("low:Q"), x2="high:Q"
    )
    layers = [bars, spread]
    if any(r.share_cap is not None for r in found.rows):
        cap = base.transform_filter("isValid(datum.cap)")
        layers.append(
            cap.mark_tick(thickness=2, size=27, color="var(--ink)", aria=False).encode(x="cap:Q")
        )
    return look.finish(
        alt.layer(*layers).properties(
            height=34 * len(rows), description="Share of the budget by source"
        )
    )
